"""One cell as a scene: inputs on the left, nodes by depth, an operator's box in front of the node it feeds."""

from __future__ import annotations

from fastdarts.report.layered import Layout, Vertex, Wire, lay_out
from fastdarts.report.palette import colour_of, short_name
from fastdarts.report.scene import Box, Curve, Label, Scene, Shape
from fastdarts.spaces import CellGenotype

__all__ = ["cell_scene", "describe", "state_name"]

_PILL_HEIGHT, _NODE, _FAN, _MARGIN, _HEADING = 22.0, 34.0, 24.0, 14.0, 34.0
_NARROWEST, _WIDEST = 46.0, 120.0
_OUTPUT = "output"
_FLAT = 0.5


def state_name(state: int, inputs: int) -> str:
    """A state as the papers write it: ``c_{k-2}``, ``c_{k-1}``, nodes from 0; all from 0 where there is one input."""
    if inputs == 1:
        return str(state)
    return str(state - inputs) if state >= inputs else f"c_{{k-{inputs - state}}}"


def describe(cell: CellGenotype, *, recurrent: bool = False) -> str:
    """A cell in words, one sentence per node.

    Args:
        cell: the cell.
        recurrent: its output is a mean and its first state is made of x and h.

    Returns:
        Text such as ``node 0 = sep 3x3(c_{k-2}) + skip(c_{k-1}); output = concatenation of nodes 0``.
    """
    nodes = [
        f"node {state_name(state, cell.inputs)} = "
        + " + ".join(f"{short_name(op)}({state_name(source, cell.inputs)})" for op, source in pairs)
        for state, pairs in zip(cell.states, cell.nodes, strict=True)
    ]
    merged = ", ".join(state_name(state, cell.inputs) for state in cell.concat)
    how = "mean" if recurrent else "concatenation"
    output = f"output = {how} of nodes {merged}" if len(cell.concat) > 1 else f"output = node {merged}"
    return "; ".join([*nodes, output])


def cell_scene(cell: CellGenotype, title: str, *, recurrent: bool = False) -> Scene:
    """Draw one cell.

    Args:
        cell: the cell.
        title: the heading, such as ``normal cell``.
        recurrent: draw x_t and h_{t-1} into state 0 and h_t, a mean, as the output.

    Returns:
        The scene; its description is the cell in words.
    """
    vertices, labels = _graph(cell, recurrent=recurrent)
    layout = lay_out(vertices, _OUTPUT)
    by_name = {vertex.name: vertex for vertex in vertices}
    places = _Places(layout, by_name, labels)
    shapes: list[Shape] = [Label(_MARGIN, _MARGIN + 8, title, size=15, anchor="start", bold=True)]
    shapes += places.trunks() + places.edges() + places.boxes()
    shapes.append(_footer(cell, places, recurrent=recurrent))
    return Scene(places.width, places.height, tuple(shapes), title, describe(cell, recurrent=recurrent))


def _graph(cell: CellGenotype, *, recurrent: bool) -> tuple[list[Vertex], dict[str, str]]:
    """Vertices in topological order and what is written in each."""
    labels: dict[str, str] = {}
    vertices: list[Vertex] = []
    if recurrent:
        vertices += [Vertex("x"), Vertex("h"), Vertex("0", (Wire("x"), Wire("h")))]
        labels.update({"x": "x_{t}", "h": "h_{t-1}", "0": "0"})
    else:
        vertices += [Vertex(str(state)) for state in range(cell.inputs)]
        lone = cell.inputs == 1
        labels.update({str(s): "input 0" if lone else state_name(s, cell.inputs) for s in range(cell.inputs)})
    for state, pairs in zip(cell.states, cell.nodes, strict=True):
        vertices.append(Vertex(str(state), tuple(Wire(str(source), op) for op, source in pairs)))
        labels[str(state)] = state_name(state, cell.inputs)
    vertices.append(Vertex(_OUTPUT, tuple(Wire(str(state)) for state in cell.concat)))
    labels[_OUTPUT] = "h_{t}" if recurrent else "c_{k}" if cell.inputs > 1 else "output"
    return vertices, labels


def _footer(cell: CellGenotype, places: _Places, *, recurrent: bool) -> Label:
    nodes = ", ".join(state_name(state, cell.inputs) for state in cell.concat)
    how = "mean of" if recurrent else "concatenation of" if len(cell.concat) > 1 else "is"
    plural = "nodes" if len(cell.concat) > 1 else "node"
    text = f"{places.labels[_OUTPUT]}: {how} {plural} {nodes}".replace(": is", " is")
    return Label(_MARGIN, places.height - 14, text, size=11.5, anchor="start", colour="muted")


