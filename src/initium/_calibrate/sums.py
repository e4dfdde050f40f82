"""Second moments of what an operator puts out, with its bias kept apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["Runs", "Sums", "constant", "second_moment", "sums_of"]

Runs = tuple[tuple[int, int], ...]
"""Half-open ranges along one dimension; none for all of it."""


@dataclass(slots=True)
class Sums:
    """Weighted sums over what was measured: of a^2, a b and b^2, for product a and bias b."""

    weight: float = 0.0
    product: float = 0.0
    cross: float = 0.0
    bias: float = 0.0

    @property
    def mean(self) -> float:
        """E (a + b)^2."""
        if not self.weight:
            return 0.0
        return (self.product + 2 * self.cross + self.bias) / self.weight

    def add(self, other: Sums) -> None:
        self.weight += other.weight
        self.product += other.product
        self.cross += other.cross
        self.bias += other.bias

    def scaled(self, factor: float) -> Sums:
        """The sums if the product were ``factor`` times as large."""
        return Sums(self.weight, self.product * factor**2, self.cross * factor, self.bias)

    def factor(self, target: float) -> float | None:
        """The f > 0 with E (f a + b)^2 = target; ``None`` where the bias alone is too much."""
        rest = self.bias - target * self.weight
        root = self.cross**2 - self.product * rest
        if root < 0 or not self.product > 0:
            return None
        found = (math.sqrt(root) - self.cross) / self.product
        return found if found > 0 and math.isfinite(found) else None

    def factor_of_product(self, target: float) -> float | None:
        """The f with E (f a)^2 = target; ``None`` where the product is zero."""
        if not self.product > 0:
            return None
        found = math.sqrt(target * self.weight / self.product)
        return found if found > 0 and math.isfinite(found) else None


def second_moment(tensor: torch.Tensor) -> float:
    """The mean of |x|^2 over all elements."""
    return _total(tensor, tensor) / max(tensor.numel(), 1)


def _total(left: torch.Tensor, right: torch.Tensor) -> float:
    wide = torch.float32 if left.device.type == "mps" else torch.float64
    if left.is_complex():
        left, right = torch.view_as_real(left.resolve_conj()), torch.view_as_real(right)
    if left is right:
        return float(torch.linalg.vector_norm(left, dtype=wide)) ** 2
    return float((left.to(wide) * right.to(wide)).sum())


def _pieces(tensor: torch.Tensor, dim: int | None, runs: Runs) -> list[torch.Tensor]:
    if not runs or dim is None:
        return [tensor]
    return [tensor.narrow(dim, start, stop - start) for start, stop in runs]


def sums_of(
    out: torch.Tensor,
    bias: torch.Tensor | None,
    dim: int | None,
    runs: Runs,
) -> Sums:
    if bias is None:
        parts = _pieces(out, dim, runs)
        count = sum(part.numel() for part in parts)
        return Sums(count, sum(_total(part, part) for part in parts))
    product, sums = out - bias, Sums()
    spread = bias.expand_as(out)
    for a, b in zip(_pieces(product, dim, runs), _pieces(spread, dim, runs), strict=True):
        sums.add(Sums(a.numel(), _total(a, a), _total(a, b), _total(b, b)))
    return sums


def constant(out: torch.Tensor, dim: int | None, runs: Runs) -> bool:
    """Whether every element is the same, of more than one."""
    if out.is_complex():
        return False
    parts = _pieces(out, dim, runs)
    if sum(part.numel() for part in parts) < 2:
        return False
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    return low == high
