// The launches of the backward pass, compiled once for each storage type: see stencil_backward_plan.cuh.
#pragma once

#include <vector>

#include "stencil.h"
#include "stencil_backward_weights.cuh"

namespace fastdarts {
namespace cuda {
namespace backward {

// What the choice of a tiling weighs, in cycles of a multiprocessor; estimates for an H200, not measured. Blocks of two
// to a multiprocessor run in rounds; the numbers are constants because results may not depend on the device.
constexpr double kBlocksAtOnce = 264, kBlockCycles = 1500, kConvCycles = 800;

// Pixels of a tile with what its windows meet around it, where there are pixels at all.
inline double pixels_met(const Tiling& t, double height, double width, int around, int stride) {
    const double rows = t.rows + around, columns = t.columns + around;
    return t.images * (rows < height ? rows : height) * (columns < width ? columns : width) / (stride * stride);
}

// Depthwise passes at half the FFMA rate; factors of the products at 32 bytes and 512 multiply-adds a cycle.
inline double stencil_cycles(const Tiling& t, int kernel) {
    return ceil_div(t.items(), 32) * 32.0 * kRows * kColumns * kernel * kernel / 64;
}
inline double product_cycles(const Tiling& t, int channels, double pixels) {
    return pixels * channels * (8.0 / 32 + ceil_div(t.channels, 8) * 8.0 * 3 / 512);
}

// The cheapest tiling of maps, by `cycles` of a block, of those whose blocks have room for `floats`.
template <typename Floats, typename Cycles>
Tiling choose_tiling(const Stencil& p, int height, int width, std::int64_t jobs, const Floats& floats,
                     const Cycles& cycles) {
    const int count = static_cast<int>(p.count), channels = static_cast<int>(p.channels);
    Tiling best{};
    double least = 0;
    for (int chunks = ceil_div(channels, kMostChannels); chunks <= ceil_div(channels, 4); ++chunks) {
        const int chunk = ceil_div(ceil_div(channels, chunks), 4) * 4;
        for (int i = 0; i < 4 * 3 * 4; ++i) {
            const int row_bits = 2 + i % 4, column_bits = 3 + i / 4 % 3, image_bits = i / 12;
            const int rows = 1 << row_bits, columns = 1 << column_bits, images = 1 << image_bits;
            const Tiling t = {images, rows, columns, chunk, ceil_div(count, images), ceil_div(height, rows),
                              ceil_div(width, columns), ceil_div(channels, chunk), image_bits, row_bits,
                              column_bits};
            if (t.items() > kThreads || (images > 1 && (images > count || t.down * t.across > 1))) continue;
            if (floats(t) * static_cast<std::int64_t>(sizeof(float)) > kShared) continue;
            const double blocks = static_cast<double>(t.tiles()) * t.chunks * static_cast<double>(jobs);
            const double rounds = blocks < kBlocksAtOnce ? 1 : blocks / kBlocksAtOnce;
            const double cost = rounds * (kBlockCycles + cycles(t));
            if (best.images == 0 || cost < least) best = t, least = cost;
        }
    }
    if (best.images == 0) throw std::runtime_error("stencil: so many channels do not fit into shared memory");
    return best;
}

inline std::int64_t gradient_floats(const Stencil& p, const Tiling& t, std::int64_t source) {
    const int channels = static_cast<int>(p.channels);
    int most = larger(t.channels * Planes(t.images, t.rows, t.columns).channel, kThreads * 8);
    for (std::int64_t i = 0; i < p.conv_count; ++i) {
        const StencilConv& conv = p.convs[i];
        if (conv.source != source) continue;
        const int kernel = static_cast<int>(conv.kernel), around = reach(kernel, static_cast<int>(conv.dilation));
        const Planes planes(t.images, t.rows + around, t.columns + around);
        most = larger(most, kDesks + prefix_floats(channels, t.channels, kernel) + t.channels * planes.channel);
    }
    return most;
}

inline Tiling gradient_tiling(const Stencil& p, std::int64_t s) {
    const StencilSource& source = p.sources[s];
    const int height = static_cast<int>(source.height), width = static_cast<int>(source.width);
    const auto floats = [&](const Tiling& t) { return gradient_floats(p, t, s); };
    const auto cycles = [&](const Tiling& t) {
        double sum = 0;
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            const StencilConv& conv = p.convs[i];
            if (conv.source != s) continue;
            const int kernel = static_cast<int>(conv.kernel), stride = static_cast<int>(conv.stride);
            const int around = reach(kernel, static_cast<int>(conv.dilation));
            sum += kConvCycles + stencil_cycles(t, kernel) / (stride * stride) +
                   product_cycles(t, static_cast<int>(p.channels), pixels_met(t, height, width, around, stride));
        }
        return sum;
    };
    return choose_tiling(p, height, width, p.source_count, floats, cycles);
}

inline Planes weights_planes(const Tiling& t, const StencilConv& conv) {
    const int s = static_cast<int>(conv.stride);
    const int around = reach(static_cast<int>(conv.kernel), static_cast<int>(conv.dilation));
    return Planes(t.images, (t.rows - 1) * s + around + 1, (t.columns - 1) * s + around + 1);
}

inline std::int64_t weights_floats(const Stencil& p, const Tiling& t, const StencilConv& conv) {
    const int kernel = static_cast<int>(conv.kernel);
    const Planes outputs(t.images, t.rows, t.columns);
    const int tiles = prefix_floats(static_cast<int>(p.channels), t.channels, kernel) + 4 +
                      t.channels * (weights_planes(t, conv).channel + outputs.channel);
    return kDesks + sums_floats(t.channels) + larger(tiles, kernel * kernel * kThreads);
}

inline Tiling weights_tiling(const Stencil& p, const StencilConv& conv) {
    const StencilSource& source = p.sources[conv.source];
    const int stride = static_cast<int>(conv.stride), kernel = static_cast<int>(conv.kernel);
    const int height = ceil_div(static_cast<int>(source.height), stride);
    const int width = ceil_div(static_cast<int>(source.width), stride);
    const auto floats = [&](const Tiling& t) { return weights_floats(p, t, conv); };
    const auto cycles = [&](const Tiling& t) {
        const Planes planes = weights_planes(t, conv);
        const double loads = static_cast<double>(t.images) * planes.rows * planes.columns * t.channels / 16;
        return kConvCycles + 2 * stencil_cycles(t, kernel) + loads +
               2 * product_cycles(t, static_cast<int>(p.channels), pixels_met(t, height, width, 0, 1));
    };
    return choose_tiling(p, height, width, p.conv_count, floats, cycles);
}

// How many slots share a convolution's tiles: blocks enough for a few rounds of a large device, of equal length.
inline int slots_of(const Stencil& p, const Tiling& t, int blocks_down) {
    const double own = 4 * kBlocksAtOnce / (static_cast<double>(p.conv_count) * t.chunks * blocks_down);
    const int most = larger(1, smaller(t.tiles(), own > 1e6 ? 1000000 : static_cast<int>(own)));
    return ceil_div(t.tiles(), ceil_div(t.tiles(), most));
}

template <typename T>
MapView view(const void* data, std::int64_t pixel) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(T)) == 0 && pixel % 4 == 0;
    return {const_cast<void*>(data), pixel, aligned};
}

