// Tiles of a node for the mixed_sum kernels, and what is done to a tile: flat loops over [pixels][channels].
//
// A tile is a band of output rows of one image, small enough that its sums stay in the first cache while all terms
// stream past. Its channels are flat: the coefficients are repeated to a period that is a multiple of both the
// channels and the widest vector, so that no channel count leaves lanes idle. Buffers in the scratch tensor are
// followed by one vector of room: loops over them run in whole vectors and need no tails. Tiles, slots and every
// order of summation follow from the shapes alone, so that the number of threads changes no bit.
#pragma once

#include "../mixed_sum.h"
#include "simd.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

using std::int64_t;

constexpr int64_t kWidest = 64;           // bytes of the widest vector: sizes are the same for every instruction set
constexpr int64_t kTileBytes = 16384;     // a third of the first cache, so that pools and gradients fit beside it
constexpr int64_t kMinPeriodBytes = 256;  // four of the widest vectors: independent accumulators
constexpr int64_t kSlots = 64;            // partial sums: enough for 64 threads, few enough to stay small
constexpr int64_t kBlock = 64;            // values added in the arithmetic type before float64 takes over

FASTDARTS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTDARTS_INLINE int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }
FASTDARTS_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

FASTDARTS_INLINE int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Hands out pieces of the scratch tensor; with base 0 it only counts their bytes.
struct Arena {
    std::uintptr_t base;
    int64_t used = 0;

    template <typename V>
    V* take(int64_t count) {
        V* piece = reinterpret_cast<V*>(base + static_cast<std::uintptr_t>(used));
        used += divide_up(count * static_cast<int64_t>(sizeof(V)) + kWidest, kWidest) * kWidest;
        return piece;
    }

    template <typename... V>
    void give(int64_t count, V*&... pieces) {
        ((pieces = take<V>(count)), ...);
    }
};

FASTDARTS_INLINE Arena arena(void* scratch) {
    const auto address = reinterpret_cast<std::uintptr_t>(scratch);
    return {(address + kWidest - 1) / kWidest * kWidest};
}

struct Tile {
    int64_t image, first, last;  // output rows first <= o < last
    int64_t pixel, pixels;       // number of its first pixel in the batch, and how many it has
};

template <typename A>
struct Tiling {
    int64_t mixed, rest, period, rows, bands, tiles, slots, row, tile;  // row, tile: elements, of the mixed channels
    int64_t height, width;
    int64_t rest_pixel, rest_tile;  // those of the other channels begin at whole vectors

    explicit Tiling(const MixedSize& size) : height(size.height), width(size.width) {
        const int64_t bytes = sizeof(A);
        mixed = size.channels / size.partial;
        rest = size.channels - mixed;
        int64_t common = mixed;  // the least common multiple of the channels and the widest vector, a power of two
        while (common % (kWidest / bytes) != 0) common *= 2;
        period = divide_up(kMinPeriodBytes, common * bytes) * common;
        row = width * mixed;
        const int64_t fitting = kTileBytes / greater(row, width * size.channels / 2) / bytes;
        bands = divide_up(height, smaller(height, greater(fitting, 4)));
        rows = divide_up(height, bands);
        bands = divide_up(height, rows);
        tile = rows * row;
        rest_pixel = divide_up(rest * bytes, kWidest) * kWidest / bytes;
        rest_tile = rows * width * rest_pixel;
        tiles = size.batch * bands;
        slots = smaller(tiles, kSlots);
    }

    Tile at(int64_t number) const {
        const int64_t image = number / bands, first = number % bands * rows, last = smaller(first + rows, height);
        return {image, first, last, (image * height + first) * width, (last - first) * width};
    }
};

// out[i] = values[i % mixed] over a period; null values are 0.
template <typename A>
static void repeat(const double* values, int64_t mixed, int64_t period, A* out) {
    for (int64_t start = 0; start < period; start += mixed)
        for (int64_t c = 0; c < mixed; ++c) out[start + c] = values ? static_cast<A>(values[c]) : A(0);
}

// The first n elements as whole vectors and one part of a vector: body(offset, lanes).
#define FASTDARTS_VECTORS(n, body)                                             \
    {                                                                          \
        const int64_t whole = (n) - (n) % kLanes<A>;                           \
        for (int64_t i = 0; i < whole; i += kLanes<A>) body(i, kLanes<A>);     \
        if (whole < (n)) body(whole, static_cast<int>((n) - whole));           \
    }

// mask ? yes : no, lane by lane. One mask that chooses twice is more than gcc 12 can do with vectors of SSE2 otherwise.
template <typename A, typename Mask>
FASTDARTS_INLINE Vec<A> choose(Mask mask, Vec<A> yes, Vec<A> no) {
#if defined(__AVX512F__)
    return mask ? yes : no;
#else
    return reinterpret_cast<Vec<A>>((mask & reinterpret_cast<Mask>(yes)) | (~mask & reinterpret_cast<Mask>(no)));
#endif
}

