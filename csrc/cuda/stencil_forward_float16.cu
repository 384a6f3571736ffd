#include "stencil_forward.cuh"

namespace fastdarts {
namespace cuda {

template std::int64_t stencil_forward_scratch<float16>(const Stencil& p);
template void stencil_forward<float16>(const Stencil& p, const Launch& launch);

}  // namespace cuda
}  // namespace fastdarts
