// The backward of a cell: node by node from the last, each with all of its in-edges.
//
// For a node with gradient g: G = sum g, Q_t = sum g xhat_t, dL/dW_t = sum_c Q_t and dy_t = alpha g + beta y_t + gamma
// with alpha = W r, beta = -W r^2 Q / M, gamma = -alpha G / M - beta mu; with running statistics beta and gamma are 0.

#include "cell_run.h"

namespace fastdarts {
namespace {

template <typename T>
class Backward : CellRun<T> {
    using Run = CellRun<T>;
    using A = Arithmetic<T>;
    using typename Run::Map;
    using typename Run::Rows;

  public:
    Backward(const CellProgram& program, const CellBackward<T>& call, char* scratch)
        : Run(program, call.size, call.states, call.parameters, call.noises, call.weights, call.bypass, scratch),
          call_(call), gradients_(program.states), written_(program.parameters.size(), 0),
          noise_written_(program.noises, 0) {
        this->mean_ = call.mean;
        this->var_ = call.var;
        std::size_t place = 0;
        const auto kept = [&](std::int64_t channels) {
            return this->lying(const_cast<T*>(call.kept[place++]), channels);
        };
        for (const std::int64_t row : program.kept) this->values_[row] = kept(this->mixed_);
        const std::int64_t channels = program.channels, pixel = program.concat.size() * channels;
        for (std::int64_t state = program.given; state < program.states; ++state) {
            const std::int64_t slot = shown(state);
            this->states_.push_back(slot < 0 ? kept(channels)
                                             : this->lying(const_cast<T*>(call.out) + slot * channels, pixel));
        }
    }

    std::int64_t run() {
        std::int64_t row = 0;
        if (this->real() && call_.dbypass) std::fill_n(call_.dbypass, this->program_.edges, 0.0);
        for (const CellNodeBackward& backward : this->program_.backward) {
            const CellNode& one = this->program_.nodes[backward.node];
            const bool reached = gradients_[one.state].at || one.shown;
            double* const products = call_.products ? call_.products + row * this->mixed_ : nullptr;
            row += static_cast<std::int64_t>(one.norms.size());
            if (reached && !one.norms.empty()) {
                this->compute(backward.missing, false);
                node(backward, one, products);
                this->forget(one.values);
            } else if (this->real() && products) {
                std::fill_n(products, one.norms.size() * this->mixed_, 0.0);
            }
        }
        finish();
        return this->scratch_.peak();
    }

  private:
    std::int64_t shown(std::int64_t state) const {
        const Numbers& concat = this->program_.concat;
        const auto found = std::find(concat.begin(), concat.end(), state);
        return found == concat.end() ? -1 : found - concat.begin();
    }
    Map value(std::int64_t) override { return this->fresh(this->mixed_); }

    Map slice(std::int64_t slot) const {
        return this->lying(call_.grad.at + slot * this->program_.channels, call_.grad.pixel);
    }

    // Where the gradient of a state is added up.
    Map& buffer(std::int64_t state) {
        Map& found = gradients_[state];
        if (found.at) return found;
        const CellProgram& program = this->program_;
        const std::int64_t slot = shown(state);
        const bool asked = state < program.given && call_.dstates[state].at;
        if (slot >= 0 && call_.owned) return found = slice(slot);
        if (asked)
            found = this->lying(call_.dstates[state].at, call_.dstates[state].pixel, state < program.inputs);
        else
            found = this->fresh(program.channels, state < program.inputs);
        if (slot < 0)
            zero(found);
        else
            copy(slice(slot), found);
        return found;
    }
    // Both of maps of all channels.
    void zero(const Map& to) const {
        each_pixel(to, [&](std::int64_t pixel, std::int64_t bytes) { std::memset(to.at + pixel * to.pixel, 0, bytes); });
    }
    void copy(const Map& from, const Map& to) const {
        each_pixel(to, [&](std::int64_t pixel, std::int64_t bytes) {
            std::memcpy(to.at + pixel * to.pixel, from.at + pixel * from.pixel, bytes);
        });
    }
    template <typename Body>
    void each_pixel(const Map& map, const Body& body) const {
        if (!this->real()) return;
        const std::int64_t count = this->size_.batch * map.height * map.width;
        const std::int64_t bytes = this->program_.channels * std::int64_t{sizeof(T)};
#pragma omp parallel for num_threads(this->size_.threads) if (count * bytes > Run::kParallelBytes)
        for (std::int64_t pixel = 0; pixel < count; ++pixel) body(pixel, bytes);
    }

