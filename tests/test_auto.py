"""``auto`` against simulation, closed forms and networks that are run."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F
from views import model as handmade
from views import tiny_gpt

import initium
from initium import demo
from initium._plan import plan_model
from initium._scheme.activations import ACTIVATIONS, activation
from initium._scheme.meanfield import fluctuation, trajectory
from initium._scheme.points import at, odd_slope, second, small_start, unit_point
from initium.recipes import _streams
from initium.recipes._chains import chains, spread
from initium.recipes._notes import pooled_ends
from initium.recipes._signal import post_norm_trunks, signals
from initium.spec import Constant, DeltaOrthogonal, Mirrored, Normal, Orthogonal


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def unit(*shape: int) -> torch.Tensor:
    """Inputs whose second moment is one for every sample."""
    x = torch.randn(shape)
    return x / x.square().mean(tuple(range(1, len(shape))), keepdim=True).sqrt()


def plain(make, depth: int, width: int, inputs: int = 16, classes: int = 10) -> nn.Sequential:
    sizes = [inputs] + [width] * (depth - 1)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), make()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def outputs(net: nn.Module, x: torch.Tensor, kinds=(nn.Linear, nn.Conv2d)) -> list[torch.Tensor]:
    """What every product puts out, with gradients of a random cotangent."""
    held: list[torch.Tensor] = []

    def keep(module, args, output):
        output.retain_grad()
        held.append(output)

    hooks = [one.register_forward_hook(keep) for one in net.modules() if isinstance(one, kinds)]
    made = net(x)
    made.backward(torch.randn_like(made))
    for hook in hooks:
        hook.remove()
    return held


# Working points ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phi", ["relu", "leaky_relu(0.2)", "elu", "selu", "gelu", "silu", "mish", "softplus"]
)
def test_unbounded_activations_keep_a_second_moment_of_one(phi):
    z = np.linspace(-12, 12, 400_001)
    found = trapezoid(activation(phi)(math.sqrt(unit_point(phi)) * z) ** 2 * norm.pdf(z), z)
    assert found == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("phi", ["tanh", "sigmoid", "hardtanh", "softsign", "custom (frac)", None])
def test_what_cannot_reach_one_stays_at_unit_outputs(phi):
    assert unit_point(phi) == 1.0


def test_an_activation_without_a_name_is_known_at_one():
    assert at("custom (frac)", 1.0) is None
    assert second("custom (frac)", 1.0, 4.0) == 0.25


@given(st.sampled_from(sorted(set(ACTIVATIONS) - {"threshold"})), st.floats(-4, 4))
def test_an_odd_slope_is_one_of_every_point(phi, x):
    slope = odd_slope(phi)
    both = activation(phi)(np.array([x, -x]))
    odd = float(both[0] - both[1])
    if slope is not None:
        assert odd == pytest.approx(slope * x, abs=2e-3)
    else:
        assert phi not in ("relu", "gelu", "silu", "hardswish", "prelu", "softplus")


@pytest.mark.parametrize("phi", ["tanh", "elu", "mish", "hardtanh", "softsign", "sin"])
@pytest.mark.parametrize("layers", [10, 300])
def test_a_small_start_keeps_the_gradient_of_a_deep_net(phi, layers):
    start, weight = small_start(phi, layers)
    path = trajectory(phi, weight, 0.0, start, 0.0, layers)
    assert 0.5 < math.prod(layer.chi for layer in path) < 2


@pytest.mark.parametrize("phi", ["sigmoid", "softplus", "cos", "relu_squared", "hardshrink"])
def test_no_small_start_without_a_slope_at_zero(phi):
    assert small_start(phi, 10) is None


def test_the_small_start_of_tanh_is_that_of_theory():
    # K_l = K_0 / (1 + 2 K_0 l), and the gradient falls by 1 / (1 + 2 K_0 L): 1.6 at 0.3 / L.
    start, weight = small_start("tanh", 1000)
    assert weight == pytest.approx(1.0)
    assert 0.15 / 1000 < start <= 0.3 / 1000


@pytest.mark.parametrize(
    ("phi", "weights"), [("relu", "normal"), ("gelu", "normal"), ("tanh", "orthogonal")]
)
def test_the_spread_of_equal_layers_is_the_fluctuation(phi, weights):
    q = unit_point(phi)
    gain = q / second(phi, q)
    known = fluctuation(phi, gain, 0.0, q, 100, 8, weights)
    first = 0.0 if weights == "orthogonal" else 2 / 100
    mine = spread([phi] * 7, [q] * 7, [100] * 8, weights)
    assert mine - first == pytest.approx(known - first, rel=1e-6)


def test_the_spread_of_unequal_layers_is_that_of_a_simulation():
    widths, seeds = [40, 80, 60, 40], 1500
    random = np.random.default_rng(0)
    found = np.empty(seeds)
    for seed in range(seeds):
        x = np.ones(32)
        for place, width in enumerate(widths):
            x = random.normal(0, math.sqrt((2 if place else 1) / len(x)), (width, len(x))) @ x
            found[seed] = math.log(np.mean(x**2))
            x = np.maximum(x, 0)
    assert found.var() == pytest.approx(spread(["relu"] * 3, [2.0] * 3, widths), rel=0.15)


# Plain nets --------------------------------------------------------------------------------------

STARTS = [
    (nn.ReLU, 5, 256, Normal),
    (nn.ReLU, 30, 64, Mirrored),
    (nn.ReLU, 3, 8, Normal),
    (nn.GELU, 12, 32, Mirrored),
    (nn.PReLU, 12, 32, Mirrored),
    (nn.Tanh, 5, 256, Normal),
    (nn.Tanh, 20, 32, Orthogonal),
    (nn.Mish, 20, 32, Orthogonal),
    (nn.ReLU, 20, 63, Orthogonal),
    (nn.Sigmoid, 12, 32, Normal),
    (nn.Identity, 20, 32, Orthogonal),
]


@pytest.mark.parametrize(("make", "depth", "width", "kind"), STARTS)
def test_how_a_plain_net_starts(make, depth, width, kind):
    plan = initium.plan(plain(make, depth, width), inputs=unit(2, 16))
    assert isinstance(plan.entries["2.weight"].spec, kind)


def test_gaussian_up_to_a_spread_of_a_quarter():
    for width, kind in ((80, "mirrored"), (96, "gaussian")):
        view = initium.inspect(plain(nn.ReLU, 6, width), unit(2, 16))
        (chain,) = chains(view)
        assert {link.kind for link in chain.links.values()} == {kind}
        assert chain.spread == pytest.approx((4 * 5 + 2) / width)


@pytest.mark.parametrize(
    "make", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Softplus, lambda: nn.LeakyReLU(0.3)]
)
def test_mirrored_nets_are_linear_and_keep_signal_and_gradient(make):
    net = plain(make, 8, 32).double()
    plan = initium.initialize(net, inputs=unit(2, 16).double())
    x, y = unit(4, 16).double(), unit(4, 16).double()
    torch.testing.assert_close(net(x + 3 * y), net(x) + 3 * net(y), atol=1e-5, rtol=1e-5)
    held = outputs(net, x)
    aim = signals(initium.inspect(net, x))["2.weight"]
    for value in held[:-1]:
        assert value.square().mean().item() == pytest.approx(
            aim.variances[0] * aim.before, rel=1e-4
        )
    ratio = held[0].grad.square().sum() / held[-2].grad.square().sum()
    assert 0.5 < ratio < 2
    assert "Looks linear" in plan.entries["2.weight"].reason


@pytest.mark.parametrize("make", [nn.Tanh, nn.ELU, nn.Mish, nn.Softsign])
def test_deep_nets_without_a_mirror_keep_signal_and_gradient(make):
    net = plain(make, 20, 24)
    initium.initialize(net, inputs=unit(2, 16))
    held = outputs(net, unit(8, 16))
    first, last = held[0], held[-2]
    assert 0.3 < (last.square().mean() / first.square().mean()).item() < 3
    assert 0.45 < (first.grad.square().sum() / last.grad.square().sum()).item() < 2.2


class Convolutions(nn.Module):
    """Strides, padding, and a head on the mean."""

    def __init__(self, make=nn.ReLU, groups: int = 1) -> None:
        super().__init__()
        self.phi = make()
        self.layers = nn.ModuleList(
            nn.Conv2d(
                16 if place else 3,
                16,
                3,
                stride=2 if place == 3 else 1,
                padding=1,
                groups=groups if place == 5 else 1,
            )
            for place in range(10)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        for layer in self.layers:
            x = self.phi(layer(x))
        return self.head(x.mean((2, 3)))


def test_convolutions_are_mirrored_at_the_centre():
    net, x = Convolutions(), unit(4, 3, 12, 12)
    plan = initium.initialize(net, inputs=x)
    assert plan.entries["layers.0.weight"].spec.axes == (0,)
    assert plan.entries["layers.4.weight"].spec == Mirrored(DeltaOrthogonal(1.0))
    held = outputs(net, x)
    assert [round(h.square().mean().item(), 3) for h in held[4:10]] == pytest.approx(
        [held[4].square().mean().item()] * 6, rel=1e-2
    )
    assert held[9].square().mean().item() == pytest.approx(2.0, rel=0.5)
    ratio = held[0].grad.square().sum() / held[9].grad.square().sum()
    assert 0.5 < ratio < 2


def test_what_cannot_be_mirrored_is_left_out_of_the_pairs():
    plan = initium.plan(Convolutions(groups=4), inputs=unit(2, 3, 12, 12))
    specs = [plan.entries[f"layers.{place}.weight"].spec for place in range(10)]
    assert specs[2] == Mirrored(DeltaOrthogonal(1.0))
    assert specs[4].axes == (1,)
    assert not isinstance(specs[5], Mirrored)
    assert specs[6].axes == (0,)


def test_tanh_convolutions_are_delta_orthogonal():
    net, x = Convolutions(nn.Tanh), unit(4, 3, 12, 12)
    plan = initium.initialize(net, inputs=x)
    assert isinstance(plan.entries["layers.4.weight"].spec, DeltaOrthogonal)
    held = outputs(net, x)
    assert 0.5 < (held[1].grad.square().sum() / held[9].grad.square().sum()).item() < 2


def test_kernels_as_wide_as_their_input_are_filled():
    layers: list[nn.Module] = []
    for place in range(6):
        kernel = 7 if place == 4 else 3
        layers += [
            nn.Conv2d(8 if place else 3, 8, kernel, padding=0 if place == 4 else 1),
            nn.ReLU(),
        ]
    net, x = nn.Sequential(*layers[:10], nn.Flatten(), nn.Linear(8, 4)), unit(2, 3, 7, 7)
    plan = initium.initialize(net, inputs=x)
    assert plan.entries["6.weight"].spec == Mirrored(DeltaOrthogonal(1.0))
    spec = plan.entries["8.weight"].spec
    assert isinstance(spec.of, Orthogonal)
    assert spec.axes == (0, 1)
    assert outputs(net, x)[4].square().mean().item() == pytest.approx(2.0, rel=0.9)


def test_large_matrices_are_not_orthogonal():
    with torch.device("meta"):
        net = plain(nn.GELU, 12, 4098)
    plan = initium.plan(net, inputs=torch.zeros(2, 16, device="meta"))
    assert isinstance(plan.entries["4.weight"].spec, Normal)
    assert plan.entries["4.weight"].std == pytest.approx(math.sqrt(4 / 4098))
    assert plan.notes == ()


def test_a_net_that_no_start_repairs_is_said():
    (note,) = initium.plan(plain(nn.Sigmoid, 12, 64), inputs=unit(2, 16)).notes
    assert note.startswith("12 plain layers from 0.weight to 22.weight (sigmoid)")
    assert "a norm or residual branches would" in note
    assert initium.plan(plain(nn.ReLU, 12, 64), inputs=unit(2, 16)).notes == ()


def test_a_chain_ends_at_norms_and_sums():
    normed = nn.Sequential(
        *(one for _ in range(6) for one in (nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU()))
    )
    assert chains(initium.inspect(normed, unit(2, 16))) == ()
    assert chains(initium.inspect(Residual(6), unit(2, 16))) == ()


def test_a_deep_plain_net_trains_at_once():
    losses = {}
    for recipe in ("auto", "he"):
        net, x, y, _ = demo.build("mlp-gelu-40-64")
        initium.initialize(net, recipe, inputs=x)
        optimizer = torch.optim.Adam(net.parameters(), 3e-4)
        for _ in range(25):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[recipe] = loss.item()
    assert losses["auto"] < 0.3 < 1 < losses["he"]


# Layers applied repeatedly, gates in a row, pooling, padding, factors -----------------------------


class Repeated(nn.Module):
    """A stem, and one layer applied many times."""

    def __init__(self, phi, times: int = 30, width: int = 64, stem: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width) if stem else nn.Identity()
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, 4)
        self.phi, self.times = phi, times

    def forward(self, x):
        x = self.phi(self.stem(x))
        for _ in range(self.times):
            x = self.phi(self.layer(x))
        return self.head(x)


@pytest.mark.parametrize("phi", [F.relu, F.gelu, torch.tanh])
def test_a_layer_applied_many_times_keeps_its_signal(phi):
    net, x = Repeated(phi), unit(8, 16)
    view = initium.inspect(net, x)
    assert (view.parameters["layer.weight"].uses, view.parameters["layer.weight"].loops) == (30, 29)
    plan = initium.initialize(net, inputs=x)
    assert plan.notes == ()
    assert "as one of 32 plain layers" in plan.entries["layer.weight"].reason
    held = outputs(net, x)[1:-1]
    assert len(held) == 30
    assert 0.5 < (held[-1].square().mean() / held[0].square().mean()).item() < 2
    assert 0.5 < (held[0].grad.square().sum() / held[-1].grad.square().sum()).item() < 2


def test_a_repeated_layer_that_reads_the_input_is_warned_of():
    (note,) = initium.plan(Repeated(F.relu, stem=False), inputs=unit(2, 64)).notes
    assert note.startswith("31 plain layers from layer.weight to head.weight (relu)")


def test_what_one_layer_adds_at_its_places_adds_up():
    random, width, places, logs = np.random.default_rng(0), 96, 16, []
    for _ in range(300):
        matrix = random.normal(0, math.sqrt(2 / width), (width, width))
        x = random.normal(size=width)
        x /= np.sqrt(np.mean(x**2))
        for _ in range(places):
            z = matrix @ x
            x = np.maximum(z, 0)
        logs.append(math.log(np.mean(z**2)))
    told = spread(["relu"] * 15, [2.0] * 15, [width] * 16, names=["one"] * 16)
    apart = spread(["relu"] * 15, [2.0] * 15, [width] * 16)
    assert 0.4 * told < np.var(logs) < 1.1 * told
    assert np.var(logs) > 3 * apart


class GatedRow(nn.Module):
    """phi(a) b, several in a row."""

    def __init__(self, phi, depth: int = 8, width: int = 64, fused: bool = False) -> None:
        super().__init__()
        widths = [2 * width] if fused else [width, width]
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, out) for out in widths) for _ in range(depth)
        )
        self.phi, self.head, self.held = phi, nn.Linear(width, 4), torch.empty(0)

    def forward(self, x):
        for layers in self.layers:
            if len(layers) == 1:
                a, b = layers[0](x).chunk(2, -1)
            else:
                a, b = layers[0](x), layers[1](x)
            x = self.held = self.phi(a) * b
        return self.head(x)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("phi", [F.silu, torch.sigmoid])
def test_gated_layers_in_a_row_are_warned_of(phi, fused):
    (note,) = initium.plan(GatedRow(phi, fused=fused), inputs=unit(2, 64)).notes
    assert note.startswith("8 gated layers in a row up to layers.7.")
    assert initium.plan(GatedRow(phi, depth=1, fused=fused), inputs=unit(2, 64)).notes == ()


def test_the_spread_of_gated_layers_is_that_of_a_simulation():
    net, x, logs = GatedRow(torch.sigmoid, depth=4, fused=True), unit(1, 64), []
    view = initium.inspect(net, x)
    for seed in range(60):
        initium.plan(view, "auto", seed=seed).apply(net)
        with torch.no_grad():
            net(x)
        logs.append(math.log(net.held.square().mean().item()))
    (note,) = initium.plan(view, "auto").notes
    told = float(note.partition("log q by ")[2].split()[0])
    assert np.std(logs) == pytest.approx(told, rel=0.25)


@pytest.mark.parametrize("fused", [False, True])
def test_a_pair_of_gates_keeps_the_signal(fused):
    net, x = GatedRow(torch.sigmoid, depth=2, width=256, fused=fused), unit(64, 256)
    initium.initialize(net, inputs=x)
    net(x)
    assert net.held.square().mean().item() == pytest.approx(1.0, rel=0.3)


class Pooled(nn.Module):
    """Convolutions, each behind pooling."""

    def __init__(self, phi, pool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(3 if p == 0 else 16, 16, 3, padding=1) for p in range(5)
        )
        self.head, self.phi, self.pool = nn.Linear(16, 4), phi, pool

    def forward(self, x):
        for layer in self.layers:
            x = self.pool(self.phi(layer(x)), 2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("phi", [F.relu, torch.tanh])
def test_repeated_mean_pooling_is_said(phi):
    net = Pooled(phi, F.avg_pool2d)
    plan = initium.plan(net, inputs=unit(2, 3, 32, 32))
    (note,) = plan.notes
    assert note.startswith("Behind 4 poolings in a row, up to layers.4.weight")
    assert (
        "as mean pooling joins alike or independent values"
        in plan.entries["layers.2.weight"].reason
    )


def test_max_pooling_between_mirrored_pairs_keeps_the_signal():
    net, x = Pooled(F.relu, F.max_pool2d), unit(4, 3, 32, 32)
    plan = initium.initialize(net, inputs=x)
    assert plan.notes == ()
    assert isinstance(plan.entries["layers.2.weight"].spec, Mirrored)
    for value in outputs(net, x)[:5]:
        assert value.square().mean().item() == pytest.approx(2.0, rel=0.35)


@pytest.mark.parametrize(("phi", "pooling"), [("relu", "mean"), ("relu", "max"), ("tanh", "mean")])
def test_what_pooling_leaves_of_independent_values(phi, pooling):
    function = {"relu": F.relu, "tanh": torch.tanh}[phi]
    pool = F.avg_pool2d if pooling == "mean" else F.max_pool2d
    net = nn.Module()
    net.first, net.second, net.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
    net.forward = lambda x: net.head(net.second(pool(function(net.first(x)).movedim(-1, 1), 2)
                                                .movedim(1, -1)).mean((1, 2)))  # fmt: skip
    view = initium.inspect(net, torch.zeros(2, 4, 4, 8))
    found = view.parameters["second.weight"]
    assert (found.pooling, found.window) == (pooling, 4)
    z = torch.randn(1, 1, 800, 800) * math.sqrt(2 if phi == "relu" else 1)
    made = function(z)
    share = (pool(made, 2).square().mean() / made.square().mean()).item()
    alike, apart = pooled_ends(found, view)
    before = signals(view)["second.weight"].before
    assert before * alike == pytest.approx(second(phi, 2.0 if phi == "relu" else 1.0), rel=1e-6)
    assert apart / alike == pytest.approx(share, rel=0.02)
    assert min(alike, apart) < 1 < max(alike, apart)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "share"),
    [
        (6, 3, 1, 1, (16 / 18) ** 2),
        (8, 3, 2, 1, (11 / 12) ** 2),
        (6, 3, 1, 0, 1.0),
        (6, 5, 1, "same", (24 / 30) ** 2),
        (6, 1, 1, 0, 1.0),
    ],
)
def test_coverage_is_the_share_of_taps_that_meet_data(size, kernel, stride, padding, share):
    net = nn.Sequential(nn.Conv2d(3, 64, kernel, stride, padding, bias=False), nn.ReLU())
    x = torch.randn(64, 3, size, size)
    (view,) = initium.inspect(net, x).owners
    assert view.coverage == pytest.approx(share)
    weight = torch.randn_like(net[0].weight)
    net[0].weight.data.copy_(weight)
    found = net[0](x).square().mean() / (3 * kernel**2)
    assert view.coverage == pytest.approx(found.item(), rel=0.1)


def test_padding_is_made_up_for():
    net = nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()
    )
    x, found = unit(16, 3, 5, 5), []
    view = initium.inspect(net, x)
    for seed in range(12):
        initium.plan(view, "auto", seed=seed).apply(net)
        found.append(net(x).square().mean().item())
    assert np.mean(found) == pytest.approx(1.07, rel=0.12)  # the middle is met more often


class Stem(nn.Module):
    """A padded convolution, a norm, and what reads the one or the other."""

    def __init__(self, norm: nn.Module, read: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm, self.branch = norm, nn.Conv2d(32, 32, 1)
        self.read = read

    def forward(self, x):
        x = self.stem(x)
        normed = self.norm(x)
        made = self.branch(normed)
        if self.read == "sum":
            return x + made
        if self.read == "cat":
            return torch.cat([x, made], 1)
        return made if self.read == "branch" else normed + made


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 32), nn.BatchNorm2d(32)])
@pytest.mark.parametrize(
    ("read", "skipped"), [("sum", True), ("cat", True), ("branch", False), ("normed sum", False)]
)
def test_padding_counts_where_something_reads_a_product_without_its_norm(norm, read, skipped):
    net, x = Stem(norm, read), unit(4, 3, 6, 6)
    view = initium.inspect(net, x)
    stem = view.parameters["stem.weight"]
    assert (stem.norm_after, stem.norm_skipped) == (True, skipped)
    variance = 1 / stem.coverage if skipped else 1.0
    assert signals(view)["stem.weight"].variances == (pytest.approx(variance),)


def test_a_pre_norm_stream_starts_at_one_behind_a_padded_stem():
    net, x = Stem(nn.GroupNorm(1, 32), "sum"), unit(8, 3, 6, 6)
    view, found = initium.inspect(net, x), []
    for seed in range(24):
        initium.plan(view, "auto", seed=seed).apply(net)
        found.append(net.stem(x).square().mean().item())
    assert "1.00 after" in initium.plan(view, "auto").entries["stem.weight"].reason
    assert np.mean(found) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("phi", [F.gelu, F.relu, F.silu, torch.tanh])
def test_activations_with_a_factor_have_a_name(phi):
    class Scaled(nn.Module):
        def forward(self, x):
            return phi(x) * 1.7015043497085571

    net, x = plain(Scaled, 8, 24), unit(4, 16)
    plan = initium.initialize(net, inputs=x)
    name = f"{phi.__name__}*1.7015"
    assert initium.inspect(net, x).parameters["2.weight"].activation == name
    assert isinstance(plan.entries["2.weight"].spec, Orthogonal if phi is torch.tanh else Mirrored)
    held = outputs(net, x)
    assert 0.5 < (held[-2].square().mean() / held[1].square().mean()).item() < 2


def test_learned_queries_make_logits_of_order_one():
    class Merge(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.queries, self.scale = nn.Parameter(torch.zeros(8, 64)), scale
            self.head, self.scores = nn.Linear(64, 4), torch.empty(0)

        def forward(self, x):
            x = F.layer_norm(x, x.shape[-1:])
            self.scores = self.queries @ x.transpose(-1, -2) * self.scale
            return self.head(self.scores.softmax(-1) @ x)

    for scale in (64**-0.5, 1.0, 3.0):
        net, x = Merge(scale), torch.randn(4, 32, 64)
        plan = initium.initialize(net, inputs=x)
        net(x)
        assert net.scores.var().item() == pytest.approx(1.0, rel=0.3)
        told = "is the scores of a softmax" in plan.entries["queries"].reason
        assert told is (scale != 1)


def test_a_weight_that_is_standardised_has_its_own_fans():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            flat = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias, padding=1)

    net = nn.Sequential(Standardised(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(300, 4))
    view = initium.inspect(net, torch.randn(2, 8, 5, 5)).parameters["0.weight"]
    assert (view.fan_in, view.fan_out) == (72, 108)
    assert (view.axes.inputs, view.axes.outputs, view.axes.field) == ((1,), (0,), (2, 3))


# Residual nets -----------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + f(x) with f of several layers, and norms where they are asked for."""

    def __init__(self, blocks: int, matrices: int = 2, width: int = 32, norm: str = "") -> None:
        super().__init__()
        self.stem, self.place = nn.Linear(16, width), norm
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(matrices)) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            branch = F.layer_norm(x, x.shape[-1:]) if self.place == "pre" else x
            for place, layer in enumerate(block):
                branch = layer(F.relu(branch) if place else branch)
            x = x + branch
            x = F.layer_norm(x, x.shape[-1:]) if self.place == "post" else x
        return self.head(x)


