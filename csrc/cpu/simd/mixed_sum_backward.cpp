// From the gradient of a node to those of its sources, through skips, pools and the bypass; added in place.
//
// A band of output rows owns the input rows that begin in it, and gathers: windows that reach into the band from
// outside are computed again, so that nothing is written twice and bands can run at the same time. The first maximum
// is found as in mixed_sum_pool.h, rows first: `column` says which of three neighbours is the largest of its row,
// `line` which of three rows is the largest.
#include "mixed_sum_pool.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// Largest of three neighbours and which one it is (0, 1 or 2), over `count` elements.
template <bool kLeft, bool kRight, typename A>
FASTDARTS_INLINE void find_across(const A* centre, int64_t count, int64_t mixed, A* largest, A* column) {
    for (int64_t i = 0; i < count; i += kLanes<A>) {
        Vec<A> v = load<A>(centre + i), at = broadcast(A(1));
        if constexpr (kLeft) {
            const Vec<A> middle = v;
            v = load<A>(centre + i - mixed);
            at = Vec<A>{};
            find_larger<A>(v, at, middle, 1);
        }
        if constexpr (kRight) find_larger<A>(v, at, load<A>(centre + i + mixed), 2);
        store<A>(largest + i, v);
        store<A>(column + i, at);
    }
}

template <typename A>
static void find_row(const A* x, int64_t width, int64_t stride, int64_t mixed, A* largest, A* column) {
    const int64_t columns = divide_up(width, stride);
    if (width == 1) return find_across<false, false>(x, mixed, mixed, largest, column);
    find_across<false, true>(x, mixed, mixed, largest, column);
    const int64_t full = (width - 2) / stride + 1;
    const auto find = [&](int64_t o, int64_t count) {
        find_across<true, true>(x + o * stride * mixed, count, mixed, largest + o * mixed, column + o * mixed);
    };
    if (stride == 1)
        find(1, (full - 1) * mixed);
    else
        for (int64_t o = 1; o < full; ++o) find(o, mixed);
    if (full < columns)
        find_across<true, false>(x + full * stride * mixed, mixed, mixed, largest + full * mixed,
                                 column + full * mixed);
}

template <typename T>
struct Backward {
    using A = Arithmetic<T>;
    const MixedBackward& p;
    const Tiling<A> tiling;
    A *alpha, *beta, *gamma, *shift;  // [edges, 3, period]
    double* constant;
    bool* valued;  // [edges, 3]: whether a gradient depends on the value, which may be infinite where beta is 0

    struct Buffers {
        PoolRows<A> rows;
        A *g, *into, *spread;
        A *column[3];              // of the last three input rows
        A *max_g[3], *line[3];     // of the last three output rows: gradient of the maximum, and where that lies
        A *avg_g[3];               // gradient of the average, shared out
        A *plain[3];               // the node's own gradient
        Buffers(Arena& arena, const MixedSize& size, const Tiling<A>& tiling) : rows(arena, size, tiling) {
            arena.give(tiling.row, g, into, spread);
            for (int i = 0; i < 3; ++i)
                arena.give(tiling.row, column[i], max_g[i], line[i], avg_g[i], plain[i]);
        }
    };

    Backward(const MixedBackward& params, Arena& arena) : p(params), tiling(params.size) {
        arena.give(p.size.edges * 3 * tiling.period, alpha, beta, gamma, shift);
        constant = arena.take<double>(tiling.mixed);
        valued = arena.take<bool>(p.size.edges * 3);
    }

    void prepare() {
        const int64_t mixed = tiling.mixed, period = tiling.period;
        for (int64_t i = 0; i < 3 * p.size.edges; ++i) {
            const MixedEdge& edge = p.edges[i / 3];
            const bool pool[] = {false, edge.max_pool, edge.avg_pool};
            const double* mean = p.pool_mean && pool[i % 3] ? p.pool_mean + (i / 3 * 2 + i % 3 - 1) * mixed : nullptr;
            repeat(mean, mixed, period, shift + i * period);
            valued[i] = false;
            for (int64_t c = 0; c < mixed; ++c) valued[i] |= p.beta[i * mixed + c] != 0;
            // What rounding the mean to A leaves behind goes into the constant.
            for (int64_t c = 0; c < mixed; ++c)
                constant[c] = p.gamma[i * mixed + c] +
                              (mean && valued[i] ? p.beta[i * mixed + c] * (shift[i * period + c] - mean[c]) : 0);
            repeat(p.alpha + i * mixed, mixed, period, alpha + i * period);
            repeat(p.beta + i * mixed, mixed, period, beta + i * period);
            repeat(constant, mixed, period, gamma + i * period);
        }
    }

