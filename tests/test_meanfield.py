"""Plain layers at infinite width, against closed forms, published figures and simulation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from initium._scheme.meanfield import correlation_depth, fluctuation, kernel, trajectory


@given(
    q1=st.floats(0.01, 50), q2=st.floats(0.01, 50), correlation=st.floats(-1, 1, allow_nan=False)
)
def test_relu_is_the_arc_cosine_kernel(q1: float, q2: float, correlation: float) -> None:
    """Cho & Saul 2009, the kernel of degree one."""
    angle = math.acos(correlation)
    exact = math.sqrt(q1 * q2) * (math.sin(angle) + (math.pi - angle) * correlation) / (2 * math.pi)
    got = kernel("relu").covariance(q1, q2, correlation)
    assert got == pytest.approx(exact, abs=2e-4 * math.sqrt(q1 * q2))


@given(q=st.floats(0.01, 50), correlation=st.floats(-0.99, 0.99))
def test_the_sine_has_closed_forms(q: float, correlation: float) -> None:
    sine = kernel("sin")
    covariance = math.exp(-q) * math.sinh(q * correlation)
    slopes = math.exp(-q) * math.cosh(q * correlation)
    assert sine.second(q) == pytest.approx((1 - math.exp(-2 * q)) / 2, rel=1e-9)
    assert sine.covariance(q, q, correlation) == pytest.approx(covariance, abs=1e-9)
    assert sine.slope_covariance(q, q, correlation) == pytest.approx(slopes, abs=1e-9)


@pytest.mark.parametrize("phi", ["gelu", "silu", "tanh", "elu", "hardswish", "leaky_relu(0.2)"])
@pytest.mark.parametrize("q", [0.2, 1.0, 9.0])
def test_moments_are_those_of_adaptive_quadrature(phi: str, q: float) -> None:
    found = kernel(phi)
    density, act = stats.norm(scale=math.sqrt(q)).pdf, found.activation

    def expect(power: int) -> float:
        def integrand(z: float) -> float:
            return float(act(np.array([z]))[0]) ** power * density(z)

        edges = sorted({-40.0, *found.activation.kinks, 0.0, 40.0})
        parts = pairwise(edges)
        return sum(integrate.quad(integrand, *part, limit=200)[0] for part in parts)

    assert found.mean(q) == pytest.approx(expect(1), abs=1e-8)
    assert found.second(q) == pytest.approx(expect(2), rel=1e-7)
    assert found.fourth(q) == pytest.approx(expect(4), rel=1e-7)
    step = 1e-4
    numeric = (found.second(q * (1 + step)) - found.second(q * (1 - step))) / (2 * step)
    assert found.growth(q) == pytest.approx(numeric / found.second(q), rel=1e-5)


@pytest.mark.parametrize(
    ("phi", "chi", "growth", "settles"),
    [
        ("relu", 1, 1, 1),
        ("elu", 1.036, 0.891, 0.60),
        ("selu", 1.072, 0.783, 0),
        ("gelu", 1.072, 1.144, 0.76),
        ("silu", 1.067, 1.173, 0.66),
        ("mish", 1.059, 1.076, 0.71),
        ("tanh", 1.178, 0.461, 0),
    ],
)
def test_forward_critical_gains_have_the_known_maps(
    phi: str, chi: float, growth: float, settles: float
) -> None:
    """Figures that were computed apart from this code, by another quadrature."""
    found = kernel(phi)
    gain = 1 / found.second(1.0)
    assert gain * found.slope(1.0) == pytest.approx(chi, abs=6e-4)
    assert found.growth(1.0) == pytest.approx(growth, abs=6e-4)
    end = trajectory(phi, gain, 0.0, 1.0, 0.5, 150)[-1]
    assert end.q == pytest.approx(1.0)
    assert end.correlation == pytest.approx(settles, abs=0.02)


def test_the_boundary_of_order_and_chaos_for_tanh() -> None:
    """Schoenholz et al. 2017: below the critical weight variance correlations go to one, above it
    they settle lower, and the depth scale diverges in between."""
    ordered, chaotic = (trajectory("tanh", weight, 0.05, 1.0, 0.5, 300)[-1] for weight in (1, 2.5))
    assert ordered.correlation > 0.9999
    assert chaotic.correlation < 0.7
    assert ordered.chi < 1 < chaotic.chi
    depths = [correlation_depth("tanh", weight, 0.05) for weight in (1.0, 1.69, 2.5)]
    assert depths[1] > 5 * depths[0]
    assert depths[1] > 5 * depths[2]


@pytest.mark.parametrize(
    ("phi", "weight", "bias", "q", "kind"),
    [
        ("relu", 2.0, 0.0, 1.0, "normal"),
        ("relu", 2.0, 0.0, 1.0, "orthogonal"),
        ("tanh", 2.5362, 0.0, 1.0, "normal"),
        ("gelu", 1.98306, 0.17292, 3.5616, "normal"),
    ],
)
def test_fluctuations_are_those_of_simulated_nets(
    phi: str, weight: float, bias: float, q: float, kind: str
) -> None:
    width, depth, seeds = 64, 8, 600
    rng = np.random.default_rng(0)
    function = kernel(phi).activation.function
    states = math.sqrt(q) * rng.standard_normal((seeds, width))
    if kind == "orthogonal":
        states *= math.sqrt(q * width) / np.linalg.norm(states, axis=1, keepdims=True)
    for _ in range(depth - 1):
        h = function(states)
        drawn = rng.standard_normal((seeds, width))
        lengths = np.linalg.norm(h, axis=1, keepdims=True)
        if kind == "orthogonal":  # a Haar matrix turns h into a direction that is uniform
            drawn *= lengths / np.linalg.norm(drawn, axis=1, keepdims=True)
        else:
            drawn *= lengths / math.sqrt(width)
        states = math.sqrt(weight) * drawn
        states += math.sqrt(bias) * rng.standard_normal((seeds, width))
    spread = np.var(np.log(np.mean(states**2, axis=1)))
    predicted = fluctuation(phi, weight, bias, q, width, depth, kind)
    assert predicted == pytest.approx(spread, rel=0.25)
