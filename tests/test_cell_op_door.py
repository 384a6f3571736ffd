"""The cell's op as torch sees it: schema, fake tensors, compilation, second derivatives; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import cell_oracle as oracle
import pytest
import torch
from cell_oracle import Given, given
from torch import Tensor

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.ops._cell_given import Given as Arguments
from fastdarts.ops.cell import cell
from fastdarts.plan import CellPlan
from fastdarts.reference.cell import cell as reference


def arguments(case: Given, memory: str = "fast", *, stacked: bool = False) -> Arguments:
    """As torch.ops.fastdarts.cell takes them."""
    leaves = case.leaves(torch.float32)
    sources, parameters = ([leaf for name, leaf in leaves.items() if name.startswith(word)] for word in ("s", "p"))
    noise = [each.float() for each in case.noise]
    running = case.running or (None, None)
    rest = (case.plan.encode(), memory, 1e-5)
    places: list[int] = []
    if stacked:
        parameters, places = flat(parameters)
    return Arguments(sources, leaves["weights"], leaves.get("bypass"), parameters, places, noise, *running, *rest)


def flat(parameters: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The parameters one after another in one tensor, between an element and two that are nobody's."""
    sizes = [parameter.numel() for parameter in parameters]
    starts = [1 + sum(sizes[:number]) for number in range(len(sizes))]
    whole = torch.cat([torch.ones(1), *(each.detach().flatten() for each in parameters), torch.ones(2)])
    return [whole.requires_grad_()], [part for start in starts for part in (0, start)]


@pytest.mark.parametrize(
    ("name", "training", "memory"),
    [
        ("uneven partial", True, "fast"),
        ("noise", True, "lean"),
        ("uneven", True, "balanced"),
        ("uneven", False, "fast"),
    ],
)
def test_opcheck(name: str, training: bool, memory: str) -> None:
    case = given(name, training=training)
    case.named["weights"] = case.named["weights"][:, :-1]
    torch.library.opcheck(torch.ops.fastdarts.cell, arguments(case, memory, stacked=memory == "balanced"))


@pytest.mark.parametrize("asked", [True, False])
def test_opcheck_of_backward(asked: bool) -> None:
    case = given("uneven partial")
    case.named["weights"] = case.named["weights"][:, :-1]
    every = arguments(case, stacked=not asked)
    with torch.no_grad():
        out, mean, var, kept = torch.ops.fastdarts.cell(*every)
    detached = [[each.detach() for each in several] for several in (every.sources, every.parameters)]
    every = every._replace(sources=detached[0], parameters=detached[1], weights=every.weights.detach())
    every = every._replace(bypass=every.bypass.detach(), mean=mean, var=var)
    needs = (True, "cpu", [asked, True], [], asked, asked, not asked)
    torch.library.opcheck(torch.ops.fastdarts.cell_backward, (torch.ones_like(out), *every, out, kept, *needs))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_parameters_in_a_flat_tensor_have_their_gradients_there(backend: str) -> None:
    case = given("partial reduction")
    whole, apart = arguments(case, stacked=True), arguments(case)
    with use_backend(backend):
        for each in (whole, apart):
            named = each._asdict()
            del named["memory"]
            cell(**named)[0].square().sum().backward()
    gradients = torch.cat([each.grad.flatten() for each in apart.parameters])
    assert torch.equal(whole.parameters[0].grad, torch.cat([torch.zeros(1), gradients, torch.zeros(2)]))
    assert torch.equal(whole.weights.grad, apart.weights.grad)


PLACES: dict[str, tuple[Callable[[list[int]], list[int]], str]] = {
    "few": (lambda places: places[2:], "9 places of parameters; expected 10, as the plan has"),
    "outside": (lambda places: [*places[:-1], places[-1] + 3], "parameter 9 lies at element .* of tensor 0; expected"),
    "before": (lambda places: [0, -1, *places[2:]], "parameter 0 lies at element -1 of tensor 0; expected"),
    "no tensor": (lambda places: [1, *places[1:]], "parameter 0 lies at element 1 of tensor 1; expected"),
    "twice": (lambda places: [*places[:2], *places[:2], *places[4:]], "parameter 1 overlaps another in tensor 0"),
}


