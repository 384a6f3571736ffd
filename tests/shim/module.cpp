// The module _cuda_shim: what fastdarts._C has on a machine with CUDA, run on the host by tests/shim/cuda_shim.h.

#include "cuda_shim.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "../../csrc/cuda/device.cuh"

namespace py = pybind11;
using namespace py::literals;
namespace cuda = fastdarts::cuda;
namespace shim = fastdarts::shim;

namespace fastdarts {
void bind_stencil_cuda(py::module_& module);  // csrc/bindings/stencil_cuda.cpp
}

namespace {

// Kernels that do what must be noticed, and one that does not.
enum Fault { none, half_a_barrier, two_barriers, half_a_warp, past_the_end, unwaited, unfinished };

void faulty(int fault, float* out) {
    FASTDARTS_SHARED(memory);
    float* const values = reinterpret_cast<float*>(memory);
    const int thread = static_cast<int>(threadIdx.x), last = static_cast<int>(blockDim.x) - 1;
    if (fault == half_a_barrier && thread < cuda::kWarp) return;
    if (fault == two_barriers && thread < cuda::kWarp) {
        cuda::block_sync();
    } else if (fault == two_barriers) {
        cuda::block_sync();
    }
    if (fault == half_a_warp && thread % 2 == 0) return;
    values[thread] = static_cast<float>(thread);
    cuda::block_sync();
    const float other = values[last - thread];
    if (fault == past_the_end) values[thread + 1] = other;
    cuda::block_sync();
    if (fault == unwaited || fault == unfinished || fault == none) {
        cuda::cp_async_4(values + thread, out + thread);
        cuda::cp_async_commit();
        if (fault == none) cuda::cp_async_wait();
    }
    const float copied = values[thread];
    if (fault == unwaited) cuda::cp_async_wait();
    out[thread] = cuda::warp_sum(other) + (fault == none || fault == unwaited ? copied : 0.0f);
}

void run_faulty(const std::string& name, std::uintptr_t out, unsigned threads) {
    const char* names[] = {"none",         "half_a_barrier", "two_barriers", "half_a_warp",
                           "past_the_end", "unwaited",       "unfinished"};
    for (int fault = none; fault <= unfinished; ++fault)
        if (name == names[fault])
            return FASTDARTS_LAUNCH(faulty, 1, threads, threads * sizeof(float), nullptr, fault,
                                    reinterpret_cast<float*>(out));
    throw std::invalid_argument(name);
}

void choose_order(const std::string& name) {
    if (name == "ascending") return shim::choose_order(shim::Order::ascending);
    if (name == "descending") return shim::choose_order(shim::Order::descending);
    if (name == "shuffled") return shim::choose_order(shim::Order::shuffled);
    throw std::invalid_argument("order " + name);
}

std::vector<py::tuple> launches() {
    std::vector<py::tuple> found;
    for (const shim::Launched& each : shim::take_launches())
        found.push_back(py::make_tuple(each.kernel, each.blocks, each.threads, each.shared, each.parameters));
    return found;
}

}  // namespace

PYBIND11_MODULE(_cuda_shim, module) {
    fastdarts::bind_stencil_cuda(module);
    module.def("run_faulty", &run_faulty, "fault"_a, "out"_a, "threads"_a);
    module.def("choose_order", &choose_order, "name"_a, "ascending, descending or shuffled: of threads and blocks.");
    module.def("pretend", &shim::pretend, "only"_a, "Whether launches are checked and noted, and no thread runs.");
    module.def("launches", &launches, "(kernel, blocks, threads, bytes of shared memory, of parameters) of each since "
               "the last call.");
}
