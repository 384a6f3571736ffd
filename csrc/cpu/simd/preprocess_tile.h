// What the forward and the backward pass share: chunks of pixels, packing, the register-blocked product.
//
// A chunk of kPixels pixels is packed through the ReLU, as pixels in blocks [kPixels][kBlock] or as planes
// [channels][kPixels], whichever it is in memory; there it stays in the first level of cache while every output is
// computed from it. The product keeps R x V vectors of sums in registers: R rows (pixels,
// or the outputs of a weight gradient), V vectors of columns; for each k it loads V vectors and broadcasts R values.
#pragma once

#include "../preprocess.h"
#include "simd.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

using preprocess::kBlock;
using preprocess::kPixels;

// Rows of a tile that is so many vectors of columns wide: sums, a row of columns and one broadcast fill the registers.
// Those of a weight gradient, two vectors wide, divide a block.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRowsOfTwo = 12, kRowsOfOne = 24, kRowsOfThree = 8, kRowsOfGradient = 8;
#else
constexpr int kRowsOfTwo = 6, kRowsOfOne = 12, kRowsOfThree = 4, kRowsOfGradient = 4;
#endif
static_assert(kPixels % kRowsOfTwo == 0 && kPixels % kRowsOfOne == 0, "a chunk is a whole number of tiles");

// sums[r][v] += sum over i < k of a[r * ROW + i * STEP] * b[i * b_step + v * lanes + lane].
template <typename A, int R, int V, std::int64_t ROW, std::int64_t STEP>
FASTDARTS_INLINE void multiply(const A* a, const A* b, std::int64_t b_step, std::int64_t k, Vec<A> (&sums)[R][V]) {
    for (std::int64_t i = 0; i < k; ++i, a += STEP, b += b_step) {
        Vec<A> column[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) column[v] = load<A>(b + v * kLanes<A>);
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r) {
            const Vec<A> value = broadcast<A>(a[r * ROW]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[r][v] += value * column[v];
        }
    }
}

template <typename A, int R, int V>
FASTDARTS_INLINE void clear(Vec<A> (&sums)[R][V]) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] = Vec<A>{};
}

// The product of R packed pixels, from `row` on, with one panel of V vectors of columns.
template <bool PLANES, typename A, int R, int V>
FASTDARTS_INLINE void multiply_pixels(const A* packed, std::int64_t row, const A* panel, std::int64_t channels,
                                      Vec<A> (&sums)[R][V]) {
    constexpr std::int64_t step = V * kLanes<A>;
    clear<A>(sums);
    if constexpr (PLANES) {
        multiply<A, R, V, 1, kPixels>(packed + row, panel, step, channels, sums);
    } else {
        for (std::int64_t c = 0; c < channels; c += kBlock) {
            multiply<A, R, V, kBlock, 1>(packed + c * kPixels + row * kBlock, panel + c * step, step,
                                         preprocess::smaller(kBlock, channels - c), sums);
        }
    }
}

// A panel is two vectors of columns wide, the last one of an odd number of vectors one: [k][width]. That of the columns
// from c on begins at c * k.
template <typename A>
FASTDARTS_INLINE std::int64_t panel_vectors(std::int64_t columns, std::int64_t c) {
    return columns - c > kLanes<A> ? 2 : 1;
}

// Packs matrix(k, c) = from[k * k_step + c * c_step] into panels, or into ones of WIDTH columns; zeros beyond the last.
template <typename A, int WIDTH = 0>
static inline void pack_panels(const A* from, std::int64_t k_step, std::int64_t c_step, std::int64_t k,
                               std::int64_t columns, A* to) {
    for (std::int64_t c = 0; c < columns;) {
        const std::int64_t width = WIDTH ? WIDTH : panel_vectors<A>(columns, c) * kLanes<A>;
        const std::int64_t inside = preprocess::smaller(width, columns - c);
        for (std::int64_t i = 0; i < k; ++i, to += width) {
            for (std::int64_t j = 0; j < inside; ++j) to[j] = from[i * k_step + (c + j) * c_step];
            for (std::int64_t j = inside; j < width; ++j) to[j] = 0;
        }
        c += width;
    }
}

