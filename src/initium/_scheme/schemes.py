"""The cited schemes: from fans and a gain to a spec.

One primitive, :func:`variance_scaling`, and thin names over it. Fans are those of one logical
matrix (one block of a fused weight, one group of a grouped convolution, one expert of a stack), as
``ParameterView.fan_in`` and ``fan_out`` give them.

Covered: the closed schemes that need fans, a gain and a depth. Not covered: schemes that need data
(LSUV and the like), and the choice of scheme, which is a recipe's job.
"""

from __future__ import annotations

import math

from initium._scheme.gains import backward_gain, forward_gain
from initium.errors import RecipeError
from initium.spec import (
    DeltaOrthogonal,
    Dirac,
    Identity,
    Normal,
    Orthogonal,
    Sparse,
    Spec,
    TruncatedNormal,
    Uniform,
)

__all__ = [
    "DISTRIBUTIONS",
    "MODES",
    "SCHEMES",
    "delta_orthogonal",
    "dirac",
    "effective_fan",
    "he",
    "identity",
    "kaiming_uniform",
    "lecun",
    "orthogonal",
    "small_init",
    "sparse",
    "variance_scaling",
    "wang_init",
    "xavier",
]

DISTRIBUTIONS = ("normal", "uniform", "truncated")
MODES = ("fan_in", "fan_out", "fan_avg")


def variance_scaling(scale: float, fan: float, distribution: str = "normal") -> Spec:
    """A zero-mean spec of variance ``scale / fan``: the primitive behind the named schemes.

    Args:
        scale: the variance gain, not below 0.
        fan: the number of terms in the sum that the variance should not grow with.
        distribution: ``normal``; ``uniform`` on +-sqrt(3 scale / fan); ``truncated``, a normal cut
            at two sigmas whose *achieved* variance is scale / fan.

    Raises:
        RecipeError: an unknown distribution, a negative scale or a fan that is not positive.

    Example:
        >>> print(variance_scaling(2.0, 50))
        normal(0.2)

    Divergence: Keras and JAX know this primitive with the modes inside it; here the fan is chosen
    by the caller (:func:`effective_fan`).
    """
    if distribution not in DISTRIBUTIONS:
        raise RecipeError(
            "is not a distribution of variance scaling",
            where="distribution",
            value=distribution,
            choices=DISTRIBUTIONS,
        )
    if not (scale >= 0 and math.isfinite(scale)):
        raise RecipeError("the scale must be finite and not negative", where="scale", value=scale)
    if not fan > 0:
        raise RecipeError("a fan must be positive", where="fan", value=fan)
    std = math.sqrt(scale / fan)
    if distribution == "uniform":
        bound = math.sqrt(3 * scale / fan)
        return Uniform(-bound, bound)
    if distribution == "truncated" and std > 0:
        return TruncatedNormal(std)
    return Normal(std)


def effective_fan(fan_in: float, fan_out: float, mode: str) -> float:
    """``fan_in``, ``fan_out`` or their mean.

    Raises:
        RecipeError: an unknown mode.

    Example:
        >>> effective_fan(10, 30, "fan_avg")
        20.0
    """
    if mode not in MODES:
        raise RecipeError("is not a fan mode", where="mode", value=mode, choices=MODES)
    return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]


def xavier(fan_in: float, fan_out: float, gain: float = 1.0, distribution: str = "uniform") -> Spec:
    """Variance ``2 gain^2 / (fan_in + fan_out)``, a compromise of signal and gradient for phi = id.

    Args:
        fan_in: inputs of one matrix.
        fan_out: outputs of one matrix.
        gain: factor of the std, as in ``torch.nn.init.xavier_uniform_``.
        distribution: ``uniform``, ``normal`` or ``truncated``.

    Example:
        >>> print(xavier(2, 4))
        uniform(-1, 1)

    Source: Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    Divergence: torch counts every output channel of a grouped convolution in fan_out; here a fan is
    that of one group, so fan_out is smaller by the number of groups.
    """
    return variance_scaling(gain**2, effective_fan(fan_in, fan_out, "fan_avg"), distribution)


def he(
    fan_in: float,
    fan_out: float,
    mode: str = "fan_in",
    distribution: str = "normal",
    nonlinearity: str = "relu",
) -> Spec:
    """Variance ``1 / (E[phi(z)^2] fan)``: keeps the signal (fan_in) or the gradient (fan_out).

    Args:
        fan_in: inputs of one matrix.
        fan_out: outputs of one matrix.
        mode: ``fan_in`` with the forward gain, ``fan_out`` with the backward gain E[phi'(z)^2],
            ``fan_avg`` with the forward gain and the mean of both fans.
        distribution: ``normal``, ``uniform`` or ``truncated``.
        nonlinearity: the activation, such as ``relu`` or ``leaky_relu(0.2)``.

    Example:
        >>> print(he(50, 10))
        normal(0.2)

    Source: He et al. 2015, arXiv:1502.01852
    Divergence: torch takes ``calculate_gain``, which is the same number for relu and leaky_relu and
    for both modes, and differs for tanh and selu.
    """
    gain = backward_gain if mode == "fan_out" else forward_gain
    return variance_scaling(gain(nonlinearity), effective_fan(fan_in, fan_out, mode), distribution)