    void node(const CellNodeBackward& calls, const CellNode& node, double* products_of_weights) {
        // All its out-edges are done: the gradient is complete, and freed as soon as it is no longer read.
        Map g = gradients_[node.state].at ? std::move(gradients_[node.state]) : slice(node.slot);
        gradients_[node.state] = Map{};
        const auto mixing = this->mixing(node);
        const auto& [scale, mean, rstd] = mixing;
        const std::int64_t count = node.norms.size();
        const bool reduced = call_.training || call_.weighted || this->program_.partial > 1;
        const Rows total = this->rows(1);
        Rows own;
        double* products = products_of_weights;
        if (!products) {
            own = this->rows(count);
            products = own.at;
        }
        if (reduced) reduce(node, g, mean, rstd, total.at, products);
        const Rows rows = coefficients(scale.at, rstd.at, mean.at, total.at, 0, products, count, node.terms.size());
        handed_in(node, g, scale.at);
        std::vector<Map> inner;
        Rows halves;
        if (!calls.second.convs.empty()) halves = second(calls, g, rows.at, count, inner);
        if (!calls.first.convs.empty()) first(calls, g, inner, rows.at, count, halves.at);
        inner.clear();
        reductions(calls, g, rows.at, count);
        if (!calls.edges.empty()) edges(calls, g, mean.at, rows.at, count);
    }

    // The node's gradient as the candidates see it, G [mixed] and Q [rows, mixed].
    void reduce(const CellNode& node, Map& g, const Rows& mean, const Rows& rstd, double* total, double* products) {
        const std::int64_t stored = node.terms.size();
        const bool partial = this->program_.partial > 1;
        Map unshuffled;
        if (partial) unshuffled = this->fresh(this->program_.channels);
        const auto ys = this->terms(node);
        const auto edges = this->edges_of(node.edges);
        const Rows pool_mean = this->pools_of(mean.at, this->edge_rows(node));
        const Rows pool_rstd = this->pools_of(rstd.at, this->edge_rows(node));
        const Piece bypass(this->scratch_, edges.size() * sizeof(double));
        const bool bypassed = partial && !edges.empty();
        this->with_scratch(
            "reduce",
            MixedReduce{this->mixed_size(ys.size(), edges), g.at, g.pixel, unshuffled.at, ys.data(), mean.at, rstd.at,
                        edges.data(), pool_mean.at, pool_rstd.at, total, products, products + stored * this->mixed_,
                        bypassed ? bypass.as<double>() : nullptr, nullptr},
            [](const MixedReduce& params) { return FASTDARTS_CALL(mixed_sum_reduce<T>, params); });
        if (this->real() && bypassed && call_.dbypass)
            for (std::size_t e = 0; e < edges.size(); ++e)
                call_.dbypass[node.edges[e].edge] = bypass.as<double>()[e];
        if (partial) g = std::move(unshuffled);
    }

    // alpha, beta and gamma of batch norms' gradients, [rows, mixed] each; values after the stored ones come centred.
    Rows coefficients(const double* scale, const double* rstd, const double* mean, const double* total,
                      std::int64_t total_step, const double* products, std::int64_t count, std::int64_t stored) {
        Rows found = this->rows(3 * count);
        if (!this->real()) return found;
        const std::int64_t mixed = this->mixed_, size = count * mixed;
        double *const alpha = found.at, *const beta = alpha + size, *const gamma = beta + size;
        const double minus = -1.0 / static_cast<double>(this->pixels());
        for (std::int64_t k = 0; k < count; ++k)
            for (std::int64_t c = 0; c < mixed; ++c) {
                const std::int64_t i = k * mixed + c;
                alpha[i] = scale[i];
                beta[i] = call_.training ? scale[i] * rstd[i] * products[i] * minus : 0;
                gamma[i] = call_.training ? scale[i] * total[k * total_step + c] * minus : 0;
                if (call_.training && k < stored) gamma[i] = std::fma(-beta[i], mean[i], gamma[i]);
            }
        return found;
    }
    // Of coefficients [3, count, mixed], and of a second list after it, some rows.
    Rows chosen(const Numbers& indices, const double* rows, std::int64_t count, const double* more = nullptr,
                std::int64_t more_count = 0) {
        const std::int64_t mixed = this->mixed_, asked = indices.size();
        Rows found = this->rows(3 * asked);
        if (this->real())
            for (std::int64_t part = 0; part < 3; ++part)
                for (std::int64_t k = 0; k < asked; ++k) {
                    const std::int64_t row = indices[k];
                    const double* const from = row < count ? rows + (part * count + row) * mixed
                                                           : more + (part * more_count + row - count) * mixed;
                    std::copy_n(from, mixed, found.at + (part * asked + k) * mixed);
                }
        return found;
    }

