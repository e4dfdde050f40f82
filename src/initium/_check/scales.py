"""Matrices of a scale that no scheme gives for their role and fans (IN204, IN209).

Found from their size alone, so also where all of a kind are wrong alike, or where a norm hides it.
Not judged: heads (the first loss judges them), adapters, weights that are standardised, that a
runtime factor scales (the measured gain shows it), or that have no norm behind them and read what
depends on no parameter, or become phases of sines and cosines that are joined (frequencies are
drawn large); what is too small where no norm follows, since branches, gates and last layers often
start small.

Sizes are root mean squares about zero, which for what is drawn with mean zero are stds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from initium._check.facts import Facts
from initium._check.thresholds import ALIGNED, SCHEME_ABOVE, SCHEME_BELOW
from initium._check.words import also
from initium._report.records import Finding
from initium._types import ModelView, ParameterView

__all__ = ["find_scales", "schemes_range"]

FIXED = 0.02
"""The std of schemes that read no fans: GPT-2, BERT and most after them."""
RECTIFIED = 2.0
"""The variance gain of ReLU (He et al. 2015, arXiv:1502.01852), granted to every matrix. Those of
tanh, SiLU and GELU are larger (torch has (5/3)^2 = 2.8 for tanh), and count where one is seen."""
WAVES = frozenset({"sin", "cos"})
"""Functions of Fourier features. A sine alone may also be the activation of a deep network, whose
scale matters; features join sines and cosines."""
TORCH = 1 / 3
"""The smallest: torch's default for Linear and Conv, uniform within 1/sqrt(fan_in)."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A parameter, the matrix whose scale it sets, its size and how far out that is."""

    name: str
    matrix: ParameterView
    std: float
    low: float
    high: float

    @property
    def times(self) -> float:
        """In units of the nearest end of the range."""
        return self.std / self.high if self.std > self.high else self.std / self.low

    @property
    def hidden(self) -> bool:
        """Whether a norm takes it out of the signal."""
        return self.matrix.norm_after


def find_scales(facts: Facts, view: ModelView) -> list[Finding]:
    """One finding for what a norm hides, and one for the rest."""
    lengths = {one.magnitude_of for one in view.owners if one.magnitude_of is not None}
    scales = [
        scale
        for known in view.owners
        if known.name not in lengths and (scale := _scale(known, facts, view)) is not None
    ]
    found = []
    for hidden in (False, True):
        part = sorted((one for one in scales if one.hidden == hidden), key=_distance, reverse=True)
        if part:
            found.append(_finding(part, hidden))
    return found


def _distance(scale: _Scale) -> float:
    return abs(math.log(scale.times))


def schemes_range(known: ParameterView) -> tuple[float, float]:
    """The smallest and the largest std that the cited schemes give a matrix.

    Torch's default 1/(3 fan) and normal(0.02) below, gain/fan_in above; of convolutions, where
    fan_out is in use, gain/fan_out too. Fans without the taps that meet padding or that strides
    leave out.

    Example:
        >>> schemes_range(ParameterView(
        ...     name="w", shape=(8, 50), dtype="float32", role="linear", fan_in=50, fan_out=8
        ... ))
        (0.02, 0.2)
    """
    taps = known.stride if known.role == "conv_transpose" else 1
    inputs = (known.fan_in or 1) * known.coverage / taps
    outputs = float(known.fan_out or 1)
    gain = max(RECTIFIED, known.gain, known.source_gain)
    fans = (inputs, outputs) if known.role.startswith("conv") else (inputs,)
    high = max(FIXED, math.sqrt(gain / min(fans)))
    return min(FIXED, math.sqrt(TORCH / max(inputs, outputs))), high


def _scale(known: ParameterView, facts: Facts, view: ModelView) -> _Scale | None:
    matrix = view.parameters[known.magnitude_of] if known.magnitude_of else known
    held = facts.parameters.get(known.name)
    if held is None or not held.trainable or not 0.0 < held.second_moment < math.inf:
        return None
    if not matrix.is_matrix or not matrix.fan_in or matrix.standardised:
        return None
    if matrix.role == "head" or matrix.role.startswith("lora"):
        return None
    # All slices of a normed weight have the length g, whatever the direction.
    square = held.second_moment * math.prod(known.shape) / math.prod(matrix.shape)
    if not (known.magnitude_of or _is_used_as_it_is(matrix, square, facts)):
        return None
    low, high = schemes_range(matrix)
    std = math.sqrt(square)
    above = std > SCHEME_ABOVE * high and (
        matrix.norm_after or not _is_frequency(matrix, facts, view)
    )
    below = std < low / SCHEME_BELOW and matrix.norm_after
    return _Scale(known.name, matrix, std, low, high) if above or below else None


def _is_frequency(matrix: ParameterView, facts: Facts, view: ModelView) -> bool:
    """Whether it multiplies coordinates, times or codes, or makes the phases of joined waves."""
    readers = (other for other in view.owners if matrix.name in other.reads)
    waves = matrix.activation in WAVES and any(other.source == "mixed" for other in readers)
    if matrix.source == "input" or waves:
        return True
    record = facts.layers.get(matrix.module)
    shown = facts.differentiated and record is not None and record.weight == matrix.name
    return shown and not matrix.reads and facts.of(matrix.module).input_units == 0


def _is_used_as_it_is(matrix: ParameterView, square: float, facts: Facts) -> bool:
    """Whether the measured gain is that of the values; unmeasured, that of a layer of torch's."""
    record = facts.layers.get(matrix.module)
    gain = record.gain if record is not None and record.weight == matrix.name else None
    if gain is None:
        return bool(matrix.torch_type)
    return 1 / ALIGNED < gain / ((matrix.fan_in or 1) * square) < ALIGNED


def _finding(found: list[_Scale], hidden: bool) -> Finding:
    worst = found[0]
    names = tuple(one.name for one in found)
    much = worst.std > worst.high
    end, ratio = (worst.high, worst.times) if much else (worst.low, 1 / worst.times)
    word = "above the largest" if much else "below the smallest"
    told = (
        ". The norm behind it takes that out of the signal, but not out of training: gradients go "
        "as 1/std, and the effective step as 1/std^2"
        if hidden
        else ""
    )
    return Finding(
        code="IN209" if hidden else "IN204",
        severity="warning",
        title="a norm hides the scale of the weights" if hidden else "a scale of no scheme",
        where=names,
        message=f"{worst.name} gives its matrix root mean square {worst.std:.3g}, {ratio:.3g} "
        f"times {word} that a scheme has for its role ({worst.matrix.role}) and fans "
        f"{(worst.matrix.fan_in, worst.matrix.fan_out)}, {end:.3g}{told}{also(names, 'matrix')}",
        fix=f'model.get_parameter("{worst.name}").data.mul_({end / worst.std:.3g}), or initialise '
        'it anew: initium.initialize(model, "auto")',
        numbers={"std": worst.std, "low": worst.low, "high": worst.high, "matrices": len(found)},
    )