def lecun(fan_in: float, distribution: str = "normal") -> Spec:
    """Variance ``1 / fan_in``: keeps the signal of a linear layer, and of SELU.

    Example:
        >>> print(lecun(100))
        normal(0.1)

    Source: LeCun et al. 1998, Efficient BackProp; Klambauer et al. 2017, arXiv:1706.02515
    Divergence: Keras and JAX default to a truncated normal here.
    """
    return variance_scaling(1.0, fan_in, distribution)


def kaiming_uniform(fan_in: float, a: float = math.sqrt(5)) -> Spec:
    """``U(+-sqrt(6 / ((1 + a^2) fan_in)))``: what torch's Linear and Conv use, with a = sqrt 5.

    With that ``a`` the bound is 1 / sqrt(fan_in) and the variance 1 / (3 fan_in), so the second
    moment of a ReLU network falls by a factor of 6 per layer.

    Example:
        >>> print(kaiming_uniform(6, a=0))
        uniform(-1, 1)

    Source: torch.nn.modules.linear.Linear.reset_parameters
    """
    bound = math.sqrt(6 / ((1 + a * a) * fan_in))
    return Uniform(-bound, bound)


def orthogonal(
    gain: float = 1.0, outputs: tuple[int, ...] = (0,), batch: tuple[int, ...] = ()
) -> Spec:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times ``gain``.

    Args:
        gain: factor of the std; the square root of a variance gain.
        outputs: the axes that make up the rows.
        batch: axes over which independent matrices are stacked.

    Example:
        >>> print(orthogonal(2.0))
        orthogonal(gain=2)

    Source: Saxe et al. 2013, arXiv:1312.6120
    Divergence: a matrix with more outputs than inputs keeps the second moment of the *input*, not
    of each output: its elements have variance gain^2 / max(fan_in, fan_out).
    """
    return Orthogonal(gain, tuple(outputs), tuple(batch))


def delta_orthogonal(gain: float = 1.0, groups: int = 1) -> Spec:
    """Zero but for the centre tap of a convolution, which holds an orthogonal matrix.

    Example:
        >>> print(delta_orthogonal())
        delta_orthogonal()

    Source: Xiao et al. 2018, arXiv:1806.05393
    """
    return DeltaOrthogonal(gain, groups)


def dirac(gain: float = 1.0, groups: int = 1) -> Spec:
    """The convolution that copies each input channel to the output channel of its number.

    Source: Zagoruyko and Komodakis 2017, arXiv:1706.00388
    """
    return Dirac(gain, groups)


def identity(gain: float = 1.0) -> Spec:
    """The identity matrix times ``gain``; source: Le et al. 2015, arXiv:1504.00941 (for RNNs)."""
    return Identity(gain)


def sparse(sparsity: float, std: float = 0.01) -> Spec:
    """A normal of which the fraction ``sparsity`` of each column is zero.

    Source: Martens 2010, Deep learning via Hessian-free optimization, ICML.
    """
    return Sparse(sparsity, std)


def small_init(width: float) -> Spec:
    """``N(0, 2 / (5 width))`` for a transformer's matrices.

    Example:
        >>> print(small_init(1000))
        normal(0.02)

    Source: Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2
    """
    return variance_scaling(0.4, width)


def wang_init(width: float, layers: int) -> Spec:
    """``N(0, (2 / (layers sqrt(width)))^2)`` for the matrices that write to the residual stream.

    Example:
        >>> print(wang_init(400, 2))
        normal(0.05)

    Source: Wang and Komatsuzaki 2021, GPT-J; as in GPT-NeoX's ``wang_init``.
    Divergence: litgpt's version lacks the factor 2.
    """
    return variance_scaling(4 / layers**2, width)


SCHEMES = {
    "variance_scaling": variance_scaling,
    "xavier": xavier,
    "he": he,
    "lecun": lecun,
    "kaiming_uniform": kaiming_uniform,
    "orthogonal": orthogonal,
    "delta_orthogonal": delta_orthogonal,
    "dirac": dirac,
    "identity": identity,
    "sparse": sparse,
    "small_init": small_init,
    "wang_init": wang_init,
}
"""The schemes by name, for explanations."""
