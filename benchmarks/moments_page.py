"""The page that ``moments.py`` writes: what was reached first, then how, then every model."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from judged import (
    GOALS,
    METRICS,
    Miss,
    Missed,
    as_built,
    metrics,
    missed,
    nearer,
    percentile,
    rows_of,
    unmatched,
    worse,
)
from measured import METHODS, PREDICTED, STARTS
from proved import section
from zoo import FRESH, MODELS

__all__ = ["page"]

TITLES = {"auto": "auto", "torch": "torch", "own": "library", "he": "He", "lsuv": "LSUV"}
SOURCES = {"net": "written out", "demo": "demo", "hf": "transformers"}
NAMES = {
    "forward": "second moment of a block's output",
    "gradient": "gradient at a block, relative to the output's",
    "loss": "first loss, where the logits' standard deviation is at most 1",
}
ENOUGH = {"models": 80, "seeds": 48}
REASONS = {
    "demo:mlp-gelu-20-256/auto/": "three passes that agree by chance: 40 passes and 40 starts "
    "give 0.0412 and 0.0406 at the output",
    **{
        f"demo:convnet/torch/{what}/lazy draws": "four draws of a large spread: over 80 draws and "
        "80 starts every block is within 22%"
        for what in ("forward", "gradient")
    },
    "vit-pytorch:cct.CCT/auto/gradient": "few passes of a large spread: over 24 passes and 40 "
    "starts 1.17",
    "vit-pytorch:vit.ViT/torch/gradient": "the class token and its position keep their values and "
    "are known by their std: the variance of their sum is 2.28 and not 1.86",
}
"""Reasons of misses that an experiment showed, by the beginning of model/start/what/tier."""


def page(outcomes: Mapping[str, Any], proved: Mapping[str, Any]) -> str:
    """The whole document."""
    held = {name: one for name, one in outcomes.items() if isinstance(one, dict)}
    known = {name: one for name, one in held.items() if name not in FRESH}
    fresh = {name: one for name, one in held.items() if name in FRESH}
    listed, table = _worse(held)
    lines = [
        "# Moments: predicted, measured, and side by side",
        "",
        "`initium.predict` says from a model's code and its plan alone, without weights, how large",
        "the signal is at every block, how large the gradient is, and what the first loss will be.",
        "Here that is held against real starts: a model is filled, run forward and backward once,",
        "and again under other seeds. Then five ways to start the same models are compared.",
        "",
        f"Written by `benchmarks/moments.py`, torch {torch.__version__}, {platform.machine()}. "
        f"Models: {_families(held)}.",
        "",
        *_goals(known, fresh, proved, len(listed)),
        *_reading(held),
        "## Prediction against measurement",
        "",
        "On these models the rules were developed.",
        "",
        *_summaries(known),
    ]
    if fresh:
        lines += [
            f"### Fresh models ({len(fresh)})",
            "",
            "Chosen before, most of them at random from the whole lists of their libraries, and of",
            "other families than those above: no prediction had been compared on them before the",
            "run that this page shows. `benchmarks/fresh.py` says how they were drawn.",
            "",
            *_summaries(fresh),
        ]
    lines += [
        *_tiers(held), *_misses(held), *_medians(held), *_unpredicted(held),
        *_side_by_side(held), *table, *section(proved), *_seeds(held), *_models(held),
    ]  # fmt: skip
    failed = {name: one for name, one in outcomes.items() if not isinstance(one, dict)}
    if failed:
        lines += ["## Not run", "", "| model | reason |", "|---|---|"]
        lines += [f"| `{name}` | {_text(why)} |" for name, why in failed.items()]
    return "\n".join(lines).rstrip() + "\n"


def _families(outcomes: Mapping[str, Any]) -> str:
    counts = Counter(name.partition(":")[0] for name in outcomes)
    parts = [f"{count} {SOURCES.get(source, source)}" for source, count in counts.items()]
    return f"{len(outcomes)} of {len(MODELS) + len(FRESH)} ({', '.join(parts)})"


# Goals ----------------------------------------------------------------------------------------


def _goals(
    known: Mapping[str, Any], fresh: Mapping[str, Any], proved: Mapping[str, Any], worse: int
) -> list[str]:
    groups = [(label, models) for models in (known, fresh) for label in METHODS]
    lines = [
        "## What was reached",
        "",
        "Each cell is the worst of the starts `auto`, torch's default and the library's own; the",
        "numbers beyond are those of all three.",
        "",
        "| error of the prediction | goal | closed form | draws | closed form, fresh models "
        "| draws, fresh models |",
        "|---|---|---|---|---|---|",
    ]
    for what, (middle, high) in GOALS.items():
        wanted = (
            [("every", high, 1.0)]
            if what == "loss"
            else [("median", middle, 0.5), ("95th percentile", high, 0.95)]
        )
        for word, goal, share in wanted:
            cells = [_verdict(models, label, what, goal, share) for label, models in groups]
            lines.append(
                f"| {NAMES[what]}: {word} | {100 * goal:g}% | {' | '.join(cells)} |"
            )  # fmt: skip
    models = {**known, **fresh}
    enough = sum(
        one["starts"][start]["seeds"] >= ENOUGH["seeds"]
        for one in models.values()
        for start in PREDICTED
        if start in one["starts"]
    )
    predicted = sum(
        any("layers" in made for made in one["predictions"].values()) for one in models.values()
    )
    starts = sum(start in one["starts"] for one in models.values() for start in PREDICTED)
    lines += [
        "",
        "| besides | goal | reached |",
        "|---|---|---|",
        f"| models of all families, measured and predicted | {ENOUGH['models']} | {predicted} |",
        f"| starts measured over {ENOUGH['seeds']} seeds | where affordable "
        f"| {enough} of {starts} |",
    ]
    figures = sum(
        name in metrics(one["starts"]["auto"]) for one in models.values() for name in METRICS
    )
    lines += [
        f"| figures in which another start is better than `auto` | listed | {worse} of {figures} |",
        f"| measured numbers of blocks without a prediction | listed | {unmatched(models)} |",
    ]
    if proved:
        held = [one for one in proved.values() if isinstance(one, dict)]
        failed = sum(any(f[0] == "error" for f in one["findings"]) for one in held)
        lines.append(
            f"| models with an error in `initium.check` under `auto` | 0 of 150 "
            f"| {failed} of {len(held)} |"
        )
    return [
        *lines,
        "",
        "*Holds*: the figure is under the goal. *Within noise*: it is above, but no more blocks",
        "are beyond both the goal and three standard errors than the goal leaves room for (half",
        "of them for a median, one in twenty for a 95th percentile, none for the loss). *Misses*:",
        "more are. All that is beyond is listed under Misses, with a reason where one was shown.",
        "",
    ]


def _verdict(outcomes: Mapping[str, Any], label: str, what: str, goal: float, share: float) -> str:
    """The worst start, by the verdict and then by the figure; what is beyond under all of them."""
    found, beyond, count = [], 0, 0
    for start in PREDICTED:
        rows = _rows(outcomes, label, start, what)
        if not rows:
            continue
        far = [one.error for one in rows if one.beyond(goal)]
        beyond, count = beyond + len(far), count + len(rows)
        figure = percentile([one.error for one in rows], share)
        rank = 0 if figure <= math.log1p(goal) else 1 if len(far) <= (1 - share) * len(rows) else 2
        if far and share == 1.0:  # the largest of all may be noise
            figure = max(far)
        found.append((rank, figure, start))
    if not found:
        return "-"
    rank, figure, start = max(found)
    word = ("holds", "within noise", "**misses**")[rank]
    told = f", {beyond} of {count} numbers beyond" if rank else ""
    return f"{word}: {_percent(figure)} ({TITLES[start]}){told}"


def _rows(outcomes: Mapping[str, Any], label: str, start: str, what: str) -> list[Miss]:
    return [one for rows in rows_of(outcomes, label, start, what).values() for one in rows]


# Prediction -----------------------------------------------------------------------------------


def _reading(outcomes: Mapping[str, Any]) -> list[str]:
    own = [one["predictions"].get("own/lazy draws", {}) for one in outcomes.values()]
    made, kept = sum("layers" in one for one in own), sum(map(as_built, own))
    return [
        "## How to read it",
        "",
        "Errors are differences of logarithms, written as percentages: 5% is a factor of 1.05.",
        "",
        "- *Blocks*: the repeated parts of a model, or its numbered modules, and its output.",
        "- *Closed form*: moments carried from operator to operator, no sample of the net; held",
        "  against the mean of the measured second moments. *Draws*: 4 lazy draws of the real",
        "  graph, in which each product with a weight is drawn from its law (weights of at most",
        "  65,536 elements and those of convolutions are drawn as numbers, as in a real start);",
        "  they are geometric means and are held against the mean of the measured logarithms.",
        "- *Gradients* are relative to that of the output in the same run, pass by pass; that of",
        "  the output, which is 1, is not counted.",
        "- *Library*: predicted from the real weights of one start by the model's own library; how",
        "  much one start strays from the mean of all counts as noise. What has at most 65,536",
        "  elements keeps its values: a library's row shows less than the others, and in",
        f"  {kept} of {made} models nothing else is left, so that all draws are that start itself.",
        "- *Beyond*: further off than the goal and than three standard errors of both sides",
        "  together. Behind the slash: than what is as unlikely by Student's t, because with few",
        "  seeds or passes a standard error is itself uncertain and 3 of them are exceeded more",
        "  often than 3 times in 1,000 by chance (degrees of freedom by Welch and Satterthwaite).",
        "- The first loss counts where the logits' standard deviation is at most 1.",
        "- Sizes: transformers at two layers and at most 256 channels, timm at its own widths and",
        "  its smallest image, the rest at widths of 64 to 512.",
        "",
    ]


def _summaries(outcomes: Mapping[str, Any]) -> list[str]:
    lines = [
        "| method | start | what | models | blocks | median (goal) | 95th (goal) "
        "| blocks beyond the 95th's goal, 3 std errors / t "
        "| models whose median block is beyond the median's goal |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label in METHODS:
        for start in PREDICTED:
            for what in GOALS:
                rows = _rows(outcomes, label, start, what)
                if rows:
                    lines.append(f"| {label} | {TITLES[start]} | {what} | {_summary(rows, what)} |")
    return [*lines, ""]


def _summary(rows: Sequence[Miss], what: str) -> str:
    middle, high = GOALS[what]
    models: dict[str, list[Miss]] = {}
    for one in rows:
        models.setdefault(one.model, []).append(one)
    middles = [_middle(model) for model in models.values()]
    errors = [one.error for one in rows]
    return (
        f"{len(models)} | {len(rows)} "
        f"| {_percent(percentile(errors, 0.5))} ({100 * middle:g}%) "
        f"| {_percent(percentile(errors, 0.95))} ({100 * high:g}%) "
        f"| {_beyond(rows, high)} | {_beyond(middles, middle)}"
    )


def _middle(rows: Sequence[Miss]) -> Miss:
    """The block of the median error."""
    return sorted(rows, key=lambda one: one.error)[len(rows) // 2]


def _beyond(rows: Sequence[Miss], goal: float) -> str:
    """How many are, by three standard errors and by Student's t."""
    literal, student = (sum(one.beyond(goal, by) for one in rows) for by in (False, True))
    return f"{literal} / {student}"


