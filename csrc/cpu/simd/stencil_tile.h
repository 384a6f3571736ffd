// Where the channels of a group of images lie in vectors, and how maps are copied into vectors and back.
#pragma once

#include "simd.h"

#define FASTDARTS_UNROLL _Pragma("GCC unroll 64")

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

FASTDARTS_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
FASTDARTS_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
FASTDARTS_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Channel c of image i of a group is lane i * stride + c % lanes of block c / lanes.
struct Lanes {
    std::int64_t channels, stride, images, blocks;
    std::int64_t width;  // of all blocks together, elements
};

template <typename A>
FASTDARTS_INLINE Lanes lanes_of(std::int64_t channels) {
    std::int64_t stride = 1;
    while (stride < channels && stride < kLanes<A>) stride *= 2;
    const std::int64_t blocks = ceil_div(channels, kLanes<A>);
    return {channels, stride, kLanes<A> / stride, blocks, blocks * kLanes<A>};
}

// Hands out aligned parts of one buffer; from null it only counts.
struct Arena {
    char* base;
    std::int64_t used = 0;

    template <typename E>
    E* take(std::int64_t elements) {
        E* const part = base ? reinterpret_cast<E*>(base + used) : nullptr;
        used += ceil_div(elements * static_cast<std::int64_t>(sizeof(E)), 64) * 64;
        return part;
    }
};

FASTDARTS_INLINE float widen(float v) { return v; }
FASTDARTS_INLINE double widen(double v) { return v; }
FASTDARTS_INLINE float widen(bfloat16 v) {
    const std::uint32_t bits = static_cast<std::uint32_t>(v.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

FASTDARTS_INLINE void narrow(float v, float* out) { *out = v; }
FASTDARTS_INLINE void narrow(double v, double* out) { *out = v; }
FASTDARTS_INLINE void narrow(float v, bfloat16* out) {
    std::uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    // As store() in simd.h: to the nearest, ties to even, and a NaN stays one.
    const std::uint32_t rounded = v != v ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    out->bits = static_cast<std::uint16_t>(rounded >> 16);
}

// Where the pixels of a group lie in maps of T.
template <typename T>
struct Pixels {
    T* first;             // pixel 0 of the group's first image, channel 0
    std::int64_t pixel;   // elements from pixel to pixel
    std::int64_t image;   // elements from image to image
    std::int64_t images;  // how many of the group's images there are
};

template <typename T>
FASTDARTS_INLINE Pixels<T> pixels_of(T* maps, std::int64_t pixel, std::int64_t area, std::int64_t group,
                                     const Lanes& lanes, std::int64_t count) {
    const std::int64_t image = group * lanes.images;
    return {maps + image * area * pixel, pixel, area * pixel, smaller(lanes.images, count - image)};
}

template <int C, typename A, typename T>
void pack_image(const T* from, std::int64_t pixel, std::int64_t channels, std::int64_t count, A* to) {
    if (channels == C) {
        _Pragma("GCC unroll 4") for (std::int64_t i = 0; i < count; ++i, from += pixel, to += kLanes<A>) {
            FASTDARTS_UNROLL for (int c = 0; c < C; ++c) to[c] = widen(from[c]);
        }
        return;
    }
    for (std::int64_t i = 0; i < count; ++i, from += pixel, to += kLanes<A>) {
        for (int c = 0; c < C; ++c) to[c] = c < channels ? widen(from[c]) : A{};
    }
}

// pack: pixels [begin, begin + count) of block v, one vector each; lanes of no channel and of no image are 0.
template <typename A, typename T>
void pack(const Pixels<const T>& maps, const Lanes& lanes, std::int64_t v, std::int64_t begin, std::int64_t count,
          A* to) {
    const T* from = maps.first + begin * maps.pixel + v * kLanes<A>;
    if (lanes.images == 1) {
        const int some = static_cast<int>(smaller(kLanes<A>, lanes.channels - v * kLanes<A>));
        if (some == kLanes<A>) {
            for (std::int64_t i = 0; i < count; ++i) store<A>(to + i * kLanes<A>, load<A>(from + i * maps.pixel));
        } else {
            for (std::int64_t i = 0; i < count; ++i)
                store<A>(to + i * kLanes<A>, load_some<A>(from + i * maps.pixel, some));
        }
        return;
    }
    if (maps.images < lanes.images) std::memset(to, 0, static_cast<std::size_t>(count) * kVectorBytes);
    for (std::int64_t i = 0; i < maps.images; ++i, from += maps.image, to += lanes.stride) {
        if (lanes.stride == 1) pack_image<1>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 2) pack_image<2>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 4) pack_image<4>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 8) pack_image<8>(from, maps.pixel, lanes.channels, count, to);
    }
}

template <int C, typename A, typename T>
void unpack_image(const A* from, std::int64_t pixel, std::int64_t channels, std::int64_t count, T* to) {
    if (channels == C) {
        _Pragma("GCC unroll 4") for (std::int64_t i = 0; i < count; ++i, from += kLanes<A>, to += pixel) {
            FASTDARTS_UNROLL for (int c = 0; c < C; ++c) narrow(from[c], to + c);
        }
        return;
    }
    for (std::int64_t i = 0; i < count; ++i, from += kLanes<A>, to += pixel) {
        for (int c = 0; c < channels; ++c) narrow(from[c], to + c);
    }
}

