// The gradient of the sources: dx (+)= relu'(x) sum over the convolutions of D^T P^T dy, in one write.
#pragma once

#include "stencil_backward_depthwise.cuh"
#include "stencil_backward_pointwise.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

// A thread's 4 x 8 outputs of one channel: neighbouring threads take the columns, two channels, then the rows, so that
// eight of them meet no bank twice (odd_words).
struct Item {
    int channel, image, row, column;

    FASTDARTS_DEVICE Item(const Tiling& t, int index) {
        const int bits = t.column_bits - 3, pair = index >> bits, line = pair / 2;
        const int down = t.row_bits - 2, lines = t.image_bits + down, within = line & ((1 << lines) - 1);
        column = (index - (pair << bits)) * kColumns;
        channel = (line >> lines) * 2 + pair % 2;
        image = within >> down;
        row = (within - (image << down)) * kRows;
    }

    FASTDARTS_DEVICE int in(const Planes& planes, int stride) const {
        return channel * planes.channel + image * planes.image + row * stride * planes.pitch + column * stride;
    }
};

// The taps of a convolution for the block's channels: [chunk][k][taps_row], turned by half a turn where asked.
__device__ inline void lay_taps(const ConvJob& conv, int first, int chunk, bool turned, float* to) {
    const int k = conv.kernel, taps = k * k, row = taps_row(k), pitch = taps_pitch(k);
    for (int i = thread_index(); i < chunk * taps; i += kThreads) {
        const int c = i / taps, tap = i - c * taps, at = turned ? taps - 1 - tap : tap;
        to[c * pitch + at / k * row + at % k] = conv.depthwise[static_cast<std::int64_t>(first) * taps + i];
    }
}

// 0 in the planes wherever mix_back will not write; where rows have holes, all of them, before it does.
__device__ inline void clear_around(const Planes& planes, int images, int chunk, const Region& region, float* to) {
    const int lines = images * planes.rows, total = chunk * lines;
    const int top = region.row * region.stride - region.row_origin, bottom = top + region.rows;
    const int left = region.column * region.stride - region.column_origin, right = left + region.columns;
    for (int i = thread_index(); i < total; i += kThreads) {
        const int channel = i / lines, line = i - channel * lines, row = line % planes.rows;
        float* const out = to + channel * planes.channel + line * planes.pitch;
        if (region.stride > 1 || row < top || row >= bottom) {
            for (int x = 0; x < planes.pitch; x += 4) reinterpret_cast<float4*>(out + x)[0] = float4{};
        } else {
            for (int x = 0; x < left; ++x) out[x] = 0.0f;
            for (int x = right; x < planes.columns; ++x) out[x] = 0.0f;
        }
    }
}

// The pixels of y whose dz reaches the tile.
FASTDARTS_DEVICE Region region_of(const ConvJob& conv, const Place& place, const Tiling& t) {
    const int padding = reach(conv.kernel, conv.dilation) / 2, s = conv.stride;
    const int top = place.row - padding, left = place.column - padding;
    const int row = (larger(top, 0) + s - 1) / s, column = (larger(left, 0) + s - 1) / s;
    const int bottom = smaller((place.row + t.rows + padding + s - 1) / s, conv.height);
    const int right = smaller((place.column + t.columns + padding + s - 1) / s, conv.width);
    return {row, larger(bottom - row, 0), column, larger(right - column, 0), s, top, left};
}

// A channel's ReLU input: x, or (x - mean) rstd, the mean in two parts: as in the forward pass (stencil_tile.cuh).
struct Normalise {
    float high, low, scale;

    FASTDARTS_DEVICE static Normalise of(const double* mean, const double* rstd, std::int64_t at) {
        if (!mean) return {0.0f, 0.0f, 1.0f};
        const float high = static_cast<float>(mean[at]);
        return {high, static_cast<float>(mean[at] - static_cast<double>(high)), static_cast<float>(rstd[at])};
    }
    FASTDARTS_DEVICE float operator()(float x) const { return ((x - high) - low) * scale; }
};

