// The backward pass: a task is one source and one slot of groups of images. csrc/cpu/stencil.h tells the story.

#include "stencil_plan.h"
#include "stencil_taps.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

// Slots of partial sums: enough for the threads of a large machine, and few where the weights of one take long to add.
constexpr std::int64_t kMostSlots = 16, kFewSlots = 4, kSlotBytes = 1 << 20;

// Where everything lies in scratch.
template <typename A>
struct BackwardPlan {
    Lanes lanes;
    std::int64_t groups, slots, chunk, taps_size, matrix_size, tile_size, dz_size, area;
    A *taps, *turned, *matrices;         // [convs] each: of the stencil, of its transpose, of the pointwise product
    A *taps_sums, *matrix_sums;          // [slots][convs] each: weight gradients
    double* sums;                        // [slots][sources][2][lanes.width]
    A *tile, *dz, *du;                   // [threads] each
    A *dy, *work, *z, *coefficients;     // [threads] each
    std::int64_t bytes;

    BackwardPlan(const Stencil& p, void* scratch) {
        lanes = lanes_of<A>(p.channels);
        const Extents most = Extents::of<A>(p, lanes);
        groups = ceil_div(p.count, lanes.images);
        chunk = most.chunk;
        taps_size = lanes.width * most.taps;
        matrix_size = lanes.channels * lanes.width;
        tile_size = p.weights ? most.tile : 0;
        dz_size = most.dz;
        area = most.area;
        const std::int64_t slot = p.conv_count * (taps_size + matrix_size) * static_cast<std::int64_t>(sizeof(A));
        slots = smaller(groups, smaller(kMostSlots, larger(kFewSlots, kSlotBytes / larger(slot, 1))));
        const std::int64_t weights = p.weights ? p.conv_count : 0, chunk_size = chunk * lanes.width;
        Arena arena{static_cast<char*>(scratch)};
        taps = arena.take<A>(weights * taps_size);
        turned = arena.take<A>(p.conv_count * taps_size);
        matrices = arena.take<A>(p.conv_count * matrix_size);
        taps_sums = arena.take<A>(slots * weights * taps_size);
        matrix_sums = arena.take<A>(slots * weights * matrix_size);
        sums = arena.take<double>(slots * p.source_count * 2 * lanes.width);
        tile = arena.take<A>(p.threads * tile_size);
        dz = arena.take<A>(p.threads * dz_size);
        du = arena.take<A>(p.threads * area * lanes.width);
        dy = arena.take<A>(p.threads * chunk_size);
        work = arena.take<A>(p.threads * chunk_size);
        z = arena.take<A>(p.weights ? p.threads * chunk_size : 0);
        coefficients = arena.take<A>(p.threads * 7 * lanes.width);
        bytes = arena.used;
    }
};

// One thread's part of scratch.
template <typename A>
struct BackwardDesk {
    Place<A> tile, dz;
    A* du;
    Chunk<A> dy, work, z;
    A *normalise, *mix;  // [3 and 4][lanes.width]

    BackwardDesk(const BackwardPlan<A>& plan, int thread) {
        const std::int64_t width = plan.lanes.width, chunk = plan.chunk * width;
        tile = {plan.tile + thread * plan.tile_size};
        dz = {plan.dz + thread * plan.dz_size};
        du = plan.du + thread * plan.area * width;
        dy = {plan.dy + thread * chunk, plan.chunk};
        work = {plan.work + thread * chunk, plan.chunk};
        z = {plan.z + thread * chunk, plan.chunk};
        normalise = plan.coefficients + thread * 7 * width;
        mix = normalise + 3 * width;
    }
};

// The transposed stencil, one grid for each parity of the rows and columns of its output.
template <typename A>
struct Turned {
    Parity rows, columns;
    std::int64_t offset;  // of its weights, vectors of one block of channels; blocks follow one another in each grid

    static std::int64_t of(const StencilConv& conv, Turned (&grids)[4]) {
        std::int64_t count = 0, offset = 0;
        for (std::int64_t q = 0; q < conv.stride; ++q) {
            for (std::int64_t r = 0; r < conv.stride; ++r, ++count) {
                grids[count].rows = parity_of(conv.kernel, conv.dilation, conv.stride, q);
                grids[count].columns = parity_of(conv.kernel, conv.dilation, conv.stride, r);
                grids[count].offset = offset;
                offset += grids[count].rows.count * grids[count].columns.count;
            }
        }
        return count;
    }
};

