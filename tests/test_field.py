"""Closed forms along a draw, against integrals, theory and real starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

import initium
from initium._predict.draw import draw
from initium._predict.field.convolution import backward_squares, forward_squares
from initium._predict.field.fields import Field, Ledger, Piece, apart, means, squares
from initium._predict.field.quadrature import second_moment
from initium._predict.field.rules import ASSUMPTIONS, RULES, Call, rule
from initium._predict.field.views import viewed
from initium._predict.lazy.law import Gaussian, Haar
from initium._predict.measure import CLOSED, SAMPLED
from initium._scheme.meanfield import trajectory

torch.set_num_threads(1)

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "relu6": F.relu6,
    "hardshrink": lambda z: F.hardshrink(z, 0.7),
    "cube": lambda z: z**3 / 5,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.0, 9.0), (-0.7, 0.3), (2.0, 4.0)])
def test_the_second_moment_of_a_function(name: str, mean: float, variance: float) -> None:
    function = FUNCTIONS[name]

    def integrand(z: float) -> float:
        value = float(function(torch.tensor(mean + math.sqrt(variance) * z, dtype=torch.float64)))
        return value**2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    scale = math.sqrt(variance)
    kinks = [(kink - mean) / scale for kink in (-0.7, 0.0, 0.7, 6.0)]
    expected, _ = integrate.quad(integrand, -9, 9, points=kinks, limit=400)
    pair = torch.tensor([mean]), torch.tensor([variance])
    found = float(second_moment(function, pair[0].double(), pair[1].double()))
    assert found == pytest.approx(expected, rel=2e-3)


def test_many_variances_are_interpolated() -> None:
    variances = torch.logspace(-6, 4, 1000, dtype=torch.float64)
    zero = torch.zeros_like(variances)
    exact = torch.cat([second_moment(F.gelu, zero[:1], v[None]) for v in variances])
    torch.testing.assert_close(second_moment(F.gelu, zero, variances), exact, rtol=1e-3, atol=0)
    relu = second_moment(torch.relu, zero, variances)
    torch.testing.assert_close(relu, variances / 2, rtol=1e-9, atol=0)


# What is known of tensors -----------------------------------------------------------------------


def _product(number: int, size: int) -> frozenset[Piece]:
    return frozenset({Piece(number, 0, size)})


VIEWS: list[tuple[Callable[[torch.Tensor], torch.Tensor], tuple[bool, ...] | None]] = [
    (lambda x: x.view(2, 3, 4, 2), (False, False, True, True)),
    (lambda x: x.transpose(1, 2), (False, True, False)),
    (lambda x: x.view(2, 3, 4, 2).transpose(1, 2), (False, True, False, True)),
    (lambda x: x.reshape(6, 8), (False, True)),
    (lambda x: x.reshape(2, 24), None),
    (lambda x: x[:, 0], (False, True)),
    (lambda x: x[:, :, 3], (False, False)),
    (lambda x: x.unsqueeze(2), (False, False, False, True)),
    (lambda x: x[:, None].expand(2, 5, 3, 8), (False, False, False, True)),
]


@pytest.mark.parametrize(("look", "channels"), VIEWS)
def test_the_channels_of_a_view(
    look: Callable[[torch.Tensor], torch.Tensor], channels: tuple[bool, ...] | None
) -> None:
    field = Field((False, False, True), _product(1, 8), gaussian=True)
    found = viewed(field, torch.Size((2, 3, 8)), look)
    assert found.channels == channels
    assert found.tier == (SAMPLED if channels is None else CLOSED)


@pytest.mark.parametrize(
    ("look", "piece"),
    [
        (lambda x: x[..., 2:5], Piece(1, 2, 5)),
        (lambda x: x.chunk(2, -1)[1], Piece(1, 4, 8)),
        (lambda x: x.transpose(0, 2)[6:], Piece(1, 6, 8)),
        (lambda x: x[:, 1:], Piece(1, 0, 8)),
        (lambda x: x[..., ::2], Piece(1, 0, 7)),
        (lambda x: x.view(2, 3, 2, 4)[:, :, 1], Piece(1, 4, 8)),
    ],
)
def test_the_pieces_of_a_slice(look: Callable[[torch.Tensor], torch.Tensor], piece: Piece) -> None:
    field = Field((False, False, True), _product(1, 8))
    assert viewed(field, torch.Size((2, 3, 8)), look).pieces == {piece}


def test_pieces_that_overlap_are_not_independent() -> None:
    def of(*pieces: Piece) -> Field:
        return Field((True,), frozenset(pieces))

    assert apart(of(Piece(1, 0, 4)), of(Piece(1, 4, 8)))
    assert not apart(of(Piece(1, 0, 5)), of(Piece(1, 4, 8)))
    assert apart(of(Piece(1, 0, 5)), of(Piece(2, 0, 5)))
    assert not apart(of(Piece(1, 0, 5), Piece(3, 0, 2)), of(Piece(2, 0, 5), Piece(3, 1, 2)))
    assert not apart(of(), of(Piece(1, 0, 1)))  # unknown


def test_a_ledger_knows_memory_and_what_was_written() -> None:
    ledger, x = Ledger(), torch.zeros(4, 3)
    ledger.put(x, Field((False, True)))
    assert ledger.get(x.detach()) == Field((False, True))
    assert ledger.get(x.T) is None
    ledger.written(x[0], frozenset({Piece(1, 0, 2)}))
    assert ledger.get(x) == Field(None, frozenset({Piece(1, 0, 2)}), SAMPLED)
    assert ledger.get(x[1:]) == ledger.get(x)
    for _ in range(2000):
        ledger.put(torch.zeros(2), Field((True,)))
    assert len(ledger._held) < 1000


def test_moments_by_position() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    field = Field((False, False, True))
    np.testing.assert_allclose(squares(x, field)[..., 0], (x.numpy() ** 2).mean(-1), rtol=1e-6)
    np.testing.assert_allclose(means(x + 100, field)[..., 0], (x.numpy() + 100).mean(-1))
    assert not means(torch.tensor([[1.0, -1.0, 2.0, -1.9]]), Field((False, True))).any()


# Laws and operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_an_even_law_keeps_lengths_and_angles(side: int) -> None:
    law = Gaussian(300, 200, torch.Generator().manual_seed(0), torch.float64, even=True)
    x = torch.randn(20, law.sizes[side], dtype=torch.float64)
    y = law.product(x, side)
    torch.testing.assert_close(y @ y.T, law.sizes[1 - side] * (x @ x.T))
    u = torch.randn(5, law.sizes[1 - side], dtype=torch.float64)
    torch.testing.assert_close(law.product(u, 1 - side) @ x.T, u @ y.T)  # W and its transpose


def test_the_variance_of_a_law_is_that_of_its_elements() -> None:
    for law in (Gaussian, Haar):
        made = law(60, 90, torch.Generator().manual_seed(1), torch.float64)
        assert float(made.whole().square().mean()) == pytest.approx(made.variance, rel=0.05)


SETTINGS = [
    ([1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ([2, 2], [1, 0], [1, 1], False, [0, 0], 1),
    ([1, 1], [2, 2], [2, 2], False, [0, 0], 2),
    ([2, 1], [1, 1], [1, 1], True, [1, 0], 1),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_a_convolution_gives_to_each_position(settings: tuple[Any, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    groups, transposed = settings[-1], settings[3]
    x = torch.randn(2, 4, 6, 5, generator=generator) * torch.arange(1.0, 6)
    shape = (4, 6 // groups, 3, 3) if transposed else (6, 4 // groups, 3, 3)
    profile = torch.tensor([[0.0, 1, 0], [1, 2, 1], [0, 0.5, 0]])
    forward, backward = [], []
    gradient = None
    for _ in range(600):
        weight = torch.randn(shape, generator=generator) * profile
        y = torch.ops.aten.convolution(x, weight, None, *settings)
        if gradient is None:
            gradient = torch.randn(y.shape, generator=generator)
        back = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *settings, [True, False, False]
        )[0]
        forward.append(y.square().mean(1, keepdim=True))
        backward.append(back.square().mean(1, keepdim=True))
    taps = profile.double().square()[None, None]
    assert gradient is not None
    found = forward_squares(x, shape, taps, (None, *settings))
    torch.testing.assert_close(found.float(), torch.stack(forward).mean(0), rtol=0.25, atol=0.05)
    found = backward_squares(gradient, x, shape, taps, (*settings, [True, False, False]))
    torch.testing.assert_close(found.float(), torch.stack(backward).mean(0), rtol=0.25, atol=0.05)


# Whole models -----------------------------------------------------------------------------------

ACTIVATIONS = ["ReLU", "GELU", "SiLU", "Tanh", "ELU", "Hardswish", "Mish", "Softplus", "PReLU"]


def _plain(act: str, width: int, depth: int) -> nn.Sequential:
    layers = [(nn.Linear(width, width, bias=False), getattr(nn, act)()) for _ in range(depth)]
    return nn.Sequential(*(module for pair in layers for module in pair))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_plain_net_follows_the_recursion(act: str) -> None:
    """q -> C_W E[phi^2] forward and g -> C_W E[phi'^2] backward, by the theory's own code."""
    width, depth = 96, 12
    model = _plain(act, width, depth)
    inputs = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    inputs /= inputs.square().mean(1, keepdim=True).sqrt()
    found = draw(model, initium.plan(model, "he", inputs), inputs, closed=True)
    first = found.layers["0"].second_moment
    name = {"PReLU": "prelu(0.25)"}.get(act, act.lower())
    theory = trajectory(name, first, 0.0, first, 0.0, depth)
    for number, layer in enumerate(theory):
        moments = found.layers[str(2 * number)]
        assert moments.tier == CLOSED
        assert moments.second_moment == pytest.approx(layer.q, rel=2e-3)
        if number and act != "PReLU":
            before = found.layers[str(2 * number - 2)]
            assert before.grad_second_moment is not None
            assert moments.grad_second_moment is not None
            ratio = before.grad_second_moment / moments.grad_second_moment
            assert ratio == pytest.approx(theory[number - 1].chi, rel=0.02)


class Gated(nn.Module):
    """A residual net of gated branches behind norms that are written out by hand."""

    def __init__(self, width: int = 128, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.embed = nn.Embedding(50, width)
        self.up = nn.ModuleList(nn.Linear(width, 4 * width, bias=False) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for up, down in zip(self.up, self.down, strict=True):
            z = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            gate, value = up(z).chunk(2, -1)
            x = x + down((gate * torch.sigmoid(gate)) * value)  # SiLU by hand
        return x


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.stem(x))
        for conv in self.body:
            x = x + F.gelu(conv(x))
        y: torch.Tensor = self.head(F.avg_pool2d(x, 8).flatten(1))
        return y


IDS = torch.arange(24).reshape(2, 12) % 50
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, float]] = {
    "gated": (Gated, IDS, 1.0),
    "conv": (Conv, IMAGES, 0.4),
    "transformer": (lambda: nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),
                    torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(1)), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_mean_of_real_starts(name: str) -> None:
    build, inputs, share = MODELS[name]
    model = build()
    plan = initium.plan(model, "auto", inputs)
    found = draw(model, plan, inputs, closed=True)
    tiers = [layer.tier for layer in found.layers.values()]
    assert tiers.count(CLOSED) >= share * len(tiers)
    forward: dict[str, list[float]] = {layer: [] for layer in found.layers}
    backward: dict[str, list[float]] = {layer: [] for layer in found.layers}
    for seed in range(12):
        replace(plan, seed=seed).apply(model)
        report = initium.check(model, inputs)
        for layer in forward:
            forward[layer].append(report.layers[layer].second_moment)
            backward[layer].append(report.layers[layer].grad_second_moment or 0.0)
    for layer, moments in found.layers.items():
        for values, predicted, goal in (
            (forward[layer], moments.second_moment, 0.06),
            (backward[layer], moments.grad_second_moment or 0.0, 0.2),
        ):
            error = np.std(values) / math.sqrt(len(values))
            assert abs(predicted - np.mean(values)) < goal * np.mean(values) + 4 * error, layer


def test_a_tied_head_knows_its_own_tokens() -> None:
    """The logit of the token that was read is x.x, not the sum of independent products."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(300, 128)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.linear(self.embed(ids), self.embed.weight)

    model = Tied()
    plan = initium.plan(model, "normal(0.2)", IDS)
    found = draw(model, plan, IDS, targets=IDS, closed=True)
    real = []
    for seed in range(20):
        replace(plan, seed=seed).apply(model)
        real.append(float(F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).detach()))
    assert found.loss == pytest.approx(np.mean(real), abs=4 * np.std(real))


