// Pools of a band of rows: 3x3 with a border of one (max, and average over the pixels inside), 2x2 for the bypass.
//
// Both 3x3 pools are separable. Rows first, columns second gives the first maximum in the order of torch, and the last
// NaN, since within a row and between rows a later value wins only if it is larger or not a number.
#pragma once

#include "mixed_sum_tile.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

template <typename A>
FASTDARTS_INLINE Vec<A> later_if_larger(Vec<A> first, Vec<A> later) {
    return choose<A>(later != later, later, choose<A>(later > first, later, first));
}

// The same, and with it `at`, the place of what is the largest.
template <typename A>
FASTDARTS_INLINE void find_larger(Vec<A>& largest, Vec<A>& at, Vec<A> later, A place) {
    const auto wins = (later > largest) | (later != later);
    largest = choose<A>(wins, later, largest);
    at = choose<A>(wins, broadcast(place), at);
}

template <typename A>
constexpr A kLowest = -static_cast<A>(__builtin_inf());

// A source's first channels and the window's geometry.
template <typename T>
struct Source {
    const T* x;
    int64_t height, width, pixel, stride;

    explicit Source(const MixedEdge& edge)
        : x(static_cast<const T*>(edge.source)),
          height(edge.height),
          width(edge.width),
          pixel(edge.pixel),
          stride(edge.stride) {}

    const T* row(int64_t image, int64_t i) const { return x + (image * height + i) * width * pixel; }
    // How many of the three rows (columns) around an output row (column) lie inside.
    int64_t rows_inside(int64_t o) const { return 3 - (o == 0) - (o * stride + 1 >= height); }
    int64_t columns_inside(int64_t o) const { return 3 - (o == 0) - (o * stride + 1 >= width); }

    // The channels of `pixels` pixels from `x` on as a flat buffer of A: where they lie, if that is one, else copied.
    // Without gaps, and with no vector that reaches past them, they can be read where they are.
    template <typename A>
    const A* flat(const T* from, int64_t pixels, int64_t channels, A* copy) const {
        if constexpr (sizeof(T) == sizeof(A))
            if (pixel == channels && channels % kLanes<A> == 0) return from;
        gather<A>(from, pixel, pixels, channels, copy);
        return copy;
    }
};

// One thread's rows. Those of the last three input rows lie in turn, row i at i % 3.
template <typename A>
struct PoolRows {
    A *x, *largest[3], *sum[3], *zeros, *lowest;
    A* share[3];  // 1 / the pixels inside, where one, two or three rows are
    int64_t share_width = 0, share_stride = 0;

    PoolRows(Arena& arena, const MixedSize& size, const Tiling<A>& tiling) {
        arena.give(size.source_width * tiling.mixed, x);
        arena.give(tiling.row, largest[0], largest[1], largest[2], sum[0], sum[1], sum[2], zeros, lowest);
        arena.give(tiling.row, share[0], share[1], share[2]);
    }

    void start(int64_t row) {
        for (int64_t i = 0; i < row; i += kLanes<A>) {
            store<A>(zeros + i, Vec<A>{});
            store<A>(lowest + i, broadcast(kLowest<A>));
        }
    }

    // The shares of a source, made when its geometry is not that of the one before.
    template <typename T>
    void share_out(const Source<T>& source, const Tiling<A>& tiling) {
        if (share_width == source.width && share_stride == source.stride) return;
        share_width = source.width;
        share_stride = source.stride;
        for (int64_t rows = 1; rows <= 3; ++rows)
            for (int64_t o = 0; o < tiling.width; ++o)
                for (int64_t c = 0; c < tiling.mixed; ++c)
                    share[rows - 1][o * tiling.mixed + c] = A(1) / static_cast<A>(rows * source.columns_inside(o));
    }
};

// count elements from `centre` on, with their neighbours a pixel to the left and right where those exist.
template <bool kLeft, bool kRight, bool kLargest, bool kSum, typename A>
FASTDARTS_INLINE void across(const A* centre, int64_t count, int64_t mixed, A* largest, A* sum) {
    for (int64_t i = 0; i < count; i += kLanes<A>) {
        const Vec<A> middle = load<A>(centre + i);
        Vec<A> most = middle, all = middle;
        if constexpr (kLeft) {
            const Vec<A> left = load<A>(centre + i - mixed);
            most = later_if_larger<A>(left, middle);
            all = left + middle;
        }
        if constexpr (kRight) {
            const Vec<A> right = load<A>(centre + i + mixed);
            most = later_if_larger<A>(most, right);
            all = all + right;
        }
        if constexpr (kLargest) store<A>(largest + i, most);
        if constexpr (kSum) store<A>(sum + i, all);
    }
}

template <bool kLeft, bool kRight, typename A>
FASTDARTS_INLINE void across(const A* centre, int64_t count, int64_t mixed, A* largest, A* sum) {
    if (largest && sum)
        across<kLeft, kRight, true, true>(centre, count, mixed, largest, sum);
    else if (largest)
        across<kLeft, kRight, true, false>(centre, count, mixed, largest, sum);
    else
        across<kLeft, kRight, false, true>(centre, count, mixed, largest, sum);
}

