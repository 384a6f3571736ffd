"""What the JSON files of a run hold, by type; `fastdarts.reading.conform` says how a schema is written.

What a file of an earlier version lacks is not demanded here: a reader that cannot do without names it (`needs`). What
is there has the right type, so that no reader meets a text where it adds numbers up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import conform

__all__ = ["KINDS", "check_config", "check_file", "check_record"]

_NUMBER = (float, None)
_COUNT = (int, None)
_TEXT = (str, None)
_VALUES = [_NUMBER]
_BUDGET = {"epochs": int, "channels": int, "layers": int, "batch_size": int, "seed": int}
_GENOTYPE = {"format!": str, "cells!": {str: {"inputs": int, "nodes!": [[list]], "concat!": [int]}}}

_CONFIG: dict[str, Any] = {"kind!": str, "command": _TEXT, "environment": dict, "config": dict, "space": (dict, None)}
_AFTER_SIZES = dict.fromkeys(("retrain_channels", "retrain_layers", "retrain_batch_size"), _COUNT)
_AFTER = {"retrain_epochs": _COUNT, "random_cells": _COUNT, **_AFTER_SIZES}
_PLACED = {"data": str, "data_root": _TEXT, "device": str, "backend": str, "threads": int, "save_every": int}
_SEARCH = {**_PLACED, "method": str, "space": str, "epochs": int, "layers": int, "channels": int, "options": dict}
_TRAINED = {**_PLACED, "genotype": str, "epochs": int, "channels": int, "layers": int, "batch_size": int}
_CONFIGS: dict[str, Any] = {
    "search": {**_CONFIG, "config!": _SEARCH, "after": _AFTER},
    "retrain": {**_CONFIG, "config!": {**_TRAINED, "genotype!": str}},
    "compare": {**_CONFIG, "trainings!": {str: _TRAINED}},
    "compare-methods": {**_CONFIG, "data!": str, "search!": dict, "training!": dict},
    "searches": {**_CONFIG, "config!": _SEARCH, "searches!": {str: _SEARCH}, "selection!": dict, "after": _AFTER},
    "table": {**_CONFIG, "settings!": dict, "portion!": float},
}
KINDS = frozenset(_CONFIGS)
"""The kinds of run that have a schema; a folder of another kind, made from Python, holds what it likes."""

_GUARD = {"guard": str, "action": str, "why": str, "epoch": int, "settings": {str: _NUMBER}}
_RECORDS: dict[str, Any] = {
    "epoch": {
        **dict.fromkeys(("train_loss", "train_accuracy", "arch_loss", "arch_accuracy"), _NUMBER),
        **dict.fromkeys(("valid_loss", "valid_accuracy", "lr", "step_ms", "peak_bytes", "elapsed_s"), _NUMBER),
        **{"epoch!": int, "step": int, "stage": int, "stage_epoch": int, "parameters": _COUNT},
        **{"skips": ({str: int}, None), "entropy": ({str: _NUMBER}, None)},
        **{"eigenvalue": _NUMBER, "eigenvalue_how": _TEXT, "guard": (_GUARD, [_GUARD], None)},
        "alarms": ([{"kind": str, "text": str}], None),
    },
    "hypergradient": {"epoch": int, "cosine": _NUMBER, "relative_error": _NUMBER, "method_kind": str},
    "extension": {"epochs!": int, "before!": int, "epoch!": int, "step": int},
    "environment": {"environment!": dict, "changed!": [str]},
}

_RECORDED = {"records": {"bytes!": int, "sha256!": str}}
_RESULT = {
    **_RECORDED,
    **{"genotype": _GENOTYPE, "text": str, "epoch": int, "epochs": int, "path": str},
    **{"valid_loss": _NUMBER, "valid_accuracy": _NUMBER, "seconds": _NUMBER},
}
_RETRAIN = {
    **_RECORDED,
    **{"genotype": _GENOTYPE, "text": str, "path": str, "parameters": _COUNT, "data": str, "history": ([dict], None)},
    **{"test_accuracy": _NUMBER, "test_loss": _NUMBER, "seconds": _NUMBER, **_BUDGET},
}
_CELL = {"text": str, "accuracies": _VALUES, "mean": _NUMBER, "parameters": _COUNT, "index": int}
_COMPARISON = {
    **{"found": _CELL, "random": [_CELL], "random_mean": _NUMBER, "random_std": _NUMBER, "beaten_by": _NUMBER},
    **{"interval95": (_VALUES, None), "beaten_by95": (_VALUES, None), "seeds": ([int], None)},
    **{"budget": (_BUDGET, None), "dataset": _TEXT, "space": _TEXT},
}
_AGAINST = {
    **dict.fromkeys(("mean!", "p_t_holm!", "p_wilcoxon_holm!"), _NUMBER),
    **dict.fromkeys(("differences!", "interval95!"), _VALUES),
}
_METHOD = {
    **{"values!": _VALUES, "mean!": _NUMBER, "interval95!": _VALUES, "against!": (_AGAINST, None), "texts!": [str]},
    **{"parameters!": [_COUNT], "search_seconds!": _VALUES, "searches!": [_TEXT], "trainings!": [str]},
}
_METHODS = {
    **{"seeds!": [int], "data!": str, "space!": str, "search": (dict, None), "budget!": _BUDGET, "baseline!": str},
    "methods!": {str: _METHOD},
}
_SEARCHED = {
    **{"varied!": dict, "text!": str, "epochs!": int, "seconds!": float, "supernet_accuracy!": _NUMBER},
    **{"valid_accuracy!": _NUMBER, "parameters!": int, "search!": str, "training!": str},
}
_SEARCHES = {"best!": str, "searches!": {str: _SEARCHED}, "selection!": _BUDGET, "images!": [int]}
_EDGE = {"source!": int, "node!": int, "primitives!": [str]}
_EPOCH = {
    **{"epoch!": int, "genotype": _GENOTYPE, "text": str, "alphas": {str: list}, "weights!": {str: [_VALUES]}},
    **{"edge_weights": ({str: _VALUES}, None), "edges!": {str: [_EDGE]}},
}
_FILES: dict[str, Any] = {
    "genotype.json": _GENOTYPE, "result.json": _RESULT, "retrain.json": _RETRAIN, "comparison.json": _COMPARISON,
    "comparison-methods.json": _METHODS, "searches.json": _SEARCHES,
}  # fmt: skip
_EPOCH_FILE = re.compile(r"epochs/[0-9]+\.json")


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse a `config.json` of a known kind that does not conform.

    Raises:
        UserError: naming the first value of another type, or the member that is missing.
    """
    kind = config.get("kind")
    if isinstance(kind, str) and kind in _CONFIGS:
        conform(config, _CONFIGS[kind], where)


