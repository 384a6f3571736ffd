// The pointwise parts of the backward pass on the matrix unit: dz = P^T dy and dP = dy z^T.
//
// dy = alpha g + beta y + gamma goes from global memory straight into fragments: which channel is which of the
// product's eight is free as long as both factors agree, so each lane takes neighbouring channels in one load.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "stencil_backward_plan.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

// Neighbouring values in one access.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
    T values[N];
};

// Channels [c, c + N) of a pixel, 0 beyond the last channel.
template <int N, typename T>
FASTDARTS_DEVICE void read_channels(const T* pixel, int c, int channels, bool vectors, float (&to)[N]) {
    if (vectors && c + N <= channels) {
        const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(pixel + c);
        FASTDARTS_UNROLL for (int k = 0; k < N; ++k) to[k] = widen(pack.values[k]);
    } else {
        FASTDARTS_UNROLL for (int k = 0; k < N; ++k) to[k] = c + k < channels ? widen(pixel[c + k]) : 0.0f;
    }
}

template <int N, typename T>
FASTDARTS_DEVICE void write_channels(T* pixel, int c, int channels, bool vectors, const float (&from)[N]) {
    if (vectors && c + N <= channels) {
        Pack<T, N> pack;
        FASTDARTS_UNROLL for (int k = 0; k < N; ++k) pack.values[k] = narrow<T>(from[k]);
        *reinterpret_cast<Pack<T, N>*>(pixel + c) = pack;
    } else {
        FASTDARTS_UNROLL for (int k = 0; k < N; ++k) {
            if (c + k < channels) pixel[c + k] = narrow<T>(from[k]);
        }
    }
}

// Neighbouring floats of shared memory, aligned to as many.
FASTDARTS_DEVICE void read_words(const float* from, float (&to)[4]) {
    const float4 word = *reinterpret_cast<const float4*>(from);
    to[0] = word.x;
    to[1] = word.y;
    to[2] = word.z;
    to[3] = word.w;
}
FASTDARTS_DEVICE void read_words(const float* from, float (&to)[2]) {
    const float2 word = *reinterpret_cast<const float2*>(from);
    to[0] = word.x;
    to[1] = word.y;
}

// The coefficients of dy as alpha g + (beta (y - near) + rest), where beta near = -gamma as nearly as a float can: with
// |mean| / std of y large, beta y and gamma cancel, their roundings do not. `to`: [4][channels rounded up to 16].
__device__ inline void lay_mix(const double* alpha, const double* beta, const double* gamma, int channels, float* to) {
    const int wide = ceil_div(channels, 16) * 16;
    for (int c = thread_index(); c < wide; c += kThreads) {
        float coefficients[4] = {};
        if (c < channels) {
            const float zero = static_cast<float>(-gamma[c] / beta[c]), b = static_cast<float>(beta[c]);
            const float near = zero - zero == 0.0f ? zero : 0.0f;  // finite
            coefficients[0] = static_cast<float>(alpha[c]);
            coefficients[1] = b;
            coefficients[2] = near;
            coefficients[3] = static_cast<float>(gamma[c] + static_cast<double>(b) * static_cast<double>(near));
        }
        for (int k = 0; k < 4; ++k) to[k * wide + c] = coefficients[k];
    }
}

// P, [channels][channels], as the second factors of dz for the block's channels, each of a lane's two in two parts that
// TF32 holds: [channels / 8][chunk / 8][lane][high, high, low, low].
__device__ inline void lay_matrix(const float* matrix, int channels, int first, int chunk, float* to) {
    const int wide = ceil_div(chunk, 8), total = ceil_div(channels, 16) * 2 * wide * 64;
    for (int i = thread_index(); i < total; i += kThreads) {
        const int lane = i / 2 % 32, block = i / 64, step = block / wide;
        const int row = step / 2 * 16 + lane % 4 * 4 + step % 2 * 2 + i % 2, column = block % wide * 8 + lane / 4;
        const bool inside = row < channels && column < chunk;
        const float x = inside ? matrix[static_cast<std::int64_t>(row) * channels + first + column] : 0.0f;
        float* const out = to + block * 128 + lane * 4 + i % 2;
        split_tf32(x, out[0], out[2]);
    }
}