def _tiers(outcomes: Mapping[str, Any]) -> list[str]:
    """The errors by the tier that each number says it came from."""
    groups: dict[tuple[str, str], list[Miss]] = {}
    for label in METHODS:
        for start in PREDICTED:
            for what in GOALS:
                for one in _rows(outcomes, label, start, what):
                    groups.setdefault((what, one.tier), []).append(one)
    lines = [
        "### By tier",
        "",
        "Every number names the tier that it rests on: a closed form all the way, Monte Carlo of a",
        "single operator somewhere on it, or lazy draws of the whole graph. All models and starts.",
        "",
        "| what | tier | numbers | median | 95th | beyond, 3 std errors / t |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (what, tier), rows in sorted(groups.items()):
        errors = [one.error for one in rows]
        lines.append(
            f"| {what} | {tier} | {len(rows)} | {_percent(percentile(errors, 0.5))} "
            f"| {_percent(percentile(errors, 0.95))} | {_beyond(rows, GOALS[what][1])} |"
        )
    return [*lines, ""]


def _misses(outcomes: Mapping[str, Any]) -> list[str]:
    found = missed(outcomes)
    lines = [f"### Misses ({len(found)})", ""]
    if not found:
        return [*lines, "None.", ""]
    lines += [
        "One line for each model, start, method and quantity: the block where it begins (for",
        "gradients, from the end), by 3 standard errors. *By t*: what those are by Student's t.",
        "The reason was sought by predicting again, over many passes with seeds of their own.",
        "",
        "| model | start | tier | what | where | type | predicted / measured | 3 std errors | by t "
        "| reason |",
        "|---|---|---|---|---|---|---:|---:|---:|---|",
    ]
    for miss in sorted(found, key=lambda miss: (miss.first.tier, miss.first.model)):
        one, more = miss.first, f" and {miss.count - 1} more" if miss.count > 1 else ""
        lines.append(
            f"| {_named(one.model)} | {TITLES[one.start]} | {one.tier} | {one.what} "
            f"| {_text(one.where or '(the model)')}{more} | {one.module_type} | {_ratio(one)} "
            f"| {_percent(one.reach())} | {_percent(one.reach(student=True))} | {_reason(miss)} |"
        )
    return [*lines, ""]


def _medians(outcomes: Mapping[str, Any]) -> list[str]:
    """The models whose median block is beyond the goal for a median, by Student's t too."""
    found = [
        (label, one)
        for label in METHODS
        for start in PREDICTED
        for what in ("forward", "gradient")
        for rows in rows_of(outcomes, label, start, what).values()
        if (one := _middle(rows)).beyond(GOALS[what][0], student=True)
    ]
    if not found:
        return []
    return [
        f"### Models whose median block is off ({len(found)})",
        "",
        "The goal for a median is one over all blocks; these models are beyond it by themselves,",
        "by Student's t too.",
        "",
        "| model | start | method | what | predicted / measured | 3 std errors | reason |",
        "|---|---|---|---|---:|---:|---|",
        *(
            f"| {_named(one.model)} | {TITLES[one.start]} | {label} | {one.what} | {_ratio(one)} "
            f"| {_percent(one.reach())} | {_shown(one) or 'not known'} |"
            for label, one in found
        ),
        "",
    ]


def _ratio(miss: Miss) -> str:
    return f"{math.exp(_clip(miss.predicted - miss.measured)):.3g}"


def _shown(miss: Miss) -> str | None:
    """The reason that an experiment by hand showed."""
    place = f"{miss.model}/{miss.start}/{miss.what}/{miss.tier}"
    return next((why for key, why in REASONS.items() if place.startswith(key)), None)


def _reason(miss: Missed) -> str:
    """What many passes show; what an experiment by hand showed; or what Student's t says."""
    one = miss.first
    shown = _shown(one)
    told = shown or ("not known" if one.beyond(0.0, student=True) else "within noise by t")
    if miss.again is None:
        return told
    ratio = f"{_ratio(miss.again)}, 3 std errors {_percent(miss.again.reach())}"
    if miss.again.beyond(GOALS[one.what][1]):
        return f"{shown or 'not known'}; over many passes {ratio}"
    return f"too few passes for its spread: over many {ratio}"


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
    return [*lines, *(f"| {_named(m)} | {key} | {_text(why)} |" for m, key, why in failed), ""]


# Starting points ------------------------------------------------------------------------------


def _side_by_side(outcomes: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Side by side",
        "",
        "Four figures of a start, each best at 1, geometric means over seeds, over the blocks of",
        "the commonest type: *forward*, the last block's second moment over the first's;",
        "*gradient*, the first's over the last's; *worst layer*, the second moment furthest from",
        "1; *loss*, the first one over ln C. LSUV is `initium.calibrate` on torch's default; He",
        "and LSUV have half the seeds. A net of normalised branches need not be at 1 everywhere:",
        "a stream that grows with depth, or branches that start at zero, show here.",
        "",
        "Median distance from 1 over the models that have all the starts of a row:",
        "",
        f"| | models | {' | '.join(TITLES[start] for start in STARTS)} |",
        "|---|" + "---:|" * (len(STARTS) + 1),
    ]
    others = tuple(start for start in STARTS if start != "own")
    for title, starts in (("all models", others), ("models of libraries", STARTS)):
        for name in METRICS:
            rows = [
                {start: abs(made[start][name][0]) for start in starts}
                for one in outcomes.values()
                for made in [_made(one)]
                if all(name in made.get(start, {}) for start in starts)
            ]
            if rows:
                cells = [
                    f"x{math.exp(_clip(percentile([row[start] for row in rows], 0.5))):.3g}"
                    if start in starts
                    else ""
                    for start in STARTS
                ]
                lines.append(f"| {name}, {title} | {len(rows)} | {' | '.join(cells)} |")
    return [*lines, "", *_duels(outcomes)]


def _duels(outcomes: Mapping[str, Any]) -> list[str]:
    """How often ``auto`` is nearer to 1 than each other start, and how often it is not."""
    others = [start for start in STARTS if start != "auto"]
    lines = [
        "### How often auto is nearer",
        "",
        "`auto` is nearer to 1 / the other start is, of all models that have both; by more than",
        "1% and three standard errors, the rest is even.",
        "",
        f"| | {' | '.join(TITLES[start] for start in others)} |",
        "|---" * (len(others) + 1) + "|",
    ]
    made = [_made(one) for one in outcomes.values()]
    for name in METRICS:
        cells = []
        for start in others:
            pairs = [
                (one["auto"][name], one[start][name])
                for one in made
                if name in one["auto"] and name in one.get(start, {})
            ]
            won = sum(nearer(mine, other) > 0 for mine, other in pairs)
            lost = sum(nearer(other, mine) > 0 for mine, other in pairs)
            cells.append(f"{won} / {lost} of {len(pairs)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _made(one: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """The figures of every start of a model."""
    return {start: metrics(found) for start, found in one["starts"].items()}


def _worse(outcomes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The rows of a table of where ``auto`` is worse, and the section that they stand in."""
    rows = []
    for model, one in outcomes.items():
        made = _made(one)
        for name in METRICS:
            better = worse(made, name)
            if better:
                cells = [
                    f"**{_factor(made, start, name)}**"
                    if start in better
                    else _factor(made, start, name)
                    for start in STARTS
                ]
                distance = math.exp(_clip(max(better.values())))
                rows.append(f"| {_named(model)} | {name} | {' | '.join(cells)} | {distance:.3g} |")
    return rows, [
        f"### Where auto is worse ({len(rows)})",
        "",
        "Every figure in which another start is nearer to 1 by more than 1% and three standard",
        "errors; those in bold are nearer, the last column says by what factor at most.",
        "",
        f"| model | figure | {' | '.join(TITLES[start] for start in STARTS)} | factor |",
        "|---" * (len(STARTS) + 3) + "|",
        *rows,
        "",
    ]


def _models(outcomes: Mapping[str, Any]) -> list[str]:
    """The four figures of every start of every model."""
    names = " ".join(METRICS[:-1]) + " worst"
    lines = [
        "## Every model",
        "",
        f"In each cell: {names}.",
        "",
        "| model | seeds | " + " | ".join(TITLES[start] for start in STARTS) + " |",
        "|---" * (len(STARTS) + 2) + "|",
    ]
    for model, one in outcomes.items():
        made = _made(one)
        cells = [
            " ".join(_factor(made, start, name) for name in METRICS) if start in made else ""
            for start in STARTS
        ]
        seeds = one["starts"]["auto"]["seeds"]
        lines.append(f"| {_named(model)} | {seeds} | {' | '.join(cells)} |")
    return [*lines, ""]


def _seeds(outcomes: Mapping[str, Any]) -> list[str]:
    """The models with fewer seeds than wanted."""
    rows = []
    for model, one in outcomes.items():
        counts = {start: found["seeds"] for start, found in one["starts"].items()}
        cells = [counts.get(start) for start in PREDICTED]
        if any(count is not None and count < ENOUGH["seeds"] for count in cells):
            told = " | ".join("" if count is None else str(count) for count in cells)
            rows.append(f"| {_named(model)} | {told} |")
    if not rows:
        return []
    return [
        f"## Fewer than {ENOUGH['seeds']} seeds ({len(rows)} models)",
        "",
        "Seeds come in rounds, cheap models first, and a model has a few minutes of one core in a",
        "round; these cost more, or the run ended before their turn.",
        "",
        f"| model | {' | '.join(TITLES[start] for start in PREDICTED)} |",
        "|---|---:|---:|---:|",
        *rows,
        "",
    ]


# ----------------------------------------------------------------------------------------------


def _named(model: str) -> str:
    return f"`{model}`" + (" (fresh)" if model in FRESH else "")


def _factor(made: Mapping[str, Mapping[str, tuple[float, float]]], start: str, name: str) -> str:
    value = made.get(start, {}).get(name)
    return "-" if value is None else f"{math.exp(_clip(value[0])):.3g}"


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):.1f}%" if log < 2 else f"x{math.exp(min(log, 600)):.3g}"


def _clip(log: float) -> float:
    return max(-690.0, min(690.0, log))


def _text(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())
