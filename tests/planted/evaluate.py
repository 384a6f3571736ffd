"""Faults of the evaluation: training from scratch, comparisons, statistics."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "statistics",
        "fastdarts/evaluate/paired.py",
        "compare_methods",
        (
            "Holm without the maximum",
            "highest = max(highest, min(1.0, (len(chances) - place) * _p(chances[i])))",
            "highest = min(1.0, (len(chances) - place) * _p(chances[i]))",
        ),
        ("Bonferroni for Holm", "(len(chances) - place) * _p", "len(chances) * _p"),
        ("n degrees of freedom", "stats.t.sf(abs(t), len(differences) - 1))", "stats.t.sf(abs(t), len(differences)))"),
        ("a one-sided t-test", "float(2 * stats.t.sf(", "float(stats.t.sf("),
        (
            "ties ranked as they come",
            "stats.rankdata(np.round(np.abs(nonzero), 12))",
            'stats.rankdata(np.round(np.abs(nonzero), 12), "ordinal")',
        ),
        ("zeros are ranked", "nonzero = [each for each in differences if each]", "nonzero = list(differences)"),
        (
            "a bootstrap without replacement",
            "integers(len(numbers), size=(resamples, len(numbers)))",
            "permuted(np.tile(np.arange(len(numbers)), (resamples, 1)), axis=1)",
        ),
        ("baseline minus own", "differences = [a - b for a, b", "differences = [b - a for a, b"),
        ("unpaired", "for a, b in zip(own, base, strict=True)]", "for a, b in zip(own, sorted(base), strict=True)]"),
    ),
    *of(
        "intervals",
        "fastdarts/report/intervals.py",
        "report_honesty, compare_methods",
        ("Wilson without its half", "square / 2) /", "square) /"),
        (
            "Wald for Wilson",
            "half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)",
            "half = _Z * math.sqrt(share * (1 - share) / count)",
        ),
        ("a deviation over n", "max(len(values) - 1, 1)", "len(values)"),
        ("no delta", "* error / (mean * (1 - mean))", "* error"),
        ("normal for Student's t", "float(stats.t.ppf(0.975, count - 1)) * error", "_Z * error"),
    ),
    *of(
        "page",
        "fastdarts/report/page.py",
        "report_templates",
        ("what is shown is not escaped", "autoescape=True", "autoescape=False"),
        ("a fact that was not given is an empty place", "        undefined=StrictUndefined,\n", ""),
        ("the same through a filter", "            str(value)\n", "            pass\n"),
    ),
    *of(
        "comparison",
        "fastdarts/evaluate/compare.py",
        "evaluate",
        ("ties beat", "sum(each > chosen", "sum(each >= chosen"),
    ),
    *of(
        "training",
        "fastdarts/evaluate/retrain.py",
        "evaluate",
        ("the auxiliary loss's sign", "loss + self.config.auxiliary *", "loss - self.config.auxiliary *"),
        ("the auxiliary loss in the record", '"train_loss": loss.detach()', '"train_loss": total.detach()'),
        (
            "drop-path an epoch ahead",
            "config.drop_path * epoch / self.epochs",
            "config.drop_path * (epoch + 1) / self.epochs",
        ),
        ("the learning rate stays", '            group["lr"] = self.lr\n', "            pass\n"),
        (
            "tested on training images",
            "                    self.test_set,\n",
            "                    self.train.images,\n",
        ),
        ("the auxiliary head's parameters count", 'if "auxiliary" not in name)', 'if "aux_" not in name)'),
    ),
    *of(
        "methods",
        "fastdarts/evaluate/methods.py",
        "compare_methods, divergence",
        (
            "one random network for all seeds",
            "return random_genotype(self.space, seed, layers=self.layers)",
            "return random_genotype(self.space, self.seeds[0], layers=self.layers)",
        ),
    ),
    *of(
        "several searches",
        "fastdarts/evaluate/searches.py",
        "searches",
        (
            "chosen by the supernet",
            'key=lambda name: entries[name]["valid_accuracy"])',
            'key=lambda name: entries[name]["supernet_accuracy"])',
        ),
        (
            "chosen by the test set",
            "        self.levels = _levels(images, self.first)\n",
            "        self.levels = load_images(self.first.data, self.first.data_root)\n",
        ),
    ),
    *of(
        "regret",
        "fastdarts/evaluate/regret.py",
        "tabulate",
        ("a seed's noise over n", "/ (count - 1) for net", "/ count for net"),
    ),
]
