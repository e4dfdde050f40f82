"""A recipe at several widths and depths: where it breaks, and with which exponents it scales.

Every size is built anew, planned and predicted. What is measured at each is what a coordinate check
looks at, by prediction: the output, the last of the repeated blocks, the gradient on its way back,
the first loss. Not covered: what happens after the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from torch import nn

from initium._inspect import inspect
from initium._model.inputs import example_inputs
from initium._plan import Plan, Recipe, parse_recipe, plan_model
from initium._predict.api import predict
from initium._predict.realised import realised_plan
from initium._predict.records import Band, LayerPrediction, Prediction
from initium._predict.series import distances, longest_series
from initium._slopes import Slope, fit, student
from initium.errors import InitiumError, InputError, ModelError

__all__ = ["Exponent", "Grid", "GridPoint", "predict_grid"]

VERSION = 1
LOST, LARGE = 1e-4, 1e6
"""Second moments from the first to the last block between which a start counts as sound: the limits
from which a check warns."""
RESOLVED = 1e-6
"""Distances below this are rounding."""
MEASURES = ("output", "last_block", "gradient_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One size, and what is predicted there.

    Attributes:
        width, depth: as asked for; ``None`` where the size is the model's own.
        parameters: elements in all.
        blocks: how many repeated blocks there are; the longest series of equal modules.
        output: second moment of the output of the last module.
        output_band: where 95% of starts are expected.
        last_block: second moment behind the last of the repeated blocks.
        growth: factor of the second moment per block, fitted to log q.
        gradient_ratio: sum of squares of the gradient at the first block over that at the last.
        chi: factor of the gradient's sum of squares per block, on its way back.
        closer: factor per block of the distance 1 - c between inputs.
        correlation_depth: blocks after which that distance has fallen by e; ``None`` if it grows.
        loss: the first loss.
        loss_band: where 95% of starts are expected.
        errors: standard errors of the logarithms of ``output``, ``last_block``, ``gradient_ratio``
            as means over draws.
        breaks: what is wrong with a start at this size, as clauses; empty if nothing is.
        problem: why there is no prediction; empty if there is one.
    """

    width: int | None = None
    depth: int | None = None
    parameters: int = 0
    blocks: int = 0
    output: float | None = None
    output_band: Band | None = None
    last_block: float | None = None
    growth: float | None = None
    gradient_ratio: float | None = None
    chi: float | None = None
    closer: float | None = None
    correlation_depth: float | None = None
    loss: float | None = None
    loss_band: Band | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    breaks: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponent:
    """``of`` goes as ``along`` to the power ``value``, at the other size ``at``.

    The interval holds 95%, by the spread of the draws and the misfit of the line.
    """

    of: str
    along: str
    at: int | None
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A recipe over a grid of sizes; ``print(grid)`` shows a table."""

    model: str
    plan: str
    points: tuple[GridPoint, ...]
    exponents: tuple[Exponent, ...] = ()
    draws: int = 0
    series: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Everything, as JSON text: ``{"initium": "grid", "version": 1, "points": [...], ...}``."""
        from initium._plain import as_json

        return as_json(self, {"initium": "grid", "version": VERSION})

    def __str__(self) -> str:
        from initium._predict.grid_table import grid_table

        return grid_table(self)


