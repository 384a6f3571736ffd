// fastdarts._C.mixed_sum_*: plain values and addresses into the structs of csrc/cpu/mixed_sum.h.
//
// Each function returns the bytes of scratch that it needs; with scratch 0 it does nothing else, and no address is
// read.

#include "../common.h"
#include "../cpu/mixed_sum.h"
#include "../dtypes.h"
#include "../isa.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>

namespace fastdarts {

FASTDARTS_EACH_ISA(template <typename T> std::int64_t mixed_sum_forward(const MixedForward&);
                   template <typename T> std::int64_t mixed_sum_reduce(const MixedReduce&);
                   template <typename T> std::int64_t mixed_sum_backward(const MixedBackward&);
                   template <typename T> std::int64_t pool_moments(const PoolMoments&);)

namespace {

namespace py = pybind11;
using namespace py::literals;

// batch, channels, partial, height, width of the node
using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
// source, height, width, pixel, stride, skip, max_pool, avg_pool, gradient, gradient_pixel
using EdgeTuple =
    std::tuple<Address, std::int64_t, std::int64_t, std::int64_t, int, bool, bool, bool, Address, std::int64_t>;

const double* coefficients(Address address, const char* name) {
    return address == 0 ? nullptr : pointer<const double>(address, name);
}

MixedSize size(const Shape& shape, std::size_t terms, const std::vector<EdgeTuple>& edges, int threads) {
    const auto [batch, channels, partial, height, width] = shape;
    require(batch > 0 && channels > 0 && height > 0 && width > 0, "mixed_sum: a size is not positive");
    require(partial > 0 && channels % partial == 0, "mixed_sum: channels are not a multiple of partial");
    require(threads > 0, "mixed_sum: threads are not positive");
    std::int64_t widest = 1;
    for (const auto& edge : edges) {
        const std::int64_t stride = std::get<4>(edge);
        require(stride == 1 || stride == 2, "mixed_sum: a stride is neither 1 nor 2");
        require(stride == 1 || !std::get<5>(edge), "mixed_sum: a skip has stride 2");
        const auto side = [stride](std::int64_t pixels) { return (pixels + stride - 1) / stride; };
        require(side(std::get<1>(edge)) == height && side(std::get<2>(edge)) == width,
                "mixed_sum: a source does not fit the node");
        require(std::get<3>(edge) >= channels, "mixed_sum: pixels of a source overlap");
        widest = std::max(widest, std::get<2>(edge));
    }
    return {batch, channels, partial, height, width, static_cast<std::int64_t>(terms),
            static_cast<std::int64_t>(edges.size()), widest, threads};
}

template <typename T>
std::vector<MixedEdge> unpack(const std::vector<EdgeTuple>& edges, bool run, bool gradients) {
    std::vector<MixedEdge> unpacked;
    for (const auto& edge : edges) {
        const auto& [source, height, width, pixel, stride, skip, max_pool, avg_pool, gradient, gradient_pixel] = edge;
        if (run) pointer<const T>(source, "source");
        if (run && gradients) pointer<T>(gradient, "gradient");
        unpacked.push_back({reinterpret_cast<const void*>(source), reinterpret_cast<void*>(gradient), height, width,
                            pixel, gradient_pixel, stride, skip, max_pool, avg_pool});
    }
    return unpacked;
}

template <typename T>
std::vector<const void*> terms(const std::vector<Address>& ys, bool run) {
    std::vector<const void*> pointers;
    for (const Address y : ys) {
        if (run) pointer<const T>(y, "y");
        pointers.push_back(reinterpret_cast<const void*>(y));
    }
    return pointers;
}

template <typename T>
std::int64_t forward(const Shape& shape, const std::vector<Address>& ys, const std::vector<EdgeTuple>& edges,
                     Address out, std::int64_t out_pixel, Address scale, Address mean, Address bias, Address free,
                     Address pool_mean, Address bypass, Address scratch, int threads) {
    const bool run = scratch != 0;
    const auto unpacked = unpack<T>(edges, run, false);
    const auto pointers = terms<T>(ys, run);
    const MixedForward params{
        size(shape, ys.size(), edges, threads),
        run ? pointer<T>(out, "out") : nullptr,
        out_pixel,
        pointers.data(),
        coefficients(scale, "scale"),
        coefficients(mean, "mean"),
        run ? pointer<const double>(bias, "bias") : nullptr,
        unpacked.data(),
        coefficients(free, "free"),
        coefficients(pool_mean, "pool_mean"),
        coefficients(bypass, "bypass"),
        reinterpret_cast<void*>(scratch),
    };
    require(!run || ys.empty() || params.scale, "mixed_sum: scale is a null pointer");
    require(!run || edges.empty() || params.free, "mixed_sum: free is a null pointer");
    return FASTDARTS_CALL(mixed_sum_forward<T>, params);
}

template <typename T>
std::int64_t reduce(const Shape& shape, const std::vector<Address>& ys, const std::vector<EdgeTuple>& edges, Address g,
                    std::int64_t g_pixel, Address unshuffled, Address mean, Address rstd, Address pool_mean,
                    Address pool_rstd, Address total, Address products, Address free, Address bypass, Address scratch,
                    int threads) {
    const bool run = scratch != 0, partial = std::get<2>(shape) > 1;
    const auto unpacked = unpack<T>(edges, run, false);
    const auto pointers = terms<T>(ys, run);
    const auto needed = [&](Address address, const char* name, bool wanted) {
        return run && wanted ? pointer<double>(address, name) : nullptr;
    };
    const bool has_terms = !ys.empty(), has_edges = !edges.empty();
    const MixedReduce params{
        size(shape, ys.size(), edges, threads),
        run ? pointer<const T>(g, "g") : nullptr,
        g_pixel,
        run && partial ? pointer<T>(unshuffled, "unshuffled") : nullptr,
        pointers.data(),
        needed(mean, "mean", has_terms),
        needed(rstd, "rstd", has_terms),
        unpacked.data(),
        needed(pool_mean, "pool_mean", has_edges),
        needed(pool_rstd, "pool_rstd", has_edges),
        needed(total, "total", true),
        needed(products, "products", has_terms),
        needed(free, "free", has_edges),
        needed(bypass, "bypass", has_edges && partial),
        reinterpret_cast<void*>(scratch),
    };
    return FASTDARTS_CALL(mixed_sum_reduce<T>, params);
}

template <typename T>
std::int64_t backward(const Shape& shape, const std::vector<EdgeTuple>& edges, Address g, std::int64_t g_pixel,
                      Address alpha, Address beta, Address gamma, Address pool_mean, Address bypass, Address scratch,
                      int threads) {
    const bool run = scratch != 0;
    const auto unpacked = unpack<T>(edges, run, true);
    const auto needed = [&](Address address, const char* name) {
        return run && !edges.empty() ? pointer<const double>(address, name) : nullptr;
    };
    const MixedBackward params{
        size(shape, 0, edges, threads),
        run ? pointer<const T>(g, "g") : nullptr,
        g_pixel,
        unpacked.data(),
        needed(alpha, "alpha"),
        needed(beta, "beta"),
        needed(gamma, "gamma"),
        coefficients(pool_mean, "pool_mean"),
        coefficients(bypass, "bypass"),
        reinterpret_cast<void*>(scratch),
    };
    return FASTDARTS_CALL(mixed_sum_backward<T>, params);
}

template <typename T>
std::int64_t moments(const Shape& shape, const EdgeTuple& edge, Address mean, Address var, Address scratch,
                     int threads) {
    const bool run = scratch != 0;
    const std::vector<EdgeTuple> edges{edge};
    const PoolMoments params{
        size(shape, 0, edges, threads),
        unpack<T>(edges, run, false)[0],
        run ? pointer<double>(mean, "mean") : nullptr,
        run ? pointer<double>(var, "var") : nullptr,
        reinterpret_cast<void*>(scratch),
    };
    return FASTDARTS_CALL(pool_moments<T>, params);
}

template <typename T>
void bind(py::module_& module, const std::string& dtype) {
    const py::call_guard<py::gil_scoped_release> released;
    module.def(("mixed_sum_forward_" + dtype).c_str(), &forward<T>, released, py::kw_only(), "shape"_a, "ys"_a,
               "edges"_a, "out"_a, "out_pixel"_a, "scale"_a, "mean"_a, "bias"_a, "free"_a, "pool_mean"_a, "bypass"_a,
               "scratch"_a, "threads"_a);
    module.def(("mixed_sum_reduce_" + dtype).c_str(), &reduce<T>, released, py::kw_only(), "shape"_a, "ys"_a,
               "edges"_a, "g"_a, "g_pixel"_a, "unshuffled"_a, "mean"_a, "rstd"_a, "pool_mean"_a, "pool_rstd"_a,
               "total"_a, "products"_a, "free"_a, "bypass"_a, "scratch"_a, "threads"_a);
    module.def(("mixed_sum_backward_" + dtype).c_str(), &backward<T>, released, py::kw_only(), "shape"_a, "edges"_a,
               "g"_a, "g_pixel"_a, "alpha"_a, "beta"_a, "gamma"_a, "pool_mean"_a, "bypass"_a,
               "scratch"_a, "threads"_a);
    module.def(("pool_moments_" + dtype).c_str(), &moments<T>, released, py::kw_only(), "shape"_a, "edge"_a, "mean"_a,
               "var"_a, "scratch"_a, "threads"_a);
}

}  // namespace

void bind_mixed_sum(py::module_& module) {
    bind<float>(module, "float32");
    bind<bfloat16>(module, "bfloat16");
    bind<double>(module, "float64");
}

}  // namespace fastdarts
