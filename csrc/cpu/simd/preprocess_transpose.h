// A chunk's pixels transposed in registers, vectors of channels to vectors of pixels.
#pragma once

#include "preprocess_tile.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

template <int BYTES>
struct IndexOf;
template <>
struct IndexOf<4> {
    typedef std::int32_t type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct IndexOf<8> {
    typedef std::int64_t type __attribute__((vector_size(kVectorBytes)));
};

// a[first], b[first], a[first + 1], b[first + 1], ...
template <typename A>
FASTDARTS_INLINE Vec<A> interleave(Vec<A> a, Vec<A> b, int first) {
    constexpr int lanes = kLanes<A>;
#if defined(__clang__)
    Vec<A> out;
    for (int i = 0; i < lanes; ++i) out[i] = i % 2 ? b[first + i / 2] : a[first + i / 2];
    return out;
#else
    typename IndexOf<sizeof(A)>::type index;
    for (int i = 0; i < lanes; ++i) index[i] = first + i / 2 + (i % 2 ? lanes : 0);
    return __builtin_shuffle(a, b, index);
#endif
}

// The vectors of a square as its columns: interleaving the halves as many times as a lane's number has bits.
template <typename A>
FASTDARTS_INLINE void transpose(Vec<A> (&square)[kLanes<A>]) {
    constexpr int lanes = kLanes<A>;
#pragma GCC unroll 4
    for (int size = 1; size < lanes; size *= 2) {
        Vec<A> next[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = interleave<A>(square[i], square[i + lanes / 2], 0);
            next[2 * i + 1] = interleave<A>(square[i], square[i + lanes / 2], lanes / 2);
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = next[i];
    }
}

// Blocks [kPixels][kBlock] to planes [channels][kPixels]; the planes have room for a multiple of kLanesMost.
template <typename A>
static inline void transpose_pixels(const A* blocks, int count, std::int64_t channels, A* planes) {
    constexpr int lanes = kLanes<A>;
    for (std::int64_t c = 0; c < channels; c += lanes) {
        const A* from = blocks + c / kBlock * kBlock * kPixels + c % kBlock;
        for (int p = 0; p < count; p += lanes) {
            Vec<A> square[lanes];
#pragma GCC unroll 16
            for (int i = 0; i < lanes; ++i) square[i] = load<A>(from + (p + i) * kBlock);
            transpose<A>(square);
#pragma GCC unroll 16
            for (int i = 0; i < lanes; ++i) store<A>(planes + (c + i) * kPixels + p, square[i]);
        }
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