    // The gradient of candidate `which` (of all edges), alpha g + beta (v - shift) + gamma, at a phase of the period.
    inline __attribute__((always_inline)) Vec<A> gradient(int64_t which, int64_t phase, Vec<A> g, Vec<A> v) const {
        const int64_t at = which * tiling.period + phase;
        Vec<A> sum = load<A>(gamma + at);
        if (valued[which]) sum += load<A>(beta + at) * (v - load<A>(shift + at));
        return sum + load<A>(alpha + at) * g;
    }

    // Output row o: the gradients of its pools, beside the line of each maximum.
    void output_row(const Source<T>& source, int64_t e, int64_t image, int64_t o, Buffers& b) const {
        const int64_t ring = o % 3;
        const T* g = static_cast<const T*>(p.g) + (image * tiling.height + o) * tiling.width * p.g_pixel;
        gather<A>(g, p.g_pixel, tiling.width, tiling.mixed, b.plain[ring]);
        if (p.edges[e].max_pool) largest_row(source, e, o, b);
        if (p.edges[e].avg_pool) {
            average_down(source, o, b.rows, tiling.row, b.avg_g[ring]);
            const A* share = b.rows.share[source.rows_inside(o) - 1];
            each_phase([&](int64_t i, int64_t phase) __attribute__((always_inline)) {
                const Vec<A> v = load<A>(b.avg_g[ring] + i), own = load<A>(b.plain[ring] + i);
                store<A>(b.avg_g[ring] + i, gradient(3 * e + 2, phase, own, v) * load<A>(share + i));
            });
        }
    }

    // Without a row above, the middle one stands in for it and wins.
    void largest_row(const Source<T>& source, int64_t e, int64_t o, Buffers& b) const {
        const int64_t middle = o * source.stride, ring = o % 3;
        const bool above = middle > 0, below = middle + 1 < source.height;
        const A* here = b.rows.largest[middle % 3];
        const A* up = above ? b.rows.largest[(middle - 1) % 3] : here;
        const A* down = below ? b.rows.largest[(middle + 1) % 3] : b.rows.lowest;
        each_phase([&](int64_t i, int64_t phase) __attribute__((always_inline)) {
            Vec<A> v = load<A>(up + i), at = broadcast(A(above ? 0 : 1));
            find_larger<A>(v, at, load<A>(here + i), 1);
            find_larger<A>(v, at, load<A>(down + i), 2);
            store<A>(b.line[ring] + i, at);
            store<A>(b.max_g[ring] + i, gradient(3 * e + 1, phase, load<A>(b.plain[ring] + i), v));
        });
    }

    // body(element, its phase) for the vectors of a row.
    template <typename Body>
    inline __attribute__((always_inline)) void each_phase(Body body) const {
        for (int64_t start = 0; start < tiling.row; start += tiling.period)
            for (int64_t phase = 0; phase < smaller(tiling.period, tiling.row - start); phase += kLanes<A>)
                body(start + phase, phase);
    }

    // The gradients of the largest and of the sum of each three neighbours in input row i (b.into, b.spread), from the
    // output rows whose windows hold that row.
    void collect_down(const Source<T>& source, const MixedEdge& edge, int64_t i, Buffers& b) const {
        const int64_t first = divide_up(greater(0, i - 1), source.stride);
        const int64_t last = smaller(tiling.height - 1, (i + 1) / source.stride);
        const A *lines[3], *largest[3], *averages[3];
        Vec<A> places[3];
        for (int64_t k = 0; k < 3; ++k) {
            const int64_t o = first + k;
            const bool there = o <= last;
            lines[k] = there ? b.line[o % 3] : b.rows.zeros;
            largest[k] = there ? b.max_g[o % 3] : b.rows.zeros;
            averages[k] = there ? b.avg_g[o % 3] : b.rows.zeros;
            places[k] = broadcast(static_cast<A>(i - o * source.stride + 1));
        }
        const auto mine = [&](int64_t k, int64_t at) __attribute__((always_inline)) {
            return choose<A>(load<A>(lines[k] + at) == places[k], load<A>(largest[k] + at), Vec<A>{});
        };
        if (edge.max_pool)
            for (int64_t at = 0; at < tiling.row; at += kLanes<A>)
                store<A>(b.into + at, mine(0, at) + mine(1, at) + mine(2, at));
        if (edge.avg_pool)
            for (int64_t at = 0; at < tiling.row; at += kLanes<A>)
                store<A>(b.spread + at,
                         load<A>(averages[0] + at) + load<A>(averages[1] + at) + load<A>(averages[2] + at));
    }

