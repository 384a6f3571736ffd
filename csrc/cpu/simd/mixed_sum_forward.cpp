// A node from all candidates of all its incoming edges, in one pass over them, straight into the cell's output buffer.
#include "mixed_sum_pool.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

template <typename T>
struct Forward {
    using A = Arithmetic<T>;
    const MixedForward& p;
    const Tiling<A> tiling;
    A *scale, *shift, *bias, *free, *pool_shift;
    double* constant;

    // One thread's buffers.
    struct Buffers {
        PoolRows<A> rows;
        A *mixed, *rest, *x, *largest, *average, *wide;
        Buffers(Arena& arena, const MixedSize& size, const Tiling<A>& tiling) : rows(arena, size, tiling) {
            arena.give(tiling.tile, mixed, x, largest, average);
            rest = arena.take<A>(tiling.rest_tile);
            wide = arena.take<A>(tiling.width * size.channels);
        }
    };

    Forward(const MixedForward& params, Arena& arena) : p(params), tiling(params.size) {
        const int64_t period = tiling.period;
        scale = arena.take<A>(p.size.terms * period);
        shift = arena.take<A>(p.size.terms * period);
        bias = arena.take<A>(period);
        free = arena.take<A>(p.size.edges * 3 * period);
        pool_shift = arena.take<A>(p.size.edges * 3 * period);
        constant = arena.take<double>(tiling.mixed);
    }

    // Coefficients over a period. What rounding a mean to A leaves behind goes into the bias.
    void prepare() {
        const int64_t mixed = tiling.mixed, period = tiling.period;
        for (int64_t c = 0; c < mixed; ++c) constant[c] = p.bias[c];
        const auto one = [&](const double* factor, const double* mean, A* factors, A* shifts) {
            repeat(factor, mixed, period, factors);
            repeat(mean, mixed, period, shifts);
            for (int64_t c = 0; mean && c < mixed; ++c) constant[c] += factor[c] * (shifts[c] - mean[c]);
        };
        for (int64_t t = 0; t < p.size.terms; ++t)
            one(p.scale + t * mixed, p.mean ? p.mean + t * mixed : nullptr, scale + t * period, shift + t * period);
        for (int64_t e = 0; e < p.size.edges; ++e)
            for (int64_t v = 0; v < 3; ++v) {
                const bool wanted[] = {p.edges[e].skip, p.edges[e].max_pool, p.edges[e].avg_pool};
                const bool pool = p.pool_mean && v > 0 && wanted[v];
                const double* mean = pool ? p.pool_mean + (2 * e + v - 1) * mixed : nullptr;
                one(p.free + (3 * e + v) * mixed, mean, free + (3 * e + v) * period, pool_shift + (3 * e + v) * period);
            }
        repeat(constant, mixed, period, bias);
    }

    void add_candidates(const Tile& tile, A* sums) const {
        for (int64_t t = 0; t < p.size.terms; t += kTogether) {
            Term<A, T> terms[kTogether];
            const int64_t count = smaller(kTogether, p.size.terms - t);
            for (int64_t k = 0; k < count; ++k)
                terms[k] = {static_cast<const T*>(p.ys[t + k]) + tile.pixel * tiling.mixed,
                            scale + (t + k) * tiling.period, shift + (t + k) * tiling.period};
            add_terms(sums, terms, count, tile.pixels * tiling.mixed, tiling.period);
        }
    }

    void add_free(const Tile& tile, int64_t e, Buffers& b) const {
        const MixedEdge& edge = p.edges[e];
        const Source<T> source(edge);
        Term<A, A> terms[3];
        int64_t count = 0;
        const auto term = [&](const A* values, int64_t candidate) {
            const int64_t at = (3 * e + candidate) * tiling.period;
            terms[count++] = {values, free + at, pool_shift + at};
        };
        if (edge.skip)
            term(source.flat(source.row(tile.image, tile.first), tile.pixels, tiling.mixed, b.x), 0);
        A* const largest = edge.max_pool ? b.largest : nullptr;
        A* const average = edge.avg_pool ? b.average : nullptr;
        pool_tile<A>(source, tile, tiling, b.rows, largest, average);
        if (largest) term(largest, 1);
        if (average) term(average, 2);
        add_terms(b.mixed, terms, count, tile.pixels * tiling.mixed, tiling.period);
    }