@pytest.mark.parametrize("matrices", [1, 2, 3, 4])
def test_branches_without_norms_are_scaled_as_fixup_wants(matrices):
    found = signals(initium.inspect(Residual(5, matrices), unit(2, 16)))
    inner = 5 ** (-1 / (matrices - 1)) if matrices > 1 else 1.0
    for place in range(matrices):
        name = f"blocks.3.{place}.weight"
        variance = found[name].variances[0]
        if place < matrices - 1:
            assert variance == pytest.approx(2 * inner)
        else:
            assert variance == pytest.approx(1 / 5)
    whole = 1 / 5 if matrices == 1 else 1 / 5**2
    assert found[f"blocks.3.{matrices - 1}.weight"].after == pytest.approx(whole)


@pytest.mark.parametrize(("norm_at", "share"), [("pre", 1 / 5), ("post", 1.0)])
def test_branches_with_norms_share_their_stream(norm_at, share):
    found = signals(initium.inspect(Residual(5, width=256, norm=norm_at), unit(2, 16)))
    assert found["blocks.3.0.weight"].variances == pytest.approx((2.0,))
    assert found["blocks.3.1.weight"].variances == pytest.approx((share,))


def test_deep_post_norm_branches_are_small_enough_to_keep_the_gradient():
    net, x = Residual(40, width=32, norm="post"), unit(16, 16)
    (trunk,) = post_norm_trunks(initium.inspect(net, x))
    assert (trunk.branches, trunk.share < 0.1) == (40, True)
    plan = initium.initialize(net, inputs=x)
    reason = plan.entries["blocks.3.1.weight"].reason
    assert "as one of 40 post-norm branches, which would otherwise not keep" in reason
    held = outputs(net, x)
    first, last = held[1], held[-3]
    assert 0.4 < (first.grad.square().sum() / last.grad.square().sum()).item() < 2.5


