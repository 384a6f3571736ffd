// How the backward pass of the stencil is cut into blocks of threads, and what its kernels are told.
//
// The story of csrc/cuda/stencil_backward*:
//   gradient   A block owns a tile of a source's pixels and a few of its channels. For each convolution of the source
//              it forms dz = P^T dy on the tile and its halo on the matrix unit, dy = alpha g + beta y + gamma being
//              read straight into the fragments, and correlates dz with the turned taps; the sum over the convolutions
//              never leaves the registers until it is masked and written, once.
//   weights    A block owns a slot of tiles of a convolution's outputs and a few of its channels. It forms dz as above
//              and the gradient of the taps from it, in registers from tile to tile, z from the source, and dP = dy z^T
//              on the matrix unit, in shared memory.
//   fold       Adds up the slots in their order, in float64.
// Slots and tiles depend on shapes only, so that results are the same bits on any device and in any run.
#pragma once

#include <cstdint>

#include "device.cuh"

// FASTDARTS_ROLLED is before a loop that would cost registers unrolled; parameters of kilobytes are not copied for each
// thread.
#define FASTDARTS_BOTH __host__ __device__
#if defined(FASTDARTS_SHIM)
#define FASTDARTS_ROLLED
#define FASTDARTS_PARAMETERS(...) const __VA_ARGS__&
#else
#define FASTDARTS_ROLLED _Pragma("unroll 1")
#define FASTDARTS_PARAMETERS(...) const __grid_constant__ __VA_ARGS__
#endif

namespace fastdarts {
namespace cuda {
namespace backward {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 4, kColumns = 8;        // outputs of a thread
constexpr int kMostChannels = 32;             // of a block
constexpr int kMatrixRows = 128;              // of dP in a block
constexpr int kMostSources = 32, kMostConvs = 128;  // of a launch: what fits into its parameters
constexpr int kShared = 96 << 10;             // bytes of a block: two on a multiprocessor of 228 KB, one of 100 KB

FASTDARTS_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FASTDARTS_BOTH constexpr int smaller(int a, int b) { return a < b ? a : b; }
FASTDARTS_BOTH constexpr int larger(int a, int b) { return a > b ? a : b; }
FASTDARTS_BOTH constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
// An odd number of 16-byte words: eight threads a row or a channel apart then meet no bank twice.
FASTDARTS_BOTH constexpr int odd_words(int floats) { return (ceil_div(floats, 4) | 1) * 4; }

// A tile: `images` x `rows` x `columns` outputs; `channels` of them belong to one block.
struct Tiling {
    int images, rows, columns, channels;
    int groups, down, across, chunks;    // how many tiles, and blocks a tile
    int image_bits, row_bits, column_bits;  // of the first three, which are powers of two

    FASTDARTS_BOTH int tiles() const { return groups * down * across; }
    FASTDARTS_BOTH int items() const { return columns / kColumns * 2 * images * rows / kRows * ceil_div(channels, 2); }
};

// Where a tile begins.
struct Place {
    int image, row, column;
};

FASTDARTS_BOTH inline Place place_of(const Tiling& t, int tile) {
    const int across = tile % t.across, rest = tile / t.across;
    return {rest / t.down * t.images, rest % t.down * t.rows, across * t.columns};
}

// Planes of a block in shared memory: [channels][images][rows][pitch].
struct Planes {
    int rows, columns, pitch, image, channel;  // the last three: floats from one to the next

    FASTDARTS_BOTH Planes(int images, int rows, int columns)
        : rows(rows),
          columns(columns),
          pitch(odd_words(columns)),
          image(rows * pitch),
          channel(odd_words(images * image)) {}
};

// Pixels of y, and where dz of each lies in the planes: row (row + i) * stride - row_origin.
struct Region {
    int row, rows, column, columns;  // what is written
    int stride, row_origin, column_origin;
};

// Division by a number that a block shares; exact where dividend times divisor is below 2^32.
struct Divisor {
    unsigned by, factor;

