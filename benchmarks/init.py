"""How fast ``initium.init`` is, in units of ``torch.nn.init`` on the same tensors in the same run.

The two take turns; the table has the medians. Memory is touched before. A row whose goal is known
(measured with AVX-512; two thirds of it with AVX2) has it beside the ratio.

    python benchmarks/init.py [threads]            # writes docs/init-speed.md
    python benchmarks/init.py [threads] large      # with the matrices of a large model
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import init as theirs

from initium import init as ours
from initium.stream import native

TABLE = Path(__file__).parents[1] / "docs" / "init-speed.md"
MANY = (1 << 24,)
BFLOAT16 = torch.bfloat16


class Row(NamedTuple):
    """A function on a tensor, and what torch's takes to compare with."""

    name: str
    shape: tuple[int, ...]
    goal: float | None = None
    dtype: torch.dtype = torch.float32
    against: torch.dtype | None = None
    turns: int = 7


ROWS = (
    Row("normal_", MANY, 9.0),
    Row("normal_", MANY, 8.0, BFLOAT16, torch.float32),
    Row("normal_", MANY, None, BFLOAT16),
    Row("uniform_", MANY, 8.0),
    Row("uniform_", MANY, None, BFLOAT16),
    Row("trunc_normal_", MANY, 100.0, turns=3),
    Row("kaiming_uniform_", (4096, 4096)),
    Row("normal_", (8, 8), turns=999),
    Row("orthogonal_", (512, 512), turns=5),
    Row("orthogonal_", (1024, 1024), 3.0, turns=5),
    Row("orthogonal_", (1024, 2752), 2.3, turns=3),
    Row("orthogonal_", (2048, 2048), 3.0, turns=3),
)
LARGE = (
    Row("orthogonal_", (4096, 4096), 3.0, turns=3),
    Row("orthogonal_", (4096, 11008), 2.3, turns=3),
)


def medians(runs: list[Callable[[], object]], turns: int) -> list[float]:
    """Seconds of every run, one after the other in every turn; the first turn is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(turns + 1):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            if turn:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def measure(row: Row) -> str:
    """One line of the table."""
    against = row.against or row.dtype
    mine, other = torch.zeros(row.shape, dtype=row.dtype), torch.zeros(row.shape, dtype=against)
    fast, slow = getattr(ours, row.name), getattr(theirs, row.name)
    ours_s, theirs_s = medians([lambda: fast(mine), lambda: slow(other)], row.turns)
    types = " against ".join(str(t).removeprefix("torch.") for t in {row.dtype: 0, against: 0})
    shape = " x ".join(map(str, row.shape)) if row.shape != MANY else "2^24"
    goal = f"{row.goal:g}" if row.goal else ""
    return (
        f"| {row.name} | {shape} | {types} | {theirs_s * 1e3:.3f} | {ours_s * 1e3:.3f} "
        f"| {theirs_s / ours_s:.2f} | {goal} |"
    )


def head(threads: int) -> str:
    level = native.level()
    return "\n".join(
        [
            "# How fast initium.init is",
            "",
            f"Written by `benchmarks/init.py` with {threads} thread(s), torch {torch.__version__}, "
            f"{platform.machine()}, kernels: {level.name if level else 'NumPy'}.",
            "Medians in milliseconds, torch and initium taking turns; the goals of the first rows",
            "are for AVX-512.",
            "",
            "| function | shape | type | torch ms | initium ms | times | goal |",
            "|---|---|---|---:|---:|---:|---:|",
        ]
    )


if __name__ == "__main__":
    threads = int(sys.argv[1]) if sys.argv[1:] else torch.get_num_threads()
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(threads):  # NumPy reads it when it is loaded
        settings = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
        os.execve(sys.executable, [sys.executable, *sys.argv], settings)
    torch.set_num_threads(threads)
    lines = [head(threads)]
    print(lines[0])
    for row in (*ROWS, *(LARGE if "large" in sys.argv else ())):
        lines.append(measure(row))
        print(lines[-1], flush=True)
    TABLE.write_text("\n".join([*lines, ""]))
