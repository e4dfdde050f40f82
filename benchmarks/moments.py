"""Predicted moments against measured ones, and starting points side by side.

Each model of ``zoo.py`` is predicted and measured under ``auto``, torch's defaults and its own
library's initialisation, and measured under He and LSUV (``initium.calibrate`` on torch's default)
beside them. A prediction knows no weights; a measurement is ``initium.check`` on real ones.

    python benchmarks/moments.py --out out/moments.json              # writes docs/moments.md
    python benchmarks/moments.py --out out/moments.json --seeds 12 --only net: --limit 3
    python benchmarks/moments.py --out out/moments.json --check      # check's errors under auto
    python benchmarks/moments.py --out out/moments.json --table      # only the page

What is in the file is not run again. Every model runs in a process of its own on one core.

Compared are logarithms, at every block; gradients relative to that of the output. An error counts
where it is beyond its goal and beyond three standard errors of both sides. Not covered: models that
no small size exists of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from proved import SAMPLE, prove, section
from scipy import stats
from torch import nn
from zoo import MODELS, Net, alone, build, warm

import initium
from initium._types import ModelView

DOCS = Path(__file__).parents[1] / "docs" / "moments.md"
METHODS = {"closed form": 0, "lazy draws": 4}
"""What is compared, and the draws that it takes."""
PREDICTED = ("auto", "torch", "own")
STARTS = (*PREDICTED, "he", "lsuv")
TITLES = {"auto": "auto", "torch": "torch", "own": "library", "he": "He", "lsuv": "LSUV"}
GOALS = {"forward": (0.05, 0.25), "gradient": (0.10, 0.50), "loss": (0.02, 0.02)}
"""For the median and for the 95th percentile of the blocks."""
CALM = 1.0
"""Standard deviation of the logits up to which the first loss has a goal."""
WORSE = 0.1
"""How much worse a metric has to be, as a difference of logarithms, to be listed."""

APART = 1000
"""Seeds of measurements start here: a draw has small weights from seeds near 0."""

Stat = tuple[float, float, float, float]
"""Mean of the logarithms and its standard error; logarithm of the mean and its standard error."""


# Running --------------------------------------------------------------------------------------


def examine(name: str, seeds: int, methods: Sequence[str]) -> dict[str, Any]:
    """Every start of one model: measured over seeds, and predicted by every method."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net = build(name)
    view = initium.inspect(net.model, net.inputs)
    starts = [one for one in STARTS if one != "own" or net.source not in ("net", "demo")]
    found: dict[str, Any] = {
        "parameters": sum(one.numel() for one in net.model.parameters()),
        "starts": {},
        "predictions": {},
    }
    for start in starts:
        count = seeds if start in PREDICTED else max(4, seeds // 2)
        plan = initium.plan(view, {"own": "torch", "lsuv": "torch"}.get(start, start))
        found["starts"][start] = _measure(net, view, plan, start, count)
        for label in methods if start in PREDICTED else ():
            found["predictions"][f"{start}/{label}"] = _predict(net, view, plan, start, label)
    return found


def _started(net: Net, view: ModelView, plan: initium.Plan, start: str, seed: int) -> nn.Module:
    """The model with real weights of one start."""
    if start == "own":
        return build(net.name, seed).model
    dataclasses.replace(plan, seed=seed).apply(net.model)
    if start == "lsuv":
        initium.calibrate(net.model, net.inputs, view=view)
    return net.model


def _measure(
    net: Net, view: ModelView, plan: initium.Plan, start: str, seeds: int
) -> dict[str, Any]:
    """Moments at every block and the first loss, over seeds."""
    runs = []
    for seed in range(seeds):
        model = _started(net, view, plan, start, APART + seed)
        report = initium.check(model, net.inputs, net.targets, view=view)
        runs.append((report.layers, report.loss))
    layers = {name: one for name, one in runs[0][0].items() if all(name in run for run, _ in runs)}
    blocks, out = _blocks(net.model, layers), _out(layers)
    calm = all((one.logit_std or 0.0) <= CALM for _, one in runs)
    losses = [one.value for _, one in runs if one.value is not None]
    classes = runs[0][1].classes
    return {
        "seeds": seeds,
        "blocks": blocks,
        "types": [layers[name].module_type for name in blocks],
        "forward": [_stat([run[name].second_moment for run, _ in runs]) for name in blocks],
        "gradient": [
            _stat([_relative(run, name, out) for run, _ in runs]) if out is not None else None
            for name in blocks
        ],
        "loss": _mean(losses) if len(losses) == seeds else None,
        "calm": calm,
        "expected": math.log(classes) if classes else None,
    }


def _predict(
    net: Net, view: ModelView, plan: initium.Plan, start: str, label: str
) -> dict[str, Any]:
    """A prediction by one method; ``error`` where there is none."""
    began = time.perf_counter()
    model = _started(net, view, plan, start, 0)
    asked = None if start == "own" else plan
    try:
        made = initium.predict(model, asked, net.inputs, targets=net.targets, draws=METHODS[label])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    out = _out(made.layers)
    count = made.draws

    def one(name: str) -> list[Any]:
        layer = made.layers[name]
        gradient = None
        if out is not None and layer.grad_second_moment is not None:
            end = made.layers[out]
            assert end.grad_second_moment is not None
            error = math.hypot(
                _error(layer.grad_band, count), _error(end.grad_band, count) if name != out else 0
            )
            gradient = [_log(layer.grad_second_moment) - _log(end.grad_second_moment), error]
        tiers = [label, label] if count else [layer.tier, layer.grad_tier]
        return [_log(layer.second_moment), _error(layer.band, count), gradient, *tiers]

    band = made.loss_band
    width = 0.0 if band is None or count < 2 else _half(band.high - band.low, count)
    return {
        "layers": {name: one(name) for name in _blocks(model, made.layers)},
        "loss": None if made.loss is None else [made.loss, width],
        "notes": list(made.notes)[:4],
        "seconds": time.perf_counter() - began,
    }


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


def _relative(layers: Mapping[str, Any], name: str, out: str) -> float | None:
    gradient, end = layers[name].grad_second_moment, layers[out].grad_second_moment
    return None if gradient is None or not end else gradient / end


def _log(value: float) -> float:
    """The logarithm; of zero, that of the smallest number."""
    return math.log(max(value, 1e-300)) if math.isfinite(value) else math.inf


def _stat(values: Sequence[float | None]) -> Stat | None:
    held = [value for value in values if value is not None]
    if len(held) < len(values):
        return None
    mean, error = _mean(held)
    return (*_mean([_log(value) for value in held]), _log(mean), error / mean if mean else 0.0)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    mean = sum(values) / len(values)
    square = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(square / len(values))


def _error(band: Any, draws: int) -> float:
    """The standard error of a mean of logarithms, from the band of a single start."""
    if band is None or draws < 2 or not 0 < band.low < band.high < math.inf:
        return 0.0
    return _half(math.log(band.high) - math.log(band.low), draws)


def _half(width: float, draws: int) -> float:
    return width / 2 / float(stats.t.ppf(0.975, draws - 1)) / math.sqrt(draws + 1)


# Judging --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Miss:
    """One comparison: where, what was predicted and measured, and whether it is beyond its goal."""

    model: str
    start: str
    where: str
    module_type: str
    tier: str
    predicted: float
    measured: float
    noise: float

    @property
    def error(self) -> float:
        return abs(self.predicted - self.measured)

    def beyond(self, goal: float) -> bool:
        return self.error > max(math.log1p(goal), 3 * self.noise)


def comparisons(
    outcomes: Mapping[str, Any], label: str, start: str, what: str
) -> dict[str, list[Miss]]:
    """Every block of every model that has a prediction of ``what``, in execution order."""
    found: dict[str, list[Miss]] = {}
    for model, one in outcomes.items():
        made = one["predictions"].get(f"{start}/{label}", {}) if isinstance(one, dict) else {}
        if "layers" not in made:
            continue
        measured = one["starts"][start]
        rows = []
        for name, kind, stat in zip(
            measured["blocks"], measured["types"], measured[what], strict=True
        ):
            layer = made["layers"].get(name)
            forward = what == "forward"
            value = None if layer is None else (layer[:2] if forward else layer[2])
            if value is None or stat is None or not math.isfinite(value[0] + stat[0]):
                continue
            draws, tier = METHODS[label], layer[3 if forward else 4] or label
            middle, error = stat[:2] if draws else stat[2:]
            of_draws = max(value[1], error * math.sqrt(measured["seeds"] / draws)) if draws else 0
            of_one = error * math.sqrt(measured["seeds"]) if start == "own" else 0
            noise = math.hypot(error, of_draws, of_one)
            rows.append(Miss(model, start, name, kind, tier, value[0], middle, noise))
        if rows:
            found[model] = rows
    return found


def _losses(outcomes: Mapping[str, Any], label: str, start: str) -> list[Miss]:
    """First losses: logarithms here too, so that errors are relative."""
    rows = []
    for model, one in outcomes.items():
        made = one["predictions"].get(f"{start}/{label}", {}) if isinstance(one, dict) else {}
        if not made.get("loss") or not one["starts"][start]["loss"]:
            continue
        measured = one["starts"][start]
        mean, noise = measured["loss"]
        predicted, error = made["loss"]
        if measured["calm"] and mean > 0 and predicted > 0:
            noise = math.hypot(noise, error) / mean
            rows.append(
                Miss(model, start, "first loss", "", label, _log(predicted), _log(mean), noise)
            )
    return rows


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):.1f}%" if log < 2 else f"x{math.exp(min(log, 600)):.3g}"