def test_a_rule_of_ones_own() -> None:
    """An operator without a rule is sampled; with one it is what the rule says."""
    plain = nn.Sequential(nn.Linear(64, 64), nn.Softmax(-1), nn.Linear(64, 64))
    inputs = torch.ones(2, 64)
    plan = initium.plan(plain, "he", inputs)
    operator = torch.ops.aten._softmax.default
    assert draw(plain, plan, inputs, closed=True).layers["2"].tier == SAMPLED
    before = dict(RULES), dict(ASSUMPTIONS)
    try:

        @rule([operator], assumes="nothing, for a test")
        def told(call: Call) -> Field | None:
            return call.field(call.args[0])

        assert draw(plain, plan, inputs, closed=True).layers["2"].tier == CLOSED
        assert ASSUMPTIONS["told"] == "nothing, for a test"
    finally:
        for table, old in zip((RULES, ASSUMPTIONS), before, strict=True):
            table.clear()
            table.update(old)  # type: ignore[arg-type]


def test_closed_forms_alone() -> None:
    model = _plain("ReLU", 64, 3)
    inputs = torch.ones(2, 64)
    plan = initium.plan(model, "he", inputs)
    found = initium.predict(model, plan, inputs, draws=0)
    layer = found.layers["4"]
    assert (layer.second_moment, layer.band, layer.tier) == (layer.closed, None, CLOSED)
    assert layer.closed == pytest.approx(2.0, rel=1e-3)
    assert "predicted from closed forms" in str(found)
    with pytest.raises(initium.InputError, match="at least 3, or 0"):
        initium.predict(model, plan, inputs, draws=2)


