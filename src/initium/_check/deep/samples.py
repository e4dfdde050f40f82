"""How far the gradients of single samples agree, and at which batch their noise averages out."""

from __future__ import annotations

import torch
from torch import nn

from initium._check.deep.passes import Subject
from initium._report.deep import Agreement
from initium.errors import InputError

__all__ = ["SAMPLES", "agreement", "coupled"]

SAMPLES = 8


def coupled(model: nn.Module) -> bool:
    """Whether a batch norm in training mode couples the samples, so that none has a gradient."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in model.modules()
    )


def agreement(subject: Subject) -> Agreement:
    """Mean cosine of pairs of gradients, and tr(S) / |G|^2, over the first samples of the batch.

    With unit gradients e_i the mean cosine is (|sum e_i|^2 - K) / (K (K - 1)); |G|^2 and tr(S) are
    the unbiased estimates from one gradient and from the mean of K. Two sums are kept, no sample.

    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
    """
    count = min(SAMPLES, subject.samples)
    total: dict[str, torch.Tensor] = {}
    units: dict[str, torch.Tensor] = {}
    squares, used = 0.0, 0
    for index in range(count):
        try:
            gradients, _, _ = subject.sample(index).gradients()
        except InputError as error:  # such as a sample whose targets are all ignored
            raise RuntimeError(str(error)) from error
        held = {name: g.to_dense().float() for name, g in gradients.items() if g is not None}
        size = sum(float(g.square().sum()) for g in held.values())
        if not size > 0.0:
            continue
        squares, used = squares + size, used + 1
        for name, gradient in held.items():
            total[name] = total[name] + gradient if name in total else gradient
            unit = gradient / size**0.5
            units[name] = units[name] + unit if name in units else unit
    if used < 2:
        raise RuntimeError("fewer than two samples have a gradient")
    together = sum(float(value.square().sum()) for value in total.values()) / used**2
    cosine = (sum(float(v.square().sum()) for v in units.values()) - used) / (used * (used - 1))
    single = squares / used
    signal = (used * together - single) / (used - 1)
    noise = (single - together) / (1 - 1 / used)
    return Agreement(
        samples=used, cosine=cosine, noise_scale=noise / signal if signal > 0.0 else None
    )
