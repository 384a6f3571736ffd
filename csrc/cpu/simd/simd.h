// Vectors of the instruction set that this file is compiled for, as the compiler's own vector type.
//
// Everything here has internal linkage or lives in a namespace named after the instruction set: two copies of one inline
// function, compiled for different processors, must never be merged by the linker. For the same reason the kernels
// include nothing of the standard library that has code in it.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../dtypes.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef FASTDARTS_ISA
#error "compiled by setup.py, once for each instruction set, with -DFASTDARTS_ISA=<namespace>"
#endif
#define FASTDARTS_INLINE static inline __attribute__((always_inline))

namespace fastdarts {
namespace FASTDARTS_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Vec<A>: a vector of the arithmetic type A (float or double).
template <typename A>
struct VecOf {
    typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vec = typename VecOf<A>::type;
template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

template <typename A>
FASTDARTS_INLINE Vec<A> broadcast(A value) {
    return value - Vec<A>{};  // x - 0 is x for every x, -0 and NaN included
}

// bfloat16 as bits: widened to a float, and a float rounded to the nearest, ties to even, in the upper half of its 32.
typedef std::uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint32_t FullBits __attribute__((vector_size(kVectorBytes)));

FASTDARTS_INLINE Vec<float> widened(HalfBits bits) {
    return reinterpret_cast<Vec<float>>(__builtin_convertvector(bits, FullBits) << 16);
}

FASTDARTS_INLINE FullBits rounded(Vec<float> v) {
    const FullBits bits = reinterpret_cast<FullBits>(v);
    const FullBits nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
    const FullBits quiet = bits | 0x400000u;  // rounding must not turn a NaN into infinity
    const FullBits is_nan = reinterpret_cast<FullBits>(v != v);
    return (nearest & ~is_nan) | (quiet & is_nan);
}

// load / store: whole vectors, any alignment; storage T to arithmetic A and back.
template <typename A, typename T>
FASTDARTS_INLINE Vec<A> load(const T* p) {
    if constexpr (sizeof(T) == sizeof(A)) {
        Vec<A> v;
        std::memcpy(&v, p, sizeof v);
        return v;
    } else {
        HalfBits bits;
        std::memcpy(&bits, p, sizeof bits);
        return widened(bits);
    }
}

template <typename A, typename T>
FASTDARTS_INLINE void store(T* p, Vec<A> v) {
    if constexpr (sizeof(T) == sizeof(A)) {
        std::memcpy(p, &v, sizeof v);
    } else {
        const HalfBits out = __builtin_convertvector(rounded(v) >> 16, HalfBits);
        std::memcpy(p, &out, sizeof out);
    }
}

// load_some / store_some: the first n lanes, 0 <= n <= kLanes<A>; the other lanes load as 0, or are not touched.
#if defined(__AVX512F__)
template <typename A, typename T>
FASTDARTS_INLINE Vec<A> load_some(const T* p, int n) {
    const unsigned mask = (1u << n) - 1u;
    if constexpr (sizeof(T) == 2) return widened((HalfBits)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
    if constexpr (sizeof(T) == 4) return (Vec<A>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
    if constexpr (sizeof(T) == 8) return (Vec<A>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
}

template <typename A, typename T>
FASTDARTS_INLINE void store_some(T* p, Vec<A> v, int n) {
    const unsigned mask = (1u << n) - 1u;
    if constexpr (sizeof(T) == 2) {
        const HalfBits out = __builtin_convertvector(rounded(v) >> 16, HalfBits);
        _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), (__m256i)out);
    }
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), (__m512)v);
    if constexpr (sizeof(T) == 8) _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), (__m512d)v);
}
#else
template <typename A, typename T>
FASTDARTS_INLINE Vec<A> load_some(const T* p, int n) {
    alignas(kVectorBytes) T some[kLanes<A>] = {};
    for (int i = 0; i < n; ++i) some[i] = p[i];
    return load<A>(some);
}

template <typename A, typename T>
FASTDARTS_INLINE void store_some(T* p, Vec<A> v, int n) {
    alignas(kVectorBytes) T some[kLanes<A>];
    store<A>(some, v);
    for (int i = 0; i < n; ++i) p[i] = some[i];
}
#endif

// relu(NaN) is NaN, as in torch.
template <typename A>
FASTDARTS_INLINE Vec<A> relu(Vec<A> v) {
    return v < Vec<A>{} ? Vec<A>{} : v;
}

// The gradient of relu at v: g where v is positive or NaN, as in torch, else 0.
template <typename A>
FASTDARTS_INLINE Vec<A> relu_gradient(Vec<A> v, Vec<A> g) {
    return v <= Vec<A>{} ? Vec<A>{} : g;
}

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