template <typename A>
void lay_turned(const StencilConv& conv, const Lanes& lanes, A* to) {
    Turned<A> grids[4];
    const std::int64_t count = Turned<A>::of(conv, grids);
    for (std::int64_t k = 0; k < count; ++k) {
        lay_taps(static_cast<const A*>(conv.depthwise), conv.kernel, grids[k].rows, grids[k].columns, lanes,
                 to + grids[k].offset * lanes.width);
    }
}

// du (+)= the transposed stencil of dz.
template <typename A>
void correlate_turned(const Tile<A>& dz, const StencilConv& conv, const StencilSource& source, const A* weights,
                      const Lanes& lanes, bool add, A* du) {
    Turned<A> grids[4];
    const std::int64_t count = Turned<A>::of(conv, grids), s = conv.stride;
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        for (std::int64_t k = 0; k < count; ++k) {
            const Parity &rows = grids[k].rows, &columns = grids[k].columns;
            const std::int64_t q = k / s, r = k % s, pitch = source.width * kLanes<A>;
            // One of the counts may be 1, whose spacing says nothing.
            const std::int64_t spacing = larger(rows.spacing, columns.spacing);
            const bool heard = rows.count > 0 && columns.count > 0;
            const Grid<A> grid = {rows.count, heard ? columns.count : 0, spacing, 1,
                                  weights + grids[k].offset * lanes.width};
            A* to = du + (v * source.height * source.width + q * source.width + r) * kLanes<A>;
            const Plane<A> out = {to, ceil_div(source.height - q, s), ceil_div(source.width - r, s), s * kLanes<A>,
                                  s * pitch, add};
            correlate(heard ? dz.at(v, rows.first, columns.first) : dz.data, dz.pitch(), grid, v, out);
        }
    }
}

// The coefficients of dy = alpha g + beta y + gamma as alpha g + (beta (y - near) + rest), where beta near = -gamma as
// nearly as the arithmetic type can: with |mean| / std of y large, beta y and gamma cancel, their roundings do not.
template <typename A>
void spread_mix(const Stencil& p, std::int64_t i, const Lanes& lanes, std::int64_t images, A* to) {
    A *alpha = to, *beta = alpha + lanes.width, *near = beta + lanes.width, *rest = near + lanes.width;
    for (std::int64_t k = 0; k < 4 * lanes.width; ++k) to[k] = A{};
    for (std::int64_t image = 0; image < images; ++image) {
        for (std::int64_t c = 0; c < lanes.channels; ++c) {
            const std::int64_t from = i * p.channels + c, k = image * lanes.stride + c;
            const A zero = static_cast<A>(-p.gamma[from] / p.beta[from]);
            alpha[k] = static_cast<A>(p.alpha[from]);
            beta[k] = static_cast<A>(p.beta[from]);
            near[k] = zero - zero == A{} ? zero : A{};  // finite
            rest[k] = static_cast<A>(p.gamma[from] + static_cast<double>(beta[k]) * static_cast<double>(near[k]));
        }
    }
}

// dy of some pixels, into a chunk; `kept` is work space for y.
template <typename T, typename A = Arithmetic<T>>
void load_dy(const StencilConv& conv, const Pixels<const T>& g, const Pixels<const T>& y, const Lanes& lanes,
             const A* mixes, std::int64_t begin, std::int64_t count, const Chunk<A>& to, const Chunk<A>& kept) {
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        A *dy = to.block(v), *spare = kept.block(v);
        const A* mix = mixes + v * kLanes<A>;
        const Vec<A> alpha = load<A>(mix), beta = load<A>(mix + lanes.width), near = load<A>(mix + 2 * lanes.width);
        const Vec<A> rest = load<A>(mix + 3 * lanes.width);
        if (!conv.y) {
            pack(g, lanes, v, begin, count, dy);
            for (std::int64_t i = 0; i < count * kLanes<A>; i += kLanes<A>)
                store<A>(dy + i, alpha * load<A>(dy + i) + rest);
        } else if (lanes.images == 1 && (v + 1) * kLanes<A> <= lanes.channels) {
            const T* from = g.first + begin * g.pixel + v * kLanes<A>;
            const T* own = y.first + begin * y.pixel + v * kLanes<A>;
            for (std::int64_t i = 0; i < count; ++i, from += g.pixel, own += y.pixel)
                store<A>(dy + i * kLanes<A>, alpha * load<A>(from) + (beta * (load<A>(own) - near) + rest));
        } else {
            pack(g, lanes, v, begin, count, dy);
            pack(y, lanes, v, begin, count, spare);
            for (std::int64_t i = 0; i < count * kLanes<A>; i += kLanes<A>)
                store<A>(dy + i, alpha * load<A>(dy + i) + (beta * (load<A>(spare + i) - near) + rest));
        }
    }
}

