// ReLU, 1x1 convolution, moments: a cell's preprocessing, and with two shifted halves at stride 2 the factorised
// reduction. The kernels are in simd/preprocess_*.cpp; the reference is fastdarts/reference/preprocess.py.
#pragma once

#include <cstdint>

#include "../dtypes.h"
#include "../isa.h"

namespace fastdarts {

// Element (n, c, h, w) of a tensor lies at n * image + c * channel + h * row + w * column.
struct Strides {
    std::int64_t image, channel, row, column;
};

// What both directions share. At stride 2 the first half reads the pixels (2i, 2j), the second (2i + 1, 2j + 1), zeros
// outside; at stride 1 outputs[1] is 0. M = batch * ceil(height / stride) * ceil(width / stride) pixels come out.
struct PreprocessShape {
    std::int64_t batch, inputs, height, width, stride, outputs[2];
    int threads;
};

template <typename T>
struct PreprocessForward {
    PreprocessShape shape;
    const T* x;  // [batch, inputs, height, width]
    Strides x_strides;
    const Arithmetic<T>* weights[2];  // [outputs[i], inputs]
    T* y;                             // [M, outputs[0] + outputs[1]]
    double *mean, *var;               // [outputs[0] + outputs[1]], or both null
    char* scratch;
};

// dy = alpha * g + beta * y + gamma; y may be null, which stands for beta = 0. dx is written, or added to where
// `accumulate`, and left out where it is null; at stride 2 only the pixels that a half reads are touched. dweights are
// left out where they are null.
template <typename T>
struct PreprocessBackward {
    PreprocessShape shape;
    const T* x;
    Strides x_strides;
    const Arithmetic<T>* weights[2];
    const T *g, *y;  // [M, outputs[0] + outputs[1]], pixels g_pixel and y_pixel elements apart
    std::int64_t g_pixel, y_pixel;
    const Arithmetic<T>*alpha, *beta, *gamma;  // [outputs[0] + outputs[1]]
    T* dx;
    Strides dx_strides;
    bool accumulate;
    Arithmetic<T>* dweights[2];  // [outputs[i], inputs]
    char* scratch;
};

// y = (y - mean) * rstd in place, [pixels, channels].
template <typename T>
struct PreprocessNormalise {
    T* y;
    const Arithmetic<T>*mean, *rstd;
    std::int64_t pixels, channels;
    int threads;
};

// total = sum of g, products = sum of g * xhat, per channel.
template <typename T>
struct PreprocessReduce {
    const T *g, *xhat;  // [pixels, channels], pixels g_pixel and xhat_pixel elements apart
    std::int64_t g_pixel, xhat_pixel, pixels, channels;
    double *total, *products;  // [channels]
    int threads;
    char* scratch;
};

FASTDARTS_EACH_ISA(template <typename T> void preprocess_forward(const PreprocessForward<T>& params);
                   template <typename T> void preprocess_backward(const PreprocessBackward<T>& params);
                   template <typename T> void preprocess_normalise(const PreprocessNormalise<T>& params);
                   template <typename T> void preprocess_reduce(const PreprocessReduce<T>& params);)

// Where things lie in the scratch. Used by the kernels of every instruction set and for the size of the scratch, so
// everything is padded for the widest vectors. Nameless, because the linker must not merge the copies of each
// instruction set.
namespace preprocess {
namespace {

constexpr std::int64_t kPixels = 48;  // pixels of a chunk: a multiple of every tile's rows
constexpr std::int64_t kBlock = 64;   // channels of a block of packed pixels: rows a constant distance apart
constexpr std::int64_t kLanesMost = 16;
constexpr std::int64_t kTasks = 64;  // of the forward pass, each with moments of its own
constexpr std::int64_t kParallelElements = 1 << 16;
constexpr std::int64_t kParallelProducts = 1 << 19;  // about 15 microseconds of one core
constexpr std::int64_t kSlots = 16;  // of the backward pass, each with weight gradients of its own

static inline std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }
static inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
static inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a < b ? b : a; }

static inline std::int64_t pixels_out(const PreprocessShape& s) {
    return s.batch * ((s.height + s.stride - 1) / s.stride) * ((s.width + s.stride - 1) / s.stride);
}

// Whether the channels are planes that can be read along the pixels: NCHW, or a range of its channels.
static inline bool is_planes(const PreprocessShape& s, const Strides& at) {
    return s.stride == 1 && at.channel != 1 && at.column == 1 && at.row == s.width;
}

// The pixels of y in chunks of at most kPixels; of planes no chunk has pixels of two images.
struct Chunks {
    std::int64_t pixels, count, per_image, image;  // per_image is 0 where images do not matter

