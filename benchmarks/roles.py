"""What inspection says of every parameter, against tables written by hand from the models' sources.

    python benchmarks/roles.py                     # every case; writes docs/roles.md
    python benchmarks/roles.py --only llama        # some, with every miss

Each model is inspected as it is, and again after every module, parameter, buffer and class has been
renamed to meaningless letters; then only what rests on the data flow counts. The tables and the
comparison are in ``tests/truth/`` and ``tests/truth.py``. Covered: roles, residual writers, fans,
stacked experts. Not covered: activations and depths.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from truth import Case, Score, examine, load  # type: ignore[import-not-found]

Row = tuple[Case, Score, Score]
TABLE = Path(__file__).parents[1] / "docs" / "roles.md"
HEAD = (
    "| model | family | parameters | roles | writers P / R | fans "
    "| roles, renamed | writers P / R, renamed | fans, renamed |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


def run(cases: Sequence[Case]) -> tuple[list[Row], dict[str, str]]:
    """The scores of every case, and why there is none for the others."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for case in cases:
        start = time.perf_counter()
        try:
            plain, blind = examine(case)
        except Exception as error:
            failed[case.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{case.name}: {failed[case.name]}", flush=True)
            continue
        rows.append((case, plain, blind))
        seconds = time.perf_counter() - start
        print(f"{case.name}: {_told(plain)}; renamed {_told(blind)}; {seconds:.1f} s", flush=True)
        for label, score in (("", plain), ("renamed: ", blind)):
            for miss in score.misses:
                if label and miss in plain.misses:
                    continue
                print(f"    {label}{miss.pattern}: {miss.what} {miss.truth}, seen {miss.seen}")
    return rows, failed


def _told(score: Score) -> str:
    return (
        f"roles {score.roles}/{score.parameters}, "
        f"writers P {score.precision:.3f} R {score.recall:.3f}, fans {score.fans}/{score.fanned}"
    )


def summary(rows: Sequence[Row], failed: dict[str, str]) -> str:
    """The figures and every miss, as Markdown."""
    plain = sum((row[1] for row in rows), Score())
    blind = sum((row[2] for row in rows), Score())
    lines = [
        "# Roles, against hand-made tables",
        "",
        "Written by `benchmarks/roles.py`. A table in `tests/truth/` says what every parameter of",
        "a model is. It was written from the model's source, not from what initium says.",
        "",
        "- *Roles*: parameters whose role is right.",
        "- *Writers*: precision and recall over the matrices that write to a residual stream.",
        "- *Fans*: matrices whose fan-in, fan-out, fused blocks and experts are all right.",
        "- *Renamed*: the same after every module, parameter, buffer and class has lost its name.",
        "  Then only answers that rest on the data flow count.",
        "",
        "The models are small versions of their architecture: sizes do not change the data flow.",
        "The rules of inspection were mended against these same tables, so the figures say that",
        "they are met, not how an architecture fares that no table has.",
        "",
        "| over all | as it is | renamed | goal |",
        "|---|---:|---:|---:|",
        f"| models | {len(rows)} | {len(rows)} | 40 |",
        f"| parameters | {plain.parameters} | {blind.parameters} | |",
        f"| roles, of parameters | {_percent(plain.role_share)} | {_percent(blind.role_share)} "
        "| 97% |",
        f"| roles, repeated layers counted once | {_percent(plain.pattern_share)} "
        f"| {_percent(blind.pattern_share)} | 97% |",
        f"| roles, of matrices | {_percent(plain.matrix_share)} | {_percent(blind.matrix_share)} "
        "| 97% |",
        f"| residual writers | {plain.found + plain.missed} | {blind.found + blind.missed} | |",
        f"| writers, precision | {_percent(plain.precision)} | {_percent(blind.precision)} | 98% |",
        f"| writers, recall | {_percent(plain.recall)} | {_percent(blind.recall)} | 98% |",
        f"| fans exact | {_percent(plain.fan_share)} | {_percent(blind.fan_share)} | 100% |",
        "",
        "## Model by model",
        "",
        *HEAD,
    ]
    for case, seen, unnamed in rows:
        lines.append(
            f"| `{case.name}` | {case.family} | {seen.parameters} "
            f"| {' | '.join(_cells(seen))} | {' | '.join(_cells(unnamed))} |"
        )
    lines += _misses("Every miss", rows)
    if failed:
        lines += ["", "## Not examined here", "", "| model | why |", "|---|---|"]
        lines += [f"| `{name}` | {why} |" for name, why in failed.items()]
    return "\n".join(lines) + "\n"


def _cells(score: Score) -> tuple[str, str, str]:
    writers = score.found + score.missed + score.invented
    return (
        _percent(score.role_share),
        f"{score.precision:.2f} / {score.recall:.2f}" if writers else "none",
        f"{score.fans}/{score.fanned}",
    )


def _misses(title: str, rows: Sequence[Row]) -> list[str]:
    lines = [
        "", f"## {title}", "",
        "| model | pattern | what | truth | seen | names |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for _, plain, blind in rows:
        for miss in dict.fromkeys((*plain.misses, *blind.misses)):
            both = miss in plain.misses and miss in blind.misses
            when = "both" if both else "as it is" if miss in plain.misses else "renamed"
            truth = miss.truth.replace("|", " or ")
            cells = (
                f"`{miss.model}`", f"`{miss.pattern}`", miss.what, truth, miss.seen, when,
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 5 else [*lines[:3], "None."]


def _percent(share: float) -> str:
    """Rounded down, so that 100% means all."""
    return f"{int(share * 1000) / 10:.1f}%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="cases whose name or family contains this")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = [case for case in load() if options.only in f"{case.name} {case.family}"]
    rows, failed = run(cases)
    text = summary(rows, failed)
    print(text.split("## ")[0])
    if not options.only:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
