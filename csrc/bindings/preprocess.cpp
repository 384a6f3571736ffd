// fastdarts.ops.preprocess's door to csrc/cpu/preprocess.h.

#include "../cpu/preprocess.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../common.h"

namespace py = pybind11;
using namespace py::literals;

namespace fastdarts {
namespace {

using Sizes = std::array<std::int64_t, 5>;    // batch, inputs, height, width, stride
using Lying = std::array<std::int64_t, 4>;    // image, channel, row, column
using Pair = std::array<std::int64_t, 2>;     // of the two halves
using Addresses = std::array<Address, 2>;

PreprocessShape shape_of(const Sizes& sizes, const Pair& outputs, int threads) {
    for (const std::int64_t size : sizes) require(size > 0, "preprocess: a size is not positive");
    require(sizes[4] <= 2 && outputs[0] > 0 && outputs[1] >= 0 && threads > 0, "preprocess: impossible shape");
    require(sizes[4] == 2 || outputs[1] == 0, "preprocess: two halves at stride 1");
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], {outputs[0], outputs[1]}, threads};
}

template <typename T>
T* optional(Address address, const char* name) {
    return address == 0 ? nullptr : pointer<T>(address, name);
}

char* scratch_at(Address address) {
    require(address % 64 == 0, "preprocess: the scratch is not aligned to a cache line");
    return pointer<char>(address, "scratch");
}

Strides strides_of(const Lying& lying) { return {lying[0], lying[1], lying[2], lying[3]}; }

template <typename T>
void forward(const Sizes& sizes, const Pair& outputs, Address x, const Lying& x_strides, const Addresses& weights,
             Address y, Address mean, Address var, Address scratch, int threads) {
    using A = Arithmetic<T>;
    const PreprocessForward<T> params{shape_of(sizes, outputs, threads),
                                      pointer<const T>(x, "x"),
                                      strides_of(x_strides),
                                      {pointer<const A>(weights[0], "weights[0]"),
                                       outputs[1] ? pointer<const A>(weights[1], "weights[1]") : nullptr},
                                      pointer<T>(y, "y"),
                                      optional<double>(mean, "mean"),
                                      optional<double>(var, "var"),
                                      scratch_at(scratch)};
    FASTDARTS_CALL(preprocess_forward, params);
}

template <typename T>
void backward(const Sizes& sizes, const Pair& outputs, Address x, const Lying& x_strides, const Addresses& weights,
              const std::array<Address, 2>& gradient, const Pair& pixels, const std::array<Address, 3>& coefficients,
              Address dx, const Lying& dx_strides, bool accumulate, const Addresses& dweights, Address scratch,
              int threads) {
    using A = Arithmetic<T>;
    const bool second = outputs[1] > 0, wanted = dweights[0] != 0;
    const PreprocessBackward<T> params{
        shape_of(sizes, outputs, threads),
        pointer<const T>(x, "x"),
        strides_of(x_strides),
        {pointer<const A>(weights[0], "weights[0]"), second ? pointer<const A>(weights[1], "weights[1]") : nullptr},
        pointer<const T>(gradient[0], "g"),
        optional<const T>(gradient[1], "y"),
        pixels[0],
        pixels[1],
        pointer<const A>(coefficients[0], "alpha"),
        pointer<const A>(coefficients[1], "beta"),
        pointer<const A>(coefficients[2], "gamma"),
        optional<T>(dx, "dx"),
        strides_of(dx_strides),
        accumulate,
        {optional<A>(dweights[0], "dweights[0]"),
         second && wanted ? pointer<A>(dweights[1], "dweights[1]") : nullptr},
        scratch_at(scratch)};
    FASTDARTS_CALL(preprocess_backward, params);
}

