// The gradients of the weights: dD = dz x taps of relu(x) and dP = dy z^T, over a slot of tiles.
#pragma once

#include "stencil_backward_gradient.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

// relu of the source, normalised where asked, in the planes that a tile's windows meet; 0 outside the source. Returns
// whether all that the thread read is finite.
template <typename T>
__device__ bool load_source(const WeightsLaunch& p, const WeightsJob& job, const Desk& desk, int first, int chunk,
                            float* to) {
    const ConvJob& conv = job.conv;
    const Planes& planes = desk.planes;
    const int quads = ceil_div(chunk, 4), step = kThreads / quads, index = thread_index();
    if (index >= step * quads) return true;
    const int c = index % quads * 4, padding = reach(conv.kernel, conv.dilation) / 2;
    const int top = desk.place.row * conv.stride - padding, left = desk.place.column * conv.stride - padding;
    Normalise normalise[4];
    FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) {
        const int own = smaller(first + c + k, p.channels - 1);
        normalise[k] = Normalise::of(p.mean, p.rstd, static_cast<std::int64_t>(job.source_row) * p.channels + own);
    }
    float strange = 0;  // NaN where a value is not finite
    const int area = planes.rows * planes.columns, pixels = job.tiling.images * area;
    FASTDARTS_ROLLED for (int i = index / quads; i < pixels; i += step) {
        const int image = desk.area(i), rest = i - image * area, row = desk.columns(rest);
        const int column = rest - row * planes.columns, n = desk.place.image + image, y = top + row, x = left + column;
        float value[4] = {};
        if (n < p.count && y >= 0 && y < job.height && x >= 0 && x < job.width) {
            const std::int64_t pixel = (static_cast<std::int64_t>(n) * job.height + y) * job.width + x;
            read_channels(static_cast<const T*>(job.x.data) + pixel * job.x.pixel + first, c, chunk, job.x.vectors,
                          value);
            FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) {
                const float a = p.mean ? normalise[k](value[k]) : value[k];
                value[k] = a <= 0.0f ? 0.0f : a;  // a NaN stays one
                strange += value[k] * 0.0f;
            }
        }
        float* const out = to + c * planes.channel + image * planes.image + row * planes.pitch + column;
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) {
            if (c + k < chunk) out[k * planes.channel] = value[k];
        }
    }
    return strange == 0.0f;
}

// dz, from its place in the planes, times what the taps met; as many columns at a time as there are registers beside
// the sums, like z below: the compiler loads windows and taps well ahead of their use.
template <int N>
struct GatherTaps {
    const float *tile, *own;
    int pitch, own_pitch;
    float (&sums)[N];

    template <int K, int D, int S>
    FASTDARTS_DEVICE void run() const {
        constexpr int C = K < 5 ? kColumns : kColumns / 2;
        FASTDARTS_ROLLED for (int column = 0; column < kColumns; column += C) {
            float dz[kRows][C];
            FASTDARTS_UNROLL for (int r = 0; r < kRows; ++r) {
                const Window<C> words(own + r * own_pitch + column);
                FASTDARTS_UNROLL for (int c = 0; c < C; ++c) dz[r][c] = words.values[c];
            }
            gather_taps<K, D, S>(tile + column * S, pitch, dz, sums);
        }
    }
};

// z, into the place of dz, 0 outside y, where dy is not 0 times something that may be infinite.
struct Correlate {
    const float *tile, *taps;
    float* own;
    int pitch, own_pitch, rows, columns;  // rows, columns: how many of the outputs lie inside y

    template <int K, int D, int S>
    FASTDARTS_DEVICE void run() const {
        constexpr int C = kColumns / 2;
        FASTDARTS_ROLLED for (int column = 0; column < kColumns; column += C) {
            float z[kRows][C] = {};
            correlate<K, D, S, 1>(tile + column * S, pitch, taps, z);
            FASTDARTS_UNROLL for (int r = 0; r < kRows; ++r) {
                FASTDARTS_UNROLL for (int c = 0; c < C; ++c) {
                    z[r][c] = r < rows && column + c < columns ? z[r][c] : 0.0f;
                }
                *reinterpret_cast<float4*>(own + r * own_pitch + column) = float4{z[r][0], z[r][1], z[r][2], z[r][3]};
            }
        }
    }
};

// gather_taps for outputs of which only some lie inside y, where a 0 outside may meet an infinity.
template <int N>
FASTDARTS_DEVICE void gather_inside(const Desk& desk, const float* tile, const float* dz, int rows, int columns,
                                    float (&sums)[N]) {
    const int kernel = desk.kernel, pitch = desk.planes.pitch, dz_pitch = desk.outputs.pitch;
    int column = 0;
    FASTDARTS_UNROLL for (int k = 0; k < N; ++k) {
        if (k < kernel * kernel) {
            FASTDARTS_ROLLED for (int i = 0; i < kRows * kColumns; ++i) {
                const int r = i / kColumns, c = i % kColumns;
                if (r < rows && c < columns) sums[k] += dz[r * dz_pitch + c] * tile[(r * pitch + c) * desk.stride];
            }
            tile += desk.dilation;
            if (++column == kernel) {
                column = 0;
                tile += (pitch - kernel) * desk.dilation;
            }
        }
    }
}

