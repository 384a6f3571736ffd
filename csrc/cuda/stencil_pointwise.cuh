// y = P z on the matrix unit, rounded, stored and summed up: see stencil_forward_plan.cuh.
//
// A warp computes 32 pixels by 8 N channels. Lane 4 g + t holds, of each block of 16 pixels, those that are g and g + 8
// there, and of each 16 channels the four from 4 t: which pixels and channels the matrix unit's rows and columns stand
// for is free, and so chosen that z is read without bank conflicts, P four weights and y four channels at a time.
#pragma once

#include "stencil_tile.cuh"

namespace fastdarts {
namespace cuda {
namespace forward {

// What a block's warps read and write. Everything but the address is read from the parameters again and again, which
// costs no register.
struct Product {
    const Forward& call;
    const Task& t;
    float* memory;

    FASTDARTS_DEVICE int pixels() const { return t.layout.pixels; }
    FASTDARTS_DEVICE int channels() const { return call.channels; }
    FASTDARTS_DEVICE int padded() const { return t.layout.padded; }
    // [padded channels][pixels], swizzled.
    FASTDARTS_DEVICE float* z() const { return memory + t.layout.z; }
    // [pixels]: which pixel of the map, or -1; [pixels / 32]: how many are of the map.
    FASTDARTS_DEVICE int* table() const { return reinterpret_cast<int*>(memory + t.layout.table); }
    FASTDARTS_DEVICE int* counts() const { return reinterpret_cast<int*>(memory + t.layout.counts); }
    // [3][padded] of 32 pixels: a value, sums and sums of squares about it.
    FASTDARTS_DEVICE float* parts(int block) const { return memory + t.layout.parts + block * 3 * padded(); }
};

// N columns of 8: output channels `base` and on. The channel that is column `column` of block n.
template <int N>
FASTDARTS_DEVICE int channel_of(int base, int n, int column) {
    return N == 1 ? base + column : base + n / 2 * 16 + (column >> 1) * 4 + n % 2 * 2 + (column & 1);
}

// P's weights of an output channel for the four (N = 1: two) input channels that a lane holds.
template <int N>
FASTDARTS_DEVICE void load_weights(const Conv& conv, int channels, int output, int input, float (&p)[4]) {
    const float* const from = conv.pointwise + static_cast<std::int64_t>(output) * channels + input;
    if (N > 1 && conv.wide_pointwise && output < channels && input < channels) return load_four(from, p);
    FASTDARTS_UNROLL for (int i = 0; i < (N == 1 ? 2 : 4); ++i)
        p[i] = output < channels && input + i < channels ? ldg(from + i) : 0.0f;
}

// sum += z P^T for one warp's 32 pixels from 32 * block and 8 N channels from base.
template <int N, bool precise>
FASTDARTS_DEVICE void multiply(const Product& p, const Conv& conv, int block, int base, float (&sum)[2][N][4]) {
    constexpr int held = N == 1 ? 2 : 4;  // input channels of a lane
    const int g = lane_index() / 4, t = lane_index() % 4;
    int at[held];
    FASTDARTS_UNROLL for (int i = 0; i < held; ++i)
        at[i] = (held * t + i) * p.pixels() + 32 * block + (((g & 3) | (g >> 2) << 4) ^ swizzle(held * t + i));
    FASTDARTS_ROLLED for (int first = 0; first < p.padded(); first += 4 * held) {
        float weights[N][4] = {};
        FASTDARTS_UNROLL for (int n = 0; n < N; ++n)
            load_weights<N>(conv, p.channels(), channel_of<N>(base, n, g), first + held * t, weights[n]);
        FASTDARTS_UNROLL for (int i = 0; i < held; i += 2) {
            float high[2][4], low[2][4];
            FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
                FASTDARTS_UNROLL for (int r = 0; r < 4; ++r) {
                    const float z = p.z()[first * p.pixels() + (at[i + r / 2] ^ (8 * m | 4 * (r % 2)))];
                    if (precise) {
                        split_tf32(z, high[m][r], low[m][r]);
                    } else {
                        high[m][r] = round_tf32(z);
                    }
                }
            }
            FASTDARTS_UNROLL for (int n = 0; n < N; ++n) {
                const float both[2] = {weights[n][i], weights[n][i + 1]};
                float heavy[2], light[2];
                FASTDARTS_UNROLL for (int r = 0; r < 2; ++r) split_tf32(both[r], heavy[r], light[r]);
                FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
                    if (precise) {
                        mma_3xtf32(sum[m][n], high[m], low[m], heavy, light);
                    } else {
                        mma_tf32(sum[m][n], high[m], heavy);
                    }
                }
            }
        }
    }
}

// The same without the matrix unit, for a tile with an infinity: that has no two parts.
template <int N>
FASTDARTS_DEVICE void multiply_plainly(const Product& p, const Conv& conv, int block, int base,
                                       float (&sum)[2][N][4]) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    for (int input = 0; input < p.channels(); ++input) {
        FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
            FASTDARTS_UNROLL for (int n = 0; n < N; ++n) {
                FASTDARTS_UNROLL for (int r = 0; r < 4; ++r) {
                    const int output = channel_of<N>(base, n, 2 * t + r % 2);
                    const int pixel = (g & 3) | (g >> 2) << 4 | m << 3 | (r / 2) << 2;
                    if (output >= p.channels()) continue;
                    const float z = p.z()[input * p.pixels() + 32 * block + (pixel ^ swizzle(input))];
                    sum[m][n][r] = fused(z, ldg(conv.pointwise + output * p.channels() + input), sum[m][n][r]);
                }
            }
        }
    }
}

