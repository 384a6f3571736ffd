// The gradient of the stencil's weights: the same window on the same tile, with the accumulators on the taps.
#pragma once

#include "stencil_pointwise.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

constexpr int kTapRegisters = kVectorBytes == 64 ? 25 : 10;

// N neighbouring outputs, R rows of K taps.
template <typename A, int K, int D, int S, int R, int N>
FASTDARTS_INLINE void taps_block(const A* in, std::int64_t pitch, const A* dz, Vec<A> (&sum)[R][K]) {
    Vec<A> g[N];
    FASTDARTS_UNROLL for (int i = 0; i < N; ++i) g[i] = load<A>(dz + i * kLanes<A>);
    FASTDARTS_UNROLL for (int r = 0; r < R; ++r) {
        const A* row = in + r * D * pitch;
        FASTDARTS_UNROLL for (int j = 0; j <= (N - 1) * S + (K - 1) * D; ++j) {
            const Vec<A> value = load<A>(row + j * kLanes<A>);
            FASTDARTS_UNROLL for (int k = 0; k < K; ++k) {
                const int from = j - k * D;
                if (from >= 0 && from % S == 0 && from / S < N) sum[r][k] += value * g[from / S];
            }
        }
    }
}

// R of the kernel's rows over a piece of the map, `height` rows of `width` outputs.
template <typename A, int K, int D, int S, int R>
void taps_rows(const A* in, std::int64_t pitch, const A* dz, std::int64_t height, std::int64_t width, A* to) {
    constexpr int N = 4;
    Vec<A> sum[R][K] = {};
    for (std::int64_t y = 0; y < height; ++y, in += S * pitch) {
        std::int64_t x = 0;
        const A* at = in;
        for (; x + N <= width; x += N, at += N * S * kLanes<A>, dz += N * kLanes<A>)
            taps_block<A, K, D, S, R, N>(at, pitch, dz, sum);
        for (; x < width; ++x, at += S * kLanes<A>, dz += kLanes<A>)
            taps_block<A, K, D, S, R, 1>(at, pitch, dz, sum);
    }
    for (int k = 0; k < R * K; ++k) store<A>(to + k * kLanes<A>, load<A>(to + k * kLanes<A>) + sum[k / K][k % K]);
}

template <typename A, int K, int D, int S>
void taps_kernel(const A* in, std::int64_t pitch, const A* dz, std::int64_t height, std::int64_t width, A* to) {
    constexpr int most = kTapRegisters / K < 1 ? 1 : kTapRegisters / K, R = most < K ? most : K, rest = K % R;
    for (int k = 0; k + R <= K; k += R)
        taps_rows<A, K, D, S, R>(in + k * D * pitch, pitch, dz, height, width, to + k * K * kLanes<A>);
    if constexpr (rest > 0) {
        constexpr int k = K - rest;
        taps_rows<A, K, D, S, rest>(in + k * D * pitch, pitch, dz, height, width, to + k * K * kLanes<A>);
    }
}

// sum[tap] += in(stride * y + dilation * i, stride * x + dilation * j) * dz(y, x) over the pixels, for one block of
// channels. in: under tap (0, 0) of the first output; dz: [height][width] vectors; sum: [kernel][kernel] vectors.
template <typename A>
void taps(const A* in, std::int64_t pitch, const A* dz, std::int64_t height, std::int64_t width, std::int64_t kernel,
          std::int64_t dilation, std::int64_t stride, A* sum) {
    switch (kernel * 100 + dilation * 10 + stride) {
#define FASTDARTS_TAPS(K)                                                                        \
    case K * 100 + 11: return taps_kernel<A, K, 1, 1>(in, pitch, dz, height, width, sum);        \
    case K * 100 + 12: return taps_kernel<A, K, 1, 2>(in, pitch, dz, height, width, sum);        \
    case K * 100 + 21: return taps_kernel<A, K, K == 1 ? 1 : 2, 1>(in, pitch, dz, height, width, sum); \
    case K * 100 + 22: return taps_kernel<A, K, K == 1 ? 1 : 2, 2>(in, pitch, dz, height, width, sum); \
    case K * 100 + 31: return taps_kernel<A, K, K == 1 ? 1 : 3, 1>(in, pitch, dz, height, width, sum); \
    case K * 100 + 32: return taps_kernel<A, K, K == 1 ? 1 : 3, 2>(in, pitch, dz, height, width, sum);
        FASTDARTS_SIDES(FASTDARTS_TAPS)
#undef FASTDARTS_TAPS
        default: __builtin_trap();
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
