// A whole cell, forward or backward, in one call: the kernels of csrc/cpu/simd in the order of a program.
//
// The program is fastdarts/plan/_program.py's, in the same words and numbers: states (inputs, then nodes), rows of norms
// (they name the values y and the statistics; `norms` itself stands for what has none: mean 0, rstd 1), places among the
// parameters and among the maps that are handed in, and mixing weights, [edges * width + 1], the last one 0.
//
// Everything that lives only during the call lies in one scratch. A first pass over the program, which reads no address,
// finds its size; the second hands out the same pieces and calls the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "../dtypes.h"

namespace fastdarts {

using Numbers = std::vector<std::int64_t>;

struct CellConv {
    std::int64_t source, kernel, dilation, stride;  // source: among those of its call
    std::int64_t depthwise, pointwise;              // parameters
    std::int64_t norm;                              // its value y
};

struct CellCall {
    Numbers sources;  // states; for second halves values, which are read normalised
    std::vector<CellConv> convs;
};

struct CellReduction {
    std::int64_t source;
    Numbers weights;  // one or two
    std::int64_t norm;
};

struct CellPools {
    std::int64_t source, stride;
    Numbers max_norms, avg_norms;  // the batch norms that have these statistics
};

struct CellValues {
    CellCall first;
    std::vector<CellReduction> reductions;
    std::vector<CellPools> pools;
    CellCall second;
};

struct CellEdge {
    std::int64_t edge, source;
    int stride;
    bool skip, max_pool, avg_pool;
};

struct CellTerm {
    bool handed_in;
    std::int64_t place;  // of the map that is handed in, or the row of the value
};

struct CellNode {
    std::int64_t state;
    bool shown;         // whether it is part of the output, and
    std::int64_t slot;  // where: among the output's nodes, or among the hidden ones
    std::vector<CellTerm> terms;
    std::vector<CellEdge> edges;
    Numbers norms, weights;  // of each row: terms, then skip, max pool and average pool of each edge
    Numbers values;          // what nothing reads after it
};

struct CellNodeBackward {
    std::int64_t node;  // among the program's nodes
    CellValues missing;
    CellCall second, first;
    Numbers second_rows, first_rows;
    Numbers inner;  // for each convolution of `first` the source of `second` that its gradient comes from, or -1
    std::vector<CellReduction> reductions;
    Numbers reduction_rows;
    std::vector<CellEdge> edges;
    Numbers edge_rows;  // three an edge
};

struct CellStage {
    bool sums;  // nodes[place], else values[place]
    std::int64_t place;
};

struct CellProgram {
    std::int64_t inputs, given, states, channels, partial, stride, edges, width, norms, noises;
    Numbers concat;
    std::vector<Numbers> parameters;  // shapes
    std::vector<CellValues> values;
    std::vector<CellNode> nodes;
    std::vector<CellStage> forward;
    std::vector<CellNodeBackward> backward;
    Numbers kept, hidden;

    std::int64_t mixed() const { return channels / partial; }
    void check() const;  // throws where a number points outside
};

struct CellSize {
    std::int64_t batch, height, width;  // of the inputs
    double eps;
    int threads;
};

// Maps lie as fastdarts/ops/maps.py says. Those that are handed in, and `kept`, have no gaps between
// their pixels.
template <typename T>
struct CellMap {
    T* at;
    std::int64_t pixel;
};

template <typename T>
struct CellForward {
    CellSize size;
    std::vector<CellMap<const T>> states;          // those given
    std::vector<const Arithmetic<T>*> parameters;  // without gaps
    std::vector<const T*> noises;
    const double* weights;
    const double* bypass;  // [edges]; null where partial is 1
    double *mean, *var;    // [norms, mixed]: written, or read where they are
    bool known;
    T* out;                // [batch, height', width', concat * channels]
    std::vector<T*> kept;  // the program's kept values, then its hidden nodes
};

template <typename T>
struct CellBackward {
    CellSize size;
    std::vector<CellMap<const T>> states;
    std::vector<const Arithmetic<T>*> parameters;
    std::vector<const T*> noises;
    const double* weights;
    const double* bypass;
    const double *mean, *var;
    const T* out;
    std::vector<const T*> kept;
    CellMap<T> grad;
    bool owned;     // whether grad may be added to in place
    bool training;  // whether the statistics are the batch's
    bool weighted;  // whether gradients of the mixing weights are asked
    std::vector<CellMap<T>> dstates;           // null where not asked
    std::vector<T*> dnoises;                   // null where not asked
    std::vector<Arithmetic<T>*> dparameters;   // empty where not asked
    double* products;                          // [rows of all nodes, mixed], or null: summed, the weights' gradients
    double* dbypass;                           // [edges] or null
};

// Bytes of scratch that a call needs; no address is read.
template <typename T>
std::int64_t cell_forward_scratch(const CellProgram& program, const CellForward<T>& call);
template <typename T>
std::int64_t cell_backward_scratch(const CellProgram& program, const CellBackward<T>& call);

template <typename T>
void cell_forward(const CellProgram& program, const CellForward<T>& call, char* scratch);
template <typename T>
void cell_backward(const CellProgram& program, const CellBackward<T>& call, char* scratch);

}  // namespace fastdarts
