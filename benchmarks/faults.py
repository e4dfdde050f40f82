"""Whether the doctor can be trusted: faults put into healthy networks, and what is said of them.

Every fault of ``_faults/table.py`` is put into every network of ``_faults/models.py`` where it
applies, and ``initium.check`` or ``initium.audit`` is run before and after:

- *detected*: a code that the fault is known by appears as a warning or an error, and was not there
  before (where the fault is information by design, as information);
- *located*: the first place of one such finding at least that the sound network had not is a spoilt
  place, or inside it, or a module around it up to the innermost that has a number (its block);
- *fixed*: ``initium.repair`` brings the network back to where nothing is found that was not found
  before; or, where code or data has to change, the finding's advice says the change that undoes
  the fault, and with that change made by hand (``_faults/byhand.py``) nothing new is found; for
  init code, the words are all that counts.

A cell that crashes or takes too long counts as missed in all three. Networks without a fault show
the false alarms. Nothing is tuned on fresh networks.

    python benchmarks/faults.py                      # everything that is not in --out yet
    python benchmarks/faults.py --only "NaN*/hf:*"   # these cells again
    python benchmarks/faults.py --quick              # a few networks, nothing written to docs/

Two processes, each with every second network, and one page of both:

    python benchmarks/faults.py --group fresh --part 1/2 --out out/a.json &
    python benchmarks/faults.py --group fresh --part 2/2 --out out/b.json; wait
    python benchmarks/faults.py --page --out out/faults.json --out out/a.json --out out/b.json

Not covered: faults that need several processes (fans of a shard, replicas that differ), the deep
checks, trained weights.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _faults.init import clean
from _faults.models import Subject, subject
from _faults.networks import GROUPS, MODELS, group
from _faults.page import GOALS, Cell, key, page, verdict
from _faults.table import FAULTS, Fault
from torch import nn

import initium
import initium._repair
from initium._files import write_text
from initium._report.records import Finding

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
OUT = ROOT / "out" / "faults.json"
SECONDS = 60
QUICK = ("demo:mlp-relu-10-256", "timm:test_vit", "hf:gpt2")
Seen = dict[tuple[str, str], set[str]]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done: dict[str, Cell] = {}
    for path in filter(Path.exists, arguments.out):
        done |= json.loads(path.read_text())
    for name in _networks(arguments):
        wanted = [
            fault for fault in (None, *FAULTS) if _is_wanted(key(fault, name), arguments, done)
        ]
        if not wanted:
            continue
        for place, cell in examine(name, wanted):
            done[place] = cell
            print(f"{cell.get('seconds', 0):5.1f} s  {place}: {_said(cell)}", flush=True)
        _save(done, arguments.out[0])
    whole = arguments.group is None and arguments.part == "1/1"
    if arguments.page or (whole and not arguments.quick and not arguments.only):
        _save(done, arguments.out[0])
        PAGE.write_text(page(done, TREE))
    print("\n".join(verdict(done)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, action="append", help="outcomes: all are read, the first is extended"
    )
    parser.add_argument("--only", default="", help='pattern of "fault/network", run anew')
    parser.add_argument("--group", choices=GROUPS, help="only these networks")
    parser.add_argument("--part", default="1/1", help="only every n-th of them, such as 1/2")
    parser.add_argument("--again", action="store_true", help="run what is in --out already")
    parser.add_argument(
        "--missed",
        action="store_true",
        help="run what was missed before, so that rates can only rise",
    )
    parser.add_argument("--quick", action="store_true", help="three networks, no page")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    arguments = parser.parse_args()
    arguments.out = arguments.out or [OUT]
    return arguments


def _networks(arguments: argparse.Namespace) -> list[str]:
    """The networks to be run."""
    names = () if arguments.page else QUICK if arguments.quick else MODELS
    first, every = map(int, arguments.part.split("/"))
    return [name for name in names if arguments.group in (None, group(name))][first - 1 :: every]


def _save(done: dict[str, Cell], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(done, indent=0) + "\n")


def _is_wanted(place: str, arguments: argparse.Namespace, done: dict[str, Cell]) -> bool:
    """Whether a cell is to be run; one that is not in the outcomes always is."""
    if arguments.only:
        return fnmatch.fnmatch(place, arguments.only)
    old = done.get(place)
    if old is None or arguments.again:
        return True
    missed = "crash" in old or (old.get("applies") and not all(old[what] for what in GOALS))
    return bool(arguments.missed and missed and old.get("tree") != TREE)


# One network ----------------------------------------------------------------------------------


def examine(name: str, faults: Iterable[Fault | None]) -> Iterator[tuple[str, Cell]]:
    """The cell of every fault in one network; ``None`` stands for the network without any."""
    try:
        with limited(SECONDS):
            healthy = subject(name)
    except Exception as error:
        for fault in faults:
            yield key(fault, name), {"crash": _line(error), "tree": TREE}
        return
    before: dict[object, Seen] = {}
    sound: dict[object, Subject] = {}
    for fault in faults:
        began = time.perf_counter()
        try:
            with limited(SECONDS):
                cell = trial(healthy, fault, sound, before) if fault else unspoilt(healthy)
        except Exception as error:
            cell = {"crash": _line(error)}
        yield (
            key(fault, name),
            cell | {"seconds": round(time.perf_counter() - began, 2), "tree": TREE},
        )


def unspoilt(healthy: Subject) -> Cell:
    """What is said of the network under its own start and under ``auto``."""
    alarms = {}
    own = subject(healthy.name, own=True)
    for start in ("own", "auto"):
        if start == "auto":
            initium.plan(own.known, "auto").apply(own.model)
        alarms[start] = sorted(kind for kind in _seen(check(own).findings) if kind[1] != "info")
    return {"start": healthy.start, "alarms": alarms}


def trial(
    healthy: Subject, fault: Fault, kept: dict[object, Subject], before: dict[object, Seen]
) -> Cell:
    """One fault in one network; sound networks and what is said of them are kept for the next."""
    if fault.prepare not in kept:
        kept[fault.prepare] = prepared(healthy, fault)
    sound = kept[fault.prepare]
    spoilt = sound.fresh(fault.name)
    with torch.no_grad():
        places = [name for name in fault.inject(spoilt) if name]
    if not places:
        return {"applies": False}
    for tool in TOOLS[fault.tool]:
        kind = (tool, fault.prepare)
        if kind not in before:
            before[kind] = _seen(tool(sound, None).findings)
        report = tool(spoilt, fault)
        new = _new(report.findings, before[kind])
        found = [one for one in new if one.code in fault.codes and _counts(one, fault)]
        if found:
            break
    places += [alias for name in places for alias in sound.aliases(name)]
    located = any(_is_place(_root(one, before[kind]), places) for one in found)
    cell: Cell = {
        "applies": True,
        "detected": bool(found),
        "located": located,
        "by": tool.__name__,
        "found": [(one.code, one.severity, list(one.where[:3])) for one in new],
        "places": places[:6],
    }
    held = before.get((check, fault.prepare), {})
    if found and fault.advice:
        cell |= by_hand(spoilt, found, held, fault)
    elif found:
        cell |= mended(spoilt, report, held)
    return cell | {"fixed": bool(cell.get("fixed"))}


def prepared(healthy: Subject, fault: Fault) -> Subject:
    """The network with the harmless change of structure that a fault needs."""
    sound = healthy.fresh("")
    if fault.prepare is not None:
        with torch.no_grad():
            fault.prepare(sound)
        sound.view = None
    sound.init = clean(sound)
    return sound


def check(s: Subject, fault: Fault | None = None) -> initium.Report:
    """The check of a subject as it is."""
    return initium.check(s.model, s.inputs, s.targets, s.loss_fn, s.plan, view=s.known)


def audit(s: Subject, fault: Fault | None) -> initium.Audit:
    """The audit of the subject's init code; for a fault of values, of code that leaves them."""
    assert s.init is not None
    first = s.init

    @torch.no_grad()
    def spoil(model: nn.Module) -> None:
        first(model)
        if fault is not None and fault.tool == "values":
            list(fault.inject(replace(s, model=model).again(fault.name)))

    return initium.audit(spoil, s.model, s.inputs)


