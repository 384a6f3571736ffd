"""Everything that decides a search, checked before anything is allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdarts.errors import UserError
from fastdarts.hypergradient import EXACT, KINDS
from fastdarts.plan import MEMORY

__all__ = ["EIGENVALUE", "GRAPH", "SearchConfig", "check_fields", "config_from_json"]

GRAPH = ("auto", "off")
EIGENVALUE = ("auto", "exact", "lanczos")
SELECT = ("weights", "perturbation", "sampled")
COST = ("none", "parameters", "multiply-adds", "accesses", "resources")
COST_FORMS = ("add", "multiply")
# Fields that came after runs were written without them, which still open and go on as they began.
_LATER = frozenset(
    {
        *("held_out", "split_by_class", "drop_last", "warmup_above", "waiting_epochs", "waiting_lr", "lr_by_step"),
        *("select", "select_tune_epochs", "cost", "cost_form", "cost_weight", "cost_target"),
        *("alpha_mean", "arch_every", "arch_augmented", "label_smoothing", "drop_path_constant", "batch_statistics"),
    }
)
# No machine runs more; what is larger was mistyped, and would ask for memory or threads before it fails.
_LARGEST = {"channels": 2**16, "layers": 2**12, "batch_size": 2**20, "threads": 2**12, "crop": 2**16, "cutout": 2**16}


@dataclass(frozen=True)
class SearchConfig:
    """The hyper-parameters of one search; the defaults are DARTS' (Liu et al. 2019, section 3.1).

    Build it with :func:`fastdarts.search.configure`, which fills in the published values of the method and the
    small ones of the shipped data set.

    Args:
        method: a name of :data:`fastdarts.search.METHODS`.
        space: a name of :func:`fastdarts.spaces.space_names`.
        data: a name of :func:`fastdarts.data.names`, or ``custom`` for a data set given from Python.
        data_root: the folder or file of the data set, where it is not shipped.
        seed: of the split, the weights, the alphas, the batches and the augmentation; below 2**62.
        epochs: passes over the weight level's half of the training set.
        batch_size: images a step, at both levels.
        channels: C, the width of the first cells.
        layers: number of cells.
        stem: ``cifar``, or ``imagenet`` for large images, which it takes to an eighth of their side.
        partial: K of PC-DARTS; candidates run on C / K channels. 1: all channels.
        edge_normalisation: whether every edge has a weight beta of its own (PC-DARTS, Eq. 4).
        hypergradient: a kind of :func:`fastdarts.hypergradient.hypergradient`.
        epsilon: step of the finite differences, over the norm of the direction.
        eta: amending coefficient (amended kinds only).
        one_level: alphas and weights both learn on the whole training set (DARTS, section 3.3).
        arch_start_epoch: first epoch of a stage in which the alphas learn (PC-DARTS: 15); below ``epochs``.
        held_out: share of the training set that a one-level search learns from at neither level, so that what it calls
            validation is none of its training; 0: it validates on images it learnt from, and says so.
        train_portion: share of the training set that trains weights; the rest trains alphas.
        split_by_class: part every class in these shares, not the whole set (PC-DARTS on ImageNet).
        drop_last: leave out a pass' last batch where it is smaller than the others. Most authors keep it.
        lr, lr_min: learning rate of the weights, cosine from the one to the other over a stage's epochs.
        warmup_epochs: first epochs, in which the learning rate rises linearly to its value, where a batch has more
            than ``warmup_above`` images.
        waiting_epochs, waiting_lr: first epochs with a cosine of their own, from waiting_lr to 0, after which the
            other one begins over the epochs left (ProxylessNAS); 0 for none.
        lr_by_step: the cosine falls at every step, not after every epoch.
        momentum, nesterov, weight_decay, grad_clip: of the weights' SGD; ``grad_clip`` is the largest norm, 0 for none.
        arch_lr, arch_beta1, arch_beta2, arch_weight_decay: of the alphas' Adam; ``arch_grad_clip``: the largest norm of
            their gradient, 0 for none.
        alpha_scale, alpha_mean: alphas start as alpha_mean + alpha_scale * normal(0, 1), betas without the mean.
        arch_every: steps of the weights to one of the alphas, which is the last of them.
        arch_augmented: whether the images that alphas learn from are augmented.
        label_smoothing: of the weight level's loss.
        weights_first: the weights learn before the alphas in a step (GDAS).
        channel_sampling: with ``partial``, other channels are mixed at every step instead of the first ones.
        crop: pixels of zero padding before a random crop; ``flip``: mirror half of the images;
            ``cutout``: side in pixels of the square that is set to zero, 0 for none.
        auxiliary: weight of an auxiliary head's loss at the weight level, 0 for no head.
        dropout: probability of dropping a feature before the classifier.
        drop_path: largest probability of dropping a path of an image; it rises linearly over a stage, or is the same
            throughout with ``drop_path_constant`` (SNAS).
        ramp: whether cutout's probability rises as drop-path's does: both by e / (E - 1), from 0 to their value
            (RobustDARTS). Else drop-path's rises by e / E (DARTS' evaluation) and cutout is always there.
        batch_statistics: validate with each batch's own mean and variance (ProxylessNAS), not the running ones.
        eigenvalue_every: epochs between measurements of the dominant eigenvalue of the validation loss's Hessian by the
            alphas, 0 for none; ``eigenvalue``: ``exact``, ``lanczos``, or ``auto`` by the number of alphas.
        restart_after: epochs with one genotype after which the search starts anew (Bingham), 0 for never.
        options: the method's own settings, all of them, by name.
        select: how the genotype is selected in the end: ``weights``, by the method's rule; ``perturbation``, by what
            the supernet loses without an operator (DARTS-PT), tuned for ``select_tune_epochs`` between decisions;
            ``sampled``, the best of 1000 random ones by the weights that they share (Li and Talwalkar).
        cost: a penalty on what the architecture costs, at the level of the alphas: ``none``, ``parameters``,
            ``multiply-adds``, ``accesses`` or ``resources`` (:mod:`fastdarts.search.cost`); ``cost_form`` ``add`` or
            ``multiply``; ``cost_weight``, ``cost_target``: its strength, and the cost that is wished for (0: none).
        check_hypergradient: epochs at whose start the finite-difference hypergradient is compared with the
            exact one (one step each).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: a name of :func:`fastdarts.use_backend`.
        memory: what the fused engine keeps for backward: ``fast``, ``balanced`` or ``lean``
            (:func:`fastdarts.ops.cell`); the numbers are the same bit for bit.
        graph: ``auto`` runs a step on a GPU as one CUDA graph where it can be one (docs/graph.md); ``off`` launches its
            kernels one by one. The numbers are the same bit for bit.
        threads: CPU threads, 0 for as many as torch takes.
        save_every: epochs between checkpoints; on a GPU more, where saving would take over a fortieth of the time.
    """

    method: str = "darts-first"
    space: str = "darts"
    data: str = "digits"
    data_root: str | None = None
    seed: int = 2
    epochs: int = 50
    batch_size: int = 64
    channels: int = 16
    layers: int = 8
    stem: str = "cifar"
    partial: int = 1
    edge_normalisation: bool = False
    hypergradient: str = "first"
    epsilon: float = 0.01
    eta: float = 0.1
    one_level: bool = False
    arch_start_epoch: int = 0
    held_out: float = 0.0
    train_portion: float = 0.5
    split_by_class: bool = False
    drop_last: bool = True
    lr: float = 0.025
    lr_min: float = 0.001
    warmup_epochs: int = 0
    warmup_above: int = 0
    waiting_epochs: int = 0
    waiting_lr: float = 0.0
    lr_by_step: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    arch_lr: float = 3e-4
    arch_beta1: float = 0.5
    arch_beta2: float = 0.999
    arch_weight_decay: float = 1e-3
    arch_grad_clip: float = 0.0
    alpha_scale: float = 1e-3
    alpha_mean: float = 0.0
    arch_every: int = 1
    arch_augmented: bool = True
    label_smoothing: float = 0.0
    weights_first: bool = False
    channel_sampling: bool = False
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    auxiliary: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_constant: bool = False
    ramp: bool = False
    batch_statistics: bool = False
    eigenvalue_every: int = 0
    eigenvalue: str = "auto"
    restart_after: int = 0
    select: str = "weights"
    select_tune_epochs: int = 10
    cost: str = "none"
    cost_form: str = "add"
    cost_weight: float = 0.0
    cost_target: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    check_hypergradient: tuple[int, ...] = ()
    device: str = "auto"
    backend: str = "auto"
    memory: str = "fast"
    graph: str = "auto"
    threads: int = 0
    save_every: int = 1

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least_one=("epochs", "batch_size", "channels", "layers", "partial", "save_every", "arch_every"),
            not_negative=(
                *("seed", "arch_start_epoch", "crop", "cutout", "lr", "lr_min", "weight_decay", "grad_clip"),
                *("arch_lr", "arch_weight_decay", "arch_grad_clip", "alpha_scale", "eta", "threads"),
                *("warmup_epochs", "warmup_above", "waiting_epochs", "waiting_lr"),
                *("auxiliary", "eigenvalue_every", "restart_after", "cost_weight", "cost_target"),
                "select_tune_epochs",
            ),
            fractions=(
                *("momentum", "arch_beta1", "arch_beta2", "dropout", "drop_path", "held_out", "label_smoothing"),
            ),
        )
        if self.arch_start_epoch >= self.epochs:
            raise UserError(
                f"arch_start_epoch is {self.arch_start_epoch} with {self.epochs} epochs: the alphas would never learn",
                f"from 0 to {self.epochs - 1}",
            )
        self._check_together()
        if not 0.0 < self.train_portion < 1.0:
            raise UserError(f"train_portion is {self.train_portion}", "a number between 0 and 1, both excluded")
        if not self.epsilon > 0.0:
            raise UserError(f"epsilon is {self.epsilon}", "a positive number", "DARTS uses 0.01")
        if self.memory not in MEMORY:
            raise UserError(f"memory is {self.memory!r}", f"one of {', '.join(MEMORY)}")
        if self.graph not in GRAPH:
            raise UserError(f"graph is {self.graph!r}", f"one of {', '.join(GRAPH)}")
        if self.eigenvalue not in EIGENVALUE:
            raise UserError(f"eigenvalue is {self.eigenvalue!r}", f"one of {', '.join(EIGENVALUE)}")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov without momentum", "a momentum above 0", "leave nesterov out")
        if self.channel_sampling and self.partial == 1:
            raise UserError("channel_sampling with partial 1: all channels are mixed", "a partial of 2 or more")
        if self.hypergradient not in KINDS:
            raise UserError(f"unknown hypergradient {self.hypergradient!r}", f"one of {', '.join(KINDS)}")
        if self.hypergradient.startswith("second") and not self.lr:
            raise UserError(f"lr is 0 with hypergradient {self.hypergradient!r}", "a step to unroll", "use 'first'")
        if self.channels % self.partial:
            raise UserError(
                f"channels {self.channels} with partial {self.partial}",
                "a K that divides the channels",
                f"use --channels {math.ceil(self.channels / self.partial) * self.partial}",
            )
        if self.check_hypergradient and self.hypergradient not in EXACT:
            raise UserError(
                f"check_hypergradient with hypergradient {self.hypergradient!r}, which takes no finite differences",
                f"{' or '.join(EXACT)}",
                "leave the check out, or use --method darts-second",
            )
        late = [epoch for epoch in self.check_hypergradient if type(epoch) is not int or not 0 <= epoch < self.epochs]
        if late:
            raise UserError(f"check_hypergradient names epoch {late[0]!r}", f"epochs from 0 to {self.epochs - 1}")

    def _check_together(self) -> None:
        """Refuse settings of which one leaves the other without a meaning."""
        if self.waiting_epochs and self.waiting_epochs >= self.epochs:
            raise UserError(f"waiting_epochs is {self.waiting_epochs} with {self.epochs} epochs", "fewer than these")
        if self.waiting_epochs and self.warmup_epochs:
            raise UserError("waiting_epochs and warmup_epochs", "one of them: both are how the learning rate begins")
        if self.held_out and not self.one_level:
            raise UserError(
                f"held_out is {self.held_out} in a search of two levels", "0", "train_portion parts its two levels"
            )
        if self.one_level and not self.arch_augmented:
            raise UserError("arch_augmented false with one level", "arch_augmented true", "both learn from one batch")
        named = (("cost", self.cost, COST), ("cost_form", self.cost_form, COST_FORMS), ("select", self.select, SELECT))
        for name, value, known in named:
            if value not in known:
                raise UserError(f"{name} is {value!r}", f"one of {', '.join(known)}")
        if (self.cost == "none") is not (self.cost_weight == 0.0):
            raise UserError(f"cost {self.cost!r} with cost_weight {self.cost_weight}", "both, or neither")
        if self.cost_form == "multiply" and not self.cost_target > 1.0:
            raise UserError(f"cost_form 'multiply' with cost_target {self.cost_target}", "a target above 1")
        if self.drop_path_constant and self.ramp:
            raise UserError("drop_path_constant with ramp", "one of them")

    @property
    def tuned_epochs(self) -> int:
        """Epochs of tuning between two decisions of the selection, 0 where it makes none."""
        return self.select_tune_epochs if self.select == "perturbation" else 0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in self.options.items()}
        return dataclasses.asdict(self) | {"check_hypergradient": list(self.check_hypergradient), "options": options}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchConfig:
        """Inverse of :meth:`to_json`; unknown and missing fields are refused.

        Fields that came later may be missing: their defaults are what was done before there was a choice.
        """
        later: dict[str, Any] = {each.name: each.default for each in dataclasses.fields(cls) if each.name in _LATER}
        values = later | dict(values)
        if isinstance(values.get("check_hypergradient"), list):
            values["check_hypergradient"] = tuple(values["check_hypergradient"])
        if isinstance(values.get("options"), Mapping):
            options = values["options"].items()
            values["options"] = {name: tuple(value) if isinstance(value, list) else value for name, value in options}
        config: SearchConfig = config_from_json(cls, values)
        return config


def config_from_json(cls: type, values: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass from exactly its own fields.

    Raises:
        UserError: naming the unknown or missing fields.
    """
    known = {each.name for each in dataclasses.fields(cls)}
    wrong = sorted(known ^ set(values))
    if wrong:
        raise UserError(
            f"the configuration has unknown or missing fields: {', '.join(wrong)}",
            f"the fields of {cls.__name__}",
            "it was written by another version of fastdarts, or edited: use that version, or start a new run",
        )
    return cls(**values)


