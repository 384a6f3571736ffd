// The module fastdarts._C: addresses as integers in, nothing but plain values out. csrc/common.h states the contract.

#include "common.h"
#include "isa.h"
#include "stencils.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace fastdarts {

// Each in csrc/bindings/<op>.cpp.
void bind_stencil(pybind11::module_& module);
void bind_stencil_cuda(pybind11::module_& module);
void bind_mixed_sum(pybind11::module_& module);
void bind_preprocess(pybind11::module_& module);
void bind_cell(pybind11::module_& module);

}  // namespace fastdarts

namespace py = pybind11;
using namespace py::literals;
using fastdarts::Address;
using fastdarts::pointer;

namespace {

template <typename Pixel>
void augment(Address images, std::int64_t count, std::int64_t channels, std::int64_t height, std::int64_t width,
             Address index, Address offset, Address flip, Address cutout, std::int64_t batch, Address scale,
             Address shift, Address out, int threads) {
    if (batch == 0) return;  // the address of an empty tensor is null
    fastdarts::augment(pointer<const Pixel>(images, "images"),
                       {count, channels, height, width, batch, pointer<const std::int64_t>(index, "index"),
                        pointer<const std::int64_t>(offset, "offset"), pointer<const bool>(flip, "flip"),
                        pointer<const std::int64_t>(cutout, "cutout"), pointer<const float>(scale, "scale"),
                        pointer<const float>(shift, "shift"), pointer<float>(out, "out"), threads});
}

template <typename Pixel>
void bind_augment(py::module_& module, const char* name) {
    module.def(name, &augment<Pixel>, py::call_guard<py::gil_scoped_release>(), py::kw_only(), "images"_a, "count"_a,
               "channels"_a, "height"_a, "width"_a, "index"_a, "offset"_a, "flip"_a, "cutout"_a, "batch"_a, "scale"_a,
               "shift"_a, "out"_a, "threads"_a);
}

py::dict build() {
    py::dict facts;
    facts["compiler"] = FASTDARTS_COMPILER;
    facts["cxx_standard"] = static_cast<long>(__cplusplus);
#ifdef _OPENMP
    facts["openmp"] = _OPENMP;
#else
    facts["openmp"] = py::none();
#endif
#ifdef FASTDARTS_CUDA
    facts["cuda_runtime"] = fastdarts::cuda_runtime_version();
    facts["cuda_architectures"] = FASTDARTS_CUDA;
#else
    facts["cuda_runtime"] = py::none();
    facts["cuda_architectures"] = py::none();
#endif
    return facts;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "The native core of fastdarts: kernels over raw addresses, called by fastdarts.ops only.";
    module.attr("version") = FASTDARTS_VERSION;
    module.attr("ops") = py::make_tuple("augment", "stencil", "mixed_sum", "preprocess", "cell");
#define FASTDARTS_SIDE_OF(SIDE) SIDE,
    module.attr("stencil_sides") = std::vector<int>{FASTDARTS_SIDES(FASTDARTS_SIDE_OF)};
#undef FASTDARTS_SIDE_OF
    module.attr("stencil_dilations") = fastdarts::kDilations;
    module.attr("cuda_dilations") = fastdarts::kCudaDilations;
    module.def("build", &build, "How this module was built.");
    module.def("instruction_sets", &fastdarts::instruction_sets, "Vector instruction sets of this processor.");
    module.def("isa", &fastdarts::isa_name, "The instruction set that the vector kernels run with.");
    module.def("isas", &fastdarts::isa_names, "Those that this processor can run, the slowest first.");
    module.def("choose_isa", &fastdarts::choose_isa, "name"_a, "Run them with another one: for tests and benchmarks.");
    fastdarts::bind_stencil(module);
    fastdarts::bind_mixed_sum(module);
    fastdarts::bind_preprocess(module);
    fastdarts::bind_cell(module);
    bind_augment<std::uint8_t>(module, "augment_uint8");
    bind_augment<float>(module, "augment_float32");
#ifdef FASTDARTS_CUDA
    fastdarts::bind_stencil_cuda(module);
    module.def(
        "cuda_devices",
        [] {
            const auto devices = fastdarts::cuda_devices();
            return py::make_tuple(devices.count, devices.error);
        },
        "(number of GPUs, the driver's error or '').");
#endif
}