struct AddTurned {
    const float *tile, *taps;
    int pitch;
    float (&sums)[kRows][kColumns];

    template <int K, int D, int S>
    FASTDARTS_DEVICE void run() const {
        correlate<K, D, 1, S, kRows>(tile, pitch, taps, sums);
    }
};

// Masks a tile's sums, from planes, and writes them; a thread keeps to four channels and adds them up.
template <typename T>
__device__ void write_gradient(const SourcesLaunch& p, const SourceJob& source, const Place& place, int first,
                               int chunk, const Planes& planes, const float* sums, float (&total)[2][4]) {
    const int quads = ceil_div(chunk, 4), step = kThreads / quads, index = thread_index();
    if (index >= step * quads) return;
    const Tiling& t = source.tiling;
    const int c = index % quads * 4, pixels = t.images * t.rows * t.columns;
    Normalise normalise[4];
    FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) {
        const int own = smaller(first + c + k, p.channels - 1);
        normalise[k] = Normalise::of(p.mean, p.rstd, static_cast<std::int64_t>(source.row) * p.channels + own);
    }
    for (int i = index / quads; i < pixels; i += step) {
        const int line = i >> t.column_bits, column = i - (line << t.column_bits), image = line >> t.row_bits;
        const int row = line - (image << t.row_bits), n = place.image + image;
        const int y = place.row + row, x = place.column + column;
        if (n >= p.count || y >= source.height || x >= source.width) continue;
        const std::int64_t pixel = (static_cast<std::int64_t>(n) * source.height + y) * source.width + x;
        T* const out = static_cast<T*>(source.dx.data) + pixel * source.dx.pixel + first;
        const float* from = sums + c * planes.channel + image * planes.image + row * planes.pitch + column;
        float value[4], before[4] = {}, result[4];
        read_channels(static_cast<const T*>(source.x.data) + pixel * source.x.pixel + first, c, chunk,
                      source.x.vectors, value);
        if (p.add) read_channels(static_cast<const T*>(out), c, chunk, source.dx.vectors, before);
        FASTDARTS_UNROLL for (int k = 0; k < 4; ++k) {
            const float a = p.mean ? normalise[k](value[k]) : value[k];
            const float du = c + k < chunk ? from[k * planes.channel] : 0.0f;
            result[k] = widen(narrow<T>((a <= 0.0f ? 0.0f : du) + before[k]));
            total[0][k] += result[k];
            total[1][k] += result[k] * a;
        }
        write_channels(out, c, chunk, source.dx.vectors, result);
    }
}

// The threads' sums of the block's channels, in their order, to its row of the partial sums.
__device__ inline void write_sums(const SourcesLaunch& p, int part, int first, int chunk, const float (&total)[2][4],
                                  float* shared) {
    const int quads = ceil_div(chunk, 4), used = kThreads / quads * quads, index = thread_index();
    block_sync();
    for (int k = 0; k < 8; ++k) shared[index * 8 + k] = total[k / 4][k % 4];
    block_sync();
    for (int i = index; i < 2 * chunk; i += kThreads) {
        const int c = i % chunk, kind = i / chunk;
        double sum = 0;
        for (int t = c / 4; t < used; t += quads) sum += static_cast<double>(shared[t * 8 + kind * 4 + c % 4]);
        p.parts[(static_cast<std::int64_t>(part) * 2 + kind) * p.channels + first + c] = sum;
    }
}

