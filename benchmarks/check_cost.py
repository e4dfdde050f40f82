"""What a check costs: processor time and peak memory, in units of a plain forward and backward.

Time is processor time of one thread, plain and check by turns in one process, and the ratio the
median of those of neighbours: what else the machine does hardly enters. Memory is what the resident
set grows by above the model and its batch while the pass runs, as the kernel counts it (``VmHWM``,
reset before), in processes of their own. Linux only.

    python benchmarks/check_cost.py [name ...]     # all of them: writes docs/check-cost.md
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from initium._check import check
from initium._inspect import inspect
from initium._model.call import call
from initium.demo import models

REPEATS = 7
GOAL_TIME, GOAL_MEMORY = 3.0, 1.3
TABLE = Path(__file__).parents[1] / "docs" / "check-cost.md"


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return models.mlp("relu", 50, 256), torch.randn(1024, 64), torch.randint(0, 10, (1024,))


def conv() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return models.ConvNet(20, 64), torch.randn(512, 1, 8, 8), torch.randint(0, 10, (512,))


def resnet() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return models.ResNet(), torch.randn(1024, 1, 8, 8), torch.randint(0, 10, (1024,))


def gpt() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, "gelu", batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(8000, 256), body, nn.Linear(256, 8000, bias=False))
    ids = torch.randint(0, 8000, (8, 128))
    return model, ids, ids.roll(-1)


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """So small that only the number of operators counts."""
    return models.mlp("relu", 10, 64), torch.randn(64, 64), torch.randint(0, 10, (64,))


def narrow() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(500, 64), body, nn.Linear(64, 500, bias=False))
    ids = torch.randint(0, 500, (8, 32))
    return model, ids, ids.roll(-1)


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]] = {
    "mlp-relu-50": mlp,
    "convnet-20": conv,
    "resnet": resnet,
    "transformer-6": gpt,
    "mlp-relu-10, tiny": small,
    "transformer-4, tiny": narrow,
}


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    z = call(model, x)
    loss = F.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1))
    del z
    torch.autograd.grad(loss, list(model.parameters()))


def seconds(run: Callable[[], object]) -> float:
    """Processor time."""
    began = time.process_time()
    run()
    return time.process_time() - began


def times(plain: Callable[[], object], checked: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the plain pass, and the check in units of it; medians, the first pair left out."""
    pairs = [(seconds(plain), seconds(checked)) for _ in range(REPEATS + 1)][1:]
    ratios = [check_s / plain_s for plain_s, check_s in pairs]
    return statistics.median(plain_s for plain_s, _ in pairs), statistics.median(ratios)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def peak(run: Callable[[], object]) -> int:
    """Kilobytes by which the resident set grew while ``run`` ran."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def measure(name: str, what: str) -> list[float]:
    """``time``: as :func:`times` has it; ``plain`` or ``check``: kilobytes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x, y = MODELS[name]()
    view = inspect(model, x)

    def checked() -> object:
        loss = None if y.dim() == 1 else lambda z, t: F.cross_entropy(z.flatten(0, 1), t.flatten())
        return check(model, x, y, loss, view=view)

    if what == "time":
        return list(times(lambda: plain(model, x, y), checked))
    return [peak(checked if what == "check" else lambda: plain(model, x, y))]


def _alone(name: str, what: str) -> list[float]:
    """Numbers from a process of its own. For memory, glibc gives back every large block at once:
    otherwise what its heap happens to keep differs by half from run to run."""
    command = [sys.executable, __file__, "--one", name, what]
    settings = {} if what == "time" else {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **settings}
    )
    return [float(word) for word in done.stdout.split()]


def table(names: list[str]) -> str:
    """The ratios of all rows, as Markdown."""
    lines = [
        "# What a check costs",
        "",
        "Written by `benchmarks/check_cost.py`, one thread: processor time and peak memory of a",
        "check in units of a plain forward and backward pass of the same batch. Time: the",
        f"median of {REPEATS} ratios in one process. The view of the model is made once and not",
        "counted.",
        "",
        "| model | plain s | time x | plain MB | memory x |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in names:
        plain_s, ratio = _alone(name, "time")
        (plain_kb,), (check_kb,) = (_alone(name, which) for which in ("plain", "check"))
        lines.append(
            f"| {name} | {plain_s:.3f} | {ratio:.2f} | {plain_kb / 1024:.1f} "
            f"| {check_kb / plain_kb:.2f} |"
        )
    lines += [
        "",
        f"Goals: time x at most {GOAL_TIME:g}, memory x at most {GOAL_MEMORY:g}. The tiny rows",
        "show what does not depend on the batch: about 1 ms for every module and parameter.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(*measure(*sys.argv[2:4]))
    else:
        text = table(sys.argv[1:] or list(MODELS))
        print(text)
        if not sys.argv[1:]:
            TABLE.write_text(text)
