// Mean and biased variance of a source's 3x3 pools, without the pooled maps.
//
// Each tile is centred on the mean of those before it, so that a large mean costs no digits; where that turns out to be
// far from the tile's own, the tile is read again. Tiles are combined in float64 by Chan's rule, in an order that the
// shapes alone decide.
#include "mixed_sum_pool.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

template <typename T>
struct Moments {
    using A = Arithmetic<T>;
    const PoolMoments& p;
    const Tiling<A> tiling;
    double* slots;  // [slots, max and avg, mean and sum of squares, channels]

    struct Buffers {
        PoolRows<A> rows;
        A *largest, *average, *centre, *block;
        double *sums, *squares, *mean, *sum, *square;
        Buffers(Arena& arena, const Moments& m) : rows(arena, m.p.size, m.tiling) {
            arena.give(m.tiling.tile, largest, average);
            arena.give(m.tiling.period, centre, block);
            arena.give(m.tiling.period, sums, squares);
            arena.give(m.tiling.mixed, mean, sum, square);
        }
    };

    Moments(const PoolMoments& params, Arena& arena) : p(params), tiling(params.size) {
        slots = arena.take<double>(tiling.slots * 4 * tiling.mixed);
    }

    // (mean, squares) of one channel over `count` values joined by those of `more` values.
    static void join(double& mean, double& squares, double count, double other, double other_squares, double more) {
        const double delta = other - mean, all = count + more;
        // An infinite value has an infinite mean, as in torch, where infinity less infinity would be no number.
        if (count == 0) {
            mean = other;
            squares = other_squares;
            return;
        }
        mean = delta - delta == 0 ? mean + delta * (more / all) : mean * (count / all) + other * (more / all);
        squares += other_squares + delta * delta * (count * more / all);
    }

    // Sums of (v - centre), and of their squares, over a flat tile.
    void add_up(const A* v, int64_t length, Buffers& b) const {
        const int64_t period = tiling.period;
        for (int64_t i = 0; i < period; ++i) b.sums[i] = b.squares[i] = 0;
        for (int64_t begin = 0; begin < length; begin += kBlock * period) {
            const int64_t end = smaller(length, begin + kBlock * period);
            for (int64_t phase = 0; phase < smaller(period, end - begin); phase += kLanes<A>) {
                const Vec<A> centre = load<A>(b.centre + phase);
                Vec<A> sums[2] = {}, squares[2] = {};
                const auto add = [&](int64_t i, int which) __attribute__((always_inline)) {
                    const Vec<A> difference = load<A>(v + i) - centre;
                    sums[which] += difference;
                    squares[which] += difference * difference;
                };
                int64_t i = begin + phase;
                for (; i + period + kLanes<A> <= end; i += 2 * period) {
                    add(i, 0);
                    add(i + period, 1);
                }
                for (; i + kLanes<A> <= end; i += period) add(i, 0);
                const Vec<A> sum = sums[0] + sums[1], square = squares[0] + squares[1];
                for (int lane = 0; lane < kLanes<A>; ++lane) {
                    const auto last = static_cast<double>(i + lane < end ? v[i + lane] - centre[lane] : A(0));
                    b.sums[phase + lane] += static_cast<double>(sum[lane]) + last;
                    b.squares[phase + lane] += static_cast<double>(square[lane]) + last * last;
                }
            }
        }
        fold(b.sums, tiling.mixed, period, b.sum);
        fold(b.squares, tiling.mixed, period, b.square);
    }

    // Whether a centre was so far from the mean that squares about it have lost digits: four deviations cost two bits.
    bool far_off(double pixels, const Buffers& b) const {
        for (int64_t c = 0; c < tiling.mixed; ++c) {
            const double left = b.sum[c] * b.sum[c] / pixels;
            if (left > 16 * (b.square[c] - left)) return true;
        }
        return false;
    }

