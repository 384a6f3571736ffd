// ReLU [of the normalised input], depthwise convolution, pointwise convolution and the moments of the result, for all
// convolutions of a list of sources, and the gradients of all that.
//
// The story of csrc/cpu/simd/stencil*:
//   tile       Maps are channels last, so a vector holds the channels of one pixel; where there are fewer channels than
//              lanes, it holds the same pixel of several images side by side (a group). A source's group is copied
//              once, with its ReLU applied and zeros around it, into a tile in the L2 cache: from there on every load
//              is aligned and no window has a special case at the border.
//   correlate  A stencil is a grid of taps on a tile. A row of it is computed for a block of neighbouring pixels in
//              registers, and each vector loaded serves all the taps of a kernel row. The transposed stencil is the
//              same with the taps turned round; at stride 2 each parity of the pixels has its own, smaller grid.
//   pointwise  The depthwise output is consumed a few rows at a time, while it is in the L1 cache, and never written.
//   taps       The gradient of the stencil's weights, the same loops with the accumulators on the taps.
//   forward    A task is one source and one group of images; it writes its own outputs and the moments of its own.
//   backward   A task is one source and one slot of groups. It forms dy from the gradient, dz from dy, adds up the
//              transposed stencils of all the source's convolutions in a tile and masks the sum; weight gradients are
//              summed over the slot's groups in their order.
// Results depend on no thread: partial sums lie in slots whose number and order follow from the shapes, and are
// combined in that order. Moments are centred throughout: each few rows about their own mean, then by Chan's rule in
// float64 (Chan, Golub and LeVeque 1979).
#pragma once

#include <cstdint>

#include "../dtypes.h"
#include "../isa.h"

namespace fastdarts {

struct StencilSource {
    const void* x;  // maps [count, channels, height, width] of T
    std::int64_t pixel, height, width;
    void* dx;  // maps likewise; backward only
    std::int64_t dx_pixel;
};

struct StencilConv {
    std::int64_t source, kernel, dilation, stride;  // padding: dilation * (kernel / 2); kernel 1 has dilation 1
    const void* depthwise;                          // [channels, kernel, kernel] of A
    const void* pointwise;                          // [channels, channels] of A, rows are outputs
    void* y;                                        // maps of T, written by forward; backward reads it, or it is null
    std::int64_t y_pixel;
    const void* g;  // maps of T; backward only, like the rest
    std::int64_t g_pixel;
    void *ddepthwise, *dpointwise;  // of A; both null where no weight gradients are asked
};

struct Stencil {
    std::int64_t count, channels;
    const StencilSource* sources;
    std::int64_t source_count;
    const StencilConv* convs;
    std::int64_t conv_count;
    const double *mean, *rstd;           // [sources, channels], of the normalised input; null for the plain one
    double *y_mean, *y_var;              // [convs, channels], forward; null where no moments are asked
    const double *alpha, *beta, *gamma;  // [convs, channels]: dy = alpha g + beta y + gamma
    double *sums, *products;             // [sources, channels], backward of the normalised input
    bool weights;                        // whether backward computes ddepthwise and dpointwise
    bool add;                            // whether backward adds to dx instead of writing it
    void* scratch;                       // of stencil_*_scratch bytes, aligned to 64
    int threads;
};

FASTDARTS_EACH_ISA(
    template <typename T> std::int64_t stencil_forward_scratch(const Stencil& p);   // bytes; reads no address
    template <typename T> std::int64_t stencil_backward_scratch(const Stencil& p);  // bytes; reads no address
    template <typename T> void stencil_forward(const Stencil& p);
    template <typename T> void stencil_backward(const Stencil& p);)

}  // namespace fastdarts
