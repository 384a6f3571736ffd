// The bindings of csrc/cpu/stencil.h.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "stencil_call.h"

namespace fastdarts {
namespace {

namespace py = pybind11;
using namespace py::literals;

using Sources = std::vector<SourceTuple>;
using Convs = std::vector<ConvTuple>;

template <typename T>
void forward(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs, std::int64_t mean,
             std::int64_t rstd, std::int64_t y_mean, std::int64_t y_var, std::int64_t scratch, std::int64_t bytes,
             int threads) {
    StencilCall<T> call(count, channels, sources, convs, threads);
    call.forward(mean, rstd, y_mean, y_var);
    call.scratch(scratch, bytes, FASTDARTS_CALL(stencil_forward_scratch<T>, call.stencil));
    FASTDARTS_CALL(stencil_forward<T>, call.stencil);
}

template <typename T>
void backward(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs, std::int64_t mean,
              std::int64_t rstd, std::int64_t alpha, std::int64_t beta, std::int64_t gamma, std::int64_t sums,
              std::int64_t products, bool weights, bool add, std::int64_t scratch, std::int64_t bytes, int threads) {
    StencilCall<T> call(count, channels, sources, convs, threads);
    call.backward(mean, rstd, alpha, beta, gamma, sums, products, weights, add);
    call.scratch(scratch, bytes, FASTDARTS_CALL(stencil_backward_scratch<T>, call.stencil));
    FASTDARTS_CALL(stencil_backward<T>, call.stencil);
}

template <typename T>
std::int64_t forward_scratch(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs,
                             int threads) {
    const StencilCall<T> call(count, channels, sources, convs, threads);
    return FASTDARTS_CALL(stencil_forward_scratch<T>, call.stencil);
}

template <typename T>
std::int64_t backward_scratch(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs,
                              bool weights, int threads) {
    StencilCall<T> call(count, channels, sources, convs, threads);
    call.stencil.weights = weights;
    return FASTDARTS_CALL(stencil_backward_scratch<T>, call.stencil);
}

template <typename T>
void bind(py::module_& module, const std::string& dtype) {
    module.def(("stencil_forward_" + dtype).c_str(), &forward<T>, py::call_guard<py::gil_scoped_release>(),
               py::kw_only(), "count"_a, "channels"_a, "sources"_a, "convs"_a, "mean"_a, "rstd"_a, "y_mean"_a,
               "y_var"_a, "scratch"_a, "scratch_bytes"_a, "threads"_a);
    module.def(("stencil_backward_" + dtype).c_str(), &backward<T>, py::call_guard<py::gil_scoped_release>(),
               py::kw_only(), "count"_a, "channels"_a, "sources"_a, "convs"_a, "mean"_a, "rstd"_a, "alpha"_a, "beta"_a,
               "gamma"_a, "sums"_a, "products"_a, "weights"_a, "add"_a, "scratch"_a, "scratch_bytes"_a, "threads"_a);
    module.def(("stencil_forward_scratch_" + dtype).c_str(), &forward_scratch<T>, py::kw_only(), "count"_a,
               "channels"_a, "sources"_a, "convs"_a, "threads"_a);
    module.def(("stencil_backward_scratch_" + dtype).c_str(), &backward_scratch<T>, py::kw_only(), "count"_a,
               "channels"_a, "sources"_a, "convs"_a, "weights"_a, "threads"_a);
}

}  // namespace

void bind_stencil(py::module_& module) {
    bind<float>(module, "float32");
    bind<bfloat16>(module, "bfloat16");
    bind<double>(module, "float64");
}

}  // namespace fastdarts
