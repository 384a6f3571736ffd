// What a block of the forward pass does with its tile: see stencil_forward_plan.cuh.
#pragma once

#include "../stencils.h"
#include "device.cuh"
#include "stencil_forward_plan.cuh"

namespace fastdarts {
namespace cuda {
namespace forward {

// Which 4 floats of 8 a channel's z keeps where its address says 0: chosen so that eight neighbouring channels, which
// a warp writes at once, and the four channels by eight pixels that it reads at once, meet no bank twice.
FASTDARTS_DEVICE int swizzle(int channel) {
    const int low = ((channel >> 2) ^ channel) & 1, middle = ((channel >> 3) ^ (channel >> 1)) & 1;
    return (low | middle << 1 | (channel & 1) << 2) << 2;
}

// What the ReLU reads of a normalised source; the mean in two parts, as far as float32 goes.
struct Activation {
    const float *high, *low, *scale;  // [channels] in shared memory; null for the plain source

    FASTDARTS_DEVICE float operator()(float x, int channel) const {
        return relu(high == nullptr ? x : ((x - high[channel]) - low[channel]) * scale[channel]);
    }
};

// Copies `chunk` channels from `first` of a tile; whether one of them is not finite. A warp takes a row at a time.
template <typename T, int V>
FASTDARTS_DEVICE bool load_tile(const Task& t, const Corner& corner, int stride, int count, int channels, int first,
                                const Activation& activation, float* tile) {
    const int present = channels - first < t.chunk ? channels - first : t.chunk, groups = (present + V - 1) / V;
    const int columns = (t.columns - 1) * stride + 1 + 2 * t.margin;
    const int top = corner.row * stride - t.margin, side = corner.column * stride - t.margin;
    const int warps = static_cast<int>(blockDim.x) / kWarp, lane = lane_index();
    const int step_column = kWarp / groups, step_group = kWarp % groups;
    bool wild = false;
    for (int line = warp_index(); line < t.images * t.in_rows; line += warps) {
        const int image = line / t.in_rows, row = line % t.in_rows, y = top + row;
        const bool inside = corner.image + image < count && y >= 0 && y < t.height;
        const T* const from = static_cast<const T*>(t.x) + first +
                              (static_cast<std::int64_t>(corner.image + image) * t.height + y) * t.width * t.pixel;
        float* const to = tile + line * t.pitch + t.left - t.margin;
        int column = lane / groups, group = lane % groups;
        while (column < columns) {
            const int x = side + column, channel = group * V;
            float values[V] = {};
            if (inside && x >= 0 && x < t.width) {
                const T* const at = from + x * t.pixel + channel;
                if constexpr (V == 4) {
                    load_four(at, values);
                } else {
                    values[0] = widen(*at);
                }
                FASTDARTS_UNROLL for (int i = 0; i < V; ++i) {
                    values[i] = activation(values[i], first + channel + i);
                    wild |= !(values[i] < __builtin_huge_valf());  // it is not negative
                }
            }
            FASTDARTS_UNROLL for (int i = 0; i < V; ++i) to[(channel + i) * t.plane + column] = values[i];
            column += step_column;
            group += step_group;
            if (group >= groups) group -= groups, ++column;
        }
    }
    return wild;
}

// A thread's outputs: kRows rows of columns_of(stride), of one channel.
struct Item {
    int channel;  // in the chunk, or -1
    int x, z;     // where its first output lies: under its middle tap in a plane of the tile; in a row of z
    bool odd;     // of two items above each other, the lower one
};

// The rows follow each other; but where the kernel is dilated at stride 1, two items above each other have every second
// of their rows each, so that all their taps meet the same few rows.
template <int K, int D, int S>
FASTDARTS_DEVICE void depthwise(const Task& t, const Item& item, const float* plane, const float* weights, float* z,
                                int turn) {
    constexpr int C = columns_of(S), pad = D * (K / 2), before = up(pad, 4);
    constexpr int W = up(before - pad + (C - 1) * S + (K - 1) * D + 1, 4);
    constexpr int J = S == 2 && D == 1 ? 2 : 1;        // loaded rows from one row of outputs to the next
    constexpr int together = S == 1 && D == 2 ? 2 : 1;  // rows of the map from one of its outputs to the next
    float w[K * K];
    FASTDARTS_UNROLL for (int i = 0; i < K * K; ++i) w[i] = weights[i];
    float sum[kRows][C] = {};
    const int up_by = together == 2 && item.odd ? kRows - 1 : 0;
    const float* from = plane + item.x - (up_by + pad) * t.pitch - before;
    FASTDARTS_UNROLL for (int j = 0; j < J * (kRows - 1) + K; ++j, from += D * t.pitch) {
        float x[W];
        FASTDARTS_UNROLL for (int i = 0; i < W; i += 4) {
            float four[4];
            load_four(from + i, four);
            FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) x[i + k] = four[k];
        }
        FASTDARTS_UNROLL for (int i = 0; i < kRows; ++i) {
            const int v = j - J * i;
            if (v < 0 || v >= K) continue;
            FASTDARTS_UNROLL for (int u = 0; u < K; ++u) {
                FASTDARTS_UNROLL for (int c = 0; c < C; ++c)
                    sum[i][c] = fused(w[v * K + u], x[before - pad + c * S + u * D], sum[i][c]);
            }
        }
    }
    int at = item.z - up_by * t.columns;
    FASTDARTS_UNROLL for (int i = 0; i < kRows; ++i, at += together * t.columns) {
        FASTDARTS_UNROLL for (int c = 0; c < C; c += 4) {
            const float four[4] = {sum[i][c], sum[i][c + 1], sum[i][c + 2], sum[i][c + 3]};
            store_four(z + ((at + c) ^ turn), four);
        }
    }
}

// The stencil of any of the convolutions that there are.
template <int S>
FASTDARTS_DEVICE void depthwise(const Task& t, const Conv& conv, const Item& item, const float* plane,
                                const float* weights, float* z, int turn) {
    switch (conv.kernel * 2 + conv.dilation) {
#define FASTDARTS_DEPTHWISE(K)                                                                           \
    case K * 2 + 1: return depthwise<K, 1, S>(t, item, plane, weights, z, turn);                         \
    case K * 2 + 2:                                                                                      \
        if constexpr (K > 1) return depthwise<K, 2, S>(t, item, plane, weights, z, turn);                \
        break;
        FASTDARTS_SIDES(FASTDARTS_DEPTHWISE)
#undef FASTDARTS_DEPTHWISE
        default: break;
    }
    FASTDARTS_UNREACHABLE();
}

}  // namespace forward
}  // namespace cuda
}  // namespace fastdarts
