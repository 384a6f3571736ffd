// What backward needs of a node before it can go on: sums of the gradient with each candidate, and the gradient itself
// with its channels in the order in which the candidates have theirs.
#include "mixed_sum_pool.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// total += v, lane by lane, in float64.
template <typename A>
FASTDARTS_INLINE void add_wide(Vec<double> (&total)[2], Vec<A> v) {
    if constexpr (sizeof(A) == sizeof(double)) {
        total[0] += v;
    } else {
        typedef A Half __attribute__((vector_size(kVectorBytes / 2)));
        Half half[2];
        std::memcpy(half, &v, sizeof v);
        total[0] += __builtin_convertvector(half[0], Vec<double>);
        total[1] += __builtin_convertvector(half[1], Vec<double>);
    }
}

template <typename T>
struct Reduce {
    using A = Arithmetic<T>;
    const MixedReduce& p;
    const Tiling<A> tiling;
    const int64_t sums;  // rows of sums: the gradient's own, one a term, three an edge
    A* shift;            // [sums, period]
    double* slots;       // [slots, sums * mixed + edges]

    struct Buffers {
        PoolRows<A> rows;
        A *g, *rest, *x, *largest, *average, *wide, *block;
        double *sums, *bypass;
        Buffers(Arena& arena, const Reduce& r) : rows(arena, r.p.size, r.tiling) {
            arena.give(r.tiling.tile, g, x, largest, average);
            rest = arena.take<A>(r.tiling.rest_tile);
            wide = arena.take<A>(r.tiling.width * r.p.size.channels);
            block = arena.take<A>(kTogether * r.tiling.period);
            sums = arena.take<double>(r.sums * r.tiling.period);
            bypass = arena.take<double>(r.p.size.edges);
        }
    };

    Reduce(const MixedReduce& params, Arena& arena)
        : p(params), tiling(params.size), sums(1 + params.size.terms + 3 * params.size.edges) {
        shift = arena.take<A>(sums * tiling.period);
        slots = arena.take<double>(tiling.slots * slot_size());
    }

    int64_t slot_size() const { return sums * tiling.mixed + p.size.edges; }
    int64_t row_of(int64_t e, int64_t v) const { return 1 + p.size.terms + 3 * e + v; }

    // The mean that belongs to a row of sums; null where nothing is taken off.
    const double* mean(int64_t row) const {
        if (row == 0) return nullptr;
        if (row <= p.size.terms) return p.mean + (row - 1) * tiling.mixed;
        const int64_t e = (row - 1 - p.size.terms) / 3, v = (row - 1 - p.size.terms) % 3;
        const bool wanted[] = {false, p.edges[e].max_pool, p.edges[e].avg_pool};
        return wanted[v] ? p.pool_mean + (2 * e + v - 1) * tiling.mixed : nullptr;
    }

    void prepare() {
        for (int64_t row = 0; row < sums; ++row)
            repeat(mean(row), tiling.mixed, tiling.period, shift + row * tiling.period);
    }

    void load_gradient(const Tile& tile, Buffers& b) const {
        const T* g = static_cast<const T*>(p.g) + tile.pixel * p.g_pixel;
        if (p.size.partial == 1) return gather<A>(g, p.g_pixel, tile.pixels, tiling.mixed, b.g);
        const int64_t channels = p.size.channels, mixed = tiling.mixed;
        for (int64_t first = 0; first < tile.pixels; first += tiling.width) {
            const auto row = [&](const A* from, int64_t pixel) {
                for (int64_t c = 0; c < tiling.width; ++c)
                    unshuffle_pixel(from + c * pixel, mixed, p.size.partial, b.g + (first + c) * mixed,
                                    b.rest + (first + c) * tiling.rest_pixel);
            };
            if constexpr (sizeof(T) == sizeof(A)) {
                row(g + first * p.g_pixel, p.g_pixel);
            } else {
                gather<A>(g + first * p.g_pixel, p.g_pixel, tiling.width, channels, b.wide);
                row(b.wide, channels);
            }
        }
        T* out = static_cast<T*>(p.unshuffled) + tile.pixel * channels;
        scatter<A>(b.g, tile.pixels, mixed, out, channels);
        for (int64_t pixel = 0; pixel < tile.pixels; ++pixel)
            scatter<A>(b.rest + pixel * tiling.rest_pixel, 1, tiling.rest, out + pixel * channels + mixed, channels);
    }

    template <typename Y>
    Product<A, Y> product(int64_t row, const Y* y, const Buffers& b) const {
        return {y, shift + row * tiling.period, b.sums + row * tiling.period};
    }

    template <typename Y>
    void add(const Product<A, Y>* products, int64_t count, const Tile& tile, const Buffers& b) const {
        add_products(b.block, b.g, products, count, tile.pixels * tiling.mixed, tiling.period);
    }

    void add_candidates(const Tile& tile, const Buffers& b) const {
        for (int64_t t = 0; t < p.size.terms; t += kTogether) {
            Product<A, T> products[kTogether];
            const int64_t count = smaller(kTogether, p.size.terms - t);
            for (int64_t k = 0; k < count; ++k)
                products[k] = product(1 + t + k, static_cast<const T*>(p.ys[t + k]) + tile.pixel * tiling.mixed, b);
            add(products, count, tile, b);
        }
    }

