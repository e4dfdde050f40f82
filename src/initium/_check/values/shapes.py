"""Outliers: a few elements so far out that no law with a finite fourth moment put them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from initium._check.sample import sampled
from initium._check.thresholds import OUTLIER_SIGMAS, OUTLIERS_FEWEST, OUTLIERS_RARE
from initium._check.values.parts import fused_blocks
from initium._check.words import also
from initium._report.records import Finding
from initium._report.words import count
from initium._types import ModelView

__all__ = ["find_outliers"]

MEDIAN = 0.6745
"""The median of |z| for z ~ N(0, 1): a std that outliers do not move."""
SAMPLED = 1 << 12


def find_outliers(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Weights with a few huge elements, as a truncated normal in low precision leaves (IN730)."""
    found = []
    for name, value in values.items():
        if value.dim() < 2 or value.numel() < OUTLIERS_FEWEST:
            continue
        outlying = [_outlying(part) for part in fused_blocks(value, view.parameters[name])]
        worst_of = max((one for one in outlying if one is not None), default=None)
        if worst_of is not None:
            found.append((*worst_of, name))
    if found:
        found.sort(reverse=True)
        worst, far, scale, first = found[0]
        names = tuple(name for *_, name in found)
        yield Finding(
            code="IN730",
            severity="warning",
            title="outliers",
            where=names,
            message=f"{count(far, 'element')} of {first} lie beyond {OUTLIER_SIGMAS:g} sigmas, "
            f"the largest at {worst:.3g}, while the others have std {scale:.3g}"
            f"{also(names, 'weight')}",
            fix=f"draw {first} again in float32 with nn.init.trunc_normal_({first}, std="
            f"{scale:.3g}, a={-3 * scale:.3g}, b={3 * scale:.3g}), and cast it afterwards",
            numbers={"largest": worst, "elements": far, "std": scale, "weights": len(names)},
        )


def _outlying(value: torch.Tensor) -> tuple[float, int, float] | None:
    """The largest magnitude in sigmas, how many lie far out, and sigma, if they are few."""
    low, high = (float(end) for end in torch.aminmax(value))
    largest = max(-low, high)
    if not 0.0 < largest < float("inf"):
        return None
    sample = sampled(value, SAMPLED).float().abs()
    sample = sample[sample > 0]
    if len(sample) < OUTLIERS_FEWEST // 4:
        return None
    scale = float(sample.median()) / MEDIAN
    if largest <= OUTLIER_SIGMAS * scale:
        return None
    far = int((value.abs() > OUTLIER_SIGMAS * scale).sum())
    return (largest / scale, far, scale) if far <= OUTLIERS_RARE * value.numel() else None