@pytest.mark.parametrize(
    ("chis", "width", "flat"), [(2 * [1.0], 4096, True), (24 * [1.5], 4096, False)]
)
def test_the_share_of_post_norm_branches_is_the_largest_that_is_flat(chis, width, flat):
    share = _streams._flat_share(chis, [width] * len(chis))
    assert (share == 1.0) is flat
    law = _streams.gradient_law(chis, [width] * len(chis), share)
    assert law == pytest.approx(1.6, rel=1e-3) if not flat else 0.99 < law < 1


def test_a_step_of_descent_changes_a_net_alike_at_any_depth():
    x, y = unit(64, 16), torch.randint(0, 4, (64,))
    changes = []
    for blocks in (4, 24):
        net = Residual(blocks)
        initium.initialize(net, inputs=x)
        before = net(x).detach()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= 0.1 * weight.grad
        changes.append((net(x) - before).square().mean().sqrt().item())
    assert max(changes) < 2 * min(changes)


def test_an_attention_without_norms_scales_its_values():
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(9))
            self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(9))

        def forward(self, x):
            for qkv, out in zip(self.qkv, self.out, strict=True):
                q, k, v = qkv(x).chunk(3, -1)
                x = x + out(F.scaled_dot_product_attention(q, k, v))
            return x

    found = signals(initium.inspect(Mixing(), unit(2, 5, 16)))
    assert found["qkv.2.weight"].variances == pytest.approx((1.0, 1.0, 1 / 9))
    assert found["out.2.weight"].variances == pytest.approx((1 / 9,))


