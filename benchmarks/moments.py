"""Predicted moments against measured ones, and starting points side by side.

Each model of ``zoo.py`` is predicted and measured under ``auto``, torch's defaults and its own
library's initialisation, and measured under He and LSUV (``initium.calibrate`` on torch's
default) beside them (``measured.py``). A prediction knows no weights; a measurement is a pass over
real ones.

    python benchmarks/moments.py --out out/moments.json              # writes docs/moments.md
    python benchmarks/moments.py --out out/moments.json --seeds 12 --only net: --limit 3
    python benchmarks/moments.py --out out/moments.json --check      # check's errors under auto
    python benchmarks/moments.py --out out/moments.json --fresh      # the models held out
    python benchmarks/moments.py --out out/moments.json --again 40   # misses, over 40 passes
    python benchmarks/moments.py --out out/moments.json --table      # only the page

Seeds come in rounds, the models that took least first, and the file is written after each model, so
that an interruption leaves a table and a later run goes on. Every model runs in a process of its
own on one core.

``judged.py`` says what counts as a miss, ``moments_page.py`` writes the page. Models that no
prediction had been compared on stand apart (``fresh.py``) and run only when asked for. Not covered:
models that no small size exists of.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from judged import missed
from measured import METHODS, PREDICTED, TREE, again, aim, examine, summary
from moments_page import page
from proved import SAMPLE, prove
from zoo import FRESH, MODELS, alone, warm

DOCS = Path(__file__).parents[1] / "docs" / "moments.md"
ROUNDS = (4, 12, 24, 48, 96, 192)
"""Seeds up to which all models are measured before any is measured further."""


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
    parser.add_argument("--fresh", action="store_true", help="the models held out, and only those")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--again", type=int, default=0, help="passes that misses are looked at by")
    options = parser.parse_args()
    data = json.loads(options.out.read_text()) if options.out.exists() else {}
    models = list(FRESH if options.fresh else MODELS)
    names = SAMPLE.read_text().splitlines() if options.check else models
    names = [name for name in names if options.only in name]
    names = names[:: -(-len(names) // options.limit) if options.limit else 1]
    torch.set_num_threads(1)
    if not options.table:
        warm()
        run = _prove if options.check else _again if options.again else _rounds
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


def _again(data: dict[str, Any], names: Sequence[str], options: argparse.Namespace) -> None:
    """Every prediction with a miss, over many passes."""
    places = {(one.first.model, f"{one.first.start}/{one.label}") for one in missed(_held(data))}
    for name, place in sorted(places):
        start, _, label = place.partition("/")

        def work(_: str, name: str = name, start: str = start, label: str = label) -> Any:
            return again(name, start, label, options.again)

        made = data["models"][name].setdefault("again", {})
        if name in names and place not in made:
            _one(made, place, work, options.timeout)
            options.out.write_text(json.dumps(data))


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
    order = {name: number for number, name in enumerate((*MODELS, *FRESH))}
    ran = sorted(data.get("models", {}).items(), key=lambda one: order.get(one[0], 999))
    DOCS.write_text(page(dict(ran) | _held(data), data.get("checked", {})))


def _held(data: Mapping[str, Any]) -> dict[str, Any]:
    """The models that ran, with statistics over their seeds."""
    return {
        name: {**one, "starts": {start: summary(runs) for start, runs in one["runs"].items()}}
        for name, one in data.get("models", {}).items()
        if isinstance(one, dict)
    }


if __name__ == "__main__":
    main()
