"""Faults of the layers: what is known as built, edits, hooks, statistics, networks."""

from __future__ import annotations

from planted.mutant import Mutant, of

KNOWN, WATCH, ENGINE = (f"fastdarts/nn/{name}.py" for name in ("known", "watch", "fused"))


def edit(name: str) -> str:
    """The test of one edit, which is made after the network has run."""
    return f"nn_edits::test_each_edit_alone[{name}]"


MUTANTS: list[Mutant] = [
    *of(
        "known",
        KNOWN,
        edit("forward_hook on the first convolution"),
        ("hooks not looked for", "return not any(own[name] for name in HOOKS) and own", "return own"),
    ),
    *of(
        "known",
        KNOWN,
        edit("first convolution patched"),
        ("a forward of one module's own", " and own.keys().isdisjoint(_methods(kind))", ""),
    ),
    *of(
        "known",
        KNOWN,
        edit("global hook"),
        (
            "global hooks not looked for",
            "if hooks and not all(map(_sees_owners_only, hooks.values())):",
            "if hooks is None:",
        ),
    ),
    *of(
        "known",
        KNOWN,
        "nn_own_operations",
        (
            "torch's functions replaced",
            'return "" if _arithmetic() == _OWN else "torch\'s functions are replaced"',
            'return ""',
        ),
    ),
    *of(
        "known",
        KNOWN,
        "nn_own_operations",
        ("a ReLU of a subclass", "if type(module) is not nn.ReLU:", "if not isinstance(module, nn.ReLU):"),
    ),
    *of(
        "known",
        KNOWN,
        "nn_own_operations",
        ("a ReLU in place", "    if module.inplace:\n", "    if module is None:\n"),
    ),
    *of(
        "known",
        KNOWN,
        edit("first batch norm affine"),
        ("a batch norm with weights", 'is not None for name in ("weight", "bias")):', "is not None for name in ()):"),
    ),
    *of(
        "known",
        KNOWN,
        "nn_own_operations",
        (
            "a batch norm without statistics",
            "if mean is None or any(each is None for each in statistics) or len(mean) != channels:",
            "if mean is not None and len(mean) != channels:",
        ),
    ),
    *of(
        "known",
        KNOWN,
        edit("first convolution with bias"),
        ("a convolution with a bias", 'or conv._parameters.get("bias", weight) is not None', ""),
    ),
    *of(
        "known",
        KNOWN,
        edit("pool counts its padding"),
        (
            "a pool that counts the border",
            "if any(getattr(pool, name) != expected[name] for name in ATTRIBUTES[type(pool)]):",
            "if pool.kernel_size != 3:",
        ),
    ),
    *of(
        "known",
        KNOWN,
        "nn_own_operations::test_a_subclass_of_a_candidate_is_called_as_what_it_is",
        (
            "a candidate of a subclass",
            "if kind is SepConv or kind is DilConv:",
            "if isinstance(module, (SepConv, DilConv)):",
        ),
    ),
    *of(
        "watch",
        WATCH,
        edit("forward_hook on the first convolution"),
        ("hooks added later", "and not any(any(map(hooks, own)) for hooks in _HOOKS)", ""),
    ),
    *of(
        "watch",
        WATCH,
        edit("first ReLU to SiLU"),
        ("layers exchanged later", "and self._present() == self._children", ""),
    ),
    *of(
        "watch",
        WATCH,
        edit("depthwise more dilated"),
        (
            "attributes changed later",
            "and [list(map(read, each)) for each, read in self._attributes] == self._expected",
            "",
        ),
    ),
    *of(
        "watch",
        WATCH,
        edit("first convolution with bias"),
        ("a bias added later", "all(each is None for each in chain(biases, affine)) and", ""),
    ),
    *of(
        "watch",
        WATCH,
        edit("first batch norm momentum"),
        ("batch norms that differ later", "and (not self._norms or self.settings is not None)", ""),
    ),
    *of(
        "watch",
        WATCH,
        edit("first convolution patched"),
        ("an attribute of its own later", "and list(map(len, own)) == self._sizes", ""),
    ),
    *of(
        "survey",
        "fastdarts/nn/survey.py",
        edit("first batch norm momentum"),
        (
            "batch norms of unlike momentum",
            "if any(Settings.of(norm) != settings for norm in _norms(found)):",
            "if settings is None and found is None:",
        ),
    ),
    *of(
        "statistics",
        "fastdarts/nn/statistics.py",
        "nn_edits::test_untouched",
        (
            "a biased variance",
            "(mean, var), (1.0, count / (count - 1)), strict=False)",
            "(mean, var), (1.0, 1.0), strict=False)",
        ),
        ("batches counted twice", "torch._foreach_add_(running[2], 1)", "torch._foreach_add_(running[2], 2)"),
    ),
    *of(
        "statistics",
        "fastdarts/nn/statistics.py",
        "nn_fused::test_one_path",
        ("all rows counted", "torch.zeros_like(tracked).index_fill_(0, rows, 1)", "torch.ones_like(tracked)"),
    ),
    *of(
        "statistics",
        "fastdarts/nn/statistics.py",
        "nn_fused::test_statistics_follow_the_norms_settings",
        (
            "a momentum of none is 0.1",
            "1.0 / torch.stack(running[2]).double().unsqueeze(-1) if momentum is None",
            "0.1 if momentum is None",
        ),
    ),
    *of(
        "engine",
        ENGINE,
        "nn_fused::test_statistics_follow_the_norms_settings",
        (
            "statistics moved twice",
            "            if settings is not None and settings.training and settings.track:\n                batch",
            "            for _ in range(2 * (settings is not None and settings.training and settings.track)):\n                batch",
        ),
        ("the usual eps", "eps=1e-5 if settings is None else settings.eps", "eps=1e-5"),
        ("preprocessing with the usual eps", "var=var, eps=settings.eps)", "var=var, eps=1e-5)"),
    ),
    *of(
        "engine",
        ENGINE,
        "nn_edits::test_untouched, nn_stack, nn_cell, nn_supernet",
        (
            "statistics moved in evaluation",
            "settings.training and settings.track:\n                batch",
            "settings.track:\n                batch",
        ),
        (
            "the batch's statistics in evaluation",
            "if settings is not None and not settings.training:\n",
            "if settings is None:\n",
        ),
    ),
    *of(
        "engine",
        ENGINE,
        edit("first ReLU to SiLU"),
        ("what was found once holds for ever", "            or not found.stands()\n", ""),
    ),
    *of(
        "engine",
        ENGINE,
        edit("preprocessing with SiLU"),
        (
            "an exchanged preprocessing",
            "if kept_module is not module or known is None or watch is None or not watch.stands():",
            "if known is None or watch is None:",
        ),
    ),
    *of(
        "engine",
        ENGINE,
        edit("every momentum"),
        (
            "settings of the first look",
            "elif found.watch.settings != found.survey.settings:",
            "elif found.watch.settings is None and found.survey.settings:",
        ),
    ),
    *of(
        "partial channels",
        "fastdarts/reference/partial_channels.py",
        "reference, nn_cell",
        ("an average goes by", "F.max_pool2d(x, 2, 2, ceil_mode=True)", "F.avg_pool2d(x, 2, 2, ceil_mode=True)"),
    ),
    *of(
        "channel sampling",
        "fastdarts/nn/channels.py",
        "nn_channel_sampling",
        ("drawn in evaluation", "    if draw:\n", "    if draw or not draw:\n"),
        ("the gradient in the order", "_Reordered.apply(grad, order.argsort())", "_Reordered.apply(grad, order)"),
    ),
    *of(
        "derived network",
        "fastdarts/nn/derived.py",
        "nn_derived, evaluate",
        ("identities are dropped", "if self.training and not isinstance(op, Identity):", "if self.training:"),
        (
            "paths dropped in evaluation",
            "if self.training and not isinstance(op, Identity):",
            "if not isinstance(op, Identity):",
        ),
        ("stride 2 on all edges", "2 if reduction and source < genotype.inputs else 1", "2 if reduction else 1"),
        ("the head in evaluation", "if self.auxiliary and self.training and layer", "if self.auxiliary and layer"),
    ),
    *of(
        "drop path",
        "fastdarts/reference/drop_path.py",
        "nn_derived, reference",
        ("not rescaled", "return x.div(kept).mul(mask)", "return x.mul(mask)"),
        ("an element, not an image", "torch.empty(x.shape[0], 1, 1, 1,", "torch.empty(x.shape,"),
    ),
    *of(
        "supernet",
        "fastdarts/nn/supernet.py",
        "nn_supernet, nn_search_regularisation",
        ("the head in evaluation", "if self.auxiliary and self.training and layer", "if self.auxiliary and layer"),
        ("the last pass' head stays", "        self.auxiliary_logits = None\n        dropped", "        dropped"),
        ("alphas among the weights", 'if not name.startswith("arch.")]', "]"),
        ("betas not learnt", "return list(self.arch.parameters())", "return list(self.arch.alphas.values())"),
    ),
]