template <typename T>
void normalise(Address y, Address mean, Address rstd, std::int64_t pixels, std::int64_t channels, int threads) {
    using A = Arithmetic<T>;
    require(pixels > 0 && channels > 0 && threads > 0, "preprocess: a size is not positive");
    const PreprocessNormalise<T> params{pointer<T>(y, "y"), pointer<const A>(mean, "mean"),
                                        pointer<const A>(rstd, "rstd"), pixels, channels, threads};
    FASTDARTS_CALL(preprocess_normalise, params);
}

template <typename T>
void reduce(Address g, Address xhat, const Pair& strides, std::int64_t pixels, std::int64_t channels, Address total,
            Address products, Address scratch, int threads) {
    require(pixels > 0 && channels > 0 && threads > 0, "preprocess: a size is not positive");
    const PreprocessReduce<T> params{pointer<const T>(g, "g"),
                                     pointer<const T>(xhat, "xhat"),
                                     strides[0],
                                     strides[1],
                                     pixels,
                                     channels,
                                     pointer<double>(total, "total"),
                                     pointer<double>(products, "products"),
                                     threads,
                                     scratch_at(scratch)};
    FASTDARTS_CALL(preprocess_reduce, params);
}

std::int64_t forward_scratch(const Sizes& sizes, const Pair& outputs, int element, int threads) {
    const PreprocessShape shape = shape_of(sizes, outputs, threads);
    return element == 8 ? preprocess::ForwardScratch<double>(shape, nullptr).bytes
                        : preprocess::ForwardScratch<float>(shape, nullptr).bytes;
}

std::int64_t backward_scratch(const Sizes& sizes, const Pair& outputs, bool weights, int element, int threads) {
    const PreprocessShape shape = shape_of(sizes, outputs, threads);
    return element == 8 ? preprocess::BackwardScratch<double>(shape, weights, nullptr).bytes
                        : preprocess::BackwardScratch<float>(shape, weights, nullptr).bytes;
}

template <typename T>
void bind(py::module_& module, const std::string& type) {
    const py::call_guard<py::gil_scoped_release> released;
    const auto named = [&type](const char* what) { return std::string("preprocess_") + what + "_" + type; };
    module.def(named("forward").c_str(), &forward<T>, released, py::kw_only(), "sizes"_a, "outputs"_a, "x"_a,
               "x_strides"_a, "weights"_a, "y"_a, "mean"_a, "var"_a, "scratch"_a, "threads"_a);
    module.def(named("backward").c_str(), &backward<T>, released, py::kw_only(), "sizes"_a, "outputs"_a, "x"_a,
               "x_strides"_a, "weights"_a, "gradient"_a, "pixels"_a, "coefficients"_a, "dx"_a, "dx_strides"_a,
               "accumulate"_a, "dweights"_a, "scratch"_a, "threads"_a);
    module.def(named("normalise").c_str(), &normalise<T>, released, py::kw_only(), "y"_a, "mean"_a, "rstd"_a,
               "pixels"_a, "channels"_a, "threads"_a);
    module.def(named("reduce").c_str(), &reduce<T>, released, py::kw_only(), "g"_a, "xhat"_a, "strides"_a, "pixels"_a,
               "channels"_a, "total"_a, "products"_a, "scratch"_a, "threads"_a);
}

}  // namespace

void bind_preprocess(py::module_& module) {
    bind<float>(module, "float32");
    bind<bfloat16>(module, "bfloat16");
    bind<double>(module, "float64");
    module.def("preprocess_forward_scratch", &forward_scratch, py::kw_only(), "sizes"_a, "outputs"_a, "element"_a,
               "threads"_a);
    module.def("preprocess_backward_scratch", &backward_scratch, py::kw_only(), "sizes"_a, "outputs"_a, "weights"_a,
               "element"_a, "threads"_a);
    module.def(
        "preprocess_reduce_scratch",
        [](std::int64_t pixels, std::int64_t channels) {
            return preprocess::ReduceScratch(pixels, channels, nullptr).bytes;
        },
        py::kw_only(), "pixels"_a, "channels"_a);
}

}  // namespace fastdarts