    Chunks(const PreprocessShape& s, bool planes) {
        pixels = pixels_out(s);
        image = s.height * s.width;
        per_image = planes ? (image + kPixels - 1) / kPixels : 0;
        count = planes ? s.batch * per_image : (pixels + kPixels - 1) / kPixels;
    }
    std::int64_t begin(std::int64_t chunk) const {
        if (per_image == 0) return smaller(chunk * kPixels, pixels);
        return chunk / per_image * image + chunk % per_image * kPixels;
    }
    int size(std::int64_t chunk) const { return static_cast<int>(begin(chunk + 1) - begin(chunk)); }
};

// The scratch handed out piece by piece, on cache lines.
struct Carver {
    char* base;
    std::int64_t used;

    template <typename E>
    E* take(std::int64_t count) {
        E* at = reinterpret_cast<E*>(base + used);
        used = round_up(used + count * static_cast<std::int64_t>(sizeof(E)), 64);
        return at;
    }
};

template <typename A>
struct ForwardScratch {
    A* panels[2];  // weights, transposed: [vectors of outputs][inputs][lanes]
    A* packed;     // [threads][inputs, a whole number of blocks][kPixels], through the ReLU
    A* shift;      // [tasks][outputs]: what a task's moments are centred on
    double* sums;  // [tasks][outputs], of y - shift
    double* squares;
    std::int64_t tasks, wide, packed_size, bytes;  // wide: outputs, each half padded

    ForwardScratch(const PreprocessShape& s, char* base) {
        Carver carver{base, 0};
        tasks = smaller((pixels_out(s) + kPixels - 1) / kPixels, kTasks);
        wide = round_up(s.outputs[0], kLanesMost) + round_up(s.outputs[1], kLanesMost);
        packed_size = kPixels * round_up(s.inputs, kBlock);
        for (int half = 0; half < 2; ++half)
            panels[half] = carver.take<A>(s.inputs * round_up(s.outputs[half], kLanesMost));
        packed = carver.take<A>(s.threads * packed_size);
        shift = carver.take<A>(tasks * wide);
        sums = carver.take<double>(tasks * wide);
        squares = carver.take<double>(tasks * wide);
        bytes = carver.used;
    }
};

template <typename A>
struct BackwardScratch {
    A* panels[2];  // weights: [vectors of inputs][outputs][lanes]
    A* dy;         // [threads][outputs of a half, a whole number of blocks][kPixels], twice: as pixels and as planes
    A* packed;     // as forward; only for weight gradients
    A* slots[2];   // [slots][outputs of a half][inputs], one of them padded: partial weight gradients
    std::int64_t wide, dy_size, packed_size, slot_size[2], slot_count, bytes;  // wide: inputs, padded

    BackwardScratch(const PreprocessShape& s, bool weights, char* base) {
        Carver carver{base, 0};
        wide = round_up(s.inputs, kLanesMost);
        dy_size = kPixels * round_up(larger(s.outputs[0], s.outputs[1]), kBlock);
        packed_size = weights ? kPixels * round_up(s.inputs, kBlock) : 0;
        slot_count = smaller(kSlots, pixels_out(s) / (4 * kPixels) + 1);
        for (int half = 0; half < 2; ++half) panels[half] = carver.take<A>(s.outputs[half] * wide);
        dy = carver.take<A>(s.threads * 2 * dy_size);
        packed = carver.take<A>(s.threads * packed_size);
        for (int half = 0; half < 2; ++half) {
            slot_size[half] =
                weights ? larger(s.outputs[half] * wide, s.inputs * round_up(s.outputs[half], kLanesMost)) : 0;
            slots[half] = carver.take<A>(slot_count * slot_size[half]);
        }
        bytes = carver.used;
    }
};

struct ReduceScratch {
    double *total, *products;  // [tasks][channels, padded]
    std::int64_t tasks, wide, bytes;

    ReduceScratch(std::int64_t pixels, std::int64_t channels, char* base) {
        Carver carver{base, 0};
        tasks = smaller((pixels + kPixels - 1) / kPixels, kTasks);
        wide = round_up(channels, kLanesMost);
        total = carver.take<double>(tasks * wide);
        products = carver.take<double>(tasks * wide);
        bytes = carver.used;
    }
};

}  // namespace
}  // namespace preprocess
}  // namespace fastdarts