template <typename T, bool Large>
__global__ void __launch_bounds__(kThreads, 2) gradient_kernel(FASTDARTS_PARAMETERS(SourcesLaunch) p) {
    FASTDARTS_SHARED(bytes);
    float* const shared = reinterpret_cast<float*>(bytes);
    const int block = static_cast<int>(blockIdx.x), index = thread_index();
    int s = 0;
    while (s + 1 < p.source_count && block >= p.sources[s + 1].first_block) ++s;
    const SourceJob& source = p.sources[s];
    const Tiling& t = source.tiling;
    const int tile = (block - source.first_block) / t.chunks;
    const int first = (block - source.first_block) % t.chunks * t.channels;
    const int chunk = smaller(t.channels, p.channels - first);
    const Item item(t, index);
    const bool busy = item.channel < chunk, exact = three_passes<T>(p.exact);
    float sums[kRows][kColumns] = {};
    for (int k = 0; k < source.conv_count; ++k) {
        const ConvJob& conv = p.convs[source.first_conv + k];
        Desk& desk = reinterpret_cast<Desk*>(shared + k % 2 * kDeskFloats)[0];
        if (index == 0) {
            const int around = reach(conv.kernel, conv.dilation);
            const Place place = place_of(t, tile);
            desk = desk_of(place, region_of(conv, place, t), Planes(t.images, t.rows + around, t.columns + around),
                           Planes(t.images, t.rows, t.columns), p.channels, chunk, conv, kDesks);
        }
        block_sync();  // and until the last convolution's dz has been read
        const std::int64_t row = static_cast<std::int64_t>(conv.row) * p.channels;
        float* const dz = shared + desk.tile;
        lay_matrix(conv.pointwise, p.channels, first, chunk, shared + desk.matrix);
        lay_mix(p.alpha + row, p.beta + row, p.gamma + row, p.channels, shared + desk.mix);
        lay_taps(conv, first, chunk, true, shared + desk.taps);
        clear_around(desk.planes, t.images, chunk, desk.region, dz);
        block_sync();
        mix_back<T>(conv, desk, t.images, p.count, p.channels, chunk, exact, desk.planes, shared, dz);
        block_sync();
        if (busy) {
            const float* taps = shared + desk.taps + item.channel * taps_pitch(conv.kernel);
            dispatch<Large>(conv.kernel, conv.dilation, conv.stride,
                            AddTurned{dz + item.in(desk.planes, 1), taps, desk.planes.pitch, sums});
        }
    }
    const Place place = place_of(t, tile);
    const Planes planes(t.images, t.rows, t.columns);
    block_sync();
    if (busy) {
        float* const to = shared + item.in(planes, 1);
        FASTDARTS_UNROLL for (int r = 0; r < kRows; ++r) {
            float4* const words = reinterpret_cast<float4*>(to + r * planes.pitch);
            words[0] = float4{sums[r][0], sums[r][1], sums[r][2], sums[r][3]};
            words[1] = float4{sums[r][4], sums[r][5], sums[r][6], sums[r][7]};
        }
    }
    block_sync();
    float total[2][4] = {};
    write_gradient<T>(p, source, place, first, chunk, planes, shared, total);
    if (p.mean) write_sums(p, source.first_part + tile, first, chunk, total, shared);
}

// sums and products of a source's channel from its tiles' parts: a warp each, the lanes' sums by halves.
template <typename T>
__global__ void __launch_bounds__(kThreads) fold_sums_kernel(FASTDARTS_PARAMETERS(SumsFold) p) {
    const int each = ceil_div(2 * p.channels, kWarps), block = static_cast<int>(blockIdx.x);
    const SumsFold::Source& source = p.sources[block / each];
    const int index = block % each * kWarps + warp_index(), lane = lane_index();
    if (index >= 2 * p.channels) return;
    double sum = 0;
    for (int tile = lane; tile < source.tiles; tile += 32)
        sum += p.parts[static_cast<std::int64_t>(source.first_part + tile) * 2 * p.channels + index];
    sum = warp_sum(sum);
    if (lane > 0) return;
    const std::int64_t at = static_cast<std::int64_t>(source.row) * p.channels + index % p.channels;
    (index < p.channels ? p.sums : p.products)[at] = sum;
}

}  // namespace backward
}  // namespace cuda
}  // namespace fastdarts
