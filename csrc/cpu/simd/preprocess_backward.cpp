// Backward: with dy = alpha g + beta y + gamma on the fly, dx = W^T dy where x > 0 and dW = dy relu(x)^T.
//
// A slot is a range of chunks; it writes its own pixels of dx and adds up its own dW, a rank-one update a pixel in
// registers and one addition to memory a chunk. How many slots there are follows from the shapes alone, and they are
// added in order: the same bits for any number of threads. Where x lies as planes, the same products are computed
// transposed: rows are channels, columns are pixels of dx or outputs of dW.

#include "preprocess_tile.h"
#include "preprocess_transpose.h"

#include <omp.h>

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

using namespace preprocess;

// How a gradient of x meets memory: one element after the other, or vectors that are written or added to.
enum class Way { strided, written, added };

// dy of a chunk's pixels, the outputs of one half from `base` on, in blocks as pack_pixels has them.
template <typename T>
void pack_gradient(const PreprocessBackward<T>& p, std::int64_t pixel, int count, std::int64_t base,
                   std::int64_t outputs, Arithmetic<T>* to) {
    using A = Arithmetic<T>;
    constexpr int lanes = kLanes<A>;
    for (std::int64_t block = 0; block < outputs; block += kBlock, to += kPixels * kBlock) {
        const std::int64_t here = smaller(kBlock, outputs - block), padded = round_up(here, kLanesMost);
        for (std::int64_t c = 0; c < padded; c += lanes) {
            const int n = static_cast<int>(larger(0, lanes_left<A>(here - c)));
            const std::int64_t at = base + block + c;
            const Vec<A> alpha = load_some<A>(p.alpha + at, n), gamma = load_some<A>(p.gamma + at, n);
            const Vec<A> beta = p.y ? load_some<A>(p.beta + at, n) : Vec<A>{};
            const T *g = p.g + pixel * p.g_pixel + at, *y = p.y ? p.y + pixel * p.y_pixel + at : nullptr;
            for (int i = 0; i < count; ++i, g += p.g_pixel) {
                Vec<A> dy = alpha * (n == lanes ? load<A>(g) : load_some<A>(g, n)) + gamma;
                if (y) {
                    dy += beta * (n == lanes ? load<A>(y) : load_some<A>(y, n));
                    y += p.y_pixel;
                }
                store<A>(to + i * kBlock + c, dy);
            }
            for (std::int64_t i = count; i < smaller(round_up(count, kRowsOfOne), kPixels); ++i)
                store<A>(to + i * kBlock + c, Vec<A>{});
        }
    }
}

// One vector of dx, its first n lanes: masked, and written or added.
template <Way WAY, typename T>
FASTDARTS_INLINE void finish_vector(const PreprocessBackward<T>& p, const T* x, T* dx, Vec<Arithmetic<T>> v, int n) {
    using A = Arithmetic<T>;
    if constexpr (WAY == Way::strided) {
        const std::int64_t step = p.dx_strides.channel;
        v = relu_gradient<A>(gather_some<A>(x, p.x_strides.channel, n), v);
        if (p.accumulate) v += gather_some<A>(dx, step, n);
        scatter_some<A>(dx, step, v, n);
    } else if (n == kLanes<A>) {
        v = relu_gradient<A>(load<A>(x), v);
        if constexpr (WAY == Way::added) v += load<A>(dx);
        store<A>(dx, v);
    } else {
        v = relu_gradient<A>(load_some<A>(x, n), v);
        if constexpr (WAY == Way::added) v += load_some<A>(dx, n);
        store_some<A>(dx, v, n);
    }
}

// A tile as numbers in memory: what comes after the product is a loop, not R x V copies of its code.
template <typename A, int R, int V>
FASTDARTS_INLINE void lay_down(const Vec<A> (&tile)[R][V], A* to) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store<A>(to + (r * V + v) * kLanes<A>, tile[r][v]);
}

struct Pixels {
    std::int64_t begin;
    int count;
    std::int64_t x[kPixels], dx[kPixels];  // where they lie, elements; -1 outside the map
};

