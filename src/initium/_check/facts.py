"""What the findings are drawn from: the records of the report and a few facts besides. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from initium._report.records import (
    AttentionRecord,
    BranchRecord,
    Finding,
    LayerRecord,
    LossRecord,
    ParameterRecord,
    RangeRecord,
)

__all__ = ["BatchFacts", "BufferFacts", "Facts", "LayerFacts", "Opening", "PlannedFacts"]


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """Of one module, besides its record.

    Attributes:
        breaks: its output is non-finite although everything it was given is finite.
        resolution: relative spacing of numbers in its output's dtype.
        input_units, dead_inputs: activations that it reads, and how many were zero throughout.
        producer: the module whose output it reads; ``None`` where no module returned it.
        epsilon: of a norm, what it adds to the variance.
        branch: what it returns is added to a residual stream outside it.
        tracked: what it returns has a gradient, as far as the module itself knows.
        cuts: it has none, although something that the module was given has one.
    """

    breaks: bool = False
    resolution: float = 2.0**-23
    input_units: int = 0
    dead_inputs: int = 0
    producer: str | None = None
    epsilon: float | None = None
    branch: bool = False
    tracked: bool = True
    cuts: bool = False


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """Of the batch.

    Attributes:
        second_moment: E[x^2] of its floating-point inputs; ``None`` without any.
        labels, distinct: targets that are class indices, and how many different ones there are.
        leak: where the targets can be read off the inputs, in words.
        tokens: those that were asked for and stand in its integer inputs.
    """

    second_moment: float | None = None
    labels: int = 0
    distinct: int = 0
    leak: str | None = None
    tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class BufferFacts:
    """Of one buffer of floating-point numbers, before the pass.

    Attributes:
        nan, infinite: parts of its elements; minus infinity does not count, as masks hold it.
        zero: all of them are zero.
    """

    nan: float = 0.0
    infinite: float = 0.0
    zero: bool = False


@dataclass(frozen=True, slots=True)
class PlannedFacts:
    """Of one parameter with a plan, besides its record.

    Attributes:
        skew: of a matrix that is planned orthogonal, how far products of its vectors are off.
        rounded: a float32 tensor holds numbers of bfloat16 only.
    """

    skew: float | None = None
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """Of parameters whose gradient is exactly zero in the first pass.

    Attributes:
        found: those that get one once the zeros before them have moved.
        movers: the zeros whose moves came before that.
        untested: those of which no pass has told.
        problem: why a pass failed, in words.
    """

    found: frozenset[str] = frozenset()
    movers: frozenset[str] = frozenset()
    untested: frozenset[str] = frozenset()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything measured.

    Attributes:
        layers, parameters, loss: as in the report; layers in the order in which they finished.
        modules: facts of modules besides their records.
        samples: independent samples of the batch; 1 if it has one or all are equal.
        inferred: the batch was made up, not given by the user.
        fresh_norms: a batch norm runs in eval mode on statistics that were never collected.
        differentiated: a backward pass was made.
        attention, branches, ranges: as in the report.
        batch: facts of the batch.
        dtypes: number formats that some module's output has.
        values: findings on what the parameters hold, by :func:`find_in_values`.
        buffers: those that hold what is not finite, or nothing but zeros.
        planned: facts of parameters besides their records, where there is a plan.
        opening: which parameters without a gradient get one later.
    """

    layers: Mapping[str, LayerRecord]
    parameters: Mapping[str, ParameterRecord]
    loss: LossRecord
    modules: Mapping[str, LayerFacts] = field(default_factory=dict)
    samples: int = 2
    inferred: bool = False
    fresh_norms: bool = False
    differentiated: bool = True
    attention: tuple[AttentionRecord, ...] = ()
    branches: tuple[BranchRecord, ...] = ()
    ranges: tuple[RangeRecord, ...] = ()
    batch: BatchFacts = BatchFacts()
    dtypes: frozenset[str] = frozenset()
    values: tuple[Finding, ...] = ()
    buffers: Mapping[str, BufferFacts] = field(default_factory=dict)
    planned: Mapping[str, PlannedFacts] = field(default_factory=dict)
    opening: Opening = Opening()

    def of(self, layer: str) -> LayerFacts:
        """Facts of one module; the defaults where nothing is known."""
        return self.modules.get(layer, LayerFacts())