def _shown(value: int) -> str:
    text = hex(value) if abs(value) > 2**1000 else str(value)
    return text if len(text) < 40 else f"{text[:20]}..."


def check_fields(
    config: Any, *, at_least_one: tuple[str, ...], not_negative: tuple[str, ...], fractions: tuple[str, ...]
) -> None:
    """Check types (from the annotations) and ranges of a configuration's fields.

    Raises:
        UserError: naming the first field that is wrong.
    """
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    kinds |= {"str | None": (str, type(None)), "tuple[int, ...]": tuple}
    for each in dataclasses.fields(config):
        value, kind = getattr(config, each.name), kinds.get(str(each.type))
        if kind is None:
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and each.type != "bool"):
            raise UserError(f"{each.name} is {value!r}", f"a value of type {each.type}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{each.name} is {value}", "a finite number")
        most = 2**62 if each.name == "seed" else _LARGEST.get(each.name, 2**31)
        if isinstance(value, int) and abs(value) >= most:
            raise UserError(f"{each.name} is {_shown(value)}", f"below {'2**62' if each.name == 'seed' else most}")
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}", "at least 1")
    for name in not_negative:
        if getattr(config, name) < 0:
            raise UserError(f"{name} is {getattr(config, name)}", "0 or more")
    for name in fractions:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise UserError(f"{name} is {getattr(config, name)}", "from 0 to below 1")
