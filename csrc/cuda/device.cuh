// Everything that has no form in plain C++: kernels use nothing else of CUDA, so that they also compile and run on a
// host without a GPU, behind tests/shim/cuda_shim.h. Only full warps, and only blocks of one row of threads.
//
//     FASTDARTS_LAUNCH(kernel, blocks, threads, shared_bytes, stream, arguments...)   throws what the launch reports
//     FASTDARTS_SHARED(name)      unsigned char* name: the block's dynamic shared memory, aligned to 128 bytes
//     FASTDARTS_DEVICE            a function for device code, inlined
//     FASTDARTS_UNROLL            before a loop whose index addresses registers
//     FASTDARTS_ROLLED            before a loop whose next turn must not begin early, for want of registers
//     FASTDARTS_UNREACHABLE()     where only a window leads that the host has refused; a trap costs registers that are full
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../dtypes.h"

#if !defined(FASTDARTS_SHIM)
#include <cuda_runtime.h>
#endif

#define FASTDARTS_DEVICE __device__ __forceinline__
#if defined(FASTDARTS_SHIM)
#define FASTDARTS_UNROLL
#define FASTDARTS_ROLLED
#define FASTDARTS_UNREACHABLE() __builtin_trap()
#define FASTDARTS_SHARED(name) unsigned char* const name = ::fastdarts::shim::shared()
// Defaults, so that the shim can say which of two barriers threads meet at.
#define FASTDARTS_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#else
#define FASTDARTS_UNROLL _Pragma("unroll")
#define FASTDARTS_ROLLED _Pragma("unroll 1")
#define FASTDARTS_UNREACHABLE() __builtin_unreachable()
#define FASTDARTS_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define FASTDARTS_PLACE
#endif
#define FASTDARTS_LAUNCH(kernel, ...) ::fastdarts::cuda::launch(#kernel, kernel, __VA_ARGS__)

namespace fastdarts {
namespace cuda {

constexpr int kWarp = 32;

#if defined(FASTDARTS_SHIM)

struct DeviceGuard {
    explicit DeviceGuard(int) {}
};

template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), unsigned blocks, unsigned threads, std::size_t shared, void*,
            const A&... arguments) {
    constexpr std::size_t bytes = (sizeof(P) + ... + 0);
    ::fastdarts::shim::launch(name, dim3(blocks), dim3(threads), shared, bytes, [&] { kernel(arguments...); });
}

