// The forward pass: a task is one source and one group of images. csrc/cpu/stencil.h tells the story.

#include "stencil_plan.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// Where everything lies in scratch.
template <typename A>
struct ForwardPlan {
    Lanes lanes;
    std::int64_t groups, chunk, taps_size, matrix_size, tile_size, moments_size;
    A *taps, *matrices;    // [convs] each
    double* moments;       // [convs][groups][2][lanes.width]: means, sums of squares about them
    A *tile, *z, *y, *coefficients;  // [threads] each
    std::int64_t bytes;

    ForwardPlan(const Stencil& p, void* scratch) {
        lanes = lanes_of<A>(p.channels);
        const Extents most = Extents::of<A>(p, lanes);
        groups = ceil_div(p.count, lanes.images);
        chunk = most.chunk;
        taps_size = lanes.width * most.taps;
        matrix_size = lanes.channels * lanes.width;
        tile_size = most.tile;
        moments_size = 2 * lanes.width;
        Arena arena{static_cast<char*>(scratch)};
        taps = arena.take<A>(p.conv_count * taps_size);
        matrices = arena.take<A>(p.conv_count * matrix_size);
        moments = arena.take<double>(p.conv_count * groups * moments_size);
        tile = arena.take<A>(p.threads * tile_size);
        z = arena.take<A>(p.threads * chunk * lanes.width);
        y = arena.take<A>(p.threads * chunk * lanes.width);
        coefficients = arena.take<A>(p.threads * 3 * lanes.width);
        bytes = arena.used;
    }
};

// Chan's rule: (n, mean, m2) with (m, other, other2) added. The mean is formed from the sums, so that an infinite one
// stays what it is in a plain mean.
FASTDARTS_INLINE void merge(double n, double* mean, double* m2, double m, double other, double other2) {
    const double delta = other - *mean;
    *m2 = n > 0 ? *m2 + other2 + delta * delta * (n * m / (n + m)) : other2;
    *mean = n > 0 ? (n * *mean + m * other) / (n + m) : other;
}

// Adds `count` vectors, `step` elements apart, to the moments of `seen` values in each lane.
template <typename A>
void add_moments(const A* y, std::int64_t step, std::int64_t count, std::int64_t seen, double* mean, double* m2) {
    // About their own mean, nearly: about one of them, an outlier would cost digits. The values are in the L1 cache.
    Vec<A> near[4] = {};
    std::int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) near[k] += load<A>(y + (j + k) * step);
    }
    for (; j < count; ++j) near[0] += load<A>(y + j * step);
    const Vec<A> middle = ((near[0] + near[1]) + (near[2] + near[3])) / static_cast<A>(count);
    const Vec<A> shift = middle - middle == Vec<A>{} ? middle : Vec<A>{};  // finite
    Vec<A> sum = {}, squares[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        Vec<A> d[4];
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) d[k] = load<A>(y + (i + k) * step) - shift;
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) squares[k] += d[k] * d[k];
        sum += (d[0] + d[1]) + (d[2] + d[3]);
    }
    for (; i < count; ++i) {
        const Vec<A> d = load<A>(y + i * step) - shift;
        sum += d;
        squares[0] += d * d;
    }
    A shifts[kLanes<A>], sums[kLanes<A>], totals[kLanes<A>];
    store<A>(shifts, shift);
    store<A>(sums, sum);
    store<A>(totals, (squares[0] + squares[1]) + (squares[2] + squares[3]));
    const double n = static_cast<double>(count), before = static_cast<double>(seen);
    for (int k = 0; k < kLanes<A>; ++k) {
        const double s = static_cast<double>(sums[k]), q = static_cast<double>(totals[k]) - s * s / n;
        merge(before, mean + k, m2 + k, n, static_cast<double>(shifts[k]) + s / n, q < 0 ? 0 : q);
    }
}

template <typename T, typename A = Arithmetic<T>>
void forward_conv(const Stencil& p, const ForwardPlan<A>& plan, std::int64_t i, std::int64_t group,
                  const Tile<A>& tile, const Chunk<A>& z, const Chunk<A>& y) {
    const Lanes& lanes = plan.lanes;
    const StencilConv& conv = p.convs[i];
    const Extent e(p, conv, lanes);
    const auto out = pixels_of(static_cast<T*>(conv.y), conv.y_pixel, e.height * e.width, group, lanes, p.count);
    double* mean = plan.moments + (i * plan.groups + group) * plan.moments_size;
    for (std::int64_t row = 0; row < e.height; row += e.rows) {
        const std::int64_t rows = smaller(e.rows, e.height - row), begin = row * e.width, count = rows * e.width;
        depthwise_rows(tile, conv, plan.taps + i * plan.taps_size, lanes, row, rows, e.width, z);
        Rows<A> values = Rows<A>::of(y);
        bool copied = true;
        if constexpr (std::is_same_v<T, A>) {
            // Where the maps are whole vectors, they are written as they are computed: the stores wait for memory
            // while the next pixels are being multiplied.
            copied = lanes.images > 1 || lanes.channels < lanes.width || count % kPixels != 0;
            if (!copied) values = {out.first + begin * out.pixel, out.pixel, kLanes<A>};
        }
        pointwise(z, plan.matrices + i * plan.matrix_size, lanes, count, values);
        for (std::int64_t v = 0; v < lanes.blocks; ++v) {
            A* block = values.data + v * values.block;
            if constexpr (!std::is_same_v<T, A>) {
                for (std::int64_t k = 0; k < count * kLanes<A>; k += kLanes<A>)
                    store<A>(block + k, as_stored<T, A>(load<A>(block + k)));
            }
            if (copied) unpack(block, out, lanes, v, begin, count);
            double* of_block = mean + v * kLanes<A>;
            if (p.y_mean) add_moments(block, values.step, count, begin, of_block, of_block + lanes.width);
        }
    }
}

