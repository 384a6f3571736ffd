#include "stencil_backward.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

template void weights<float16>(const Stencil& p, const Launch& launch, const Scratch& scratch);

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
