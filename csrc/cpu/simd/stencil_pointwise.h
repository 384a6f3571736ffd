// The pointwise convolution and its two gradients: small matrix products on pixels that lie in the L1 cache.
#pragma once

#include <type_traits>

#include "stencil_tile.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

constexpr std::int64_t kPixels = 16;  // a chunk is computed in whole blocks of at most this many

// Pixels of a chunk: [blocks][capacity] vectors.
template <typename A>
struct Chunk {
    A* data;
    std::int64_t capacity;  // a multiple of kPixels, so that the last block may be computed whole

    A* block(std::int64_t v) const { return data + v * capacity * kLanes<A>; }
    Chunk from(std::int64_t pixel) const { return {data + pixel * kLanes<A>, capacity}; }
};

// Where whole vectors of pixels are written: into a chunk, or into maps as they lie in memory.
template <typename A>
struct Rows {
    A* data;
    std::int64_t step, block;  // elements from pixel to pixel, from block to block

    static Rows of(const Chunk<A>& chunk) { return {chunk.data, kLanes<A>, chunk.capacity * kLanes<A>}; }
};

// Which lanes hold channel 0 of each lane's own image: added to c, the lanes of channel c, repeated for its image.
template <typename A>
struct Repeat {
    using Index = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;
    typedef Index IndexVec __attribute__((vector_size(kVectorBytes)));
    IndexVec first;

    explicit Repeat(const Lanes& lanes) {
        for (int k = 0; k < kLanes<A>; ++k) first[k] = static_cast<Index>(k / lanes.stride * lanes.stride);
    }
    FASTDARTS_INLINE Vec<A> shuffle(Vec<A> v, IndexVec lane) {
#if defined(__GNUC__) && !defined(__clang__)
        return __builtin_shuffle(v, lane);
#else
        Vec<A> out;
        for (int k = 0; k < kLanes<A>; ++k) out[k] = v[lane[k]];
        return out;
#endif
    }
};

// Pixels at once with V vectors of outputs: V of the matrix and one of the input need registers too.
template <int V>
constexpr int kPointwisePixels = kVectorBytes == 64 ? (V == 1 ? 16 : 8) : (V == 1 ? 8 : V == 2 ? 4 : 2);

// How many output vectors to take at once where `left` are left.
FASTDARTS_INLINE std::int64_t vectors_at_once(std::int64_t left) {
    return left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
}

// One block of pixels, one image a vector: the input's channels are broadcast from memory, one by one.
template <typename A, int V, int B>
FASTDARTS_INLINE void pointwise_block(const A* in, std::int64_t in_block, const A* matrix, std::int64_t width,
                                      std::int64_t channels, Vec<A> (&sum)[B][V]) {
    for (; channels > 0; channels -= kLanes<A>, in += in_block) {
        const std::int64_t some = smaller(channels, kLanes<A>);
        for (std::int64_t c = 0; c < some; ++c, matrix += width) {
            const A* value = in + c;
            Vec<A> row[V];
            FASTDARTS_UNROLL for (int v = 0; v < V; ++v) row[v] = load<A>(matrix + v * kLanes<A>);
            FASTDARTS_UNROLL for (int b = 0; b < B; ++b) {
                FASTDARTS_UNROLL for (int v = 0; v < V; ++v) sum[b][v] += value[b * kLanes<A>] * row[v];
            }
        }
    }
}

// The same with several images a vector, whose channel is repeated over the lanes of its image.
template <typename A, int B>
FASTDARTS_INLINE void pointwise_images(const A* in, const A* matrix, const Lanes& lanes, Vec<A> (&sum)[B][1]) {
    const Repeat<A> repeat(lanes);
    for (std::int64_t c = 0; c < lanes.channels; ++c, matrix += kLanes<A>) {
        const Vec<A> row = load<A>(matrix);
        const auto lane = repeat.first + static_cast<typename Repeat<A>::Index>(c);
        FASTDARTS_UNROLL for (int b = 0; b < B; ++b)
            sum[b][0] += Repeat<A>::shuffle(load<A>(in + b * kLanes<A>), lane) * row;
    }
}

// out[v0 .. v0 + V) of all pixels = sum over channels c of in[c] * matrix[c][v0 .. v0 + V).
template <typename A, int V>
void pointwise_vectors(const Chunk<A>& in, const A* matrix, const Lanes& lanes, std::int64_t v0, std::int64_t count,
                       const Rows<A>& out) {
    constexpr int B = kPointwisePixels<V>;
    static_assert(kPixels % B == 0);
    const std::int64_t in_block = in.capacity * kLanes<A>, out_block = out.block, step = out.step, width = lanes.width;
    const A *from = in.data, *weights = matrix + v0 * kLanes<A>;
    A* to = out.data + v0 * out_block;
    for (std::int64_t i = 0; i < count; i += B, from += B * kLanes<A>, to += B * step) {
        Vec<A> sum[B][V] = {};
        if constexpr (V == 1) {
            if (lanes.images > 1) {
                pointwise_images<A, B>(from, weights, lanes, sum);
            } else {
                pointwise_block<A, V, B>(from, in_block, weights, width, lanes.channels, sum);
            }
        } else {
            pointwise_block<A, V, B>(from, in_block, weights, width, lanes.channels, sum);
        }
        FASTDARTS_UNROLL for (int b = 0; b < B; ++b) {
            FASTDARTS_UNROLL for (int v = 0; v < V; ++v) store<A>(to + v * out_block + b * step, sum[b][v]);
        }
    }
}