// One thread's part of scratch.
template <typename A>
struct ForwardDesk {
    Place<A> place;
    Chunk<A> z, y;
    A* coefficients;

    ForwardDesk(const ForwardPlan<A>& plan, int thread) {
        const std::int64_t width = plan.lanes.width, chunk = plan.chunk * width;
        place = {plan.tile + thread * plan.tile_size};
        z = {plan.z + thread * chunk, plan.chunk};
        y = {plan.y + thread * chunk, plan.chunk};
        coefficients = plan.coefficients + thread * 3 * width;
    }
};

template <typename T, typename A = Arithmetic<T>>
void forward_task(const Stencil& p, const ForwardPlan<A>& plan, std::int64_t s, std::int64_t group,
                  ForwardDesk<A>& desk) {
    const Lanes& lanes = plan.lanes;
    const StencilSource& source = p.sources[s];
    const std::int64_t area = source.height * source.width;
    const auto x = pixels_of(static_cast<const T*>(source.x), source.pixel, area, group, lanes, p.count);
    Normalise<A> normalise = {nullptr, nullptr, nullptr};
    if (p.mean) {
        const double *mean = p.mean + s * p.channels, *rstd = p.rstd + s * p.channels;
        normalise = Normalise<A>::spread(mean, rstd, lanes, x.images, desk.coefficients);
    }
    const Tile<A> tile = desk.place.tile(lanes.blocks, source.height, source.width, padding_of(p, s));
    load_tile(x, lanes, normalise, tile);
    for (std::int64_t i = 0; i < p.conv_count; ++i) {
        if (p.convs[i].source == s) forward_conv<T>(p, plan, i, group, tile, desk.z, desk.y);
    }
}

// The moments of one convolution from those of its groups.
template <typename A>
void combine_moments(const Stencil& p, const ForwardPlan<A>& plan, std::int64_t i) {
    const Lanes& lanes = plan.lanes;
    const Extent e(p, p.convs[i], lanes);
    const double area = static_cast<double>(e.height * e.width), all = static_cast<double>(p.count) * area;
    double *mean = p.y_mean + i * p.channels, *var = p.y_var + i * p.channels;
    for (std::int64_t image = 0; image < p.count; ++image) {
        const double* part = plan.moments + (i * plan.groups + image / lanes.images) * plan.moments_size +
                             image % lanes.images * lanes.stride;
        const double before = static_cast<double>(image) * area;
        for (std::int64_t c = 0; c < p.channels; ++c)
            merge(before, mean + c, var + c, area, part[c], part[lanes.width + c]);
    }
    for (std::int64_t c = 0; c < p.channels; ++c) var[c] /= all;
}

}  // namespace

template <typename T>
std::int64_t stencil_forward_scratch(const Stencil& p) {
    return ForwardPlan<Arithmetic<T>>(p, nullptr).bytes;
}

template <typename T>
void stencil_forward(const Stencil& p) {
    using A = Arithmetic<T>;
    const ForwardPlan<A> plan(p, p.scratch);
    [[maybe_unused]] const int threads = threads_for(p);
#pragma omp parallel num_threads(threads)
    {
        ForwardDesk<A> desk(plan, thread_number());
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            const StencilConv& conv = p.convs[i];
            const Parity taps = all_taps(conv);
            lay_taps(static_cast<const A*>(conv.depthwise), conv.kernel, taps, taps, plan.lanes,
                     plan.taps + i * plan.taps_size);
            lay_matrix(static_cast<const A*>(conv.pointwise), 1, p.channels, plan.lanes,
                       plan.matrices + i * plan.matrix_size);
        }
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t task = 0; task < p.source_count * plan.groups; ++task)
            forward_task<T>(p, plan, task / plan.groups, task % plan.groups, desk);
        if (p.y_mean) {
#pragma omp for schedule(static)
            for (std::int64_t i = 0; i < p.conv_count; ++i) combine_moments(p, plan, i);
        }
    }
}

template std::int64_t stencil_forward_scratch<float>(const Stencil& p);
template std::int64_t stencil_forward_scratch<bfloat16>(const Stencil& p);
template std::int64_t stencil_forward_scratch<double>(const Stencil& p);
template void stencil_forward<float>(const Stencil& p);
template void stencil_forward<bfloat16>(const Stencil& p);
template void stencil_forward<double>(const Stencil& p);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