    // out = what output columns give to input columns, over `count` elements of either. Bits of kPlaces: 1 the column
    // before `from`, in whose windows they are the last; 2 that at `from`, the middle; 4 the one behind, the first;
    // 8 that at `from`, the first.
    template <int kPlaces, bool kMax, bool kAvg>
    void collect_across(const Buffers& b, const A* column, int64_t from, int64_t count, A* out) const {
        const int64_t mixed = tiling.mixed;
        for (int64_t k = 0; k < count; k += kLanes<A>) {
            Vec<A> sum{};
            const auto give = [&](int64_t at, A place) __attribute__((always_inline)) {
                if constexpr (kMax)
                    sum += choose<A>(load<A>(column + at + k) == broadcast(place), load<A>(b.into + at + k), Vec<A>{});
                if constexpr (kAvg) sum += load<A>(b.spread + at + k);
            };
            if constexpr (kPlaces & 1) give(from - mixed, 2);
            if constexpr (kPlaces & 2) give(from, 1);
            if constexpr (kPlaces & 4) give(from + mixed, 0);
            if constexpr (kPlaces & 8) give(from, 0);
            store<A>(out + k, sum);
        }
    }

    // Input row i of the gradient, in b.rows.x, whose vectors are written from the left to the right.
    template <bool kMax, bool kAvg>
    void collect_row(const Source<T>& source, const Buffers& b, const A* column) const {
        const int64_t mixed = tiling.mixed, width = source.width, columns = tiling.width;
        A* out = b.rows.x;
        if (source.stride == 1) {
            if (width == 1) return collect_across<2, kMax, kAvg>(b, column, 0, mixed, out);
            collect_across<6, kMax, kAvg>(b, column, 0, mixed, out);
            collect_across<7, kMax, kAvg>(b, column, mixed, (width - 2) * mixed, out + mixed);
            return collect_across<3, kMax, kAvg>(b, column, (width - 1) * mixed, mixed, out + (width - 1) * mixed);
        }
        for (int64_t j = 0; j < width; ++j) {
            // Even columns are the middle of one window, odd ones the last of one and the first of the next.
            const int64_t o = j % 2 == 0 ? j / 2 : j / 2 + 1;
            if (j % 2 == 0)
                collect_across<2, kMax, kAvg>(b, column, o * mixed, mixed, out + j * mixed);
            else if (o < columns)
                collect_across<9, kMax, kAvg>(b, column, o * mixed, mixed, out + j * mixed);
            else
                collect_across<1, kMax, kAvg>(b, column, o * mixed, mixed, out + j * mixed);
        }
    }

    // Input row i, complete: added to the source's gradient.
    void input_row(const Source<T>& source, int64_t e, int64_t image, int64_t i, Buffers& b) const {
        const MixedEdge& edge = p.edges[e];
        collect_down(source, edge, i, b);
        const A* column = b.column[i % 3];
        if (edge.max_pool && edge.avg_pool)
            collect_row<true, true>(source, b, column);
        else if (edge.max_pool)
            collect_row<true, false>(source, b, column);
        else
            collect_row<false, true>(source, b, column);
        if (edge.skip) add_scaled(e, b.plain[i % 3], b.rows.x);
        T* out = static_cast<T*>(edge.gradient) + (image * source.height + i) * source.width * edge.gradient_pixel;
        scatter_add<A>(b.rows.x, source.width, tiling.mixed, out, edge.gradient_pixel);
    }

    // out += alpha g over a row, for a skip.
    void add_scaled(int64_t e, const A* g, A* out) const {
        const Term<A, A> term{g, alpha + 3 * e * tiling.period, shift + 3 * e * tiling.period};
        add_terms<1>(out, &term, tiling.row, tiling.period);
    }

    void add_free(const Tile& tile, int64_t e, Buffers& b) const {
        const MixedEdge& edge = p.edges[e];
        const Source<T> source(edge);
        if (edge.avg_pool) b.rows.share_out(source, tiling);
        const int64_t first = tile.first * source.stride, last = smaller(source.height, tile.last * source.stride);
        const int64_t from = divide_up(greater(0, first - 1), source.stride);
        const int64_t to = smaller(tiling.height - 1, last / source.stride);
        int64_t next = greater(0, from * source.stride - 1), done = first;
        for (int64_t o = from; o <= to; ++o) {
            for (const int64_t end = smaller(source.height, o * source.stride + 2); next < end; ++next) {
                const A* x = source.flat(source.row(tile.image, next), source.width, tiling.mixed, b.rows.x);
                if (edge.max_pool)
                    find_row<A>(x, source.width, source.stride, tiling.mixed, b.rows.largest[next % 3],
                                b.column[next % 3]);
                if (edge.avg_pool)
                    pool_across<A>(x, source.width, source.stride, tiling.mixed, static_cast<A*>(nullptr),
                                   b.rows.sum[next % 3]);
            }
            output_row(source, e, tile.image, o, b);
            // Input row i needs output rows up to (i + 1) / stride; what is left after the last one follows there.
            for (; done < last && ((done + 1) / source.stride <= o || o == to); ++done)
                input_row(source, e, tile.image, done, b);
        }
    }

