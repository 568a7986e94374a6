/*
 * A graphics card that is not there: CUDA's runtime, its driver and cuBLAS, as far as PyTorch asks them while a language model is trained or sampled.
 * Memory is reserved and given back as on a card of so many bytes, streams and events exist, kernels and products are launched and do nothing. What
 * PyTorch's own allocator counts over it is what it counts on a card: which tensors there are, and when, does not depend on what is in them.
 *
 * CARD_BYTES: memory of the card. To be loaded before PyTorch (LD_PRELOAD), under the name of the driver, libcuda.so.1.
 *
 * Numbers read from the device are zeros. Not here: cuDNN, NCCL, graphs, several cards; nor CUDA's context, which takes some hundred MB of a true card.
 */
#define _GNU_SOURCE
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread cudaError_t last = cudaSuccess;
static uintptr_t handles = 0x1000;
static long launches, waits, fetches;

static size_t total(void) {
  const char *text = getenv("CARD_BYTES");
  return text ? strtoull(text, NULL, 10) : 16ull << 30;
}

/** Since the beginning: kernels and products launched, waits for the device, copies from it. */
void card_counts(long *into) {
  into[0] = launches, into[1] = waits, into[2] = fetches;
}

static void *handle(void) { return (void *)__atomic_add_fetch(&handles, 16, __ATOMIC_RELAXED); }

/* Memory */

typedef struct Range { uintptr_t start; size_t size; int device; struct Range *next; } Range;
static Range *ranges;
static size_t used;

static cudaError_t fail(cudaError_t error) { return last = error; }

static cudaError_t take(void **pointer, size_t size, int device) {
  pthread_mutex_lock(&lock);
  size_t rounded = (size + 0x1fffff) & ~(size_t)0x1fffff;
  if (device && used + rounded > total()) {
    pthread_mutex_unlock(&lock);
    return fail(cudaErrorMemoryAllocation);
  }
  void *found = mmap(NULL, rounded ? rounded : 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) {
    pthread_mutex_unlock(&lock);
    return fail(cudaErrorMemoryAllocation);
  }
  Range *range = malloc(sizeof *range);
  *range = (Range){(uintptr_t)found, rounded, device, ranges};
  ranges = range;
  if (device) used += rounded;
  *pointer = found;
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

static cudaError_t give_back(void *pointer) {
  pthread_mutex_lock(&lock);
  for (Range **at = &ranges; *at; at = &(*at)->next)
    if ((*at)->start == (uintptr_t)pointer) {
      Range *range = *at;
      *at = range->next;
      if (range->device) used -= range->size;
      munmap(pointer, range->size);
      free(range);
      break;
    }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

static int kind_of(const void *pointer) {
  int found = -1;
  pthread_mutex_lock(&lock);
  for (Range *range = ranges; range; range = range->next)
    if ((uintptr_t)pointer >= range->start && (uintptr_t)pointer < range->start + range->size) { found = range->device; break; }
  pthread_mutex_unlock(&lock);
  return found;
}

cudaError_t cudaMalloc(void **pointer, size_t size) { return take(pointer, size, 1); }
cudaError_t cudaFree(void *pointer) { return pointer ? give_back(pointer) : cudaSuccess; }
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return take(pointer, size, 0); }
cudaError_t cudaMallocHost(void **pointer, size_t size) { return take(pointer, size, 0); }
cudaError_t cudaFreeHost(void *pointer) { return give_back(pointer); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
  *all = total(), *available = *all - used;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
  int kind = kind_of(pointer);
  memset(attributes, 0, sizeof *attributes);
  attributes->type = kind == 1 ? cudaMemoryTypeDevice : kind == 0 ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  attributes->devicePointer = kind < 0 ? NULL : (void *)pointer;
  attributes->hostPointer = kind == 1 ? NULL : (void *)pointer;
  return cudaSuccess;
}

static cudaError_t copy(void *to, size_t size, enum cudaMemcpyKind kind) {
  if (kind == cudaMemcpyDeviceToHost || (kind == cudaMemcpyDefault && kind_of(to) != 1)) {
    __atomic_add_fetch(&fetches, 1, __ATOMIC_RELAXED);
    memset(to, 0, size);
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) { return copy(to, size, kind); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, size, kind);
}
cudaError_t cudaMemset(void *to, int value, size_t size) { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) { return cudaSuccess; }

/* The device */

static int attribute(int which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 101376;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 102400;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrMultiProcessorCount: return 76;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 1536;
    case cudaDevAttrComputeCapabilityMajor: return 8;
    case cudaDevAttrComputeCapabilityMinor: return 9;
    case cudaDevAttrL2CacheSize: return 64 << 20;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 24;
    case cudaDevAttrClockRate: return 2505000;
    case cudaDevAttrMemoryClockRate: return 11201000;
    case cudaDevAttrGlobalMemoryBusWidth: return 256;
    case cudaDevAttrUnifiedAddressing: case cudaDevAttrConcurrentKernels: return 1;
    default: return 0;
  }
}
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? fail(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) { return *value = attribute(which), cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *of, int device) {
  memset(of, 0, sizeof *of);
  strcpy(of->name, "NVIDIA GeForce RTX 4080");
  memset(&of->uuid, 0x5a, sizeof of->uuid);
  of->totalGlobalMem = total();
  of->sharedMemPerBlock = 49152, of->sharedMemPerBlockOptin = 101376, of->sharedMemPerMultiprocessor = 102400;
  of->regsPerBlock = of->regsPerMultiprocessor = 65536;
  of->warpSize = 32, of->maxThreadsPerBlock = 1024, of->maxThreadsPerMultiProcessor = 1536, of->maxBlocksPerMultiProcessor = 24;
  of->maxThreadsDim[0] = of->maxThreadsDim[1] = 1024, of->maxThreadsDim[2] = 64;
  of->maxGridSize[0] = 2147483647, of->maxGridSize[1] = of->maxGridSize[2] = 65535;
  of->major = 8, of->minor = 9, of->multiProcessorCount = 76, of->l2CacheSize = 64 << 20, of->memoryBusWidth = 256;
  of->unifiedAddressing = of->concurrentKernels = of->canMapHostMemory = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13020, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13020, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int one, int other) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *into, int size, int device) { return snprintf(into, size, "0000:01:00.0"), cudaSuccess; }