    void add_tile(const A* v, const Tile& tile, double count, double* slot, Buffers& b) const {
        const int64_t mixed = tiling.mixed, length = tile.pixels * mixed;
        const auto pixels = static_cast<double>(tile.pixels);
        for (int64_t c = 0; c < mixed; ++c) {
            const double first = count == 0 ? static_cast<double>(v[c]) : slot[c];
            b.mean[c] = first - first == 0 ? first : 0;  // what is not finite centres nothing
        }
        for (int attempt = 0; attempt < 2; ++attempt) {
            repeat(b.mean, mixed, tiling.period, b.centre);
            add_up(v, length, b);
            if (attempt == 1 || !far_off(pixels, b)) break;
            for (int64_t c = 0; c < mixed; ++c) {
                const double mean = b.centre[c] + b.sum[c] / pixels;
                b.mean[c] = mean - mean == 0 ? mean : 0;
            }
        }
        for (int64_t c = 0; c < mixed; ++c) {
            const double left = b.sum[c] / pixels;
            join(slot[c], slot[mixed + c], count, b.centre[c] + left, b.square[c] - left * b.sum[c], pixels);
        }
    }

    void run(int64_t slot, Buffers& b) const {
        double* own = slots + slot * 4 * tiling.mixed;
        for (int64_t i = 0; i < 4 * tiling.mixed; ++i) own[i] = 0;
        const int64_t end = (slot + 1) * tiling.tiles / tiling.slots;
        double count = 0;
        for (int64_t number = slot * tiling.tiles / tiling.slots; number < end; ++number) {
            const Tile tile = tiling.at(number);
            A* const largest = p.edge.max_pool ? b.largest : nullptr;
            A* const average = p.edge.avg_pool ? b.average : nullptr;
            pool_tile<A>(Source<T>(p.edge), tile, tiling, b.rows, largest, average);
            if (largest) add_tile(largest, tile, count, own, b);
            if (average) add_tile(average, tile, count, own + 2 * tiling.mixed, b);
            count += static_cast<double>(tile.pixels);
        }
    }

    int64_t pixels_of(int64_t slot) const {
        int64_t pixels = 0;
        const int64_t end = (slot + 1) * tiling.tiles / tiling.slots;
        for (int64_t number = slot * tiling.tiles / tiling.slots; number < end; ++number)
            pixels += tiling.at(number).pixels;
        return pixels;
    }

    void finish() const {
        const int64_t mixed = tiling.mixed;
        double count = static_cast<double>(pixels_of(0));
        for (int64_t slot = 1; slot < tiling.slots; ++slot) {
            const double more = static_cast<double>(pixels_of(slot));
            const double* other = slots + slot * 4 * mixed;
            for (int64_t pool = 0; pool < 2; ++pool)
                for (int64_t c = 2 * pool * mixed; c < (2 * pool + 1) * mixed; ++c)
                    join(slots[c], slots[mixed + c], count, other[c], other[mixed + c], more);
            count += more;
        }
        for (int64_t pool = 0; pool < 2; ++pool)
            for (int64_t c = 0; c < mixed; ++c) {
                p.mean[pool * mixed + c] = slots[2 * pool * mixed + c];
                p.var[pool * mixed + c] = slots[(2 * pool + 1) * mixed + c] / count;
            }
    }
};

}  // namespace

template <typename T>
int64_t pool_moments(const PoolMoments& p) {
    Arena shared = arena(p.scratch);
    Moments<T> moments(p, shared);
    Arena sized{0};
    typename Moments<T>::Buffers counted(sized, moments);
    if (p.scratch) {
        const std::uintptr_t own = shared.base + static_cast<std::uintptr_t>(shared.used);
#pragma omp parallel num_threads(p.size.threads)
        {
            Arena mine{own + static_cast<std::uintptr_t>(thread_number() * sized.used)};
            typename Moments<T>::Buffers buffers(mine, moments);
            buffers.rows.start(moments.tiling.row);
#pragma omp for schedule(dynamic)
            for (int64_t slot = 0; slot < moments.tiling.slots; ++slot) moments.run(slot, buffers);
        }
        moments.finish();
    }
    return kWidest + shared.used + p.size.threads * sized.used;
}

template int64_t pool_moments<float>(const PoolMoments&);
template int64_t pool_moments<bfloat16>(const PoolMoments&);
template int64_t pool_moments<double>(const PoolMoments&);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