// unpack: the reverse; writes the channels that exist of the images that exist.
template <typename A, typename T>
void unpack(const A* from, const Pixels<T>& maps, const Lanes& lanes, std::int64_t v, std::int64_t begin,
            std::int64_t count) {
    T* to = maps.first + begin * maps.pixel + v * kLanes<A>;
    if (lanes.images == 1) {
        const int some = static_cast<int>(smaller(kLanes<A>, lanes.channels - v * kLanes<A>));
        if (some == kLanes<A>) {
            for (std::int64_t i = 0; i < count; ++i) store<A>(to + i * maps.pixel, load<A>(from + i * kLanes<A>));
        } else {
            for (std::int64_t i = 0; i < count; ++i)
                store_some<A>(to + i * maps.pixel, load<A>(from + i * kLanes<A>), some);
        }
        return;
    }
    for (std::int64_t i = 0; i < maps.images; ++i, from += lanes.stride, to += maps.image) {
        if (lanes.stride == 1) unpack_image<1>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 2) unpack_image<2>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 4) unpack_image<4>(from, maps.pixel, lanes.channels, count, to);
        if (lanes.stride == 8) unpack_image<8>(from, maps.pixel, lanes.channels, count, to);
    }
}

// The value that is read back once v has been stored as T.
template <typename T, typename A>
FASTDARTS_INLINE Vec<A> as_stored(Vec<A> v) {
    if constexpr (sizeof(T) == sizeof(A)) {
        return v;
    } else {
        return reinterpret_cast<Vec<A>>(rounded(v) & 0xffff0000u);
    }
}

// A tile: [blocks][height][width] vectors, `pad` of them zeros on each side.
template <typename A>
struct Tile {
    A* data;
    std::int64_t height, width, pad;

    std::int64_t pitch() const { return (width + 2 * pad) * kLanes<A>; }
    std::int64_t plane() const { return (height + 2 * pad) * pitch(); }
    A* at(std::int64_t v, std::int64_t y, std::int64_t x) const {  // of the inner map, -pad to size + pad
        return data + v * plane() + (y + pad) * pitch() + (x + pad) * kLanes<A>;
    }
    // A block of pixels at the end reads past what it needs, by at most two rows at stride 2 and a block.
    static std::int64_t size(std::int64_t blocks, std::int64_t height, std::int64_t width, std::int64_t pad) {
        const std::int64_t pitch = width + 2 * pad;
        return (blocks * (height + 2 * pad) * pitch + 2 * pitch + 32) * kLanes<A>;
    }
    bool same_shape(const Tile& other) const {
        return data == other.data && height == other.height && width == other.width && pad == other.pad;
    }
    void clear_border(std::int64_t blocks) const {
        const std::int64_t side = pad * kLanes<A>, band = pad * pitch() + side;
        for (std::int64_t v = 0; v < blocks && pad > 0; ++v) {
            A* p = data + v * plane();
            std::memset(p, 0, static_cast<std::size_t>(band) * sizeof(A));
            for (std::int64_t y = 0; y + 1 < height; ++y)  // the right of a row and the left of the next one
                std::memset(at(v, y, width), 0, static_cast<std::size_t>(2 * side) * sizeof(A));
            std::memset(at(v, height - 1, width), 0, static_cast<std::size_t>(band) * sizeof(A));
        }
    }
};

// A thread's place for one tile after another: the zeros around it are written only where the shape changes.
template <typename A>
struct Place {
    A* data;
    Tile<A> last = {nullptr, 0, 0, 0};

    Tile<A> tile(std::int64_t blocks, std::int64_t height, std::int64_t width, std::int64_t pad) {
        const Tile<A> next = {data, height, width, pad};
        if (!next.same_shape(last)) next.clear_border(blocks);
        return last = next;
    }
};

// What the ReLU of a normalised input reads, (x - mean) rstd, as (x - near) rstd + rest: with |mean| / std large, the
// rounding of the mean to the arithmetic type alone would be a visible shift.
template <typename A>
struct Normalise {
    const A *near, *rstd, *rest;  // [lanes.width] each; near is null where the input is not normalised

    // Lanes without a channel of an image that exists stay 0.
    static Normalise spread(const double* mean, const double* rstd, const Lanes& lanes, std::int64_t images, A* to) {
        A *near = to, *scale = near + lanes.width, *rest = scale + lanes.width;
        for (std::int64_t k = 0; k < 3 * lanes.width; ++k) to[k] = A{};
        for (std::int64_t i = 0; i < images; ++i) {
            for (std::int64_t c = 0; c < lanes.channels; ++c) {
                const std::int64_t k = i * lanes.stride + c;
                near[k] = static_cast<A>(mean[c]);
                scale[k] = static_cast<A>(rstd[c]);
                rest[k] = static_cast<A>((static_cast<double>(near[k]) - mean[c]) * rstd[c]);
            }
        }
        return {near, scale, rest};
    }
    // Of `count` vectors of block v, in place.
    FASTDARTS_INLINE void apply(const Normalise& n, std::int64_t v, std::int64_t count, A* x) {
        if (!n.near) return;
        const Vec<A> near = load<A>(n.near + v * kLanes<A>), rstd = load<A>(n.rstd + v * kLanes<A>);
        const Vec<A> rest = load<A>(n.rest + v * kLanes<A>);
        for (std::int64_t i = 0; i < count * kLanes<A>; i += kLanes<A>)
            store<A>(x + i, (load<A>(x + i) - near) * rstd + rest);
    }
};

// u = relu(x), or relu of the normalised x, of a group into the inner map of a tile.
template <typename A, typename T>
void load_tile(const Pixels<const T>& x, const Lanes& lanes, const Normalise<A>& normalise, const Tile<A>& tile) {
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        for (std::int64_t y = 0; y < tile.height; ++y) {
            A* row = tile.at(v, y, 0);
            pack(x, lanes, v, y * tile.width, tile.width, row);
            Normalise<A>::apply(normalise, v, tile.width, row);
            for (std::int64_t i = 0; i < tile.width * kLanes<A>; i += kLanes<A>)
                store<A>(row + i, relu<A>(load<A>(row + i)));
        }
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