// dy of channels [c, c + Wide) of a pixel.
template <int Wide, typename T>
FASTDARTS_DEVICE void read_dy(const ConvJob& conv, int pixel, int c, int channels, const float* mix,
                                        float (&dy)[Wide]) {
    const int wide = ceil_div(channels, 16) * 16;
    float alpha[Wide], rest[Wide];
    read_channels(static_cast<const T*>(conv.g.data) + pixel * conv.g.pixel, c, channels, conv.g.vectors, dy);
    read_words(mix + c, alpha);
    read_words(mix + 3 * wide + c, rest);
    if (conv.y.data) {
        float y[Wide], beta[Wide], near[Wide];
        read_channels(static_cast<const T*>(conv.y.data) + pixel * conv.y.pixel, c, channels, conv.y.vectors, y);
        read_words(mix + wide + c, beta);
        read_words(mix + 2 * wide + c, near);
        FASTDARTS_UNROLL for (int k = 0; k < Wide; ++k) rest[k] += beta[k] * (y[k] - near[k]);
    }
    FASTDARTS_UNROLL for (int k = 0; k < Wide; ++k) dy[k] = alpha[k] * dy[k] + rest[k];
}

// Whether factors go to the matrix unit in two parts. One rounding to TF32 is less than bfloat16's own, but not than
// float16's.
template <typename T>
FASTDARTS_DEVICE bool three_passes(int exact) {
    return std::is_same<T, bfloat16>::value ? false : exact != 0;
}

// Factors of a product, ready for the matrix unit: rounded to TF32, or in two parts.
template <int N>
struct Factors {
    float high[N], low[N];

    FASTDARTS_DEVICE Factors(const float (&from)[N], bool exact) {
        FASTDARTS_UNROLL for (int k = 0; k < N; ++k) {
            high[k] = round_tf32(from[k]);
            low[k] = exact ? round_tf32(from[k] - high[k]) : 0.0f;
        }
    }
};

// dz of twice eight pixels, -1 being outside: the fragments of each 8 channels.
template <typename T>
FASTDARTS_DEVICE void mix_pixels(const ConvJob& conv, const int (&pixel)[2], int channels, int wide,
                                 const float* matrix, const float* mix, bool exact,
                                 float (&sums)[kMostChannels / 8][4]) {
    const int lane = lane_index();
    FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) sums[n][k] = 0.0f;
    }
    FASTDARTS_ROLLED for (int block = 0; block * 16 < channels; ++block) {
        float dy[2][4] = {};
        FASTDARTS_UNROLL for (int k = 0; k < 2; ++k) {
            if (pixel[k] >= 0) read_dy<4, T>(conv, pixel[k], block * 16 + lane % 4 * 4, channels, mix, dy[k]);
        }
        FASTDARTS_UNROLL for (int step = 0; step < 2; ++step) {
            const int one = 2 * step, two = one + 1;
            const Factors<4> a({dy[0][one], dy[1][one], dy[0][two], dy[1][two]}, exact);
            FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
                if (n < wide) {
                    float p[4];
                    read_words(matrix + (((block * 2 + step) * wide + n) * 32 + lane) * 4, p);
                    const float high[2] = {p[0], p[1]}, low[2] = {p[2], p[3]};
                    if (exact) {
                        mma_3xtf32(sums[n], a.high, a.low, high, low);
                    } else {
                        mma_tf32(sums[n], a.high, high);
                    }
                }
            }
        }
    }
}