def check_file(kind: object, name: str, value: Any, where: str) -> None:
    """Refuse the content of a run's file that does not conform.

    Args:
        kind: of the run.
        name: of the file, inside the run.
        value: its content.
        where: the file's path, for the error.

    Raises:
        UserError: naming the first value of another type, or the member that is missing.
    """
    if kind not in KINDS:
        return
    if _EPOCH_FILE.fullmatch(name):
        _check_edges(conform(value, _EPOCH, where), where)
    elif name in _FILES:
        conform(value, _FILES[name], where)


def check_record(kind: object, record: Mapping[str, Any], where: str) -> None:
    """Refuse a line of a run's `metrics.jsonl` that does not conform.

    Raises:
        UserError: naming the first value of another type, or the member that is missing.
    """
    if kind in KINDS:
        conform(record, {"kind!": str}, where)
        conform(record, _RECORDS.get(record["kind"], {}), where)


def _check_edges(value: Mapping[str, Any], where: str) -> None:
    """A row of weights per edge, a weight per primitive, and no node beyond those that the edges can feed."""
    for key, rows in value["weights"].items():
        edges = value["edges"].get(key)
        if edges is None or len(rows) != len(edges):
            raise UserError(f"{where}: weights.{key} has {len(rows)} rows", f"{len(edges or ())}, one an edge")
        betas = (value.get("edge_weights") or {}).get(key)
        if betas is not None and len(betas) != len(edges):
            raise UserError(f"{where}: edge_weights.{key} has {len(betas)} values", f"{len(edges)}, one an edge")
        for row, edge in zip(rows, edges, strict=True):
            at = f"{where}: edge {edge['source']} -> {edge['node']} of the {key} cell"
            if len(row) < len(edge["primitives"]):
                raise UserError(f"{at} has {len(row)} weights", f"{len(edge['primitives'])}, one per primitive")
            if not 0 <= edge["source"] < edge["node"] <= len(edges) + 1:
                raise UserError(at, f"0 <= source < node <= {len(edges) + 1}")