template <Way WAY, typename T, int R, int V>
void input_columns(const PreprocessBackward<T>& p, const Arithmetic<T>* dy, const Pixels& pixels,
                   const Arithmetic<T>* panel, std::int64_t outputs, std::int64_t channel) {
    using A = Arithmetic<T>;
    constexpr int lanes = kLanes<A>;
    const std::int64_t x_step = WAY == Way::strided ? p.x_strides.channel : 1;
    const std::int64_t dx_step = WAY == Way::strided ? p.dx_strides.channel : 1;
    const T* x = p.x + channel * x_step;
    T* dx = p.dx + channel * dx_step;
    const int last = lanes_left<A>(p.shape.inputs - channel - (V - 1) * lanes);
    for (int row = 0; row < pixels.count; row += R) {
        Vec<A> tile[R][V];
        multiply_pixels<false, A>(dy, row, panel, outputs, tile);
        A sums[R * V * lanes];
        lay_down<A>(tile, sums);
        const int rows = static_cast<int>(smaller(R, pixels.count - row));
        for (int r = 0; r < rows; ++r) {
            if (pixels.x[row + r] < 0) continue;
            const T* from = x + pixels.x[row + r];
            T* to = dx + pixels.dx[row + r];
            for (int v = 0; v < V; ++v)
                finish_vector<WAY>(p, from + v * lanes * x_step, to + v * lanes * dx_step,
                                   load<A>(sums + (r * V + v) * lanes), v < V - 1 ? lanes : last);
        }
    }
}

template <Way WAY, typename T>
void input_gradient(const PreprocessBackward<T>& p, const Pixels& pixels, const Arithmetic<T>* dy,
                    const Arithmetic<T>* panels, std::int64_t outputs) {
    using A = Arithmetic<T>;
    for (std::int64_t c = 0; c < p.shape.inputs;) {
        const std::int64_t vectors = panel_vectors<A>(p.shape.inputs, c);
        if (vectors == 2)
            input_columns<WAY, T, kRowsOfTwo, 2>(p, dy, pixels, panels + c * outputs, outputs, c);
        else
            input_columns<WAY, T, kRowsOfOne, 1>(p, dy, pixels, panels + c * outputs, outputs, c);
        c += vectors * kLanes<A>;
    }
}

// The same where x and dx lie as planes: rows are channels, columns are the chunk's pixels; dy is [outputs][kPixels].
template <Way WAY, typename T>
void input_planes(const PreprocessBackward<T>& p, const Pixels& pixels, const Arithmetic<T>* dy,
                  const Arithmetic<T>* panels, std::int64_t outputs) {
    using A = Arithmetic<T>;
    constexpr int R = kRowsOfThree, V = 3, lanes = kLanes<A>;
    static_assert(kPixels % (V * lanes) == 0, "a chunk is a whole number of tiles");
    for (std::int64_t c = 0; c < p.shape.inputs; c += R, panels += R * outputs) {
        const T* x = p.x + pixels.x[0] + c * p.x_strides.channel;
        T* dx = p.dx + pixels.dx[0] + c * p.dx_strides.channel;
        for (int first = 0; first < pixels.count; first += V * lanes) {
            Vec<A> tile[R][V];
            clear<A>(tile);
            multiply<A, R, V, 1, R>(panels, dy + first, kPixels, outputs, tile);
            A sums[R * V * lanes];
            lay_down<A>(tile, sums);
            const int rows = static_cast<int>(smaller(R, p.shape.inputs - c));
            for (int r = 0; r < rows; ++r) {
                for (int v = 0; v < V && first + v * lanes < pixels.count; ++v) {
                    const int at = first + v * lanes;
                    finish_vector<WAY>(p, x + r * p.x_strides.channel + at, dx + r * p.dx_strides.channel + at,
                                       load<A>(sums + (r * V + v) * lanes), lanes_left<A>(pixels.count - at));
                }
            }
        }
    }
}

// slot[row][column] += sum over the chunk's pixels of rows(row, pixel) * columns[pixel][column], V vectors of columns.
template <std::int64_t ROW, std::int64_t STEP, typename A, int V>
FASTDARTS_INLINE void add_products(const A* rows, const A* columns, int pixels, std::int64_t left, A* slot,
                                   std::int64_t wide) {
    constexpr int R = kRowsOfGradient;
    Vec<A> tile[R][V];
    clear<A>(tile);
    multiply<A, R, V, ROW, STEP>(rows, columns, kBlock, pixels, tile);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
        if (r >= left) break;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            A* to = slot + r * wide + v * kLanes<A>;
            store<A>(to, load<A>(to) + tile[r][v]);
        }
    }
}