def test_a_closed_form_that_departs_from_draws_is_said() -> None:
    """Sixty layers of width 16: single starts lie far below the mean."""
    model = _plain("ReLU", 16, 60)
    inputs = torch.ones(2, 16)
    found = initium.predict(model, initium.plan(model, "he", inputs), inputs, draws=6)
    assert found.layers["118"].closed == pytest.approx(2.0, rel=0.01)
    assert found.layers["118"].second_moment < 1


def test_a_few_biases_count_as_planned() -> None:
    """The output of a layer is its bias alone here, and the same for every seed."""
    layer = nn.Linear(8, 12)
    plan = initium.plan(layer, "torch", torch.zeros(2, 8))
    found = [
        draw(layer, plan, torch.zeros(2, 8), seed=seed, closed=True).layers[""].second_moment
        for seed in range(2)
    ]
    assert found == pytest.approx([1 / (3 * 8)] * 2, rel=1e-5)


def test_mirrored_units_are_not_independent() -> None:
    """Looks-linear convolutions keep the signal; the rule for independent ones does not hold."""
    convs = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.GELU()) for _ in range(40)]
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GELU(), *convs, nn.Conv2d(16, 4, 1))
    plan = initium.plan(model, "auto", IMAGES)
    assert "mirrored" in str(plan.entries["20.0.weight"].spec)
    found = draw(model, plan, IMAGES, closed=True)
    plan.apply(model)
    measured = initium.check(model, IMAGES)
    for name in ("10.0", "40.0"):
        real = measured.layers[name].second_moment
        assert found.layers[name].second_moment == pytest.approx(real, rel=0.5)


