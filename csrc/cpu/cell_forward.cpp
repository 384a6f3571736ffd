// The forward of a cell: values and moments of every candidate, and each node as one affine combination of them.

#include "cell_run.h"

namespace fastdarts {
namespace {

template <typename T>
class Forward : CellRun<T> {
    using Run = CellRun<T>;
    using typename Run::Map;

  public:
    Forward(const CellProgram& program, const CellForward<T>& call, char* scratch)
        : Run(program, call.size, call.states, call.parameters, call.noises, call.weights, call.bypass, scratch),
          call_(call) {
        this->mean_ = this->found_mean_ = call.mean;
        this->var_ = this->found_var_ = call.var;
    }

    std::int64_t run() {
        for (const CellStage& stage : this->program_.forward) {
            if (stage.sums)
                sum(this->program_.nodes[stage.place]);
            else
                this->compute(this->program_.values[stage.place], !call_.known);
        }
        return this->scratch_.peak();
    }

  private:
    Map value(std::int64_t row) override {
        const Numbers& kept = this->program_.kept;
        const auto found = std::find(kept.begin(), kept.end(), row);
        return found == kept.end() ? this->fresh(this->mixed_)
                                   : this->lying(call_.kept[found - kept.begin()], this->mixed_);
    }

    void sum(const CellNode& node) {
        const CellProgram& program = this->program_;
        Map out;
        if (node.shown) {
            const std::int64_t pixel = static_cast<std::int64_t>(program.concat.size()) * program.channels;
            out = this->lying(call_.out + node.slot * program.channels, pixel);
        } else {
            out = this->lying(call_.kept[program.kept.size() + node.slot], program.channels);
        }
        const auto [scale, mean, rstd] = this->mixing(node);
        const auto ys = this->terms(node);
        const auto edges = this->edges_of(node.edges);
        const auto pool_mean = this->pools_of(mean.at, this->edge_rows(node));
        const auto bias = this->rows(1);
        if (this->real()) std::fill_n(bias.at, this->mixed_, 0.0);
        const Piece bypass = this->bypasses(node.edges);
        this->with_scratch(
            "forward",
            MixedForward{this->mixed_size(ys.size(), edges), out.at, out.pixel, ys.data(), scale.at, mean.at, bias.at,
                         edges.data(), scale.at + ys.size() * this->mixed_, pool_mean.at,
                         this->bypass_ ? bypass.as<double>() : nullptr, nullptr},
            [](const MixedForward& params) { return FASTDARTS_CALL(mixed_sum_forward<T>, params); });
        this->states_.push_back(std::move(out));
        this->forget(node.values);
    }

    const CellForward<T>& call_;
};

}  // namespace

template <typename T>
std::int64_t cell_forward_scratch(const CellProgram& program, const CellForward<T>& call) {
    return Forward<T>(program, call, nullptr).run();
}

template <typename T>
void cell_forward(const CellProgram& program, const CellForward<T>& call, char* scratch) {
    Forward<T>(program, call, scratch).run();
}

#define FASTDARTS_CELL_FORWARD(T)                                                                    \
    template std::int64_t cell_forward_scratch<T>(const CellProgram&, const CellForward<T>&); \
    template void cell_forward<T>(const CellProgram&, const CellForward<T>&, char*);
FASTDARTS_CELL_FORWARD(float)
FASTDARTS_CELL_FORWARD(bfloat16)
FASTDARTS_CELL_FORWARD(double)

}  // namespace fastdarts