// slot[o][c] += dy[p][o] * packed[p][c]; with PLANES slot[c][o] += packed[c][p] * dy[p][o].
template <bool PLANES, typename A, int V>
void weight_columns(const A* rows, std::int64_t count, const A* columns, int pixels, A* slot, std::int64_t wide) {
    for (std::int64_t row = 0; row < count; row += kRowsOfGradient, slot += kRowsOfGradient * wide) {
        if constexpr (PLANES) {
            add_products<kPixels, 1, A, V>(rows + row * kPixels, columns, pixels, count - row, slot, wide);
        } else {
            const A* from = rows + row / kBlock * kBlock * kPixels + row % kBlock;
            add_products<1, kBlock, A, V>(from, columns, pixels, count - row, slot, wide);
        }
    }
}

template <bool PLANES, typename A>
void weight_gradient(const A* rows, std::int64_t row_count, const A* columns, std::int64_t column_count, int pixels,
                     A* slot) {
    const std::int64_t wide = round_up(column_count, kLanesMost);
    for (std::int64_t c = 0; c < column_count;) {
        const A* from = columns + c / kBlock * kBlock * kPixels + c % kBlock;
        const std::int64_t vectors = panel_vectors<A>(column_count, c);
        if (vectors == 2)
            weight_columns<PLANES, A, 2>(rows, row_count, from, pixels, slot + c, wide);
        else
            weight_columns<PLANES, A, 1>(rows, row_count, from, pixels, slot + c, wide);
        c += vectors * kLanes<A>;
    }
}

template <typename T>
struct Pass {
    const PreprocessBackward<T>& p;
    const BackwardScratch<Arithmetic<T>>& scratch;
    bool planes, dx_planes;  // how x lies, and whether dx does too
    Arithmetic<T>*dy, *packed;
};

template <typename T>
void add_input_gradient(const Pass<T>& pass, const Pixels& pixels, int half) {
    const PreprocessBackward<T>& p = pass.p;
    const std::int64_t outputs = p.shape.outputs[half];
    const Arithmetic<T>* panels = pass.scratch.panels[half];
    if (pass.dx_planes) {
        Arithmetic<T>* transposed = pass.dy + pass.scratch.dy_size;
        transpose_pixels(pass.dy, pixels.count, outputs, transposed);
        if (p.accumulate)
            input_planes<Way::added>(p, pixels, transposed, panels, outputs);
        else
            input_planes<Way::written>(p, pixels, transposed, panels, outputs);
    } else if (p.x_strides.channel != 1 || p.dx_strides.channel != 1) {
        input_gradient<Way::strided>(p, pixels, pass.dy, panels, outputs);
    } else if (p.accumulate) {
        input_gradient<Way::added>(p, pixels, pass.dy, panels, outputs);
    } else {
        input_gradient<Way::written>(p, pixels, pass.dy, panels, outputs);
    }
}

template <typename T>
void backward_chunk(const Pass<T>& pass, std::int64_t slot, Pixels& pixels) {
    using A = Arithmetic<T>;
    const PreprocessBackward<T>& p = pass.p;
    const PreprocessShape& s = p.shape;
    for (int half = 0; half < 2; ++half) {
        const std::int64_t outputs = s.outputs[half];
        if (outputs == 0) continue;
        pixel_offsets(s, p.x_strides, half, pixels.begin, pixels.count, pixels.x);
        pack_gradient<T>(p, pixels.begin, pixels.count, half * s.outputs[0], outputs, pass.dy);
        if (p.dx != nullptr) {
            pixel_offsets(s, p.dx_strides, half, pixels.begin, pixels.count, pixels.dx);
            add_input_gradient<T>(pass, pixels, half);
        }
        if (p.dweights[half] == nullptr) continue;
        A* mine = pass.scratch.slots[half] + slot * pass.scratch.slot_size[half];
        if (pass.planes) {
            pack_planes<A>(p.x + pixels.x[0], pixels.count, p.x_strides.channel, s.inputs, pass.packed);
            weight_gradient<true>(pass.packed, s.inputs, pass.dy, outputs, pixels.count, mine);
        } else {
            pack_pixels<A>(p.x, pixels.x, pixels.count, p.x_strides.channel, s.inputs, pass.packed);
            weight_gradient<false>(pass.dy, outputs, pass.packed, s.inputs, pixels.count, mine);
        }
    }
}

