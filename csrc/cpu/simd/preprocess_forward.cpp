// Forward: y = W relu(x) and the moments of y, in one pass over the pixels.
//
// A task is a range of chunks; it writes its own pixels of y and its own moments. The moments are taken from the tile
// in registers, rounded as it is stored, around a shift (the mean of the task's first tile), so that a mean of ten
// thousand standard deviations costs no digit of the variance; a tile's sums are added up in double.

#include "preprocess_tile.h"

#include <omp.h>

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

using namespace preprocess;

template <typename T>
FASTDARTS_INLINE Vec<Arithmetic<T>> rounded(Vec<Arithmetic<T>> v) {
    if constexpr (sizeof(T) == sizeof(Arithmetic<T>)) {
        return v;
    } else {
        T stored[kLanes<Arithmetic<T>>];
        store<Arithmetic<T>>(stored, v);
        return load<Arithmetic<T>>(stored);
    }
}

// One task's moments of the columns of a tile; shift is null where none are asked.
template <typename A>
struct Moments {
    A* shift;
    double *sums, *squares;
};

template <typename A, int R, int V>
FASTDARTS_INLINE void add_moments(const Vec<A> (&tile)[R][V], int rows, Moments<A> to, bool first) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        A* shift = to.shift + v * kLanes<A>;
        if (first) {
            Vec<A> mean = {};
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r) {
                if (r >= rows) break;
                mean += tile[r][v];
            }
            mean *= 1 / static_cast<A>(rows);
            // Infinity is no shift: the mean of what it is in is infinite, as torch has it, not NaN.
            store<A>(shift, mean - mean == Vec<A>{} ? mean : Vec<A>{});
        }
        const Vec<A> centre = load<A>(shift);
        Vec<A> sum = {}, square = {};
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r) {
            if (r >= rows) break;
            const Vec<A> d = tile[r][v] - centre;
            sum += d;
            square += d * d;
        }
        add_as_double<A>(to.sums + v * kLanes<A>, sum);
        add_as_double<A>(to.squares + v * kLanes<A>, square);
    }
}

// Stores the first `columns` columns of a tile's first `rows` rows, `step` elements apart, and adds up their moments.
template <typename T, int R, int V>
FASTDARTS_INLINE void finish_tile(Vec<Arithmetic<T>> (&tile)[R][V], int rows, T* y, std::int64_t step,
                                  std::int64_t columns, Moments<Arithmetic<T>> moments, bool first) {
    using A = Arithmetic<T>;
    constexpr int lanes = kLanes<A>;
    const bool whole = columns >= V * lanes;
    const int last = static_cast<int>(columns) - (V - 1) * lanes;
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
        if (r >= rows) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            tile[r][v] = rounded<T>(tile[r][v]);
            if (v < V - 1 || whole)
                store<A>(y + r * step + v * lanes, tile[r][v]);
            else
                store_some<A>(y + r * step + v * lanes, tile[r][v], last);
        }
    }
    if (moments.shift == nullptr) return;
    if (rows == R)
        add_moments<A>(tile, R, moments, first);
    else
        add_moments<A>(tile, rows, moments, first);
}

template <bool PLANES, typename T, int R, int V>
void forward_columns(const Arithmetic<T>* packed, int count, const Arithmetic<T>* panel, std::int64_t inputs,
                            T* y, std::int64_t step, std::int64_t columns, Moments<Arithmetic<T>> moments, bool first) {
    using A = Arithmetic<T>;
    for (int row = 0; row < count; row += R) {
        Vec<A> tile[R][V];
        multiply_pixels<PLANES, A>(packed, row, panel, inputs, tile);
        finish_tile<T>(tile, static_cast<int>(smaller(R, count - row)), y + row * step, step, columns, moments,
                       first && row == 0);
    }
}

template <bool PLANES, typename T>
void forward_chunk(const PreprocessForward<T>& p, const ForwardScratch<Arithmetic<T>>& scratch,
                          std::int64_t pixel, int count, Arithmetic<T>* packed, Moments<Arithmetic<T>> moments,
                          bool first) {
    using A = Arithmetic<T>;
    const PreprocessShape& s = p.shape;
    const std::int64_t outputs = s.outputs[0] + s.outputs[1];
    for (int half = 0; half < 2; ++half) {
        if (s.outputs[half] == 0) continue;
        std::int64_t offsets[kPixels];
        pixel_offsets(s, p.x_strides, half, pixel, PLANES ? 1 : count, offsets);
        if constexpr (PLANES)
            pack_planes<A>(p.x + offsets[0], count, p.x_strides.channel, s.inputs, packed);
        else
            pack_pixels<A>(p.x, offsets, count, p.x_strides.channel, s.inputs, packed);
        T* y = p.y + pixel * outputs + half * s.outputs[0];
        const std::int64_t base = half * round_up(s.outputs[0], kLanesMost);
        for (std::int64_t c = 0; c < s.outputs[half];) {
            const A* panel = scratch.panels[half] + c * s.inputs;
            const std::int64_t left = s.outputs[half] - c, at = base + c;
            const std::int64_t vectors = panel_vectors<A>(s.outputs[half], c);
            Moments<A> here{};
            if (moments.shift) here = {moments.shift + at, moments.sums + at, moments.squares + at};
            if (vectors == 2)
                forward_columns<PLANES, T, kRowsOfTwo, 2>(packed, count, panel, s.inputs, y + c, outputs, left, here,
                                                          first);
            else
                forward_columns<PLANES, T, kRowsOfOne, 1>(packed, count, panel, s.inputs, y + c, outputs, left, here,
                                                          first);
            c += vectors * kLanes<A>;
        }
    }
}

