"""Elementwise specs straight into the memory of an NVIDIA GPU, with the bits of the CPU.

Any dtype, any slice of a parameter, any layout of the target. Here is the choice of what the kernel
of :mod:`initium._fill.triton_kernels` gets to do. It is tried before it is used on a device: where
Triton is missing, where it does not work or draws other bits, the log says so once.

Not covered, and drawn on the CPU and copied: other specs, complex tensors and integers, GPUs older
than compute capability 8.0, and every other device (ROCm, MPS, XPU).
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch

from initium import stream
from initium.spec import Normal, Spec
from initium.stream import native
from initium.stream.drawing import check_drawable, select
from initium.stream.elementwise import Elementwise, law_of
from initium.stream.into import overlapping
from initium.stream.native import Law
from initium.stream.philox import derive
from initium.stream.round import CASTS

__all__ = ["fill", "fill_memory", "ready"]

BLOCK = 512
"""Positions of one program. With four warps each thread has four of them, whose steps hide one
another's latency. Compiled for an H100 (sm_90), normals take 40 registers, so that twelve programs
share a multiprocessor. A program of quads writes 8 KiB of float32."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""Of every launch. Fused products and sums would have other bits."""
AXES = 3
"""The most of one launch: a short one of more axes is walked here."""
MOST = 1 << 31
"""Positions of one launch with several axes, whose division is one of 32-bit numbers."""
TAIL = 2**32 // 500
"""Points of the grid at either end for which the quantile may need its second polynomial."""
OLDEST = (8, 0)
"""The compute capability that Triton supports from."""
BITS = {
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}
"""Types that are written as their bits."""


@dataclass(frozen=True)
class Axis:
    """Positions, and from one to the next: elements of memory, and element indices."""

    size: int
    stride: int
    step: int


@dataclass(frozen=True)
class Grid:
    """What one launch fills: the first place in memory, its element, and the axes, innermost last.

    In a grid of quads all but ``offset`` counts in fours.
    """

    offset: int
    element: int
    axes: tuple[Axis, ...]
    quads: bool = False


