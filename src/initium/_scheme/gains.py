"""Gains: by how much a weight matrix must make up for the activation that follows it.

For z ~ N(0, 1), a layer ``W phi(z)`` with ``Var W = gain / fan`` keeps

    the second moment of the signal    with ``forward_gain(phi)  = 1 / E[phi(z)^2]``  and fan_in,
    the second moment of the gradient  with ``backward_gain(phi) = 1 / E[phi'(z)^2]`` and fan_out.

A gain here multiplies a *variance*. ``torch.nn.init.calculate_gain`` returns a factor of the *std*:
the square root of the forward gain for linear, relu and leaky_relu, and other, empirical values for
tanh (5/3, against 1.5926) and selu (3/4, against 1). It gives 1 for sigmoid, whose forward gain is
3.4086 because a sigmoid's output is mostly its mean 1/2, and knows no other activation.

Source: He et al. 2015, arXiv:1502.01852 (relu, both directions); Klambauer et al. 2017,
arXiv:1706.02515 (selu). The other values follow from the same definition.
"""

from __future__ import annotations

from initium._scheme.activations import Activation, activation
from initium.errors import RecipeError

__all__ = ["backward_gain", "forward_gain", "moments_of"]


def moments_of(of: str | Activation) -> tuple[float, float]:
    """``(E[phi(z)^2], E[phi'(z)^2])`` for z ~ N(0, 1).

    Example:
        >>> moments_of("relu")
        (0.5, 0.5)
    """
    phi = of if isinstance(of, Activation) else activation(of)
    return phi.second_moment, phi.derivative_moment


def forward_gain(of: str | Activation) -> float:
    """``1 / E[phi(z)^2]``: the variance gain that keeps the signal.

    Raises:
        RecipeError: an unknown activation, or one whose output is zero.

    Example:
        >>> forward_gain("relu"), round(forward_gain("gelu"), 4)
        (2.0, 2.3517)
    """
    return _inverse(moments_of(of)[0], of, "output")


def backward_gain(of: str | Activation) -> float:
    """``1 / E[phi'(z)^2]``: the variance gain that keeps the gradient.

    Raises:
        RecipeError: an unknown activation, or one whose derivative is zero.

    Example:
        >>> backward_gain("relu"), round(backward_gain("tanh"), 4)
        (2.0, 2.1533)
    """
    return _inverse(moments_of(of)[1], of, "derivative")


def _inverse(moment: float, of: str | Activation, what: str) -> float:
    if not moment > 1e-30:
        raise RecipeError(
            f"the {what} of this activation is zero for a standard normal, so no gain restores it",
            where="activation",
            value=of.name if isinstance(of, Activation) else of,
            fix="choose another activation or other arguments",
        )
    return 1 / moment
