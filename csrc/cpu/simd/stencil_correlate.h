// The stencil: a grid of taps on a tile, a block of neighbouring pixels at a time in registers.
#pragma once

#include "../../stencils.h"
#include "stencil_tile.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// Measured on AVX-512 with 5x5 taps, GFLOP/s a core: 140 with one load for each multiplication, 170 to 185 so.
constexpr int kBlock = 8;                                // neighbouring pixels
constexpr int kBlockRows = kVectorBytes == 64 ? 2 : 1;  // 32 registers hold two rows of them

// out(y, x) = sum over (i, j) of w[i][j] * in(stride * y + spacing * i, stride * x + spacing * j).
template <typename A>
struct Grid {
    std::int64_t rows, columns, spacing, stride;
    const A* weights;  // [blocks][rows][columns] vectors
};

// Where the results of one block of channels go; `step` and `pitch` count elements from pixel to pixel, row to row.
template <typename A>
struct Plane {
    A* data;
    std::int64_t height, width, step, pitch;
    bool add;
};

// K taps a row, D pixels apart, outputs S pixels apart.
template <typename A, int K, int D, int S>
FASTDARTS_INLINE void correlate_block(const A* in, std::int64_t pitch, std::int64_t rows, const A* weights,
                                      Vec<A> (&sum)[kBlockRows][kBlock]) {
    for (std::int64_t i = 0; i < rows; ++i, in += D * pitch, weights += K * kLanes<A>) {
        Vec<A> w[K];
        FASTDARTS_UNROLL for (int k = 0; k < K; ++k) w[k] = load<A>(weights + k * kLanes<A>);
        FASTDARTS_UNROLL for (int r = 0; r < kBlockRows; ++r) {
            const A* row = in + r * S * pitch;
            FASTDARTS_UNROLL for (int j = 0; j <= (kBlock - 1) * S + (K - 1) * D; ++j) {
                const Vec<A> value = load<A>(row + j * kLanes<A>);
                FASTDARTS_UNROLL for (int k = 0; k < K; ++k) {
                    const int from = j - k * D;
                    if (from >= 0 && from % S == 0 && from / S < kBlock) sum[r][from / S] += value * w[k];
                }
            }
        }
    }
}

template <typename A>
FASTDARTS_INLINE void write_row(A* out, std::int64_t step, std::int64_t n, bool add, const Vec<A> (&sum)[kBlock]) {
    FASTDARTS_UNROLL for (int i = 0; i < kBlock; ++i) {
        if (i < n) store<A>(out + i * step, add ? load<A>(out + i * step) + sum[i] : sum[i]);
    }
}

template <typename A, int K, int D, int S>
void correlate_rows(const A* in, std::int64_t pitch, std::int64_t rows, const A* weights, const Plane<A>& out) {
    for (std::int64_t y = 0; y < out.height; y += kBlockRows) {
        for (std::int64_t x = 0; x < out.width; x += kBlock) {
            Vec<A> sum[kBlockRows][kBlock] = {};
            correlate_block<A, K, D, S>(in + S * (y * pitch + x * kLanes<A>), pitch, rows, weights, sum);
            FASTDARTS_UNROLL for (int r = 0; r < kBlockRows; ++r) {
                if (y + r < out.height) {
                    A* row = out.data + (y + r) * out.pitch + x * out.step;
                    write_row<A>(row, out.step, out.width - x, out.add, sum[r]);
                }
            }
        }
    }
}

// Of the two halves into which a transposed window at stride 2 falls, the one with an even number of taps in a row; of
// two windows with the same the smaller has it, the other a number of its own that no grid has.
constexpr std::int64_t even_half(std::int64_t side) { return side % 4 == 3 ? (side + 1) / 2 : -side; }

// Applies block v of a grid; in: the input under tap (0, 0) of output (0, 0).
template <typename A>
void correlate(const A* in, std::int64_t pitch, const Grid<A>& grid, std::int64_t v, const Plane<A>& out) {
    const A* weights = grid.weights + v * grid.rows * grid.columns * kLanes<A>;
    if (grid.columns == 0) {  // an output that no tap reaches
        for (std::int64_t y = 0; y < out.height && !out.add; ++y)
            for (std::int64_t x = 0; x < out.width; ++x)
                store<A>(out.data + y * out.pitch + x * out.step, Vec<A>{});
        return;
    }
    switch (grid.columns * 100 + grid.spacing * 10 + grid.stride) {
#define FASTDARTS_CORRELATE(K)                                                                         \
    case K * 100 + 11: return correlate_rows<A, K, 1, 1>(in, pitch, grid.rows, weights, out);          \
    case K * 100 + 12: return correlate_rows<A, K, 1, 2>(in, pitch, grid.rows, weights, out);          \
    case K * 100 + 21: return correlate_rows<A, K, K == 1 ? 1 : 2, 1>(in, pitch, grid.rows, weights, out); \
    case K * 100 + 22: return correlate_rows<A, K, K == 1 ? 1 : 2, 2>(in, pitch, grid.rows, weights, out); \
    case K * 100 + 31: return correlate_rows<A, K, 3, 1>(in, pitch, grid.rows, weights, out);          \
    case K * 100 + 32: return correlate_rows<A, K, K == 1 ? 1 : 3, 2>(in, pitch, grid.rows, weights, out); \
    case even_half(K) * 100 + 11: return correlate_rows<A, (K + 1) / 2, 1, 1>(in, pitch, grid.rows, weights, out); \
    case even_half(K) * 100 + 31: return correlate_rows<A, (K + 1) / 2, 3, 1>(in, pitch, grid.rows, weights, out);
        FASTDARTS_SIDES(FASTDARTS_CORRELATE)  // K 1, 3 apart: a single column of rows of a transposed window
#undef FASTDARTS_CORRELATE
        default: __builtin_trap();
    }
}

// Which taps of a transposed stencil at stride S reach the pixels of parity q, along one side. Output o of the stencil
// reads input S o + D t - pad under tap t, so input S m + q hears, through tap t, output m + (q + pad - D t) / S where
// that is whole: `count` outputs, `spacing` apart, from m + `first` on, the first heard through tap `tap`, each next
// one through the tap `step` before.
struct Parity {
    std::int64_t count, first, spacing, tap, step;
};

FASTDARTS_INLINE Parity parity_of(std::int64_t kernel, std::int64_t dilation, std::int64_t stride, std::int64_t q) {
    const std::int64_t pad = dilation * (kernel / 2);
    Parity found = {0, 0, 1, 0, 1};
    for (std::int64_t t = kernel - 1; t >= 0; --t) {
        const std::int64_t offset = q + pad - dilation * t;
        if (offset % stride != 0) continue;
        if (found.count == 0) found.first = offset / stride, found.tap = t;
        if (found.count == 1) found.step = found.tap - t, found.spacing = dilation * found.step / stride;
        ++found.count;
    }
    return found;
}

// Zeros that a transposed stencil needs around dz.
FASTDARTS_INLINE std::int64_t transposed_padding(std::int64_t kernel, std::int64_t dilation, std::int64_t stride) {
    const std::int64_t pad = dilation * (kernel / 2);
    return stride == 1 ? pad : (pad + 1) / 2;
}

}  // namespace
}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
