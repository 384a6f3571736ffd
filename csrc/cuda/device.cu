// What `fastdarts doctor` says about CUDA: asked at run time only, never while building or importing.
//
// The runtime is linked statically, so that this module neither needs nor disturbs the one torch brings along.

#include "../common.h"

#include <cuda_runtime.h>

namespace fastdarts {

int cuda_runtime_version() { return CUDART_VERSION; }

CudaDevices cuda_devices() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess) return {count, ""};
    cudaGetLastError();  // otherwise the next launch would report this failure as its own
    return {0, cudaGetErrorString(status)};
}

}  // namespace fastdarts
