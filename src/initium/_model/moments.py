"""Sums over tensors, from which their moments follow: in double precision, block by block.

Nothing is kept of a tensor but its sums. Where a relative error of about 1e-7 will do, blocks of
single-precision numbers on a CPU are summed in single precision, and only their sums added up in
double, unless squares might overflow or vanish. A device without doubles sums in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["BLOCK", "Moments"]

BLOCK = 1 << 15
"""Elements converted to double at a time: they stay in a CPU's cache, and torch splits nothing as
small between threads, which on a busy machine would cost more than the work."""
BLOCK_OF_SAMPLES = 1 << 17
BLOCK_ON_DEVICE = 1 << 24
LEAST, LEAST_BETWEEN, MOST = 1e-30, 1e-24, 1e30
"""Second moments between which squares of single-precision numbers neither vanish nor overflow;
and those of distances that are no more than rounding."""


@dataclass(slots=True)
class Moments:
    """Sums over everything seen: sizes, x, x^2, squared distances from the samples' mean, zeros."""

    elements: int = 0
    freedom: int = 0
    total: float = 0.0
    squares: float = 0.0
    centred: float = 0.0
    zeros: float = 0.0
    nonfinite: float = 0.0

    @classmethod
    def of(
        cls, tensor: torch.Tensor, samples: int = 1, *, zeros: bool = True, exact: bool = True
    ) -> Moments:
        """Reduce ``tensor``; ``samples`` > 1 reads it as that many samples, along dimension 0.

        Without ``zeros`` they are not counted; unless ``exact``, blocks of single-precision numbers
        are summed as they are.
        """
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        if tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.is_meta:
            return cls()
        rows = _rows(tensor, samples)
        if not exact and rows.dtype is torch.float32 and rows.device.type == "cpu":
            single = _single(rows)
            if single is not None:
                count = int(np.count_nonzero(rows.numpy())) if zeros else tensor.numel()
                freedom = tensor.numel() // samples * (samples - 1)
                return cls(tensor.numel(), freedom, *single, tensor.numel() - count)
        wide = torch.float32 if tensor.device.type == "mps" else torch.float64
        nonzero, total, squares, centred = 0.0, 0.0, 0.0, 0.0
        for part in _blocks(rows):
            block = part.to(wide, copy=True)
            column = block.sum(0) if samples > 1 else block
            sums = [column.sum(), torch.linalg.vector_norm(block)]
            if samples > 1:
                block.sub_(column / samples)
                sums.append(torch.linalg.vector_norm(block))
            if zeros:
                sums.insert(0, part.count_nonzero())
            found = _numbers(sums)
            nonzero += found.pop(0) if zeros else part.numel()
            total += found[0]
            squares += found[1] ** 2
            centred += found[2] ** 2 if samples > 1 else 0.0
        bad = 0.0
        if squares - squares != 0.0:
            bad = float(sum(int((~part.isfinite()).sum()) for part in _blocks(rows)))
        elements = tensor.numel()
        freedom = elements // samples * (samples - 1)
        return cls(elements, freedom, total, squares, centred, elements - nonzero, bad)

    def add(self, other: Moments) -> None:
        """Take in what another tensor gave."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def per_element(self, value: float) -> float:
        """``value`` divided by the number of elements."""
        return value / self.elements if self.elements else 0.0


def _rows(tensor: torch.Tensor, samples: int) -> torch.Tensor:
    """[samples, rest], in memory order where that saves a copy."""
    order = sorted(range(1, tensor.dim()), key=tensor.stride, reverse=True)
    if tensor.dim() and samples == 1:
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    elif tensor.dim():
        order = [0, *order]
    return tensor.permute(order).reshape(samples, -1)


def _single(rows: torch.Tensor) -> tuple[float, float, float] | None:
    """Sums of x, x^2 and the squared distances from the samples' mean; ``None`` out of range.

    The mean m of a block's columns is rounded; so with d = x - m and r the mean of d, the distances
    are sum d^2 - N r^2, and x^2 sums up to those and N (m + r)^2.
    """
    samples, size = rows.shape
    total, squares, centred = 0.0, 0.0, 0.0
    if samples == 1:
        for part in rows.reshape(-1).split(BLOCK):
            total += part.sum().item()
            squares += part.dot(part).item()
    else:
        for part in rows.split(max(1, BLOCK_OF_SAMPLES // samples), dim=1):
            mean = part.sum(0).div_(samples)
            away = part - mean
            rest = away.sum(0).double().div_(samples)
            flat = away.reshape(-1)
            about = flat.dot(flat).item() - samples * rest.dot(rest).item()
            exact = mean.double().add_(rest)
            total += samples * exact.sum().item()
            squares += samples * exact.dot(exact).item() + max(about, 0.0)
            centred += max(about, 0.0)
    least = LEAST if samples == 1 else LEAST_BETWEEN
    return (total, squares, centred) if least < squares / (samples * size) < MOST else None


def _blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    size = BLOCK if rows.device.type == "cpu" else BLOCK_ON_DEVICE
    return (rows,) if rows.numel() <= size else rows.split(max(1, size // len(rows)), dim=1)


def _numbers(values: list[torch.Tensor]) -> list[float]:
    """As Python numbers, with one transfer from a device."""
    if values[0].device.type == "cpu":
        return [value.item() for value in values]
    return torch.stack([value.to(values[-1].dtype) for value in values]).tolist()