# Attention ---------------------------------------------------------------------------------------


class Scores(nn.Module):
    """Attention on normalised tokens whose logits are scaled in one of several ways."""

    def __init__(self, how: str, width: int = 128) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.how = nn.Linear(width, width), how
        self.temperature = nn.Parameter(torch.ones(()))
        self.logits = torch.empty(0)

    def forward(self, x):
        x = F.layer_norm(x, x.shape[-1:])
        q, k, v = self.q(x), self.k(x), self.v(x)
        width = q.shape[-1]
        if self.how == "fused":
            return self.out(F.scaled_dot_product_attention(q, k, v))
        q = q * 0.5 if self.how == "before" else q
        logits = q @ k.transpose(-1, -2)
        if self.how == "divided":
            logits = logits / math.sqrt(width)
        if self.how == "learned":
            logits = logits * self.temperature
        if torch.is_grad_enabled() and x.device.type == "cpu":
            self.logits = logits.detach()
        return self.out(logits.softmax(-1) @ v)


SCALES = [
    ("bare", 1.0),
    ("before", 0.5),
    ("divided", 128**-0.5),
    ("fused", 128**-0.5),
    ("learned", None),
]


@pytest.mark.parametrize(("how", "scale"), SCALES)
def test_the_scale_of_the_logits_is_seen(how, scale):
    view = initium.inspect(Scores(how), unit(2, 8, 128))
    for name in ("q.weight", "k.weight"):
        found = view.parameters[name].logit_scale
        assert found == (None if scale is None else pytest.approx(scale))