class _Places:
    """Pixel positions of a layout, and the shapes made of them."""

    def __init__(self, layout: Layout, vertices: dict[str, Vertex], labels: dict[str, str]) -> None:
        self.layout, self.vertices, self.labels = layout, vertices, labels
        self.top = _HEADING + _MARGIN - layout.top
        self.height = self.top + layout.bottom + _MARGIN + 22
        self.left: list[float] = []
        self.right: list[float] = []
        x = _MARGIN
        for at in range(len(layout.columns)):
            if at:
                x += self._gap(at)
            self.left.append(x)
            x += self._column_width(at)
            self.right.append(x)
        self.width = x + _MARGIN

    def y(self, name: str) -> float:
        return self.top + self.layout.y[name]

    def trunks(self) -> list[Shape]:
        """The lanes of long edges, once a source: faint where only the output reads them."""
        shapes: list[Shape] = []
        for (source, at), lane in self.layout.lane.items():
            y = self.top + lane
            enter = self._link(self.right[at - 1], self._feed(source, at), self.left[at], y)
            colour = "trunk" if self._read_beyond(source, at) else "faint"
            shapes.append(Curve((*enter, ((self.left[at], y), (self.right[at], y))), colour))
        return sorted(shapes, key=lambda shape: isinstance(shape, Curve) and shape.colour != "faint")

    def edges(self) -> list[Shape]:
        """The last piece of every edge, in its operator's colour, and the fan from the operators into the node."""
        bare: list[Shape] = []
        coloured: list[Shape] = []
        for at, column in enumerate(self.layout.columns):
            for name in column:
                for k, wire in enumerate(self.vertices[name].wires):
                    slot = self.top + self.layout.slot[name, k]
                    begin = (self.right[at - 1], self._feed(wire.source, at))
                    node_left = self.right[at] - self._node_width(name)
                    if wire.primitive is None:
                        pieces = self._link(*begin, self.left[at], slot)
                        end = ((self.left[at], slot), (node_left, slot))
                        bare.append(Curve((*pieces, end), "trunk" if name != _OUTPUT else "faint"))
                        continue
                    colour = colour_of(wire.primitive)
                    coloured.append(Curve(self._link(*begin, self.left[at], slot), colour, 1.9))
                    pill_right = self.left[at] + self._pill_width(at)
                    coloured.append(Curve(self._link(pill_right, slot, node_left, self.y(name)), colour, 1.9))
        return bare + coloured

    def boxes(self) -> list[Shape]:
        """Operators' boxes and nodes, with their text."""
        shapes: list[Shape] = []
        for at, column in enumerate(self.layout.columns):
            for name in column:
                for k, wire in enumerate(self.vertices[name].wires):
                    if wire.primitive is not None:
                        shapes += self._pill(at, name, k, wire.source, wire.primitive)
                shapes += self._node(at, name)
        return shapes

    def _pill(self, at: int, name: str, k: int, source: str, primitive: str) -> list[Shape]:
        y, width = self.top + self.layout.slot[name, k], self._pill_width(at)
        colour = colour_of(primitive)
        box = (self.left[at], y - _PILL_HEIGHT / 2, width, _PILL_HEIGHT, _PILL_HEIGHT / 2)
        tip = f"{primitive} from {self.labels[source]} to node {self.labels[name]}"
        return [
            Box(*box, fill="paper", stroke="paper", line=0),
            Box(*box, fill=colour, stroke=colour, opacity=0.16, dashed=primitive == "none", tip=tip),
            Label(self.left[at] + width / 2, y, short_name(primitive), size=12),
        ]

    def _node(self, at: int, name: str) -> list[Shape]:
        width = self._node_width(name)
        x, y = self.right[at] - width, self.y(name)
        inner = bool(self.vertices[name].wires) and name != _OUTPUT
        box = Box(x, y - _NODE / 2, width, _NODE, _NODE / 2 if inner else 6, "panel", "trunk")
        return [box, Label(x + width / 2, y, self.labels[name], size=14, bold=inner)]

    def _feed(self, source: str, at: int) -> float:
        """Height at which a source's line leaves the column before ``at``."""
        if (source, at - 1) in self.layout.lane:
            return self.top + self.layout.lane[source, at - 1]
        return self.y(source)

    def _read_beyond(self, source: str, at: int) -> bool:
        later = {name for column in self.layout.columns[at + 1 :] for name in column if name != _OUTPUT}
        return any(wire.source == source for name in later for wire in self.vertices[name].wires)

    def _node_width(self, name: str) -> float:
        inner = bool(self.vertices[name].wires) and name != _OUTPUT
        return _NODE if inner else max(48.0, 9.0 * len(self.labels[name].replace("_{", "").replace("}", "")) + 14)

    def _pill_width(self, at: int) -> float:
        names = [w.primitive for name in self.layout.columns[at] for w in self.vertices[name].wires if w.primitive]
        longest = max((len(short_name(name)) for name in names), default=0)
        return min(max(7.4 * longest + 18, _NARROWEST), _WIDEST) if names else 0.0

    def _column_width(self, at: int) -> float:
        pill = self._pill_width(at)
        node = max((self._node_width(name) for name in self.layout.columns[at]), default=0.0)
        return node + (pill + _FAN if pill else 0.0)

    def _gap(self, at: int) -> float:
        lanes = [(source, y) for (source, column), y in self.layout.lane.items() if column == at]
        steps = [abs(y + self.top - self._feed(source, at)) for source, y in lanes]
        for name in self.layout.columns[at]:
            for k, wire in enumerate(self.vertices[name].wires):
                steps.append(abs(self.layout.slot[name, k] + self.top - self._feed(wire.source, at)))
        return min(max(40.0, 0.45 * max(steps, default=0.0)), 96.0)

    @staticmethod
    def _link(x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[tuple[float, float], ...], ...]:
        if abs(y1 - y0) < _FLAT:
            return (((x0, y0), (x1, y1)),)
        middle = (x0 + x1) / 2
        return (((x0, y0), (middle, y0), (middle, y1), (x1, y1)),)