// One row of a sum over the slots, in their order, to elements `step` apart.
template <typename A>
void reduce_slots(const A* slots, std::int64_t count, std::int64_t slot_size, std::int64_t columns, A* to,
                  std::int64_t step) {
    constexpr int lanes = kLanes<A>;
    for (std::int64_t c = 0; c < columns; c += lanes) {
        Vec<A> sum = {};
        for (std::int64_t slot = 0; slot < count; ++slot) sum += load<A>(slots + slot * slot_size + c);
        if (step == 1)
            store_some<A>(to + c, sum, lanes_left<A>(columns - c));
        else
            scatter_some<A>(to + c * step, step, sum, lanes_left<A>(columns - c));
    }
}

template <typename T>
void reduce_weights(const Pass<T>& pass, int half, std::int64_t row) {
    const PreprocessShape& s = pass.p.shape;
    const std::int64_t columns = pass.planes ? s.outputs[half] : s.inputs, step = pass.planes ? s.inputs : 1;
    reduce_slots(pass.scratch.slots[half] + row * round_up(columns, kLanesMost), pass.scratch.slot_count,
                 pass.scratch.slot_size[half], columns,
                 pass.p.dweights[half] + row * (pass.planes ? 1 : s.inputs), step);
}

}  // namespace

template <typename T>
void preprocess_backward(const PreprocessBackward<T>& p) {
    using A = Arithmetic<T>;
    const PreprocessShape& s = p.shape;
    const bool weights = p.dweights[0] != nullptr, planes = is_planes(s, p.x_strides);
    const bool dx_planes = planes && p.dx != nullptr && is_planes(s, p.dx_strides);
    const BackwardScratch<A> scratch(s, weights, p.scratch);
    for (int half = 0; half < 2 && p.dx != nullptr; ++half) {
        if (dx_planes)
            pack_panels<A, kRowsOfThree>(p.weights[half], s.inputs, 1, s.outputs[half], s.inputs, scratch.panels[half]);
        else
            pack_panels<A>(p.weights[half], s.inputs, 1, s.outputs[half], s.inputs, scratch.panels[half]);
    }
    const Chunks chunks(s, planes);
    const std::int64_t slots = scratch.slot_count;
    const bool parallel =
        s.threads > 1 && chunks.pixels * s.inputs * (s.outputs[0] + s.outputs[1]) >= kParallelProducts;
#pragma omp parallel num_threads(s.threads) if (parallel)
    {
        const std::int64_t thread = omp_get_thread_num();
        A* const dy = scratch.dy + thread * 2 * scratch.dy_size;
        const Pass<T> pass{p, scratch, planes, dx_planes, dy, scratch.packed + thread * scratch.packed_size};
#pragma omp for schedule(dynamic)
        for (std::int64_t slot = 0; slot < slots; ++slot) {
            for (int half = 0; half < 2; ++half) {
                const std::int64_t size = scratch.slot_size[half];
                std::memset(scratch.slots[half] + slot * size, 0, sizeof(A) * size);
            }
            for (std::int64_t i = slot * chunks.count / slots; i < (slot + 1) * chunks.count / slots; ++i) {
                Pixels pixels;
                pixels.begin = chunks.begin(i);
                pixels.count = chunks.size(i);
                backward_chunk<T>(pass, slot, pixels);
            }
        }
        for (int half = 0; half < 2 && weights; ++half) {
            const std::int64_t rows = s.outputs[half] == 0 ? 0 : planes ? s.inputs : s.outputs[half];
#pragma omp for schedule(static)
            for (std::int64_t row = 0; row < rows; ++row) reduce_weights<T>(pass, half, row);
        }
    }
}

template void preprocess_backward(const PreprocessBackward<float>& p);
template void preprocess_backward(const PreprocessBackward<bfloat16>& p);
template void preprocess_backward(const PreprocessBackward<double>& p);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
