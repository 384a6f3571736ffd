"""Faults of the loop that every search shares: steps, schedules, the job, what a resumption puts back."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "step",
        "fastdarts/search/step.py",
        "search_step",
        ("alphas learn from the training batch", 'lambda: loss("valid", valid)}', 'lambda: loss("valid", train)}'),
        (
            "the hypergradient forgets the auxiliary loss",
            'return self._with_auxiliary(value, batch[1]) if level == "train" else value',
            "return value",
        ),
        ("the auxiliary loss's sign", "loss + self.config.auxiliary *", "loss - self.config.auxiliary *"),
        (
            "the unrolled step at the first learning rate",
            '"lr": self.weight_optimizer.param_groups[0]["lr"],',
            '"lr": config.lr,',
        ),
        (
            "the unrolled step at the first weight decay",
            '"weight_decay": self.weight_optimizer.param_groups[0]["weight_decay"],',
            '"weight_decay": config.weight_decay,',
        ),
        (
            "gradients clipped after the step",
            "    if grad_clip:\n        torch.nn.utils.clip_grad_norm_(weights, grad_clip)\n    optimizer.step()",
            "    optimizer.step()\n    if grad_clip:\n        torch.nn.utils.clip_grad_norm_(weights, grad_clip)",
        ),
        (
            "alphas' gradients add up",
            "            alpha.grad = None\n",
            "            self.alphas[0].grad = None\n",
        ),
        ("weights before alphas", "values = self.weight_step(train, progress) if self", "values = {} if self"),
    ),
    *of(
        "step",
        "fastdarts/search/step.py",
        "perturbation, sampling_steps",
        ("no perturbation", "if self.perturbation is not None:", "if self.perturbation is None:"),
        ("the correction after an update left out", "        self.relaxation.learned(self.model)\n", ""),
    ),
    *of(
        "step",
        "fastdarts/search/step.py",
        "search_unattended::test_long_gradients_of_the_alphas_are_clipped_and_short_ones_are_not",
        ("alphas not clipped", "if self.config.arch_grad_clip:", "if False:"),
    ),
    *of(
        "unattended step",
        "fastdarts/search/_unattended.py",
        "search_unattended",
        ("no momentum in the unrolled step", "if step.config.momentum:", "if False:"),
        ("Adam's moments not taken over", "        self.adam.adopt()\n", ""),
        ("momentum not taken over", "        self.sgd.adopt()\n", ""),
        ("Adam's moments not saved", "        self.adam.publish()\n", ""),
    ),
    *of(
        "evaluation",
        "fastdarts/search/stepper.py",
        "search_graph::test_the_evaluation_is_that_of_the_library_function, search_loop::test_it_learns",
        (
            "with the batch's statistics",
            "    training = model.training\n    model.eval()\n    yield",
            "    training = model.training\n    yield",
        ),
        ("leaves evaluation mode", "    yield\n    model.train(training)\n\n\n@context", "    yield\n\n\n@context"),
        (
            "a mean of batches, not of images",
            "loss / count, correct / count",
            "loss / count, correct / self._batches.batch_size",
        ),
    ),
    *of(
        "schedule",
        "fastdarts/search/schedule.py",
        "search_config",
        ("cosine one epoch ahead", "math.cos(math.pi * epoch / epochs)", "math.cos(math.pi * (epoch + 1) / epochs)"),
        ("warm-up from 0", "config.lr * (epoch + 1) / config", "config.lr * epoch / config"),
        ("the ramp does not arrive", "epoch / max(stage.epochs - 1, 1) if", "epoch / stage.epochs if"),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "search_loop::test_alphas_wait_until_their_epoch",
        ("alphas wait an epoch too long", "at >= self.config.arch_start_epoch", "at > self.config.arch_start_epoch"),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "progressive::test_a_search_shrinks_and_deepens_on_fresh_models",
        ("a stage's schedules run on", "at = epoch - self.stage.start\n        self.lr", "at = epoch\n        self.lr"),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "search_loop::test_a_space_of_ones_own_survives_resumption",
        ("the second level's order is not put back", '        self.valid.load_state_dict(state["valid"])\n', ""),
        ("the first level's order is not put back", '        self.train.load_state_dict(state["train"])\n', ""),
        ("the optimisers' states are not put back", "        self.step_both.load_state_dict(state)\n", ""),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "early_stopping::test_a_kill_around_the_rollbacks_changes_nothing",
        ("the guards' states are not put back", "guard.load_state_dict(own)", "pass"),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "early_stopping::test_a_search_stops_and_answers_with_an_earlier_genotype",
        ("the guard's answer is ignored", "if epoch is not None), records", "if epoch == -1), records"),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "early_stopping::test_a_rollback_brings_back_everything_learnt",
        (
            "a rollback without its weight decay",
            'action.settings.get("weight_decay", self.weight_decay)',
            "self.weight_decay",
        ),
        ("a rollback of which guards hear nothing", "guard.rolled_back(action.epoch)", "pass"),
        (
            "a rollback of the numbers only, not of the stage",
            "replace(self.stage, start=end.epoch - stage_epoch)",
            "self.stage",
        ),
    ),
    *of(
        "job",
        "fastdarts/search/job.py",
        "search_loop::test_levels_have_their_own_images_and_draws_and_one_level_has_all",
        ("both levels draw alike", "seed=config.seed * 2 + stream,", "seed=config.seed,"),
    ),
    *of(
        "levels",
        "fastdarts/search/levels.py",
        "search_loop::test_levels_have_their_own_images_and_draws_and_one_level_has_all",
        (
            "one level leaves out the other's images",
            "if config.one_level and not config.held_out:\n        weight",
            "if config.held_out:\n        weight",
        ),
    ),
    *of(
        "runner",
        "fastdarts/search/runner.py",
        "stopping::test_a_stuck_search_begins_anew_and_resumes_in_its_second_stage, search_presets::test_a_regularised_search_resumes_bit_for_bit",
        ("generators are not put back", '        restore_generators({}, state["generators"])\n', ""),
    ),
    *of(
        "runner",
        "fastdarts/search/runner.py",
        "search_loop::test_a_space_of_ones_own_survives_resumption",
        (
            "an epoch's sums begin anew",
            "setattr(self, name, state[name])",
            'setattr(self, name, {} if name == "sums" else state[name])',
        ),
    ),
    *of(
        "runner",
        "fastdarts/search/runner.py",
        "search_loop::test_the_checkpoint_before_gives_the_same_end",
        ("records of a lost epoch stay", "    folder.rewind(checkpoint)\n", ""),
    ),
    *of(
        "runner",
        "fastdarts/search/runner.py",
        "search_loop::test_it_learns, search_runner",
        (
            "means of the epochs so far",
            "self.position, self.sums, self.step_seconds = self.epoch + 1, 0, {}, 0.0",
            "self.position, self.step_seconds = self.epoch + 1, 0, 0.0",
        ),
    ),
    *of(
        "runner",
        "fastdarts/search/runner.py",
        "search_loop::test_checkpoints_are_saved_every_so_many_epochs_at_the_end_and_when_asked_to_stop",
        ("no checkpoint at the end", "or at.epoch == job.epochs or stop.requested", "or stop.requested"),
        (
            "an interrupt is not saved",
            "            save()\n            raise Interrupted",
            "            raise Interrupted",
        ),
    ),
    *of(
        "environment",
        "fastdarts/search/environment.py",
        "environment::test_every_generator_is_seeded",
        ("Python's generator unseeded", "    random.seed(seed)\n", ""),
        ("numpy's generator unseeded", "    numpy.random.seed(seed % 2**32)\n", ""),
        ("torch's generator unseeded", "    torch.manual_seed(seed)\n", ""),
    ),
    *of(
        "environment",
        "fastdarts/search/environment.py",
        "search_loop::test_the_configured_threads_are_used_and_given_back",
        ("threads stay as the run had them", "        torch.set_num_threads(before[0])\n", ""),
    ),
    *of(
        "extension",
        "fastdarts/search/extension.py",
        "extension::test_an_extended_search_goes_on_where_it_ended_and_keeps_that_end",
        ("the old result stays beside the new end", "        os.unlink(path)\n", ""),
    ),
]
