// What forward and backward share: sizes, the weights laid out for the kernels, a chunk's rows, threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../stencil.h"
#include "stencil_correlate.h"
#include "stencil_pointwise.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// Vectors of a chunk: with the rows of the tile under it, it stays in half of a 48 KiB L1 cache, which two threads of
// one core share.
constexpr std::int64_t kChunkVectors = 8192 / kVectorBytes;

// For less arithmetic than this (about 50 microseconds of one core), waiting at the end for a thread that a busy
// machine has put aside costs more than a second thread can save.
constexpr double kParallelFlops = 4e6;

FASTDARTS_INLINE int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Sizes of one convolution's outputs.
struct Extent {
    std::int64_t height, width, taps, padding, rows;  // rows: of a chunk

    Extent(const Stencil& p, const StencilConv& conv, const Lanes& lanes) {
        const StencilSource& source = p.sources[conv.source];
        height = ceil_div(source.height, conv.stride);
        width = ceil_div(source.width, conv.stride);
        taps = conv.kernel * conv.kernel;
        padding = conv.dilation * (conv.kernel / 2);
        // The stencil takes two rows at a time: of an odd number, half of the last two would be thrown away.
        rows = smaller(height, larger(1, kChunkVectors / (2 * width * lanes.blocks)) * 2);
    }
};

// Zeros around a source's tile, for the widest of its convolutions.
FASTDARTS_INLINE std::int64_t padding_of(const Stencil& p, std::int64_t source) {
    std::int64_t padding = 0;
    for (std::int64_t i = 0; i < p.conv_count; ++i) {
        const StencilConv& conv = p.convs[i];
        if (conv.source == source) padding = larger(padding, conv.dilation * (conv.kernel / 2));
    }
    return padding;
}

// Zeros around dz: the same for all convolutions of one source and stride, so that they are written once.
FASTDARTS_INLINE std::int64_t turned_padding_of(const Stencil& p, const StencilConv& like) {
    std::int64_t padding = 0;
    for (std::int64_t i = 0; i < p.conv_count; ++i) {
        const StencilConv& conv = p.convs[i];
        if (conv.source == like.source && conv.stride == like.stride)
            padding = larger(padding, transposed_padding(conv.kernel, conv.dilation, conv.stride));
    }
    return padding;
}

// The largest of everything, for scratch.
struct Extents {
    std::int64_t taps = 1, chunk = 1, tile = 0, dz = 0, area = 0;  // tile, dz: elements; chunk, area: pixels

    template <typename A>
    static Extents of(const Stencil& p, const Lanes& lanes) {
        Extents most;
        for (std::int64_t s = 0; s < p.source_count; ++s) {
            const StencilSource& source = p.sources[s];
            std::int64_t padding = 0;
            for (std::int64_t i = 0; i < p.conv_count; ++i) {
                const StencilConv& conv = p.convs[i];
                if (conv.source != s) continue;
                const Extent e(p, conv, lanes);
                const std::int64_t pad = turned_padding_of(p, conv);
                padding = larger(padding, e.padding);
                most.taps = larger(most.taps, e.taps);
                most.chunk = larger(most.chunk, e.rows * e.width);
                most.dz = larger(most.dz, Tile<A>::size(lanes.blocks, e.height, e.width, pad));
            }
            most.tile = larger(most.tile, Tile<A>::size(lanes.blocks, source.height, source.width, padding));
            most.area = larger(most.area, source.height * source.width);
        }
        most.chunk = ceil_div(most.chunk, kPixels) * kPixels;
        return most;
    }
};

FASTDARTS_INLINE int threads_for(const Stencil& p) {
    double flops = 0;
    for (std::int64_t i = 0; i < p.conv_count; ++i) {
        const StencilConv& conv = p.convs[i];
        const StencilSource& source = p.sources[conv.source];
        const double outputs = static_cast<double>(ceil_div(source.height, conv.stride)) *
                               static_cast<double>(ceil_div(source.width, conv.stride) * p.count * p.channels);
        flops += 2 * outputs * static_cast<double>(conv.kernel * conv.kernel + p.channels);
    }
    return flops < kParallelFlops ? 1 : p.threads;
}

// The channel in lane k of block v, -1 where there is none.
FASTDARTS_INLINE std::int64_t channel_in(const Lanes& lanes, std::int64_t v, std::int64_t k, std::int64_t width) {
    const std::int64_t c = lanes.images == 1 ? v * width + k : k % lanes.stride;
    return c < lanes.channels ? c : -1;
}

// The taps of a grid, [blocks][rows][columns] vectors, from weights [channels][kernel][kernel].
template <typename A>
void lay_taps(const A* depthwise, std::int64_t kernel, const Parity& rows, const Parity& columns, const Lanes& lanes,
              A* to) {
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        for (std::int64_t i = 0; i < rows.count; ++i) {
            for (std::int64_t j = 0; j < columns.count; ++j, to += kLanes<A>) {
                const std::int64_t tap = (rows.tap - i * rows.step) * kernel + columns.tap - j * columns.step;
                for (int k = 0; k < kLanes<A>; ++k) {
                    const std::int64_t c = channel_in(lanes, v, k, kLanes<A>);
                    to[k] = c < 0 ? A{} : depthwise[c * kernel * kernel + tap];
                }
            }
        }
    }
}

// All taps in their order, as the forward stencil has them.
FASTDARTS_INLINE Parity all_taps(const StencilConv& conv) {
    const std::int64_t pad = conv.dilation * (conv.kernel / 2);
    return {conv.kernel, -pad, conv.dilation, 0, -1};
}

// A matrix [channels][lanes.width] for pointwise(): element (r, c) is pointwise[r * row + c * column].
template <typename A>
void lay_matrix(const A* pointwise, std::int64_t row, std::int64_t column, const Lanes& lanes, A* to) {
    for (std::int64_t r = 0; r < lanes.channels; ++r) {
        for (std::int64_t v = 0; v < lanes.blocks; ++v) {
            for (int k = 0; k < kLanes<A>; ++k, ++to) {
                const std::int64_t c = channel_in(lanes, v, k, kLanes<A>);
                *to = c < 0 ? A{} : pointwise[r * row + c * column];
            }
        }
    }
}

// z of rows [begin, begin + rows) of one convolution's outputs, from its source's tile.
template <typename A>
void depthwise_rows(const Tile<A>& tile, const StencilConv& conv, const A* weights, const Lanes& lanes,
                    std::int64_t begin, std::int64_t rows, std::int64_t width, const Chunk<A>& z) {
    const Parity taps = all_taps(conv);
    const Grid<A> grid = {taps.count, taps.count, taps.spacing, conv.stride, weights};
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        const A* in = tile.at(v, begin * conv.stride + taps.first, taps.first);
        correlate(in, tile.pitch(), grid, v, {z.block(v), rows, width, kLanes<A>, width * kLanes<A>, false});
    }
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