cudaError_t cudaGetLastError(void) { cudaError_t was = last; return last = cudaSuccess, was; }
cudaError_t cudaPeekAtLastError(void) { return last; }

static cudaError_t wait_for(void) { return __atomic_add_fetch(&waits, 1, __ATOMIC_RELAXED), cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return wait_for(); }

/* Streams and events */

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return *stream = handle(), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return *stream = handle(), cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) { return *stream = handle(), cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { return *priority = 0, cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges, size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return *event = handle(), cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return *event = handle(), cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return wait_for(); }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) { return *milliseconds = 1, cudaSuccess; }

/* Kernels */

static cudaError_t launch(void) { return __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED), cudaSuccess; }
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) { return launch(); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **arguments) { return launch(); }
cudaError_t __cudaGetKernel(void **kernel, const void *function) { return *kernel = (void *)function, cudaSuccess; }
cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) { return launch(); }
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute which, int value) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *of, const void *kernel) {
  memset(of, 0, sizeof *of);
  of->maxThreadsPerBlock = 1024, of->numRegs = 32, of->binaryVersion = of->ptxVersion = 86;
  of->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute which, int value, int device) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) {
  return *blocks = 2, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads, size_t shared, unsigned flags) {
  return *blocks = 2, cudaSuccess;
}
cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) { return *pointer = handle(), cudaSuccess; }

/* cuBLAS */

