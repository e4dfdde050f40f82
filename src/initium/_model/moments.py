"""Sums over tensors, from which their moments follow: in double precision, block by block.

Nothing is kept of a tensor but its sums. A device without doubles sums in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["BLOCK", "Moments"]

BLOCK = 1 << 15
"""Elements converted to double at a time: they stay in a CPU's cache, and torch splits nothing as
small between threads, which on a busy machine would cost more than the work."""
BLOCK_ON_DEVICE = 1 << 24


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
    def of(cls, tensor: torch.Tensor, samples: int = 1) -> Moments:
        """Reduce ``tensor``; ``samples`` > 1 reads it as that many samples, along dimension 0."""
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        if tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.is_meta:
            return cls()
        rows = _rows(tensor, samples)
        wide = torch.float32 if tensor.device.type == "mps" else torch.float64
        nonzero, total, squares, centred = 0.0, 0.0, 0.0, 0.0
        for part in _blocks(rows):
            block = part.to(wide, copy=True)
            flat = block.view(-1)
            column = block.sum(0) if samples > 1 else flat
            sums = [part.count_nonzero(), column.sum(), torch.linalg.vector_norm(flat)]
            if samples > 1:
                block.sub_(column / samples)
                sums.append(torch.linalg.vector_norm(flat))
            found = [*_numbers(sums), 0.0]
            nonzero, total = nonzero + found[0], total + found[1]
            squares += found[2] ** 2
            centred += found[3] ** 2
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


def _blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    size = BLOCK if rows.device.type == "cpu" else BLOCK_ON_DEVICE
    return (rows,) if rows.numel() <= size else rows.split(max(1, size // len(rows)), dim=1)


def _numbers(values: list[torch.Tensor]) -> list[float]:
    """As Python numbers, with one transfer from a device."""
    if values[0].device.type == "cpu":
        return [value.item() for value in values]
    return torch.stack([value.to(values[-1].dtype) for value in values]).tolist()