def predict_grid(
    build: Callable[..., Any],
    recipe: str | Recipe | None = "auto",
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Grid:
    """A recipe at every width and depth: the coordinate check of a start, by prediction.

    Formulas: per block, exp(b) with b the least-squares slope of log q against the block's number;
    an exponent is the slope of log against log, weighted by the spread of the draws.

    Args:
        build: ``build(width=..., depth=...)``, called with those of the two that are varied;
            returns a module, ``(model, inputs)`` or ``(model, inputs, targets)``. The parameters
            may be on the meta device.
        recipe: as for :func:`initium.plan`; ``None``: what the weights of each model measure.
        widths, depths: the sizes; an empty one is not varied.
        inputs, targets, loss_fn: as for :func:`initium.predict`, where ``build`` gives none.
        draws, seed: of every prediction; without draws there are no intervals and no distances.

    Returns:
        A size that cannot be built or predicted has a ``problem``; the others are there.

    Raises:
        InputError: no sizes, or one that is not a positive number.
        RecipeError: an unknown recipe.
        ModelError: no size could be predicted.

    Example:
        >>> def net(width):
        ...     layers = [nn.Linear(width, width, bias=False) for _ in range(3)]
        ...     return nn.Sequential(*layers), torch.ones(2, width)
        >>> import torch
        >>> grid = predict_grid(net, "normal(0.1)", widths=[16, 32, 64], draws=6)
        >>> found = {one.of: one.value for one in grid.exponents}
        >>> 2.5 < found["output"] < 3.5  # each layer multiplies q by 0.01 width
        True

    Source: Yang et al. 2022, arXiv:2203.03466 (appendix D.1), for the coordinate check; Schoenholz
    et al. 2017, arXiv:1611.01232, for chi and the correlation depth.

    Known divergence: one factor per block describes a plain net; a residual stream grows by sums,
    so that its factor falls with the depth.
    """
    if not widths and not depths:
        raise InputError("no size is varied", where="widths, depths", fix="pass widths=[64, 128]")
    for where, sizes in (("widths", widths), ("depths", depths)):
        if any(isinstance(size, bool) or size < 1 for size in sizes):
            raise InputError("has to hold positive numbers", where=where, value=list(sizes))
    chosen = parse_recipe(recipe) if recipe is not None else None
    points: list[GridPoint] = []
    found: list[Prediction] = []
    first: InitiumError | None = None
    for width, depth in product(_each(widths), _each(depths)):
        try:
            model, own, goal = _built(build, width, depth, inputs, targets)
            plan = _plan(model, chosen, own, seed)
            one = predict(model, plan, own, targets=goal, loss_fn=loss_fn, draws=draws, seed=seed)
            points.append(_point(model, plan, own, one, width, depth, seed))
            found.append(one)
        except InitiumError as error:
            first = first or error
            points.append(GridPoint(width=width, depth=depth, problem=str(error)))
    if first is not None and not found:
        raise first
    series = [longest_series(one.layers.values()) for one in found]
    return Grid(
        model=found[-1].model,
        plan=found[-1].plan,
        points=tuple(points),
        exponents=(*_exponents(points, "width", draws), *_exponents(points, "depth", draws)),
        draws=draws,
        series=series[-1][0].module_type if series[-1] else "",
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


def _each(sizes: Sequence[int]) -> list[int | None]:
    """In order, each once; one ``None`` where the size is not varied."""
    return [*sorted(set(sizes))] or [None]


def _built(
    build: Callable[..., Any], width: int | None, depth: int | None, inputs: object, targets: object
) -> tuple[nn.Module, object, object]:
    sizes = {"width": width, "depth": depth}
    arguments = {name: size for name, size in sizes.items() if size is not None}
    try:
        result = build(**arguments)
    except InitiumError:
        raise
    except Exception as error:
        said = ", ".join(f"{name}={size}" for name, size in arguments.items())
        raise ModelError(
            f"building it with {said} raises {type(error).__name__}: {error}", where="build"
        ) from error
    parts = result if isinstance(result, tuple) else (result,)
    if not parts or not isinstance(parts[0], nn.Module) or len(parts) > 3:
        raise ModelError(
            "did not return a module",
            where="build",
            value=type(result).__name__,
            choices=("a torch.nn.Module", "(model, inputs)", "(model, inputs, targets)"),
        )
    model = parts[0]
    own = parts[1] if len(parts) > 1 else inputs
    own = example_inputs(model) if own is None else own
    return model, own, parts[2] if len(parts) > 2 else targets


def _plan(model: nn.Module, recipe: Recipe | None, inputs: object, seed: int) -> Plan:
    if recipe is None:
        return realised_plan(model, inputs)
    return plan_model(inspect(model, inputs), recipe, seed=seed)


def _point(
    model: nn.Module,
    plan: Plan,
    inputs: object,
    found: Prediction,
    width: int | None,
    depth: int | None,
    seed: int,
) -> GridPoint:
    layers, entries = list(found.layers.values()), plan.entries.values()
    output, series = _output(layers), longest_series(layers)
    moments = [layer.second_moment for layer in series]
    gradients = [_total(layer) for layer in series]
    names = [layer.name for layer in series]
    apart = distances(model, plan, inputs, names, seed) if found.draws and series else []
    growth, chi = _factor(moments), _factor(gradients[::-1])
    closer = _factor([value if value > RESOLVED else None for value in apart])
    ratio = _ratio(gradients[0], gradients[-1]) if series else None
    return GridPoint(
        width=width,
        depth=depth,
        parameters=sum(math.prod(one.shape) for one in entries if one.role != "buffer"),
        blocks=len(series),
        output=output.second_moment,
        output_band=output.band,
        last_block=series[-1].second_moment if series else None,
        growth=growth,
        gradient_ratio=ratio,
        chi=chi,
        closer=closer,
        correlation_depth=-1 / math.log(closer) if closer is not None and 0 < closer < 1 else None,
        loss=found.loss,
        loss_band=found.loss_band,
        errors=_errors(found.draws, output, series),
        breaks=_breaks(_ratio(moments[-1], moments[0]) if series else None, ratio, found.loss),
    )


def _errors(
    draws: int, output: LayerPrediction, series: Sequence[LayerPrediction]
) -> dict[str, float]:
    found = {"output": _error(output.band, draws)}
    if series:
        first, last = series[0].grad_band, series[-1].grad_band
        found["last_block"] = _error(series[-1].band, draws)
        found["gradient_ratio"] = math.hypot(_error(first, draws), _error(last, draws))
    return found


def _error(band: Band | None, draws: int) -> float:
    """The standard error of the logarithm of a mean over draws, from the band of a single start."""
    if band is None or draws < 2 or not 0 < band.low < band.high < math.inf:
        return 0.0
    reach = math.log(band.high / band.low) / 2
    return reach / (student(draws - 1) * math.sqrt(draws + 1))


def _output(layers: Sequence[LayerPrediction]) -> LayerPrediction:
    """The last module without others inside: the model itself may return its loss."""
    for layer in reversed(layers):
        if layer.name and not any(one.name.startswith(f"{layer.name}.") for one in layers):
            return layer
    return layers[-1]


def _total(layer: LayerPrediction) -> float | None:
    """The sum of squares of the gradient at the output of a module."""
    if layer.grad_second_moment is None:
        return None
    return layer.grad_second_moment * math.prod(layer.shape)


def _ratio(one: float | None, other: float | None) -> float | None:
    if not one or not other or not math.isfinite(one) or not math.isfinite(other):
        return None
    return one / other


def _factor(values: Iterable[float | None]) -> float | None:
    """By how much values change from one to the next, fitted to their logarithms."""
    known = [
        (float(at), math.log(value))
        for at, value in enumerate(values)
        if value is not None and 0 < value < math.inf
    ]
    if len(known) < 2:
        return None
    slope = fit([at for at, _ in known], [value for _, value in known]).value
    return math.exp(min(slope, 700.0))


def _breaks(signal: float | None, gradient: float | None, loss: float | None) -> tuple[str, ...]:
    said = []
    for what, ratio in (("the signal", signal), ("the gradient", gradient)):
        where = "through the blocks" if what == "the signal" else "on its way back"
        if ratio is not None and ratio > LARGE:
            said.append(f"{what} grows {ratio:.2g} times {where}")
        elif ratio is not None and ratio < LOST:
            said.append(f"{what} falls to {ratio:.2g} of itself {where}")
    if loss is not None and not math.isfinite(loss):
        said.append("the first loss is not finite")
    return tuple(said)


def _exponents(points: Sequence[GridPoint], along: str, draws: int) -> tuple[Exponent, ...]:
    """Of every measure along one size, for each value of the other."""
    other = "depth" if along == "width" else "width"
    found = []
    for at in dict.fromkeys(getattr(point, other) for point in points):
        line = [point for point in points if getattr(point, other) == at]
        for of in MEASURES:
            slope = _exponent(line, along, of, draws)
            if slope is not None:
                bounds = {"low": slope.low, "high": slope.high}
                found.append(Exponent(of=of, along=along, at=at, value=slope.value, **bounds))
    return tuple(found)


def _exponent(line: Sequence[GridPoint], along: str, of: str, draws: int) -> Slope | None:
    sized = [point for point in line if getattr(point, along) is not None]
    known = [point for point in sized if 0 < (getattr(point, of) or 0) < math.inf]
    if len(known) < 2:
        return None
    x = [math.log(getattr(point, along)) for point in known]
    y = [math.log(getattr(point, of)) for point in known]
    errors = [point.errors[of] for point in known]
    return fit(x, y, errors, freedom=len(known) * (draws - 1))
