// The batch norm around the product: y normalised in place, and the two sums that its backward pass needs.

#include "preprocess_tile.h"

namespace fastdarts {
namespace FASTDARTS_ISA {
namespace {

using namespace preprocess;

template <typename T>
static void normalise_pixels(const PreprocessNormalise<T>& p, std::int64_t begin, std::int64_t end) {
    using A = Arithmetic<T>;
    constexpr int lanes = kLanes<A>;
    for (std::int64_t c = 0; c < p.channels; c += lanes) {
        const int n = lanes_left<A>(p.channels - c);
        const Vec<A> mean = load_some<A>(p.mean + c, n), rstd = load_some<A>(p.rstd + c, n);
        T* y = p.y + begin * p.channels + c;
        if (n == lanes) {
            for (std::int64_t i = begin; i < end; ++i, y += p.channels)
                store<A>(y, (load<A>(y) - mean) * rstd);
        } else {
            for (std::int64_t i = begin; i < end; ++i, y += p.channels)
                store_some<A>(y, (load_some<A>(y, n) - mean) * rstd, n);
        }
    }
}

template <typename T>
static void reduce_pixels(const PreprocessReduce<T>& p, std::int64_t begin, std::int64_t end, double* total,
                          double* products) {
    using A = Arithmetic<T>;
    constexpr int lanes = kLanes<A>;
    for (std::int64_t c = 0; c < p.channels; c += lanes) {
        const int n = lanes_left<A>(p.channels - c);
        const T *g = p.g + begin * p.g_pixel + c, *xhat = p.xhat + begin * p.xhat_pixel + c;
        Vec<A> sum = {}, product = {};
        for (std::int64_t i = begin; i < end; ++i, g += p.g_pixel, xhat += p.xhat_pixel) {
            const Vec<A> value = n == lanes ? load<A>(g) : load_some<A>(g, n);
            sum += value;
            product += value * (n == lanes ? load<A>(xhat) : load_some<A>(xhat, n));
        }
        add_as_double<A>(total + c, sum);
        add_as_double<A>(products + c, product);
    }
}

}  // namespace

template <typename T>
void preprocess_normalise(const PreprocessNormalise<T>& p) {
    const std::int64_t chunks = (p.pixels + kPixels - 1) / kPixels;
    const bool parallel = p.threads > 1 && p.pixels * p.channels >= kParallelElements;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (parallel)
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
        normalise_pixels<T>(p, chunk * kPixels, smaller((chunk + 1) * kPixels, p.pixels));
}

template <typename T>
void preprocess_reduce(const PreprocessReduce<T>& p) {
    const ReduceScratch scratch(p.pixels, p.channels, p.scratch);
    const std::int64_t chunks = (p.pixels + kPixels - 1) / kPixels, tasks = scratch.tasks, wide = scratch.wide;
    const bool parallel = p.threads > 1 && p.pixels * p.channels >= kParallelElements;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (parallel)
    for (std::int64_t t = 0; t < tasks; ++t) {
        double *total = scratch.total + t * wide, *products = scratch.products + t * wide;
        for (std::int64_t c = 0; c < wide; ++c) total[c] = products[c] = 0;
        for (std::int64_t chunk = t * chunks / tasks; chunk < (t + 1) * chunks / tasks; ++chunk)
            reduce_pixels<T>(p, chunk * kPixels, smaller((chunk + 1) * kPixels, p.pixels), total, products);
    }
    for (std::int64_t c = 0; c < p.channels; ++c) {
        p.total[c] = p.products[c] = 0;
        for (std::int64_t t = 0; t < tasks; ++t) {
            p.total[c] += scratch.total[t * wide + c];
            p.products[c] += scratch.products[t * wide + c];
        }
    }
}

template void preprocess_normalise(const PreprocessNormalise<float>& p);
template void preprocess_normalise(const PreprocessNormalise<bfloat16>& p);
template void preprocess_normalise(const PreprocessNormalise<double>& p);
template void preprocess_reduce(const PreprocessReduce<float>& p);
template void preprocess_reduce(const PreprocessReduce<bfloat16>& p);
template void preprocess_reduce(const PreprocessReduce<double>& p);

}  // namespace FASTDARTS_ISA
}  // namespace fastdarts