template <typename T>
ConvJob conv_job(const Stencil& p, std::int64_t i) {
    const StencilConv& conv = p.convs[i];
    const StencilSource& source = p.sources[conv.source];
    const int s = static_cast<int>(conv.stride);
    return {static_cast<const float*>(conv.depthwise), static_cast<const float*>(conv.pointwise),
            view<T>(conv.y, conv.y_pixel), view<T>(conv.g, conv.g_pixel), static_cast<int>(i),
            static_cast<int>(conv.kernel), static_cast<int>(conv.dilation), s,
            ceil_div(static_cast<int>(source.height), s), ceil_div(static_cast<int>(source.width), s)};
}

// Where the partial sums lie in scratch: those of the sources first, in float64.
struct Scratch {
    std::vector<Tiling> tilings;             // of the sources
    std::vector<Tiling> weights;             // of the convolutions, where asked; like the rest
    std::vector<int> slots;
    std::int64_t parts = 0, floats = 0;      // of the sources, of the weights

    explicit Scratch(const Stencil& p) {
        for (std::int64_t s = 0; s < p.source_count; ++s) {
            tilings.push_back(gradient_tiling(p, s));
            if (p.mean) parts += tilings.back().tiles();
        }
        for (std::int64_t i = 0; i < p.conv_count && p.weights; ++i) {
            weights.push_back(weights_tiling(p, p.convs[i]));
            slots.push_back(slots_of(p, weights.back(), blocks_down(p)));
            floats += slots.back() * part(p, p.convs[i]);
        }
    }