// Maxima and sums of three neighbours in a row of `width` pixels, at each output column. The pixels are done from the
// left to the right: what a vector writes past its end the next one overwrites.
template <typename A>
static void pool_across(const A* x, int64_t width, int64_t stride, int64_t mixed, A* largest, A* sum) {
    const int64_t columns = divide_up(width, stride);
    const auto at = [&](A* row, int64_t o) { return row ? row + o * mixed : nullptr; };
    if (width == 1) return across<false, false>(x, mixed, mixed, largest, sum);
    across<false, true>(x, mixed, mixed, largest, sum);
    const int64_t full = (width - 2) / stride + 1;  // columns 1 <= o < full have all three pixels
    if (stride == 1)
        across<true, true>(x + mixed, (full - 1) * mixed, mixed, at(largest, 1), at(sum, 1));
    else
        for (int64_t o = 1; o < full; ++o)
            across<true, true>(x + o * stride * mixed, mixed, mixed, at(largest, o), at(sum, o));
    if (full < columns)
        across<true, false>(x + full * stride * mixed, mixed, mixed, at(largest, full), at(sum, full));
}

// The averages of output row o.
template <typename A, typename T>
static void average_down(const Source<T>& source, int64_t o, const PoolRows<A>& rows, int64_t row, A* out) {
    const int64_t middle = o * source.stride;
    const A* above = middle > 0 ? rows.sum[(middle - 1) % 3] : rows.zeros;
    const A* here = rows.sum[middle % 3];
    const A* below = middle + 1 < source.height ? rows.sum[(middle + 1) % 3] : rows.zeros;
    const A* share = rows.share[source.rows_inside(o) - 1];
    for (int64_t i = 0; i < row; i += kLanes<A>)
        store<A>(out + i, (load<A>(above + i) + load<A>(here + i) + load<A>(below + i)) * load<A>(share + i));
}

template <typename A, typename T>
static void largest_down(const Source<T>& source, int64_t o, const PoolRows<A>& rows, int64_t row, A* out) {
    const int64_t middle = o * source.stride;
    const A* above = middle > 0 ? rows.largest[(middle - 1) % 3] : rows.lowest;
    const A* here = rows.largest[middle % 3];
    const A* below = middle + 1 < source.height ? rows.largest[(middle + 1) % 3] : rows.lowest;
    for (int64_t i = 0; i < row; i += kLanes<A>)
        store<A>(out + i,
                 later_if_larger<A>(later_if_larger<A>(load<A>(above + i), load<A>(here + i)), load<A>(below + i)));
}

// The pools of a tile's output rows into flat tiles; a null tile is not wanted.
template <typename A, typename T>
static void pool_tile(const Source<T>& source, const Tile& tile, const Tiling<A>& tiling, PoolRows<A>& rows,
                      A* largest, A* average) {
    if (!largest && !average) return;
    if (average) rows.share_out(source, tiling);
    int64_t next = greater(0, tile.first * source.stride - 1);  // the first input row not yet in turn
    for (int64_t o = tile.first; o < tile.last; ++o) {
        for (const int64_t end = smaller(source.height, o * source.stride + 2); next < end; ++next)
            pool_across<A>(source.flat(source.row(tile.image, next), source.width, tiling.mixed, rows.x), source.width,
                           source.stride, tiling.mixed, largest ? rows.largest[next % 3] : nullptr,
                           average ? rows.sum[next % 3] : nullptr);
        const int64_t start = (o - tile.first) * tiling.row;
        if (largest) largest_down(source, o, rows, tiling.row, largest + start);
        if (average) average_down(source, o, rows, tiling.row, average + start);
    }
}

// The channels that are not mixed, at one output pixel: as they are, or the largest of 2x2 pixels. `x` is the first of
// them, `right` and `down` whether there is a next pixel and a next row.
template <typename A, typename T>
FASTDARTS_INLINE Vec<A> bypass_value(const Source<T>& source, const T* x, bool right, bool down, int n) {
    Vec<A> v = load_part<A>(x, n);
    const int64_t pixel = source.pixel, row = source.width * source.pixel;
    if (right) v = later_if_larger<A>(v, load_part<A>(x + pixel, n));
    if (down) {
        v = later_if_larger<A>(v, load_part<A>(x + row, n));
        if (right) v = later_if_larger<A>(v, load_part<A>(x + row + pixel, n));
    }
    return v;
}

// body(output pixel of the tile, input pixel of the batch, right, down) for each pixel of a tile.
template <typename T, typename Body>
FASTDARTS_INLINE void each_bypass(const Source<T>& source, const Tile& tile, int64_t width, Body body) {
    int64_t pixel = 0;
    for (int64_t o = tile.first; o < tile.last; ++o) {
        const int64_t row = (tile.image * source.height + o * source.stride) * source.width;
        const bool pooled = source.stride == 2;
        const bool down = pooled && 2 * o + 1 < source.height;
        for (int64_t c = 0; c < width; ++c, ++pixel)
            body(pixel, row + c * source.stride, pooled && 2 * c + 1 < source.width, down);
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
