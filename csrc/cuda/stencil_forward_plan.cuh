// How the forward pass of the stencil is cut into blocks of threads, and what its kernel is told.
//
// The story of csrc/cuda/stencil_forward* and stencil_tile.cuh: a block owns a tile of a source's outputs, of one image
// or of several where maps are small, for a few of the source's convolutions.
//   tile       The source's pixels under it, with its ReLU applied and zeros outside the map, are copied once into
//              shared memory, channel by channel: [channels][images][rows][pitch]. Where not all channels fit, they
//              come in chunks, once more for each convolution.
//   depthwise  A thread owns 4 x 8 outputs of a channel (4 x 4 at stride 2) in registers. The rows that they meet are
//              loaded once each, and serve every row of the kernel; z goes to shared memory, [channels][pixels].
//   pointwise  A warp multiplies 32 pixels of z by P^T for up to 32 channels on the matrix unit, rounds, stores four
//              channels of a pixel at a time and adds up the moments of what it stored, about one of the values.
//   fold       A second kernel adds up the blocks' moments by Chan's rule in float64, in their order.
// Tiles and slots follow from the shapes alone, so results are the same bits in every run and on every device.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "stencil.h"

namespace fastdarts {
namespace cuda {
namespace forward {

constexpr int kThreads = 256, kRows = 4;  // threads of a block at most; rows of outputs of a thread
constexpr int kMostTasks = 16, kMostConvs = 64;  // of a launch: what its parameters hold
constexpr int kShared = 99 << 10;  // bytes of a block: what every GPU since sm_80 gives; two fit into 228 KB

__host__ __device__ constexpr int columns_of(int stride) { return stride == 1 ? 8 : 4; }  // of outputs of a thread

// Where a block's shared memory has what, in floats; the source's tile is at its beginning.
struct Layout {
    int pixels, padded;  // of the tile's outputs; channels that z has, zeros behind the last
    int z, weights, table, counts, parts, statistics, end;
};

// All outputs that one source has at one stride, in tiles.
struct Task {
    const void* x;
    std::int64_t pixel;
    int source, height, width, out_height, out_width;
    int rows, columns, images;        // of outputs in a tile
    int down, across;                 // tiles of an image
    int taps;                         // of the largest kernel
    int margin, left;                 // zeros above and beside: as many as are read, and as they lie in shared memory
    int in_rows, pitch, plane;        // of the source's tile: rows of an image; floats from row to row and from channel
                                      // to channel
    Layout layout;
    int chunk;                        // channels that are in shared memory at once
    int first_conv, convs, group;     // convolutions, and how many of them a block takes
    int first_block;
    bool wide;                        // whether four channels of x can be loaded at once
};

struct Conv {
    const float *depthwise, *pointwise;
    void* y;
    std::int64_t y_pixel, slot;  // slot: the first of its tiles' moments
    int index;                   // in the call
    std::int16_t kernel, dilation;
    bool wide_y, wide_pointwise, wide_depthwise;  // whether four neighbours can be accessed at once
};

// A launch's parameters; one stride.
struct Forward {
    Task tasks[kMostTasks];
    Conv convs[kMostConvs];
    int task_count, conv_count, count, channels;
    bool precise;               // whether products of float32 keep its accuracy
    const double *mean, *rstd;  // [sources, channels] or null
    double *moments, *counts;   // [slots][2][channels]: means, sums of squares about them; [slots]; or null
};

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int up(int a, int to) { return ceil_div(a, to) * to; }

// Rows of z: what the matrix unit takes at a time.
inline int padded_channels(int channels) { return channels <= 8 ? 8 : up(channels, 16); }

// Where a tile begins: in outputs.
struct Corner {
    int image, row, column;
};

__host__ __device__ inline Corner corner_of(const Task& t, int tile) {
    const int rest = tile / t.across;
    return {rest / t.down * t.images, rest % t.down * t.rows, tile % t.across * t.columns};
}

__host__ __device__ inline int tiles_of(const Task& t, int count) {
    return ceil_div(count, t.images) * t.down * t.across;
}

inline Layout layout_of(const Task& t, int channels) {
    Layout l{};
    l.pixels = t.images * t.rows * t.columns;
    l.padded = padded_channels(channels);
    l.z = up(t.chunk * t.plane, 32);  // the swizzle of z turns bits of the address
    l.weights = l.z + l.padded * l.pixels;
    l.table = l.weights + up(t.chunk * t.taps, 4);
    l.counts = l.table + l.pixels;
    l.parts = l.counts + l.pixels / 32;
    l.statistics = l.parts + l.pixels / 32 * 3 * l.padded;
    l.end = l.statistics + 3 * channels;
    return l;
}

// The planes of a tile at its rows, columns and images; then as many channels as there is room for.
inline void lay_out(Task& t, int stride, int channels) {
    const int columns = columns_of(stride);
    t.in_rows = (t.rows - 1) * stride + 1 + 2 * t.margin;
    // The windows of the last columns end at a multiple of four past the margin. Where eight threads are not eight
    // channels but several rows, an odd number of fours keeps those out of each other's banks.
    t.pitch = up(t.left + (t.columns - 1) * stride + 1 + t.margin, 4);
    if (channels % 8 != 0) t.pitch = (t.pitch / 4 | 1) * 4;
    t.plane = t.images * t.in_rows * t.pitch;
    t.plane += (36 - t.plane % 32) % 32;  // 4 past a multiple of 32: neighbouring channels, neighbouring banks
    const int items = t.images * (t.rows / kRows) * (t.columns / columns);
    for (int chunks = 1; chunks <= channels; ++chunks) {
        t.chunk = ceil_div(channels, chunks);
        if (chunks > 1) t.chunk = up(t.chunk, channels % 8 == 0 ? 8 : 4);
        t.layout = layout_of(t, channels);
        if (items * t.chunk <= kThreads && t.layout.end * static_cast<int>(sizeof(float)) <= kShared) return;
        if (t.chunk <= 4) break;
    }
    t.chunk = 0;
}

// What a tiling costs, in cycles of a multiprocessor; estimates for an H200, not measured. Constants, not the device's:
// the tiles decide in which order moments are added up.
inline double cost_of(const Task& t, int stride, double taps, const Stencil& p) {
    constexpr double multiprocessors = 132, memory = 227 << 10, most_warps = 16, enough_warps = 12;
    constexpr double a_conv = 600, loading = 10.0 / 128, reuse = 4;
    const int channels = static_cast<int>(p.channels), chunks = ceil_div(channels, t.chunk);
    const int pixels = t.layout.pixels, outputs = kRows * columns_of(stride);
    const double warps = ceil_div(pixels / outputs * t.chunk, 32), shared = t.layout.end * sizeof(float) + 1024.0;
    const double resident = std::max(1.0, std::floor(std::min(most_warps / warps, memory / shared)));
    const double loaded = static_cast<double>(t.images) * t.in_rows * ((t.columns - 1) * stride + 1 + 2 * t.margin);
    const double padded = t.layout.padded;
    const double a_block = a_conv / resident + chunks * warps * 32 * outputs * taps / 80 +
                           pixels * padded * (padded * 3 / 600 + 0.05) +
                           loaded * channels * loading / (chunks > 1 ? 1 : std::min<double>(reuse, t.convs));
    const double tiles = tiles_of(t, static_cast<int>(p.count)), blocks = tiles * static_cast<double>(p.conv_count);
    return tiles * a_block * std::max(1.0, enough_warps / (resident * warps)) *
           std::max(1.0, multiprocessors * resident / blocks);
}

// Chooses the tile of a task whose sizes and margin are known.
inline void choose_tile(Task& t, int stride, double taps, const Stencil& p) {
    const int step = stride == 1 ? 2 * kRows : kRows;  // dilated rows go by pairs of four
    Task best{};
    double least = 0;
    for (t.rows = step; t.rows < t.out_height + step; t.rows += step) {
        for (t.columns = 8; t.columns < t.out_width + 8 && t.columns <= 64; t.columns += 8) {
            t.down = ceil_div(t.out_height, t.rows);
            t.across = ceil_div(t.out_width, t.columns);
            const int most = t.down * t.across > 1 ? 1 : static_cast<int>(std::min<std::int64_t>(p.count, 8));
            for (t.images = 1; t.images <= most; ++t.images) {
                lay_out(t, stride, static_cast<int>(p.channels));
                if (t.chunk == 0) break;
                const double cost = cost_of(t, stride, taps, p);
                if (best.chunk == 0 || cost < least) best = t, least = cost;
            }
        }
    }
    if (best.chunk == 0) throw std::runtime_error("stencil: so many channels do not fit into shared memory");
    t = best;
}

// Tasks of one stride, in the order of the sources, and the call's convolutions in the order of the tasks.
struct Plan {
    std::vector<Task> tasks;
    std::vector<Conv> convs;
    std::vector<int> strides;  // of the tasks
    std::int64_t slots = 0;

