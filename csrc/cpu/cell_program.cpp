// A program's numbers point into what it has: everything that a pass over it reads by index.

#include <algorithm>

#include "../common.h"
#include "../stencils.h"
#include "cell.h"

namespace fastdarts {
namespace {

struct Checker {
    const CellProgram& p;

    static void inside(std::int64_t number, std::int64_t count, const char* what) {
        require(number >= 0 && number < count, std::string("cell: no such ") + what);
    }
    static void all_inside(const Numbers& numbers, std::int64_t count, const char* what) {
        for (const std::int64_t number : numbers) inside(number, count, what);
    }
    static std::int64_t size(const Numbers& of) { return static_cast<std::int64_t>(of.size()); }

    void parameter(std::int64_t place, const Numbers& shape) const {
        inside(place, static_cast<std::int64_t>(p.parameters.size()), "parameter");
        require(p.parameters[static_cast<std::size_t>(place)] == shape, "cell: a parameter has another shape");
    }
    void call(const CellCall& call, bool normalised) const {
        all_inside(call.sources, normalised ? p.norms : p.states, "source");
        for (const CellConv& conv : call.convs) {
            inside(conv.source, size(call.sources), "source of a call");
            inside(conv.norm, p.norms, "norm");
            require(is_stencil(conv.kernel, conv.dilation, conv.stride), "cell: there is no kernel for a window");
            const bool input = !normalised && call.sources[static_cast<std::size_t>(conv.source)] < p.inputs;
            require(conv.stride == (input ? p.stride : 1), "cell: a stride is not that of its source");
            parameter(conv.depthwise, {p.mixed(), 1, conv.kernel, conv.kernel});
            parameter(conv.pointwise, {p.mixed(), p.mixed(), 1, 1});
        }
    }
    void reduction(const CellReduction& reduction) const {
        const std::int64_t c = p.mixed();
        inside(reduction.source, p.inputs, "source of a reduction");
        inside(reduction.norm, p.norms, "norm");
        require(p.stride == 2 && reduction.weights.size() == (c > 1 ? 2u : 1u), "cell: a reduction with other weights");
        parameter(reduction.weights[0], {c - c / 2, c, 1, 1});
        if (c > 1) parameter(reduction.weights[1], {c / 2, c, 1, 1});
    }
    void values(const CellValues& stage) const {
        call(stage.first, false);
        call(stage.second, true);
        for (const CellReduction& each : stage.reductions) reduction(each);
        for (const CellPools& pools : stage.pools) {
            inside(pools.source, p.states, "source of pools");
            require(pools.stride == 1 || pools.stride == 2, "cell: a stride is neither 1 nor 2");
            all_inside(pools.max_norms, p.norms, "norm");
            all_inside(pools.avg_norms, p.norms, "norm");
        }
    }
    void edges(const std::vector<CellEdge>& edges) const {
        for (const CellEdge& edge : edges) {
            inside(edge.edge, p.edges, "edge");
            inside(edge.source, p.states, "source of an edge");
            require(edge.stride == (edge.source < p.inputs ? p.stride : 1), "cell: a stride is not that of its source");
            require(edge.stride == 1 || !edge.skip, "cell: a skip has stride 2");
        }
    }
    void node(const CellNode& node) const {
        inside(node.state, p.states, "state");
        inside(node.slot, size(node.shown ? p.concat : p.hidden), "slot");
        for (const CellTerm& term : node.terms)
            inside(term.place, term.handed_in ? p.noises : p.norms, "term");
        edges(node.edges);
        require(node.norms.size() == node.terms.size() + 3 * node.edges.size() &&
                    node.weights.size() == node.norms.size(),
                "cell: a node has not three rows an edge");
        all_inside(node.norms, p.norms + 1, "norm");
        all_inside(node.weights, p.edges * p.width + 1, "weight");
        all_inside(node.values, p.norms, "value");
    }
    void backward(const CellNodeBackward& one) const {
        inside(one.node, static_cast<std::int64_t>(p.nodes.size()), "node");
        const std::int64_t rows = size(p.nodes[static_cast<std::size_t>(one.node)].norms);
        const std::int64_t halves = size(one.second.sources);
        values(one.missing);
        call(one.second, true);
        call(one.first, false);
        all_inside(one.second_rows, rows, "row");
        all_inside(one.first_rows, rows + halves, "row");
        for (const std::int64_t inner : one.inner) require(inner >= -1 && inner < halves, "cell: no such inner gradient");
        require(one.second_rows.size() == one.second.convs.size() && one.first_rows.size() == one.first.convs.size() &&
                    one.inner.size() == one.first.convs.size() && one.reduction_rows.size() == one.reductions.size() &&
                    one.edge_rows.size() == 3 * one.edges.size(),
                "cell: rows are missing");
        for (const CellReduction& each : one.reductions) reduction(each);
        all_inside(one.reduction_rows, rows, "row");
        edges(one.edges);
        all_inside(one.edge_rows, rows, "row");
    }
};

}  // namespace

void CellProgram::check() const {
    require(inputs > 0 && given >= inputs && states > given && channels > 0 && partial > 0 && channels % partial == 0 &&
                (stride == 1 || stride == 2) && edges >= 0 && width >= 0 && norms >= 0 && noises >= 0,
            "cell: impossible sizes");
    const Checker checker{*this};
    Checker::all_inside(concat, states, "state");
    Checker::all_inside(hidden, states, "state");
    Checker::all_inside(kept, norms, "norm");
    require(static_cast<std::int64_t>(concat.size() + hidden.size()) == states - given, "cell: states are missing");
    for (const CellValues& each : values) checker.values(each);
    std::int64_t state = given;
    for (const CellNode& each : nodes) {
        checker.node(each);
        require(each.state == state++, "cell: nodes out of order");
        const Numbers& among = each.shown ? concat : hidden;
        require(among[static_cast<std::size_t>(each.slot)] == each.state, "cell: a node in another's slot");
    }
    require(state == states, "cell: nodes are missing");
    for (const CellStage& stage : forward)
        Checker::inside(stage.place, static_cast<std::int64_t>(stage.sums ? nodes.size() : values.size()), "stage");
    for (const CellNodeBackward& each : backward) checker.backward(each);
}

}  // namespace fastdarts
