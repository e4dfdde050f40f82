"""The kernel on a GPU: its bits against the CPU's, and its speed against torch's own fills there.

Bits, by digests: every law in every type, every law in every layout, every type in every layout.
Speed: medians of cycles, between CUDA events, in which ours, torch's and ``zero_`` take turns in
the same memory; small tensors and a whole model by the wall clock. Nothing is written unless all
bits are right. The kernel has some hundred variants, each compiled in a second or two, so that the
first run takes minutes.

    python benchmarks/gpu.py                # writes the measured part of docs/gpu.md
    python benchmarks/gpu.py --blocks       # other sizes of a program, on the screen only
    python benchmarks/gpu.py --interpret    # the bits alone, in Triton's interpreter, without a GPU

Exits with 1 where bits differ, with 2 where there is no GPU.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import initium
from initium._fill import cuda
from initium.spec import Constant, Normal, TruncatedNormal, Uniform
from initium.stream import cast, native
from initium.stream.elementwise import Elementwise, law_of, numbers
from initium.stream.philox import derive

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
MARK = "## Measured\n"
INTERPRET = "--interpret" in sys.argv
CYCLES = 50
SIZE = 1 << 28
DEVICE = "cpu" if INTERPRET else "cuda"
CHECKED = 1 << 14 if INTERPRET else 1 << 22
"""Elements of a dense layout."""

Work = Callable[[], object]
Layout = tuple[str, torch.Tensor, int, tuple[int, ...]]

ROWS: tuple[tuple[str, Elementwise, str, str, str], ...] = (
    ("normal", Normal(0.02), "float32", "normal_", "1.5"),
    ("normal", Normal(0.02), "bfloat16", "normal_", "1.5"),
    ("normal", Normal(0.02), "float16", "normal_", ""),
    ("normal", Normal(0.02), "float8_e4m3fn", "", ""),
    ("normal", Normal(0.02), "float64", "normal_", ""),
    ("normal, shifted", Normal(0.02, 1), "float32", "normal_", ""),
    ("uniform", Uniform(-0.05, 0.05), "float32", "uniform_", ""),
    ("uniform", Uniform(-0.05, 0.05), "bfloat16", "uniform_", ""),
    ("truncated at 2 sigma", TruncatedNormal(0.02), "float32", "trunc_normal_", ""),
    ("truncated at 2 sigma", TruncatedNormal(0.02), "bfloat16", "trunc_normal_", ""),
    ("truncated at 4 sigma", TruncatedNormal(0.02, 0, 4), "float32", "trunc_normal_", ""),
    ("constant", Constant(1), "float32", "", ""),
)
THEIRS: dict[str, Callable[[torch.Tensor], object]] = {
    "normal_": lambda tensor: tensor.normal_(0, 0.02),
    "uniform_": lambda tensor: tensor.uniform_(-0.05, 0.05),
    "trunc_normal_": lambda tensor: nn.init.trunc_normal_(tensor, 0, 0.02, -0.04, 0.04),
}
BLOCKS = ((256, 2), (256, 4), (512, 4), (1024, 4), (1024, 8), (2048, 8))


# ---------------------------------------------------------------- bits


def layouts(dtype: torch.dtype) -> Iterator[Layout]:
    """A name, the target, the index of its first element, and the steps of its axes."""
    empty = partial(torch.empty, dtype=dtype, device=DEVICE)
    middle = 2**34 - CHECKED // 2
    yield "dense", empty(CHECKED), middle, (1,)
    yield "odd start and end", empty(CHECKED + 1)[1:-1], middle + 1, (1,)
    yield "columns", empty(CHECKED // 64, 64), 2**34 - 1024, (2**14, 1)
    yield "odd columns", empty(CHECKED // 64, 3), 2**34 - 1023, (2**14 + 1, 1)
    yield "transposed", empty(64, CHECKED // 64).T, 2**35, (64, 1)
    padded = empty(8, 7, 6, 9)[1:, :-1, 1:-1, 2:]
    yield "four axes", padded.permute(2, 0, 3, 1), 2**34, (-1000, 2**36, -7, 1)


def digests(law: native.Law, layout: Layout) -> tuple[str, str]:
    """Of what the kernel draws, and of what the CPU does."""
    _, target, element, steps = layout
    cuda.fill_memory(law, target, element, steps)
    drawn = target.contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    where = np.full(target.shape, element, np.int64)
    for axis, (size, step) in enumerate(zip(target.shape, steps, strict=True)):
        along = [-1 if other == axis else 1 for other in range(target.ndim)]
        where += (step * np.arange(size)).reshape(along)
    dtype = str(target.dtype).removeprefix("torch.")
    wanted = cast(numbers(law, where.astype(np.uint64).reshape(-1)), dtype)
    first, second = (hashlib.blake2b(data.tobytes()).hexdigest() for data in (drawn, wanted))
    return first, second


def check_bits() -> tuple[int, list[str]]:
    """How many combinations there are, and those of which the bits differ."""
    count, wrong = 0, []
    for number, law in enumerate(native.probes()):
        for dtype in native.TYPES:
            for layout in layouts(getattr(torch, dtype)):
                if (layout[0] == "dense") + (dtype == "float32") + (number == 1) == 0:
                    continue
                first, second = digests(law, layout)
                count += 1
                if first != second:
                    wrong.append(f"law {number}, {dtype}, {layout[0]}")
    return count, wrong


# ---------------------------------------------------------------- speed


def medians(candidates: Sequence[Work], cycles: int = CYCLES) -> list[float]:
    """Seconds of each on the GPU, all of them in every cycle, after three that do not count."""
    events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in candidates]
    for cycle in range(cycles + 3):
        for found, work in zip(events, candidates, strict=True):
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            work()
            pair[1].record()
            if cycle >= 3:
                found.append(pair)
    torch.cuda.synchronize()
    return [statistics.median(a.elapsed_time(b) / 1e3 for a, b in found) for found in events]


def seconds(work: Work, cycles: int = 5) -> float:
    """By the wall clock, the GPU's work included, after one round that does not count."""
    times = []
    for _ in range(cycles + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def ours(spec: Elementwise, tensor: torch.Tensor, steps: Sequence[int] = (1,)) -> Work:
    return partial(cuda.fill_memory, law_of(spec, derive(0, "w")), tensor, 0, steps)


def elementwise() -> list[str]:
    lines = []
    for label, spec, dtype, name, goal in ROWS:
        tensor = torch.empty(SIZE, dtype=getattr(torch, dtype), device=DEVICE)
        memory = tensor.view(torch.uint8)
        theirs = [partial(THEIRS[name], tensor)] if name else []
        mine, zero, *other = medians([ours(spec, tensor), memory.zero_, *theirs])
        compared = f"{name} | {other[0] / mine:.2f}" if other else "|"
        lines.append(
            f"| {label} | {dtype} | {SIZE / mine / 1e9:.0f} | {memory.numel() / mine / 1e9:.0f} "
            f"| {compared} | {goal} | {zero / mine:.2f} |"
        )
    return lines


def parts() -> list[str]:
    """Columns of a matrix 16384 wide, and what that costs against as many elements in a row."""
    lines = []
    for width in (4096, 512, 64, 8, 7, 1):
        rows = (SIZE >> 2) // max(width, 8)
        part = torch.empty(rows, width, device=DEVICE)
        row = torch.empty(rows * width, device=DEVICE)
        mine, whole = medians([ours(Normal(1), part, (16384, 1)), ours(Normal(1), row)])
        lines.append(f"| {width} | {part.numel() / mine / 1e9:.0f} | {whole / mine:.2f} |")
    return lines


def blocks() -> list[str]:
    tensors = [torch.empty(SIZE, dtype=d, device=DEVICE) for d in (torch.float32, torch.bfloat16)]
    lines = []
    for block, warps in BLOCKS:
        cuda.BLOCK, cuda.OPTIONS["num_warps"] = block, warps
        works = [ours(spec, one) for spec in (Normal(1), TruncatedNormal(1)) for one in tensors]
        rates = " | ".join(f"{SIZE / found / 1e9:.0f}" for found in medians(works))
        lines.append(f"| {block} | {warps} | {rates} |")
    return lines


def small() -> str:
    bias = torch.empty(4096, device=DEVICE)
    works = (ours(Normal(1), bias), bias.normal_)
    mine, other = (seconds(partial(repeat, work, 1000)) for work in works)
    return f"A tensor of 4096 takes {mine * 1e3:.0f} us, `normal_` {other * 1e3:.0f} us."


def repeat(work: Work, times: int) -> None:
    for _ in range(times):
        work()


class Language(nn.Module):
    """As many weights as a language model of a billion parameters, in as many tensors."""

    def __init__(self, width: int = 2048, layers: int = 18) -> None:
        super().__init__()
        self.embed = nn.Embedding(32000, width)
        sides = ((width, width),) * 4 + ((width, 4 * width), (4 * width, width))
        self.body = nn.Sequential(
            *(nn.Linear(one, other) for _ in range(layers) for one, other in sides)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(tokens))


def model() -> str:
    with torch.device("meta"):
        net = Language().to(torch.bfloat16)
    tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    plan = initium.plan(net, "normal(0.02)", tokens)
    plan.apply(net, device=DEVICE)
    size = sum(parameter.numel() for parameter in net.parameters())
    drawn = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mine = seconds(lambda: plan.apply(net))
    other = seconds(lambda: [nn.init.normal_(one, 0, 0.02) for one in net.parameters()])
    with_kernel, cuda._has_kernels = cuda._has_kernels, lambda tensor: False
    try:
        copied = seconds(lambda: plan.apply(net), 1)
    finally:
        cuda._has_kernels = with_kernel
    for name, tensor in net.state_dict().items():
        if not torch.equal(tensor, drawn[name]):
            sys.exit(f"the bits of {name} differ from those of the CPU")
    return (
        f"A model of {size / 1e9:.2f} billion parameters in bfloat16, {len(drawn)} tensors: "
        f"`plan.apply` {mine * 1e3:.1f} ms, all checks included; `normal_` on every tensor "
        f"{other * 1e3:.1f} ms; drawn on the CPU and copied {copied * 1e3:.0f} ms, the same bits."
    )


# ---------------------------------------------------------------- the page


def page(count: int) -> str:
    newline = "\n"
    return f"""
Written by `benchmarks/gpu.py` on {date.today()}: {torch.cuda.get_device_name()}, torch
{torch.__version__}, Triton {importlib.import_module("triton").__version__}, CUDA \
{torch.version.cuda}; medians of {CYCLES} cycles, 2^28 elements.

**Bits**: {count} combinations of law, type and layout, all equal to the CPU's.

| ours | type | Gelem/s | GB/s | torch | times torch | goal | of `zero_` |
|---|---|---:|---:|---|---:|---|---:|
{newline.join(elementwise())}

Columns of a matrix 16384 wide, normal, float32:

| width | Gelem/s | of whole rows |
|---:|---:|---:|
{newline.join(parts())}

{small()}

{model()}
"""


def main() -> None:
    if INTERPRET:
        os.environ["TRITON_INTERPRET"] = "1"
        cuda.BLOCK = CHECKED // 4
    elif not torch.cuda.is_available():
        print("there is no CUDA GPU here; --interpret checks the bits without one", file=sys.stderr)
        sys.exit(2)
    elif not cuda.ready(torch.device("cuda", torch.cuda.current_device())):
        sys.exit("the kernel does not work on this GPU; the log says why")
    if "--blocks" in sys.argv:
        print("| positions | warps | normal | bf16 | truncated | bf16 |", *blocks(), sep="\n")
        return
    with np.errstate(over="ignore"):  # of the interpreter
        count, wrong = check_bits()
    if wrong:
        sys.exit(f"the bits of {len(wrong)} of {count} differ: {'; '.join(wrong)}")
    print(f"{count} combinations of law, type and layout: no bit differs")
    if not INTERPRET:
        head = PAGE.read_text().split(MARK)[0] + MARK
        text = page(count)
        PAGE.write_text(head + text)
        print(text)


if __name__ == "__main__":
    main()
