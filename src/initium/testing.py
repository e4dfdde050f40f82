"""Assertions for test suites: keep a model's start healthy, as any other property of its code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from initium._check import check
from initium._check.deep.coordinate import coordinate_check
from initium._check.deep.slopes import CoordinateCheck
from initium._plan import Plan
from initium._report.records import SEVERITIES, LayerRecord, Report
from initium._types import Severity
from initium.errors import InputError

__all__ = ["assert_coord_check", "assert_healthy", "assert_variance_preserved"]

SHOWN = 8


def assert_healthy(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    plan: Plan | None = None,
    fail_on: Severity = "error",
    deep: bool = False,
) -> Report:
    """Check a model and raise if anything of severity ``fail_on`` or worse is found.

    Args:
        model, inputs, targets, loss_fn, plan, deep: as for :func:`initium.check`.
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
    report = check(model, inputs, targets, loss_fn, plan, deep=deep)
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


def assert_variance_preserved(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    *,
    factor: float = 4.0,
    backward: bool = True,
    modules: Sequence[str] | None = None,
) -> Report:
    """Raise unless the second moment of every layer lies within ``factor`` of the first one's.

    Backward it is the sum of the squared gradient over a sample's output, in parts of the last
    layer's, which a linear map with the backward gain keeps whatever its shape.

    Args:
        model, inputs, targets, loss_fn: as for :func:`initium.check`.
        factor: 4 is a standard deviation between a half and two.
        backward: hold the gradient to it too.
        modules: names of the modules to compare, in any order; ``None``: all that have a matrix,
            except the last, which is the readout.

    Returns:
        The report, for further assertions.

    Raises:
        AssertionError: with the layers that leave the band, worst first.
        InputError: fewer than two such layers, or a name that no module has.

    Example:
        >>> layers = [torch.nn.Linear(64, 64, bias=False) for _ in range(4)]
        >>> for layer in layers:
        ...     _ = torch.nn.init.orthogonal_(layer.weight)
        >>> model = torch.nn.Sequential(*layers)
        >>> assert_variance_preserved(model, torch.randn(16, 64)).ok
        True

    Source: after ``assert_normalized`` of e3nn; the band is that of TheDeepChecker (Ben Braiek &
    Khomh 2022), a standard deviation in [0.5, 2].
    """
    if not factor > 1.0:
        raise InputError("must be above 1", where="factor", value=factor)
    report = check(model, inputs, targets, loss_fn)
    layers = _compared(report, modules)
    lines = _outside("forward, E[x²]", layers, [record.second_moment for record in layers], factor)
    energies = [_energy(record) for record in reversed(layers)]
    if backward and all(value is not None for value in energies):
        values = [value for value in energies if value is not None]
        lines += _outside("backward, E|g|²", layers[::-1], values, factor)
    if lines:
        head = f"{report.model} does not keep its variance within a factor of {factor:g}:"
        raise AssertionError("\n".join([head, *lines]))
    return report


def assert_coord_check(
    factory: Callable[[int], nn.Module],
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    steps: int = 3,
    seeds: int = 4,
) -> CoordinateCheck:
    """Raise unless every coordinate keeps its size as the model grows wider or deeper.

    Args:
        factory, inputs, targets, loss_fn, widths, depths, optimizer, steps, seeds: as for
            :func:`initium.coordinate_check`.

    Returns:
        The coordinate check, for further assertions.

    Raises:
        AssertionError: with every module that grows or shrinks, its slope and interval.

    Example:
        >>> def factory(width: int) -> torch.nn.Module:
        ...     return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Linear(width, 4))
        >>> try:
        ...     assert_coord_check(factory, torch.randn(8, 8), widths=(64, 128, 256), seeds=3)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[0])
        Sequential does not keep its coordinates' size over width:
    """
    found = coordinate_check(
        factory,
        inputs,
        targets,
        loss_fn,
        widths=widths,
        depths=depths,
        optimizer=optimizer,
        steps=steps,
        seeds=seeds,
    )
    if found.ok:
        return found
    lines = [f"{found.model} does not keep its coordinates' size over {found.axis}:"]
    lines += [f"  training diverged at {which}" for which in found.diverged]
    for one in found.failures()[:SHOWN]:
        what = "size before the first step" if one.step == 1 else f"change at step {one.step}"
        lines.append(
            f"  {one.name} {one.verdict}: its {what} goes as {found.axis}^{one.slope:.2f} (95%: "
            f"{one.low:.2f} to {one.high:.2f}), healthy is {one.allowed[0]:g} to "
            f"{one.allowed[1]:g}; sizes {', '.join(f'{size:.2g}' for size in one.sizes)}"
        )
    lines += _more(len(found.failures()))
    if found.axis == "width":
        lines.append("    fix: a parametrisation that transfers over width, such as")
        lines.append('    initium.initialize(model, "mup(...)") with plan.parameter_groups(model)')
    raise AssertionError("\n".join(lines))


def _compared(report: Report, modules: Sequence[str] | None) -> list[LayerRecord]:
    for name in modules or ():
        if name not in report.layers:
            raise InputError(
                "no such module ran", where="modules", value=name, choices=tuple(report.layers)
            )
    ordered = sorted(report.layers.values(), key=lambda record: record.order)
    if modules is None:
        found = [record for record in ordered if record.weight is not None][:-1]
    else:
        found = [record for record in ordered if record.name in set(modules)]
    if len(found) < 2:
        raise InputError(
            "two layers or more are needed to compare",
            where="modules",
            value=[record.name for record in found],
            fix="name the modules to compare",
        )
    return found


def _energy(record: LayerRecord) -> float | None:
    if record.grad_second_moment is None:
        return None
    size = 1
    for length in record.shape[1:]:
        size *= length
    return record.grad_second_moment * size


def _outside(
    what: str, layers: Sequence[LayerRecord], values: Sequence[float], factor: float
) -> list[str]:
    """A line for each value that is not within ``factor`` of the first, worst first."""
    start = values[0]
    ratios = [
        (record.name, value, value / start if start else float("inf"))
        for record, value in zip(layers, values, strict=True)
    ]
    wrong = [one for one in ratios if not 1 / factor <= one[2] <= factor]
    wrong.sort(key=lambda one: -max(one[2], 1 / one[2] if one[2] > 0 else float("inf")))
    lines = [
        f"  {what} of {name}: {value:.3g}, {ratio:.3g} times that of {layers[0].name} ({start:.3g})"
        for name, value, ratio in wrong[:SHOWN]
    ]
    return lines + _more(len(wrong))


def _more(count: int) -> list[str]:
    return [f"  and {count - SHOWN} more"] if count > SHOWN else []
