// What forward and backward of a cell share: the scratch handed out piece by piece, maps, statistics, and the values y.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "../common.h"
#include "cell.h"
#include "launches.h"
#include "mixed_sum.h"
#include "preprocess.h"
#include "stencil.h"

namespace fastdarts {

FASTDARTS_EACH_ISA(template <typename T> std::int64_t mixed_sum_forward(const MixedForward&);
                   template <typename T> std::int64_t mixed_sum_reduce(const MixedReduce&);
                   template <typename T> std::int64_t mixed_sum_backward(const MixedBackward&);
                   template <typename T> std::int64_t pool_moments(const PoolMoments&);)

// Pieces of the scratch, each at the first place that is free. Without a base it only measures: the addresses that it
// gives are then not null, and not to be read.
class Scratch {
  public:
    explicit Scratch(char* base) : base_(base) {}
    Scratch(const Scratch&) = delete;

    bool real() const { return base_ != nullptr; }
    std::int64_t peak() const { return peak_; }

    std::int64_t take(std::int64_t bytes) {
        bytes = std::max<std::int64_t>((bytes + kLine - 1) / kLine * kLine, kLine);
        std::int64_t begin = 0;
        auto next = live_.begin();
        for (; next != live_.end() && next->first - begin < bytes; ++next) begin = next->second;
        live_.insert(next, {begin, begin + bytes});
        peak_ = std::max(peak_, begin + bytes);
        return begin;
    }
    void give(std::int64_t begin) {
        live_.erase(std::find_if(live_.begin(), live_.end(), [begin](const auto& one) { return one.first == begin; }));
    }
    char* at(std::int64_t begin) const { return real() ? base_ + begin : reinterpret_cast<char*>(kLine + begin); }

  private:
    static constexpr std::int64_t kLine = 64;
    char* base_;
    std::int64_t peak_ = kLine;
    std::vector<std::pair<std::int64_t, std::int64_t>> live_;  // [begin, end), in order
};

// A piece of the scratch for as long as this exists.
class Piece {
  public:
    Piece() = default;
    Piece(Scratch& scratch, std::int64_t bytes) : scratch_(&scratch), begin_(scratch.take(bytes)) {}
    Piece(Piece&& other) noexcept : scratch_(std::exchange(other.scratch_, nullptr)), begin_(other.begin_) {}
    Piece& operator=(Piece&& other) noexcept {
        std::swap(scratch_, other.scratch_);
        std::swap(begin_, other.begin_);
        return *this;
    }
    ~Piece() {
        if (scratch_) scratch_->give(begin_);
    }
    template <typename E>
    E* as() const {
        return reinterpret_cast<E*>(scratch_->at(begin_));
    }

  private:
    Scratch* scratch_ = nullptr;
    std::int64_t begin_ = 0;
};

inline float widened(float value) { return value; }
inline double widened(double value) { return value; }
inline float widened(bfloat16 value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}
template <typename T>
T stored(Arithmetic<T> value) {
    if constexpr (sizeof(T) == sizeof(Arithmetic<T>)) {
        return value;
    } else {  // to the nearest, ties to even; a NaN stays one
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        bits = value != value ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
        return {static_cast<std::uint16_t>(bits >> 16)};
    }
}

template <typename T>
class CellRun {
  protected:
    using A = Arithmetic<T>;
    static constexpr std::int64_t kParallelBytes = 1 << 18;

    // A map [batch, height, width], its pixels `pixel` elements apart, and its piece of the scratch if it lies there.
    struct Map {
        T* at = nullptr;
        std::int64_t pixel = 0, height = 0, width = 0;
        Piece piece;
    };
    // Rows of doubles, [rows, mixed].
    struct Rows {
        Piece piece;
        double* at = nullptr;
    };

