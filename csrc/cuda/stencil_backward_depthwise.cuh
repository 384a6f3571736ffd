// The depthwise parts of the backward pass, for a thread's R x C outputs of one channel, in registers.
//
// A row of the tile is loaded once, as 16-byte words, and serves every output row and every tap that it meets.
#pragma once

#include "../stencils.h"
#include "stencil_backward_plan.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

// The words of a tile row that the outputs of a thread meet.
template <int Size>
struct Window {
    static constexpr int kWords = (Size + 3) / 4;
    float values[4 * kWords];

    FASTDARTS_DEVICE explicit Window(const float* from) {
        FASTDARTS_UNROLL for (int i = 0; i < kWords; ++i) {
            const float4 word = reinterpret_cast<const float4*>(from)[i];
            values[4 * i] = word.x;
            values[4 * i + 1] = word.y;
            values[4 * i + 2] = word.z;
            values[4 * i + 3] = word.w;
        }
    }
};

// out[r][c] += sum_ab taps[a][b] tile[r S + a D][c S + b D]; where Holes is 2, the tile is 0 wherever its row or its
// column is not K / 2 * D modulo 2: y of a convolution of stride 2 spread out to the pixels of its source.
template <int K, int D, int S, int Holes, int R, int C>
FASTDARTS_DEVICE void correlate(const float* tile, int pitch, const float* taps, float (&out)[R][C]) {
    constexpr int kReach = (K - 1) * D, kPadding = kReach / 2, kWindow = (C - 1) * S + kReach + 1;
    constexpr int kTapsRow = taps_row(K);
    FASTDARTS_UNROLL for (int i = 0; i <= (R - 1) * S + kReach; ++i) {
        if (Holes == 2 && (i + kPadding) % 2 != 0) continue;
        const Window<kWindow> window(tile + i * pitch);
        FASTDARTS_UNROLL for (int r = 0; r < R; ++r) {
            const int step = i - r * S, a = step / D;
            if (step < 0 || step % D != 0 || a >= K) continue;
            const Window<K> weights(taps + a * kTapsRow);
            FASTDARTS_UNROLL for (int b = 0; b < K; ++b) {
                FASTDARTS_UNROLL for (int c = 0; c < C; ++c) {
                    if (Holes == 2 && (c + b * D + kPadding) % 2 != 0) continue;
                    out[r][c] += weights.values[b] * window.values[c * S + b * D];
                }
            }
        }
    }
}

// sums[a][b] += sum_rc dz[r][c] tile[r S + a D][c S + b D]
template <int K, int D, int S, int R, int C, int N>
FASTDARTS_DEVICE void gather_taps(const float* tile, int pitch, const float (&dz)[R][C], float (&sums)[N]) {
    static_assert(K * K <= N, "more taps than sums");
    constexpr int kReach = (K - 1) * D, kWindow = (C - 1) * S + kReach + 1;
    FASTDARTS_UNROLL for (int i = 0; i <= (R - 1) * S + kReach; ++i) {
        const Window<kWindow> window(tile + i * pitch);
        FASTDARTS_UNROLL for (int r = 0; r < R; ++r) {
            const int step = i - r * S, a = step / D;
            if (step < 0 || step % D != 0 || a >= K) continue;
            FASTDARTS_UNROLL for (int b = 0; b < K; ++b) {
                FASTDARTS_UNROLL for (int c = 0; c < C; ++c) {
                    sums[a * K + b] += dz[r][c] * window.values[c * S + b * D];
                }
            }
        }
    }
}

// Calls body.run<K, D, S>() for the convolution; kernels of 7 only where Large.
template <bool Large, typename Body>
FASTDARTS_DEVICE void dispatch(int kernel, int dilation, int stride, const Body& body) {
    switch (kernel * 4 + (dilation - 1) * 2 + stride - 1) {
#define FASTDARTS_RUN(K, D, S)                                                            \
    case K * 4 + (D - 1) * 2 + S - 1:                                                     \
        if constexpr ((K > 1 || D == 1) && (K < 7 || Large)) return body.template run<K, D, S>(); \
        break;
#define FASTDARTS_RUNS(K) FASTDARTS_RUN(K, 1, 1) FASTDARTS_RUN(K, 1, 2) FASTDARTS_RUN(K, 2, 1) FASTDARTS_RUN(K, 2, 2)
        FASTDARTS_SIDES(FASTDARTS_RUNS)
#undef FASTDARTS_RUNS
#undef FASTDARTS_RUN
        default: break;
    }
    FASTDARTS_UNREACHABLE();
}

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