    static int blocks_down(const Stencil& p) { return ceil_div(static_cast<int>(p.channels), kMatrixRows); }
    static std::int64_t part(const Stencil& p, const StencilConv& conv) {
        return p.channels * (p.channels + conv.kernel * conv.kernel);
    }
    std::int64_t sums_bytes(const Stencil& p) const {
        return parts * 2 * p.channels * static_cast<std::int64_t>(sizeof(double));
    }
    std::int64_t bytes(const Stencil& p) const {
        return sums_bytes(p) + floats * static_cast<std::int64_t>(sizeof(float));
    }
};

template <typename T>
void launch_sources(const SourcesLaunch& job, int blocks, std::int64_t floats, bool large, void* stream) {
    const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    const unsigned grid = static_cast<unsigned>(blocks);
    if (large) {
        FASTDARTS_LAUNCH((gradient_kernel<T, true>), grid, kThreads, bytes, stream, job);
    } else {
        FASTDARTS_LAUNCH((gradient_kernel<T, false>), grid, kThreads, bytes, stream, job);
    }
    if (!job.mean) return;
    SumsFold fold{job.channels, job.parts, job.sums, job.products, {}};
    for (int i = 0; i < job.source_count; ++i)
        fold.sources[i] = {job.sources[i].row, job.sources[i].first_part, job.sources[i].tiling.tiles()};
    const int folded = job.source_count * ceil_div(2 * job.channels, kWarps);
    FASTDARTS_LAUNCH(fold_sums_kernel<T>, static_cast<unsigned>(folded), kThreads, 0, stream, fold);
}

// As many sources a launch as its parameters hold.
template <typename T>
void gradient(const Stencil& p, const Launch& launch, const Scratch& scratch) {
    SourcesLaunch job{};
    job.count = static_cast<int>(p.count), job.channels = static_cast<int>(p.channels), job.exact = !launch.tf32;
    job.add = p.add, job.mean = p.mean, job.rstd = p.rstd, job.alpha = p.alpha, job.beta = p.beta, job.gamma = p.gamma;
    job.parts = static_cast<double*>(p.scratch), job.sums = p.sums, job.products = p.products;
    int convs = 0, blocks = 0, parts = 0;
    std::int64_t floats = 0;
    bool large = false;
    const auto flush = [&] {
        if (job.source_count > 0) launch_sources<T>(job, blocks, floats, large, launch.stream);
        job.source_count = convs = blocks = 0, floats = 0, large = false;
    };
    for (std::int64_t s = 0; s < p.source_count; ++s) {
        std::vector<ConvJob> own;
        int most = 1;
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            if (p.convs[i].source == s) own.push_back(conv_job<T>(p, i)), most = larger(most, own.back().kernel);
        }
        const int count = static_cast<int>(own.size());
        if (count > kMostConvs)
            throw std::runtime_error("stencil: more than " + std::to_string(kMostConvs) + " convolutions of a source");
        if (job.source_count == kMostSources || convs + count > kMostConvs) flush();
        const StencilSource& source = p.sources[s];
        const Tiling& tiling = scratch.tilings[static_cast<std::size_t>(s)];
        job.sources[job.source_count++] = {view<T>(source.x, source.pixel), view<T>(source.dx, source.dx_pixel),
                                           static_cast<int>(s), static_cast<int>(source.height),
                                           static_cast<int>(source.width), convs, count, blocks, parts, tiling};
        for (const ConvJob& conv : own) job.convs[convs++] = conv;
        blocks += tiling.tiles() * tiling.chunks;
        parts += tiling.tiles();
        floats = floats > gradient_floats(p, tiling, s) ? floats : gradient_floats(p, tiling, s);
        large = large || most > 5;
    }
    flush();
}