template <typename A, typename T>
FASTDARTS_INLINE Vec<A> load_part(const T* p, int n) {
    return n == kLanes<A> ? load<A>(p) : load_some<A>(p, n);
}

template <typename A, typename T>
FASTDARTS_INLINE void store_part(T* p, Vec<A> v, int n) {
    if (n == kLanes<A>)
        store<A>(p, v);
    else
        store_some<A>(p, v, n);
}

// Channels of pixels, out of a map into a flat buffer. Runs in whole vectors where the map has no gaps.
template <typename A, typename T>
static void gather(const T* from, int64_t stride, int64_t pixels, int64_t channels, A* to) {
    if (stride == channels) channels = stride = pixels * channels, pixels = 1;
    if constexpr (sizeof(T) == sizeof(A))
        if (channels < kLanes<A> && channels % 4 == 0) {  // four at a time: no masks, and no store over another one
            for (int64_t p = 0; p < pixels; ++p)
                for (int64_t c = 0; c < channels; c += 4)
                    std::memcpy(to + p * channels + c, from + p * stride + c, 4 * sizeof(A));
            return;
        }
    for (int64_t p = 0; p < pixels; ++p) {
        const T* x = from + p * stride;
        A* out = to + p * channels;
        const auto copy = [&](int64_t i, int n) __attribute__((always_inline)) {
            store<A>(out + i, load_part<A>(x + i, n));
        };
        FASTDARTS_VECTORS(channels, copy)
    }
}

// A flat buffer into the channels of a map.
template <typename A, typename T>
static void scatter(const A* from, int64_t pixels, int64_t channels, T* to, int64_t stride) {
    if (stride == channels) channels = stride = pixels * channels, pixels = 1;
    for (int64_t p = 0; p < pixels; ++p) {
        const A* x = from + p * channels;
        T* out = to + p * stride;
        const auto copy = [&](int64_t i, int n) __attribute__((always_inline)) {
            store_part<A>(out + i, load<A>(x + i), n);
        };
        FASTDARTS_VECTORS(channels, copy)
    }
}

// A flat buffer added to the channels of a map.
template <typename A, typename T>
static void scatter_add(const A* from, int64_t pixels, int64_t channels, T* to, int64_t stride) {
    if (stride == channels) channels = stride = pixels * channels, pixels = 1;
    for (int64_t p = 0; p < pixels; ++p) {
        const A* x = from + p * channels;
        T* out = to + p * stride;
        const auto add = [&](int64_t i, int n) __attribute__((always_inline)) {
            store_part<A>(out + i, load_part<A>(out + i, n) + load<A>(x + i), n);
        };
        FASTDARTS_VECTORS(channels, add)
    }
}

// Four values of each of four places, transposed: how four groups of channels are shuffled.
template <typename A>
FASTDARTS_INLINE void transpose(const A* const (&from)[4], A* const (&to)[4]) {
    typedef A Four __attribute__((vector_size(4 * sizeof(A))));
    Four rows[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], from[i], sizeof(Four));
    for (int i = 0; i < 4; ++i) {
        const Four column{rows[0][i], rows[1][i], rows[2][i], rows[3][i]};
        std::memcpy(to[i], &column, sizeof column);
    }
}

// A pixel with its channels shuffled, out[m * K + k] = (mixed, rest)[k * C' + m], and the other way.
template <typename A>
FASTDARTS_INLINE void shuffle_pixel(const A* mixed, const A* rest, int64_t channels, int64_t groups, A* out) {
    if (groups == 4 && channels % 4 == 0) {
        for (int64_t m = 0; m < channels; m += 4)
            transpose<A>({mixed + m, rest + m, rest + channels + m, rest + 2 * channels + m},
                         {out + 4 * m, out + 4 * m + 4, out + 4 * m + 8, out + 4 * m + 12});
        return;
    }
    for (int64_t m = 0; m < channels; ++m) {
        out[m * groups] = mixed[m];
        for (int64_t k = 1; k < groups; ++k) out[m * groups + k] = rest[(k - 1) * channels + m];
    }
}

template <typename A>
FASTDARTS_INLINE void unshuffle_pixel(const A* x, int64_t channels, int64_t groups, A* mixed, A* rest) {
    if (groups == 4 && channels % 4 == 0) {
        for (int64_t m = 0; m < channels; m += 4)
            transpose<A>({x + 4 * m, x + 4 * m + 4, x + 4 * m + 8, x + 4 * m + 12},
                         {mixed + m, rest + m, rest + channels + m, rest + 2 * channels + m});
        return;
    }
    for (int64_t m = 0; m < channels; ++m) {
        mixed[m] = x[m * groups];
        for (int64_t k = 1; k < groups; ++k) rest[(k - 1) * channels + m] = x[m * groups + k];
    }
}

// Coefficients of a period, and what they belong to.
template <typename A, typename T>
struct Term {
    const T* y;
    const A* scale;
    const A* shift;
};

