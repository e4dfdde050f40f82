"""Findings on what weights are, held against what they are for: IN721 to IN734.

Pure functions from values and a :class:`~initium._types.ModelView`: no pass through the model, no
data, and no knowledge of who wrote the values, so that a check can ask the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from initium._audit.fans import find_gates, find_misread
from initium._audit.intent import (
    find_adapters,
    find_biases,
    find_forget,
    find_padding,
    find_shut,
    find_wide_head,
)
from initium._audit.shapes import find_outliers
from initium._audit.twins import find_copied_rows, find_twins
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["find_in_values"]


def find_in_values(values: Mapping[str, torch.Tensor], view: ModelView) -> list[Finding]:
    """Everything that values show by themselves.

    Args:
        values: real tensors by canonical name; parameters that are not in it are passed over.
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
    )
    return [finding for rule in rules for finding in rule(held, view)]