// Rounds a warp's results to T, in place, and stores those that are of the map.
template <typename T, int N>
FASTDARTS_DEVICE void store(const Product& p, const Conv& conv, int base, const int (&pixel)[2][2],
                            float (&sum)[2][N][4]) {
    constexpr int held = N == 1 ? 2 : 4;  // neighbouring output channels of a lane
    const int t = lane_index() % 4;
    FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
        FASTDARTS_UNROLL for (int h = 0; h < 2; ++h) {
            FASTDARTS_UNROLL for (int n = 0; n < N; n += held / 2) {
                T rounded[4] = {};
                FASTDARTS_UNROLL for (int i = 0; i < held; ++i) {
                    float& value = sum[m][n + i / 2][2 * h + i % 2];
                    rounded[i] = narrow<T>(value);
                    value = widen(rounded[i]);
                }
                const int channel = base + n * 8 + held * t;
                if (pixel[m][h] < 0) continue;
                T* const y = static_cast<T*>(conv.y) + pixel[m][h] * conv.y_pixel + channel;
                if (held == 4 && conv.wide_y && channel < p.channels()) {
                    store_four(y, rounded);
                } else {
                    FASTDARTS_UNROLL for (int i = 0; i < held; ++i)
                        if (channel + i < p.channels()) y[i] = rounded[i];
                }
            }
        }
    }
}

// Sums over the eight lanes of a t: of each pair of lanes, either keeps half of the totals while there are several.
// Returns which of them this lane's first one is.
template <int count, int mask, int size>
FASTDARTS_DEVICE int share_totals(float (&totals)[size], int lane) {
    const bool upper = (lane & mask) != 0;
    if constexpr (count > 1) {
        FASTDARTS_UNROLL for (int i = 0; i < count / 2; ++i) {
            const float low = totals[i], high = totals[i + count / 2];
            totals[i] = (upper ? high : low) + warp_shuffle_xor(upper ? low : high, mask);
        }
    } else {
        totals[0] += warp_shuffle_xor(totals[0], mask);
    }
    constexpr int kept = count > 1 ? count / 2 : 1;
    const int offset = upper && count > 1 ? kept : 0;
    if constexpr (2 * mask < kWarp) {
        return offset + share_totals<kept, 2 * mask>(totals, lane);
    } else {
        return offset;
    }
}

