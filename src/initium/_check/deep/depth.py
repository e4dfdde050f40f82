"""Effective rank and correlations of pairs, layer by layer: one forward pass without gradients.

The batch is run with copies of itself in which what enters is mixed with another sample to a known
cosine, so that the outputs of both can be compared where they appear and nothing is kept.

Not covered: layers whose output does not have the samples in front (sequence first, recurrences
with packed inputs); models that mix samples see the copies as part of their batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from initium._check.deep.entry import Entry
from initium._check.deep.passes import Subject, measuring
from initium._check.thresholds import CONVERGED, PAIRS
from initium._model.call import first_floating, map_tensors
from initium._model.names import named_modules
from initium._report.deep import DeepLayer

__all__ = ["convergence", "correlations", "effective_rank", "ranks"]

ROWS = 512
"""Rows of activations that a rank is measured on."""

Seen = Callable[[str, nn.Module, torch.Tensor], None]


def ranks(subject: Subject, names: tuple[str, ...]) -> dict[str, DeepLayer]:
    """Participation ratio and stable rank of the outputs of ``names``, on the batch itself."""
    found: dict[str, DeepLayer] = {}

    def seen(name: str, module: nn.Module, output: torch.Tensor) -> None:
        rows = _rows(module, output)
        if name in found or len(rows) < 3 or not bool(rows.isfinite().all()):
            return
        participation, stable = effective_rank(rows)
        found[name] = DeepLayer(
            name=name,
            participation=participation,
            stable_rank=stable,
            limit=min(len(rows) - 1, rows.shape[1]),
        )

    with measuring(subject.model), torch.no_grad(), _outputs(subject.model, names, seen):
        subject.call(subject.inputs)
    return found


def effective_rank(rows: torch.Tensor) -> tuple[float, float]:
    """Participation ratio and stable rank of the covariance of ``rows`` [N, d].

    (sum l)^2 / sum l^2 and sum l / max l over its eigenvalues l; both 0 where all rows are equal.

    Source: Gao et al. 2017, bioRxiv 214262 (participation ratio); Rudelson & Vershynin 2007
    (stable rank).

    Example:
        >>> rows = torch.eye(4)
        >>> tuple(round(value, 3) for value in effective_rank(rows))
        (3.0, 3.0)
    """
    wide = rows.cpu().double()
    centred = wide - wide.mean(0)
    gram = centred @ centred.T if len(rows) <= rows.shape[1] else centred.T @ centred
    trace, squares = float(gram.trace()), float(gram.square().sum())
    floor = torch.finfo(rows.dtype).eps ** 2 * float(wide.square().sum())
    if trace <= floor:
        return 0.0, 0.0
    return trace**2 / squares, trace / float(torch.linalg.eigvalsh(gram)[-1])


def correlations(
    subject: Subject, entry: Entry, names: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    """Mean cosine of the outputs of each sample and its partners, by layer, for each of PAIRS."""
    copies, samples = len(PAIRS) + 1, subject.samples

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        batched = tensor.dim() > 0 and tensor.shape[0] == samples
        return tensor.repeat(copies, *[1] * (tensor.dim() - 1)) if batched else tensor

    found: dict[str, tuple[float, ...]] = {}

    def seen(name: str, module: nn.Module, output: torch.Tensor) -> None:
        if name in found or output.shape[0] % (copies * samples):
            return
        parts = output.detach().reshape(copies, samples, -1).cpu().double()
        cosines = torch.cosine_similarity(parts[1:], parts[:1], dim=-1).mean(1)
        if bool(cosines.isfinite().all()):
            found[name] = tuple(cosines.tolist())

    inputs = map_tensors(subject.inputs, repeated)
    with (
        measuring(subject.model),
        torch.no_grad(),
        entry.changed(inputs, lambda tensor: _mixed(tensor, copies)) as changed,
        _outputs(subject.model, names, seen),
    ):
        subject.call(changed)
    return found


def convergence(profile: Mapping[str, tuple[float, ...]]) -> tuple[float | None, float | None]:
    """Depth scale and fixed point of correlations through depth.

    xi is the number of layers over which the distance between the two outermost of the pairs falls
    by e, by least squares over the layers where it is more than rounding: whatever c* is, distances
    to it and between two that approach it fall alike. c* is where all pairs have met.

    Source: Schoenholz et al. 2017, arXiv:1611.01232.
    """
    curves = list(profile.values())
    if len(curves) < 2:
        return None, None
    gaps = [max(curve) - min(curve) for curve in curves]
    end = curves[-1]
    settled = sum(end) / len(end) if gaps[-1] < CONVERGED else None
    logs = [math.log(gap) for gap in gaps if gap > 1e-4]
    if len(logs) < 4:
        return None, settled
    middle = (len(logs) - 1) / 2
    slope = sum((i - middle) * y for i, y in enumerate(logs)) / sum(
        (i - middle) ** 2 for i in range(len(logs))
    )
    return (-1 / slope if slope < -0.1 / len(curves) else None), settled


def _mixed(tensor: torch.Tensor, copies: int) -> torch.Tensor:
    """[copies * samples, ...]: copy i > 0 has cosine PAIRS[i - 1] with copy 0, and its length."""
    base = tensor.chunk(copies)[0]
    flat = base.flatten(1).cpu().double()
    other = flat.roll(1, 0)
    length = flat.norm(dim=1, keepdim=True)
    unit = flat / length.clamp_min(1e-300)
    across = other - (other * unit).sum(1, keepdim=True) * unit
    across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-300)
    parts = [flat] + [length * (c * unit + math.sqrt(1 - c * c) * across) for c in PAIRS]
    return torch.cat(parts).to(tensor).reshape(tensor.shape)


def _rows(module: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """[rows, units], with rows taken evenly from all samples and positions."""
    if output.dim() < 2:
        return output.reshape(1, -1)
    if isinstance(module, nn.modules.conv._ConvNd):
        output = output.movedim(1, -1)
    rows = output.detach().reshape(-1, output.shape[-1])
    if len(rows) <= ROWS:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, ROWS, device=rows.device).long()]


@contextmanager
def _outputs(model: nn.Module, names: tuple[str, ...], seen: Seen) -> Iterator[None]:
    """Show the output of every call of the named modules."""

    def hook(name: str) -> Any:
        def show(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_floating(output)
            if tensor is not None and tensor.dim() > 0 and tensor.is_floating_point():
                seen(name, module, tensor)

        return show

    modules = dict(named_modules(model))
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
