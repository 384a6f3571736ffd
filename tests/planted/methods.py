"""Faults of what tells one search method from another: relaxations, perturbations, guards, derivations."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "relaxation",
        "fastdarts/reference/relaxation.py",
        "relaxation, reference, sampling",
        (
            "edge weights over all edges, not a node's",
            "torch.cat([node.softmax(dim=-1) for node in betas.split(list(counts))])",
            "betas.softmax(dim=-1)",
        ),
        (
            "padding takes part in the softmax",
            "alphas.masked_fill(~present, -torch.inf)",
            "alphas.masked_fill(~present, 0.0)",
        ),
        ("Gumbel noise upside down", "return -exponential.", "return exponential."),
        ("no temperature", "+ noise) / temperature)", "+ noise))"),
        (
            "the temperature on the alphas only",
            "(_masked(alphas, present) + noise) / temperature",
            "_masked(alphas, present) / temperature + noise",
        ),
        ("no gradient straight through", "return hard + (soft - soft.detach())", "return hard"),
        (
            "the gradient of the drawn operator's weight only",
            "return hard + (soft - soft.detach())",
            "return hard * (1 + soft - soft.detach())",
        ),
    ),
    *of(
        "sampling",
        "fastdarts/search/sampling.py",
        "sampling, sampling_steps",
        (
            "one noise for all passes",
            "torch.empty_like(like).exponential_()",
            "torch.empty_like(like).exponential_(generator=torch.Generator().manual_seed(0))",
        ),
        (
            "GDAS: every operator runs",
            'model.edge_weights(), "active": _active(index, model)}\n\n    def temperature',
            "model.edge_weights()}\n\n    def temperature",
        ),
        (
            "ProxylessNAS: the first draw is the gate",
            "gate = (two + _noise(two)).argmax(-1, keepdim=True)",
            "gate = torch.zeros_like(index[key][:, :1])",
        ),
        ("random search: one architecture", "self._seeds[self._epoch], layers", "self._seeds[0], layers"),
        ("random search: the search's seed for all", "seed = int(torch.randint(2**62, ()))", "seed = 0"),
        ("an epoch late where rounding is below", "exact = progress * epochs + 1e-6", "exact = progress * epochs"),
    ),
    *of(
        "I-DARTS",
        "fastdarts/search/relaxation.py",
        "relaxation",
        (
            "nodes of two edges each",
            "counts = [len(cell.into(node)) for node in cell.states]",
            "counts = [len(cell.edges)]",
        ),
    ),
    *of(
        "perturbation",
        "fastdarts/search/perturbation.py",
        "perturbation",
        ("the radius an epoch ahead", "* epoch / self.epochs", "* (epoch + 1) / self.epochs"),
        ("not rescaled to a distribution", "return rows / rows.sum(1, keepdim=True)", "return rows"),
        ("negative weights", "clipped = values.clamp(0.0, 1.0)", "clipped = values.clamp(max=1.0)"),
        ("noise on what is no candidate", "values = values.masked_fill(~present, -torch.inf)", "pass"),
        ("taken although it is better for the loss", "torch.where(fell, rows, weights[key])", "weights[key]"),
        (
            "leaves evaluation mode",
            "            weight.requires_grad_(True)\n        model.train(training)",
            "            weight.requires_grad_(True)",
        ),
    ),
    *of(
        "rise of the eigenvalue",
        "fastdarts/search/early_stopping.py",
        "adaptive_decay, early_stopping",
        ("snapshots where nothing is measured", "stage_epoch % self.every == 0 and stage_epoch >=", "stage_epoch >="),
    ),
    *of(
        "curvature",
        "fastdarts/search/curvature.py",
        "curvature",
        (
            "without the alphas' decay",
            "return Curvature(value + weight_decay, how, entries.size, entries.size)",
            "return Curvature(value, how, entries.size, entries.size)",
        ),
        ("the smallest eigenvalue", "(matrix + matrix.T) / 2)[-1])", "(matrix + matrix.T) / 2)[0])"),
        ("in the mode it found", "        model.train()\n        for weight", "        for weight"),
    ),
    *of(
        "stopping",
        "fastdarts/search/stopping.py",
        "stopping",
        ("DARTS+: more than so many skips", "if found >= self.skips:", "if found > self.skips:"),
        ("DARTS+: reduction cells too", 'if kind == "normal"]', "]"),
        ("DARTS+: pools in the ranking", "if not PRIMITIVES[name].parameter_free]", "]"),
        ("a run across stages", "(self._seen, self._stage) == (seen, stage)", "self._seen == seen"),
        ("a restart without time to learn", "left < self.arch_start_epoch + self.epochs:", "left < self.epochs:"),
        (
            "a restart by the order of inputs",
            "[sorted(node) for node in cell.nodes]",
            "[list(node) for node in cell.nodes]",
        ),
        (
            "the last attempt wins",
            "return max(sorted(self._ends.values()), key=lambda each: each[1])[0]",
            "return max(self._ends.values())[0]",
        ),
        (
            "the later of equal attempts",
            "max(sorted(self._ends.values()), key",
            "max(sorted(self._ends.values())[::-1], key",
        ),
    ),
    *of(
        "SGAS",
        "fastdarts/search/greedy.py",
        "greedy",
        ("a node keeps one edge more", "for each in siblings) >= keep:", "for each in siblings) > keep:"),
        ("uncertainty", "certainty = 1.0 - torch", "certainty = torch"),
        ("none may be decided", 'if name != "none"), key=lambda k: row[k])', "), key=lambda k: row[k])"),
        (
            "decisions not saved",
            'self.decisions.chosen = {key: [int(edge) for edge in chosen] for key, chosen in state["chosen"].items()}',
            "pass",
        ),
        (
            "stability of the present",
            "self._past[key] = [*self._past.get(key, []), rows][-self.history :]",
            "self._past[key] = [rows]",
        ),
        ("the past not saved", 'self._past = {key: list(past) for key, past in state["past"].items()}', "pass"),
        ("decided rows not saved", 'self._frozen = dict(state["frozen"])', "pass"),
        ("a decided edge's row moves", "self._frozen[key] = frozen", "self._frozen[key] = rows"),
    ),
    *of(
        "P-DARTS",
        "fastdarts/search/progressive.py",
        "progressive",
        ("one skip less than allowed", "if len(kept) <= limit or", "if len(kept) < limit or"),
        ("the strongest skip goes", "edge, column = min(present", "edge, column = max(present"),
        ("dropout decays from the start", "-self.decay * (epoch - self.wait))", "-self.decay * epoch)"),
    ),
    *of(
        "pruning",
        "fastdarts/spaces/_prune.py",
        "prune",
        ("the later of equals goes", "(-row[column], -column)", "(-row[column], column)"),
        ("none alone", 'if all(names[column] == "none" for column in kept):', "if not kept:"),
    ),
    *of(
        "collapse",
        "fastdarts/search/collapse.py",
        "collapse",
        ("more skips than", "sum(distribution[count:])", "sum(distribution[count + 1 :])"),
        ("told every epoch", 'self._told.append(alarm["kind"])', "pass"),
    ),
    *of(
        "selection",
        "fastdarts/search/selection.py",
        "selection",
        ("the worst", "chosen = min(last, key=last.__getitem__)", "chosen = max(last, key=last.__getitem__)"),
        ("the first round decides", "chosen = min(last, key=last.__getitem__)", "chosen = best[0]"),
        (
            "finalists on the few batches",
            "_merit(model, genotype, finished.valid()) for",
            "_merit(model, genotype, few) for",
        ),
        ("in training mode", "        model.eval()\n        first = {}", "        first = {}"),
        ("leaves evaluation mode", "        model.train(training)\n", ""),
    ),
    *of(
        "derivation",
        "fastdarts/spaces/_derive.py",
        "spaces_derive",
        (
            "none counts among the strongest",
            'best[edge] = max((k for k, name in enumerate(names) if name != "none"), key',
            "best[edge] = max(range(len(names)), key",
        ),
        (
            "edge weights forgotten",
            "if edge_weights is not None:\n            rows",
            "if edge_weights is None and rows is None:\n            rows",
        ),
        (
            "the later of equal edges",
            "sorted(best, key=lambda edge: -rows[edge][best[edge]])[:keep]",
            "sorted(reversed(best), key=lambda edge: -rows[edge][best[edge]])[:keep]",
        ),
    ),
    *of(
        "random genotype",
        "fastdarts/spaces/_sample.py",
        "spaces_derive",
        (
            "none is drawn",
            "pairs.append((edge.choices[choice], edge.source))",
            "pairs.append((edge.primitives[choice], edge.source))",
        ),
        (
            "both cells from one number",
            "number, here = divmod(number, cell.size(space.keep))",
            "_, here = divmod(number, cell.size(space.keep))",
        ),
    ),
]
