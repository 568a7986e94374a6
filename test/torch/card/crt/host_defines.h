/* What CUDA's headers want to be told of the compiler; the file of this name that CUDA has is in a package PyTorch does not bring. */
#ifndef CARD_HOST_DEFINES
#define CARD_HOST_DEFINES
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDAAPI
#define CUDA_CB
#define __host__
#define __device__
#define __global__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __location__(a)
#define __inline__ inline
#endif
