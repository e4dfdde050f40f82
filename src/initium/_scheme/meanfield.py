"""Plain layers at infinite width, and how far a finite one strays: z -> W phi(z) + b.

With E[W_ij^2] = C_W / n and E[b_i^2] = C_b, the pre-activations of two inputs are jointly Gaussian
at every layer. Their second moment follows q -> C_W E[phi(sqrt(q) u)^2] + C_b, their covariance
the same with two correlated Gaussians, and the gradient's second moment is multiplied by
chi = C_W E[phi'(sqrt(q) u)^2] (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
arXiv:1611.01232). At width n the logarithm of q spreads over seeds with a variance that
:func:`fluctuation` gives.

Not covered: layers whose weights are shared over positions (their n is the number of channels, and
correlated positions make it worse by up to twofold), norms, residual streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from initium._scheme.activations import Activation, Array, Function, activation

__all__ = ["Kernel", "Layer", "correlation_depth", "fluctuation", "kernel", "trajectory"]

REACH = 12.0
TERMS = 200
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class Kernel:
    """Moments of an activation under N(0, q) for any q, and under two correlated Gaussians.

    Example:
        >>> relu = kernel("relu")
        >>> round(relu.second(3.0), 9), round(relu.slope(3.0), 9)
        (1.5, 0.5)
        >>> round(relu.covariance(1.0, 1.0, 0.0), 6)  # E[relu]^2 = 1 / (2 pi)
        0.159155
    """

    activation: Activation

    def second(self, q: float) -> float:
        """E[phi(z)^2]."""
        function = self.activation.function
        return self._expect(lambda z: function(z) ** 2, q)

    def fourth(self, q: float) -> float:
        """E[phi(z)^4]."""
        function = self.activation.function
        return self._expect(lambda z: function(z) ** 4, q)

    def mean(self, q: float) -> float:
        """E[phi(z)]."""
        return self._expect(self.activation.function, q)

    def slope(self, q: float) -> float:
        """E[phi'(z)^2]."""
        derivative = self.activation.derivative
        return self._expect(lambda z: derivative(z) ** 2, q)

    def growth(self, q: float) -> float:
        """d log E[phi(z)^2] / d log q = E[z phi(z) phi'(z)] / E[phi(z)^2]."""
        function, derivative = self.activation.function, self.activation.derivative
        second = self.second(q)
        return self._expect(lambda z: z * function(z) * derivative(z), q) / second

    def covariance(self, first: float, second: float, correlation: float) -> float:
        """E[phi(z1) phi(z2)] for variances ``first`` and ``second`` and their correlation.

        The sum over Hermite coefficients a_k(first) a_k(second) correlation^k (Mehler); what the
        first terms leave out of a_k(q)^2 counts with the next power, which is exact at 0 and 1.
        """
        function = self.activation.function
        return self._mehler(function, first, second, correlation)

    def slope_covariance(self, first: float, second: float, correlation: float) -> float:
        """E[phi'(z1) phi'(z2)], likewise."""
        return self._mehler(self.activation.derivative, first, second, correlation)

    def _mehler(self, function: Function, first: float, second: float, correlation: float) -> float:
        one, rest_one = self._coefficients(function, first)
        same = first == second
        two, rest_two = (one, rest_one) if same else self._coefficients(function, second)
        tail = math.sqrt(rest_one * rest_two) * correlation**TERMS
        return float(np.sum(one * two * correlation ** np.arange(TERMS))) + tail

    def _coefficients(self, function: Function, q: float) -> tuple[Array, float]:
        """The first Hermite coefficients of z -> function(sqrt(q) z), and what they leave out."""
        scale = math.sqrt(q)
        z, weights = _grid(self._kinks(scale))
        values = function(scale * z)
        weighted = weights * values
        found = np.zeros(TERMS)
        low, high = np.ones_like(z), z
        for term in range(TERMS):
            found[term] = weighted @ low
            low, high = high, (z * high - math.sqrt(term + 1) * low) / math.sqrt(term + 2)
        return found, max(float(weighted @ values) - float(found @ found), 0.0)

    def _expect(self, function: Function, q: float) -> float:
        scale = math.sqrt(q)
        z, weights = _grid(self._kinks(scale))
        return float(weights @ function(scale * z))

    def _kinks(self, scale: float) -> tuple[float, ...]:
        return tuple(kink / scale for kink in self.activation.kinks) if scale else ()


@lru_cache(maxsize=256)
def kernel(text: str) -> Kernel:
    """The :class:`Kernel` of the activation that ``text`` names."""
    return Kernel(activation(text))


@lru_cache(maxsize=64)
def _grid(kinks: tuple[float, ...]) -> tuple[Array, Array]:
    """Points and weights of N(0, 1), by Gauss-Legendre between the kinks, a sigma at a time."""
    inside = [kink for kink in kinks if abs(kink) < REACH]
    edges = np.array(sorted({*np.arange(-REACH, REACH + 1).tolist(), *inside}))
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    z = (middle[:, None] + half[:, None] * _NODES).reshape(-1)
    weights = (half[:, None] * _WEIGHTS).reshape(-1)
    return z, weights * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Layer:
    """One layer of a plain net, at infinite width.

    Attributes:
        q: second moment of its pre-activations.
        correlation: that of two inputs' pre-activations.
        chi: factor of a gradient's second moment on its way back through the layer.
    """

    q: float
    correlation: float
    chi: float


def trajectory(
    phi: str, weight: float, bias: float, q: float, correlation: float, depth: int
) -> list[Layer]:
    """Pre-activations through ``depth`` layers from a first one of second moment ``q``.

    Args:
        phi: the activation, as text.
        weight, bias: C_W = n E[W^2] and C_b = E[b^2].
        q, correlation: of the first pre-activations.
        depth: layers, the first included.
    """
    phi_kernel = kernel(phi)
    layers = [Layer(q, correlation, weight * phi_kernel.slope(q))]
    for _ in range(depth - 1):
        after = weight * phi_kernel.second(q) + bias
        between = weight * phi_kernel.covariance(q, q, correlation) + bias
        q, correlation = after, min(between / after, 1.0)
        layers.append(Layer(q, correlation, weight * phi_kernel.slope(q)))
    return layers


def correlation_depth(phi: str, weight: float, bias: float, layers: int = 400) -> float:
    """xi = -1 / ln(chi at c*): the layers after which two inputs' distance has changed by e.

    c* is where correlations settle; ``inf`` on the critical line, where chi at c* = 1 is one.

    Source: Schoenholz et al. 2017, arXiv:1611.01232, section 3.
    """
    end = trajectory(phi, weight, bias, 1.0, 0.5, layers)[-1]
    phi_kernel = kernel(phi)
    if end.correlation > 1 - 1e-7:
        rate = end.chi
    else:
        rate = weight * phi_kernel.slope_covariance(end.q, end.q, end.correlation)
    return math.inf if abs(math.log(rate)) < 1e-6 else -1 / math.log(rate)


def fluctuation(
    phi: str,
    weight: float,
    bias: float,
    q: float,
    width: int,
    depth: int,
    weights: Literal["normal", "orthogonal"] = "normal",
) -> float:
    """The variance over seeds of log q at the last of ``depth`` layers of one width.

    v -> f^2 (s^2 v + c / n) with s = d log E[phi^2] / d log q, f the share of q that the weights
    make, and c = E[phi^4] / E[phi^2]^2 - 1 for normal weights, less 2 s^2 for orthogonal ones,
    whose layers keep lengths exactly; the last pre-activations add 2 / n of their own. ``q`` is
    the second moment of the first pre-activations of one input.

    Divergence: a linearisation. Near a critical point with s > 1 (GELU, SiLU) it fails beyond
    depth / width of about 0.2.

    Source: the recursion of Hanin & Rolnick 2018, arXiv:1803.01719, for ReLU, carried to other
    activations by linearising log q; held by simulation in the tests.

    Example:
        >>> round(fluctuation("relu", 2.0, 0.0, 1.0, 256, 40) ** 0.5, 2)
        0.88
    """
    phi_kernel = kernel(phi)
    total = 0.0
    for _ in range(depth - 1):
        second = phi_kernel.second(q)
        after = weight * second + bias
        share = weight * second / after
        growth = phi_kernel.growth(q)
        excess = phi_kernel.fourth(q) / second**2 - 1
        if weights == "orthogonal":
            excess -= 2 * growth**2
        total = share**2 * (growth**2 * total + excess / width)
        if weights == "orthogonal":
            total += (4 * share * (1 - share) + 2 * (1 - share) ** 2) / width
        q = after
    return total + (2 / width if weights == "normal" else 0.0)