// The moments of what a warp has stored, per channel about a value of its own.
template <int N>
FASTDARTS_DEVICE void add_moments(const Product& p, int block, int base, const int (&pixel)[2][2],
                                  const float (&sum)[2][N][4]) {
    constexpr int held = N == 1 ? 2 : 4;
    const int lane = lane_index(), t = lane % 4;
    int present = 0;
    FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
        FASTDARTS_UNROLL for (int h = 0; h < 2; ++h) present += pixel[m][h] >= 0 ? 1 : 0;
    }
    const unsigned lanes = warp_ballot(present > 0);
    const int source = lanes == 0 ? lane : first_bit(lanes) / 4 * 4 + t;
    // [sums, sums of squares][2 N channels]
    float totals[4 * N] = {}, middle[2 * N];
    FASTDARTS_UNROLL for (int c = 0; c < 2 * N; ++c) {
        float mine = 0;
        FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
            FASTDARTS_UNROLL for (int h = 0; h < 2; ++h)
                mine += pixel[m][h] >= 0 ? sum[m][c / 2][2 * h + c % 2] : 0.0f;
        }
        // Of one lane, about the mean of 4 values: near enough for float32, without a sum over the warp.
        mine = warp_shuffle(mine / static_cast<float>(present > 0 ? present : 1), source);
        middle[c] = mine - mine == 0.0f ? mine : 0.0f;  // finite
        FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
            FASTDARTS_UNROLL for (int h = 0; h < 2; ++h) {
                const float d = pixel[m][h] >= 0 ? sum[m][c / 2][2 * h + c % 2] - middle[c] : 0.0f;
                totals[c] += d;
                totals[2 * N + c] = fused(d, d, totals[2 * N + c]);
            }
        }
    }
    const int offset = share_totals<4 * N, 4>(totals, lane);
    float* const parts = p.parts(block) + base;
    FASTDARTS_UNROLL for (int i = 0; i < (N == 4 ? 2 : 1); ++i) {
        const int which = offset + i, c = which % (2 * N), channel = c / held * 16 + held * t + c % held;
        if (base + channel < p.padded()) parts[(1 + which / (2 * N)) * p.padded() + channel] = totals[i];
    }
    if (lane >= 4) return;
    FASTDARTS_UNROLL for (int c = 0; c < 2 * N; ++c) {
        const int channel = c / held * 16 + held * t + c % held;
        if (base + channel < p.padded()) parts[channel] = middle[c];
    }
}

template <typename T, int N>
FASTDARTS_DEVICE void pointwise(const Product& p, const Conv& conv, bool wild) {
    const int blocks = p.pixels() / 32, units = blocks * ceil_div(p.channels(), 8 * N), g = lane_index() / 4;
    for (int unit = warp_index(); unit < units; unit += static_cast<int>(blockDim.x) / kWarp) {
        const int block = unit % blocks, base = unit / blocks * 8 * N;
        float sum[2][N][4] = {};
        if (sizeof(T) < sizeof(float) || !p.call.precise) {
            multiply<N, false>(p, conv, block, base, sum);
        } else if (!wild) {
            multiply<N, true>(p, conv, block, base, sum);
        } else {
            multiply_plainly<N>(p, conv, block, base, sum);
        }
        int pixel[2][2];
        FASTDARTS_UNROLL for (int m = 0; m < 2; ++m) {
            FASTDARTS_UNROLL for (int h = 0; h < 2; ++h)
                pixel[m][h] = p.table()[32 * block + ((g & 3) | (g >> 2) << 4 | m << 3 | h << 2)];
        }
        store<T, N>(p, conv, base, pixel, sum);
        if (p.call.moments != nullptr) add_moments<N>(p, block, base, pixel, sum);
    }
}

// Adds up the moments that the warps left, one thread a channel, and writes a slot.
FASTDARTS_DEVICE void write_moments(const Product& p, std::int64_t slot) {
    double* const moments = p.call.moments + slot * 2 * p.channels();
    int all = 0;
    for (int block = 0; block < p.pixels() / 32; ++block) all += p.counts()[block];
    for (int c = static_cast<int>(threadIdx.x); c < p.channels(); c += static_cast<int>(blockDim.x)) {
        double total = 0, squares = 0;
        for (int block = 0; block < p.pixels() / 32; ++block) {
            const float* const part = p.parts(block) + c;
            total += static_cast<double>(part[0]) * p.counts()[block] + static_cast<double>(part[p.padded()]);
        }
        const double mean = total / all;
        for (int block = 0; block < p.pixels() / 32; ++block) {
            if (p.counts()[block] == 0) continue;
            const float* const part = p.parts(block) + c;
            const double n = p.counts()[block], s = part[p.padded()], own = static_cast<double>(part[0]) + s / n;
            const double about_own = part[2 * p.padded()] - s * s / n;
            squares += (about_own < 0 ? 0 : about_own) + n * (own - mean) * (own - mean);
        }
        moments[c] = mean;
        moments[p.channels() + c] = squares;
    }
    if (threadIdx.x == 0) p.call.counts[slot] = all;
}

}  // namespace forward
}  // namespace cuda
}  // namespace fastdarts
