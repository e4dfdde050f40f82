"""One model of ``moments.py``: real starts measured seed by seed, and predictions beside them.

What was found is kept with a key of what it rests on, so that a later run goes on from it: of a
measurement the plan and the libraries, of a prediction the code of ``initium/_predict`` too. Where
a key no longer fits, its figures are thrown away and made anew.

Measured is one forward and backward pass with dropout off, by the hooks that a prediction uses, and
the first loss; ``initium.check`` on the first start says how large the logits are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo import Net, build

import initium
import initium._predict
from initium._model.call import call
from initium._model.quiet import without_dropout
from initium._model.state import preserved
from initium._predict.draw import start_of
from initium._predict.measure import Gauge
from initium._predict.passes import everywhere, run_passes
from initium._predict.realised import realised_plan
from initium._predict.records import Draw, LayerMoments
from initium._types import ModelView

__all__ = [
    "METHODS", "PREDICTED", "STARTS", "TREE", "again", "aim", "examine", "log", "mean", "summary",
]  # fmt: skip

METHODS = {"closed form": 0, "lazy draws": 4}
"""What is compared, and the draws that it takes."""
PREDICTED = ("auto", "torch", "own")
STARTS = (*PREDICTED, "he", "lsuv")
CALM = 1.0
"""Standard deviation of the logits up to which the first loss has a goal."""
APART = 1000
"""Seeds of measurements start here: a draw has small weights from seeds near 0."""
FEWEST = 4
LIBRARIES = ("torch", "transformers", "timm", "x-transformers", "vit-pytorch")

Stat = tuple[float, float, float, float]
"""Mean of the logarithms and its standard error; logarithm of the mean and its standard error."""


def aim(start: str, seeds: int) -> int:
    """How many seeds a start is measured over: those without a prediction come later."""
    return seeds if start in PREDICTED else seeds // 2 if seeds > FEWEST else 0


def examine(
    name: str, held: Mapping[str, Any], seeds: int, methods: Sequence[str], seconds: float
) -> dict[str, Any]:
    """What is known of a model, and what so many seconds add to it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    net = build(name)
    view = initium.inspect(net.model, net.inputs)
    starts = [one for one in STARTS if one != "own" or net.source not in ("net", "demo")]
    found: dict[str, Any] = {
        "tree": TREE,
        "starts": starts,
        "parameters": sum(one.numel() for one in net.model.parameters()),
        "runs": {},
        "predictions": {},
    }
    for start in starts:
        net = build(name)  # what a plan keeps is the library's, and not that of the start before
        plan = initium.plan(view, {"own": "torch", "lsuv": "torch"}.get(start, start))
        key = _key(start, plan)
        if not aim(start, seeds):
            continue
        runs = held.get("runs", {}).get(start, {})
        runs = runs if runs.get("key") == key else {"key": key, "rows": []}
        found["runs"][start] = runs
        if not runs["rows"]:
            runs.update(_first(net, view, plan, start))
        for seed in range(len(runs["rows"]), aim(start, seeds)):
            if time.perf_counter() - began > seconds and len(runs["rows"]) > 1:
                break
            runs["rows"].append(_measured(net, view, plan, start, seed, runs["blocks"]))
        for label in methods if start in PREDICTED else ():
            place = f"{start}/{label}"
            made = held.get("predictions", {}).get(place, {})
            if made.get("key") != key + CODE:
                made = {**_predict(net, view, plan, start, label), "key": key + CODE}
            found["predictions"][place] = made
    return found


def _digest(*texts: bytes) -> str:
    return hashlib.blake2b(b"".join(texts), digest_size=6).hexdigest()


def _code(folder: Path) -> str:
    return _digest(*(path.read_bytes() for path in sorted(folder.rglob("*.py"))))


CODE = _code(Path(initium._predict.__file__).parent)
TREE = _code(Path(initium.__file__).parent) + _digest(Path(__file__).read_bytes())
"""A run under other code looks again whether the keys fit."""