// The sums of the threads that share a channel, in their order.
template <int N>
__device__ void write_taps(const Tiling& t, int kernel, int chunk, const float (&sums)[N], float* shared, float* to) {
    const int taps = kernel * kernel, index = thread_index();
    const int across = t.columns / kColumns, lines = t.images * t.rows / kRows;
    FASTDARTS_UNROLL for (int k = 0; k < N; ++k) {
        if (k < taps) shared[k * kThreads + index] = sums[k];
    }
    block_sync();
    for (int i = index; i < chunk * taps; i += kThreads) {
        const int c = i / taps, tap = i - c * taps;
        float sum = 0;
        for (int line = 0; line < lines; ++line) {
            const float* from = shared + tap * kThreads + ((c / 2 * lines + line) * 2 + c % 2) * across;
            for (int x = 0; x < across; ++x) sum += from[x];
        }
        to[i] = sum;
    }
}

// The sums of the warps that share rows of dP, in their order.
__device__ inline void write_matrix(const float* sums, int rows, int channels, int chunk, float* to) {
    const int blocks = ceil_div(rows, 16), splits = kWarps / blocks, wide = ceil_div(chunk, 8);
    for (int i = thread_index(); i < rows * chunk; i += kThreads) {
        const int row = i / chunk, c = i - row * chunk, lane = row % 16 / 2 * 4 + c % 8 / 2;
        const float* from = sums + ((row / 16 * wide + c / 8) * 32 + lane) * 4 + row % 2 * 2 + c % 2;
        float sum = 0;
        for (int split = 0; split < splits; ++split) sum += from[split * blocks * wide * 128];
        to[static_cast<std::int64_t>(row) * channels + c] = sum;
    }
}

// The desk of a tile of a convolution.
__device__ inline Desk weights_desk(const WeightsLaunch& p, int number, int tile, int first, int row) {
    const WeightsJob& job = p.jobs[number];
    const ConvJob& conv = job.conv;
    const Tiling& t = job.tiling;
    const int around = reach(conv.kernel, conv.dilation), s = conv.stride;
    const int chunk = smaller(t.channels, p.channels - first);
    const Place place = place_of(t, tile);
    const Region region = {place.row, t.rows, place.column, t.columns, 1, place.row, place.column};
    const Planes planes(t.images, (t.rows - 1) * s + around + 1, (t.columns - 1) * s + around + 1);
    Desk desk = desk_of(place, region, planes, Planes(t.images, t.rows, t.columns), p.channels, chunk, conv,
                        kDesks + sums_floats(chunk));
    desk.job = number, desk.tile_index = tile, desk.slots = job.slots, desk.first = first, desk.chunk = chunk;
    desk.matrix_row = row, desk.matrix_rows = smaller(kMatrixRows, p.channels - row);
    return desk;
}

__device__ inline Desk first_desk(const WeightsLaunch& p) {
    const int block = static_cast<int>(blockIdx.x);
    int number = 0;
    while (number + 1 < p.conv_count && block >= p.jobs[number + 1].first_block) ++number;
    const WeightsJob& job = p.jobs[number];
    const int own = block - job.first_block, rest = own / job.tiling.chunks;
    return weights_desk(p, number, rest / job.blocks_down, own % job.tiling.chunks * job.tiling.channels,
                        rest % job.blocks_down * kMatrixRows);
}

__device__ inline Desk next_desk(const WeightsLaunch& p, const Desk& desk) {
    return weights_desk(p, desk.job, desk.tile_index + desk.slots, desk.first, desk.matrix_row);
}

// The stencils of a tile: the taps' gradient from dz, then z in its place. Only the first rows of dP bring the former.
template <bool Large, int N>
FASTDARTS_DEVICE void spread(const WeightsLaunch& p, const Desk& desk, bool finite, float* shared, float (&sums)[N]) {
    const WeightsJob& job = p.jobs[desk.job];
    const Item item(job.tiling, thread_index());
    if (item.channel >= desk.chunk) return;
    const float* tile = shared + desk.tile + item.in(desk.planes, desk.stride);
    float* const own = shared + desk.own + item.in(desk.outputs, 1);
    const int pitch = desk.planes.pitch, own_pitch = desk.outputs.pitch;
    const int rows = desk.place.image + item.image < p.count ? job.conv.height - desk.place.row - item.row : 0;
    const int columns = job.conv.width - desk.place.column - item.column;
    if (desk.matrix_row == 0) {
        if (finite) {
            dispatch<Large>(desk.kernel, desk.dilation, desk.stride, GatherTaps<N>{tile, own, pitch, own_pitch, sums});
        } else {
            gather_inside(desk, tile, own, rows, columns, sums);
        }
    }
    const float* taps = shared + desk.taps + item.channel * taps_pitch(desk.kernel);
    dispatch<Large>(desk.kernel, desk.dilation, desk.stride,
                    Correlate{tile, taps, own, pitch, own_pitch, rows, columns});
}

