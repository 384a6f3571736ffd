"""The search as a job: data, supernet, two levels of learning, records, and the genotype at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastdarts.data import Augmentation, Batches, ImageSet
from fastdarts.errors import UserError
from fastdarts.runs import Checkpoint, RunFolder
from fastdarts.search.choices import Action, Begin, EpochEnd, Finished, Mixing, Rewire, Rollback, Stage, Stop
from fastdarts.search.config import SearchConfig
from fastdarts.search.cost import Cost
from fastdarts.search.curvature import measure
from fastdarts.search.divergence import WORST, check_losses
from fastdarts.search.environment import reproducible, resolve_device, seed_everything
from fastdarts.search.figures import check_batch, count_parameters, entropy
from fastdarts.search.foresight import check_cells, foresee
from fastdarts.search.graph import new_recorder, new_step
from fastdarts.search.interrupt import stop_on_signal, stoppable
from fastdarts.search.levels import ON_TRAINING, part_levels, smallest_batch
from fastdarts.search.methods import compose
from fastdarts.search.network import build_supernet
from fastdarts.search.progress import Progress
from fastdarts.search.projection import check_tuning, project
from fastdarts.search.result import SearchResult
from fastdarts.search.runner import run_job
from fastdarts.search.schedule import Rates, learning_rate, rates
from fastdarts.search.selection import SharedWeights
from fastdarts.search.snapshots import Snapshots
from fastdarts.search.stepper import Evaluation, Stepper
from fastdarts.spaces import Genotype, Space, space

if TYPE_CHECKING:
    pass

__all__ = ["SearchJob"]


class SearchJob:
    """The search as :func:`fastdarts.search.runner.run_job` drives it.

    Args:
        config: of the search.
        images: both levels are taken from them.
        search_space: a space instead of the one that the configuration names.

    Raises:
        UserError: for settings or data that do not fit.
    """

    stacked = True  # a measurement of plain torch gives each module weights of its own

    def __init__(self, config: SearchConfig, images: ImageSet, search_space: Space | None = None) -> None:
        self.config, self.title = config, f"search ({config.method})"
        self.space = search_space or space(config.space)
        self.device = resolve_device(config.device)
        self.choices = compose(config)
        weight_level, arch_level = part_levels(config, images)
        levels = {"weight": weight_level, "architecture": arch_level}
        augmented = Augmentation(config.crop, config.flip, config.cutout)

        def batches(indices: Tensor, stream: int, augmentation: Augmentation) -> Batches:
            return Batches(
                images,
                indices,
                batch_size=config.batch_size,
                seed=config.seed * 2 + stream,
                device=self.device,
                augmentation=augmentation,
                # Whatever validates a one-level search only measures: a level smaller than a batch will do.
                drop_last=config.drop_last and not (stream and config.held_out),
            )

        self.ends = images.classes, images.images.shape[1]
        self.train = batches(weight_level, 0, augmented)
        self.valid = batches(arch_level, 1, augmented if config.arch_augmented else Augmentation())
        self.steps = len(self.train)
        self.weight_decay = config.weight_decay
        self.snapshots = Snapshots(max((guard.memory for guard in self.choices.guards), default=0))
        self._ended: int | None = None
        seed_everything(config.seed)
        whole = Stage(0, config.epochs, self.space, config.layers)
        first = whole if self.choices.first is None else self.choices.first(whole)
        check_tuning(self.choices.relaxation, config.tuned_epochs, config.method)
        if self.choices.check is not None:
            self.choices.check(first)
        self._build(first)
        check_batch(self.model, images, smallest_batch(self.train))
        steps = (self.stage.epochs - config.arch_start_epoch) * self.steps if self.choices.relaxation.learns else 0
        self._foreseen = foresee(config.arch_lr, steps // config.arch_every, self.stage.space, images.labels, levels)
        if config.one_level and not config.held_out:
            self._foreseen.append(ON_TRAINING)

    @property
    def epochs(self) -> int:
        """Epochs of the run as far as they are known."""
        return self.stage.end + self.stage.after if self._ended is None else self._ended

    def check_extension(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on beyond the end of a search whose end is not its number of epochs.

        Raises:
            UserError: for a search in stages, and one that a guard ended.
        """
        state = checkpoint.state["job"]
        stage = Stage.from_json(state["stage"])
        if self.choices.first is not None or stage.index:
            raise UserError(
                f"{self.config.method} searches in stages, which more epochs would part anew", "a new search"
            )
        if state["ended"] is None or state["ended"] < stage.end:
            raise UserError("the search was ended by its guard, not by its number of epochs", "a new search")

    def run(
        self,
        folder: RunFolder,
        progress: Progress,
        checkpoint: Checkpoint | None = None,
        extension: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """Search to the end, write the result, and return it."""
        with stoppable(folder.path):
            with reproducible(self.device, self.config.threads):
                self.folder, self.progress = folder, progress
                self._connect()
                for line in self._foreseen if checkpoint is None else ():
                    progress.note(line)
                every = self.config.save_every
                run_job(self, folder, progress=progress, checkpoint=checkpoint, extension=extension, save_every=every)
                result = self._result(folder)
                folder.hparams(self.config.to_json(), ("valid_accuracy", "test_accuracy"))
            folder.write_json("genotype.json", result.genotype.to_json())
            folder.write_text("genotype.txt", result.genotype.text() + "\n")
            folder.write_result(result.to_json())
        return result

    def rehearse(self) -> None:
        """Make ready for steps outside of a run, which measure what one takes; this job cannot run afterwards."""
        self.progress = Progress()
        self._connect()

    def begin_epoch(self, epoch: int) -> None:
        at = epoch - self.stage.start
        self.lr = learning_rate(self.config, at, self.stage.epochs)
        self.step_both.set_lr(self.lr)
        self._set_rates(rates(self.config, self.choices.skip_dropout, self.stage, at))
        self.model.train()

    def step(self, epoch: int, position: int) -> dict[str, Tensor]:
        draws = self.stepper.draw()
        at = epoch - self.stage.start
        progress = (at * self.steps + position) / (self.stage.epochs * self.steps)
        if position == 0 and epoch in self.config.check_hypergradient:
            self._check(epoch, *self.stepper.batches(draws), progress)
        if self.config.lr_by_step:
            self.lr = learning_rate(self.config, at, self.stage.epochs, position / self.steps)
            self.step_both.set_lr(self.lr)
        alphas = self.choices.relaxation.learns and at >= self.config.arch_start_epoch
        alphas = alphas and (position + 1) % self.config.arch_every == 0
        return self.stepper(draws, progress, alphas=alphas)

    def end_epoch(self, epoch: int, step: int, means: Mapping[str, float], folder: RunFolder) -> dict[str, Any]:
        mixing, genotype = self._derived()
        epoch_file = self._epoch_file(epoch, genotype, mixing)
        # From here to the result nothing asks the device: a GPU evaluates while the host writes and counts.
        self.evaluation.start()
        folder.write_json(f"epochs/{epoch:04d}.json", epoch_file)
        for key, rows in epoch_file["alphas"].items():
            folder.histogram(f"alphas/{key}", _offered(rows, epoch_file["edges"][key]), step)
        figures = self._figures(mixing, genotype)
        valid_loss, valid_accuracy = self.evaluation.result()
        record = dict(means) | {
            "valid_loss": valid_loss,
            "valid_accuracy": valid_accuracy,
            "lr": self.lr,
            "stage": self.stage.index,
            "stage_epoch": epoch - self.stage.start,
            **figures,
        }
        end = EpochEnd(epoch, self.stage, self.model, genotype, mixing, record, self.progress.note)
        if isinstance(self._guarded(end), Rewire):
            # What a guard decides after an epoch belongs to that epoch's genotype.
            mixing, genotype = self._derived()
            record |= self._figures(mixing, genotype)
            folder.write_json(f"epochs/{epoch:04d}.json", self._epoch_file(epoch, genotype, mixing))
        return record

    def _derived(self) -> tuple[Mixing, Genotype]:
        mixing = self.choices.relaxation.still(self.model)
        return mixing, self.choices.derivation(self.stage.space, mixing, self.stage.layers)

    def _figures(self, mixing: Mixing, genotype: Genotype) -> dict[str, Any]:
        cost = self.step_both.cost
        told = {} if cost is None else cost.told(self.stage.space, mixing["weights"], genotype, self.stage.layers)
        return told | {
            "skips": {key: genotype.skips(key) for key in genotype.cells},
            "entropy": {key: entropy(value) for key, value in mixing["weights"].items()},
            "parameters": count_parameters(genotype, self.config.channels, self.stage.layers, *self.ends),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage.to_json(),
            "ended": self._ended,
            "weight_decay": self.weight_decay,
            **self._learnt(),
            "batch_size": self.train.batch_size,
            "train": self.train.state_dict(),
            "valid": self.valid.state_dict(),
            "guards": [guard.state_dict() for guard in self.choices.guards],
            "snapshots": self.snapshots.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A search whose batches grow was saved with theirs.
        if state.get("batch_size", self.train.batch_size) != self.train.batch_size:
            self._resize(state["batch_size"])
        # First, since other data are refused here in words that a person understands.
        self.train.load_state_dict(state["train"])
        self.valid.load_state_dict(state["valid"])
        self._ended, self.weight_decay = state["ended"], state["weight_decay"]
        for guard, own in zip(self.choices.guards, state["guards"], strict=True):
            guard.load_state_dict(own)
        self.snapshots.load_state_dict(state["snapshots"])
        stage = Stage.from_json(state["stage"])
        if not stage.index and stage.epochs < self.config.epochs and self.choices.first is None:
            # The run is extended: its end is further off, and its schedules run over more epochs.
            stage, self._ended = replace(stage, epochs=self.config.epochs), None
        self._build(stage)
        self._learn(state)
        self._connect()

    def _build(self, stage: Stage) -> None:
        """The stage's supernet and optimisers, drawn from torch's generator."""
        config, self.stage = self.config, stage
        check_cells(stage.space, stage.layers)
        self.model = build_supernet(config, stage, *self.ends, stacked=self.stacked)
        self.model.to(self.device)
        self.step_both = new_step(config, self.device, self.model, self.choices)
        self.step_both.set_weight_decay(self.weight_decay)
        height, width = self.train.images.images.shape[-2:]
        self.step_both.cost = None if config.cost == "none" else Cost(self.model, config, (height, width))

    def _connect(self) -> None:
        """Make what runs steps and evaluations; what was recorded before is dropped."""
        recorder = new_recorder(self.device, self.step_both, self.progress.note)
        valid = None if self.config.one_level else self.valid
        self.stepper = Stepper(self.step_both, self.train, valid, recorder)
        self.evaluation = Evaluation(
            self.model, self.valid, recorder, self.choices.relaxation.evaluated, self.config.batch_statistics
        )

    def _set_rates(self, now: Rates) -> None:
        for batches in (self.train, self.valid):
            batches.cutout_prob = now.cutout
        model = self.model
        if (model.drop_path_prob, model.skip_dropout) != (now.drop_path, now.skip_dropout):
            model.drop_path_prob, model.skip_dropout = now.drop_path, now.skip_dropout
            # A recorded step holds the numbers that it was recorded with.
            self._connect()

    def _learnt(self) -> dict[str, Any]:
        return {"model": dict(self.model.state_dict()), **self.step_both.state_dict()}

    def _learn(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"], strict=True)
        self.step_both.load_state_dict(state)
        self.step_both.set_weight_decay(self.weight_decay)

    def _guarded(self, end: EpochEnd) -> Action | None:
        """What the guards want after the epoch, which is done, and put into its record."""
        every, record = self.config.eigenvalue_every, end.record
        if every and (end.stage_epoch % every == 0 or end.last):
            batch = next(iter(self.valid.once()))
            record |= measure(self.model, self.choices.relaxation, batch, self.config)
        if any(guard.memory and guard.keeps(end.stage_epoch) for guard in self.choices.guards):
            self.snapshots.keep(end.epoch, end.stage_epoch, self._learnt())
        actions = [(guard, guard.after_epoch(end)) for guard in self.choices.guards]
        guard, action = next(((guard, action) for guard, action in actions if action is not None), (None, None))
        if action is not None:
            entry: dict[str, Any] = {
                "guard": type(guard).__name__,
                "action": type(action).__name__.lower(),
                "why": action.why,
            }
            if isinstance(action, Rollback):
                entry |= {"epoch": action.epoch, "settings": dict(action.settings)}
            record["guard"] = entry
            self.progress.note(f"epoch {end.epoch + 1}: {action.why}")
        self._act(action, end)
        return action

    def _act(self, action: Action | None, end: EpochEnd) -> None:
        if isinstance(action, Begin):
            self.snapshots.clear()
            self._build(replace(action.stage, start=end.epoch + 1))
        elif isinstance(action, Rollback):
            stage_epoch, before = self.snapshots.back_to(action.epoch)
            self.weight_decay = action.settings.get("weight_decay", self.weight_decay)
            # Not by the difference of the run's epochs, which hold the repetitions of earlier rollbacks too.
            self.stage = replace(self.stage, start=end.epoch - stage_epoch)
            self._learn(before)
            for guard in self.choices.guards:
                guard.rolled_back(action.epoch)
        elif isinstance(action, Stop) or end.last:
            self._ended = end.epoch + 1
        if isinstance(action, Rewire) and action.larger_batch:
            self._resize(self.train.batch_size + action.larger_batch)
        if isinstance(action, (Begin, Rollback, Rewire)):
            self._connect()

    def _resize(self, batch_size: int) -> None:
        """Batches of another size, of no more images than a level has."""
        most = min(len(level.indices) for level in (self.train, self.valid))
        for level in (self.train, self.valid):
            level.resize(min(batch_size, most))
        self.steps = len(self.train)

    def _result(self, folder: RunFolder) -> SearchResult:
        records = [record for record in folder.metrics() if record["kind"] == "epoch"]
        check_losses(records[-1], folder.path, worst=WORST)
        answers = [guard.answer() for guard in self.choices.guards]
        answer = next((epoch for epoch in answers if epoch is not None), records[-1]["epoch"])
        record = next(each for each in records if each["epoch"] == answer)
        relaxation, note = self.choices.relaxation, self.progress.note
        finished = Finished(self.model, relaxation, self.valid.once, self.config.seed, note)
        others = self.choices.derivation.others(finished)
        final = self._selected(finished)
        if others:
            folder.write_json("others.json", {name: each.to_json() for name, each in others.items()})
            note(f"others.json has {len(others)} more genotypes: {', '.join(others)}")
        return SearchResult(
            final or Genotype.from_json(folder.read_json(f"epochs/{answer:04d}.json")["genotype"]),
            record["valid_loss"],
            record["valid_accuracy"],
            answer,
            self.epochs,
            records[-1]["elapsed_s"],
            folder.path,
        )

    def _selected(self, finished: Finished) -> Genotype | None:
        config = self.config
        if config.select == "perturbation":
            with stop_on_signal() as stop:
                path = self.folder.path
                return project(self, config.select_tune_epochs, config.seed, finished.note, lambda: stop.check(path))
        chosen = SharedWeights(1000, 10, 10) if config.select == "sampled" else self.choices.derivation
        return chosen.final(finished)

    def _check(self, epoch: int, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], progress: float) -> None:
        values = dict(vars(self.step_both.check(train, valid, progress)))
        record = {"kind": "hypergradient", "epoch": epoch, "step": epoch * self.steps}
        self.folder.log(record | {"method_kind": values.pop("kind")} | values)

    def _epoch_file(self, epoch: int, genotype: Genotype, mixing: Mapping[str, Any]) -> dict[str, Any]:
        def listed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
            return {key: value.detach().cpu().tolist() for key, value in tensors.items()}

        edges = {
            key: [
                {"source": edge.source, "node": edge.node, "primitives": list(edge.primitives)}
                for edge in self.stage.space.cell(key, self.stage.layers).edges
            ]
            for key in mixing["weights"]
        }
        edge_weights = mixing.get("edge_weights")
        return {
            "epoch": epoch,
            "genotype": genotype.to_json(),
            "text": genotype.text(),
            "alphas": listed(dict(self.model.arch.alphas.items())),
            "weights": listed(mixing["weights"]),
            "edge_weights": listed(edge_weights) if edge_weights is not None else None,
            "edges": edges,
        }


def _offered(rows: Sequence[Sequence[float]], edges: Sequence[Mapping[str, Any]]) -> list[float]:
    """The alphas that stand for a candidate; rows are padded to the widest edge."""
    return [value for row, edge in zip(rows, edges, strict=True) for value in row[: len(edge["primitives"])]]