inline unsigned float_bits(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float float_of(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline void block_sync(FASTDARTS_PLACE) { ::fastdarts::shim::meet_block({file, line}); }
// A barrier; whether it holds for one of the threads.
inline bool block_any(bool holds, FASTDARTS_PLACE) { return ::fastdarts::shim::any_of_block(holds, {file, line}); }
inline void warp_sync(FASTDARTS_PLACE) { ::fastdarts::shim::meet_warp(&line, 0, {file, line}); }

// x of another lane; a kernel that diverged between lanes would be an error here.
template <typename X>
inline X warp_shuffle(X x, int lane, FASTDARTS_PLACE) {
    static_assert(sizeof(X) == 4 || sizeof(X) == 8, "what a shuffle moves");
    X other;
    const unsigned char* slots = ::fastdarts::shim::meet_warp(&x, sizeof x, {file, line});
    std::memcpy(&other, slots + 64 * (lane & (kWarp - 1)), sizeof other);
    return other;
}
template <typename X>
inline X warp_shuffle_xor(X x, int mask, FASTDARTS_PLACE) {
    return warp_shuffle(x, static_cast<int>(threadIdx.x) ^ mask, file, line);
}
// Bit i: whether lane i says so.
inline unsigned warp_ballot(bool holds, FASTDARTS_PLACE) {
    const int mine = holds ? 1 : 0;
    const unsigned char* slots = ::fastdarts::shim::meet_warp(&mine, sizeof mine, {file, line});
    unsigned all = 0;
    for (int lane = 0; lane < kWarp; ++lane) all |= static_cast<unsigned>(slots[64 * lane]) << lane;
    return all;
}
inline int first_bit(unsigned bits) { return __builtin_ctz(bits); }  // of bits that are not 0

template <typename X>
inline X ldg(const X* from) {
    return *from;
}

inline float relu(float x) { return x <= 0 ? 0.0f : x; }  // of NaN: NaN
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }

inline float round_tf32(float x) {
    const unsigned bits = float_bits(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return x;
    return float_of((bits + 0x1000u) & 0xffffe000u);  // to the nearest, ties away from zero
}

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) { return float_of(static_cast<unsigned>(x.bits) << 16); }
inline float widen(float16 x) {
    _Float16 half;
    std::memcpy(&half, &x, sizeof half);
    return static_cast<float>(half);
}
template <typename T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
    return x;
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
    const unsigned bits = float_bits(x);
    if (x != x) return {0x7fff};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
inline float16 narrow<float16>(float x) {
    const _Float16 half = static_cast<_Float16>(x);
    float16 out;
    std::memcpy(&out, &half, sizeof out);
    return out;
}

// Four neighbours, at an address that is a multiple of their size.
inline void load_four(const float* from, float (&x)[4]) { std::memcpy(x, from, sizeof x); }
template <typename T>
inline void load_four(const T* from, float (&x)[4]) {
    for (int i = 0; i < 4; ++i) x[i] = widen(from[i]);
}
template <typename T>
inline void store_four(T* to, const T (&x)[4]) {
    std::memcpy(to, x, sizeof x);
}

// d [16, 8] += a [16, 8] b [8, 8]; lane 4 g + t holds a (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), b (t, g),
// (t + 4, g) and d (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). The factors' last 13 bits are not looked at.
inline void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2], FASTDARTS_PLACE) {
    float mine[6];
    for (int i = 0; i < 6; ++i) mine[i] = float_of(float_bits(i < 4 ? a[i] : b[i - 4]) & 0xffffe000u);
    for (int i = 0; i < 6; ++i) {
        const float given = i < 4 ? a[i] : b[i - 4];
        if (given != given) mine[i] = given;
    }
    const unsigned char* slots = ::fastdarts::shim::meet_warp(mine, sizeof mine, {file, line});
    const auto of = [slots](int lane, int i) {
        float x;
        std::memcpy(&x, slots + 64 * lane + 4 * i, sizeof x);
        return x;
    };
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
        double sum = d[i];
        for (int k = 0; k < 8; ++k)
            sum += static_cast<double>(of(4 * g + k % 4, i / 2 + k / 4 * 2)) *
                   of(4 * (2 * t + i % 2) + k % 4, 4 + k / 4);
        d[i] = static_cast<float>(sum);
    }
}

// 16 bytes from global to shared memory, of which the last 16 - valid become zero; both addresses multiples of 16.
inline void cp_async_16(void* to, const void* from, int valid = 16) {
    ::fastdarts::shim::copy_async(to, from, 16, static_cast<std::size_t>(valid));
}
inline void cp_async_4(void* to, const void* from) { ::fastdarts::shim::copy_async(to, from, 4, 4); }
inline void cp_async_commit() { ::fastdarts::shim::commit_copies(); }
// Until at most `pending` of the newest groups are on their way; the other threads' copies are seen after a barrier.
template <int pending = 0>
inline void cp_async_wait() {
    ::fastdarts::shim::wait_copies(pending);
}

#else  // CUDA

inline void check(cudaError_t status, const std::string& what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // otherwise the next launch would report this failure as its own
    throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

// Makes a device current for a scope.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        changed_ = device != before_;
        if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), unsigned blocks, unsigned threads, std::size_t shared, void* stream,
            const A&... arguments) {
    if (shared > 48 * 1024) {  // more than any block gets without asking
        const auto which = cudaFuncAttributeMaxDynamicSharedMemorySize;
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), which, static_cast<int>(shared)), name);
    }
    kernel<<<blocks, threads, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
    check(cudaGetLastError(), name);
}

FASTDARTS_DEVICE unsigned float_bits(float x) { return __float_as_uint(x); }
FASTDARTS_DEVICE float float_of(unsigned bits) { return __uint_as_float(bits); }

FASTDARTS_DEVICE void block_sync() { __syncthreads(); }
FASTDARTS_DEVICE bool block_any(bool holds) { return __syncthreads_or(holds) != 0; }
FASTDARTS_DEVICE void warp_sync() { __syncwarp(); }
template <typename X>
FASTDARTS_DEVICE X warp_shuffle(X x, int lane) {
    return __shfl_sync(0xffffffffu, x, lane);
}
template <typename X>
FASTDARTS_DEVICE X warp_shuffle_xor(X x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
FASTDARTS_DEVICE unsigned warp_ballot(bool holds) { return __ballot_sync(0xffffffffu, holds); }
FASTDARTS_DEVICE int first_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }

template <typename X>
FASTDARTS_DEVICE X ldg(const X* from) {
    return __ldg(from);
}

FASTDARTS_DEVICE float relu(float x) {
    float y;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
    return y;
}
FASTDARTS_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

FASTDARTS_DEVICE float round_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

FASTDARTS_DEVICE float widen(float x) { return x; }
FASTDARTS_DEVICE float widen(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
FASTDARTS_DEVICE float widen(float16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
template <typename T>
FASTDARTS_DEVICE T narrow(float x);
template <>
FASTDARTS_DEVICE float narrow<float>(float x) {
    return x;
}
template <>
FASTDARTS_DEVICE bfloat16 narrow<bfloat16>(float x) {
    bfloat16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
FASTDARTS_DEVICE float16 narrow<float16>(float x) {
    float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

FASTDARTS_DEVICE void load_four(const float* from, float (&x)[4]) {
    const float4 given = *reinterpret_cast<const float4*>(from);
    x[0] = given.x, x[1] = given.y, x[2] = given.z, x[3] = given.w;
}
template <typename T>
FASTDARTS_DEVICE void load_four(const T* from, float (&x)[4]) {
    const uint2 given = *reinterpret_cast<const uint2*>(from);
    x[0] = widen(T{static_cast<std::uint16_t>(given.x)}), x[1] = widen(T{static_cast<std::uint16_t>(given.x >> 16)});
    x[2] = widen(T{static_cast<std::uint16_t>(given.y)}), x[3] = widen(T{static_cast<std::uint16_t>(given.y >> 16)});
}
FASTDARTS_DEVICE void store_four(float* to, const float (&x)[4]) {
    *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
template <typename T>
FASTDARTS_DEVICE void store_four(T* to, const T (&x)[4]) {
    *reinterpret_cast<uint2*>(to) = make_uint2(x[0].bits | static_cast<unsigned>(x[1].bits) << 16,
                                               x[2].bits | static_cast<unsigned>(x[3].bits) << 16);
}

FASTDARTS_DEVICE void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

FASTDARTS_DEVICE void cp_async_16(void* to, const void* from, int valid = 16) {
    const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid) : "memory");
}
FASTDARTS_DEVICE void cp_async_4(void* to, const void* from) {
    const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(from) : "memory");
}
FASTDARTS_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending = 0>
FASTDARTS_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#endif

FASTDARTS_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
FASTDARTS_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

// The sum over a warp, in every lane, added in the same order in each run.
template <typename X>
FASTDARTS_DEVICE X warp_sum(X x) {
    FASTDARTS_UNROLL for (int mask = kWarp / 2; mask > 0; mask /= 2) x += warp_shuffle_xor(x, mask);
    return x;
}

// A factor in two parts that TF32 holds. Of an infinity the second is NaN: a tile with one is multiplied without this.
FASTDARTS_DEVICE void split_tf32(float x, float& high, float& low) {
    high = round_tf32(x);
    low = round_tf32(x - high);
}

// The same product with float32's accuracy, up to 2^-22 of a term: the product of the two low parts is left out.
FASTDARTS_DEVICE void mma_3xtf32(float (&d)[4], const float (&a_high)[4], const float (&a_low)[4],
                                 const float (&b_high)[2], const float (&b_low)[2]) {
    mma_tf32(d, a_low, b_high);
    mma_tf32(d, a_high, b_low);
    mma_tf32(d, a_high, b_high);
}
FASTDARTS_DEVICE void mma_3xtf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    float a_high[4], a_low[4], b_high[2], b_low[2];
    FASTDARTS_UNROLL for (int i = 0; i < 4; ++i) split_tf32(a[i], a_high[i], a_low[i]);
    FASTDARTS_UNROLL for (int i = 0; i < 2; ++i) split_tf32(b[i], b_high[i], b_low[i]);
    mma_3xtf32(d, a_high, a_low, b_high, b_low);
}

}  // namespace cuda
}  // namespace fastdarts