    void add_free(const Tile& tile, int64_t e, Buffers& b) const {
        const MixedEdge& edge = p.edges[e];
        const Source<T> source(edge);
        Product<A, A> products[3];
        int64_t count = 0;
        if (edge.skip)
            products[count++] = product(
                row_of(e, 0), source.flat(source.row(tile.image, tile.first), tile.pixels, tiling.mixed, b.x), b);
        A* const largest = edge.max_pool ? b.largest : nullptr;
        A* const average = edge.avg_pool ? b.average : nullptr;
        pool_tile<A>(source, tile, tiling, b.rows, largest, average);
        if (largest) products[count++] = product<A>(row_of(e, 1), largest, b);
        if (average) products[count++] = product<A>(row_of(e, 2), average, b);
        add(products, count, tile, b);
    }

    void add_bypass(const Tile& tile, int64_t e, Buffers& b) const {
        // One number of a whole map: in float64 from the start, where a lane's float sum would cost it some bits.
        Vec<double> total[2] = {};
        const Source<T> source(p.edges[e]);
        each_bypass(source, tile, tiling.width, [&](int64_t pixel, int64_t from, bool right, bool down) {
            const A* g = b.rest + pixel * tiling.rest_pixel;
            const T* x = source.x + from * source.pixel + tiling.mixed;
            const auto add = [&](int64_t i, int n) __attribute__((always_inline)) {
                add_wide<A>(total, load_part<A>(g + i, n) * bypass_value<A>(source, x + i, right, down, n));
            };
            FASTDARTS_VECTORS(tiling.rest, add)
        });
        total[0] += total[1];
        for (int lane = 0; lane < kLanes<double>; ++lane) b.bypass[e] += total[0][lane];
    }

    void run(int64_t slot, Buffers& b) const {
        for (int64_t i = 0; i < sums * tiling.period; ++i) b.sums[i] = 0;
        for (int64_t e = 0; e < p.size.edges; ++e) b.bypass[e] = 0;
        const int64_t end = (slot + 1) * tiling.tiles / tiling.slots;
        for (int64_t number = slot * tiling.tiles / tiling.slots; number < end; ++number) {
            const Tile tile = tiling.at(number);
            load_gradient(tile, b);
            add_up(b.sums, b.block, b.g, tile.pixels * tiling.mixed, tiling.period);
            add_candidates(tile, b);
            for (int64_t e = 0; e < p.size.edges; ++e) add_free(tile, e, b);
            if (p.size.partial > 1)
                for (int64_t e = 0; e < p.size.edges; ++e) add_bypass(tile, e, b);
        }
        double* own = slots + slot * slot_size();
        for (int64_t row = 0; row < sums; ++row)
            fold(b.sums + row * tiling.period, tiling.mixed, tiling.period, own + row * tiling.mixed);
        for (int64_t e = 0; e < p.size.edges; ++e) own[sums * tiling.mixed + e] = b.bypass[e];
    }

    // Slots in their order; then sum g (y - shift) becomes sum g xhat, with what rounding the mean has left out.
    void finish() const {
        const int64_t mixed = tiling.mixed, size = slot_size();
        for (int64_t slot = 1; slot < tiling.slots; ++slot)
            for (int64_t i = 0; i < size; ++i) slots[i] += slots[slot * size + i];
        for (int64_t c = 0; c < mixed; ++c) p.total[c] = slots[c];
        for (int64_t row = 1; row < sums; ++row) {
            const int64_t other = row - 1 - p.size.terms;
            double* out = other < 0 ? p.products + (row - 1) * mixed : p.free + other * mixed;
            const double* centre = mean(row);
            const double* rstd = other < 0 ? p.rstd + (row - 1) * mixed
                                 : centre  ? p.pool_rstd + (other / 3 * 2 + other % 3 - 1) * mixed
                                           : nullptr;
            for (int64_t c = 0; c < mixed; ++c) {
                const double sum = slots[row * mixed + c];
                const double left = centre ? shift[row * tiling.period + c] - centre[c] : 0;
                out[c] = rstd ? (sum + left * slots[c]) * rstd[c] : sum;
            }
        }
        if (p.bypass)
            for (int64_t e = 0; e < p.size.edges; ++e) p.bypass[e] = slots[sums * mixed + e];
    }
};

}  // namespace

template <typename T>
int64_t mixed_sum_reduce(const MixedReduce& p) {
    Arena shared = arena(p.scratch);
    Reduce<T> reduce(p, shared);
    Arena sized{0};
    typename Reduce<T>::Buffers counted(sized, reduce);
    if (p.scratch) {
        reduce.prepare();
        const std::uintptr_t own = shared.base + static_cast<std::uintptr_t>(shared.used);
#pragma omp parallel num_threads(p.size.threads)
        {
            Arena mine{own + static_cast<std::uintptr_t>(thread_number() * sized.used)};
            typename Reduce<T>::Buffers buffers(mine, reduce);
            buffers.rows.start(reduce.tiling.row);
#pragma omp for schedule(dynamic)
            for (int64_t slot = 0; slot < reduce.tiling.slots; ++slot) reduce.run(slot, buffers);
        }
        reduce.finish();
    }
    return kWidest + shared.used + p.size.threads * sized.used;
}

template int64_t mixed_sum_reduce<float>(const MixedReduce&);
template int64_t mixed_sum_reduce<bfloat16>(const MixedReduce&);
template int64_t mixed_sum_reduce<double>(const MixedReduce&);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
