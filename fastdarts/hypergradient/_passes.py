"""Forward passes that leave no trace: module buffers, random number generators and gradient flags are put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook

from fastdarts.errors import UserError
from fastdarts.nn.known import never_inside

__all__ = ["GeneratorStates", "ModuleStates", "NoGenerators", "Passes"]

Loss = Callable[[], Tensor]


class GeneratorStates:
    """The default CPU generator's state and, once CUDA is initialised, every CUDA device's."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


class NoGenerators:
    """In place of :class:`GeneratorStates` where a loss draws nothing, or is evaluated once: nothing to put back."""

    def restore(self) -> None:
        """Nothing."""


class ModuleStates:
    """Buffers of the modules that run inside the ``with`` block, put back bit for bit when it is left.

    A global forward pre-hook finds the modules, because a loss callable does not name its model. A module that
    runs is recorded with all its descendants, since a parent's forward may write a child's buffers. The record
    outlives the block: entering again copies nothing and returns to the same state.
    """

    def __init__(self) -> None:
        # By identity, since a module may define its own equality; the values keep the identities alive.
        self._buffers: dict[int, tuple[Module, dict[str, Tensor | None]]] = {}
        self._bits: dict[int, tuple[Tensor, Tensor]] = {}
        # The hook is global: a module that runs meanwhile in another thread is none of ours.
        self._thread = threading.get_ident()

    def __enter__(self) -> ModuleStates:
        self._hook = register_module_forward_pre_hook(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self.restore()

    @never_inside  # a cell is recorded with all that is in it
    def _record(self, module: Module, _: Any) -> None:
        if id(module) in self._buffers or threading.get_ident() != self._thread:
            return
        for part in module.modules():
            if id(part) in self._buffers:
                continue
            buffers = dict(part._buffers)
            self._buffers[id(part)] = (part, buffers)
            for tensor in buffers.values():
                if tensor is not None and id(tensor) not in self._bits and _writable(tensor):
                    self._bits[id(tensor)] = (tensor, tensor.detach().clone())

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was recorded: the same tensors under the same names, with the same bits."""
        for module, buffers in self._buffers.values():
            present = dict(module._buffers)
            for name in present.keys() - buffers.keys():
                del module._buffers[name]
            for name, tensor in buffers.items():
                if name not in present or present[name] is not tensor:
                    module._buffers[name] = tensor
        for tensor, bits in self._bits.values():
            if tensor.shape != bits.shape:
                tensor.resize_(bits.shape)
        if self._bits:
            pairs = list(self._bits.values())
            torch._foreach_copy_([tensor for tensor, _ in pairs], [bits for _, bits in pairs])


def _writable(tensor: Tensor) -> bool:
    # An expanded tensor has many elements in one place: no operation can have written it, none can restore it.
    return all(stride or size < 2 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


class Passes:
    """Evaluates the two losses so that every evaluation of a level is the same function of weights and alphas.

    The first evaluation of a level advances the generators; every later one starts from the same generator state
    as the first and puts back the state that it found. Used as a context manager: when the block raises, the
    generators return to where they were when it was entered.

    Args:
        loss_train: the weight level's loss, zero arguments.
        loss_val: the architecture level's loss, zero arguments.
        leaves: the weights and alphas.
        keep_module_state: whether a pass leaves its effect on module buffers, unless it is a discarded one.
        generators: how the generators' states are kept; they cannot be asked for while a CUDA graph is captured.
    """

    def __init__(
        self,
        loss_train: Loss,
        loss_val: Loss,
        *,
        leaves: Sequence[Tensor],
        keep_module_state: bool,
        generators: type[GeneratorStates] | type[NoGenerators] = GeneratorStates,
    ) -> None:
        self._losses = {"loss_train": loss_train, "loss_val": loss_val}
        self._leaves = leaves
        self._keep_module_state = keep_module_state
        self._modules = ModuleStates()
        self._generators = generators
        self._starts: dict[str, GeneratorStates | NoGenerators] = {}
        self._values: list[Tensor] = []

    def __enter__(self) -> Passes:
        self._entry = self._generators()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._entry.restore()

    @contextmanager
    def loss(self, level: str, wanted: Sequence[Tensor], *, discard: bool = False) -> Iterator[Tensor]:
        """The loss of a level at the current weights, for as long as the block needs its graph.

        Args:
            level: ``loss_train`` or ``loss_val``.
            wanted: the leaves to be differentiated; the other leaves are constants of the graph, so that neither
                their gradients are computed nor what only those need is kept, in autograd functions of one's own too.
            discard: undo the pass's effect on module buffers even if the others keep it.
        """
        resume = None
        if level in self._starts:
            resume = self._generators()
            self._starts[level].restore()
        else:
            self._starts[level] = self._generators()
        chosen = {id(tensor) for tensor in wanted}
        constants = [leaf for leaf in self._leaves if id(leaf) not in chosen]
        try:
            # The flags hold during the backward too: activation checkpointing runs the forward there once more.
            with self._module_states(discard), torch.enable_grad(), _requires_grad(constants, False):
                loss = self._scalar(level)
                if not loss.requires_grad:
                    self._check_graph(level)
                self._values.append(loss.detach().reshape(()))
                yield loss
        finally:
            if resume is not None:
                resume.restore()

    def gradients(self, level: str, wanted: Sequence[Tensor], *, discard: bool = False) -> list[Tensor]:
        """Gradients of one level's loss by ``wanted``, zero where it does not depend on them: one pass."""
        with self.loss(level, wanted, discard=discard) as loss:
            if not loss.requires_grad:
                return [torch.zeros_like(each) for each in wanted]
            return _dense(torch.autograd.grad(loss, wanted, materialize_grads=True))

    def poisoned(self, gradient: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``gradient`` as new tensors, not-a-number everywhere if any evaluated loss was not finite."""
        device = self._values[0].device
        # x - x is 0 for a finite x and nan otherwise: no comparison, so nothing waits for the device.
        poison = torch.stack([(value - value).float().to(device) for value in self._values]).sum()
        return tuple(each + poison.to(each) for each in gradient)

    def _module_states(self, discard: bool) -> AbstractContextManager[ModuleStates | None]:
        if not self._keep_module_state:
            return self._modules
        return ModuleStates() if discard else nullcontext()

    def _scalar(self, level: str) -> Tensor:
        loss = self._losses[level]()
        if not isinstance(loss, Tensor):
            raise TypeError(f"{level} returned {type(loss).__name__}; expected a scalar tensor")
        if loss.numel() != 1 or not loss.is_floating_point():
            raise UserError(
                f"{level} returned a {loss.dtype} tensor of shape {tuple(loss.shape)}",
                "one floating-point number",
                "reduce it with mean() or sum()",
            )
        return loss

    def _check_graph(self, level: str) -> None:
        """Tell a loss that does not depend on what is wanted from one whose graph was cut, by evaluating it again."""
        self._starts[level].restore()
        with ModuleStates(), _requires_grad(self._leaves, True):
            if not self._scalar(level).requires_grad:
                raise UserError(
                    f"{level} has no gradient graph",
                    "a loss that depends on the weights or the alphas",
                    "compute it anew at every call, without no_grad, detach or item",
                )


@contextmanager
def _requires_grad(leaves: Sequence[Tensor], value: bool) -> Iterator[None]:
    before = [leaf.requires_grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.requires_grad_(value)
        yield
    finally:
        for leaf, flag in zip(leaves, before, strict=True):
            leaf.requires_grad_(flag)


def _dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    # Embeddings may give sparse gradients, which neither norms nor perturbations take.
    return [each if each.layout == torch.strided else each.to_dense() for each in gradients]