template <typename T, typename A = Arithmetic<T>>
void backward_conv(const Stencil& p, const BackwardPlan<A>& plan, std::int64_t i, std::int64_t group,
                   std::int64_t slot, bool add, const Tile<A>& tile, BackwardDesk<A>& desk) {
    const Lanes& lanes = plan.lanes;
    const StencilConv& conv = p.convs[i];
    const StencilSource& source = p.sources[conv.source];
    const Extent e(p, conv, lanes);
    const auto g = pixels_of(static_cast<const T*>(conv.g), conv.g_pixel, e.height * e.width, group, lanes, p.count);
    const auto y = pixels_of(static_cast<const T*>(conv.y), conv.y_pixel, e.height * e.width, group, lanes, p.count);
    spread_mix(p, i, lanes, g.images, desk.mix);
    const Tile<A> dz = desk.dz.tile(lanes.blocks, e.height, e.width, turned_padding_of(p, conv));
    const std::int64_t partial = slot * p.conv_count + i;
    for (std::int64_t row = 0; row < e.height; row += e.rows) {
        const std::int64_t rows = smaller(e.rows, e.height - row), count = rows * e.width;
        // A few pixels at a time: the next ones are on their way from memory while these are being multiplied.
        for (std::int64_t k = 0; k < count; k += kPixels) {
            const Chunk<A> dy = desk.dy.from(k), work = desk.work.from(k);
            const std::int64_t some = smaller(kPixels, count - k);
            load_dy<T>(conv, g, y, lanes, desk.mix, row * e.width + k, some, dy, work);
            pointwise(dy, plan.matrices + i * plan.matrix_size, lanes, some, Rows<A>::of(work));
        }
        for (std::int64_t v = 0; v < lanes.blocks; ++v) {
            const std::size_t bytes = static_cast<std::size_t>(e.width) * kVectorBytes;
            for (std::int64_t k = 0; k < rows; ++k)
                std::memcpy(dz.at(v, row + k, 0), desk.work.block(v) + k * e.width * kLanes<A>, bytes);
        }
        if (!p.weights) continue;
        depthwise_rows(tile, conv, plan.taps + i * plan.taps_size, lanes, row, rows, e.width, desk.z);
        outer(desk.z, desk.dy, lanes, count, plan.matrix_sums + partial * plan.matrix_size);
        for (std::int64_t v = 0; v < lanes.blocks; ++v) {
            const A* in = tile.at(v, row * conv.stride - e.padding, -e.padding);
            taps(in, tile.pitch(), desk.work.block(v), rows, e.width, conv.kernel, conv.dilation, conv.stride,
                 plan.taps_sums + partial * plan.taps_size + v * e.taps * kLanes<A>);
        }
    }
    correlate_turned(dz, conv, source, plan.turned + i * plan.taps_size, lanes, add, desk.du);
}