// What all tiles of a block share. Before their loop: inside it, its indices would take up registers in every turn.
__device__ inline void lay_weights(const WeightsLaunch& p, const Desk& desk, float* shared) {
    const ConvJob& conv = p.jobs[desk.job].conv;
    const int chunk = desk.chunk;
    const std::int64_t row = static_cast<std::int64_t>(conv.row) * p.channels;
    lay_matrix(conv.pointwise, p.channels, desk.first, chunk, shared + desk.matrix);
    lay_mix(p.alpha + row, p.beta + row, p.gamma + row, p.channels, shared + desk.mix);
    lay_taps(conv, desk.first, chunk, false, shared + desk.taps);
    for (int i = thread_index(); i < sums_floats(chunk); i += kThreads) shared[kDesks + i] = 0.0f;
    if (thread_index() == 0) *reinterpret_cast<int*>(shared + desk.own + chunk * desk.outputs.channel) = -1;
}

// The 49 sums of a kernel of 7 leave no room for a second block on a multiprocessor.
template <typename T, bool Large>
__global__ void __launch_bounds__(kThreads, Large ? 1 : 2) weights_kernel(FASTDARTS_PARAMETERS(WeightsLaunch) p) {
    FASTDARTS_SHARED(bytes);
    float* const shared = reinterpret_cast<float*>(bytes);
    Desk& desk = *reinterpret_cast<Desk*>(shared);
    if (thread_index() == 0) desk = first_desk(p);
    block_sync();
    lay_weights(p, desk, shared);
    float sums[Large ? 49 : 25] = {};
    for (;;) {
        block_sync();
        const WeightsJob& job = p.jobs[desk.job];
        const Tiling& t = job.tiling;
        if (desk.tile_index >= t.tiles()) break;
        const int chunk = desk.chunk;
        float* const own = shared + desk.own;                                             // dz, then z
        int* const strange = reinterpret_cast<int*>(own + chunk * desk.outputs.channel);  // the tile not all finite
        bool finite = load_source<T>(p, job, desk, desk.first, chunk, shared + desk.tile);
        if (desk.matrix_row == 0) {
            finite &= mix_back<T>(job.conv, desk, t.images, p.count, p.channels, chunk, three_passes<T>(p.exact),
                                  desk.outputs, shared, own);
        }
        if (!finite) *strange = desk.tile_index;
        block_sync();
        finite = *strange != desk.tile_index;
        spread<Large>(p, desk, finite, shared, sums);
        block_sync();
        const int blocks = ceil_div(desk.matrix_rows, 16), splits = kWarps / blocks, warp = warp_index();
        if (warp < splits * blocks) {
            gather_matrix<T>(job.conv, desk, t, p.count, p.channels, desk.chunk, desk.matrix_row + warp % blocks * 16,
                             warp / blocks, splits, three_passes<T>(p.exact) && *strange != desk.tile_index, shared);
        }
        block_sync();
        if (thread_index() == 0) desk = next_desk(p, desk);
    }
    const WeightsJob& job = p.jobs[desk.job];
    const std::int64_t area = static_cast<std::int64_t>(p.channels) * p.channels;
    const int square = desk.kernel * desk.kernel, slot = desk.tile_index % desk.slots;
    float* const part = p.parts + job.first_part + slot * (area + static_cast<std::int64_t>(p.channels) * square);
    float* const staging = shared + kDesks + sums_floats(desk.chunk);
    if (desk.matrix_row == 0)
        write_taps(job.tiling, desk.kernel, desk.chunk, sums, staging, part + area + desk.first * square);
    write_matrix(shared + kDesks, desk.matrix_rows, p.channels, desk.chunk,
                 part + static_cast<std::int64_t>(desk.matrix_row) * p.channels + desk.first);
}

// The slots' sums, in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads) fold_weights_kernel(FASTDARTS_PARAMETERS(WeightsFold) p) {
    const int block = static_cast<int>(blockIdx.x);
    const WeightsFold::Conv& conv = p.convs[block / p.blocks];
    const std::int64_t area = static_cast<std::int64_t>(p.channels) * p.channels;
    const std::int64_t size = area + static_cast<std::int64_t>(p.channels) * conv.taps;
    const std::int64_t i = static_cast<std::int64_t>(block % p.blocks) * kThreads + thread_index();
    if (i >= size) return;
    const float* from = p.parts + conv.first_part + i;
    double sum = 0;
    for (int slot = 0; slot < conv.slots; ++slot) sum += static_cast<double>(from[slot * size]);
    (i < area ? conv.dpointwise[i] : conv.ddepthwise[i - area]) = static_cast<float>(sum);
}

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
