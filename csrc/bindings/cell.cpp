// fastdarts._C.CellProgram and what it is made of: fastdarts/ops/_cell_cpu.py makes it once for a plan, and calls it.

#include "../cpu/cell.h"
#include "../cpu/launches.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>

#include "../common.h"

namespace fastdarts {
namespace {

namespace py = pybind11;
using namespace py::literals;

using Addresses = std::vector<Address>;
using Lying = std::vector<std::pair<Address, std::int64_t>>;  // address, pixel stride
using Sizes = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

CellSize size_of(const Sizes& sizes, double eps, int threads) {
    const auto [batch, height, width] = sizes;
    require(batch > 0 && height > 0 && width > 0 && threads > 0, "cell: a size is not positive");
    return {batch, height, width, eps, threads};
}

template <typename E>
std::vector<E*> pointers(const Addresses& addresses, std::size_t count, const char* name, bool optional = false) {
    require(addresses.size() == count, std::string("cell: another number of ") + name);
    std::vector<E*> found;
    for (const Address address : addresses)
        found.push_back(optional && address == 0 ? nullptr : pointer<E>(address, name));
    return found;
}

template <typename E>
CellMap<E> lying(const std::pair<Address, std::int64_t>& at, std::int64_t channels, const char* name) {
    require(at.second >= channels, std::string("cell: pixels overlap of ") + name);
    return {pointer<E>(at.first, name), at.second};
}

template <typename T>
std::vector<CellMap<const T>> states_of(const CellProgram& program, const Lying& states) {
    require(static_cast<std::int64_t>(states.size()) == program.given, "cell: another number of states");
    std::vector<CellMap<const T>> found;
    for (const auto& state : states) found.push_back(lying<const T>(state, program.channels, "a state"));
    return found;
}

// Where the scratch is only measured, of everything that a call may have: no address is read.
template <typename E>
E* unread() {
    return reinterpret_cast<E*>(sizeof(double));
}

template <typename T>
CellForward<T> unread_forward(const CellProgram& program, const CellSize& size, bool known) {
    CellForward<T> call{};
    call.size = size;
    call.known = known;
    call.states.assign(program.given, {unread<const T>(), program.channels});
    call.parameters.resize(program.parameters.size());
    call.noises.resize(program.noises);
    call.out = unread<T>();
    call.kept.assign(program.kept.size() + program.hidden.size(), unread<T>());
    return call;
}

template <typename T>
std::int64_t forward_scratch(const CellProgram& program, const Sizes& sizes, bool known, int threads) {
    return cell_forward_scratch(program, unread_forward<T>(program, size_of(sizes, 0, threads), known));
}

template <typename T>
void forward(const CellProgram& program, const Sizes& sizes, double eps, const Lying& states,
             const Addresses& parameters, const Addresses& noises, Address weights, Address bypass, Address mean,
             Address var, bool known, Address out, const Addresses& kept, Address scratch, std::int64_t bytes, int threads) {
    CellForward<T> call{};
    call.size = size_of(sizes, eps, threads);
    call.states = states_of<T>(program, states);
    call.parameters = pointers<const Arithmetic<T>>(parameters, program.parameters.size(), "parameters");
    call.noises = pointers<const T>(noises, program.noises, "maps that are handed in");
    call.weights = pointer<const double>(weights, "weights");
    if (program.partial > 1) call.bypass = pointer<const double>(bypass, "bypass");
    if (program.norms > 0) {
        call.mean = pointer<double>(mean, "mean");
        call.var = pointer<double>(var, "var");
    }
    call.known = known;
    call.out = pointer<T>(out, "out");
    call.kept = pointers<T>(kept, program.kept.size() + program.hidden.size(), "kept maps");
    require(scratch % 64 == 0 && bytes >= cell_forward_scratch(program, call), "cell: scratch is too small");
    cell_forward(program, call, pointer<char>(scratch, "scratch"));
}

template <typename T>
std::int64_t backward_scratch(const CellProgram& program, const Sizes& sizes, bool owned, bool training, bool weighted,
                              bool bypassed, const std::vector<bool>& sources, bool parameters, int threads) {
    require(static_cast<std::int64_t>(sources.size()) == program.given, "cell: another number of states");
    CellBackward<T> call{};
    call.size = size_of(sizes, 0, threads);
    call.states.assign(program.given, {unread<const T>(), program.channels});
    call.parameters.resize(program.parameters.size());
    call.noises.resize(program.noises);
    call.out = unread<const T>();
    call.kept.assign(program.kept.size() + program.hidden.size(), unread<const T>());
    call.grad = {unread<T>(), program.channels};
    call.owned = owned;
    call.training = training;
    call.weighted = weighted;
    for (const bool asked : sources) call.dstates.push_back({asked ? unread<T>() : nullptr, program.channels});
    call.dnoises.resize(program.noises);
    if (parameters) call.dparameters.resize(program.parameters.size());
    call.products = weighted ? unread<double>() : nullptr;
    call.dbypass = bypassed ? unread<double>() : nullptr;
    return cell_backward_scratch(program, call);
}

template <typename T>
void backward(const CellProgram& program, const Sizes& sizes, double eps, const Lying& states,
              const Addresses& parameters, const Addresses& noises, Address weights, Address bypass, Address mean,
              Address var, Address out, const Addresses& kept, const std::pair<Address, std::int64_t>& grad, bool owned,
              bool training, const Lying& dstates, const Addresses& dnoises, const Addresses& dparameters,
              Address products, Address dbypass, Address scratch, std::int64_t bytes, int threads) {
    CellBackward<T> call{};
    const std::int64_t pixel = static_cast<std::int64_t>(program.concat.size()) * program.channels;
    call.size = size_of(sizes, eps, threads);
    call.states = states_of<T>(program, states);
    call.parameters = pointers<const Arithmetic<T>>(parameters, program.parameters.size(), "parameters");
    call.noises = pointers<const T>(noises, program.noises, "maps that are handed in");
    call.weights = pointer<const double>(weights, "weights");
    if (program.partial > 1) call.bypass = pointer<const double>(bypass, "bypass");
    if (program.norms > 0) {
        call.mean = pointer<const double>(mean, "mean");
        call.var = pointer<const double>(var, "var");
    }
    call.out = pointer<const T>(out, "out");
    call.kept = pointers<const T>(kept, program.kept.size() + program.hidden.size(), "kept maps");
    call.grad = lying<T>(grad, pixel, "the gradient");
    call.owned = owned;
    call.training = training;
    require(dstates.size() == states.size(), "cell: another number of states");
    for (const auto& state : dstates)
        call.dstates.push_back(state.first ? lying<T>(state, program.channels, "a gradient") : CellMap<T>{nullptr, 0});
    call.dnoises = pointers<T>(dnoises, program.noises, "gradients of what is handed in", true);
    if (!dparameters.empty())
        call.dparameters = pointers<Arithmetic<T>>(dparameters, program.parameters.size(), "parameters' gradients");
    if (products) call.products = pointer<double>(products, "products");
    call.weighted = products != 0;
    if (dbypass) call.dbypass = pointer<double>(dbypass, "dbypass");
    require(scratch % 64 == 0 && bytes >= cell_backward_scratch(program, call), "cell: scratch is too small");
    cell_backward(program, call, pointer<char>(scratch, "scratch"));
}

template <typename T>
void bind(py::class_<CellProgram>& program, const std::string& dtype) {
    const py::call_guard<py::gil_scoped_release> released;
    program.def(("forward_scratch_" + dtype).c_str(), &forward_scratch<T>, py::kw_only(), "sizes"_a, "known"_a,
                "threads"_a);
    program.def(("forward_" + dtype).c_str(), &forward<T>, released, py::kw_only(), "sizes"_a, "eps"_a, "states"_a,
                "parameters"_a, "noises"_a, "weights"_a, "bypass"_a, "mean"_a, "var"_a, "known"_a, "out"_a, "kept"_a,
                "scratch"_a, "scratch_bytes"_a, "threads"_a);
    program.def(("backward_scratch_" + dtype).c_str(), &backward_scratch<T>, py::kw_only(), "sizes"_a, "owned"_a,
                "training"_a, "weighted"_a, "bypassed"_a, "sources"_a, "parameters"_a, "threads"_a);
    program.def(("backward_" + dtype).c_str(), &backward<T>, released, py::kw_only(), "sizes"_a, "eps"_a, "states"_a,
                "parameters"_a, "noises"_a, "weights"_a, "bypass"_a, "mean"_a, "var"_a, "out"_a, "kept"_a, "grad"_a,
                "owned"_a, "training"_a, "dstates"_a, "dnoises"_a, "dparameters"_a, "products"_a, "dbypass"_a,
                "scratch"_a, "scratch_bytes"_a, "threads"_a);
}

py::list launches_so_far() {
    py::list found;
    for (const Launch& each : launches())
        found.append(py::make_tuple(each.op, each.function, each.count, each.weights, each.seconds));
    return found;
}

}  // namespace

void bind_cell(py::module_& module) {
    py::class_<CellCall>(module, "CellCall")
        .def(py::init([](const Numbers& sources, const std::vector<std::array<std::int64_t, 7>>& convs) {
                 CellCall call{sources, {}};
                 for (const auto& [source, kernel, dilation, stride, depthwise, pointwise, norm] : convs)
                     call.convs.push_back({source, kernel, dilation, stride, depthwise, pointwise, norm});
                 return call;
             }),
             "sources"_a, "convs"_a);
    py::class_<CellReduction>(module, "CellReduction")
        .def(py::init<std::int64_t, Numbers, std::int64_t>(), "source"_a, "weights"_a, "norm"_a);
    py::class_<CellPools>(module, "CellPools")
        .def(py::init<std::int64_t, std::int64_t, Numbers, Numbers>(), "source"_a, "stride"_a, "max_norms"_a,
             "avg_norms"_a);
    py::class_<CellValues>(module, "CellValues")
        .def(py::init<CellCall, std::vector<CellReduction>, std::vector<CellPools>, CellCall>(), "first"_a,
             "reductions"_a, "pools"_a, "second"_a);
    py::class_<CellEdge>(module, "CellEdge")
        .def(py::init<std::int64_t, std::int64_t, int, bool, bool, bool>(), py::kw_only(), "edge"_a, "source"_a,
             "stride"_a, "skip"_a, "max_pool"_a, "avg_pool"_a);
    py::class_<CellNode>(module, "CellNode")
        .def(py::init([](std::int64_t state, bool shown, std::int64_t slot,
                         const std::vector<std::pair<bool, std::int64_t>>& terms, const std::vector<CellEdge>& edges,
                         const Numbers& norms, const Numbers& weights, const Numbers& values) {
                 CellNode node{state, shown, slot, {}, edges, norms, weights, values};
                 for (const auto& [handed_in, place] : terms) node.terms.push_back({handed_in, place});
                 return node;
             }),
             py::kw_only(), "state"_a, "shown"_a, "slot"_a, "terms"_a, "edges"_a, "norms"_a, "weights"_a, "values"_a);
    py::class_<CellNodeBackward>(module, "CellNodeBackward")
        .def(py::init([](std::int64_t node, const CellValues& missing, const CellCall& second, const CellCall& first,
                         const Numbers& second_rows, const Numbers& first_rows, const Numbers& inner,
                         const std::vector<CellReduction>& reductions, const Numbers& reduction_rows,
                         const std::vector<CellEdge>& edges, const Numbers& edge_rows) {
                 return CellNodeBackward{node,  missing,    second,         first, second_rows, first_rows,
                                         inner, reductions, reduction_rows, edges, edge_rows};
             }),
             py::kw_only(), "node"_a, "missing"_a, "second"_a, "first"_a, "second_rows"_a, "first_rows"_a, "inner"_a,
             "reductions"_a, "reduction_rows"_a, "edges"_a, "edge_rows"_a);
    py::class_<CellProgram> program(module, "CellProgram");
    program.def(
        py::init([](std::int64_t inputs, std::int64_t given, std::int64_t states, std::int64_t channels,
                    std::int64_t partial, std::int64_t stride, std::int64_t edges, std::int64_t width,
                    std::int64_t norms, std::int64_t noises, const Numbers& concat,
                    const std::vector<Numbers>& parameters, const std::vector<CellValues>& values,
                    const std::vector<CellNode>& nodes, const std::vector<std::pair<bool, std::int64_t>>& forward,
                    const std::vector<CellNodeBackward>& backward, const Numbers& kept, const Numbers& hidden) {
            CellProgram made{inputs, given, states,     channels, partial, stride, edges,    width, norms,
                             noises, concat, parameters, values,  nodes,   {},     backward, kept,  hidden};
            for (const auto& [sums, place] : forward) made.forward.push_back({sums, place});
            made.check();
            return made;
        }),
        py::kw_only(), "inputs"_a, "given"_a, "states"_a, "channels"_a, "partial"_a, "stride"_a, "edges"_a, "width"_a,
        "norms"_a, "noises"_a, "concat"_a, "parameters"_a, "values"_a, "nodes"_a, "forward"_a, "backward"_a, "kept"_a,
        "hidden"_a);
    bind<float>(program, "float32");
    bind<bfloat16>(program, "bfloat16");
    bind<double>(program, "float64");
    module.def("record_launches", &record_launches, "on"_a, "Record what cells launch: for tests and profiles.");
    module.def("launches", &launches_so_far, "(op, function, count, weights, seconds) of each launch that was recorded.");
}

}  // namespace fastdarts