#define DONE CUBLAS_STATUS_SUCCESS
cublasStatus_t cublasCreate_v2(cublasHandle_t *made) { return *made = handle(), DONE; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t it) { return DONE; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t it, cudaStream_t stream) { return DONE; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t it, void *memory, size_t size) { return DONE; }
cublasStatus_t cublasSetMathMode(cublasHandle_t it, cublasMath_t mode) { return DONE; }
cublasStatus_t cublasGetMathMode(cublasHandle_t it, cublasMath_t *mode) { return *mode = CUBLAS_DEFAULT_MATH, DONE; }
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t it, cublasPointerMode_t mode) { return DONE; }
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t it, cublasPointerMode_t *mode) { return *mode = CUBLAS_POINTER_MODE_HOST, DONE; }
int card_launch(void) { return launch(); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *made, cublasComputeType_t compute, cudaDataType_t scale) { return *made = handle(), DONE; }
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t it) { return DONE; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t it, cublasLtMatmulDescAttributes_t which, const void *value, size_t size) { return DONE; }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *made) { return *made = handle(), DONE; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t it) { return DONE; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t it, cublasLtMatmulPreferenceAttributes_t which, const void *value, size_t size) {
  return DONE;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *made, cudaDataType type, uint64_t rows, uint64_t columns, int64_t stride) {
  return *made = handle(), DONE;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t it) { return DONE; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t it, cublasLtMatrixLayoutAttribute_t which, const void *value, size_t size) { return DONE; }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t it, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *count) {
  memset(results, 0, sizeof *results);
  results->state = CUBLAS_STATUS_SUCCESS;
  return *count = 1, DONE;
}

/* The driver, for kernels that Triton compiled */

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13020, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int which) { return *device = which, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) { return *value = attribute((int)which), CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) { return *flags = 0, *active = 1, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { return *context = (CUcontext)0x10, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *context) { return *context = (CUcontext)0x10, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) { return *text = "an error", CUDA_SUCCESS; }
CUresult cuModuleLoad(CUmodule *made, const char *path) { return *made = handle(), CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *made, const void *image) { return *made = handle(), CUDA_SUCCESS; }
CUresult cuModuleLoadDataEx(CUmodule *made, const void *image, unsigned count, CUjit_option *options, void **values) {
  return *made = handle(), CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *found, CUmodule module, const char *name) { return *found = handle(), CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction function) {
  *value = which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache which) { return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction function, unsigned a, unsigned b, unsigned c, unsigned x, unsigned y, unsigned z, unsigned shared, CUstream stream,
                        void **arguments, void **extra) {
  return launch(), CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *how, CUfunction function, void **arguments, void **extra) { return launch(), CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr pointer) { return *(CUdeviceptr *)value = pointer, CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads, size_t shared) { return *blocks = 2, CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction function, const CUlaunchConfig *how) { return *clusters = 1, CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) { return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS; }
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes,
                                const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  return CUDA_SUCCESS;
}
CUresult cuCtxSetLimit(CUlimit which, size_t value) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *value, CUlimit which) { return *value = 1 << 20, CUDA_SUCCESS; }

static CUresult unsupported(void) { return CUDA_ERROR_NOT_SUPPORTED; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
  void *here = dlsym(RTLD_DEFAULT, name);
  *found = here ? here : (void *)unsupported;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

/* Memory whose addresses are reserved first and filled piece by piece (expandable segments) */

CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t size, size_t alignment, CUdeviceptr wanted, unsigned long long flags) {
  void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  Range *range = malloc(sizeof *range);
  pthread_mutex_lock(&lock);
  // its bytes are counted where they are made
  *range = (Range){(uintptr_t)found, size, 1, ranges};
  ranges = range;
  pthread_mutex_unlock(&lock);
  return *pointer = (CUdeviceptr)found, CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr pointer, size_t size) {
  pthread_mutex_lock(&lock);
  // `give_back` takes off what addresses alone never added
  used += size;
  pthread_mutex_unlock(&lock);
  give_back((void *)pointer);
  return CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *made, size_t size, const CUmemAllocationProp *how, unsigned long long flags) {
  pthread_mutex_lock(&lock);
  int fits = used + size <= total();
  if (fits) used += size;
  pthread_mutex_unlock(&lock);
  // its size is its name
  return fits ? (*made = size, CUDA_SUCCESS) : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle made) {
  pthread_mutex_lock(&lock);
  used -= made;
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset, CUmemGenericAllocationHandle made, unsigned long long flags) { return CUDA_SUCCESS; }
CUresult cuMemUnmap(CUdeviceptr pointer, size_t size) {
  madvise((void *)pointer, size, MADV_DONTNEED);
  return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr pointer, size_t size, const CUmemAccessDesc *how, size_t count) { return CUDA_SUCCESS; }
CUresult cuMemGetAllocationGranularity(size_t *size, const CUmemAllocationProp *how, CUmemAllocationGranularity_flags which) {
  return *size = 2 << 20, CUDA_SUCCESS;
}