// Terms that stream past a tile at the same time. Fewer leave too few loads in flight: the reductions read 9.9 GB/s
// one by one and 12.5 GB/s six at a time, where the machine itself read 13.
constexpr int kTogether = 6;

// sums[i] += sum_k scale_k (y_k[i] - shift_k).
template <int kTerms, typename A, typename T>
static void add_terms(A* sums, const Term<A, T>* terms, int64_t length, int64_t period) {
    const auto step = [&](int64_t i, int64_t phase, int n) __attribute__((always_inline)) {
        Vec<A> sum = load<A>(sums + i);
        for (int k = 0; k < kTerms; ++k) {
            const Vec<A> centred = load_part<A>(terms[k].y + i, n) - load<A>(terms[k].shift + phase);
            sum += load<A>(terms[k].scale + phase) * centred;
        }
        store<A>(sums + i, sum);
    };
    const int64_t whole = length - length % kLanes<A>;
    for (int64_t start = 0; start < whole; start += period) {
        const int64_t stop = smaller(period, whole - start);
        for (int64_t phase = 0; phase < stop; phase += kLanes<A>) step(start + phase, phase, kLanes<A>);
    }
    if (whole < length) step(whole, whole % period, static_cast<int>(length - whole));
}

template <int kMost = kTogether, typename A, typename T>
static void add_terms(A* sums, const Term<A, T>* terms, int64_t count, int64_t length, int64_t period) {
    if (count == kMost) return add_terms<kMost>(sums, terms, length, period);
    if constexpr (kMost > 1) add_terms<kMost - 1>(sums, terms, count, length, period);
}

// One product with the gradient: where its sums go, over a period.
template <typename A, typename T>
struct Product {
    const T* y;
    const A* shift;
    double* sums;
};

// sums_k[phase] += sum_i g[i] (y_k[i] - shift_k[phase]): blocks in the arithmetic type, their totals in float64. As
// many products at a time as keep enough loads in flight.
template <int kTerms, typename A, typename T>
static void add_products(A* block, const A* g, const Product<A, T>* products, int64_t length, int64_t period) {
    for (int64_t begin = 0; begin < length; begin += kBlock * period) {
        const int64_t end = smaller(length, begin + kBlock * period), whole = end - (end - begin) % kLanes<A>;
        for (int64_t i = 0; i < kTerms * period; i += kLanes<A>) store<A>(block + i, Vec<A>{});
        const auto step = [&](int64_t i, int64_t phase, int n) __attribute__((always_inline)) {
            const Vec<A> gradient = load_part<A>(g + i, n);
            for (int k = 0; k < kTerms; ++k) {
                A* sum = block + k * period + phase;
                const Vec<A> value = load_part<A>(products[k].y + i, n) - load<A>(products[k].shift + phase);
                store<A>(sum, load<A>(sum) + gradient * value);
            }
        };
        for (int64_t start = begin; start < whole; start += period) {
            const int64_t stop = smaller(period, whole - start);
            for (int64_t phase = 0; phase < stop; phase += kLanes<A>) step(start + phase, phase, kLanes<A>);
        }
        if (whole < end) step(whole, (whole - begin) % period, static_cast<int>(end - whole));
        for (int k = 0; k < kTerms; ++k)
            for (int64_t phase = 0; phase < period; ++phase)
                products[k].sums[phase] += static_cast<double>(block[k * period + phase]);
    }
}

template <int kMost = kTogether, typename A, typename T>
static void add_products(A* block, const A* g, const Product<A, T>* products, int64_t count, int64_t length,
                         int64_t period) {
    if (count == kMost) return add_products<kMost>(block, g, products, length, period);
    if constexpr (kMost > 1) add_products<kMost - 1>(block, g, products, count, length, period);
}

// sums[phase] += sum_i g[i], in the same way.
template <typename A>
static void add_up(double* sums, A* block, const A* g, int64_t length, int64_t period) {
    for (int64_t begin = 0; begin < length; begin += kBlock * period) {
        const int64_t end = smaller(length, begin + kBlock * period);
        for (int64_t i = 0; i < period; i += kLanes<A>) store<A>(block + i, Vec<A>{});
        for (int64_t start = begin; start < end; start += period)
            for (int64_t phase = 0; phase < smaller(period, end - start); phase += kLanes<A>) {
                const int n = static_cast<int>(smaller(kLanes<A>, end - start - phase));
                store<A>(block + phase, load<A>(block + phase) + load_part<A>(g + start + phase, n));
            }
        for (int64_t phase = 0; phase < period; ++phase) sums[phase] += static_cast<double>(block[phase]);
    }
}

// The copies of a channel within a period, added up.
FASTDARTS_INLINE void fold(const double* sums, int64_t mixed, int64_t period, double* out) {
    for (int64_t c = 0; c < mixed; ++c) out[c] = 0;
    for (int64_t start = 0; start < period; start += mixed)
        for (int64_t c = 0; c < mixed; ++c) out[c] += sums[start + c];
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
