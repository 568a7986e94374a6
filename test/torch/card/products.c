/* Products by cuBLAS: whatever they are given, they are launched. Apart, because their true signatures would have to be repeated. */
extern int card_launch(void);
#define PRODUCT(name) int name(void) { return card_launch(); }
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDotEx)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasLtMatmul)