// The moments of all tasks as one mean and one biased variance, in the order of the tasks: Chan's rule for many parts.
template <typename T>
void finish_moments(const PreprocessForward<T>& p, const ForwardScratch<Arithmetic<T>>& scratch, const Chunks& chunks) {
    const std::int64_t tasks = scratch.tasks;
    const auto count = [&](std::int64_t t) {
        return static_cast<double>(chunks.begin((t + 1) * chunks.count / tasks) -
                                   chunks.begin(t * chunks.count / tasks));
    };
    for (std::int64_t c = 0; c < p.shape.outputs[0] + p.shape.outputs[1]; ++c) {
        const bool second = c >= p.shape.outputs[0];
        std::int64_t at = second ? round_up(p.shape.outputs[0], kLanesMost) + c - p.shape.outputs[0] : c;
        double total = 0, spread = 0;
        for (std::int64_t t = 0; t < tasks; ++t)
            total += count(t) * scratch.shift[t * scratch.wide + at] + scratch.sums[t * scratch.wide + at];
        const double mean = total / static_cast<double>(chunks.pixels);
        for (std::int64_t t = 0; t < tasks; ++t, at += scratch.wide) {
            const double off = scratch.sums[at] / count(t), apart = scratch.shift[at] + off - mean;
            const double within = scratch.squares[at] - scratch.sums[at] * off;
            spread += (within < 0 ? 0 : within) + count(t) * apart * apart;
        }
        p.mean[c] = mean;
        p.var[c] = spread / static_cast<double>(chunks.pixels);
    }
}

template <typename T>
void forward_task(const PreprocessForward<T>& p, const ForwardScratch<Arithmetic<T>>& scratch, const Chunks& chunks,
                  std::int64_t t) {
    using A = Arithmetic<T>;
    Moments<A> moments{};
    if (p.mean != nullptr) {
        moments = {scratch.shift + t * scratch.wide, scratch.sums + t * scratch.wide,
                   scratch.squares + t * scratch.wide};
        for (std::int64_t c = 0; c < scratch.wide; ++c) moments.sums[c] = moments.squares[c] = 0;
    }
    A* packed = scratch.packed + omp_get_thread_num() * scratch.packed_size;
    const std::int64_t begin = t * chunks.count / scratch.tasks, end = (t + 1) * chunks.count / scratch.tasks;
    for (std::int64_t i = begin; i < end; ++i) {
        if (chunks.per_image)
            forward_chunk<true>(p, scratch, chunks.begin(i), chunks.size(i), packed, moments, i == begin);
        else
            forward_chunk<false>(p, scratch, chunks.begin(i), chunks.size(i), packed, moments, i == begin);
    }
}

}  // namespace

template <typename T>
void preprocess_forward(const PreprocessForward<T>& p) {
    using A = Arithmetic<T>;
    const PreprocessShape& s = p.shape;
    const ForwardScratch<A> scratch(s, p.scratch);
    for (int half = 0; half < 2; ++half)
        pack_panels<A>(p.weights[half], 1, s.inputs, s.inputs, s.outputs[half], scratch.panels[half]);
    const Chunks chunks(s, is_planes(s, p.x_strides));
    const bool parallel =
        s.threads > 1 && chunks.pixels * s.inputs * (s.outputs[0] + s.outputs[1]) >= kParallelProducts;
#pragma omp parallel for schedule(dynamic) num_threads(s.threads) if (parallel)
    for (std::int64_t t = 0; t < scratch.tasks; ++t) forward_task<T>(p, scratch, chunks, t);
    if (p.mean != nullptr) finish_moments<T>(p, scratch, chunks);
}

template void preprocess_forward(const PreprocessForward<float>& p);
template void preprocess_forward(const PreprocessForward<bfloat16>& p);
template void preprocess_forward(const PreprocessForward<double>& p);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