    CellRun(const CellProgram& program, const CellSize& size, const std::vector<CellMap<const T>>& given,
            const std::vector<const A*>& parameters, const std::vector<const T*>& noises, const double* weights,
            const double* bypass, char* scratch)
        : program_(program), size_(size), parameters_(parameters), noises_(noises), weights_(weights),
          bypass_(bypass), mixed_(program.mixed()), height_((size.height + program.stride - 1) / program.stride),
          width_((size.width + program.stride - 1) / program.stride), scratch_(scratch),
          values_(static_cast<std::size_t>(program.norms)) {
        for (std::size_t s = 0; s < given.size(); ++s) {
            const bool input = static_cast<std::int64_t>(s) < program.inputs;
            states_.push_back(lying(const_cast<T*>(given[s].at), given[s].pixel, input));
        }
    }

    bool real() const { return scratch_.real(); }
    std::int64_t pixels() const { return size_.batch * height_ * width_; }

    Map lying(T* at, std::int64_t pixel, bool input = false) const {
        Map map;
        map.at = at;
        map.pixel = pixel;
        map.height = input ? size_.height : height_;
        map.width = input ? size_.width : width_;
        return map;
    }
    Map fresh(std::int64_t channels, bool input = false) {
        Map map = lying(nullptr, channels, input);
        map.piece = Piece(scratch_, size_.batch * map.height * map.width * channels * std::int64_t{sizeof(T)});
        map.at = map.piece.template as<T>();
        return map;
    }
    Rows rows(std::int64_t count) {
        Piece piece(scratch_, count * mixed_ * std::int64_t{sizeof(double)});
        double* const at = piece.as<double>();
        return {std::move(piece), at};
    }

    // Statistics: mean and 1 / sqrt(var + eps) of some norms.
    std::pair<Rows, Rows> statistics(const Numbers& norms) {
        std::pair<Rows, Rows> found{rows(norms.size()), rows(norms.size())};
        if (real())
            for (std::size_t k = 0; k < norms.size(); ++k) {
                const bool has = norms[k] < program_.norms;
                const double *mean = mean_ + norms[k] * mixed_, *var = var_ + norms[k] * mixed_;
                double *to_mean = found.first.at + k * mixed_, *to_rstd = found.second.at + k * mixed_;
                for (std::int64_t c = 0; c < mixed_; ++c) {
                    to_mean[c] = has ? mean[c] : 0;
                    to_rstd[c] = 1.0 / std::sqrt((has ? var[c] : 1.0 - size_.eps) + size_.eps);
                }
            }
        return found;
    }
    // A node's scale = weight * rstd, mean and rstd.
    std::tuple<Rows, Rows, Rows> mixing(const CellNode& node) {
        Rows scale = rows(node.norms.size());
        auto [mean, rstd] = statistics(node.norms);
        if (real())
            for (std::size_t k = 0; k < node.norms.size(); ++k)
                for (std::int64_t c = 0; c < mixed_; ++c)
                    scale.at[k * mixed_ + c] = weights_[node.weights[k]] * rstd.at[k * mixed_ + c];
        return {std::move(scale), std::move(mean), std::move(rstd)};
    }
    // Of the rows of edges, three each, those of the pools.
    Rows pools_of(const double* found, const Numbers& indices) {
        Rows pools = rows(indices.size() / 3 * 2);
        if (real())
            for (std::size_t k = 0, to = 0; k < indices.size(); ++k)
                if (k % 3) std::copy_n(found + indices[k] * mixed_, mixed_, pools.at + to++ * mixed_);
        return pools;
    }
    Numbers edge_rows(const CellNode& node) const {
        Numbers found;
        for (std::size_t k = node.terms.size(); k < node.norms.size(); ++k) found.push_back(k);
        return found;
    }
    Piece bypasses(const std::vector<CellEdge>& edges) {
        Piece piece(scratch_, edges.size() * sizeof(double));
        if (real() && bypass_)
            for (std::size_t e = 0; e < edges.size(); ++e) piece.as<double>()[e] = bypass_[edges[e].edge];
        return piece;
    }