def _key(start: str, plan: initium.Plan) -> str:
    """A digest of what a measurement rests on."""
    versions = [importlib.metadata.version(one) for one in LIBRARIES]
    kept = {"keep()": "as built"}
    texts = {name: str(entry.spec) for name, entry in sorted(plan.entries.items())}
    specs = [f"{name} {kept.get(text, text)}" for name, text in texts.items()]
    return _digest("\n".join([start, *versions, *specs]).encode())


def _started(net: Net, view: ModelView, plan: initium.Plan, start: str, seed: int) -> nn.Module:
    """The model with real weights of one start."""
    if start == "own":
        return build(net.name, seed).model
    dataclasses.replace(plan, seed=seed).apply(net.model)
    if start == "lsuv":
        initium.calibrate(net.model, net.inputs, view=view)
    return net.model


def _first(net: Net, view: ModelView, plan: initium.Plan, start: str) -> dict[str, Any]:
    """What all seeds share: the blocks, and whether the logits are small."""
    model = _started(net, view, plan, start, APART)
    report = initium.check(model, net.inputs, net.targets, view=view)
    layers, _ = _pass(model, net)
    blocks = _blocks(model, layers)
    classes = report.loss.classes
    return {
        "blocks": blocks,
        "types": [layers[name].module_type for name in blocks],
        "calm": (report.loss.logit_std or 0.0) <= CALM,
        "expected": math.log(classes) if classes else None,
    }


def _pass(model: nn.Module, net: Net) -> tuple[Mapping[str, LayerMoments], float | None]:
    """Moments of every module and the loss, of one forward and backward pass."""
    gauge = Gauge(model)
    with preserved(model), gauge.watching(), without_dropout(model):
        output = call(model, net.inputs)
        gauge.forward_done = True
        loss, begins, cotangents = start_of(output, net.targets, None)
        torch.autograd.backward(begins, cotangents)
    model.zero_grad(set_to_none=True)
    return gauge.layers(), loss


def _measured(
    net: Net, view: ModelView, plan: initium.Plan, start: str, seed: int, blocks: Sequence[str]
) -> list[Any]:
    """Of one seed: the loss, and for every block the second moment and the relative gradient."""
    layers, loss = _pass(_started(net, view, plan, start, APART + seed), net)
    out = _out(layers)
    rows = [
        [_short(layers[name].second_moment), _short(_relative(layers, name, out))]
        if name in layers
        else [None, None]
        for name in blocks
    ]
    return [loss, rows]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Over the seeds of one start: statistics of every block and of the loss."""
    rows = runs["rows"]
    losses = [loss for loss, _ in rows if loss is not None]
    found = {key: runs[key] for key in ("blocks", "types", "calm", "expected")}
    for number, what in enumerate(("forward", "gradient")):
        found[what] = [
            _stat([blocks[at][number] for _, blocks in rows]) for at in range(len(runs["blocks"]))
        ]
    loss = mean(losses) if len(losses) == len(rows) > 0 else None
    return {**found, "seeds": len(rows), "loss": loss}


def _predict(
    net: Net, view: ModelView, plan: initium.Plan, start: str, label: str
) -> dict[str, Any]:
    """A prediction by one method; ``error`` where there is none."""
    began = time.perf_counter()
    model = _started(net, view, plan, start, 0)
    count = METHODS[label]
    try:
        law = realised_plan(model, net.inputs) if start == "own" else plan
        made = run_passes(model, law, net.inputs, targets=net.targets, draws=count)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    found = _figures(model, made.lazy if count else made.closed, label)
    return {**found, "seconds": time.perf_counter() - began}


def again(name: str, start: str, label: str, passes: int) -> dict[str, Any]:
    """A prediction over many passes, none of which :func:`examine` makes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net = build(name)
    view = initium.inspect(net.model, net.inputs)
    plan = initium.plan(view, "torch" if start == "own" else start)
    model = _started(net, view, plan, start, 0)
    law = realised_plan(model, net.inputs) if start == "own" else plan
    runs: list[Draw] = []
    for seed in range(1, passes + 1):  # a prediction has seed 0
        count = passes if METHODS[label] else 0
        made = run_passes(model, law, net.inputs, targets=net.targets, draws=count, seed=seed)
        runs += made.lazy if count else made.closed
        if len(runs) >= passes or len(made.closed) == 1:
            break
    return _figures(model, runs, label)


