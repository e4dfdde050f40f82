"""Residual streams as they are when the model runs: what a branch is added to, and where it stood.

The output of a writer is followed through movement, dropout and scales to the sum that it goes
into; the other summand is its stream. Its place is the number of the operator that made it, so that
a later pass over the same operators can measure it there, before the branch is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from initium._calibrate.sums import second_moment
from initium._calibrate.targets import Unit
from initium._inspect.operators import DROPOUT, MOVEMENT

__all__ = ["Gauge", "Place", "Streams"]

Place = tuple[int, str]
"""The number of an operator in a forward pass, and its name."""

CARRIES = MOVEMENT | DROPOUT | {"mul", "div", "neg"}
SUMS = frozenset({"add", "sub"})


class Streams:
    """Follows the outputs of residual writers while a model runs for the first time."""

    def __init__(self) -> None:
        self.place: dict[Unit, Place] = {}
        """The operator that made the stream of a writer: its number, and its name."""
        self.moment: dict[Unit, float] = {}
        """The stream's second moment, for streams that no operator made: the model's inputs."""
        self.branch = WeakTensorKeyDictionary()
        self.maker = WeakTensorKeyDictionary()

    def wrote(self, units: list[Unit], out: torch.Tensor) -> None:
        """``out`` is the product of residual writers."""
        self.branch[out] = frozenset(units)

    def follow(
        self, number: int, name: str, operands: list[torch.Tensor], outputs: list[torch.Tensor]
    ) -> None:
        """Take notice of one operator after it has run."""
        tagged = [tensor for tensor in operands if tensor in self.branch]
        plain = [tensor for tensor in operands if tensor not in self.branch]
        if outputs and tagged and (name in CARRIES or name in SUMS):
            units = frozenset().union(*(self.branch[tensor] for tensor in tagged))
            stream = [t for t in plain if t.shape == outputs[0].shape] if name in SUMS else []
            for out in outputs:
                self.branch.pop(out, None)
                if not stream:
                    self.branch[out] = units
            for unit in units if stream else ():
                self._found(unit, stream[0])
        for out in outputs:
            self.maker[out] = (number, name)

    def _found(self, unit: Unit, stream: torch.Tensor) -> None:
        if unit in self.place or unit in self.moment:
            return
        made = self.maker.get(stream)
        if made is not None:
            self.place[unit] = made
        elif stream.is_floating_point():
            self.moment[unit] = second_moment(stream)


class Gauge:
    """The second moments of streams, read where they stood in an earlier pass.

    Args:
        place: of every writer's stream, the number and name of the operator that made it.
        moment: of streams that are the model's inputs.
    """

    def __init__(self, place: dict[Unit, Place], moment: dict[Unit, float]) -> None:
        self.wanted = frozenset(place.values())
        self.place = place
        self.fixed = moment
        self.read: dict[Place, list[float]] = {}
        self.old: Mapping[Place, float] = {}
        """What this batch showed before it scaled anything: earlier ones have changed alike."""

    def passed(self, number: int, name: str, out: torch.Tensor) -> None:
        """Read ``out`` if it is a stream that a branch will be added to."""
        place = (number, name)
        if place not in self.wanted or not out.is_floating_point():
            return
        now, old, read = second_moment(out), self.old.get(place, 0.0), self.read
        if old > 0:
            read[place] = [value * now / old for value in read.get(place, ())]
        read.setdefault(place, []).append(now)

    def __call__(self, unit: Unit) -> float | None:
        """The mean over the batches so far; ``None`` where the stream was not met."""
        values = self.read.get(self.place.get(unit, (-1, "")))
        return sum(values) / len(values) if values else self.fixed.get(unit)