Look = Callable[[Subject, Fault | None], initium.Report | initium.Audit]
TOOLS: dict[str, tuple[Look, ...]] = {
    "check": (check,),
    "values": (check, audit),
    "audit": (audit,),
}


def mended(spoilt: Subject, report: Any, before: Seen) -> Cell:
    """Whether ``initium.repair`` leaves nothing behind that was not found before."""
    try:
        repair = initium._repair.repair(
            spoilt.model, spoilt.inputs, spoilt.targets, spoilt.loss_fn, spoilt.plan,
            report=report, view=spoilt.known,
        )  # fmt: skip
    except Exception as error:
        return {"fixed": False, "why": _line(error)}
    repair.plan.apply(spoilt.model)
    spoilt.plan = repair.plan if spoilt.plan is not None else None
    return _left(spoilt, before)


def by_hand(spoilt: Subject, found: list[Finding], before: Seen, fault: Fault) -> Cell:
    """Whether the advice says the change, and the change leaves nothing behind."""
    said = [one for one in found if any(word in one.fix for word in fault.advice)]
    if not said or fault.mend is None:
        return {"fixed": bool(said), "why": "" if said else f"advised: {found[0].fix[:80]}"}
    with torch.no_grad():
        fault.mend(spoilt, _root(said[0], before))
    return _left(spoilt, before)