def test_a_cross_entropy_starts_a_closed_form_backward() -> None:
    """The factor per layer is chi = C_W / 2 from the loss down, with no noise in it."""
    model = nn.Sequential(_plain("ReLU", 64, 6), nn.Linear(64, 10, bias=False))
    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, "normal(0.25)", inputs)  # C_W = 64 / 16 = 4, chi = 2
    found = draw(model, plan, inputs, targets=torch.arange(8), closed=True).layers
    assert {layer.grad_tier for layer in found.values()} == {CLOSED}
    gradients = [found[f"0.{number}"].grad_second_moment or 0.0 for number in range(0, 12, 2)]
    ratios = [before / after for before, after in pairwise(gradients)]
    assert ratios == pytest.approx([2.0] * 5, rel=1e-3)


class Two(nn.Module):
    """Two products of one input, and something made of them."""

    def __init__(self, made: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.made = made
        self.a, self.b = (nn.Linear(32, 64, bias=False) for _ in range(2))
        self.last = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.made(self.a(x), self.b(x)))
        return y


def _in_place(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * 1).add_(b) + a


def _gated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * 1).mul_(torch.sigmoid(b))


SIGMOID = 0.293379  # E[sigmoid(z)^2], z of variance 1
TRICKY: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], float, str]] = {
    "in place": (_in_place, 5.0, SAMPLED),  # E[(2a + b)^2]
    "gated in place": (_gated, SIGMOID, CLOSED),
    "relu in place": (lambda a, b: F.relu_(a * 1), 0.5, CLOSED),
    "mask": (lambda a, b: a * (a > 0), 0.5, SAMPLED),
    "filled": (lambda a, b: a.masked_fill(a < 0, 0.0) ** 2, 1.5, SAMPLED),
    "where": (lambda a, b: torch.where(a > 0, a, torch.zeros(())) ** 2, 1.5, SAMPLED),
    "constant matrix": (lambda a, b: a + F.linear(a, torch.eye(64)), 4.0, SAMPLED),
    "constant on the left": (lambda a, b: a + torch.eye(16) @ a, 4.0, SAMPLED),
    "chosen channels": (lambda a, b: a[:, torch.arange(32)] + a[:, torch.arange(32)], 4.0, SAMPLED),
    "list": (lambda a, b: torch._foreach_mul([a], 2.0)[0], 4.0, SAMPLED),
}