    explicit Plan(const Stencil& p) {
        const int count = static_cast<int>(p.count);
        double work = 0;
        for (int stride = 1; stride <= 2; ++stride) {
            for (std::int64_t s = 0; s < p.source_count; ++s) {
                Task t{};
                t.first_conv = static_cast<int>(convs.size());
                double taps = 0;
                for (std::int64_t i = 0; i < p.conv_count; ++i) {
                    const StencilConv& c = p.convs[i];
                    if (c.source != s || c.stride != stride) continue;
                    Conv conv{};
                    conv.index = static_cast<int>(i);
                    conv.kernel = static_cast<std::int16_t>(c.kernel);
                    conv.dilation = static_cast<std::int16_t>(c.dilation);
                    convs.push_back(conv);
                    t.margin = std::max(t.margin, static_cast<int>(c.dilation * (c.kernel / 2)));
                    t.taps = std::max(t.taps, static_cast<int>(c.kernel * c.kernel));
                    taps += static_cast<double>(c.kernel * c.kernel);
                    ++t.convs;
                }
                if (t.convs == 0) continue;
                t.source = static_cast<int>(s);
                t.height = static_cast<int>(p.sources[s].height);
                t.width = static_cast<int>(p.sources[s].width);
                t.out_height = ceil_div(t.height, stride);
                t.out_width = ceil_div(t.width, stride);
                t.left = up(std::max(t.margin, 1), 4);
                choose_tile(t, stride, taps / t.convs, p);
                for (int i = 0; i < t.convs; ++i) {
                    convs[t.first_conv + i].slot = slots;
                    slots += tiles_of(t, count);
                }
                work += static_cast<double>(tiles_of(t, count)) * t.convs;
                tasks.push_back(t);
                strides.push_back(stride);
            }
        }
        // Enough blocks for every multiprocessor to have several, then as much use of a loaded tile as possible.
        const int group = std::clamp(static_cast<int>(work / 768), 1, 8);
        for (Task& t : tasks) t.group = ceil_div(t.convs, ceil_div(t.convs, group));
    }
};

}  // namespace forward
}  // namespace cuda
}  // namespace fastdarts