@pytest.mark.parametrize("how", ["bare", "before", "divided"])
def test_logits_have_variance_one(how):
    net, x = Scores(how), unit(16, 32, 128)
    plan = initium.initialize(net, inputs=x)
    net(x)
    assert net.logits.var().item() == pytest.approx(1.0, rel=0.2)
    assert ("does not divide" in plan.entries["q.weight"].reason) == (how != "divided")
    assert plan.entries["v.weight"].std == pytest.approx(128**-0.5)


# Gates -------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """y = sigmoid(a x) * (b x), fused, in two matrices, or as convolutions."""

    def __init__(self, how: str, width: int = 256) -> None:
        super().__init__()
        self.how, self.norm = how, nn.LayerNorm(width)
        kind = (lambda *s: nn.Conv1d(*s, 1)) if how == "convolutions" else nn.Linear
        if how == "fused":
            self.both = nn.Linear(width, 4 * width)
        else:
            self.gate, self.up = kind(width, 2 * width), kind(width, 2 * width)
        self.down = kind(2 * width, width)
        self.y = torch.empty(0)

    def forward(self, x):
        read = self.norm(x)
        if self.how == "convolutions":
            read = read.transpose(1, 2)
        if self.how == "fused":
            y = F.glu(self.both(read))
        else:
            y = self.up(read) * torch.sigmoid(self.gate(read))
        if x.device.type == "cpu":
            self.y = y.detach()
        made = self.down(y)
        return x + (made.transpose(1, 2) if self.how == "convolutions" else made)


