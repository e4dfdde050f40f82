"""How much of the wild is understood: timm, transformers, vit-pytorch and x-transformers.

Each model is built without weights, inspected and planned with ``auto``. It counts as planned with
full coverage if the plan was made and no weight of two or more dimensions has an unknown role. What
cannot be built here (a missing optional package, code that needs a download) is listed apart.

    python benchmarks/corpus.py --json out/corpus.json     # everything; writes docs/corpus.md
    python benchmarks/corpus.py --json out/corpus.json --again out/corpus.json
    python benchmarks/corpus.py --only resnet --limit 20

The outcomes are written after every model, so that a run that was ended goes on with ``--again``:
what is covered there is not run again.

Each model runs in a process of its own from a small pool: a crash, a time-out or a leak costs one
model. Covered: the models' default configurations. Not covered: their pretrained weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from lucidrains import TABLES, build

SOURCES = ("timm", "hf", *TABLES)
TABLE = Path(__file__).parents[1] / "docs" / "corpus.md"


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    ``step`` is where it ended: build, inspect, plan, cover or done. ``untraced`` says why its own
    forward pass did not run, ``reached`` is the share of the parameters that a trace reached.
    """

    model: str
    step: str
    reason: str = ""
    parameters: int = 0
    unknown: tuple[str, ...] = ()
    seconds: float = 0.0
    untraced: str = ""
    reached: float = 0.0

    @property
    def built(self) -> bool:
        return self.step != "build"

    @property
    def covered(self) -> bool:
        return self.step == "done"


def names(source: str) -> list[str]:
    """Every model of a source, as ``initium check`` would take it."""
    from initium._load.optional import import_optional

    if source in TABLES:
        return [f"{source}:{name}" for name in TABLES[source]]
    if source == "timm":
        return [f"timm:{name}" for name in import_optional("timm").list_models()]
    return [f"hf:{name}" for name in import_optional("transformers").CONFIG_MAPPING]


def examine(model: str) -> Outcome:
    """Build, inspect and plan one model in this process."""
    import torch

    import initium
    from initium._load import load

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start, step = time.perf_counter(), "build"
    try:
        source, _, name = model.partition(":")
        if source in TABLES:
            module, inputs = build(source, name)
        else:
            loaded = load(model, meta=True)
            module, inputs = loaded.model, loaded.inputs
        step = "inspect"
        view = initium.inspect(module, inputs)
        step = "plan"
        plan = initium.plan(view, "auto")
    except Exception as error:
        return Outcome(model, step, _reason(error), seconds=time.perf_counter() - start)
    unknown = tuple(
        name
        for name, entry in plan.entries.items()
        if entry.role == "unknown" and len(entry.shape) >= 2
    )
    return Outcome(
        model,
        "cover" if unknown else "done",
        f"unknown role: {_pattern(unknown[0])}" if unknown else "",
        len(view.parameters),
        unknown,
        time.perf_counter() - start,
        _general(view.problem or ""),
        sum(p.order is not None for p in view.owners) / max(len(view.owners), 1),
    )