    // The values of a stage, and their statistics where these are measured.
    void compute(const CellValues& stage, bool measured) {
        stencil(stage.first, false, measured);
        for (const CellReduction& reduction : stage.reductions) reduce(reduction, measured);
        if (measured)
            for (const CellPools& pools : stage.pools) pool(pools);
        stencil(stage.second, true, measured);
    }
    virtual Map value(std::int64_t row) = 0;  // where forward writes it
    // What lies in the scratch is free again; what is kept for backward lies elsewhere.
    void forget(std::int64_t row) { values_[row] = Map{}; }
    void forget(const Numbers& rows) {
        for (const std::int64_t row : rows) forget(row);
    }

    std::vector<const void*> terms(const CellNode& node) const {
        std::vector<const void*> found;
        for (const CellTerm& term : node.terms)
            found.push_back(term.handed_in ? static_cast<const void*>(noises_[term.place]) : values_[term.place].at);
        return found;
    }
    std::vector<MixedEdge> edges_of(const std::vector<CellEdge>& edges) const {
        std::vector<MixedEdge> found;
        for (const CellEdge& edge : edges) {
            const Map& x = states_[edge.source];
            found.push_back({x.at, nullptr, x.height, x.width, x.pixel, 0, edge.stride, edge.skip, edge.max_pool,
                             edge.avg_pool});
        }
        return found;
    }
    MixedSize mixed_size(std::size_t terms, const std::vector<MixedEdge>& edges) const {
        std::int64_t widest = 1;
        for (const MixedEdge& edge : edges) widest = std::max(widest, edge.width);
        return {size_.batch, program_.channels, program_.partial, height_, width_, static_cast<std::int64_t>(terms),
                static_cast<std::int64_t>(edges.size()), widest, size_.threads};
    }
    // Calls a kernel of mixed_sum: once for the size of its scratch, and once with it.
    template <typename Params, typename Kernel>
    void with_scratch(const char* function, Params params, const Kernel& kernel) {
        params.scratch = nullptr;
        const Piece piece(scratch_, kernel(params));
        params.scratch = piece.as<void>();
        if (real()) launched("mixed_sum", function, params.size.edges, false, [&] { kernel(params); });
    }

    std::vector<StencilSource> stencil_sources(const CellCall& call, bool normalised) const {
        std::vector<StencilSource> found;
        for (const std::int64_t source : call.sources) {
            const Map& x = normalised ? values_[source] : states_[source];
            require(x.at, "cell: a value is read before it is there");
            found.push_back({x.at, x.pixel, x.height, x.width, nullptr, 0});
        }
        return found;
    }
    StencilConv stencil_conv(const CellConv& conv) const {
        return {conv.source,
                conv.kernel,
                conv.kernel == 1 ? 1 : conv.dilation,
                conv.stride,
                parameters_[conv.depthwise],
                parameters_[conv.pointwise],
                nullptr, mixed_, nullptr, 0, nullptr, nullptr};
    }
    Stencil stencil_of(const std::vector<StencilSource>& sources, const std::vector<StencilConv>& convs) const {
        Stencil stencil{};
        stencil.count = size_.batch;
        stencil.channels = mixed_;
        stencil.sources = sources.data();
        stencil.source_count = static_cast<std::int64_t>(sources.size());
        stencil.convs = convs.data();
        stencil.conv_count = static_cast<std::int64_t>(convs.size());
        stencil.threads = size_.threads;
        return stencil;
    }
    PreprocessShape halved(const CellReduction& reduction) const {
        const Map& x = states_[reduction.source];
        const auto outputs = [&](std::size_t half) {
            return half < reduction.weights.size() ? program_.parameters[reduction.weights[half]][0] : 0;
        };
        return {size_.batch, mixed_, x.height, x.width, 2, {outputs(0), outputs(1)}, size_.threads};
    }
    static Strides strides(const Map& x) {
        return {x.height * x.width * x.pixel, 1, x.width * x.pixel, x.pixel};
    }
    // The second half's, or null where there is none.
    template <typename E>
    static E* second(const CellReduction& reduction, const std::vector<E*>& of) {
        return reduction.weights.size() > 1 ? of[reduction.weights[1]] : nullptr;
    }

