"""What each number format would lose of the activations, gradients and weights that were seen."""

from __future__ import annotations

from initium._check.sample import Ranges
from initium._check.thresholds import FORMATS
from initium._report.records import RangeRecord

__all__ = ["range_records"]


def range_records(
    activations: Ranges, gradients: Ranges, weights: Ranges
) -> tuple[RangeRecord, ...]:
    """One record per kind of tensor and format; kinds that nothing was seen of are left out."""
    kinds = {"activations": activations, "gradients": gradients, "weights": weights}
    return tuple(
        _record(what, dtype, seen)
        for what, seen in kinds.items()
        if seen.counts
        for dtype in FORMATS
    )


def _record(what: str, dtype: str, seen: Ranges) -> RangeRecord:
    total, overflow, subnormal, lost = 0.0, 0.0, 0.0, 0.0
    worst, most = "", (0.0, 0.0, False)
    for name in seen.counts:
        size, over, under, gone = seen.beyond(name, dtype)
        total, overflow = total + size, overflow + over
        subnormal, lost = subnormal + under, lost + gone
        # Of several that lose as much, the first that is not the whole model.
        parts = ((over + gone) / size, under / size, bool(name)) if size else most
        if over + gone + under > 0 and parts > most:
            worst, most = name, parts
    total = total or 1.0
    return RangeRecord(
        what=what,
        dtype=dtype,
        overflow=overflow / total,
        subnormal=subnormal / total,
        lost=lost / total,
        worst=worst,
        worst_lost=most[0],
    )
