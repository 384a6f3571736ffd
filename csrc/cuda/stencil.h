// The stencil on a GPU: the arguments, values and layouts of csrc/cpu/stencil.h, with every address on the device.
//
// Weights and their gradients are float32, coefficients and statistics float64. Calls enqueue kernels on a stream and
// return: nothing is allocated, copied or waited for, and a call of the same shapes launches the same kernels, so it can
// be captured in a graph. Results are equal bit for bit from run to run: partial sums lie in slots that follow from the
// shapes, and are added up in their order.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../cpu/stencil.h"

namespace fastdarts {
namespace cuda {

struct Launch {
    bool tf32;     // whether factors of float32 matrix products may be rounded to TF32, once
    int device;    // the device's index
    void* stream;  // a cudaStream_t of it
};

// Kernels count pixels in int, those of tiles past a map's end too. Throws where a map has more than they may.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 30;
inline void check_pixels(const Stencil& p) {
    for (std::int64_t s = 0; s < p.source_count; ++s) {
        if (p.count * p.sources[s].height * p.sources[s].width > kMostPixels)
            throw std::runtime_error("stencil: a source has more than 2^30 pixels");
    }
}

// T: float, bfloat16 or float16. Bytes that Stencil::scratch must have; no address is read.
template <typename T>
std::int64_t stencil_forward_scratch(const Stencil& p);
template <typename T>
std::int64_t stencil_backward_scratch(const Stencil& p);

// Throw std::runtime_error with the runtime's own words where a launch fails.
template <typename T>
void stencil_forward(const Stencil& p, const Launch& launch);
template <typename T>
void stencil_backward(const Stencil& p, const Launch& launch);

}  // namespace cuda
}  // namespace fastdarts