// dx (+)= du relu'(x); of the normalised input, dx = du relu'(u) with its sum and its sum times u added to `sums`.
template <typename T, typename A = Arithmetic<T>>
void write_dx(const Stencil& p, const BackwardPlan<A>& plan, std::int64_t s, std::int64_t group,
              const Normalise<A>& normalise, const BackwardDesk<A>& desk, double* sums) {
    const Lanes& lanes = plan.lanes;
    const StencilSource& source = p.sources[s];
    const std::int64_t area = source.height * source.width;
    const auto x = pixels_of(static_cast<const T*>(source.x), source.pixel, area, group, lanes, p.count);
    const auto dx = pixels_of(static_cast<T*>(source.dx), source.dx_pixel, area, group, lanes, p.count);
    const Pixels<const T> before = {dx.first, dx.pixel, dx.image, dx.images};
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        for (std::int64_t begin = 0; begin < area; begin += plan.chunk) {
            const std::int64_t count = smaller(plan.chunk, area - begin);
            A *u = desk.dy.data, *out = desk.work.data;
            const A* du = desk.du + (v * area + begin) * kLanes<A>;
            pack(x, lanes, v, begin, count, u);
            Normalise<A>::apply(normalise, v, count, u);
            if (p.add) pack(before, lanes, v, begin, count, out);
            Vec<A> sum = {}, product = {};
            for (std::int64_t i = 0; i < count * kLanes<A>; i += kLanes<A>) {
                const Vec<A> value = load<A>(u + i);
                Vec<A> g = relu_gradient<A>(value, load<A>(du + i));
                if (p.add) g += load<A>(out + i);
                g = as_stored<T, A>(g);
                store<A>(out + i, g);
                sum += g;
                product += g * value;
            }
            unpack(out, dx, lanes, v, begin, count);
            for (int k = 0; k < kLanes<A> && p.mean; ++k) {
                sums[v * kLanes<A> + k] += static_cast<double>(sum[k]);
                sums[lanes.width + v * kLanes<A> + k] += static_cast<double>(product[k]);
            }
        }
    }
}

template <typename T, typename A = Arithmetic<T>>
void backward_task(const Stencil& p, const BackwardPlan<A>& plan, std::int64_t s, std::int64_t slot,
                   BackwardDesk<A>& desk) {
    const Lanes& lanes = plan.lanes;
    const StencilSource& source = p.sources[s];
    const std::int64_t area = source.height * source.width;
    double* sums = plan.sums + (slot * p.source_count + s) * 2 * lanes.width;
    for (std::int64_t k = 0; k < 2 * lanes.width; ++k) sums[k] = 0;
    for (std::int64_t i = 0; i < p.conv_count && p.weights; ++i) {
        if (p.convs[i].source != s) continue;
        const std::int64_t partial = slot * p.conv_count + i;
        std::memset(plan.taps_sums + partial * plan.taps_size, 0,
                    static_cast<std::size_t>(plan.taps_size) * sizeof(A));
        std::memset(plan.matrix_sums + partial * plan.matrix_size, 0,
                    static_cast<std::size_t>(plan.matrix_size) * sizeof(A));
    }
    for (std::int64_t group = slot; group < plan.groups; group += plan.slots) {
        const auto x = pixels_of(static_cast<const T*>(source.x), source.pixel, area, group, lanes, p.count);
        Normalise<A> normalise = {nullptr, nullptr, nullptr};
        if (p.mean) {
            const double *mean = p.mean + s * p.channels, *rstd = p.rstd + s * p.channels;
            normalise = Normalise<A>::spread(mean, rstd, lanes, x.images, desk.normalise);
        }
        Tile<A> tile = {nullptr, 0, 0, 0};
        if (p.weights) {
            tile = desk.tile.tile(lanes.blocks, source.height, source.width, padding_of(p, s));
            load_tile(x, lanes, normalise, tile);
        }
        bool add = false;
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            if (p.convs[i].source != s) continue;
            backward_conv<T>(p, plan, i, group, slot, add, tile, desk);
            add = true;
        }
        if (!add) std::memset(desk.du, 0, static_cast<std::size_t>(area * lanes.width) * sizeof(A));
        write_dx<T>(p, plan, s, group, normalise, desk, sums);
    }
}

// Sums over the slots, and over the images of a vector, of element [..][lane] of block v; `step`: from slot to slot.
template <typename A>
void add_slots(const A* first, std::int64_t step, std::int64_t slots, const Lanes& lanes, double (&total)[kLanes<A>]) {
    for (int k = 0; k < kLanes<A>; ++k) total[k] = 0;
    for (std::int64_t slot = 0; slot < slots; ++slot, first += step) {
        for (int k = 0; k < kLanes<A>; ++k) total[k] += static_cast<double>(first[k]);
    }
    for (std::int64_t k = lanes.stride; k < kLanes<A>; ++k) total[k % lanes.stride] += total[k];
}

