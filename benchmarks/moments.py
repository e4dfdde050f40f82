"""Predicted moments against measured ones, and starting points side by side.

Each model of ``zoo.py`` is predicted and measured under ``auto``, torch's defaults and its own
library's initialisation, and measured under He and LSUV (``initium.calibrate`` on torch's
default) beside them (``measured.py``). A prediction knows no weights; a measurement is a pass over
real ones.

    python benchmarks/moments.py --out out/moments.json              # writes docs/moments.md
    python benchmarks/moments.py --out out/moments.json --seeds 12 --only net: --limit 3
    python benchmarks/moments.py --out out/moments.json --check      # check's errors under auto
    python benchmarks/moments.py --out out/moments.json --table      # only the page

Seeds come in rounds, the models that took least first, and the file is written after each model, so
that an interruption leaves a table and a later run goes on. Every model runs in a process of its
own on one core.

Compared are logarithms, at every block; gradients relative to that of the output. An error counts
where it is beyond its goal and beyond three standard errors of both sides; the page counts it by
Student's t too. Not covered: models that no small size exists of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measured import METHODS, PREDICTED, STARTS, TREE, aim, examine, log, summary
from proved import SAMPLE, prove, section
from scipy import stats
from zoo import MODELS, alone, warm

DOCS = Path(__file__).parents[1] / "docs" / "moments.md"
TITLES = {"auto": "auto", "torch": "torch", "own": "library", "he": "He", "lsuv": "LSUV"}
GOALS = {"forward": (0.05, 0.25), "gradient": (0.10, 0.50), "loss": (0.02, 0.02)}
"""For the median and for the 95th percentile of the blocks."""
WORSE = 0.1
"""How much worse a metric has to be, as a difference of logarithms, to be listed."""
ROUNDS = (4, 12, 24, 48, 96, 192)
"""Seeds up to which all models are measured before any is measured further."""

Stat = tuple[float, float, float, float]

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
    freedom: float

    @property
    def error(self) -> float:
        return abs(self.predicted - self.measured)

    def reach(self, student: bool = False) -> float:
        """Three standard errors; by Student's t what those are for so few seeds and passes."""
        return (_three(self.freedom) if student else 3) * self.noise

    def beyond(self, goal: float, student: bool = False) -> bool:
        return self.error > max(math.log1p(goal), self.reach(student))


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
            value = made["layers"].get(name, {}).get(what)
            if value is None or stat is None or not math.isfinite(value[0] + stat[0]):
                continue
            predicted, error, tier = value
            middle, of_mean = stat[:2] if METHODS[label] else stat[2:]
            spread = _combined(of_mean, error, measured["seeds"], made["passes"], start == "own")
            rows.append(Miss(model, start, name, kind, tier, predicted, middle, *spread))
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
        predicted, error, tier = made["loss"]
        if measured["calm"] and mean > 0 and predicted > 0:
            relative = noise / mean, error / predicted
            spread = _combined(*relative, measured["seeds"], made["passes"], start == "own")
            rows.append(
                Miss(model, start, "first loss", "", tier, log(predicted), log(mean), *spread)
            )
    return rows


def _combined(
    measured: float, predicted: float, seeds: int, passes: int, single: bool
) -> tuple[float, float]:
    """The standard error of a difference, and its degrees of freedom by Welch and Satterthwaite.

    Where the prediction is from a ``single`` start, the spread of one comes to the measured mean's.
    """
    parts = [
        (measured**2 * (1 + seeds if single else 1), max(seeds - 1, 1)),
        (predicted**2, max(passes - 1, 1)),
    ]
    total = sum(square for square, _ in parts)
    below = sum(square**2 / freedom for square, freedom in parts)
    return math.sqrt(total), total**2 / below if below else math.inf


