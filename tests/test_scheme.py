"""Activations, gains and schemes against SciPy's quadrature, torch's autograd and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.nn import functional as F

from initium._scheme import schemes
from initium._scheme.activations import ACTIVATIONS, ALIASES, NOT_ELEMENTWISE, activation
from initium._scheme.gains import backward_gain, forward_gain, moments_of
from initium.errors import RecipeError
from initium.spec import Normal, TruncatedNormal, Uniform

TORCH = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "leaky_relu(0.2)": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "rrelu(0.2, 0.6)": lambda x: F.rrelu(x, 0.2, 0.6, training=False),
    "elu": F.elu,
    "elu(0.5)": lambda x: F.elu(x, 0.5),
    "celu": F.celu,
    "celu(0.5)": lambda x: F.celu(x, 0.5),
    "celu(0.02)": lambda x: F.celu(x, 0.02),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu('tanh')": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus(beta=5, threshold=4)": lambda x: F.softplus(x, 5, 4),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "hardtanh(-0.5, 2)": lambda x: F.hardtanh(x, -0.5, 2.0),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "softshrink(0.1)": lambda x: F.softshrink(x, 0.1),
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "threshold(0.3, -1)": lambda x: F.threshold(x, 0.3, -1.0),
    "relu_squared": lambda x: F.relu(x) ** 2,
    "sin": torch.sin,
    "sin(30)": lambda x: torch.sin(30 * x),
    "cos": torch.cos,
}

# research table: forward gain, backward gain
KNOWN = {
    "relu": (2.0, 2.0),
    "leaky_relu": (1.9998, 1.9998),
    "prelu": (1.8824, 1.8824),
    "elu": (1.5505, 1.4968),
    "celu(0.5)": (1.7713, 1.6823),
    "selu": (1.0000, 0.9332),
    "gelu": (2.3517, 2.1937),
    "gelu_tanh": (2.3519, 2.1939),
    "silu": (2.8108, 2.6352),
    "mish": (2.2107, 2.0873),
    "hardswish": (3.0160, 2.7892),
    "hardtanh": (1.9378, 1.4648),
    "tanh": (2.5362, 2.1533),
    "softsign": (5.4641, 4.3923),
    "softplus": (1.0855, 3.4086),
    "sigmoid": (3.4086, 22.303),
}


def test_every_activation_has_an_oracle():
    covered = {activation(text).name.split("(")[0] for text in TORCH}
    assert covered == set(ACTIVATIONS)
    assert set(ALIASES.values()) <= set(ACTIVATIONS)


@pytest.mark.parametrize("text", TORCH)
def test_function_and_derivative_are_torchs(text):
    phi = activation(text)
    points = torch.linspace(-9.03, 9.07, 401, dtype=torch.float64, requires_grad=True)
    expected = TORCH[text](points)
    (slope,) = torch.autograd.grad(expected.sum(), points)
    values = points.detach().numpy()
    np.testing.assert_allclose(phi(values), expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(phi.derivative(values), slope.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", TORCH)
def test_moments_are_scipys(text):
    phi = activation(text)
    edges = [-10.0, *(kink for kink in phi.kinks if abs(kink) < 10), 10.0]

    def expected(function):
        return sum(
            integrate.quad(
                lambda z: float(function(np.array([z]))[0]) ** 2 * stats.norm.pdf(z),
                low,
                high,
                limit=400,
                epsabs=1e-11,
            )[0]
            for low, high in pairwise(edges)
        )

    assert moments_of(text) == pytest.approx(
        (expected(phi.function), expected(phi.derivative)), rel=1e-7
    )


@pytest.mark.parametrize("text", KNOWN)
def test_gains_are_those_of_the_table(text):
    assert (forward_gain(text), backward_gain(text)) == pytest.approx(KNOWN[text], rel=5e-5)


@pytest.mark.parametrize("text", ["relu", "leaky_relu(0.3)", "identity"])
def test_where_torch_derives_its_gain_it_is_the_root_of_ours(text):
    name = {"identity": "linear"}.get(text, text.split("(")[0])
    told = torch.nn.init.calculate_gain(name, 0.3 if "leaky" in text else None)
    assert forward_gain(text) == pytest.approx(told**2)


def test_divergence_from_torch_is_as_documented():
    assert torch.nn.init.calculate_gain("tanh") == 5 / 3
    assert math.sqrt(forward_gain("tanh")) == pytest.approx(1.5926, abs=1e-4)
    assert torch.nn.init.calculate_gain("selu") == 3 / 4
    assert forward_gain("selu") == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("swish", "silu"),
        ("LeakyReLU", "leaky_relu"),
        ("new_gelu", "gelu_tanh"),
        ("ReLU6", "relu6"),
        ("linear", "identity"),
        ("leaky_relu(negative_slope=0.01)", "leaky_relu"),
        ("leaky_relu(0.2)", "leaky_relu(0.2)"),
    ],
)
def test_names_and_aliases(text, name):
    assert activation(text).name == name
    assert activation(name).name == name


@given(st.floats(0.001, 50))
def test_celu_is_smooth_in_alpha(alpha):
    low, high = moments_of(f"celu({alpha!r})"), moments_of(f"celu({alpha * 1.0001!r})")
    assert low == pytest.approx(high, rel=1e-3)
    assert 0.5 <= low[0] <= 1.0


@pytest.mark.parametrize("name", NOT_ELEMENTWISE)
def test_activations_that_mix_elements_say_what_to_use(name):
    with pytest.raises(RecipeError, match=rf"{name} has no gain: .*(use|such as) \w+"):
        forward_gain(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relo", "is not a known activation.*did you mean relu"),
        ("elu(1, 2)", "elu does not take these arguments"),
        ("celu(-1)", "alpha -1 is not positive"),
        ("elu('a')", "elu takes finite numbers"),
        ("elu(inf)", "elu takes finite numbers"),
        ("hardtanh(2, 1)", "2 is above 1"),
        ("gelu('erf')", "approximate is none or tanh"),
        ("1 + 1", "is not the text of an activation.*Fix: write a name such as relu"),
        ("threshold(50, 0)", "output of this activation is zero.*Fix: choose another"),
    ],
)
def test_what_is_wrong_with_an_activation_is_said(text, message):
    with pytest.raises(RecipeError, match=message):
        forward_gain(text)


# Schemes ----------------------------------------------------------------------------------------


@given(
    scale=st.floats(0.01, 100),
    fan=st.floats(0.5, 1e6),
    distribution=st.sampled_from(schemes.DISTRIBUTIONS),
)
def test_variance_scaling_achieves_its_variance(scale, fan, distribution):
    spec = schemes.variance_scaling(scale, fan, distribution)
    moments = spec.moments((4, 4))
    assert moments.mean == pytest.approx(0, abs=1e-12)
    assert moments.std**2 == pytest.approx(scale / fan, rel=1e-6)
    kinds = {"normal": Normal, "uniform": Uniform, "truncated": TruncatedNormal}
    assert isinstance(spec, kinds[distribution])


@pytest.mark.parametrize(
    ("spec", "fill"),
    [
        (schemes.xavier(300, 500), torch.nn.init.xavier_uniform_),
        (schemes.xavier(300, 500, distribution="normal"), torch.nn.init.xavier_normal_),
        (
            schemes.he(300, 500),
            lambda t: torch.nn.init.kaiming_normal_(t, nonlinearity="relu"),
        ),
        (
            schemes.he(300, 500, "fan_out", "uniform", "leaky_relu(0.3)"),
            lambda t: torch.nn.init.kaiming_uniform_(t, a=0.3, mode="fan_out"),
        ),
        (
            schemes.kaiming_uniform(300),
            lambda t: torch.nn.init.kaiming_uniform_(t, a=math.sqrt(5)),
        ),
        (schemes.orthogonal(2.0), lambda t: torch.nn.init.orthogonal_(t, gain=2.0)),
        (schemes.sparse(0.9, 0.1), lambda t: torch.nn.init.sparse_(t, 0.9, 0.1)),
    ],
    ids=["xavier_uniform", "xavier_normal", "he", "he_out", "a_sqrt5", "orthogonal", "sparse"],
)
def test_schemes_have_the_std_and_bounds_of_torchs(spec, fill):
    torch.manual_seed(0)
    drawn = fill(torch.empty(500, 300)).double()
    moments = spec.moments((500, 300))
    assert drawn.std().item() == pytest.approx(moments.std, rel=0.02)
    if isinstance(spec, Uniform):
        assert drawn.max().item() == pytest.approx(spec.high, rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (schemes.lecun(100), "normal(0.1)"),
        (schemes.small_init(1000), "normal(0.02)"),
        (schemes.wang_init(400, 2), "normal(0.05)"),
        (schemes.delta_orthogonal(2.0, 4), "delta_orthogonal(gain=2, groups=4)"),
        (schemes.dirac(groups=2), "dirac(groups=2)"),
        (schemes.identity(0.5), "identity(gain=0.5)"),
        (schemes.orthogonal(1.0, (1,), (0,)), "orthogonal(outputs=(1,), batch=(0,))"),
    ],
)
def test_thin_schemes(spec, text):
    assert str(spec) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: schemes.he(2, 2, "fan_inn"),
            "mode: is not a fan mode.*choose from fan_in, fan_out",
        ),
        (
            lambda: schemes.lecun(2, "gauss"),
            "distribution: .*choose from normal, uniform, truncated",
        ),
        (lambda: schemes.lecun(0), "fan: a fan must be positive"),
        (lambda: schemes.variance_scaling(-1, 2), "scale must be finite and not negative"),
    ],
)
def test_what_is_wrong_with_a_scheme_is_said(call, message):
    with pytest.raises(RecipeError, match=message):
        call()
