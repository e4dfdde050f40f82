"""Every number that decides between healthy, warning and error, with what it rests on."""

from __future__ import annotations

__all__ = [
    "ALIGNED",
    "ASSUMED_ADAM",
    "ASSUMED_SGD",
    "ATTENTION_KEYS",
    "BIAS_FEWEST",
    "BIAS_SHARE",
    "BIAS_TIMES",
    "CHANNEL_MEAN",
    "CHAOTIC",
    "COLLAPSE_APART",
    "COLLAPSE_ERROR",
    "COLLAPSE_START",
    "COLLAPSE_WARNING",
    "CONVERGED",
    "COORDINATE_READOUT",
    "COORDINATE_SLOPE",
    "DEAD_SIGMAS",
    "DECAY_ERROR",
    "DECAY_WARNING",
    "DEPARTURE",
    "DUPLICATES_ERROR",
    "ENTROPY_ERROR",
    "ENTROPY_WARNING",
    "FANS_BY_CHANCE",
    "FANS_OFF",
    "FAN_NOISE",
    "FAN_RANGE",
    "FAN_SIGMAS",
    "FAN_TOLERANCE",
    "FEWEST_CLASSES",
    "FORGET",
    "FORMATS",
    "GAIN_OUTLIER",
    "GATE_SHUT",
    "GRADIENT_JUMP",
    "GROWTH_ERROR",
    "GROWTH_WARNING",
    "HALF_LOST",
    "HEAD_INPUT",
    "HIDDEN_GAIN",
    "HUGE",
    "LABELS_MIN",
    "LAW_CHANCE",
    "LAW_FEWEST",
    "LEAK",
    "LEAK_CHANCE",
    "LOSS_ERROR",
    "LOSS_FRACTION",
    "LOSS_NATS",
    "LOST",
    "LOUD",
    "MEAN_FEWEST",
    "MEAN_SHARE",
    "MEAN_SIGMAS",
    "NORM_SCALE",
    "OBLIQUE",
    "ONE_SIGN",
    "ORDERED",
    "ORTHOGONAL",
    "OUTLIERS_FEWEST",
    "OUTLIERS_RARE",
    "OUTLIER_SIGMAS",
    "PAIRS",
    "PEAK",
    "PEERS",
    "PLAN_RELATIVE",
    "PLAN_SIGMAS",
    "RANK_LOST",
    "RAW_INPUT",
    "RAW_OUTPUT",
    "RIGHT_ANGLES",
    "ROWS_ALIKE",
    "ROWS_FEWEST",
    "ROW_TOLERANCE",
    "RUN",
    "SATURATED_ERROR",
    "SATURATED_SIGMOID",
    "SATURATED_TANH",
    "SATURATED_WARNING",
    "SCHEME_ABOVE",
    "SCHEME_BELOW",
    "SEED_SPREAD",
    "SET_DISTINCT",
    "SET_SMOOTH",
    "STARVED",
    "STARVED_TABLE",
    "STREAM_HALF",
    "SUM_TO_ONE",
    "TINY",
    "UNIFORM",
    "UNITS_FEWEST",
    "UNSCALED",
    "UPDATE_HIGH",
    "UPDATE_LOW",
    "VALUES_SET",
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

LAW_CHANCE = 2e-9
"""Probability with which a law is called wrong by chance, per parameter: that of PLAN_SIGMAS."""

LAW_FEWEST = 256
"""Sampled elements from which on a law is judged: fewer cannot tell a uniform from a normal."""

RIGHT_ANGLES = 0.02
"""Q Q^T - I of a few vectors of an orthogonal matrix. Rounding to bfloat16 leaves
2^-8 / sqrt(3 n) for vectors of length n; independent normal ones have sqrt(2 / n) on the diagonal,
more than this up to n = 5000."""

FORMATS = {
    "float16": (2.0**-25, 2.0**-14, 65519.0),
    "bfloat16": (2.0**-134, 2.0**-126, 3.3953e38),
    "float8_e4m3fn": (2.0**-10, 2.0**-6, 464.0),
    "float8_e5m2": (2.0**-17, 2.0**-14, 61439.0),
}
"""Of each number format, the magnitude up to which numbers round to zero (half of the smallest
subnormal), the smallest normal number, and what still rounds to the largest finite one. IEEE 754
for float16; Micikevicius et al. 2022 (arXiv:2209.05433) for the two of eight bits."""

ASSUMED_ADAM = 1e-3
"""Learning rate of the Adam that steps where no optimizer is given: torch's default."""

ASSUMED_SGD = 0.1
"""Learning rate behind the ratio of plain SGD: that of He et al. 2016, arXiv:1512.03385."""

UPDATE_LOW, UPDATE_HIGH = 1e-4, 1e-1
"""||dW|| / ||W|| of a matrix after the first step of the given optimizer. About 1e-3 is the rule of
thumb (Karpathy, makemore part 3); a tenth on either side of two decades is still usual. Judged only
where the caller's own optimizer is known: with an assumed one it would judge the assumption."""

PAIRS = (0.0, 0.5, 0.9, 0.99)
"""Cosines of the pairs of inputs that are followed through depth."""

CONVERGED = 0.02
"""Pairs of all PAIRS that arrive within it have settled at a common correlation."""

ORDERED = 0.999
"""Orthogonal inputs that arrive closer than this cannot be told apart: the ordered phase after many
depth scales (Schoenholz et al. 2017, arXiv:1611.01232). He-initialised ReLU layers, at
1 - 9 pi^2 / (2 l^2), reach it at depth 210."""

CHAOTIC = 0.5
"""Inputs of cosine 0.99 that arrive further apart than this: the chaotic phase. Batch norm without
shortcuts is chaotic too, by its known gradient growth of at most 1.47 per layer."""

RANK_LOST = 1.1
"""Participation ratio at the last layer below which one direction has more than 95% of the variance
of all units. A He-initialised ReLU net of width 128 has 1.4 at depth 50, and still trains."""

SEED_SPREAD = 1.0
"""Standard deviation over seeds of log10 of a layer's second moment, as measured with three seeds:
the true one is then above 0.58 (chi-squared, 95%), a factor of 14 from a sigma below to one above.
A He-initialised ReLU net of width n and depth L has 0.43 sqrt(5 L / n) (Hanin & Rolnick 2018,
arXiv:1803.01719): 0.58 at L / n = 0.36."""

COORDINATE_SLOPE = 0.2
"""Log-log slope of a coordinate's size over width that still counts as none. Standard
parametrisation is at 1/2 or 1 (Yang et al. 2022, arXiv:2203.03466), lazy ones at -1/2; finite
widths bend a true 0 by about a tenth."""

COORDINATE_READOUT = -0.5
"""Slope that a readout or attention logits may have before the first step: sums of n terms whose
weights are independent of them, each of size 1/n (arXiv:2203.03466)."""

LABELS_MIN = 16
"""Labels of a batch from which on it is no chance that all are the same: for two equal classes
2^-15."""

LEAK = 1.0 - 1e-9
"""A correlation with the target that only the target itself has."""

LEAK_CHANCE = 1e-6
"""Probability that one of all features is the target by chance, above which none is called a leak:
one of 5,000 balanced binary features is that of 16 samples with probability 0.5, of 64 with
1e-14."""

NORM_SCALE = 100.0
"""Second moment of a norm's scale, in units of that at which it changes nothing, beyond which (or
below whose inverse) it is out of line: amplitude 10, as for GAIN_OUTLIER."""

RAW_INPUT = 1e3
"""Second moment of raw inputs: pixels of 0..255 have about 2e4, normalised ones 1."""

RAW_OUTPUT = 1e2
"""Second moment behind the first matrix, which shows that nothing took the inputs' scale out."""

GAIN_OUTLIER = 100.0
"""A matrix that multiplies the second moment this many times more, or less, than the others of its
role and shape: amplitude 10. Scales that fall with depth as 1/sqrt(layer) differ from their median
by less down to depth 200."""

PEERS = 3
"""Other matrices of the same role and shape that make a comparison."""

ALIGNED = 5.0
"""Second moment of a matrix's output in units of fan_in E[w^2] E[x^2], its mean over independent
zero-mean weights. Asked for only where the weights' mean is no chance either. Weights and inputs
that both have means reach up to fan_in."""

MEAN_SIGMAS = 6.0
"""Standard errors, std/sqrt(n), between a matrix's mean and zero that are not chance."""

MEAN_SHARE = 0.5
"""mean^2 over E[w^2] of a matrix that is wrong whatever it reads: no scheme draws weights so. A
uniform law from 0 to a has 0.75."""

MEAN_FEWEST = 1000
"""Elements from which on such a mean is no chance: 30 standard errors."""

SCHEME_ABOVE = 8.0
"""Std of a matrix over the largest that a scheme gives its role and fans. The second moment grows
by 2 * 8^2 = 128 there. Matrices lay at 1.5 at most: measured once over 51 sound networks, some of
them held out in docs/faults.md; not regenerated."""

SCHEME_BELOW = 30.0
"""The smallest std of a scheme over that of a matrix, asked only where a norm follows. Depth
scalings, 1/sqrt(2 L), reach it at L = 450. Matrices lay at 3.3 at most: measured once over 51 sound
networks, some of them held out in docs/faults.md; not regenerated."""

ONE_SIGN = 64
"""Elements from which on one sign of all is no chance: 2^-63."""

GATE_SHUT = 16.0
"""A sigmoid's slope is exp(-16) = 1e-7 there, the spacing of float32 at 1. Chrono initialisation
(Tallec & Ollivier 2018, arXiv:1804.11188), the largest in use, has ln T: 11.5 for 100,000 steps."""

ROWS_FEWEST = 8
"""Rows of a matrix from which on its units can add up the same sum: one row, or a few, may be a
positive head, a blur or a gate."""

SET_DISTINCT = 1 / 8
"""Distinct values in a sample of 1,024, below which they were set: uniform ones in bfloat16 have
2/5, as 128 values make up each power of two."""

SET_SMOOTH = 0.25
"""Mean squared step between neighbours over twice the variance: 1 for independent values, with
standard error 0.13 for 64 elements."""

SUM_TO_ONE = 1e-3
"""Distance from 1 of the sums of all rows, or columns, of a matrix of averages."""

CHANNEL_MEAN = 0.99
"""Part of a layer's output that is the same for all samples and positions, by a bias or by weights
with a mean. He-initialised ReLU nets reach it by the correlation of samples alone, at depth 66 by
1 - c = 44/l^2 (arXiv:1902.06853); so it is a finding only with one of those two causes. Brock et
al. 2021 (arXiv:2101.08692) plot the same quantity."""

BIAS_SHARE = 0.9
"""Part of E[out^2] that is E[b^2]: at 0.9 the input's part is a tenth, in amplitude a third."""

BIAS_TIMES = 10.0
"""E[b^2] over the largest second moment before it. Torch's default biases have variance
1/(3 fan_in): small beside the signal that a network starts with, large only where it vanished."""

STREAM_HALF = 10.0
"""Growth of a residual stream's second moment over the second half of its branches. A sum of equal
independent branches doubles there whatever their scale (q grows linearly; Yang & Schoenholz 2017,
arXiv:1712.08969); branches that grow with the stream multiply it at every step."""

STARVED = 0.01
"""Second moment of a norm's input in units of its epsilon: below, it restores less than a tenth of
the amplitude. normal(0.02) at width 32 leaves a few hundredths before norms that end a branch."""

STARVED_TABLE = 1e-10
"""Second moment of tables before a norm, below which they are no known start. RWKV draws its
embeddings with 1e-8."""

COLLAPSE_WARNING, COLLAPSE_ERROR = 0.02, 1e-4
"""1 - mean cosine between tokens at the last block: at 0.02 the tokens share 98% of their power.
Attention without shortcuts makes it fall doubly exponentially (Dong et al. 2021, arXiv:2103.03404),
with unscaled post-norm shortcuts like a power of depth (Noci et al. 2022, arXiv:2206.03126)."""

COLLAPSE_START = 0.2
"""1 - cosine that tokens must have at first: equal tokens cannot become alike."""

COLLAPSE_APART = 10.0
"""How much further than tokens samples must lie apart, in power, for attention to be the cause. A
constant that all tokens share puts both at the same distance."""

HIDDEN_GAIN = 1e4
"""Gain of matrices before a norm, beyond which (or below whose inverse) the norm hides a scale that
training feels: the gradient goes as 1/||W|| and the effective step as 1/||W||^2 (van Laarhoven
2017, arXiv:1706.05350). Healthy gains are of order one, normal(0.02) at width 8 has 3e-3."""

ENTROPY_WARNING, ENTROPY_ERROR = 0.25, 0.02
"""Mean of H / ln n over the rows of an attention. Gaussian logits of std s have ln n - s^2/2 for
small s, and freeze at s = sqrt(2 ln n) (random energy model, Derrida 1981): 0.25 needs s of 3 at
n = 32. Zhai et al. 2023 (arXiv:2303.06296) call it entropy collapse. Below 0.02 the rows are
one-hot and the softmax passes no gradient on."""

ATTENTION_KEYS = 4
"""Keys in the longest row, below which entropy says little."""

UNIFORM = 1e-6
"""Logit std below which float32 cannot tell a softmax from a mean: queries and keys get a gradient
a million times smaller than the values."""

UNSCALED = 2.0
"""Factor on the logits, in units of 1/sqrt(head_dim), beyond which it is what makes them large."""

HALF_LOST = 0.5
"""Part of the non-zero elements that the dtype they are computed in holds with less than full
precision, or rounds to zero."""

HEAD_INPUT = 10.0
"""Second moment of what the head reads, above which it, and not the head, makes the loss high."""

GRADIENT_JUMP = 1e3
"""Norm of the gradient in one of the first steps over that of the first: no warm-up does it."""

DEPARTURE = 1.25
"""Factor beyond the band of single starts at which a moment departs from its prediction: the goal
of predictions is 25% at the 95th percentile of modules."""

FANS_BY_CHANCE = 1e-2
"""Probability that some formula with the wrong fans fits weights of another origin, below which
they were drawn by it: a weight of 10,000 normal elements alone has 4%, of 10,000 uniform ones
0.2%."""

FANS_OFF = 1.5
"""A std off by less changes the signal's power by less than 2.25, which training mends."""

FEWEST_CLASSES = 100
"""Rows of a matrix from which on the scale of its logits is judged by its values alone."""

FORGET = 0.25
"""A forget bias that is meant: common values are 1 (Jozefowicz et al. 2015) and, in chrono
initialisation (Tallec & Ollivier 2018, arXiv:1804.11188), more."""

LOUD = 0.8
"""Std of a random offset about as large as a signal of order one. Torch draws biases with std 0.58
at most, where a layer has one input."""

OUTLIER_SIGMAS = 8.0
"""In units of the std that the median shows: a normal number lies beyond with probability 1e-15."""

OUTLIERS_RARE = 0.01
"""More of the elements than this are a part of the law, such as a block with a larger std."""

ROWS_ALIKE = 0.01
"""Distance of two rows, relative to their length, below which they start alike."""

OUTLIERS_FEWEST = 256
"""Elements from which on one that lies far out is not simply one of a few."""

UNITS_FEWEST = 3
"""Units from which on equal ones are no copies by design."""

BIAS_FEWEST = 8
"""Elements of a bias from which on its std is that of a law."""

VALUES_SET = 3
"""Distinct values up to which a bias was set, not drawn."""

FAN_TOLERANCE = 0.01
"""Besides sampling noise: stds that differ by a smaller part are the same."""

FAN_SIGMAS = 3.0
"""Standard errors of a std, 1/sqrt(2 n), within which a formula fits it."""

FAN_NOISE = 0.05
"""Noise of a std beyond which no formula is read off it: that of some 3000 elements."""

FAN_RANGE = 2.3
"""Logarithm of the factor 10 within which the stds that a weight may have by chance lie."""

ORTHOGONAL = 1e-3
"""Difference of W^T W from a multiple of the identity, in its units, below which columns are
orthogonal: float32 leaves 1e-6, a normal matrix sqrt(2 / n)."""

OBLIQUE = 0.05
"""The same of a single block, below which it is orthogonal by itself."""
