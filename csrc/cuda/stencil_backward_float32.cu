#include "stencil_backward.cuh"

namespace fastdarts {
namespace cuda {

namespace backward {
extern template void weights<float>(const Stencil& p, const Launch& launch, const Scratch& scratch);
}

template std::int64_t stencil_backward_scratch<float>(const Stencil& p);
template void stencil_backward<float>(const Stencil& p, const Launch& launch);

}  // namespace cuda
}  // namespace fastdarts