    void add_bypass(const Tile& tile, int64_t e, A* rest) const {
        const Source<T> source(p.edges[e]);
        const Vec<A> weight = broadcast(p.bypass ? static_cast<A>(p.bypass[e]) : A(1));
        each_bypass(source, tile, tiling.width, [&](int64_t pixel, int64_t from, bool right, bool down) {
            A* sums = rest + pixel * tiling.rest_pixel;
            const T* x = source.x + from * source.pixel + tiling.mixed;
            const auto add = [&](int64_t i, int n) __attribute__((always_inline)) {
                store<A>(sums + i, load<A>(sums + i) + weight * bypass_value<A>(source, x + i, right, down, n));
            };
            FASTDARTS_VECTORS(tiling.rest, add)
        });
    }

    void write(const Tile& tile, const Buffers& b) const {
        T* out = static_cast<T*>(p.out) + tile.pixel * p.out_pixel;
        if (p.size.partial == 1) return scatter<A>(b.mixed, tile.pixels, tiling.mixed, out, p.out_pixel);
        const int64_t channels = p.size.channels;
        for (int64_t first = 0; first < tile.pixels; first += tiling.width) {
            const auto row = [&](A* to, int64_t pixel) {
                for (int64_t c = 0; c < tiling.width; ++c)
                    shuffle_pixel(b.mixed + (first + c) * tiling.mixed, b.rest + (first + c) * tiling.rest_pixel,
                                  tiling.mixed, p.size.partial, to + c * pixel);
            };
            if constexpr (sizeof(T) == sizeof(A)) {
                row(out + first * p.out_pixel, p.out_pixel);
            } else {
                row(b.wide, channels);
                scatter<A>(b.wide, tiling.width, channels, out + first * p.out_pixel, p.out_pixel);
            }
        }
    }

    void run(int64_t number, Buffers& b) const {
        const Tile tile = tiling.at(number);
        const int64_t length = tile.pixels * tiling.mixed;
        for (int64_t start = 0; start < length; start += tiling.period)
            for (int64_t i = 0; i < smaller(tiling.period, length - start); i += kLanes<A>)
                store<A>(b.mixed + start + i, load<A>(bias + i));
        add_candidates(tile, b.mixed);
        for (int64_t e = 0; e < p.size.edges; ++e) add_free(tile, e, b);
        if (p.size.partial > 1) {
            for (int64_t i = 0; i < tile.pixels * tiling.rest_pixel; i += kLanes<A>) store<A>(b.rest + i, Vec<A>{});
            for (int64_t e = 0; e < p.size.edges; ++e) add_bypass(tile, e, b.rest);
        }
        write(tile, b);
    }
};

}  // namespace

template <typename T>
int64_t mixed_sum_forward(const MixedForward& p) {
    using A = Arithmetic<T>;
    Arena shared = arena(p.scratch);
    Forward<T> forward(p, shared);
    const Tiling<A>& tiling = forward.tiling;
    Arena sized{0};
    typename Forward<T>::Buffers counted(sized, p.size, tiling);
    if (p.scratch) {
        forward.prepare();
        const std::uintptr_t own = shared.base + static_cast<std::uintptr_t>(shared.used);
#pragma omp parallel num_threads(p.size.threads)
        {
            Arena mine{own + static_cast<std::uintptr_t>(thread_number() * sized.used)};
            typename Forward<T>::Buffers buffers(mine, p.size, tiling);
            buffers.rows.start(tiling.row);
#pragma omp for schedule(dynamic)
            for (int64_t slot = 0; slot < tiling.slots; ++slot)
                for (int64_t number = slot * tiling.tiles / tiling.slots;
                     number < (slot + 1) * tiling.tiles / tiling.slots; ++number)
                    forward.run(number, buffers);
        }
    }
    return kWidest + shared.used + p.size.threads * sized.used;
}

template int64_t mixed_sum_forward<float>(const MixedForward&);
template int64_t mixed_sum_forward<bfloat16>(const MixedForward&);
template int64_t mixed_sum_forward<double>(const MixedForward&);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
