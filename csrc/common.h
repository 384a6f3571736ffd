// The native core's contract, shared by the CPU and the CUDA side.
//
// No torch header is included anywhere below csrc/: Python validates shapes and dtypes, makes tensors contiguous,
// allocates outputs and passes addresses. Sizes and strides count elements. A function here checks only what would
// otherwise touch memory that is not its own, and reports it by throwing; pybind11 turns std::invalid_argument into
// ValueError and std::out_of_range into IndexError. Nothing throws inside a parallel region.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastdarts {

using Address = std::uintptr_t;

template <typename T>
T* pointer(Address address, const char* name) {
    if (address == 0) throw std::invalid_argument(std::string(name) + " is a null pointer");
    if (address % alignof(T) != 0) throw std::invalid_argument(std::string(name) + " is not aligned to its element");
    return reinterpret_cast<T*>(address);
}

inline void require(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

// Source: fastdarts/reference/augment.py, whose bits this reproduces.
struct AugmentParams {
    std::int64_t count, channels, height, width, batch;
    const std::int64_t* index;   // [batch]
    const std::int64_t* offset;  // [batch, 2], (dy, dx)
    const bool* flip;            // [batch]
    const std::int64_t* cutout;  // [batch, 4], (y0, y1, x0, x1), half-open
    const float* scale;          // [channels]
    const float* shift;          // [channels]
    float* out;                  // [batch, channels, height, width]
    int threads;
};

template <typename Pixel>
void augment(const Pixel* images, const AugmentParams& params);  // images: [count, channels, height, width]

std::vector<std::string> instruction_sets();

struct CudaDevices {
    int count;
    std::string error;  // the runtime's own words, empty if it has none
};

#ifdef FASTDARTS_CUDA
int cuda_runtime_version();
CudaDevices cuda_devices();
#endif

}  // namespace fastdarts
