"""Assertions for test suites: keep a model's start healthy, as any other property of its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from initium._check import check
from initium._plan import Plan
from initium._report.records import SEVERITIES, Report
from initium._types import Severity
from initium.errors import InputError

__all__ = ["assert_healthy"]


def assert_healthy(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    plan: Plan | None = None,
    fail_on: Severity = "error",
) -> Report:
    """Check a model and raise if anything of severity ``fail_on`` or worse is found.

    Args:
        model, inputs, targets, loss_fn, plan: as for :func:`initium.check`.
        fail_on: ``"error"``, ``"warning"`` or ``"info"``: the least severity that fails.

    Returns:
        The report, for further assertions.

    Raises:
        AssertionError: with every such finding, what it rests on and its fix.

    Example:
        >>> import torch
        >>> from initium.testing import assert_healthy
        >>> assert_healthy(torch.nn.Linear(8, 8), inputs=torch.randn(16, 8)).ok
        True
    """
    if fail_on not in SEVERITIES:
        raise InputError("is not a severity", where="fail_on", value=fail_on, choices=SEVERITIES)
    report = check(model, inputs, targets, loss_fn, plan)
    limit = SEVERITIES.index(fail_on)
    found = [item for item in report.findings if SEVERITIES.index(item.severity) <= limit]
    if found:
        lines = [f"{report.model} is not fit to train from these weights:"]
        for item in found:
            where = ", ".join(item.where[:3]) + (", ..." if len(item.where) > 3 else "")
            lines.append(f"  {item.severity} {item.code}, {item.title}, at {where}: {item.message}")
            if item.fix:
                lines.append(f"    fix: {item.fix}")
        raise AssertionError("\n".join(lines))
    return report
