"""What a calibration did, as data: every parameter scaled, and every one left alone with why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from initium._plain import as_json
from initium._plan import Plan
from initium._tables import fold, legend, number, render, table

__all__ = ["Calibration", "LeftAlone", "Scaled"]

TOLERANCE = 0.1
"""A layer has reached its target within 10%, the tolerance of Mishkin and Matas (2016)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One weight, or one block of a fused weight, that was multiplied by a number.

    Attributes:
        name: canonical name of the parameter.
        block: label of the block of a fused weight; empty for the whole.
        role: what the block is, one of :data:`initium._types.ROLES`.
        factor: what its values were multiplied with.
        before: second moment of the operator's output with all weights as they were.
        after: the same with all weights as they are now.
        target: what it was to become, for weights that were given a share of a residual stream
            measured while calibrating.
        reason: why that target, as a sentence.
        module, operator: where the product is computed, for the first time.
        uses: products with it in one forward pass.
    """

    name: str
    block: str
    role: str
    factor: float
    before: float
    after: float
    target: float
    reason: str
    module: str
    operator: str
    uses: int = 1

    @property
    def reached(self) -> bool:
        """Whether ``after`` is within 10% of the target."""
        return abs(self.after / self.target - 1) <= TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """One parameter, or one block of it, that kept its values, and why."""

    name: str
    block: str = ""
    role: str
    reason: str
    module: str = ""
    operator: str = ""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What :func:`initium.calibrate` did to a model: immutable and printable.

    Attributes:
        model: class name of the model.
        scaled: the weights that were multiplied, in execution order.
        left: the parameters that kept their values, in the order of the model.
        passes: sweeps over the batches that scaled.
        batches: batches of one sweep.
        plan: the plan that was given, with every scaled spec multiplied; ``None`` without one.
        notes: what a reader has to know besides, as sentences.
    """

    model: str
    scaled: tuple[Scaled, ...]
    left: tuple[LeftAlone, ...]
    passes: int
    batches: int
    plan: Plan | None = None
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        """Whether every scaled weight is within 10% of its target."""
        return all(one.reached for one in self.scaled)

    def to_json(self) -> str:
        """Everything but the plan, as JSON text: ``{"initium": "calibration", "version": 1, ...}``.

        Numbers that are not finite, such as an output that overflowed before, are null.
        """
        data = {
            "initium": "calibration",
            "version": 1,
            "model": self.model,
            "passes": self.passes,
            "batches": self.batches,
            "reached": self.reached,
            "scaled": self.scaled,
            "left": self.left,
            "notes": self.notes,
        }
        return as_json(data)

    def __str__(self) -> str:
        return _text(self)


def _text(made: Calibration, width: int | None = None) -> str:
    weights = len({one.name for one in made.scaled})
    heading = (
        f"{made.model}: {_count(weights, 'weight')} scaled, {len(made.left)} left alone; "
        f"{_count(made.passes, 'pass', 'es')} over {_count(made.batches, 'batch', 'es')}"
    )
    scaled = {f"{one.name}{f' [{one.block}]' if one.block else ''}": one for one in made.scaled}
    rows = []
    for group in fold((name, (one.role, one.operator)) for name, one in scaled.items()):
        members = [scaled[name] for name in group.names]
        rows.append(
            (
                group.pattern,
                _span([one.before for one in members]),
                _span([one.after for one in members]),
                _span([one.target for one in members]),
                _span([one.factor for one in members]),
            )
        )
    columns = ("name", "before", "after", "target", "factor")
    parts: list[object] = [heading, ""]
    if rows:
        parts += [table(columns, rows, right=columns[1:], whole=columns[1:], width=width), ""]
        parts += ["Second moments of the output; a range where repeated blocks differ.", ""]
    missed = [one for one in made.scaled if not one.reached]
    if missed:
        parts += [f"Not within 10% of the target: {_listed([one.name for one in missed])}", ""]
    if made.left:
        alone = {f"{o.name}{f' [{o.block}]' if o.block else ''}": o.reason for o in made.left}
        reasons: dict[str, list[str]] = {}
        for group in fold(alone.items()):
            reasons.setdefault(alone[group.names[0]], []).append(group.pattern)
        parts += ["Left alone:", legend((reason, _listed(n, 4)) for reason, n in reasons.items())]
    parts += [*made.notes]
    return render(*parts, width=width)  # type: ignore[arg-type]


def _span(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low}..{high}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