@pytest.mark.parametrize("name", TRICKY)
def test_what_depends_on_itself(name: str) -> None:
    made, expected, tier = TRICKY[name]
    model, inputs = Two(made), torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    inputs /= inputs.square().mean(1, keepdim=True).sqrt()
    plan = initium.plan(model, f"normal({32**-0.5})", inputs)
    found = [draw(model, plan, inputs, closed=True, seed=s).layers["last"] for s in range(16)]
    assert {one.tier for one in found} == {tier}
    tolerance = 0.03 if tier == CLOSED else 0.12
    mean = sum(one.second_moment for one in found) / 16
    assert mean == pytest.approx(expected, rel=tolerance)


class Gated(nn.Module):
    """A fused weight, its halves in a gate, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.gate = nn.Linear(32, 512, bias=False), nn.GLU(-1)
        self.head = nn.Linear(256, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.gate(self.both(x)))
        return y


def test_gated_linear_units() -> None:
    inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    inputs /= inputs.square().mean(1, keepdim=True).sqrt()
    targets = torch.arange(16) % 10
    model = Gated()
    rules = {"head.weight": "normal(0.01)"}
    plan = initium.plan(model, f"normal({32**-0.5})", inputs, rules=rules)
    found = draw(model, plan, inputs, targets=targets, closed=True).layers
    gate, both = found["gate"], found["both"]
    assert (gate.tier, gate.grad_tier, both.grad_tier) == (CLOSED, CLOSED, CLOSED)
    assert gate.second_moment == pytest.approx(SIGMOID, rel=1e-4)
    assert gate.grad_second_moment
    assert both.grad_second_moment
    slope = second_moment(lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z)), ZERO, ONE)
    expected = (SIGMOID + float(slope)) / 2  # of both halves
    assert both.grad_second_moment / gate.grad_second_moment == pytest.approx(expected, rel=1e-3)


ZERO, ONE = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)


class Tied(nn.Module):
    """A head that is the embedding, of a vocabulary that is seen as a whole."""

    def __init__(self, tokens: int = 40, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(self.embed(ids)), self.embed.weight)


def test_a_tied_table_is_as_long_as_another() -> None:
    """Of more tokens than it is wide, too; products of it with anything else are sampled."""
    ids = torch.arange(200)[None]
    model = Tied(500, 16)
    plan = initium.plan(model, "normal(0.1)", ids)
    for seed in range(3):
        embed = draw(model, plan, ids, closed=True, seed=seed).layers["embed"]
        assert (embed.tier, embed.second_moment) == (CLOSED, pytest.approx(0.01, rel=1e-5))


class Autoencoder(nn.Module):
    """Back by the transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(64, 64, bias=False), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.end(torch.relu(self.layer(x)) @ self.layer.weight)
        return y


def test_a_product_whose_length_is_random_says_so() -> None:
    model, x = Autoencoder(), 1 + 0.1 * torch.randn(16, 64, generator=torch.Generator())
    found = draw(model, initium.plan(model, "normal(0.125)", x), x, closed=True)
    assert {one.tier for one in found.layers.values()} == {SAMPLED}


