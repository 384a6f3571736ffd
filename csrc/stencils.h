// The windows that the stencil kernels are compiled for: the one list of them on this side, whose other copy is
// fastdarts/plan/_stencils.py (a test holds the two together). Every ladder of kernels is made from it, and ends in a
// trap (on a GPU in nothing, for a trap there takes registers): what is no window is refused at the door, in bindings/.
#pragma once

#include <cstdint>

namespace fastdarts {

// X(side), sides in pixels: odd, without a gap from 1 on, since at stride 2 a transposed window falls into smaller ones.
// Each at stride 1 and 2, and those above 1 with taps up to kDilations apart; the CUDA kernels up to kCudaDilations.
#define FASTDARTS_SIDES(X) X(1) X(3) X(5) X(7)

#define FASTDARTS_SIDE_IS(SIDE) || side == SIDE
static constexpr inline bool is_side(std::int64_t side) { return false FASTDARTS_SIDES(FASTDARTS_SIDE_IS); }
#undef FASTDARTS_SIDE_IS

static constexpr std::int64_t kDilations = 3, kCudaDilations = 2;

static constexpr inline bool is_stencil(std::int64_t side, std::int64_t dilation, std::int64_t stride) {
    return is_side(side) && 1 <= dilation && dilation <= kDilations && (stride == 1 || stride == 2);
}

}  // namespace fastdarts