// Where the pixels from `first` on lie that one half reads, elements; -1 outside the map.
static inline void pixel_offsets(const PreprocessShape& s, const Strides& at, int half, std::int64_t first, int count,
                                 std::int64_t* offsets) {
    const std::int64_t rows = (s.height + s.stride - 1) / s.stride, columns = (s.width + s.stride - 1) / s.stride;
    std::int64_t image = first / (rows * columns), row = first / columns % rows, column = first % columns;
    for (int p = 0; p < count; ++p) {
        const std::int64_t y = row * s.stride + half, x = column * s.stride + half;
        offsets[p] = y < s.height && x < s.width ? image * at.image + y * at.row + x * at.column : -1;
        if (++column < columns) continue;
        column = 0;
        if (++row < rows) continue;
        row = 0;
        ++image;
    }
}

// n elements `step` apart, the other lanes 0.
template <typename A, typename T>
FASTDARTS_INLINE Vec<A> gather_some(const T* from, std::int64_t step, int n) {
    alignas(kVectorBytes) T some[kLanes<A>] = {};
    for (int i = 0; i < n; ++i) some[i] = from[i * step];
    return load<A>(some);
}

template <typename A, typename T>
FASTDARTS_INLINE void scatter_some(T* to, std::int64_t step, Vec<A> v, int n) {
    alignas(kVectorBytes) T some[kLanes<A>];
    store<A>(some, v);
    for (int i = 0; i < n; ++i) to[i * step] = some[i];
}

template <typename A>
FASTDARTS_INLINE int lanes_left(std::int64_t columns) {
    return static_cast<int>(preprocess::smaller(kLanes<A>, columns));
}

// to[lane] += v[lane].
template <typename A>
FASTDARTS_INLINE void add_as_double(double* to, Vec<A> v) {
    if constexpr (sizeof(A) == sizeof(double)) {
        store<double>(to, load<double>(to) + v);
    } else {
        typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
        Half half[2];
        std::memcpy(half, &v, sizeof v);
        for (int i = 0; i < 2; ++i, to += kLanes<double>)
            store<double>(to, load<double>(to) + __builtin_convertvector(half[i], Vec<double>));
    }
}

// relu(x) of a chunk's pixels as blocks [kPixels][kBlock]; zeros outside the map, beyond the last pixel of the last
// tile and beyond the last channel up to a multiple of kLanesMost.
template <typename A, typename T>
static inline void pack_pixels(const T* x, const std::int64_t* offsets, int count, std::int64_t channel_step,
                               std::int64_t channels, A* to) {
    constexpr int lanes = kLanes<A>;
    const int rows = static_cast<int>(preprocess::smaller(preprocess::round_up(count, kRowsOfOne), kPixels));
    for (std::int64_t block = 0; block < channels; block += kBlock, to += kPixels * kBlock) {
        const std::int64_t here = preprocess::smaller(kBlock, channels - block);
        const std::int64_t padded = preprocess::round_up(here, preprocess::kLanesMost);
        for (int p = 0; p < rows; ++p) {
            A* row = to + p * kBlock;
            if (p >= count || offsets[p] < 0) {
                for (std::int64_t c = 0; c < padded; c += lanes) store<A>(row + c, Vec<A>{});
                continue;
            }
            const T* from = x + offsets[p] + block * channel_step;
            std::int64_t c = 0;
            if (channel_step == 1)
                for (; c + lanes <= here; c += lanes) store<A>(row + c, relu<A>(load<A>(from + c)));
            for (; c < padded; c += lanes) {
                const int n = lanes_left<A>(here - c);
                const Vec<A> some = n <= 0              ? Vec<A>{}
                                    : channel_step == 1 ? load_some<A>(from + c, n)
                                                        : gather_some<A>(from + c * channel_step, channel_step, n);
                store<A>(row + c, relu<A>(some));
            }
        }
    }
}

// relu(x) of a chunk's pixels, which lie one after the other in every channel, as planes [channels][kPixels].
template <typename A, typename T>
static inline void pack_planes(const T* x, int count, std::int64_t channel_step, std::int64_t channels, A* to) {
    constexpr int lanes = kLanes<A>;
    for (std::int64_t c = 0; c < channels; ++c, x += channel_step, to += kPixels) {
        int p = 0;
        for (; p + lanes <= count; p += lanes) store<A>(to + p, relu<A>(load<A>(x + p)));
        if (p < count) store<A>(to + p, relu<A>(load_some<A>(x + p, count - p)));
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
