"""The plain layers of a model in the plane of its activation's edge of chaos."""

from __future__ import annotations

from torch import nn

from initium._inspect import inspect
from initium._model.moments import Moments
from initium._model.names import slots
from initium._plan import Entry, Plan
from initium._plan.fit import must_fit
from initium._predict.realised import realised_plan
from initium._scheme.edge import Edge, edge_of_chaos
from initium._types import ModelView, ParameterView
from initium.errors import InputError

__all__ = ["model_edges"]


def model_edges(
    model: nn.Module, plan: Plan | None = None, inputs: object = None
) -> tuple[Edge, ...]:
    """For every activation that plain layers z -> W phi(z) + b repeat, its edge and those layers.

    Formulas: C_W = fan_in E[W^2], C_b = E[b^2], from the plan or, where it keeps them, the values.

    Args:
        model: with values, or planned.
        plan: of it; ``None``: what its weights measure.
        inputs: one batch, as for :func:`initium.inspect`.

    Returns:
        One edge per activation. A layer counts if what it reads and what follows it are the same
        activation, without a norm, a gate or a residual stream between.

    Raises:
        InputError: there is no such layer.

    Example:
        >>> import initium
        >>> layers = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.Tanh())]
        >>> net = nn.Sequential(*layers)
        >>> edge, = model_edges(net, initium.plan(net, "orthogonal"))
        >>> edge.activation, edge.points[0].phase
        ('tanh', 'chaotic')
    """
    view = inspect(model, inputs)
    plan = realised_plan(model, inputs, small=0) if plan is None else must_fit(plan, {})
    tensors = {name: slot.tensor for name, slot in slots(model).items()}

    def second(name: str) -> float | None:
        entry = plan.entries.get(name)
        moments = _planned(entry) if entry is not None else None
        if moments is None and name in tensors and not tensors[name].is_meta:
            sums = Moments.of(tensors[name])
            moments = sums.per_element(sums.squares)
        return moments

    found: dict[str, dict[str, tuple[float, float]]] = {}
    for one in view.owners:
        phi = _repeated(one, view)
        weight = second(one.name) if phi is not None else None
        if phi is None or weight is None or not one.fan_in:
            continue
        biases = [other.name for other in view.owners if _is_bias_of(other, one)]
        bias = second(biases[0]) if biases else 0.0
        if bias is not None:
            place = (float(f"{one.fan_in * weight:.10g}"), float(f"{bias:.10g}"))
            found.setdefault(phi, {})[one.name] = place
    if not found:
        raise InputError(
            "no plain layers repeat an activation, z -> W phi(z) + b, without a norm, a gate or a "
            "residual stream between: an edge of chaos is about those",
            where=type(model).__name__,
            fix="look at the growth per block instead: initium predict MODEL --depths 4,8,16",
        )
    return tuple(edge_of_chaos(phi, layers) for phi, layers in found.items())


def _planned(entry: Entry) -> float | None:
    return None if entry.std is None or entry.mean is None else entry.std**2 + entry.mean**2


def _repeated(one: ParameterView, view: ModelView) -> str | None:
    """The activation that a layer reads and that follows it, if nothing else lies between."""
    if not one.is_matrix or one.activation is None or one.gated or one.stream is not None:
        return None
    if one.norm_before or one.norm_after or one.role.startswith("recurrent") or not one.reads:
        return None
    before = [view.parameters[name].activation for name in one.reads if name in view.parameters]
    return one.activation if before and all(phi == one.activation for phi in before) else None


def _is_bias_of(other: ParameterView, one: ParameterView) -> bool:
    return other.partner == one.name and other.role == "bias"