def run_alone(model: str, timeout: float) -> Outcome:
    """:func:`examine` in a process of its own that is ended after ``timeout`` seconds."""
    context = multiprocessing.get_context("fork")  # the parent's imports are then free
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, model), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            return Outcome(model, "inspect", f"took more than {timeout:g} s", seconds=timeout)
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        process.join()
        return Outcome(model, "inspect", f"the process ended with code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, model: str) -> None:
    sender.send(examine(model))


def _reason(error: Exception) -> str:
    """One line that is the same for all models that fail in the same way."""
    text = re.sub(r"^\S+: ", "", str(error))
    return f"{type(error).__name__}: {_general(text)}"


def _general(text: str) -> str:
    """Without numbers and paths, which differ where the reason does not."""
    text = re.sub(r"'?/[\w./-]+/[\w./-]+'?", "a file", " ".join(text.split()))
    return re.sub(r"[0-9]+", "N", text)[:110]


def _pattern(name: str) -> str:
    return re.sub(r"\b[0-9]+\b", "*", name)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The counts, and the reasons of what is not covered, as Markdown."""
    lines = [
        "# The corpus",
        "",
        "Written by `benchmarks/corpus.py`: every model is built without weights, inspected and",
        "planned with `auto`. *Covered*: planned, with no unknown role on a weight of two or more",
        "dimensions. *Forward*: the model's own forward pass was seen on inferred inputs; where it",
        "fails, its parts are run on their own. *Reached*: the share of the parameters that any",
        "trace reached, averaged over the models that were built; the roles of the others rest on",
        "analogy, module types and names.",
        "",
        "| source | models | built | covered | of all | of the built | forward | reached |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for source in SOURCES:
        here = [item for item in outcomes if item.model.startswith(f"{source}:")]
        built = sum(item.built for item in here)
        covered = sum(item.covered for item in here)
        lines.append(
            f"| {source} | {len(here)} | {built} | {covered} "
            f"| {_percent(covered, len(here))} | {_percent(covered, built)} "
            f"| {_percent(sum(item.built and not item.untraced for item in here), built)} "
            f"| {_mean([item.reached for item in here if item.built])} |"
        )
    lines += _table("Traced in parts", [item for item in outcomes if item.untraced], "untraced")
    for title, step in (
        ("Not covered: an unknown role", "cover"),
        ("Not planned", "plan"),
        ("Not inspected", "inspect"),
        ("Not built here", "build"),
    ):
        lines += _table(title, [item for item in outcomes if item.step == step], "reason")
    return "\n".join(lines) + "\n"


def _table(title: str, outcomes: Sequence[Outcome], field: str) -> list[str]:
    """How many models share each reason, the most frequent first."""
    if not outcomes:
        return []
    lines = ["", f"## {title}", "", "| models | reason | for example |", "|---:|---|---|"]
    for reason, count in Counter(getattr(item, field) for item in outcomes).most_common():
        example = next(item.model for item in outcomes if getattr(item, field) == reason)
        told = reason.replace("|", "\\|")
        lines.append(f"| {count} | {told} | `{example}` |")
    return lines


def _mean(shares: Sequence[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f}%" if shares else "-"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def run_all(
    models: Sequence[str], processes: int, timeout: float, save: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    import initium._inspect
    import initium._load
    import initium.recipes  # noqa: F401

    outcomes = []
    with ThreadPoolExecutor(processes) as pool:
        results: Iterable[Outcome] = pool.map(lambda model: run_alone(model, timeout), models)
        for count, outcome in enumerate(results, 1):
            outcomes.append(outcome)
            save(outcomes)
            mark = "ok" if outcome.covered else f"{outcome.step}: {outcome.reason}"
            print(
                f"{count}/{len(models)} {outcome.model} {outcome.seconds:.1f} s {mark}", flush=True
            )
    return outcomes


def _covered(path: Path) -> dict[str, Outcome]:
    found = [
        Outcome(**{**item, "unknown": tuple(item["unknown"])})
        for item in json.loads(path.read_text())
    ]
    return {item.model: item for item in found if item.covered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--source", choices=SOURCES, help="only this one")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--limit", type=int, help="that many of each source, evenly spread")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one model")
    parser.add_argument("--json", type=Path, help="every outcome as JSON")
    parser.add_argument(
        "--again", type=Path, help="outcomes of an earlier run: only what it did not cover is run"
    )
    options = parser.parse_args()
    models: list[str] = []
    for source in [options.source] if options.source else SOURCES:
        found = [name for name in names(source) if options.only in name]
        stride = -(-len(found) // options.limit) if options.limit else 1
        models += found[::stride]
    earlier = _covered(options.again) if options.again else {}
    todo = [model for model in models if model not in earlier]

    def save(done: list[Outcome]) -> None:
        if options.json:
            every = [asdict(outcome) for outcome in [*earlier.values(), *done]]
            options.json.write_text(json.dumps(every, indent=1))

    run = {item.model: item for item in run_all(todo, options.processes, options.timeout, save)}
    text = summary([run.get(model) or earlier[model] for model in models])
    print(text)
    if not (options.only or options.limit or options.source):
        TABLE.write_text(text)


if __name__ == "__main__":
    main()