class Broadcast(nn.Module):
    """Adds a zero that has more dimensions than the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x) + torch.zeros(1, 1))


def test_a_zero_of_higher_rank_adds_dimensions() -> None:
    model, x = Broadcast(), torch.ones(64)
    plan = initium.plan(model, "normal(0.1)")
    assert draw(model, plan, x, closed=True).layers[""].shape == (1, 64)


def test_a_tied_head_meets_other_tokens_too() -> None:
    model, ids = Tied(), torch.arange(40)[None]
    plan = initium.plan(model, "normal(1)", ids)
    made = [draw(model, plan, ids, closed=True, seed=seed).layers for seed in range(6)]
    assert {one["embed"].tier for one in made} == {CLOSED}
    assert {one[""].tier for one in made} == {SAMPLED}
    assert made[0]["embed"].second_moment == pytest.approx(1.0, rel=1e-5)
    mean = sum(one[""].second_moment for one in made) / 6
    assert mean == pytest.approx((64**2 + 39 * 64) / 40, rel=0.04)  # itself, and all the others


def test_what_a_function_gave_is_let_go() -> None:
    gone: list[bool] = []

    class Power(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(512, 512, device="meta")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                powers = self.layer(x).pow(2)
                storage = StorageWeakRef(powers.untyped_storage())
                mean = powers.mean(-1)
                del powers
                gone.append(storage.expired())
            return mean

    model = Power()
    found = draw(model, initium.plan(model, "torch"), torch.ones(4, 512), closed=True)
    assert gone[-1]
    assert found.layers[""].tier == CLOSED


def test_a_rule_that_raises_leaves_a_sample() -> None:
    operator = torch.ops.aten.tanh.default
    model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 300))
    plan = initium.plan(model, "torch")
    try:

        @rule([operator], assumes="nothing, for a test")
        def broken(call: Call) -> Field | None:
            raise ZeroDivisionError

        found = draw(model, plan, torch.ones(4, 300), closed=True)
    finally:
        del RULES[operator], ASSUMPTIONS["broken"]
    assert [found.layers[name].tier for name in "012"] == [CLOSED, SAMPLED, SAMPLED]


class Apply(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("name", ["log", "exp"])
def test_a_signal_that_is_lost_is_missing_from_there_on(name: str, closed: bool) -> None:
    lose = {"log": torch.log, "exp": lambda x: torch.exp(1e30 * x)}[name]
    model = nn.Sequential(nn.Linear(300, 300), Apply(lose), nn.Linear(300, 30))
    plan = initium.plan(model, "torch")
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    found = draw(model, plan, x, targets=torch.arange(8), closed=closed)
    assert found.loss is not None
    assert math.isnan(found.loss)
    assert math.isfinite(found.layers["0"].second_moment)
    assert math.isnan(found.layers["2"].second_moment)


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "mul_": lambda x: x.mul_(3),
    "copy_": lambda x: x.copy_(torch.zeros_like(x)),
    "a part": lambda x: x[:, :200].zero_(),
    "nothing": lambda x: x,
}


@pytest.mark.parametrize("name", WRITES)
def test_a_function_keeps_its_law_when_its_operand_is_written_to(name: str) -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(300, 400)
            self.after = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x)
            found = torch.relu(hidden)
            WRITES[name](hidden)
            return self.after(found + 1)

    model = Overwritten()
    plan = initium.plan(model, "he")
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    closed, drawn = (
        draw(model, plan, x, closed=closed).layers["after"] for closed in (True, False)
    )
    assert closed.second_moment == pytest.approx(drawn.second_moment, rel=0.15)


class Token(nn.Module):
    """A class token and places that are kept, and alike."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 128))
        self.places = nn.Parameter(self.token.detach().repeat(1, 9, 1) / 2)
        self.patch = nn.Linear(48, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x)], 1)
        return (x + self.places)[:, 0]


def test_a_sum_of_kept_values_is_what_it_is() -> None:
    torch.manual_seed(0)
    net, batch = Token(), torch.randn(2, 8, 48)
    found = initium.predict(net, initium.plan(net, "torch", inputs=batch), batch, draws=0)
    expected = float(net(batch).detach().square().mean())
    assert found.layers[""].second_moment == pytest.approx(expected, rel=1e-4)


class Narrow(nn.Module):
    """The square of a product with few outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.product = nn.Linear(64, outputs, bias=False)
        self.halves, self.out = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.halves(self.product(x)).chunk(2, -1)
        return self.out(left * right)


@pytest.mark.parametrize("outputs", [4, 16])
def test_elements_of_a_narrow_product_are_normal(outputs: int) -> None:
    torch.manual_seed(0)
    net, batch = Narrow(outputs), torch.randn(16, 64)
    plan = initium.plan(net, "normal(0.125)", inputs=batch)
    made = [initium.predict(net, plan, batch, draws=0, seed=seed).layers for seed in range(16)]
    power = batch.square().mean(1)
    assert made[0]["halves"].second_moment == pytest.approx(float(power.mean()), rel=1e-5)
    found = torch.tensor([layers["out"].second_moment for layers in made])
    expected = float(power.square().mean())
    error = float(found.std()) / len(made) ** 0.5
    assert float(found.mean()) == pytest.approx(expected, abs=3 * error)
    assert error < 0.08 * expected