// out = in times a matrix [channels][lanes.width], whose rows are spread over lanes like the outputs. Whole blocks of
// kPixels are written.
template <typename A>
void pointwise(const Chunk<A>& in, const A* matrix, const Lanes& lanes, std::int64_t count, const Rows<A>& out) {
    for (std::int64_t v = 0; v < lanes.blocks;) {
        const std::int64_t some = vectors_at_once(lanes.blocks - v);
        if (some == 1) pointwise_vectors<A, 1>(in, matrix, lanes, v, count, out);
        if (some == 2) pointwise_vectors<A, 2>(in, matrix, lanes, v, count, out);
        if (some == 3) pointwise_vectors<A, 3>(in, matrix, lanes, v, count, out);
        v += some;
    }
}

// Channels of z at once, in one block of lanes, for V vectors of dy.
template <typename A, int V>
constexpr int kOuterChannels = V == 1 ? (kVectorBytes == 64 ? 16 : 8) : (kVectorBytes == 64 ? 8 : 4);

// sum[c .. c + B)[v0 .. v0 + V) += z[c ..] * dy[v0 ..] over the pixels.
template <typename A, int V, int B>
void outer_vectors(const A* z, const A* dy, std::int64_t dy_block, const Lanes& lanes, std::int64_t c,
                   std::int64_t count, A* sum) {
    Vec<A> total[B][V] = {};
    if (V > 1 || lanes.images == 1) {
        const A* value = z + c % kLanes<A>;
        for (std::int64_t i = 0; i < count; ++i, value += kLanes<A>, dy += kLanes<A>) {
            Vec<A> g[V];
            FASTDARTS_UNROLL for (int v = 0; v < V; ++v) g[v] = load<A>(dy + v * dy_block);
            FASTDARTS_UNROLL for (int b = 0; b < B; ++b) {
                FASTDARTS_UNROLL for (int v = 0; v < V; ++v) total[b][v] += value[b] * g[v];
            }
        }
    } else {
        const Repeat<A> repeat(lanes);
        const auto lane = repeat.first + static_cast<typename Repeat<A>::Index>(c);
        for (std::int64_t i = 0; i < count; ++i, z += kLanes<A>, dy += kLanes<A>) {
            const Vec<A> value = load<A>(z), g = load<A>(dy);
            FASTDARTS_UNROLL for (int b = 0; b < B; ++b)
                total[b][0] += Repeat<A>::shuffle(value, lane + static_cast<typename Repeat<A>::Index>(b)) * g;
        }
    }
    const std::int64_t some = lanes.channels - c;
    FASTDARTS_UNROLL for (int b = 0; b < B; ++b) {
        A* to = sum + (c + b) * lanes.width;
        if (b < some) {
            FASTDARTS_UNROLL for (int v = 0; v < V; ++v)
                store<A>(to + v * kLanes<A>, load<A>(to + v * kLanes<A>) + total[b][v]);
        }
    }
}

template <typename A, int V>
void outer_columns(const Chunk<A>& z, const Chunk<A>& dy, const Lanes& lanes, std::int64_t v0, std::int64_t count,
                   A* sum) {
    constexpr int most = kOuterChannels<A, V>, B = most < kLanes<A> ? most : kLanes<A>;
    // Several images in a vector: at most half of its lanes are channels, and few accumulators are enough.
    constexpr int few = B < 4 ? B : 4;
    const std::int64_t block = dy.capacity * kLanes<A>;
    const A* g = dy.block(v0);
    A* to = sum + v0 * kLanes<A>;
    if (lanes.images > 1) {
        for (std::int64_t c = 0; c < lanes.channels; c += few)
            outer_vectors<A, 1, few>(z.data, g, block, lanes, c, count, to);
        return;
    }
    for (std::int64_t c = 0; c < lanes.channels; c += B)
        outer_vectors<A, V, B>(z.block(c / kLanes<A>), g, block, lanes, c, count, to);
}

// The gradient of the matrix: sum[c] += z[c] * dy over the pixels; sum: [channels][lanes.width].
template <typename A>
void outer(const Chunk<A>& z, const Chunk<A>& dy, const Lanes& lanes, std::int64_t count, A* sum) {
    for (std::int64_t v = 0; v < lanes.blocks;) {
        const std::int64_t some = vectors_at_once(lanes.blocks - v);
        if (some == 1) outer_columns<A, 1>(z, dy, lanes, v, count, sum);
        if (some == 2) outer_columns<A, 2>(z, dy, lanes, v, count, sum);
        if (some == 3) outer_columns<A, 3>(z, dy, lanes, v, count, sum);
        v += some;
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