def fill(
    tensor: torch.Tensor,
    spec: Spec,
    *,
    seed: int,
    name: str,
    shape: tuple[int, ...],
    index: Sequence[slice | int] | None = None,
) -> bool:
    """Overwrite a tensor on a GPU; ``False``, with nothing written, if it is not done here.

    Args:
        tensor: what is overwritten, of the shape of the slice.
        spec, seed, name, shape, index: as for :func:`initium.stream.draw`.

    Raises:
        SpecError: as for :func:`initium.stream.draw`.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not isinstance(spec, Elementwise) or dtype not in CASTS:
        return False
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_neg()
    if not (plain and _has_kernels(tensor)):
        return False
    check_drawable(spec, seed, name, shape)
    ranges, kept = select(index, shape, name)
    if tuple(tensor.shape) != kept or overlapping(tensor.shape, tensor.stride(), 1):
        return False
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    element = sum(picked.start * step for picked, step in zip(ranges, steps, strict=True))
    try:
        fill_memory(
            law_of(spec, derive(seed, name)),
            tensor.view([len(picked) for picked in ranges]),
            element,
            [picked.step * step for picked, step in zip(ranges, steps, strict=True)],
        )
    except Exception as error:  # of this variant of the kernel: the CPU draws what it was to draw
        _say(tensor.device, *_failure(error))
        return False
    return True


def _has_kernels(tensor: torch.Tensor) -> bool:
    """Whether it lies on a GPU for which there are kernels that work."""
    if not tensor.is_cuda or torch.version.hip is not None:
        return False
    try:
        return ready(tensor.device)
    except torch.OutOfMemoryError:  # of the trial: the next fill may try again
        return False


@lru_cache(maxsize=64)
def ready(device: torch.device) -> bool:
    """Whether the kernel draws the right bits on a device; if not, the log has said why."""
    why: str
    fix: str | None
    if torch.cuda.get_device_capability(device) < OLDEST:
        why, fix = "it is older than Triton supports", None
    elif importlib.util.find_spec("triton") is None:
        why, fix = "Triton is not installed", "pip install triton"
    else:
        try:
            if _draws_the_right_bits(device):
                return True
            why, fix = "the kernel draws wrong bits", "report your GPU and the version of Triton"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Triton, a compiler or a driver: whatever, it does not work
            why, fix = _failure(error)
    _say(device, why, fix)
    return False


def _failure(error: Exception) -> tuple[str, str]:
    """Why a kernel could not be used, and what to do."""
    return (
        f"Triton fails: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}",
        "install the Triton that your torch asks for, and a C compiler",
    )


def _say(device: torch.device, why: str, fix: str | None) -> None:
    logging.getLogger("initium").log(
        logging.WARNING if fix else logging.INFO,
        "tensors on %s are drawn on the CPU and copied, with the same bits: %s%s",
        *(device, why, f". Fix: {fix}" if fix else ""),
    )


def _draws_the_right_bits(device: torch.device) -> bool:
    spec, shape, index = Normal(0.02), (2**35,), (slice(2**34 - 4096, 2**34 + 4096),)
    drawn = torch.empty(8192, dtype=torch.float32, device=device)
    fill_memory(law_of(spec, derive(0, "")), drawn, 2**34 - 4096, (1,))
    wanted = torch.from_numpy(stream.draw(spec, seed=0, name="", shape=shape, index=index))
    return torch.equal(drawn.cpu(), wanted)


def fill_memory(law: Law, tensor: torch.Tensor, element: int, steps: Sequence[int]) -> None:
    """Fill a tensor: ``tensor[j]`` becomes element ``element + j . steps``.

    Args:
        law: the distribution.
        tensor: of a type of :data:`~initium.stream.round.CASTS`, with any strides but zero.
        element: the index of the first element in the whole parameter.
        steps: for every axis, the elements from one position to the next.
    """
    if tensor.numel() == 0:
        return
    dtype = str(tensor.dtype).removeprefix("torch.")
    memory = tensor.detach().view(BITS.get(tensor.dtype, tensor.dtype))
    if law.kind == native.CONSTANT:
        number = stream.cast(np.array([law.shift], np.float32), dtype)
        memory.fill_(number.view(np.int16).item() if number.dtype == np.uint16 else number.item())
        return
    axes = map(Axis, tensor.shape, tensor.stride(), steps)
    with torch.cuda.device_of(tensor):
        for grid in _grids(element, _merged(axes)):
            _launch(memory, dtype, law, grid)


def _grids(element: int, axes: tuple[Axis, ...]) -> Iterator[Grid]:
    """Grids that one launch takes: of quads as far as possible, else of elements."""
    inner, outer = axes[-1], axes[:-1]
    dense = inner.stride == inner.step == 1
    if dense and not outer:
        head = min(-element % 4, inner.size)
        body = (inner.size - head) // 4 * 4
        for start, stop in ((0, head), (head + body, inner.size)):
            if start < stop:
                yield Grid(start, element + start, (Axis(stop - start, 1, 1),))
        if body:
            yield Grid(head, (element + head) // 4, (Axis(body // 4, 1, 1),), quads=True)
        return
    fours = [element, inner.size, *(n for axis in outer for n in (axis.stride, axis.step))]
    if dense and not any(number % 4 for number in fours):
        quads = [Axis(axis.size, axis.stride // 4, axis.step // 4) for axis in outer]
        axes = (*quads, Axis(inner.size // 4, 1, 1))
        yield from _split(Grid(0, element // 4, axes, quads=True))
    else:
        yield from _split(Grid(0, element, axes))


def _merged(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """Sorted by their strides; those that continue one another in both senses become one."""
    found: list[Axis] = []
    for axis in sorted(axes, key=lambda axis: -axis.stride):
        last = found[-1] if found else None
        if axis.size == 1:
            continue
        if last and (last.stride, last.step) == (axis.stride * axis.size, axis.step * axis.size):
            found[-1] = Axis(last.size * axis.size, axis.stride, axis.step)
        else:
            found.append(axis)
    return tuple(found) or (Axis(1, 1, 1),)


def _split(grid: Grid) -> Iterator[Grid]:
    """Grids that one launch takes: position by position of a short axis, or halves of the first."""
    axes, unit = grid.axes, 4 if grid.quads else 1
    few = len(axes) <= AXES
    if len(axes) == 1 or (few and math.prod(axis.size for axis in axes) < MOST):
        yield grid
        return
    cut = 0 if few else min(range(len(axes) - 1), key=lambda number: axes[number].size)
    chosen = axes[cut]
    size = (chosen.size + 1) // 2 if few else 1
    for start in range(0, chosen.size, size):
        part = Axis(min(size, chosen.size - start), chosen.stride, chosen.step)
        yield from _split(
            Grid(
                grid.offset + start * chosen.stride * unit,
                grid.element + start * chosen.step,
                (*axes[:cut], *([part] if part.size > 1 else []), *axes[cut + 1 :]),
                grid.quads,
            )
        )


def _launch(memory: torch.Tensor, dtype: str, law: Law, grid: Grid) -> None:
    total = math.prod(axis.size for axis in grid.axes)
    inner, middle, outer = (*reversed(grid.axes), *(Axis(1, 0, 0),) * AXES)[:AXES]
    whole = law.count == 2**32
    sizes = (inner.size, middle.size) if len(grid.axes) > 1 else (0, 0)
    _kernels().fill[(-(-total // BLOCK),)](
        memory.as_strided((1,), (1,), memory.storage_offset() + grid.offset),
        *(total, *sizes, _signed(grid.element, 64)),
        *(inner.step, middle.step, outer.step, inner.stride, middle.stride, outer.stride),
        *(_signed(word, 32) for word in (*law.key, law.first, law.count)),
        *(law.scale, law.shift, law.least, law.most),
        AXES=len(grid.axes),
        QUADS=grid.quads,
        TYPE=dtype,
        KIND=law.kind,
        SHIFTED=law.shift != 0,
        CLAMPED=law.kind != native.NORMAL,
        WHOLE=whole,
        TAILED=whole or law.first < TAIL or law.first + law.count > 2**32 - TAIL,
        BLOCK=BLOCK,
        **OPTIONS,
    )


def _kernels() -> ModuleType:
    from initium._fill import triton_kernels

    return triton_kernels


def _signed(word: int, bits: int) -> int:
    """The integer with a sign that has the same lowest bits."""
    word %= 1 << bits
    return word - (1 << bits) if word >> (bits - 1) else word
