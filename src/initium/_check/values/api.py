"""Findings on what weights are, held against what they are for: IN721 to IN734, IN205 and IN403.

Pure functions from values and a :class:`~initium._types.ModelView`: no pass through the model, no
data, and no knowledge of who wrote the values, so that a check can ask the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from initium._check.values.fans import find_gates, find_misread
from initium._check.values.intent import (
    find_adapters,
    find_biases,
    find_forget,
    find_padding,
    find_shut,
    find_wide_head,
)
from initium._check.values.shapes import find_outliers
from initium._check.values.tilted import find_shut_gates, find_tilted
from initium._check.values.twins import find_copied_rows, find_equal_rows, find_twins
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["find_in_values"]


def find_in_values(values: Mapping[str, torch.Tensor], view: ModelView) -> list[Finding]:
    """Everything that values show by themselves.

    Args:
        values: real tensors by canonical name; parameters that are not in it are passed over, and
            so are those with values that are not finite.
        view: what the model is.
    """
    held = {
        name: value.detach()
        for name, value in values.items()
        if name in view.parameters
        and value.layout is torch.strided
        and not value.is_meta
        and not value.is_complex()
        and value.is_floating_point()
        and tuple(value.shape) == view.parameters[name].shape
        and value.numel() > 0
        and _finite(value.detach())
    }
    rules = (
        find_misread,
        find_gates,
        find_twins,
        find_adapters,
        find_padding,
        find_wide_head,
        find_outliers,
        find_shut,
        find_forget,
        find_biases,
        find_copied_rows,
        find_equal_rows,
        find_tilted,
        find_shut_gates,
    )
    return [finding for rule in rules for finding in rule(held, view)]


def _finite(value: torch.Tensor) -> bool:
    wide = torch.promote_types(value.dtype, torch.float32)
    return math.isfinite(float(torch.linalg.vector_norm(value, dtype=wide)))
