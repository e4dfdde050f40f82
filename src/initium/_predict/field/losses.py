"""The cross-entropy that is expected of logits which are independent normal numbers.

E[log sum_i exp(s z_i)] over C classes is the integral over t of (exp(-t) - E[exp(-t S)]) / t, with
E[exp(-t S)] = E[exp(-t exp(s z))]^C: one integral for each s, exact for any C and s. For many
classes and small s it is ln C + s^2 / 2.

Source: Frullani's integral for the logarithm.
"""

from __future__ import annotations

import math

import numpy as np
import torch

__all__ = ["log_sum_exp"]

REACH = 9.0
NODES = 512
STEP = 0.1
MANY = 64
"""More different standard deviations than that are interpolated."""


def log_sum_exp(variance: torch.Tensor, classes: int) -> torch.Tensor:
    """E[log sum exp l_i] of so many independent logits N(0, v), for each v; NaN for what is none.

    Example:
        >>> found = log_sum_exp(torch.tensor([0.0, 0.1, 0.1]), 1000)
        >>> [round(float(value - math.log(1000)), 3) for value in found]
        [0.0, 0.05, 0.05]
    """
    spread = variance.double().clamp_min(0).sqrt().reshape(-1).numpy()
    points = np.unique(spread[np.isfinite(spread)])
    if not len(points):
        return torch.full_like(variance, torch.nan, dtype=torch.float64)
    if len(points) > MANY:
        points = np.linspace(points[0], points[-1], MANY)
    known = np.array([_exact(float(point), classes) for point in points])
    found = np.where(np.isfinite(spread), np.interp(spread, points, known), np.nan)
    return torch.from_numpy(found).reshape(variance.shape)


def _exact(spread: float, classes: int) -> float:
    if spread < 1e-6:
        return math.log(classes)
    z = (np.arange(NODES) + 0.5) * (2 * REACH / NODES) - REACH
    weights = np.exp(-z * z / 2)
    weights /= weights.sum()
    centre = math.log(classes) + spread**2 / 2
    reach = spread * REACH + 40
    u = np.arange(-centre - reach, 6 + spread * REACH, STEP)  # t = exp(u)
    once = -np.expm1(-np.exp(np.clip(u[:, None] + spread * z, None, 50))) @ weights
    small = -np.expm1(-np.exp(u))
    power = -np.expm1(classes * np.log1p(-np.clip(once, 0, 1 - 1e-16)))
    return float((power - small).sum() * STEP)
