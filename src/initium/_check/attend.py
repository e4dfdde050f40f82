"""What an attention's softmax does, from a sample of its rows: logits, entropy, largest weight.

Keys that a mask takes out do not count, however it is given: as booleans, as -inf, as the smallest
number of the dtype or as -10000, or as ``is_causal``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from initium._report.records import AttentionRecord

__all__ = ["AttentionSums", "of_logits", "of_queries"]

MASKED = -9000.0
LOGITS = 1 << 16
"""Logits looked at in one call."""
HEADS, SAMPLES, POSITIONS = 8, 4, 64


@dataclass(slots=True)
class AttentionSums:
    """Sums over rows with more than one key."""

    rows: int = 0
    keys: int = 0
    variance: float = 0.0
    entropy: float = 0.0
    peak: float = 0.0
    causal: bool = False
    scale: float | None = None
    calls: int = 0

    def add(self, other: AttentionSums) -> None:
        """Take in another call of the same module."""
        self.rows += other.rows
        self.keys = max(self.keys, other.keys)
        self.variance += other.variance
        self.entropy += other.entropy
        self.peak += other.peak
        self.causal |= other.causal
        self.scale = other.scale if self.scale is None else self.scale
        self.calls += other.calls

    def record(self, name: str, order: int) -> AttentionRecord:
        """The means over all rows."""
        return AttentionRecord(
            name=name,
            order=order,
            calls=self.calls,
            keys=self.keys,
            logit_std=math.sqrt(max(0.0, self.variance / self.rows)),
            entropy=self.entropy / self.rows,
            peak=self.peak / self.rows,
            causal=self.causal,
            scale=self.scale,
        )


def of_logits(logits: torch.Tensor, dim: int = -1) -> AttentionSums:
    """Of masked logits, normalised along ``dim``.

    The variance is the unbiased one over a row's keys; H = -sum p ln p in units of ln n.

    Example:
        >>> of_logits(torch.zeros(2, 8)).record("attn", 0).entropy
        1.0
    """
    rows = logits.detach().movedim(dim, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    most = max(1, LOGITS // rows.shape[1])
    step = -(-len(rows) // most)
    rows = rows[:: step + (step > 1 and step % 2 == 0)].double()
    allowed = rows > MASKED
    count = allowed.sum(1)
    keep = count > 1
    causal = bool((count != count[0]).any())
    rows, allowed, count = rows[keep], allowed[keep], count[keep]
    if len(rows) == 0:
        return AttentionSums(calls=1)
    held = rows.where(allowed, 0.0)
    mean = held.sum(1) / count
    variance = (held - mean[:, None]).where(allowed, 0.0).square().sum(1) / (count - 1)
    weights = rows.where(allowed, -math.inf).softmax(1)
    entropy = torch.special.entr(weights).sum(1) / count.double().log()
    return AttentionSums(
        rows=len(rows),
        keys=int(count.max()),
        variance=float(variance.sum()),
        entropy=float(entropy.sum()),
        peak=float(weights.amax(1).sum()),
        causal=causal,
        calls=1,
    )


def of_queries(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: Any = None,
    causal: bool = False,
    scale: float | None = None,
) -> AttentionSums:
    """Of queries [..., heads, L, E] and keys [..., heads, S, E], for some samples and positions.

    Fewer heads of keys than of queries are shared by neighbours; ``causal`` lets query i see the
    keys up to i.
    """
    query, key = _four(query), _four(key)
    batch, heads, length, width = query.shape
    shared, total = heads // key.shape[1], key.shape[2]
    some = range(0, batch, -(-batch // SAMPLES))
    which = range(0, heads, -(-heads // HEADS))
    most = min(POSITIONS, max(4, LOGITS // (total * len(some) * len(which))))
    places = sorted({round(i * (length - 1) / max(1, most - 1)) for i in range(most)})
    at = torch.tensor(places, device=query.device)
    picked = query.detach()[list(some)][:, list(which)][:, :, at].double()
    keys = key.detach()[list(some)][:, [head // shared for head in which]].double()
    factor = width**-0.5 if scale is None else scale
    logits = picked @ keys.mT * factor
    if isinstance(mask, torch.Tensor):
        full = _four(mask.detach()).expand(batch, heads, length, total)
        part = full[list(some)][:, list(which)][:, :, at]
        if part.dtype == torch.bool:
            logits = logits.masked_fill(~part, -math.inf)
        else:
            logits = logits + part.double()
    if causal:
        later = torch.arange(total, device=at.device)[None, :] > at[:, None]
        logits = logits.masked_fill(later, -math.inf)
    sums = of_logits(logits)
    sums.causal |= causal
    sums.scale = factor * width**0.5
    return sums


def _four(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape((1,) * (4 - tensor.dim()) + tuple(tensor.shape))
