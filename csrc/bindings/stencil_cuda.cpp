// The bindings of csrc/cuda/stencil.h: those of csrc/cpu/stencil.h with a device and a stream instead of threads.

#if defined(FASTDARTS_CUDA) || defined(FASTDARTS_SHIM)

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cuda/stencil.h"
#include "stencil_call.h"

namespace fastdarts {
namespace {

namespace py = pybind11;
using namespace py::literals;

using Sources = std::vector<SourceTuple>;
using Convs = std::vector<ConvTuple>;

// What the CUDA kernels have: the Python side gives the rest to Triton.
template <typename T>
struct CudaCall : StencilCall<T> {
    CudaCall(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& given)
        : StencilCall<T>(count, channels, sources, given, 1) {
        for (const StencilConv& conv : this->convs)
            require(conv.dilation <= kCudaDilations, "stencil: there is no CUDA kernel for a window");
    }
};

cuda::Launch launch_on(bool tf32, int device, std::int64_t stream) {
    return {tf32, device, reinterpret_cast<void*>(static_cast<Address>(stream))};
}

template <typename T>
void forward(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs, std::int64_t mean,
             std::int64_t rstd, std::int64_t y_mean, std::int64_t y_var, std::int64_t scratch, std::int64_t bytes,
             bool tf32, int device, std::int64_t stream) {
    CudaCall<T> call(count, channels, sources, convs);
    call.forward(mean, rstd, y_mean, y_var);
    call.scratch(scratch, bytes, cuda::stencil_forward_scratch<T>(call.stencil));
    cuda::stencil_forward<T>(call.stencil, launch_on(tf32, device, stream));
}

template <typename T>
void backward(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs, std::int64_t mean,
              std::int64_t rstd, std::int64_t alpha, std::int64_t beta, std::int64_t gamma, std::int64_t sums,
              std::int64_t products, bool weights, bool add, std::int64_t scratch, std::int64_t bytes, bool tf32,
              int device, std::int64_t stream) {
    CudaCall<T> call(count, channels, sources, convs);
    call.backward(mean, rstd, alpha, beta, gamma, sums, products, weights, add);
    call.scratch(scratch, bytes, cuda::stencil_backward_scratch<T>(call.stencil));
    cuda::stencil_backward<T>(call.stencil, launch_on(tf32, device, stream));
}

template <typename T>
std::int64_t forward_scratch(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs) {
    return cuda::stencil_forward_scratch<T>(CudaCall<T>(count, channels, sources, convs).stencil);
}

template <typename T>
std::int64_t backward_scratch(std::int64_t count, std::int64_t channels, const Sources& sources, const Convs& convs,
                              bool normalised, bool weights) {
    static const double any = 0;
    CudaCall<T> call(count, channels, sources, convs);
    call.stencil.mean = normalised ? &any : nullptr;
    call.stencil.weights = weights;
    return cuda::stencil_backward_scratch<T>(call.stencil);
}

template <typename T>
void bind(py::module_& module, const std::string& dtype) {
    module.def(("cuda_stencil_forward_" + dtype).c_str(), &forward<T>, py::call_guard<py::gil_scoped_release>(),
               py::kw_only(), "count"_a, "channels"_a, "sources"_a, "convs"_a, "mean"_a, "rstd"_a, "y_mean"_a,
               "y_var"_a, "scratch"_a, "scratch_bytes"_a, "tf32"_a, "device"_a, "stream"_a);
    module.def(("cuda_stencil_backward_" + dtype).c_str(), &backward<T>, py::call_guard<py::gil_scoped_release>(),
               py::kw_only(), "count"_a, "channels"_a, "sources"_a, "convs"_a, "mean"_a, "rstd"_a, "alpha"_a, "beta"_a,
               "gamma"_a, "sums"_a, "products"_a, "weights"_a, "add"_a, "scratch"_a, "scratch_bytes"_a, "tf32"_a,
               "device"_a, "stream"_a);
    module.def(("cuda_stencil_forward_scratch_" + dtype).c_str(), &forward_scratch<T>, py::kw_only(), "count"_a,
               "channels"_a, "sources"_a, "convs"_a);
    module.def(("cuda_stencil_backward_scratch_" + dtype).c_str(), &backward_scratch<T>, py::kw_only(), "count"_a,
               "channels"_a, "sources"_a, "convs"_a, "normalised"_a, "weights"_a);
}

}  // namespace

void bind_stencil_cuda(py::module_& module) {
    bind<float>(module, "float32");
    bind<bfloat16>(module, "bfloat16");
    bind<float16>(module, "float16");
}

}  // namespace fastdarts

#endif