    void add_skip(const Tile& tile, int64_t e, Buffers& b) const {
        for (int64_t o = tile.first; o < tile.last; ++o) {
            const int64_t pixel = (tile.image * tiling.height + o) * tiling.width;
            gather<A>(static_cast<const T*>(p.g) + pixel * p.g_pixel, p.g_pixel, tiling.width, tiling.mixed, b.g);
            for (int64_t i = 0; i < tiling.row; i += kLanes<A>) store<A>(b.rows.x + i, Vec<A>{});
            add_scaled(e, b.g, b.rows.x);
            T* out = static_cast<T*>(p.edges[e].gradient) + pixel * p.edges[e].gradient_pixel;
            scatter_add<A>(b.rows.x, tiling.width, tiling.mixed, out, p.edges[e].gradient_pixel);
        }
    }

    void add_bypass(const Tile& tile, int64_t e) const {
        const MixedEdge& edge = p.edges[e];
        const Source<T> source(edge);
        const Vec<A> weight = broadcast(p.bypass ? static_cast<A>(p.bypass[e]) : A(1));
        const T* g = static_cast<const T*>(p.g) + tile.pixel * p.g_pixel + tiling.mixed;
        each_bypass(source, tile, tiling.width, [&](int64_t pixel, int64_t from, bool right, bool down) {
            const T* x = source.x + from * source.pixel + tiling.mixed;
            T* out = static_cast<T*>(edge.gradient) + from * edge.gradient_pixel + tiling.mixed;
            const auto add = [&](int64_t i, int n) __attribute__((always_inline)) {
                const Vec<A> mine = weight * load_part<A>(g + pixel * p.g_pixel + i, n);
                if (!right && !down)
                    store_part<A>(out + i, load_part<A>(out + i, n) + mine, n);
                else
                    give_largest(source, edge.gradient_pixel, x + i, out + i, mine, right, down, n);
            };
            FASTDARTS_VECTORS(tiling.rest, add)
        });
    }

    // The gradient of a maximum over up to 2x2 pixels to the first of the largest.
    FASTDARTS_INLINE void give_largest(const Source<T>& source, int64_t out_pixel, const T* x, T* out, Vec<A> mine,
                                       bool right, bool down, int n) {
        Vec<A> v = load_part<A>(x, n), at{};
        const int64_t below = source.width;
        if (right) find_larger<A>(v, at, load_part<A>(x + source.pixel, n), 1);
        if (down) find_larger<A>(v, at, load_part<A>(x + below * source.pixel, n), 2);
        if (down && right) find_larger<A>(v, at, load_part<A>(x + (below + 1) * source.pixel, n), 3);
        const auto give = [&](int64_t offset, A place) __attribute__((always_inline)) {
            T* here = out + offset * out_pixel;
            const Vec<A> part = choose<A>(at == broadcast(place), mine, Vec<A>{});
            store_part<A>(here, load_part<A>(here, n) + part, n);
        };
        give(0, 0);
        if (right) give(1, 1);
        if (down) give(below, 2);
        if (down && right) give(below + 1, 3);
    }

    void run(int64_t number, Buffers& b) const {
        const Tile tile = tiling.at(number);
        for (int64_t e = 0; e < p.size.edges; ++e) {
            if (p.edges[e].max_pool || p.edges[e].avg_pool)
                add_free(tile, e, b);
            else if (p.edges[e].skip)
                add_skip(tile, e, b);
            if (p.size.partial > 1) add_bypass(tile, e);
        }
    }
};

}  // namespace

template <typename T>
int64_t mixed_sum_backward(const MixedBackward& p) {
    using A = Arithmetic<T>;
    Arena shared = arena(p.scratch);
    Backward<T> backward(p, shared);
    const Tiling<A>& tiling = backward.tiling;
    Arena sized{0};
    typename Backward<T>::Buffers counted(sized, p.size, tiling);
    if (p.scratch) {
        backward.prepare();
        const std::uintptr_t own = shared.base + static_cast<std::uintptr_t>(shared.used);
#pragma omp parallel num_threads(p.size.threads)
        {
            Arena mine{own + static_cast<std::uintptr_t>(thread_number() * sized.used)};
            typename Backward<T>::Buffers buffers(mine, p.size, tiling);
            buffers.rows.start(tiling.row);
#pragma omp for schedule(dynamic)
            for (int64_t slot = 0; slot < tiling.slots; ++slot)
                for (int64_t number = slot * tiling.tiles / tiling.slots;
                     number < (slot + 1) * tiling.tiles / tiling.slots; ++number)
                    backward.run(number, buffers);
        }
    }
    return kWidest + shared.used + p.size.threads * sized.used;
}

template int64_t mixed_sum_backward<float>(const MixedBackward&);
template int64_t mixed_sum_backward<bfloat16>(const MixedBackward&);
template int64_t mixed_sum_backward<double>(const MixedBackward&);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