def _left(mended: Subject, before: Seen) -> Cell:
    left = [_kind(one) for one in _new(check(mended).findings, before) if one.severity != "info"]
    return {"fixed": not left, "why": f"still {sorted(left)}" if left else ""}


def _seen(findings: Iterable[Finding]) -> Seen:
    """What is said of a sound network, and where."""
    seen: Seen = {}
    for one in findings:
        seen.setdefault((one.code, one.severity), set()).update(one.where)
    return seen


def _new(findings: Iterable[Finding], before: Seen) -> list[Finding]:
    """Those that name a place that such a finding did not name before."""
    return [one for one in findings if not set(one.where) <= before.get(_kind(one), set())]


def _root(finding: Finding, before: Seen) -> str:
    """The first place of a finding that was not among those of the sound network."""
    held = {
        where for (code, _), places in before.items() if code == finding.code for where in places
    }
    return next((where for where in finding.where if where not in held), "")


def _kind(finding: Finding) -> tuple[str, str]:
    return finding.code, finding.severity


def _counts(finding: Finding, fault: Fault) -> bool:
    return finding.severity != "info" or fault.info


def _is_place(where: str, places: Iterable[str]) -> bool:
    """Whether a finding's root is a spoilt place, its module, the block around it, or inside it."""
    return any(
        where == place or where in _around(place) or where.startswith(f"{place}.")
        for place in places
    )


def _around(place: str) -> set[str]:
    """The modules around a place up to the innermost that has a number: its block."""
    parts, found = place.split("."), set[str]()
    if parts[-1].isdigit():
        return found
    for end in range(len(parts) - 1, 0, -1):
        found.add(".".join(parts[:end]))
        if parts[end - 1].isdigit():
            break
    return found


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """No cell holds up the others."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _said(cell: Cell) -> str:
    if "crash" in cell:
        return cell["crash"]
    if "alarms" in cell:
        return str(cell["alarms"])
    if not cell["applies"]:
        return "-"
    marks = [word for word in ("detected", "located", "fixed") if cell[word]]
    rest = (
        "" if len(marks) == 3 else f"  {cell['places'][:2]} {cell['found']} {cell.get('why', '')}"
    )
    return " ".join(marks) + rest


def _digest() -> str:
    """Which source the outcome is of."""
    code = hashlib.sha256()
    faults = [Path(__file__), *(Path(__file__).parent / "_faults").glob("[!p]*.py")]
    for path in sorted([*Path(initium.__file__).parent.rglob("*.py"), *faults]):
        code.update(path.read_bytes())
    return code.hexdigest()[:8]


TREE = _digest()


if __name__ == "__main__":
    main()
