"""docs/faults.md, from the outcomes of ``faults.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from deep import MODELS as DEEP
from zoo import MODELS as ZOO

from _faults.networks import GROUPS, MODELS, group
from _faults.prose import ABOUT, JUDGED, LEFT_OUT, REASONS, RIGHT, SEEN, UNTRIED, Alarm
from _faults.table import FAULTS, Fault

__all__ = ["GOALS", "Cell", "key", "page", "verdict"]

Cell = dict[str, Any]
"""The outcome of one fault in one network, as plain data."""
Found = list[tuple[Fault, str, Cell]]
"""Cells with their faults and networks."""

GOALS = {"detected": 0.95, "located": 0.90, "fixed": 0.80}
MANY = 6
"""So many places at most are kept of a cell; a fault of so many is located almost by itself."""
SAMPLE = Path(__file__).parents[1] / "sample.txt"
NEW = "fresh, in no other benchmark"
COLUMNS = (GROUPS[0], NEW, *GROUPS[1:])
CRASHED: Cell = {"applies": True, "found": [], "places": []} | dict.fromkeys(GOALS, False)
"""A cell that did not run to the end: all is missed."""
ROWS: tuple[tuple[str, Callable[[Fault, Cell], bool]], ...] = (
    ("", lambda fault, cell: True),
    (", by a check", lambda fault, cell: fault.tool != "audit"),
    (", by an audit of init code", lambda fault, cell: fault.tool == "audit"),
    (", fewer than six places spoilt", lambda fault, cell: len(cell["places"]) < MANY),
)
"""Which cells the rates are of."""


def key(fault: Fault | None, name: str) -> str:
    """Under which a cell is kept; ``None`` stands for the network without a fault."""
    return f"{fault.name if fault else 'healthy'}/{name}"


def cells(done: dict[str, Cell], fault: Fault | None = None) -> Found:
    """The cells in which a fault applies, or that crashed."""
    return [
        (one, name, CRASHED | cell if "crash" in cell else cell)
        for one in ([fault] if fault else FAULTS)
        for name in MODELS
        if "crash" in (cell := done.get(key(one, name), {})) or cell.get("applies")
    ]


def names_of(column: str) -> list[str]:
    """The networks of a group, or the fresh ones that no other check here has seen."""
    if column != NEW:
        return [name for name in MODELS if group(name) == column]
    elsewhere = {*SAMPLE.read_text().splitlines(), *ZOO, *(name for name, _ in DEEP)}
    return [name for name in names_of("fresh") if name not in elsewhere]


def part(found: Iterable[Cell], what: str) -> str:
    held = [bool(cell[what]) for cell in found]
    return f"{sum(held)} of {len(held)} ({sum(held) / len(held):.1%})" if held else "-"


def verdict(done: dict[str, Cell]) -> list[str]:
    """Detected, located and fixed of every group, and the false alarms."""
    found = cells(done)
    columns = [names_of(column) for column in COLUMNS]
    lines = [f"| | {' | '.join(COLUMNS)} | goal |", "|---|---|---|---|---|---:|"]
    for which, counts in ROWS:
        held = [(name, cell) for fault, name, cell in found if counts(fault, cell)]
        for what, goal in GOALS.items():
            words = " (words only)" if "audit" in which and what == "fixed" else ""
            parts = [part((cell for name, cell in held if name in one), what) for one in columns]
            lines.append(f"| {what}{which}{words} | {' | '.join(parts)} | {goal:.0%} |")
    for severity, goal_text in (("error", "0"), ("warning", "under 2%")):
        for start in ("own", "auto"):
            parts = [alarmed(done, one, start, severity) for one in columns]
            lines.append(
                f"| false {severity}s, {_whose(start)} | {' | '.join(parts)} | {goal_text} |"
            )
    return lines


def alarmed(done: dict[str, Cell], names: Iterable[str], start: str, severity: str) -> str:
    """Sound networks with such a finding that was not registered as right, of how many."""
    wrong = [
        any(
            one[3] == severity and one not in RIGHT
            for one in _alarms(done, name)
            if one[1] == start
        )
        for name in names
        if "alarms" in done.get(key(None, name), {})
    ]
    return f"{sum(wrong)} of {len(wrong)} networks"


def page(done: dict[str, Cell], tree: str) -> str:
    """docs/faults.md; ``tree`` is the version of the code that is there now."""
    found = cells(done)
    names = {name for _, name, _ in found}
    auto = [name for name in MODELS if done.get(key(None, name), {}).get("start") == "auto"]
    lines = [
        "# Faults: whether the doctor can be trusted",
        "",
        f"Written by `python benchmarks/faults.py`: {len(FAULTS)} faults in {len(names)} networks, "
        f"{len(found):,} times where one applies, torch {torch.__version__.partition('+')[0]}. "
        "What detected, located and fixed mean is in that file. " + _versions(done, tree),
        "",
        *SEEN,
        "",
        *verdict(done),
        "",
        *ABOUT,
        "",
        f"The start is that of `auto` in {len(auto)} networks: {', '.join(auto) or 'none'}.",
        "",
        "## By fault",
        "",
        "Of all networks, and in brackets of the fresh ones; *left out* are those in which a fault "
        "does not apply. The last column: `repair` where "
        "`initium.repair` has to bring the network back; *advice* where code or data have to "
        "change: the finding has to say the change, and with that change made by hand a check "
        "finds nothing new. The place is read from the finding where code stands behind a block, "
        "where a layer is not called, and for a table's new rows (not which rows); batch, labels, "
        "loss and frozen parameters are one place each. Where code stands behind every block and "
        "the finding names one of them, it is taken away from all. Where init code is at "
        "fault, the code with the change is the sound code itself, and only what the finding "
        "says counts.",
        "",
        "| fault | any of | found by | networks | left out | detected | located | fixed | by |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
        *(_row(fault, done) for fault in FAULTS),
        "",
        *LEFT_OUT,
        "",
        "## Sound networks",
        "",
        "Every finding of a network without a fault that is not information. Those that had been "
        "registered as right, since the start is known to be bad, do not count as false.",
        "",
        *_sound(done),
        "",
        "Registered as right, and not said with that severity:",
        "",
        *_unsaid(done),
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


def _versions(done: dict[str, Cell], tree: str) -> str:
    """How many outcomes are of which version of the code; those of rare ones by name."""
    wanted = [key(fault, name) for fault in (None, *FAULTS) for name in MODELS]
    held = {place: done[place].get("tree") or "unknown" for place in wanted if place in done}
    texts: list[str] = []
    for version, many in Counter(held.values()).most_common():
        here = ", the code as it is now" if version == tree else ""
        places = [place for place, one in held.items() if one == version]
        which = f": {'; '.join(places)}" if texts and many <= 12 else ""
        texts.append(f"{many:,} of version {version}{here}{which}")
    return (
        "Outcomes by version of the code, with sound networks and faults that do not apply: "
        f"{'. '.join(texts) or 'none'}."
    )


def _row(fault: Fault, done: dict[str, Cell]) -> str:
    held = cells(done, fault)
    fresh = [cell for _, name, cell in held if group(name) == "fresh"]
    every = [cell for _, _, cell in held]
    counts = [
        f"{sum(cell[what] for cell in every)} ({sum(cell[what] for cell in fresh)})"
        for what in GOALS
    ]
    out = [name for name in MODELS if done.get(key(fault, name), {}).get("applies") is False]
    left = f"{len(out)} ({sum(group(name) == 'fresh' for name in out)})"
    codes = ", ".join(fault.codes) + (" (information)" if fault.info else "")
    tools = sorted({cell["by"] for cell in every if cell["detected"]})
    return (
        f"| {fault.name} | {codes} | {', '.join(tools)} | {len(every)} ({len(fresh)}) | {left} "
        f"| {' | '.join(counts)} | {'advice' if fault.advice else 'repair'} |"
    )


def _whose(start: str) -> str:
    return "the library's own start" if start == "own" else "`auto`"


def _alarms(done: dict[str, Cell], name: str) -> list[Alarm]:
    """What is said of a sound network."""
    alarms = done.get(key(None, name), {}).get("alarms", {})
    return [
        (name, start, code, severity)
        for start in ("own", "auto")
        for code, severity in alarms.get(start, ())
    ]


def _sound(done: dict[str, Cell]) -> list[str]:
    lines = []
    for name in MODELS:
        for one in _alarms(done, name):
            _, start, code, severity = one
            reason, later = RIGHT.get(one, "false"), JUDGED.get((name, code))
            if one not in RIGHT and later:
                reason = f"counted as false; judged after the run, it is right: {later}"
            lines.append(
                f"- {group(name)}, {name}, {_whose(start)}: {severity} {code}. "
                f"{reason[0].upper()}{reason[1:]}."
            )
    return lines or ["None."]


def _unsaid(done: dict[str, Cell]) -> list[str]:
    """Bad starts about which the doctor is silent."""
    return [
        f"- {group(one[0])}, {one[0]}, {_whose(one[1])}: {one[3]} {one[2]}. "
        f"{why[0].upper()}{why[1:]}."
        for one, why in RIGHT.items()
        if "alarms" in done.get(key(None, one[0]), {}) and one not in _alarms(done, one[0])
    ] or ["None."]


def _misses(done: dict[str, Cell]) -> list[str]:
    lines = []
    for fault in FAULTS:
        missed = [
            (name, cell)
            for wanted in GROUPS
            for _, name, cell in cells(done, fault)
            if group(name) == wanted and not all(cell[what] for what in GOALS)
        ]
        if not missed:
            continue
        why = REASONS.get(fault.name)
        lines += [f"**{fault.name}**" + (f": {why}" if why else ""), ""]
        lines += [f"- {group(name)}, {name}: {_miss(cell)}" for name, cell in missed]
        lines.append("")
    unbuilt = [name for name in MODELS if "crash" in done.get(key(None, name), {})]
    if unbuilt:
        lines += ["**Sound networks not run to the end**", ""]
        lines += [f"- {name}: {done[key(None, name)]['crash']}" for name in unbuilt]
    return lines or ["Nothing."]


def _miss(cell: Cell) -> str:
    if "crash" in cell:
        return f"not run to the end. {cell['crash']}"
    said = ", ".join(
        f"{code} {severity} at {', '.join(where[:1])}"
        for code, severity, where in cell["found"][:3]
    )
    because = f"; {cell['why']}" if cell.get("why") else ""
    return (
        f"not {' or '.join(what for what in GOALS if not cell[what])}. "
        f"In {', '.join(cell['places'][:2])}; said: {said or 'nothing'}{because}"
    )