@pytest.mark.parametrize("recipe", ["auto", "he"])
@pytest.mark.parametrize("how", ["fused", "separate", "convolutions"])
def test_a_sigmoid_gate_keeps_the_signal_in_every_layout(how, recipe):
    net, x = Gated(how), torch.randn(32, 8, 256)
    initium.initialize(net, recipe, inputs=x)
    net(x)
    assert net.y.square().mean().item() == pytest.approx(1.0, rel=0.05)


def test_the_gate_of_squeeze_and_excite_has_gain_one():
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)
            self.down, self.up = nn.Linear(16, 8), nn.Linear(8, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            x = F.relu(self.conv(x))
            gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
            return self.head((x * gate[:, :, None, None]).mean((2, 3)))

    view = initium.inspect(Squeezed(), unit(2, 3, 8, 8))
    assert (view.parameters["up.weight"].activation, view.parameters["up.weight"].gain) == (
        "sigmoid",
        1.0,
    )
    assert plan_model(view).entries["up.weight"].std == pytest.approx(8**-0.5)


# What a matrix reads -----------------------------------------------------------------------------


def test_the_source_of_what_a_matrix_reads():
    net = nn.Sequential(
        nn.Linear(16, 16),
        nn.LayerNorm(16),
        nn.SiLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )
    view = initium.inspect(net, unit(2, 16))
    told = [
        (one.source, one.source_activation) for one in view.owners if one.name in
        ("0.weight", "3.weight", "5.weight")
    ]  # fmt: skip
    assert told == [("input", None), ("norm", "silu"), ("product", None)]
    found = signals(view)
    silu = at("silu", 1.0)
    assert silu is not None
    assert found["3.weight"].before == pytest.approx(silu.second)
    assert found["5.weight"].before == pytest.approx(1.0)


@pytest.mark.parametrize(("norm_at", "source"), [("", "stream"), ("pre", "norm"), ("post", "norm")])
def test_the_source_of_a_branch(norm_at, source):
    view = initium.inspect(Residual(4, norm=norm_at), unit(2, 16))
    assert view.parameters["blocks.2.0.weight"].source == source


# Heads, tables, reasons --------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, norm_at: str, width: int = 64) -> None:
        super().__init__()
        self.table = nn.Embedding(200, width)
        self.ups = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.norm_at = norm_at

    def forward(self, ids):
        x = self.table(ids)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(F.relu(up(x)))
        if self.norm_at:
            x = F.layer_norm(x, x.shape[-1:])
        return x @ self.table.weight.T


@pytest.mark.parametrize("norm_at", ["", "last"])
def test_a_tied_table_is_solved_for_both_uses(norm_at):
    net, ids = Tied(norm_at), torch.randint(0, 200, (8, 16))
    initium.initialize(net, inputs=ids)
    others = net(ids).detach().scatter(-1, ids[..., None], 0.0)
    assert others.std().item() == pytest.approx(0.2, rel=0.25)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize(
    "build",
    [
        lambda classes: plain(nn.ReLU, 3, 64, classes=classes),
        lambda classes: plain(nn.Tanh, 8, 32, classes=classes),
        lambda classes: plain(nn.GELU, 8, 32, classes=classes),
    ],
)
def test_the_first_loss_is_that_of_a_guess(build, classes):
    x, y = unit(256, 16), torch.randint(0, classes, (256,))
    losses = []
    net = build(classes)
    view = initium.inspect(net, x)
    for seed in range(8):
        initium.plan(view, seed=seed).apply(net)
        assert net(x).std() > 0.05
        losses.append(F.cross_entropy(net(x), y).item())
    assert np.mean(losses) == pytest.approx(math.log(classes), rel=0.02)


@pytest.mark.parametrize("name", ["gpt-1", "resnet", "mlp-tanh-8-32"])
def test_every_matrix_has_its_moments_in_one_sentence(name):
    net, inputs, _, _ = demo.build(name)
    plan, view = initium.plan(net, inputs=inputs), initium.inspect(net, inputs)
    for one in view.owners:
        if one.is_matrix:
            reason = plan.entries[one.name].reason
            assert " before, " in reason, one.name
            assert " after" in reason, one.name
            assert reason.endswith("."), one.name
            assert reason.count(". ") == 0, one.name


def test_a_block_of_a_fused_weight_can_be_asked_for_alone():
    plan = plan_model(tiny_gpt(1), "he", rules={"role:attn_v": "auto", "role:mlp_up": "auto"})
    parts = plan.entries["h.0.qkv.weight"].spec
    assert parts == Normal(0.25) or parts.parts[2].spec == Normal(0.25)
    assert plan.entries["h.0.up.weight"].spec.parts[1].spec == Normal(0.25)


def test_no_facts_are_needed():
    assert chains(handmade()) == ()
    assert signals(handmade()) == {}


class Patches(nn.Module):
    """Patches with a class token and positions, pre-norm blocks, and a head on the class token."""

    def __init__(self, kind: str = "patch", width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 4, 4) if kind == "patch" else nn.Linear(48, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 96, 0.0, norm_first=True, batch_first=True)
            for _ in range(3)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.enter(x)
        x = x.flatten(2).mT if x.dim() == 4 else x
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@pytest.mark.parametrize("kind", ["patch", "linear"])
def test_a_class_token_has_the_size_of_the_patches_it_joins(kind):
    x = unit(4, 3, 16, 16) if kind == "patch" else unit(4, 16, 48)
    net, held = Patches(kind), []
    plan = initium.initialize(net, inputs=x)
    assert (plan.entries["token"].spec, plan.entries["position"].spec) == (Normal(1), Normal(0.5))
    assert "a norm would enlarge" in plan.entries["token"].reason
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, output: held.append(output))
    out = net(x)
    for value in held:
        value.retain_grad()
    out.backward(torch.randn_like(out))
    first, last = (one.grad.square().sum().item() for one in (held[0], held[-1]))
    assert 0.5 < first / last < 3


def test_the_bias_of_a_linear_gate_stays_open():
    class Opened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.head = (nn.Linear(16, 16) for _ in range(3))
            nn.init.ones_(self.gate.bias)
            nn.init.ones_(self.up.bias)

        def forward(self, x):
            y = F.gelu(self.up(x))
            return self.head(y * self.gate(y))

    plan = initium.plan(Opened(), inputs=unit(2, 16))
    assert plan.entries["gate.bias"].spec == Constant(1.0)
    assert "it is open" in plan.entries["gate.bias"].reason
    assert plan.entries["up.bias"].spec == Constant(0.0)
