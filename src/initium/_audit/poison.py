"""Two fillings for memory that nobody has written yet, and what still holds them.

An element that an init wrote has the same bits whatever was there before, and the two fillings
differ: so one that holds the first after one run and the second after another was never written.
That is exact in every dtype, also where a filling is a plausible value. Both are exact in all
floating types down to eight bits, so that they survive a cast. Not covered: quantised and packed
types, which are left alone and count as written.
"""

from __future__ import annotations

import torch

from initium._model.sharding import local

__all__ = ["FILLINGS", "bits", "fill", "holds", "is_plain"]

FILLINGS = (1.25, -3.0)


def _value(dtype: torch.dtype, which: int) -> float | int | bool:
    if dtype is torch.bool:
        return which == 0
    if dtype.is_floating_point or dtype.is_complex:
        return FILLINGS[which]
    return 1 - which


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether its elements lie in memory one by one, and can be compared bit for bit."""
    return tensor.layout is torch.strided and not tensor.is_quantized


def fill(tensor: torch.Tensor, which: int) -> None:
    """Write a filling into all of a tensor's memory here, past autograd."""
    part = local(tensor).data
    if part.is_meta or not is_plain(part):
        return
    try:
        part.fill_(_value(part.dtype, which))
    except (RuntimeError, NotImplementedError):  # a dtype that only stores bits
        return


def holds(tensor: torch.Tensor, which: int) -> torch.Tensor:
    """A mask of the elements that are bit for bit the filling."""
    part = local(tensor).detach()
    if not is_plain(part) or part.numel() == 0:
        return torch.zeros(tuple(part.shape), dtype=torch.bool)
    mark = part.new_empty(1)
    fill(mark, which)
    same = bits(part) == bits(mark)
    return same.flatten(part.dim()).all(-1) if same.dim() > part.dim() else same


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as integers of the same width, so that NaN equals itself."""
    part = local(tensor).detach()
    if part.is_complex():
        part = torch.view_as_real(part.resolve_conj())
    if part.is_neg():
        part = part.resolve_neg()
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return part.view(width[part.element_size()])
