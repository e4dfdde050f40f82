"""Statistics on an evenly spread, deterministic sample of a tensor: cheap, whatever its size."""

from __future__ import annotations

import math

import torch

from initium._check.thresholds import FORMATS, HALF_LOST

__all__ = ["Ranges", "channel_mean", "mean_square", "sampled", "token_cosine"]

MOMENT = 1 << 14
"""Elements for a second moment: of Gaussian ones, known to sqrt(2 / 2^14) = 1.1%."""
RANGE = 1 << 10
TOGETHER = 64
"""Tensors whose samples are sorted into ranges at once."""
ROWS, CHANNELS, TOKENS, SAMPLES = 128, 256, 64, 4


def sampled(tensor: torch.Tensor, most: int) -> torch.Tensor:
    """At most ``most`` elements as a vector, evenly spread, in step with no dimension's size."""
    flat = tensor.detach().reshape(-1)
    step = -(-flat.numel() // most) if most else 1
    if step <= 1:
        return flat
    while math.gcd(step, flat.numel()) != 1:
        step += 1
    return flat[::step]


def mean_square(tensor: torch.Tensor) -> float:
    """E[x^2] on a sample; 0 for an empty tensor."""
    part = sampled(tensor, MOMENT)
    norm = torch.linalg.vector_norm(part.to(_wide(part)))
    return float(norm) ** 2 / max(1, part.numel())


def channel_mean(tensor: torch.Tensor, axis: int) -> float | None:
    """The part of E[x^2] that lies in the channels' means, without what chance puts there.

    sum_c (mean_c^2 - var_c / n) / sum_c E[x_c^2] on ``n`` rows; ``None`` for fewer than eight rows.

    Example:
        >>> channel_mean(torch.ones(16, 4), -1)
        1.0
    """
    rows = tensor.detach().movedim(axis, -1).reshape(-1, tensor.shape[axis])
    rows = rows[:: max(1, len(rows) // ROWS), :: max(1, rows.shape[1] // CHANNELS)]
    if len(rows) < 8:
        return None
    rows = rows.to(_wide(rows))
    mean, square = rows.mean(0), float(rows.square().mean())
    if not 0.0 < square < math.inf:
        return None
    between = float(mean.square().mean())
    within = (square - between) * len(rows) / (len(rows) - 1)
    return max(0.0, between - within / len(rows)) / square


def token_cosine(tensor: torch.Tensor) -> float | None:
    """The mean cosine between two tokens of one sample, of [samples, tokens, width].

    From the unit vectors u: (|sum u|^2 - T) / (T (T - 1)). ``None`` for fewer than two tokens.
    """
    count, tokens, _ = tensor.shape
    part = tensor.detach()[:: -(-count // SAMPLES), :: -(-tokens // TOKENS)]
    tokens = part.shape[1]
    if tokens < 2:
        return None
    unit = torch.nn.functional.normalize(part.to(_wide(part)), dim=-1, eps=1e-300)
    total = unit.sum(1).square().sum(-1)
    filled = unit.square().sum((1, 2))
    return float(((total - filled) / (tokens * (tokens - 1))).mean())


class Ranges:
    """How many elements of what was seen lie outside each number format's range."""

    def __init__(self) -> None:
        self.limits = sorted({limit for format_ in FORMATS.values() for limit in format_})
        self.edges = torch.tensor([0.0, *self.limits], dtype=torch.float32, device="cpu")
        self.counts: dict[str, list[float]] = {}
        self.zeros: dict[str, float] = {}
        self.dtypes: dict[str, str] = {}
        self.waiting: list[tuple[str, float, torch.Tensor]] = []

    def see(self, name: str, tensor: torch.Tensor) -> None:
        """Add the magnitudes of a sample of the finite elements."""
        part = sampled(tensor, RANGE)
        part = part.abs() if part.is_complex() else part
        if part.numel():
            part = part.to("cpu", torch.float32, copy=True)
            self.counts.setdefault(name, [0.0] * len(self.edges))
            self.dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            self.waiting.append((name, tensor.numel() / part.numel(), part))
            if len(self.waiting) >= TOGETHER:
                self._sort()

    def _sort(self) -> None:
        """All samples that wait are counted at once."""
        if not self.waiting:
            return
        width = len(self.edges) + 1
        parts = [part for *_, part in self.waiting]
        bins = torch.bucketize(torch.cat(parts).abs_(), self.edges)
        sizes = torch.tensor([part.numel() for part in parts])
        bins += torch.arange(len(parts)).mul_(width).repeat_interleave(sizes)
        counted = bins.bincount(minlength=width * len(parts)).view(-1, width).tolist()
        for (name, weight, _), counts in zip(self.waiting, counted, strict=True):
            held = self.counts[name]
            self.zeros[name] = self.zeros.get(name, 0.0) + weight * counts[0]
            self.counts[name] = [a + weight * b for a, b in zip(held, counts[1:], strict=True)]
        self.waiting.clear()

    def beyond(self, name: str, dtype: str) -> tuple[float, float, float, float]:
        """Elements that are not zero, that overflow, are subnormal, and are lost.

        Zeros of a tensor in that very format are lost too, where most of what is left of it is
        subnormal: they are the other part of the same law.
        """
        self._sort()
        lost, normal, largest = (self.limits.index(limit) for limit in FORMATS[dtype])
        bins = self.counts[name]
        size, gone = sum(bins), sum(bins[: lost + 1])
        under = sum(bins[: normal + 1]) - gone
        if self.dtypes[name] == dtype and under > HALF_LOST * size:
            size, gone = size + self.zeros[name], gone + self.zeros[name]
        return size, sum(bins[largest + 1 :]), under, gone


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64
