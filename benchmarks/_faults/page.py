"""docs/faults.md, from the outcomes of ``faults.py``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from _faults.networks import GROUPS, MODELS, Group, group
from _faults.table import FAULTS, Fault

__all__ = ["GOALS", "Cell", "key", "page", "verdict"]

Cell = dict[str, Any]
"""The outcome of one fault in one network, as plain data."""


def key(fault: Fault | None, name: str) -> str:
    """Under which a cell is kept; ``None`` stands for the network without a fault."""
    return f"{fault.name if fault else 'healthy'}/{name}"


GOALS = {"detected": 0.95, "located": 0.90, "fixed": 0.80}


def cells(done: dict[str, Cell], fault: Fault | None = None) -> list[tuple[Fault, str, Cell]]:
    """The cells in which a fault applies and the run came to an end."""
    return [
        (one, name, done[key(one, name)])
        for one in ([fault] if fault else FAULTS)
        for name in MODELS
        if done.get(key(one, name), {}).get("applies")
    ]


def crashes(done: dict[str, Cell]) -> list[tuple[str, str]]:
    return [
        (place, cell["crash"])
        for place, cell in done.items()
        if "crash" in cell and place.partition("/")[2] in MODELS
    ]


def of(wanted: Group, found: Iterable[tuple[Fault, str, Cell]]) -> list[Cell]:
    return [cell for _, name, cell in found if group(name) == wanted]


def count(found: list[Cell], what: str) -> int:
    return sum(bool(cell[what]) for cell in found)


def part(found: list[Cell], what: str) -> str:
    right = count(found, what)
    return f"{right} of {len(found)} ({right / len(found):.1%})" if found else "-"


def verdict(done: dict[str, Cell]) -> list[str]:
    """Detected, located and fixed of every group, and the false alarms."""
    found = cells(done)
    lines = [f"| | {' | '.join(GROUPS)} | goal |", "|---|---|---|---|---:|"]
    for what, goal in GOALS.items():
        parts = " | ".join(part(of(one, found), what) for one in GROUPS)
        lines.append(f"| {what} | {parts} | {goal:.0%} |")
    for severity, goal_text in (("error", "0"), ("warning", "under 2%")):
        for start in ("own", "auto"):
            counts = [alarmed(done, one, start, severity) for one in GROUPS]
            whose = "the library's own start" if start == "own" else "`auto`"
            lines.append(
                f"| false {severity}s, {whose} | "
                + " | ".join(f"{bad} of {all_} networks" for bad, all_ in counts)
                + f" | {goal_text} |"
            )
    return lines


def alarmed(done: dict[str, Cell], wanted: Group, start: str, severity: str) -> tuple[int, int]:
    """Sound networks with such a finding that is not known to be right, and networks."""
    names = [name for name in MODELS if group(name) == wanted]
    seen = [done.get(key(None, name), {}).get("alarms") for name in names]
    known = [(name, one[start]) for name, one in zip(names, seen, strict=True) if one]
    wrong = [
        any(found == severity and (name, start, code) not in RIGHT for code, found in alarms)
        for name, alarms in known
    ]
    return sum(wrong), len(known)


def page(done: dict[str, Cell], tree: str) -> str:
    """docs/faults.md; ``tree`` is the version of the code that is there now."""
    found = cells(done)
    names = {name for _, name, _ in found}
    old = sum(cell.get("tree") != tree for _, _, cell in found)
    lines = [
        "# Faults: whether the doctor can be trusted",
        "",
        f"Written by `python benchmarks/faults.py`: {len(FAULTS)} faults in {len(names)} networks, "
        f"{len(found):,} times where one applies, torch {torch.__version__.partition('+')[0]}. "
        "What detected, located and fixed mean is in that file."
        + (
            f" {old:,} of the outcomes are of an earlier version of the code or of the faults."
            if old
            else ""
        ),
        "",
        *SEEN,
        "",
        *verdict(done),
        "",
        "## By fault",
        "",
        "Of all networks, and in brackets of the fresh ones. *Fixed by*: `repair` where "
        "`initium.repair` has to bring the network back; *advice* where code or data have to "
        "change: the finding has to say the change, and with that change made by hand, in code "
        "at the place that the finding names, a check finds nothing new. Where init code is at "
        "fault, the code with the change is the sound code itself, and only what the finding "
        "says counts.",
        "",
        "| fault | any of | found by | networks | detected | located | fixed | fixed by |",
        "|---|---|---|---:|---:|---:|---:|---|",
        *(_row(fault, cells(done, fault)) for fault in FAULTS),
        "",
        "## Sound networks",
        "",
        "Every finding of a network without a fault that is not information. Those that are right, "
        "since the start is known to be bad, do not count as false.",
        "",
        *_alarms(done),
        "",
        "## Missed",
        "",
        *_misses(done),
        "",
        "## Not tried",
        "",
        *UNTRIED,
    ]
    return "\n".join(lines) + "\n"


def _row(fault: Fault, found: list[tuple[Fault, str, Cell]]) -> str:
    fresh = [cell for _, name, cell in found if group(name) == "fresh"]
    held = [cell for _, _, cell in found]
    counts = [f"{count(held, what)} ({count(fresh, what)})" for what in GOALS]
    codes = ", ".join(fault.codes) + (" (information)" if fault.info else "")
    tools = sorted({cell["by"].removesuffix("ed") for cell in held if cell["detected"]})
    by = "advice" if fault.advice else "repair"
    return (
        f"| {fault.name} | {codes} | {', '.join(tools)} | {len(held)} ({len(fresh)}) "
        f"| {' | '.join(counts)} | {by} |"
    )


def _alarms(done: dict[str, Cell]) -> list[str]:
    lines = []
    for name in MODELS:
        alarms = done.get(key(None, name), {}).get("alarms", {})
        for start in ("own", "auto"):
            for code, severity in alarms.get(start, ()):
                whose = "its own start" if start == "own" else "`auto`"
                reason = RIGHT.get((name, start, code), "false")
                lines.append(
                    f"- {group(name)}, {name}, {whose}: {severity} {code}. "
                    f"{reason[0].upper()}{reason[1:]}."
                )
    return lines or ["None."]


def _misses(done: dict[str, Cell]) -> list[str]:
    lines = []
    for fault in FAULTS:
        missed = [
            (name, [what for what in GOALS if not cell[what]], cell)
            for wanted in GROUPS
            for _, name, cell in cells(done, fault)
            if group(name) == wanted and not all(cell[what] for what in GOALS)
        ]
        if not missed:
            continue
        why = REASONS.get(fault.name)
        lines += [f"**{fault.name}**" + (f": {why}" if why else ""), ""]
        for name, what, cell in missed:
            said = ", ".join(
                f"{code} {severity} at {', '.join(where[:1])}"
                for code, severity, where in cell["found"][:3]
            )
            because = f"; {cell['why']}" if cell.get("why") else ""
            lines.append(
                f"- {group(name)}, {name}: not {' or '.join(what)}. "
                f"In {', '.join(cell['places'][:2])}; said: {said or 'nothing'}{because}"
            )
        lines.append("")
    broken = crashes(done)
    if broken:
        lines += ["**Not run to the end**", "", *(f"- {place}: {why}" for place, why in broken)]
    return lines or ["Nothing."]


CHAIN = "torch's default loses the signal of a deep ReLU or GELU chain"
COPIES = "nn.TransformerEncoder copies one layer, so that all of them start alike"
SWAPPED = "torch's default reads the fans of a transposed convolution the wrong way round"
UNUSED = "this batch gives no mask, and the mask's token is used by nothing else"
RIGHT: dict[tuple[str, str, str], str] = {
    ("demo:mlp-relu-10-256", "own", "IN201"): CHAIN,
    ("demo:mlp-gelu-20-256", "own", "IN201"): CHAIN,
    ("demo:convnet", "own", "IN201"): CHAIN,
    ("demo:gpt", "own", "IN501"): "torch's default gives the table, which is the head too, std 1",
    ("net:torch encoder, pre-norm", "own", "IN726"): COPIES,
    ("net:torch encoder, post-norm", "own", "IN726"): COPIES,
    ("net:plain gelu 12 x 512", "own", "IN201"): CHAIN,
    ("torch:U-Net", "own", "IN201"): CHAIN,
    ("torch:FSRCNN", "own", "IN201"): CHAIN,
    ("torch:FSRCNN", "own", "IN724"): SWAPPED,
    ("torch:decoder", "own", "IN724"): SWAPPED,
    ("hf:dinov2", "own", "IN304"): UNUSED,
    ("hf:dinov2", "auto", "IN304"): UNUSED,
    ("vit-pytorch:simple_vit_with_qk_norm.SimpleViT", "auto", "IN404"): (
        "queries and keys are normed to length 8, and their products are not divided by anything"
    ),
}
"""Findings of sound networks that are right: network, start and code, and why."""
REASONS: dict[str, str] = {
    "embeddings x 1e-4": "where a norm's epsilon is smaller still (1e-12), the output stays as it "
    "was, and only the tables' gradient is too large; in a recurrent network no norm shows it",
    "float16 without loss scaling": "behind a layer scale of 1e-6 the gradients are lost with the "
    "usual scale of 65536 too, and bfloat16 is the remedy",
}
"""Why a fault is missed where it is."""
SEEN = (
    "- **Fresh** networks are the blind verdict: none had been checked here, with a fault or "
    "without, until the code was frozen.",
    "- **Held out** networks, half of the others by a hash of their names, were meant to be that, "
    "and are so no longer: demo:vit was in a first trial, and misses among them had been seen "
    "before one rule of the doctor was changed, and before some of this benchmark were (which "
    "codes and places count, and where a head of std 1 is loud).",
    "- **Tuning** networks are the other half: every miss was looked at while the doctor was "
    "mended.",
)
"""What had been seen of each group."""
UNTRIED = (
    "- Faults that need several processes: fans of a shard, replicas that differ "
    "(tests/test_placement.py).",
    "- A plan's own refusals, which come before there is a network to check: a rule that matches "
    "nothing, a parameter without a rule, two rules for one tensor (tests/test_plan.py).",
    "- The deep checks (IN801 to IN805, [deep.md](deep.md)) and the watch of the first steps "
    "(IN811 to IN813).",
)