template <typename T>
void launch_weights(const WeightsLaunch& job, int blocks, std::int64_t floats, bool large, void* stream) {
    const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
    const unsigned grid = static_cast<unsigned>(blocks);
    if (large) {
        FASTDARTS_LAUNCH((weights_kernel<T, true>), grid, kThreads, bytes, stream, job);
    } else {
        FASTDARTS_LAUNCH((weights_kernel<T, false>), grid, kThreads, bytes, stream, job);
    }
    WeightsFold fold{job.channels, 0, job.parts, {}};
    for (int i = 0; i < job.conv_count; ++i) {
        const WeightsJob& each = job.jobs[i];
        const int taps = each.conv.kernel * each.conv.kernel;
        fold.convs[i] = {each.ddepthwise, each.dpointwise, each.first_part, taps, each.slots};
        fold.blocks = larger(fold.blocks, ceil_div(job.channels * (job.channels + taps), kThreads));
    }
    const unsigned folded = static_cast<unsigned>(job.conv_count * fold.blocks);
    FASTDARTS_LAUNCH(fold_weights_kernel<T>, folded, kThreads, 0, stream, fold);
}

template <typename T>
void weights(const Stencil& p, const Launch& launch, const Scratch& scratch) {
    WeightsLaunch job{};
    job.count = static_cast<int>(p.count), job.channels = static_cast<int>(p.channels), job.exact = !launch.tf32;
    job.mean = p.mean, job.rstd = p.rstd, job.alpha = p.alpha, job.beta = p.beta, job.gamma = p.gamma;
    job.parts = reinterpret_cast<float*>(static_cast<char*>(p.scratch) + scratch.sums_bytes(p));
    const int down = Scratch::blocks_down(p);
    int blocks = 0;
    std::int64_t floats = 0;
    const auto flush = [&](bool large) {
        if (job.conv_count > 0) launch_weights<T>(job, blocks, floats, large, launch.stream);
        job.conv_count = blocks = 0, floats = 0;
    };
    const auto part_of = [&](std::int64_t i) {
        return scratch.slots[static_cast<std::size_t>(i)] * Scratch::part(p, p.convs[i]);
    };
    for (const bool large : {false, true}) {  // apart: for kernels of 7 a multiprocessor takes half as many blocks
        std::int64_t part = 0;
        for (std::int64_t i = 0; i < p.conv_count; part += part_of(i), ++i) {
            const StencilConv& conv = p.convs[i];
            if ((conv.kernel > 5) != large) continue;
            if (job.conv_count == kMostConvs) flush(large);
            const StencilSource& source = p.sources[conv.source];
            const Tiling& tiling = scratch.weights[static_cast<std::size_t>(i)];
            const int slots = scratch.slots[static_cast<std::size_t>(i)];
            job.jobs[job.conv_count++] = {conv_job<T>(p, i), view<T>(source.x, source.pixel),
                                          static_cast<float*>(conv.ddepthwise), static_cast<float*>(conv.dpointwise),
                                          static_cast<int>(conv.source), static_cast<int>(source.height),
                                          static_cast<int>(source.width), blocks, slots, down, part, tiling};
            blocks += slots * down * tiling.chunks;
            floats = floats > weights_floats(p, tiling, conv) ? floats : weights_floats(p, tiling, conv);
        }
        flush(large);
    }
}

}  // namespace backward

template <typename T>
std::int64_t stencil_backward_scratch(const Stencil& p) {
    return backward::Scratch(p).bytes(p);
}

template <typename T>
void stencil_backward(const Stencil& p, const Launch& launch) {
    check_pixels(p);
    const DeviceGuard guard(launch.device);
    const backward::Scratch scratch(p);
    backward::gradient<T>(p, launch, scratch);
    if (p.weights) backward::weights<T>(p, launch, scratch);
}

}  // namespace cuda
}  // namespace fastdarts
