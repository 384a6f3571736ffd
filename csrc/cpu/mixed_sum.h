// The weighted sum of a node, its reductions and its gradients: what csrc/bindings/mixed_sum.cpp hands to the kernels
// in csrc/cpu/simd/mixed_sum_*.cpp. Formulas: fastdarts/ops/mixed_sum.py.
//
// Everything is channels last (fastdarts/ops/maps.py): pixel p of a map begins at p * pixel elements. Coefficients and
// statistics are float64; the kernels turn them into the arithmetic type.
#pragma once

#include <cstdint>

namespace fastdarts {

// One incoming edge: its source and the candidates without weights that it has.
struct MixedEdge {
    const void* source;
    void* gradient;  // of the source; backward only
    std::int64_t height, width, pixel, gradient_pixel;
    int stride;
    bool skip, max_pool, avg_pool;
};

struct MixedSize {
    std::int64_t batch, channels, partial, height, width;  // of the node; channels / partial of them are mixed
    std::int64_t terms, edges, source_width;               // source_width: of the widest source
    int threads;
};

// mixed = bias + sum_t scale_t (y_t - mean_t) + sum_e free_e (x, max - pool_mean, avg - pool_mean); null means are 0.
struct MixedForward {
    MixedSize size;
    void* out;
    std::int64_t out_pixel;
    const void* const* ys;  // [terms], each [batch, height, width, channels / partial] without gaps
    const double* scale;    // [terms, mixed]
    const double* mean;     // [terms, mixed] or null
    const double* bias;     // [mixed]
    const MixedEdge* edges;
    const double* free;       // [edges, 3, mixed]
    const double* pool_mean;  // [edges, 2, mixed] or null
    const double* bypass;     // [edges] or null: 1 each
    void* scratch;
};

struct MixedReduce {
    MixedSize size;
    const void* g;
    std::int64_t g_pixel;
    void* unshuffled;  // [batch, height, width, channels] without gaps; null where partial is 1
    const void* const* ys;
    const double* mean;
    const double* rstd;
    const MixedEdge* edges;
    const double* pool_mean;
    const double* pool_rstd;
    double* total;     // [mixed]
    double* products;  // [terms, mixed]
    double* free;      // [edges, 3, mixed]
    double* bypass;    // [edges]; null where partial is 1
    void* scratch;
};

// gradient += alpha g + beta (v - pool_mean) + gamma, carried back through v = (x, max, avg) of each edge.
struct MixedBackward {
    MixedSize size;
    const void* g;
    std::int64_t g_pixel;
    const MixedEdge* edges;
    const double* alpha;  // [edges, 3, mixed]
    const double* beta;
    const double* gamma;
    const double* pool_mean;  // [edges, 2, mixed] or null: 0
    const double* bypass;     // [edges] or null: 1 each
    void* scratch;
};

// Mean and biased variance of the source's pools; size.channels is the source's, partial 1, edges 1, terms 0.
struct PoolMoments {
    MixedSize size;
    MixedEdge edge;
    double* mean;  // [2, channels]: max, avg
    double* var;
    void* scratch;
};

}  // namespace fastdarts
