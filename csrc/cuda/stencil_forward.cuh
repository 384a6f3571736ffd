// The kernels of the forward pass and their launches, compiled once for each storage type: the story is in
// stencil_forward_plan.cuh.
#pragma once

#include "stencil_pointwise.cuh"

namespace fastdarts {
namespace cuda {
namespace forward {

// Which pixel of the map each pixel of the tile is, the channels of z that there are not, and what normalises.
FASTDARTS_DEVICE void prepare(const Product& p, const Corner& corner) {
    const Task& t = p.t;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    for (int block = warp_index(); block < p.pixels() / 32; block += threads / kWarp) {
        const int q = block * 32 + lane_index(), column = corner.column + q % t.columns, line = q / t.columns;
        const int row = corner.row + line % t.rows, image = corner.image + line / t.rows;
        const bool inside = image < p.call.count && row < t.out_height && column < t.out_width;
        p.table()[q] = inside ? (image * t.out_height + row) * t.out_width + column : -1;
        int present = 0;
        for (unsigned rest = warp_ballot(inside); rest != 0; rest &= rest - 1) ++present;
        if (lane_index() == 0) p.counts()[block] = present;
    }
    const int channels = p.channels();
    for (int i = channels * p.pixels() + thread; i < p.padded() * p.pixels(); i += threads) p.z()[i] = 0.0f;
    if (p.call.mean == nullptr) return;
    float* const statistics = p.memory + t.layout.statistics;
    for (int c = thread; c < channels; c += threads) {
        const double mean = p.call.mean[t.source * channels + c];
        const float high = static_cast<float>(mean);
        statistics[c] = high;
        statistics[channels + c] = high - high == 0.0f ? static_cast<float>(mean - high) : 0.0f;  // finite
        statistics[2 * channels + c] = static_cast<float>(p.call.rstd[t.source * channels + c]);
    }
}

// Starts to copy the depthwise weights of a chunk.
FASTDARTS_DEVICE void fetch_weights(const Product& p, const Conv& conv, int first) {
    const int channels = p.channels() - first < p.t.chunk ? p.channels() - first : p.t.chunk;
    const int taps = conv.kernel * conv.kernel, count = channels * taps, fours = conv.wide_depthwise ? count / 4 : 0;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const float* const from = conv.depthwise + first * taps;
    float* const to = p.memory + p.t.layout.weights;
    for (int i = thread; i < fours; i += threads) cp_async_16(to + 4 * i, from + 4 * i);
    for (int i = 4 * fours + thread; i < count; i += threads) cp_async_4(to + i, from + i);
    cp_async_commit();
}

FASTDARTS_DEVICE Item item_of(const Task& t, int stride) {
    const int columns = columns_of(stride), across = t.columns / columns, down = t.rows / kRows;
    const int index = static_cast<int>(threadIdx.x), rest = index / t.chunk, above = rest % down;
    const int row = above * kRows, column = rest / down % across * columns, image = rest / (down * across);
    Item item{};
    item.channel = image < t.images ? index % t.chunk : -1;
    item.x = (image * t.in_rows + row * stride + t.margin) * t.pitch + t.left + column * stride;
    item.z = (image * t.rows + row) * t.columns + column;
    item.odd = above % 2 == 1;
    return item;
}

template <typename T>
FASTDARTS_DEVICE bool load_chunk(const Product& p, const Corner& corner, int stride, int first) {
    const int channels = p.channels();
    Activation activation{};
    if (p.call.mean != nullptr) {
        const float* const statistics = p.memory + p.t.layout.statistics;
        activation = {statistics, statistics + channels, statistics + 2 * channels};
    }
    if (p.t.wide) return load_tile<T, 4>(p.t, corner, stride, p.call.count, channels, first, activation, p.memory);
    return load_tile<T, 1>(p.t, corner, stride, p.call.count, channels, first, activation, p.memory);
}

// Blocks of eight output channels that a warp takes at most: the registers of sm_80 do not hold four in two parts.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <typename T>
constexpr int kMostBlocks = sizeof(T) == sizeof(float) ? 2 : 4;
#else
template <typename T>
constexpr int kMostBlocks = 4;
#endif

template <typename T, int S>
__global__ void __launch_bounds__(kThreads, 2) stencil_forward_kernel(const __grid_constant__ Forward call) {
    FASTDARTS_SHARED(bytes);
    float* const memory = reinterpret_cast<float*>(bytes);
    int number = 0;
    while (number + 1 < call.task_count && static_cast<int>(blockIdx.x) >= call.tasks[number + 1].first_block) ++number;
    const Task& t = call.tasks[number];
    const int groups = ceil_div(t.convs, t.group), index = static_cast<int>(blockIdx.x) - t.first_block;
    const int tile = index / groups, first = t.first_conv + index % groups * t.group;
    const int end = t.first_conv + t.convs, last = first + t.group < end ? first + t.group : end;
    const Corner corner = corner_of(t, tile);
    const Product product = {call, t, memory};
    const bool whole = t.chunk == call.channels;
    const Item item = item_of(t, S);

    if (whole) fetch_weights(product, call.convs[first], 0);
    prepare(product, corner);
    block_sync();
    bool wild = whole && load_chunk<T>(product, corner, S, 0);
    for (int i = first; i < last; ++i) {
        const Conv& conv = call.convs[i];
        cp_async_wait();
        block_sync();
        if (i > first && call.moments != nullptr) write_moments(product, call.convs[i - 1].slot + tile);
        for (int begin = 0; begin < call.channels; begin += t.chunk) {
            if (!whole) {
                if (begin > 0) block_sync();
                fetch_weights(product, conv, begin);
                wild |= load_chunk<T>(product, corner, S, begin);
                cp_async_wait();
                block_sync();
            }
            const int channel = begin + item.channel;
            if (item.channel < 0 || channel >= call.channels) continue;
            const float* const weights = memory + t.layout.weights + item.channel * conv.kernel * conv.kernel;
            depthwise<S>(t, conv, item, memory + item.channel * t.plane, weights,
                         product.z() + channel * product.pixels(), swizzle(channel));
        }
        wild = block_any(wild);
        if (whole && i + 1 < last) fetch_weights(product, call.convs[i + 1], 0);
        if (call.channels <= 8) {
            pointwise<T, 1>(product, conv, wild);
        } else if (call.channels <= 16) {
            pointwise<T, 2>(product, conv, wild);
        } else {
            pointwise<T, kMostBlocks<T>>(product, conv, wild);
        }
    }
    if (call.moments == nullptr) return;
    block_sync();
    write_moments(product, call.convs[last - 1].slot + tile);
}

// What the fold of one launch is told.
struct Fold {
    std::int64_t slot[kMostConvs];
    int tiles[kMostConvs], index[kMostConvs];
    int channels;
    const double *moments, *counts;
    double *mean, *var;  // [convs, channels]
};

// A block adds up the slots of one convolution for 32 channels; a lane is a channel.
static __global__ void __launch_bounds__(kThreads) stencil_fold(const __grid_constant__ Fold call) {
    FASTDARTS_SHARED(bytes);
    double* const parts = reinterpret_cast<double*>(bytes);  // [2][warps][32], then [32]
    const int groups = ceil_div(call.channels, kWarp), conv = static_cast<int>(blockIdx.x) / groups;
    const int channel = static_cast<int>(blockIdx.x) % groups * kWarp + lane_index();
    const int warp = warp_index(), warps = static_cast<int>(blockDim.x) / kWarp, tiles = call.tiles[conv];
    const double* const counts = call.counts + call.slot[conv];
    const double* const moments = call.moments + call.slot[conv] * 2 * call.channels + channel;
    const bool present = channel < call.channels;
    double sum = 0, all = 0;
    for (int i = warp; i < tiles; i += warps) {
        all += counts[i];
        if (present) sum += counts[i] * moments[static_cast<std::int64_t>(i) * 2 * call.channels];
    }
    parts[warp * kWarp + lane_index()] = sum;
    parts[(warps + warp) * kWarp + lane_index()] = all;
    block_sync();
    sum = all = 0;
    for (int i = 0; i < warps; ++i) {
        sum += parts[i * kWarp + lane_index()];
        all += parts[(warps + i) * kWarp + lane_index()];
    }
    const double mean = sum / all;
    double squares = 0;
    for (int i = warp; present && i < tiles; i += warps) {
        const double* const at = moments + static_cast<std::int64_t>(i) * 2 * call.channels;
        squares += at[call.channels] + counts[i] * (at[0] - mean) * (at[0] - mean);
    }
    block_sync();
    parts[warp * kWarp + lane_index()] = squares;
    block_sync();
    if (warp > 0 || !present) return;
    squares = 0;
    for (int i = 0; i < warps; ++i) squares += parts[i * kWarp + lane_index()];
    call.mean[static_cast<std::int64_t>(call.index[conv]) * call.channels + channel] = mean;
    call.var[static_cast<std::int64_t>(call.index[conv]) * call.channels + channel] = squares / all;
}

inline bool aligned(const void* address, std::size_t bytes) {
    return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
}

// The addresses that a plan has not read.
template <typename T>
void complete(const Stencil& p, Task& t, Conv* convs) {
    const StencilSource& source = p.sources[t.source];
    t.x = source.x;
    t.pixel = source.pixel;
    const bool fours = p.channels % 4 == 0;
    t.wide = fours && t.chunk % 4 == 0 && source.pixel % 4 == 0 && aligned(source.x, 4 * sizeof(T));
    for (int i = 0; i < t.convs; ++i) {
        Conv& conv = convs[i];
        const StencilConv& given = p.convs[conv.index];
        conv.depthwise = static_cast<const float*>(given.depthwise);
        conv.pointwise = static_cast<const float*>(given.pointwise);
        conv.y = given.y;
        conv.y_pixel = given.y_pixel;
        conv.wide_y = fours && given.y_pixel % 4 == 0 && aligned(given.y, 4 * sizeof(T));
        conv.wide_pointwise = fours && aligned(given.pointwise, 16);
        conv.wide_depthwise = aligned(given.depthwise, 16);
    }
}

template <typename T>
void run(const Stencil& p, const Launch& launch, const Forward& call, const Fold& fold, int stride) {
    int blocks = 0, threads = 0, floats = 0;
    for (int i = 0; i < call.task_count; ++i) {
        const Task& t = call.tasks[i];
        blocks = t.first_block + tiles_of(t, call.count) * ceil_div(t.convs, t.group);
        threads = std::max(threads, t.images * (t.rows / kRows) * (t.columns / columns_of(stride)) * t.chunk);
        floats = std::max(floats, t.layout.end);
    }
    const auto stencil_forward = stride == 1 ? stencil_forward_kernel<T, 1> : stencil_forward_kernel<T, 2>;
    FASTDARTS_LAUNCH(stencil_forward, static_cast<unsigned>(blocks), static_cast<unsigned>(up(threads, kWarp)),
                     floats * sizeof(float), launch.stream, call);
    if (p.y_mean == nullptr) return;
    const int groups = ceil_div(call.channels, kWarp);
    FASTDARTS_LAUNCH(stencil_fold, static_cast<unsigned>(call.conv_count * groups), kThreads,
                     2 * kThreads * sizeof(double), launch.stream, fold);
}

}  // namespace forward

template <typename T>
std::int64_t stencil_forward_scratch(const Stencil& p) {
    return forward::Plan(p).slots * (2 * p.channels + 1) * static_cast<std::int64_t>(sizeof(double));
}

template <typename T>
void stencil_forward(const Stencil& p, const Launch& launch) {
    using namespace forward;
    check_pixels(p);
    Plan plan(p);
    const DeviceGuard guard(launch.device);
    Forward call{};
    call.count = static_cast<int>(p.count);
    call.channels = static_cast<int>(p.channels);
    call.precise = sizeof(T) == sizeof(float) && !launch.tf32;
    call.mean = p.mean;
    call.rstd = p.rstd;
    Fold fold{};
    if (p.y_mean != nullptr) {
        call.moments = static_cast<double*>(p.scratch);
        call.counts = call.moments + plan.slots * 2 * p.channels;
        fold.channels = call.channels;
        fold.moments = call.moments;
        fold.counts = call.counts;
        fold.mean = p.y_mean;
        fold.var = p.y_var;
    }
    int blocks = 0;
    const auto add = [&](Task t, int from, int convs) {
        t.first_conv = call.conv_count;
        t.convs = convs;
        t.first_block = blocks;
        blocks += tiles_of(t, call.count) * ceil_div(t.convs, t.group);
        for (int i = 0; i < convs; ++i) {
            const int to = call.conv_count++;
            call.convs[to] = plan.convs[from + i];
            fold.slot[to] = call.convs[to].slot;
            fold.tiles[to] = tiles_of(t, call.count);
            fold.index[to] = call.convs[to].index;
        }
        complete<T>(p, t, call.convs + t.first_conv);
        call.tasks[call.task_count++] = t;
    };
    const auto flush = [&](int stride) {
        if (call.task_count > 0) run<T>(p, launch, call, fold, stride);
        call.task_count = call.conv_count = blocks = 0;
    };
    for (std::size_t i = 0; i < plan.tasks.size(); ++i) {
        const Task& t = plan.tasks[i];
        if (i > 0 && plan.strides[i] != plan.strides[i - 1]) flush(plan.strides[i - 1]);
        for (int done = 0; done < t.convs;) {
            if (call.task_count == kMostTasks || call.conv_count == kMostConvs) flush(plan.strides[i]);
            const int convs = std::min(t.convs - done, kMostConvs - call.conv_count);
            add(t, t.first_conv + done, convs);
            done += convs;
        }
    }
    if (!plan.strides.empty()) flush(plan.strides.back());
}

}  // namespace cuda
}  // namespace fastdarts