// dz of a region into planes, 0 where a pixel lies outside y; each warp takes two groups of eight pixels of a row.
// Returns whether all that the warp computed is finite.
template <typename T>
__device__ bool mix_back(const ConvJob& conv, const Desk& desk, int images, int count, int channels, int chunk,
                         bool exact, const Planes& planes, const float* shared, float* to) {
    const Region& region = desk.region;
    const int lane = lane_index(), wide = ceil_div(chunk, 8), across = static_cast<int>(desk.across.by);
    const int groups = region.columns > 0 ? images * region.rows * across : 0;
    const float *matrix = shared + desk.matrix, *mix = shared + desk.mix;
    bool finite = true;
    for (int first = warp_index() * 2; first < groups; first += kWarps * 2) {
        int pixel[2], place[2];
        FASTDARTS_UNROLL for (int k = 0; k < 2; ++k) {
            const int group = first + k, line = desk.across(group), image = desk.rows(line);
            const int row = region.row + line - image * region.rows, n = desk.place.image + image;
            const int offset = (group - line * across) * 8 + lane / 4, column = region.column + offset;
            const bool written = group < groups && offset < region.columns;
            const bool inside = n < count && row < conv.height && column < conv.width;
            pixel[k] = written && inside ? (n * conv.height + row) * conv.width + column : -1;
            place[k] = written ? image * planes.image + (row * region.stride - region.row_origin) * planes.pitch +
                                     column * region.stride - region.column_origin
                               : -1;
        }
        float sums[kMostChannels / 8][4];
        mix_pixels<T>(conv, pixel, channels, wide, matrix, mix, exact, sums);
        float strange = 0;  // NaN where a sum is not finite
        FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
            FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) strange += sums[n][k] * 0.0f;
        }
        if (warp_ballot(strange != 0.0f) != 0) {
            // The small part of an infinite factor is a NaN: one pass has it right, and elsewhere loses little.
            if (exact) mix_pixels<T>(conv, pixel, channels, wide, matrix, mix, false, sums);
            finite = false;
        }
        FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
            const int c = n * 8 + lane % 4 * 2;
            FASTDARTS_UNROLL for (int k = 0; k < 2; ++k) {
                float* const out = to + c * planes.channel + place[k];
                if (place[k] >= 0 && c < chunk) out[0] = sums[n][2 * k];
                if (place[k] >= 0 && c + 1 < chunk) out[planes.channel] = sums[n][2 * k + 1];
            }
        }
    }
    return finite;
}

// sums += dy z^T over the tile for 16 rows of dP, from `row` on, and all of the block's channels; the tile's groups of
// eight pixels are shared between `splits` warps. The warp's sums lie in its part
// of shared memory, where they cost no register while the stencils run. Of the
// fragments' rows, r is channel row + 2 (r % 8) + r / 8.
template <typename T>
__device__ void gather_matrix(const ConvJob& conv, const Desk& desk, const Tiling& t, int count, int channels,
                              int chunk, int row, int split, int splits, bool exact, float* shared) {
    const int lane = lane_index(), bits = t.column_bits - 3, groups = t.images * t.rows << bits;
    const int wide = ceil_div(chunk, 8);
    const Planes& planes = desk.outputs;
    const float *mix = shared + desk.mix, *z = shared + desk.own;
    float* const kept = shared + kDesks + (warp_index() * wide * 32 + lane) * 4;
    float sums[kMostChannels / 8][4];
    FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
        if (n < wide) read_words(kept + n * 128, sums[n]);
    }
    FASTDARTS_ROLLED for (int group = split; group < groups; group += splits) {
        const int line = group >> bits, image = line >> t.row_bits, height = line - (image << t.row_bits);
        const int left = (group - (line << bits)) * 8, offset = left + lane % 4;
        const int y = desk.place.row + height, n = desk.place.image + image;
        if (n >= count || y >= conv.height || desk.place.column + left >= conv.width) continue;  // as the whole warp
        float dy[2][2] = {};
        FASTDARTS_UNROLL for (int k = 0; k < 2; ++k) {
            const int x = desk.place.column + offset + 4 * k;
            if (x < conv.width) {
                const int pixel = (n * conv.height + y) * conv.width + x;
                read_dy<2, T>(conv, pixel, row + lane / 4 * 2, channels, mix, dy[k]);
            }
        }
        const Factors<4> a({dy[0][0], dy[0][1], dy[1][0], dy[1][1]}, exact);
        const float* from = z + image * planes.image + height * planes.pitch + offset;
        FASTDARTS_UNROLL for (int block = 0; block < kMostChannels / 8; ++block) {
            if (block < wide) {
                // Channels beyond the block's own are computed from its last one and never written.
                const float* own = from + smaller(block * 8 + lane / 4, chunk - 1) * planes.channel;
                const Factors<2> b({own[0], own[4]}, exact);
                if (exact) {
                    mma_3xtf32(sums[block], a.high, a.low, b.high, b.low);
                } else {
                    mma_tf32(sums[block], a.high, b.high);
                }
            }
        }
    }
    FASTDARTS_UNROLL for (int n = 0; n < kMostChannels / 8; ++n) {
        float4* const to = reinterpret_cast<float4*>(kept + n * 128);
        if (n < wide) *to = float4{sums[n][0], sums[n][1], sums[n][2], sums[n][3]};
    }
}

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