    // What was handed in is a term as it is: its gradient is the node's, scaled by its mixing weight.
    void handed_in(const CellNode& node, const Map& g, const double* scale) {
        for (std::size_t row = 0; row < node.terms.size(); ++row) {
            if (!node.terms[row].handed_in || !call_.dnoises[node.terms[row].place]) continue;
            const std::int64_t place = node.terms[row].place, mixed = this->mixed_, count = this->pixels();
            noise_written_[place] = 1;
            if (!this->real()) continue;
            std::vector<A> factor(mixed);
            for (std::int64_t c = 0; c < mixed; ++c) factor[c] = static_cast<A>(scale[row * mixed + c]);
            T* const out = call_.dnoises[place];
#pragma omp parallel for num_threads(this->size_.threads) if (count * mixed > Run::kParallelBytes)
            for (std::int64_t pixel = 0; pixel < count; ++pixel)
                for (std::int64_t c = 0; c < mixed; ++c)
                    out[pixel * mixed + c] = stored<T>(factor[c] * widened(g.at[pixel * g.pixel + c]));
        }
    }

    // The convolutions of a call for its backward, each from its own gradient.
    template <typename Gradient>
    std::vector<StencilConv> convs(const CellCall& call, const Gradient& gradient) {
        std::vector<StencilConv> found;
        for (std::size_t k = 0; k < call.convs.size(); ++k) {
            const CellConv& conv = call.convs[k];
            found.push_back(this->stencil_conv(conv));
            const Map& g = gradient(k);
            found.back().g = g.at;
            found.back().g_pixel = g.pixel;
            if (call_.training) found.back().y = this->values_[conv.norm].at;
            if (!call_.dparameters.empty()) {
                found.back().ddepthwise = call_.dparameters[conv.depthwise];
                found.back().dpointwise = call_.dparameters[conv.pointwise];
                written_[conv.depthwise] = written_[conv.pointwise] = 1;
            }
        }
        return found;
    }
    void stencil_backward_of(Stencil& params, const Rows& rows, std::size_t count) {
        params.alpha = rows.at;
        params.beta = rows.at + count * this->mixed_;
        params.gamma = params.beta + count * this->mixed_;
        params.weights = !call_.dparameters.empty();
        const Piece piece(this->scratch_, FASTDARTS_CALL(stencil_backward_scratch<T>, params));
        params.scratch = piece.as<void>();
        if (this->real())
            launched("stencil", "backward", params.conv_count, params.weights,
                     [&] { FASTDARTS_CALL(stencil_backward<T>, params); });
    }

    // Second halves: the gradients of what they read, normalised, and the coefficients of that batch norm.
    Rows second(const CellNodeBackward& calls, const Map& g, const double* rows, std::int64_t count,
                std::vector<Map>& inner) {
        const CellCall& call = calls.second;
        const std::int64_t halves = call.sources.size();
        const auto statistics = this->statistics(call.sources);
        auto sources = this->stencil_sources(call, true);
        for (StencilSource& source : sources) {
            inner.push_back(this->fresh(this->mixed_));
            source.dx = inner.back().at;
            source.dx_pixel = this->mixed_;
        }
        const auto with = convs(call, [&](std::size_t) -> const Map& { return g; });
        const Rows sums = this->rows(halves), products = this->rows(halves);
        {
            Stencil params = this->stencil_of(sources, with);
            params.mean = statistics.first.at;
            params.rstd = statistics.second.at;
            params.sums = sums.at;
            params.products = products.at;
            stencil_backward_of(params, chosen(calls.second_rows, rows, count), with.size());
        }
        for (const CellConv& conv : call.convs) this->forget(conv.norm);
        const double* const rstd = statistics.second.at;
        return coefficients(rstd, rstd, statistics.first.at, sums.at, this->mixed_, products.at, halves, halves);
    }

    // First halves and dilated ones, added to the gradients of the states.
    void first(const CellNodeBackward& calls, const Map& g, const std::vector<Map>& inner, const double* rows,
               std::int64_t count, const double* halves) {
        const CellCall& call = calls.first;
        auto sources = this->stencil_sources(call, false);
        for (std::size_t s = 0; s < sources.size(); ++s) {
            const Map& to = buffer(call.sources[s]);
            sources[s].dx = to.at;
            sources[s].dx_pixel = to.pixel;
        }
        const auto with = convs(
            call, [&](std::size_t k) -> const Map& { return calls.inner[k] < 0 ? g : inner[calls.inner[k]]; });
        Stencil params = this->stencil_of(sources, with);
        params.add = true;
        const std::int64_t more = calls.second.sources.size();
        stencil_backward_of(params, chosen(calls.first_rows, rows, count, halves, more), with.size());
    }

