// CUDA C++ on a host without a GPU, for tests only: every csrc/cuda/*.cu also compiles as plain C++ behind this header,
//     g++ -std=c++17 -x c++ -DFASTDARTS_SHIM -include tests/shim/cuda_shim.h
// and its kernels run on the CPU. The threads of a block are fibres that switch only where device code meets: at a
// barrier and in a warp's collectives (csrc/cuda/device.cuh has every one of them). What a GPU leaves undefined is an
// error here or a NaN:
//   barriers          all threads of a block (a warp's: its 32 lanes) meet at one place of the source, or it throws;
//   shared memory     NaN before each block, its end fenced; under AddressSanitizer a redzone around it;
//   asynchronous copy lands when it is waited for, and is NaN until then;
//   order             of threads and blocks can be turned round or shuffled (choose_order): results may not change.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fibre that runs

namespace fastdarts {
namespace shim {

enum class Order { ascending, descending, shuffled };

struct Launched {
    std::string kernel;
    unsigned blocks, threads;
    std::size_t shared, parameters;
};

// Runs `thread` once for each thread of each block. Throws std::runtime_error on what a GPU would not forgive.
void launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t parameter_bytes,
            const std::function<void()>& thread);
void choose_order(Order order);
void pretend(bool only);  // from here on launches are checked and noted, and no thread runs
std::vector<Launched> take_launches();  // since the last call

unsigned char* shared();  // of the block that runs

// The rest is called by device code only. A place is where in the source.
struct Place {
    const char* file;
    int line;
};
void meet_block(Place place);
bool any_of_block(bool holds, Place place);  // meets, and says whether it holds for one of the threads
// Puts `bytes` (at most 64) of this lane where the others see them and waits for all 32; lane i's are at [64 * i] until
// the lane's next collective.
const unsigned char* meet_warp(const void* mine, std::size_t bytes, Place place);
void copy_async(void* to, const void* from, std::size_t bytes, std::size_t valid);  // the rest is zero
void commit_copies();
void wait_copies(std::size_t pending);  // until at most so many of the newest groups are outstanding

}  // namespace shim
}  // namespace fastdarts