    const CellProgram& program_;
    const CellSize size_;
    const std::vector<const A*>& parameters_;
    const std::vector<const T*>& noises_;
    const double *weights_, *bypass_;
    const double *mean_ = nullptr, *var_ = nullptr;      // [norms, mixed]
    double *found_mean_ = nullptr, *found_var_ = nullptr;  // the same, where they are measured
    const std::int64_t mixed_, height_, width_;
    Scratch scratch_;
    std::vector<Map> states_;
    std::vector<Map> values_;  // by row, as long as they exist

  private:
    void keep(const Numbers& norms, const double* mean, const double* var) {
        if (real())
            for (std::size_t k = 0; k < norms.size(); ++k) {
                std::copy_n(mean + k * mixed_, mixed_, found_mean_ + norms[k] * mixed_);
                std::copy_n(var + k * mixed_, mixed_, found_var_ + norms[k] * mixed_);
            }
    }
    void stencil(const CellCall& call, bool normalised, bool measured) {
        if (call.convs.empty()) return;
        const auto sources = stencil_sources(call, normalised);
        std::vector<StencilConv> convs;
        Numbers norms;
        for (const CellConv& conv : call.convs) {
            convs.push_back(stencil_conv(conv));
            values_[conv.norm] = value(conv.norm);
            convs.back().y = values_[conv.norm].at;
            norms.push_back(conv.norm);
        }
        Stencil params = stencil_of(sources, convs);
        std::pair<Rows, Rows> statistics_of;
        if (normalised) {
            statistics_of = statistics(call.sources);
            params.mean = statistics_of.first.at;
            params.rstd = statistics_of.second.at;
        }
        Rows mean, var;
        if (measured) {
            mean = rows(norms.size());
            var = rows(norms.size());
            params.y_mean = mean.at;
            params.y_var = var.at;
        }
        const Piece piece(scratch_, FASTDARTS_CALL(stencil_forward_scratch<T>, params));
        params.scratch = piece.as<void>();
        if (!real()) return;
        launched("stencil", "forward", params.conv_count, false, [&] { FASTDARTS_CALL(stencil_forward<T>, params); });
        if (measured) keep(norms, mean.at, var.at);
    }
    void reduce(const CellReduction& reduction, bool measured) {
        const Map& x = states_[reduction.source];
        values_[reduction.norm] = value(reduction.norm);
        const PreprocessShape shape = halved(reduction);
        const Piece piece(scratch_, preprocess::ForwardScratch<A>(shape, nullptr).bytes);
        if (!real()) return;
        double* const mean = measured ? found_mean_ + reduction.norm * mixed_ : nullptr;
        double* const var = measured ? found_var_ + reduction.norm * mixed_ : nullptr;
        const PreprocessForward<T> params{
            shape, x.at, strides(x), {parameters_[reduction.weights[0]], second(reduction, parameters_)},
            values_[reduction.norm].at, mean, var, piece.as<char>()};
        launched("preprocess", "forward", 1, false, [&] { FASTDARTS_CALL(preprocess_forward, params); });
    }
    void pool(const CellPools& pools) {
        const Map& x = states_[pools.source];
        const MixedEdge edge{x.at, nullptr, x.height, x.width, x.pixel, 0, static_cast<int>(pools.stride), false,
                             !pools.max_norms.empty(), !pools.avg_norms.empty()};
        const auto side = [&](std::int64_t size) { return (size + pools.stride - 1) / pools.stride; };
        const Rows mean = rows(2), var = rows(2);
        const MixedSize size{size_.batch, mixed_, 1, side(x.height), side(x.width), 0, 1, x.width, size_.threads};
        with_scratch("pool_moments", PoolMoments{size, edge, mean.at, var.at, nullptr},
                     [](const PoolMoments& params) { return FASTDARTS_CALL(pool_moments<T>, params); });
        for (const std::int64_t norm : pools.max_norms) keep({norm}, mean.at, var.at);
        for (const std::int64_t norm : pools.avg_norms) keep({norm}, mean.at + mixed_, var.at + mixed_);
    }
};

}  // namespace fastdarts