def _figures(model: nn.Module, runs: Sequence[Draw], label: str) -> dict[str, Any]:
    """What passes predict at every block, and of the loss."""
    count = METHODS[label]
    first = runs[0]
    shared = set(everywhere(runs))
    held = {name: one for name, one in first.layers.items() if name in shared}
    out = _out(held)

    def one(name: str) -> dict[str, Any]:
        forward = [run.layers[name].second_moment for run in runs]
        back = [_relative(run.layers, name, out) for run in runs]
        ratios = [ratio for ratio in back if ratio is not None]
        whole = len(ratios) == len(back)
        layer = held[name]
        return {
            "forward": [*_centre(forward, count), label if count else layer.tier],
            "gradient": [*_centre(ratios, count), label if count else layer.grad_tier]
            if whole
            else None,
        }

    losses = [run.loss for run in runs if run.loss is not None]
    return {
        "layers": {name: one(name) for name in _blocks(model, held)},
        "loss": [*mean(losses), label if count else first.loss_tier] if losses else None,
        "passes": len(runs),
        "notes": list(dict.fromkeys(note for run in runs for note in run.notes))[:4],
    }


def _centre(values: Sequence[float], draws: int) -> tuple[float, float]:
    """Over passes, as a logarithm with its standard error: of the mean, or the mean of those."""
    centre, error = mean([log(value) for value in values] if draws else values)
    return (centre, error) if draws else (log(centre), error / centre if centre else 0.0)


def _blocks(model: nn.Module, layers: Mapping[str, Any]) -> list[str]:
    """Repeated parts that hold parts, else all numbered modules; then the output."""
    parts = dict(model.named_modules(remove_duplicate=False))
    numbered = [
        name for name in layers if name.rpartition(".")[2].isdigit() and len(layers[name].shape) > 1
    ]
    large = [
        name
        for name in numbered
        if any(parts[name].children()) and any(True for _ in parts[name].parameters())
    ]
    out = _out(layers)
    found = large if len(large) > 1 else numbered
    end = None if out is None else layers[out]
    inner = [name for name in found if end is None or not _same(layers[name], end)]
    return [*inner, *([] if out is None else [out])]


def _same(one: Any, end: Any) -> bool:
    """Whether a module passes on what is the output."""
    return bool(one.shape == end.shape and one.second_moment == end.second_moment)


def _out(layers: Mapping[str, Any]) -> str | None:
    """The last module with a gradient at its output that is not a single number."""
    names = [
        name
        for name, one in layers.items()
        if one.grad_second_moment is not None and math.prod(one.shape) > 1
    ]
    return names[-1] if names else None


def _relative(layers: Mapping[str, Any], name: str, out: str | None) -> float | None:
    if out is None:
        return None
    gradient, end = layers[name].grad_second_moment, layers[out].grad_second_moment
    return None if gradient is None or not end else gradient / end


def log(value: float) -> float:
    """The logarithm; of zero, that of the smallest number."""
    return math.log(max(value, 1e-300)) if math.isfinite(value) else math.inf


def _stat(values: Sequence[float | None]) -> Stat | None:
    held = [value for value in values if value is not None]
    if len(held) < len(values) or not held:
        return None
    centre, error = mean(held)
    return (*mean([log(value) for value in held]), log(centre), error / centre if centre else 0.0)


def mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    centre = sum(values) / len(values)
    square = sum((value - centre) ** 2 for value in values) / max(len(values) - 1, 1)
    return centre, math.sqrt(square / len(values))