// The weight gradients of convolution i, from their slots.
template <typename A>
void combine_weights(const Stencil& p, const BackwardPlan<A>& plan, std::int64_t i) {
    const Lanes& lanes = plan.lanes;
    const StencilConv& conv = p.convs[i];
    const std::int64_t taps = conv.kernel * conv.kernel;
    double total[kLanes<A>];
    for (std::int64_t v = 0; v < lanes.blocks; ++v) {
        const std::int64_t some = smaller(lanes.channels - v * kLanes<A>, kLanes<A>);
        A* ddepthwise = static_cast<A*>(conv.ddepthwise) + v * kLanes<A> * taps;
        for (std::int64_t tap = 0; tap < taps; ++tap) {
            const A* first = plan.taps_sums + i * plan.taps_size + (v * taps + tap) * kLanes<A>;
            add_slots(first, p.conv_count * plan.taps_size, plan.slots, lanes, total);
            for (std::int64_t k = 0; k < some; ++k) ddepthwise[k * taps + tap] = static_cast<A>(total[k]);
        }
        A* dpointwise = static_cast<A*>(conv.dpointwise) + v * kLanes<A> * lanes.channels;
        for (std::int64_t c = 0; c < lanes.channels; ++c) {
            const A* first = plan.matrix_sums + i * plan.matrix_size + c * lanes.width + v * kLanes<A>;
            add_slots(first, p.conv_count * plan.matrix_size, plan.slots, lanes, total);
            for (std::int64_t k = 0; k < some; ++k) dpointwise[k * lanes.channels + c] = static_cast<A>(total[k]);
        }
    }
}

template <typename A>
void combine_sums(const Stencil& p, const BackwardPlan<A>& plan, std::int64_t s) {
    const Lanes& lanes = plan.lanes;
    for (std::int64_t c = 0; c < p.channels; ++c) {
        double sum = 0, product = 0;
        for (std::int64_t slot = 0; slot < plan.slots; ++slot) {
            const double* part = plan.sums + (slot * p.source_count + s) * 2 * lanes.width + c;
            for (std::int64_t image = 0; image < lanes.images; ++image, part += lanes.stride) {
                sum += part[0];
                product += part[lanes.width];
            }
        }
        p.sums[s * p.channels + c] = sum;
        p.products[s * p.channels + c] = product;
    }
}

}  // namespace

template <typename T>
std::int64_t stencil_backward_scratch(const Stencil& p) {
    return BackwardPlan<Arithmetic<T>>(p, nullptr).bytes;
}

template <typename T>
void stencil_backward(const Stencil& p) {
    using A = Arithmetic<T>;
    const BackwardPlan<A> plan(p, p.scratch);
    [[maybe_unused]] const int threads = threads_for(p);
#pragma omp parallel num_threads(threads)
    {
        BackwardDesk<A> desk(plan, thread_number());
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            const StencilConv& conv = p.convs[i];
            lay_turned(conv, plan.lanes, plan.turned + i * plan.taps_size);
            lay_matrix(static_cast<const A*>(conv.pointwise), p.channels, 1, plan.lanes,
                       plan.matrices + i * plan.matrix_size);
            if (!p.weights) continue;
            const Parity taps = all_taps(conv);
            lay_taps(static_cast<const A*>(conv.depthwise), conv.kernel, taps, taps, plan.lanes,
                     plan.taps + i * plan.taps_size);
        }
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t task = 0; task < p.source_count * plan.slots; ++task)
            backward_task<T>(p, plan, task / plan.slots, task % plan.slots, desk);
        if (p.weights) {
#pragma omp for schedule(static)
            for (std::int64_t i = 0; i < p.conv_count; ++i) combine_weights(p, plan, i);
        }
        if (p.mean) {
#pragma omp for schedule(static)
            for (std::int64_t s = 0; s < p.source_count; ++s) combine_sums(p, plan, s);
        }
    }
}

template std::int64_t stencil_backward_scratch<float>(const Stencil& p);
template std::int64_t stencil_backward_scratch<bfloat16>(const Stencil& p);
template std::int64_t stencil_backward_scratch<double>(const Stencil& p);
template void stencil_backward<float>(const Stencil& p);
template void stencil_backward<bfloat16>(const Stencil& p);
template void stencil_backward<double>(const Stencil& p);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
