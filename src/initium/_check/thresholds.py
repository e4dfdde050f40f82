"""Every number that decides between healthy, warning and error, with what it rests on."""

from __future__ import annotations

__all__ = [
    "DEAD_SIGMAS",
    "DECAY_ERROR",
    "DECAY_WARNING",
    "DUPLICATES_ERROR",
    "GROWTH_ERROR",
    "GROWTH_WARNING",
    "HUGE",
    "LOSS_ERROR",
    "LOSS_FRACTION",
    "LOSS_NATS",
    "LOST",
    "PEAK",
    "PLAN_RELATIVE",
    "PLAN_SIGMAS",
    "ROW_TOLERANCE",
    "RUN",
    "SATURATED_ERROR",
    "SATURATED_SIGMOID",
    "SATURATED_TANH",
    "SATURATED_WARNING",
    "TINY",
    "ZERO_GRADIENT_ERROR",
]

RUN = 4
"""Layers that a trend must span. One or two small layers at the end of a block, such as the down
projection of a gated MLP under normal(0.02) at width 32 (1e-4 of its input), are no trend."""

PEAK = 0.1
"""A decaying run starts at the last layer that still holds this part of the largest value. Layers
of different kinds in one block (q, up, down) lie within it or recur in the next block."""

DECAY_WARNING = 1e-4
"""Signal (a variance) left at the end of a run, in parts of its start: amplitude 1e-2.
He-initialised ReLU layers lose 44/depth^2 of it to the correlation of samples, since 1 - c falls as
9 pi^2 / (2 l^2) (Hayou et al. 2019, arXiv:1902.06853): 1e-3 at depth 200. torch's default in a
ReLU net (1/6 per layer) reaches it at depth 10, where training still works, but slower."""

DECAY_ERROR = 1e-10
"""Amplitude 1e-5. Torch's default in a plain ReLU net reaches it at depth 17."""

GROWTH_WARNING = 1e6
"""Second moment at the end of a run over its start: amplitude 1e3. Residual streams grow linearly
(a few hundred times at most), and nets with batch norm but without shortcuts have gradients that
grow by pi/(pi - 1), about 1.47 per layer at most (Yang et al. 2019, arXiv:1902.08129)."""

GROWTH_ERROR = 1e10
"""Amplitude 1e5: beyond float16 (65504) from a start of order one."""

HUGE, TINY = 1e14, 1e-18
"""A second moment that no layer of a usable start has, however few layers there are: amplitudes of
1e7 and 1e-9, far beyond and far below what float16, or any learning rate, can work with."""

LOST = 4.0
"""The output ignores the input when the spread between samples is below this many spacings of the
number format, relative to the size of the value: what is left is rounding."""

DEAD_SIGMAS = 5.0
"""A symmetric pre-activation is dead over a whole batch with probability at most 1/2, reached when
all samples have become alike; more than 1/2 + this many standard errors is not symmetric."""

SATURATED_TANH = 0.97
"""|tanh| above it has a slope below 0.06 (Glorot & Bengio 2010 call a layer saturated there)."""

SATURATED_SIGMOID = 0.985
"""The same point for a sigmoid: (1 + 0.97) / 2, with the lower bound mirrored."""

SATURATED_WARNING = 0.4
"""Part of the values beyond the bounds. A pre-activation of std 1 gives 4%, of 2.5 gives 40%."""

SATURATED_ERROR = 0.95
"""A pre-activation of std 33: no more than one value in twenty has a usable slope."""

DUPLICATES_ERROR = 0.5
"""Part of the units of a matrix that equal another one in value and gradient, and stay equal."""

ROW_TOLERANCE = 1e-5
"""Rows are equal if three random projections differ by less than this part of the rows' root mean
square norm: float32 rounds a projection of equal rows to about 1e-6, and two random rows come as
close with probability 1e-15."""

ZERO_GRADIENT_ERROR = 0.5
"""Part of the trainable elements whose gradient is exactly zero without a reason that ends."""

LOSS_NATS = 1.5
LOSS_FRACTION = 0.25
"""First loss above ln C by more than the larger of 1.5 nats and 25%: Gaussian logits of std s add
s^2/2, so s > 1.7. He's variance in the head adds 1, normal(0.02) at width 8192 adds 1.6 to 11.8."""

LOSS_ERROR = 5.0
"""First loss in units of ln C. A T5-like tied head without scaling starts at 110 instead of 11."""

PLAN_SIGMAS = 6.0
"""Standard errors between the achieved and the planned moments: 2e-9 by chance, per parameter."""

PLAN_RELATIVE = 0.01
"""Differences below 1% of the std are rounding to a narrow dtype, never a contradiction."""
