"""The layers to judge, how to name them, and the recipe to propose."""

from __future__ import annotations

from collections.abc import Iterable

from initium._check.facts import Facts
from initium._check.thresholds import LOST
from initium._report.records import LayerRecord, ParameterRecord
from initium._types import ModelView

__all__ = [
    "activation_of",
    "advice",
    "around",
    "chain",
    "closed",
    "constant",
    "elements",
    "in_the_middle",
    "listed",
    "lost",
    "multiplies",
    "shuts",
]

SIDE_ROLES = frozenset({"head", "router", "modulation", "lora_a", "lora_b"})
ADDED_ROLES = frozenset({"bias", "norm_bias", "position", "token", "unknown"})
RECTIFIERS = ("relu", "relu6", "leaky_relu", "prelu", "rrelu")


def chain(facts: Facts, view: ModelView, with_head: bool = False) -> list[LayerRecord]:
    """The layers with a matrix of their own, in execution order, that carry the signal to the head.

    Left out: matrices that are all zero, whose output says nothing of what comes after them, and
    side matrices: routers, modulations, adapters, and unless asked for the head.
    """
    found = []
    for record in facts.layers.values():
        held = facts.parameters.get(record.weight or "")
        known = view.parameters.get(record.weight or "")
        if held is None or known is None or held.second_moment == 0.0:
            continue
        if known.role not in SIDE_ROLES or (with_head and known.role == "head"):
            found.append(record)
    return sorted(found, key=lambda record: record.order)


def lost(record: LayerRecord, facts: Facts) -> bool:
    """Whether its samples differ by no more than the rounding of its values."""
    if record.signal is None:
        return False
    noise = LOST * facts.of(record.name).resolution
    return record.signal <= noise * noise * record.second_moment


def multiplies(record: ParameterRecord, view: ModelView) -> bool:
    """Whether the parameter is a factor of the signal, so that zeros close the path."""
    known = view.parameters.get(record.name)
    if known is None or known.role in ADDED_ROLES:
        return False
    return not (known.role == "norm_scale" and known.neutral == 0.0)


def shuts(record: ParameterRecord, view: ModelView) -> bool:
    """Whether it is a factor of zeros; that of a norm that multiplies by 1 + w, of minus ones."""
    known = view.parameters.get(record.name)
    if known is not None and known.role == "norm_scale" and known.neutral == 0.0:
        return record.mean == -1.0 and record.std == 0.0
    return record.second_moment == 0.0 and multiplies(record, view)


def closed(facts: Facts, view: ModelView) -> list[ParameterRecord]:
    """Factors of zeros that receive a gradient: shut at the first step, open from the second."""
    return [
        record
        for record in facts.parameters.values()
        if (record.grad_second_moment or 0.0) > 0.0 and shuts(record, view)
    ]


def constant(facts: Facts, view: ModelView) -> bool:
    """Whether the last layer with a matrix that is not zero tells no samples apart."""
    layers = chain(facts, view, with_head=True)
    return bool(layers) and lost(layers[-1], facts)


def in_the_middle(facts: Facts, view: ModelView) -> list[str]:
    """Zero factors that open, with layers behind them that get nothing else: no start by design."""
    found = [name for name in facts.opening.found if _alone(name, facts, view)]
    if constant(facts, view):
        layers = chain(facts, view, with_head=True)
        last = max(view.parameters[layer.weight or ""].order or 0 for layer in layers)
        gates = [view.parameters[record.name] for record in closed(facts, view)]
        found += [
            known.name
            for known in gates
            if known.role != "head" and known.order is not None and known.order < last
        ]
    return sorted(found, key=lambda name: view.parameters[name].order or 0)


def _alone(name: str, facts: Facts, view: ModelView) -> bool:
    """Whether it is a zero matrix that waited for another one behind it, with nothing but constants
    after it, and no sum around it."""
    known = view.parameters.get(name)
    layer = next((one for one in facts.layers.values() if one.weight == name), None)
    if known is None or layer is None or not shuts(facts.parameters[name], view):
        return False
    if known.role in SIDE_ROLES or known.writes_residual or facts.of(layer.name).branch:
        return False
    behind = [one for one in facts.layers.values() if one.order > layer.order]
    return any(one.weight for one in behind) and all(lost(one, facts) for one in behind)


def around(middle: list[str], view: ModelView) -> str:
    """The advice for factors that :func:`in_the_middle` names."""
    return (
        f"nothing goes around {listed(middle)}: zeros are a start for residual branches and "
        f"heads; {advice(view, middle)}"
    )


def elements(records: Iterable[ParameterRecord]) -> int:
    """How many numbers they hold in all."""
    total = 0
    for record in records:
        size = 1
        for length in record.shape:
            size *= length
        total += size
    return total


def listed(names: Iterable[str], most: int = 3) -> str:
    """``a, b, c and 7 more``."""
    names = list(names)
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def activation_of(view: ModelView, weights: Iterable[str | None]) -> str | None:
    """The nonlinearity that follows most of these matrices, by name."""
    known = [view.parameters.get(name or "") for name in weights]
    found = [one.activation for one in known if one is not None]
    return max(set(found), key=lambda name: (found.count(name), name or "")) if found else None


def advice(view: ModelView, weights: Iterable[str | None]) -> str:
    """A recipe that fits what follows the matrices, as a line of Python and of the command line."""
    parameters = view.parameters.values()
    structured = any(known.writes_residual or known.role == "norm_scale" for known in parameters)
    activation = (activation_of(view, weights) or "").partition("(")[0]
    if structured:
        recipe, why = "auto", "fits each matrix to its place in the residual structure"
    elif activation in RECTIFIERS:
        recipe, why = "he", f"variance 2/fan_in, which makes up for {activation}"
    elif activation in ("", "tanh", "softsign", "sigmoid"):
        recipe, why = "xavier", "variance 2/(fan_in + fan_out), which keeps a linear signal"
    elif activation == "selu":
        recipe, why = "lecun", "variance 1/fan_in, which selu needs"
    else:
        recipe, why = "auto", f"uses the gain of {activation}"
    return (
        f'initialise with initium.initialize(model, "{recipe}"), or --recipe {recipe} on the '
        f"command line: {why}"
    )