# Tables ---------------------------------------------------------------------------------------


def page(outcomes: Mapping[str, Any], proved: Mapping[str, Any]) -> str:
    """The whole document."""
    held = {name: one for name, one in outcomes.items() if isinstance(one, dict)}
    lines = [
        "# Moments: predicted, measured, and side by side",
        "",
        f"Written by `benchmarks/moments.py`: {len(held)} of {len(MODELS)} models were run, "
        f"torch {torch.__version__}, {platform.machine()}, {_seeds(held)}, and half as many, but "
        "at least 4, for He and LSUV.",
        "",
        *_prediction(held),
        *_side_by_side(held),
        *section(proved),
    ]
    failed = {name: one for name, one in outcomes.items() if not isinstance(one, dict)}
    if failed:
        lines += ["## Not run", "", "| model | reason |", "|---|---|"]
        lines += [f"| `{name}` | {_text(why)} |" for name, why in failed.items()]
    return "\n".join(lines) + "\n"


def _seeds(outcomes: Mapping[str, Any]) -> str:
    """How many seeds the measurements of how many models rest on."""
    counts = Counter(one["starts"]["auto"]["seeds"] for one in outcomes.values())
    return ", ".join(f"{seeds} seeds in {models} models" for seeds, models in counts.items())


def _prediction(outcomes: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Prediction against measurement",
        "",
        "At the output of every block, on a log scale. A closed form is the mean over seeds and is",
        "held against the logarithm of the measured mean; draws (4 of them) are geometric means",
        "and are held against the mean of the logarithm. Gradients are relative to the output's in",
        "the same run. *Library*: from the weights of a single start by the library, whose own",
        "spread counts as noise. *Beyond*: further off than the goal and than three standard",
        "errors of the two sides. *Median*: of the blocks' errors, noise included; *models*:",
        "those whose median block is beyond the median's goal. The first loss counts where the",
        "logits' standard deviation is at most 1.",
        "",
        "| method | start | what | models | blocks | median (goal) | 95th (goal) "
        "| blocks beyond the 95th's goal | models beyond the median's goal |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    misses: list[Miss] = []
    for label in METHODS:
        for start in PREDICTED:
            for what in ("forward", "gradient"):
                found = comparisons(outcomes, label, start, what)
                if found:
                    lines.append(_summary(label, start, what, found))
                    misses += _first(found, GOALS[what][1], what)
            losses = _losses(outcomes, label, start)
            if losses:
                lines.append(_summary(label, start, "loss", {one.model: [one] for one in losses}))
                misses += [one for one in losses if one.beyond(GOALS["loss"][1])]
    lines += ["", *_tiers(outcomes), *_misses(misses), *_unpredicted(outcomes)]
    return lines


def _summary(label: str, start: str, what: str, found: Mapping[str, Sequence[Miss]]) -> str:
    middle, high = GOALS[what]
    rows = [one for model in found.values() for one in model]
    errors = [one.error for one in rows]
    beyond = sum(one.beyond(high) for one in rows)
    models = sum(
        sorted(model, key=lambda one: one.error)[len(model) // 2].beyond(middle)
        for model in found.values()
    )
    return (
        f"| {label} | {TITLES[start]} | {what} | {len(found)} | {len(rows)} "
        f"| {_percent(_percentile(errors, 0.5))} ({100 * middle:g}%) "
        f"| {_percent(_percentile(errors, 0.95))} ({100 * high:g}%) | {beyond} | {models} |"
    )


def _tiers(outcomes: Mapping[str, Any]) -> list[str]:
    """The forward errors by the tier that each number says it came from."""
    groups: dict[tuple[str, str], list[Miss]] = {}
    for label in METHODS:
        for start in PREDICTED:
            for rows in comparisons(outcomes, label, start, "forward").values():
                for one in rows:
                    groups.setdefault((label, one.tier), []).append(one)
    if all(label == tier for label, tier in groups):
        return []
    lines = [
        "Forward, by the tier that each number names:",
        "",
        "| method | tier | blocks | median | 95th | beyond |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (label, tier), rows in groups.items():
        errors = [one.error for one in rows]
        lines.append(
            f"| {label} | {tier} | {len(rows)} | {_percent(_percentile(errors, 0.5))} "
            f"| {_percent(_percentile(errors, 0.95))} "
            f"| {sum(one.beyond(GOALS['forward'][1]) for one in rows)} |"
        )
    return [*lines, ""]


def _first(found: Mapping[str, Sequence[Miss]], goal: float, what: str) -> list[Miss]:
    """The block where a model's misses begin: the first forward, the last for gradients."""
    picked = []
    for rows in found.values():
        missed = [one for one in rows if one.beyond(goal)]
        if missed:
            one = missed[0] if what == "forward" else missed[-1]
            where = f"{what}, {one.where or '(the model)'}" + (
                f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            )
            picked.append(dataclasses.replace(one, where=where))
    return picked


BIASES = "the ten biases of the head, whose values a closed form draws twice"
REASONS = {
    "net:plain convolutions gelu, 8/auto": "mirrored pairs are taken for independent units",
    "net:plain elu 12 x 256/torch": BIASES,
    "net:plain linear 12 x 256/torch": BIASES,
    "net:plain selu 12 x 256/torch": BIASES,
    "net:plain tanh 12 x 256/torch": BIASES,
    "x-transformers:decoder, tied embedding/": "probably the tie: the stream holds the embedding",
}
"""Known reasons of misses, by the beginning of model/start."""


def _misses(misses: Sequence[Miss]) -> list[str]:
    lines = ["### Misses", ""]
    if not misses:
        return [*lines, "None.", ""]
    lines += [
        "One line for each model, start and quantity: the block where it begins.",
        "",
        "| model | start | tier | where | type | predicted / measured | 3 std errors | reason |",
        "|---|---|---|---|---|---:|---:|---|",
    ]
    for one in sorted(misses, key=lambda miss: (miss.tier, miss.model, miss.start)):
        place = f"{one.model}/{one.start}"
        reason = next((why for key, why in REASONS.items() if place.startswith(key)), "not known")
        lines.append(
            f"| `{one.model}` | {TITLES[one.start]} | {one.tier} | {_text(one.where)} "
            f"| {one.module_type} | {math.exp(_clip(one.predicted - one.measured)):.3g} "
            f"| {_percent(3 * one.noise)} | {reason} |"
        )
    return [*lines, ""]


def _unpredicted(outcomes: Mapping[str, Any]) -> list[str]:
    failed = [
        (model, key, made["error"])
        for model, one in outcomes.items()
        for key, made in one["predictions"].items()
        if "error" in made
    ]
    if not failed:
        return []
    lines = ["### No prediction", "", "| model | start/method | error |", "|---|---|---|"]
    return [*lines, *(f"| `{m}` | {key} | {_text(why)} |" for m, key, why in failed), ""]


def metrics(measured: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Four figures of a start as logarithms that a good one has near 0, with standard errors.

    Over the blocks of the commonest type: the last one's second moment over the first's; the first
    one's gradient over the last's; the second moment furthest from 1. And the first loss over ln C.
    """
    types = measured["types"][:-1]
    common = Counter(types).most_common(1)[0][0] if types else ""
    forward, gradient = (
        [one for one, kind in zip(measured[what], types, strict=False) if kind == common and one]
        for what in ("forward", "gradient")
    )
    found: dict[str, tuple[float, float]] = {}
    if len(forward) > 1:
        found["forward"] = _difference(forward[-1], forward[0])
    if len(gradient) > 1:
        found["gradient"] = _difference(gradient[0], gradient[-1])
    if measured["loss"] and measured["expected"] and measured["loss"][0] > 0:
        mean, error = measured["loss"]
        found["loss"] = _log(mean / measured["expected"]), error / mean
    if forward:
        worst = max(forward, key=lambda one: abs(one[0]))
        found["worst layer"] = worst[0], worst[1]
    return found


def _difference(one: Stat, other: Stat) -> tuple[float, float]:
    return one[0] - other[0], math.hypot(one[1], other[1])


def _side_by_side(outcomes: Mapping[str, Any]) -> list[str]:
    names = ("forward", "gradient", "loss", "worst layer")
    lines = [
        "## Side by side",
        "",
        "Geometric means over seeds, best at 1, over the blocks of the commonest type: *forward*,",
        "the last block's second moment over the first's; *gradient*, the first's over the last's;",
        "*worst*, the second moment furthest from 1. *Loss*: the first one over ln C. LSUV is",
        "`initium.calibrate` on torch's default. A net of normalised branches need not be at 1",
        "everywhere: a stream that grows with depth, or branches that start at zero, show here.",
        "",
        "| | " + " | ".join(TITLES[start] for start in STARTS) + " |",
        "|---" * (len(STARTS) + 1) + "|",
    ]
    for name in names:
        cells = []
        for start in STARTS:
            values = [
                abs(found[name][0])
                for one in outcomes.values()
                if start in one["starts"] and name in (found := metrics(one["starts"][start]))
            ]
            cells.append(f"x{math.exp(_clip(_percentile(values, 0.5))):.3g}" if values else "")
        lines.append(f"| {name}, median distance from 1 | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | " + " | ".join(f"{TITLES[start]}: {' '.join(n[0] for n in names)}"
                                  for start in STARTS) + " |",
        "|---" * (len(STARTS) + 1) + "|",
    ]  # fmt: skip
    worse: list[str] = []
    for model, one in outcomes.items():
        made = {start: metrics(found) for start, found in one["starts"].items()}
        cells = [
            " ".join(_factor(made[start].get(name)) for name in names) if start in made else ""
            for start in STARTS
        ]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
        for name in names:
            worse += _worse(model, name, made)
    lines += ["", f"### Where auto is worse ({len(worse)})", ""]
    lines += [
        "By more than 10% and three standard errors.",
        "",
        "| model | metric | auto | better |",
        "|---|---|---:|---|",
    ]
    return [*lines, *worse, ""]


def _worse(
    model: str, name: str, made: Mapping[str, Mapping[str, tuple[float, float]]]
) -> Iterable[str]:
    mine = made.get("auto", {}).get(name)
    if mine is None:
        return
    better = [
        f"{TITLES[start]} {_factor(found[name])}"
        for start, found in made.items()
        if name in found
        and abs(mine[0]) > abs(found[name][0]) + max(WORSE, 3 * math.hypot(mine[1], found[name][1]))
    ]
    if better:
        yield f"| `{model}` | {name} | {_factor(mine)} | {', '.join(better)} |"


def _factor(value: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{math.exp(_clip(value[0])):.3g}"


def _clip(log: float) -> float:
    return max(-690.0, min(690.0, log))


def _text(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())


# ----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="outcomes, to go on from")
    parser.add_argument("--seeds", type=int, default=48, help="real starts of each kind")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--limit", type=int, help="that many models, evenly spread")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one model")
    parser.add_argument("--check", action="store_true", help="check's errors on the sample")
    parser.add_argument("--table", action="store_true", help="only write the page")
    options = parser.parse_args()
    data = json.loads(options.out.read_text()) if options.out.exists() else {}
    done = data.setdefault("checked" if options.check else "models", {})
    methods = options.method or list(METHODS)
    names = SAMPLE.read_text().splitlines() if options.check else list(MODELS)
    names = [name for name in names if options.only in name]
    stride = -(-len(names) // options.limit) if options.limit else 1

    torch.set_num_threads(1)
    if not options.table:
        warm()

    def work(name: str) -> dict[str, Any]:
        return prove(name) if options.check else examine(name, options.seeds, methods)

    for name in [] if options.table else names[::stride]:
        if name in done:
            continue
        began = time.perf_counter()
        done[name] = alone(work, name, options.timeout)
        told = done[name] if isinstance(done[name], str) else "ok"
        print(f"{name} {time.perf_counter() - began:.1f} s {told}", flush=True)
        options.out.write_text(json.dumps(data))
    order = {name: number for number, name in enumerate(MODELS)}
    models = dict(sorted(data.get("models", {}).items(), key=lambda one: order.get(one[0], 999)))
    DOCS.write_text(page(models, data.get("checked", {})))


if __name__ == "__main__":
    main()