@pytest.mark.parametrize("key", PLACES)
def test_a_place_that_is_none_is_refused(key: str) -> None:
    change, message = PLACES[key]
    every = arguments(given("uneven"), stacked=True)
    with pytest.raises(UserError, match=message):
        torch.ops.fastdarts.cell(*every._replace(places=change(every.places)))


@pytest.mark.parametrize(("name", "memory"), [("partial reduction", "balanced"), ("uneven", "fast")])
def test_compiles_as_one_graph(name: str, memory: str) -> None:
    case = given(name)
    leaves = case.leaves(torch.float32)

    def function(named: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        out, mean, _ = case.call(cell, named, memory=memory)
        return out.square().mean(), mean

    expected, mean = function(leaves)
    gradients = torch.autograd.grad(expected, list(leaves.values()))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, own = compiled(leaves)
    assert torch.equal(found, expected) and torch.equal(own, mean)
    for each, value in zip(torch.autograd.grad(found, list(leaves.values())), gradients, strict=True):
        assert torch.equal(each, value)


@pytest.mark.parametrize("name", ["normal", "uneven partial"])
def test_the_second_derivative_is_refused_with_the_remedy(name: str) -> None:
    case = given(name)
    leaves = case.leaves(torch.float64)
    weights = leaves["weights"]
    (slope,) = torch.autograd.grad(case.call(cell, leaves)[0].square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"cell has no second derivative; use_backend\('reference'\) has one"):
        torch.autograd.grad(slope[:, 1:-1].sum(), weights)
    with use_backend("reference"):
        (slope,) = torch.autograd.grad(case.call(cell, leaves)[0].square().sum(), weights, create_graph=True)
        assert torch.autograd.grad(slope[:, 1:-1].sum(), weights)[0][:, :-1].any()


@pytest.mark.parametrize("name", ["reduction", "noise"])
def test_the_reference_backend_is_the_reference(name: str) -> None:
    case = given(name)
    with use_backend("reference"):
        found = oracle.outcome(cell, case, torch.float32)
    expected = oracle.outcome(reference, case, torch.float32)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_plans_are_of_the_cells_own_shape() -> None:
    for plan, _ in oracle.PLANS.values():
        assert CellPlan.decode(plan.encode()) == plan


def changed(case: Given, key: str, change: Callable[[Tensor], Tensor]) -> tuple:
    """The call with one argument changed, through the public function."""
    sources, weights, bypass, parameters, _, noise, mean, var, *_ = arguments(case)
    options = {"bypass": bypass, "noise": noise, "mean": mean, "var": var}
    positional = {"sources": sources, "weights": weights, "parameters": parameters}
    name, _, place = key.partition(" ")
    target = positional if name in positional else options
    if place:
        several = list(target[name])
        several[int(place)] = change(several[int(place)])
        target[name] = several
    else:
        target[name] = change(target[name])
    return cell(*positional.values(), case.plan, **options)


REFUSED: dict[str, tuple[str, str, Callable, str]] = {
    "channels": ("normal", "sources 0", lambda t: t[:, 1:], r"sources\[0\] has shape \[3, 3, 5, 6\]; expected \[N, 4"),
    "dimensions": ("normal", "sources 0", lambda t: t[0], r"sources\[0\] has shape \[4, 5, 6\]"),
    "empty batch": ("normal", "sources 0", lambda t: t[:0], r"N, H and W at least 1"),
    "empty map": ("normal", "sources 0", lambda t: t[..., :0], r"N, H and W at least 1"),
    "other size": ("normal", "sources 1", lambda t: t[..., 1:], r"sources\[1\] has shape \[3, 4, 5, 5\]; expected \[3"),
    "no sources": ("normal", "sources", lambda t: [], "there are no sources"),
    "one source": ("normal", "sources", lambda t: t[:1], "1 sources; expected 2, as the plan has"),
    "few": ("normal", "parameters", lambda t: t[1:], "167 parameters; expected 168, as the plan has"),
    "kernel": ("normal", "parameters 3", lambda t: t[1:], r"parameters\[3\] has shape \[3, 4, 1, 1\]; expected \[4"),
    "noises": ("noise", "noise", lambda t: t[1:], "4 noise maps; expected 5"),
    "noise": ("noise", "noise 1", lambda t: t[:1], r"noise\[1\] has shape \[1, 4, 3, 3\]; expected \[2, 4, 3, 3\]"),
    "narrow": ("normal", "weights", lambda t: t[:, :7], r"weights have shape \[14, 7\]; expected \[14, 8 or more\]"),
    "short": ("normal", "weights", lambda t: t[1:], r"weights have shape \[13, 9\]"),
    "needless bypass": ("normal", "bypass", lambda t: torch.ones(14), "bypass is given where all channels are mixed"),
    "bypass": ("partial", "bypass", lambda t: t[1:], r"bypass has shape \[13\]; expected \[14\]"),
    "var": ("normal", "mean", lambda t: torch.ones(448), "one of mean and var is missing"),
    "device": ("normal", "weights", lambda t: t.to("meta"), r"weights is on meta, sources\[0\] on cpu.*\.to\('cpu'\)"),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_does_not_fit_is_refused(key: str) -> None:
    name, argument, change, message = REFUSED[key]
    with pytest.raises(UserError, match="cell: .*" + message):
        changed(given(name), argument, change)


def test_running_statistics_of_another_length_are_refused() -> None:
    case = given("uneven", training=False)
    case.running = (case.running[0][1:], case.running[1])
    with pytest.raises(UserError, match=r"mean has shape \[27\]; expected \[28\]"):
        case.call(cell, case.leaves(torch.float32))
    case.running = (torch.ones(28, requires_grad=True), torch.ones(28))
    with pytest.raises(UserError, match="mean requires gradients"):
        case.call(cell, case.leaves(torch.float32))


def test_one_value_a_channel_is_refused_in_training_only() -> None:
    plan = oracle.planned(oracle.cell_plan(oracle.DARTS, 4, reduction=True))
    with pytest.raises(UserError, match=r"one value a channel.*larger batch or image, or pass running statistics"):
        oracle.outcome(cell, oracle.given_for(plan, 1, 2, 2), torch.float32)
    oracle.assert_same_function(oracle.given_for(plan, 1, 2, 2, training=False))


WRONG: dict[str, tuple[str, Callable, str]] = {
    "no tensor": ("weights", lambda t: t.tolist(), r"weights is a list; expected a torch\.Tensor"),
    "no tensors": ("parameters 5", lambda t: None, r"parameters\[5\] is a NoneType; expected a torch\.Tensor"),
    "float16": ("sources 0", lambda t: t.half(), r"sources\[0\] is float16; expected float32, bfloat16 or float64"),
    "mixed": ("sources 1", lambda t: t.double(), r"sources\[1\] is float64; expected float32, as sources\[0\]"),
    "integers": ("weights", lambda t: t.nan_to_num().long(), r"weights is int64; expected a floating dtype"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_types_are_type_errors(key: str) -> None:
    argument, change, message = WRONG[key]
    with pytest.raises(TypeError, match="cell: " + message):
        changed(given("normal"), argument, change)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_unknown_memory_mode_is_refused(backend: str) -> None:
    case = given("normal")
    leaves = case.leaves(torch.float32)
    with (
        use_backend(backend),
        pytest.raises(UserError, match="memory is 'small'; expected one of fast"),
    ):
        case.call(cell, leaves, memory="small")