    void reductions(const CellNodeBackward& calls, const Map& g, const double* rows, std::int64_t count) {
        for (std::size_t k = 0; k < calls.reductions.size(); ++k) {
            const CellReduction& reduction = calls.reductions[k];
            const Map& x = this->states_[reduction.source];
            const Map& to = buffer(reduction.source);
            const PreprocessShape shape = this->halved(reduction);
            const bool weights = !call_.dparameters.empty();
            for (const std::int64_t place : reduction.weights) written_[place] = weights;
            const Piece piece(this->scratch_, preprocess::BackwardScratch<A>(shape, weights, nullptr).bytes);
            const Piece narrowed(this->scratch_, 3 * this->mixed_ * std::int64_t{sizeof(A)});
            if (!this->real()) continue;
            A* const vectors = narrowed.as<A>();
            for (std::int64_t part = 0; part < 3; ++part)
                for (std::int64_t c = 0; c < this->mixed_; ++c)
                    vectors[part * this->mixed_ + c] =
                        static_cast<A>(rows[(part * count + calls.reduction_rows[k]) * this->mixed_ + c]);
            const PreprocessBackward<T> params{
                shape,
                x.at,
                this->strides(x),
                {this->parameters_[reduction.weights[0]], Run::second(reduction, this->parameters_)},
                g.at,
                call_.training ? this->values_[reduction.norm].at : nullptr,
                g.pixel,
                call_.training ? this->mixed_ : 0,
                vectors,
                vectors + this->mixed_,
                vectors + 2 * this->mixed_,
                to.at,
                this->strides(to),
                true,
                {weights ? call_.dparameters[reduction.weights[0]] : nullptr,
                 weights ? Run::second(reduction, call_.dparameters) : nullptr},
                piece.as<char>()};
            launched("preprocess", "backward", 1, weights, [&] { FASTDARTS_CALL(preprocess_backward, params); });
        }
    }

    // Through skips, pools and the bypass.
    void edges(const CellNodeBackward& calls, const Map& g, const double* mean, const double* rows,
               std::int64_t count) {
        auto edges = this->edges_of(calls.edges);
        for (std::size_t e = 0; e < edges.size(); ++e) {
            const Map& to = buffer(calls.edges[e].source);
            edges[e].gradient = to.at;
            edges[e].gradient_pixel = to.pixel;
        }
        const Rows affine = chosen(calls.edge_rows, rows, count);
        const Rows pool_mean = this->pools_of(mean, calls.edge_rows);
        const Piece bypass = this->bypasses(calls.edges);
        const std::int64_t size = calls.edge_rows.size() * this->mixed_;
        this->with_scratch("backward", MixedBackward{this->mixed_size(0, edges), g.at, g.pixel, edges.data(), affine.at,
                                         affine.at + size, affine.at + 2 * size, pool_mean.at,
                                         this->bypass_ ? bypass.as<double>() : nullptr, nullptr},
                           [](const MixedBackward& params) { return FASTDARTS_CALL(mixed_sum_backward<T>, params); });
    }

    // What was asked and the output does not depend on.
    void finish() {
        for (std::int64_t state = 0; state < this->program_.given; ++state)
            if (call_.dstates[state].at) buffer(state);
        if (!this->real()) return;
        for (std::size_t place = 0; place < call_.dnoises.size(); ++place)
            if (call_.dnoises[place] && !noise_written_[place])
                std::memset(call_.dnoises[place], 0, this->pixels() * this->mixed_ * sizeof(T));
        for (std::size_t place = 0; place < call_.dparameters.size(); ++place) {
            std::int64_t count = sizeof(A);
            for (const std::int64_t side : this->program_.parameters[place]) count *= side;
            if (!written_[place]) std::memset(call_.dparameters[place], 0, count);
        }
    }

    const CellBackward<T>& call_;
    std::vector<Map> gradients_;  // by state
    std::vector<char> written_, noise_written_;
};

}  // namespace

template <typename T>
std::int64_t cell_backward_scratch(const CellProgram& program, const CellBackward<T>& call) {
    return Backward<T>(program, call, nullptr).run();
}

template <typename T>
void cell_backward(const CellProgram& program, const CellBackward<T>& call, char* scratch) {
    Backward<T>(program, call, scratch).run();
}

#define FASTDARTS_CELL_BACKWARD(T)                                                              \
    template std::int64_t cell_backward_scratch<T>(const CellProgram&, const CellBackward<T>&); \
    template void cell_backward<T>(const CellProgram&, const CellBackward<T>&, char*);
FASTDARTS_CELL_BACKWARD(float)
FASTDARTS_CELL_BACKWARD(bfloat16)
FASTDARTS_CELL_BACKWARD(double)

}  // namespace fastdarts
