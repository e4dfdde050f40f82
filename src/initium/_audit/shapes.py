"""Outliers: a few elements so far out that no law with a finite fourth moment put them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from initium._audit.findings import also, plural
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["find_outliers"]

FAR = 8.0
"""In units of the std: a normal number lies beyond with probability 1e-15."""
MEDIAN = 0.6745
"""The median of |z| for z ~ N(0, 1): a std that outliers do not move."""
SAMPLED = 1 << 16
RARE = 0.01
"""More of the elements than this are a part of the law, such as a block with a larger std."""
FEWEST = 256


def find_outliers(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Weights with a few huge elements, as a truncated normal in low precision leaves (IN730)."""
    found = []
    for name, value in values.items():
        if value.dim() < 2 or value.numel() < FEWEST or not bool(value.isfinite().all()):
            continue
        sample = value.flatten()[:: max(1, value.numel() // SAMPLED)].float().abs()
        sample = sample[sample > 0]
        if len(sample) < FEWEST // 4:
            continue
        scale = float(sample.median()) / MEDIAN
        sizes = value.detach().abs()
        far = int((sizes > FAR * scale).sum())
        if 0 < far <= RARE * value.numel():
            found.append((float(sizes.max()) / scale, far, scale, name))
    if found:
        found.sort(reverse=True)
        worst, far, scale, first = found[0]
        names = tuple(name for *_, name in found)
        yield Finding(
            code="IN730",
            severity="warning",
            title="outliers",
            where=names,
            message=f"{plural(far, 'element')} of {first} lie beyond {FAR:g} sigmas, the largest "
            f"at {worst:.3g}, while the others have std {scale:.3g}"
            f"{also(names, 'weight')}",
            fix=f"draw {first} again in float32 with nn.init.trunc_normal_({first}, std="
            f"{scale:.3g}, a={-3 * scale:.3g}, b={3 * scale:.3g}), and cast it afterwards",
            numbers={"largest": worst, "elements": far, "std": scale, "weights": len(names)},
        )