def _three(freedom: float) -> float:
    """As unlikely for Student's t as three standard errors are for a normal number."""
    return float(stats.t.isf(stats.norm.sf(3), freedom)) if freedom < math.inf else 3.0


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
        f"torch {torch.__version__}, {platform.machine()}, {_seeds(held)}, and half as "
        "many for He and LSUV.",
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
        "the same run, pass by pass. *Library*: from the weights of a single start by the library,",
        "whose own spread counts as noise. *Beyond*: further off than the goal and than three",
        "standard errors of the two sides together; behind the slash, than what is as unlikely by",
        "Student's t. With few seeds or passes a standard error is itself uncertain, and 3 of them",
        "are exceeded more often than 3 times in 1,000 by chance: the second count allows for",
        "that, with degrees of freedom by Welch and Satterthwaite. *Median*: of the blocks'",
        "errors, noise included; *models*: those whose median block is beyond the median's goal.",
        "The first loss counts where the logits' standard deviation is at most 1.",
        "",
        "| method | start | what | models | blocks | median (goal) | 95th (goal) "
        "| blocks beyond the 95th's goal, 3 std errors / t "
        "| models beyond the median's goal, 3 std errors / t |",
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
    middles = [
        sorted(model, key=lambda one: one.error)[len(model) // 2] for model in found.values()
    ]
    return (
        f"| {label} | {TITLES[start]} | {what} | {len(found)} | {len(rows)} "
        f"| {_percent(_percentile(errors, 0.5))} ({100 * middle:g}%) "
        f"| {_percent(_percentile(errors, 0.95))} ({100 * high:g}%) "
        f"| {_beyond(rows, high)} | {_beyond(middles, middle)} |"
    )


def _beyond(rows: Sequence[Miss], goal: float) -> str:
    """How many are, by three standard errors and by Student's t."""
    literal, student = (sum(one.beyond(goal, by) for one in rows) for by in (False, True))
    return f"{literal} / {student}"


def _tiers(outcomes: Mapping[str, Any]) -> list[str]:
    """The errors by the tier that each number says it came from."""
    groups: dict[tuple[str, str], list[Miss]] = {}
    for start in PREDICTED:
        for what in ("forward", "gradient"):
            for rows in comparisons(outcomes, "closed form", start, what).values():
                for one in rows:
                    groups.setdefault((what, one.tier), []).append(one)
        for one in _losses(outcomes, "closed form", start):
            groups.setdefault(("loss", one.tier), []).append(one)
    lines = [
        "Without draws, by the tier that each number names:",
        "",
        "| what | tier | numbers | median | 95th | beyond, 3 std errors / t |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (what, tier), rows in sorted(groups.items()):
        errors = [one.error for one in rows]
        lines.append(
            f"| {what} | {tier} | {len(rows)} | {_percent(_percentile(errors, 0.5))} "
            f"| {_percent(_percentile(errors, 0.95))} "
            f"| {_beyond(rows, GOALS[what][1])} |"
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


REASONS = {
    "net:plain convolutions gelu, 8/auto": "mirrored pairs are taken for independent units",
}
"""Known reasons of misses, by the beginning of model/start."""


def _misses(misses: Sequence[Miss]) -> list[str]:
    lines = ["### Misses", ""]
    if not misses:
        return [*lines, "None.", ""]
    lines += [
        "One line for each model, start and quantity: the block where it begins, by 3 std errors.",
        "",
        "| model | start | tier | where | type | predicted / measured | 3 std errors | by t "
        "| reason |",
        "|---|---|---|---|---|---:|---:|---:|---|",
    ]
    for one in sorted(misses, key=lambda miss: (miss.tier, miss.model, miss.start)):
        place = f"{one.model}/{one.start}"
        reason = next((why for key, why in REASONS.items() if place.startswith(key)), "not known")
        lines.append(
            f"| `{one.model}` | {TITLES[one.start]} | {one.tier} | {_text(one.where)} "
            f"| {one.module_type} | {math.exp(_clip(one.predicted - one.measured)):.3g} "
            f"| {_percent(one.reach())} | {_percent(one.reach(student=True))} | {reason} |"
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
        found["loss"] = log(mean / measured["expected"]), error / mean
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
    parser.add_argument(
        "--timeout", type=float, default=200.0, help="seconds for a model in a round"
    )
    parser.add_argument("--check", action="store_true", help="check's errors on the sample")
    parser.add_argument("--table", action="store_true", help="only write the page")
    options = parser.parse_args()
    data = json.loads(options.out.read_text()) if options.out.exists() else {}
    names = SAMPLE.read_text().splitlines() if options.check else list(MODELS)
    names = [name for name in names if options.only in name]
    names = names[:: -(-len(names) // options.limit) if options.limit else 1]
    torch.set_num_threads(1)
    if not options.table:
        warm()
        run = _prove if options.check else _rounds
        run(data, names, options)
    _write(data)


def _prove(data: dict[str, Any], names: Sequence[str], options: argparse.Namespace) -> None:
    done = data.setdefault("checked", {})
    for name in names:
        if name not in done:
            _one(done, name, prove, options.timeout)
            options.out.write_text(json.dumps(data))


def _rounds(data: dict[str, Any], names: Sequence[str], options: argparse.Namespace) -> None:
    done = data.setdefault("models", {})
    methods = options.method or list(METHODS)
    for seeds in [*(count for count in ROUNDS if count < options.seeds), options.seeds]:
        for name in sorted(names, key=lambda name: _cost(done.get(name))):
            held = done.get(name)
            if isinstance(held, str) or (held and _reached(held, seeds, methods)):
                continue
            known = held or {}

            def work(name: str, known: Any = known, seeds: int = seeds) -> dict[str, Any]:
                return examine(name, known, seeds, methods, options.timeout)

            _one(done, name, work, 3 * options.timeout)
            options.out.with_suffix(".part").write_text(json.dumps(data))
            options.out.with_suffix(".part").replace(options.out)
        _write(data)


def _cost(held: Any) -> float:
    """Seconds that a model took so far; what was never run comes in the order of the list."""
    return held["seconds"] if isinstance(held, dict) else math.inf


def _reached(held: Mapping[str, Any], seeds: int, methods: Sequence[str]) -> bool:
    counts = {start: len(one["rows"]) for start, one in held["runs"].items()}
    measured = all(counts.get(start, 0) >= aim(start, seeds) for start in held["starts"])
    wanted = {f"{start}/{m}" for start in held["runs"] if start in PREDICTED for m in methods}
    return measured and wanted <= set(held["predictions"]) and held["tree"] == TREE


def _one(done: dict[str, Any], name: str, work: Callable[[str], Any], timeout: float) -> None:
    began = time.perf_counter()
    found = alone(work, name, timeout)
    seconds = time.perf_counter() - began
    if isinstance(found, dict):
        found["seconds"] = seconds
    if isinstance(found, dict) or not isinstance(done.get(name), dict):
        done[name] = found
    told = found if isinstance(found, str) else "ok"
    print(f"{name} {seconds:.1f} s {told}", flush=True)


def _write(data: Mapping[str, Any]) -> None:
    """The page, from what is there."""
    order = {name: number for number, name in enumerate(MODELS)}
    models = dict(sorted(data.get("models", {}).items(), key=lambda one: order.get(one[0], 999)))
    for name, one in models.items():
        if isinstance(one, dict):
            starts = {start: summary(runs) for start, runs in one["runs"].items()}
            models[name] = {**one, "starts": starts}
    DOCS.write_text(page(models, data.get("checked", {})))


if __name__ == "__main__":
    main()