    FASTDARTS_BOTH explicit Divisor(int d) : by(static_cast<unsigned>(d)), factor(0xffffffffu / by + 1) {}
    FASTDARTS_BOTH int operator()(int n) const {
        return by == 1 ? n : static_cast<int>(static_cast<std::uint64_t>(static_cast<unsigned>(n)) * factor >> 32);
    }
};

// What all threads of a block need of a convolution and a tile: in shared memory, since it is the same for all of them
// and registers are what the kernels lack.
struct Desk {
    Place place;
    Region region;
    Planes planes, outputs;  // what windows meet; the tile's own pixels
    Divisor across, rows, area, columns;  // of the region, in groups of eight pixels; of the planes
    int matrix, mix, taps, tile, own;  // floats into shared memory
    int kernel, dilation, stride;
    // Of the weights kernel: its convolution; the tile, and how far to the next; its channels and rows of dP.
    int job, tile_index, slots, first, chunk, matrix_row, matrix_rows;
};
constexpr int kDeskFloats = 48, kDesks = 2 * kDeskFloats;  // one in use, one being laid
static_assert(sizeof(Desk) <= kDeskFloats * sizeof(float), "a desk has no room");

FASTDARTS_BOTH constexpr int reach(int kernel, int dilation) { return (kernel - 1) * dilation; }
FASTDARTS_BOTH constexpr int taps_row(int kernel) { return kernel <= 3 ? 4 : 8; }
FASTDARTS_BOTH constexpr int taps_pitch(int kernel) { return odd_words(kernel * taps_row(kernel)); }

// Floats of shared memory before the planes and after what a kernel keeps: pointwise weights, coefficients of dy, taps.
FASTDARTS_BOTH inline int matrix_floats(int channels, int chunk) {
    return ceil_div(channels, 16) * ceil_div(chunk, 8) * 256;
}
// The sums of dP in fragments: [warps][chunk / 8][lane][4].
FASTDARTS_BOTH inline int sums_floats(int chunk) { return kWarps * ceil_div(chunk, 8) * 128; }
FASTDARTS_BOTH inline int mix_floats(int channels) { return ceil_div(channels, 16) * 16 * 4; }
FASTDARTS_BOTH inline int prefix_floats(int channels, int chunk, int kernel) {
    return matrix_floats(channels, chunk) + mix_floats(channels) + chunk * taps_pitch(kernel);
}

struct MapView {
    void* data;
    std::int64_t pixel;
    int vectors;  // whether four channels are one aligned word
};

struct ConvJob {
    const float *depthwise, *pointwise;
    MapView y, g;                              // y: null data where beta is 0
    int row;                                   // of the coefficients
    int kernel, dilation, stride;
    int height, width;                         // of y
};

// With the weights from float `base` of shared memory on.
FASTDARTS_BOTH inline Desk desk_of(const Place& place, const Region& region, const Planes& planes,
                                   const Planes& outputs, int channels, int chunk, const ConvJob& conv, int base) {
    const int mix = base + matrix_floats(channels, chunk), tile = base + prefix_floats(channels, chunk, conv.kernel);
    return {place, region, planes, outputs, Divisor(larger(ceil_div(region.columns, 8), 1)),
            Divisor(larger(region.rows, 1)), Divisor(planes.rows * planes.columns), Divisor(planes.columns), base, mix,
            mix + mix_floats(channels), tile, tile + chunk * planes.channel, conv.kernel, conv.dilation, conv.stride,
            0, 0, 0, 0, 0, 0, 0};
}

struct SourceJob {
    MapView x, dx;
    int row;                                   // of the statistics and sums
    int height, width;
    int first_conv, conv_count;
    int first_block, first_part;               // of the launch; of the partial sums
    Tiling tiling;                             // of the source's pixels
};

// Of the gradient kernel.
struct SourcesLaunch {
    int count, channels, source_count, exact, add;
    const double *mean, *rstd, *alpha, *beta, *gamma;
    double *parts, *sums, *products;           // [parts][2][channels]; [sources][channels]
    SourceJob sources[kMostSources];
    ConvJob convs[kMostConvs];
};

// Of the fold of its sums: a launch copies its parameters, 416 bytes where the kernel's are 15 KB.
struct SumsFold {
    struct Source {
        int row, first_part, tiles;
    };
    int channels;
    const double* parts;
    double *sums, *products;
    Source sources[kMostSources];
};

struct WeightsJob {
    ConvJob conv;
    MapView x;
    float *ddepthwise, *dpointwise;
    int source_row, height, width;             // of x
    int first_block, slots, blocks_down;       // blocks_down: parts of dP's rows
    std::int64_t first_part;                   // floats into the partial sums: [slots][channels^2 + channels k^2]
    Tiling tiling;                             // of y's pixels
};

// Of the weights kernel.
struct WeightsLaunch {
    int count, channels, conv_count, exact;
    const double *mean, *rstd, *alpha, *beta, *gamma;
    float* parts;
    WeightsJob jobs[kMostConvs];
};

// Of the fold of its sums: 4 KB where the kernel's are 26 KB.
struct WeightsFold {
    struct Conv {
        float *ddepthwise, *dpointwise;
        std::int64_t first_part;
        int taps, slots;
    };
    int channels, blocks;                      // blocks: of a convolution
    const float* parts;
    Conv convs[kMostConvs];
};

static_assert(sizeof(SourcesLaunch) <= 32764 && sizeof(WeightsLaunch) <= 32764, "more than a kernel's parameters hold");

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
