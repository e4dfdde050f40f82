"""``auto`` behind joined signals: closed forms, simulation, and networks that are run."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initium
from initium._scheme.points import unit_point
from initium._types import Join
from initium.recipes._joins import alike, largest, moments
from initium.recipes._signal import Signal, signals
from initium.recipes._streams import room


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def measured(net: nn.Module, x: torch.Tensor, seeds: int = 4) -> dict[str, float]:
    """E[x^2] of what every product reads, over plans of ``auto``."""
    plan = initium.plan(net, inputs=x)
    held: dict[str, list[float]] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, args, name=name: held.setdefault(f"{name}.weight", []).append(
                args[0].square().mean().item()
            )
        )
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    for seed in range(seeds):
        dataclasses.replace(plan, seed=seed).apply(net)
        with torch.no_grad():
            net(x)
    for hook in hooks:
        hook.remove()
    return {name: float(np.exp(np.mean(np.log(values)))) for name, values in held.items()}


def holds(net: nn.Module, x: torch.Tensor, within: float, seeds: int = 4) -> dict[str, Signal]:
    """Predictions, of which none that is followed is off by more than a factor ``within``."""
    found = signals(initium.inspect(net, x))
    for name, value in measured(net, x, seeds).items():
        ratio = value / found[name].before
        assert 1 / within < ratio < within, (name, ratio, found[name])
    return found


def linears(count: int, width: int, out: int | None = None) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, out or width) for _ in range(count))


# Moments -----------------------------------------------------------------------------------------


def product(number: int, q: float = 1.0) -> tuple[Join, dict[str, Signal]]:
    known = Signal(1.0, (q,), q, 1.0, (q,))
    return Join("product", number, name=f"w{number}"), {f"w{number}": known}


A, B = product(1, 2.0), product(2, 0.5)
KNOWN = A[1] | B[1]
RELU_A = Join("phi", 3, (A[0],), name="relu")
RELU_B = Join("phi", 4, (B[0],), name="relu")


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (Join("sum", 9, (A[0], B[0]), (0.5, 3.0)), 0.25 * 2 + 9 * 0.5),
        (Join("sum", 9, (A[0], A[0]), (0.5, 3.0)), 3.5**2 * 2),
        (Join("sum", 9, (RELU_A, RELU_B), (1.0, 1.0)), 1.25 + 2 * math.sqrt(2 * 0.5) / math.tau),
        (Join("cat", 9, (A[0], B[0]), (0.75, 0.25)), 0.75 * 2 + 0.25 * 0.5),
        (Join("phi", 9, (Join("cat", 8, (A[0], B[0]), (0.5, 0.5)),), name="relu"), 1.25 / 2),
        (Join("mul", 9, (A[0], RELU_B)), 2 * 0.25),
        (Join("phi", 9, (Join("sum", 8, (A[0], B[0]), (1.0, 1.0)),), name="relu"), 1.25),
        (Join("pool", 9, (A[0],), (4.0,), "mean"), 2 * (0.5 + 0.5 / 4)),
    ],
)
def test_moments_are_those_of_closed_forms(join, expected):
    found = moments(join, KNOWN)
    assert found is not None
    assert found.followed
    assert found.second == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "join",
    [
        Join("mul", 9, (A[0], RELU_A)),
        Join("sum", 9, (A[0], A[0]), (1.0, -1.0)),
        Join("cat", 9, (A[0], Join("product", 7, name="unknown")), (0.5, 0.5)),
    ],
)
def test_what_is_not_known_is_not_followed(join):
    assert moments(join, KNOWN) is None


def test_an_activation_of_activated_signals_is_simulated():
    inner = Join("sum", 8, (RELU_A, RELU_B, A[0]), (0.5, 2.0, -1.0))
    found = moments(Join("phi", 9, (inner,), name="gelu"), KNOWN)
    a, b = math.sqrt(2.0) * torch.randn(1_000_000), math.sqrt(0.5) * torch.randn(1_000_000)
    y = F.gelu(0.5 * F.relu(a) + 2 * F.relu(b) - a)
    assert found is not None
    assert found.second == pytest.approx(y.square().mean().item(), rel=0.02)
    assert found.mean == pytest.approx(y.mean().item(), rel=0.02)


def test_a_stream_counts_as_one_and_is_not_followed():
    found = moments(Join("cat", 9, (A[0], Join("stream", 5)), (0.5, 0.5)), KNOWN)
    assert found is not None
    assert (found.second, found.followed) == (1.5, False)


@pytest.mark.parametrize("phi", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("given", [0.0, 0.5, 0.9])
def test_neighbours_and_their_largest_are_simulated(phi, given):
    function = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}[phi]
    shared, own = torch.randn(400_000, 1, 1), torch.randn(400_000, 2, 4)
    y = function(1.3 * (math.sqrt(given) * shared + math.sqrt(1 - given) * own))
    near = (y[:, 0, 0] * y[:, 1, 0]).mean() / y.square().mean()
    assert alike(phi, 1.69, given) == pytest.approx(near.item(), abs=0.01)
    top = function(1.3 * (math.sqrt(given) * shared + math.sqrt(1 - given) * own).amax(-1))
    found = largest(phi, 1.69, given, 4)
    assert found.second == pytest.approx(top.square().mean().item(), rel=0.02)
    assert found.mean == pytest.approx(top.mean().item(), rel=0.02)
    near = (top[:, 0] * top[:, 1]).mean() / top.square().mean()
    assert found.alike == pytest.approx(near.item(), abs=0.01)


# Networks ----------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Without norms: two convolutions a level, max pooling, and skips that are concatenated."""

    def __init__(self, channels: int = 16, levels: int = 3, resized: bool = False) -> None:
        super().__init__()
        sizes = [channels * min(2**level, 4) for level in range(levels + 1)]
        self.resized = resized
        self.first = nn.ModuleList(conv(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
        self.second = nn.ModuleList(conv(size, size) for size in sizes)
        self.up = nn.ModuleList(
            conv(deep, size) if resized else nn.ConvTranspose2d(deep, size, 2, 2)
            for size, deep in itertools.pairwise(sizes)
        )
        self.joined = nn.ModuleList(conv(2 * size, size) for size in sizes[:-1])
        self.head = nn.Conv2d(sizes[0], 2, 1)

    def forward(self, x):
        skips = []
        for first, second in zip(self.first, self.second, strict=True):
            x = F.relu(second(F.relu(first(F.max_pool2d(x, 2) if skips else x))))
            skips.append(x)
        x = skips.pop()
        for up, joined in zip(reversed(self.up), reversed(self.joined), strict=True):
            x = up(F.interpolate(x, scale_factor=2) if self.resized else x)
            x = F.relu(joined(torch.cat([skips.pop(), x], 1)))
        return self.head(x)


def conv(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 3, padding=1)


@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_unet_with_max_pooling_keeps_its_signal_for_noise_and_for_pictures(resized, smooth):
    """The counted neighbours lie between: noise was up to 30 above, with pooling as nothing."""
    x = torch.randn(4, 3, 32, 32)
    if smooth:
        x = F.interpolate(torch.randn(4, 3, 3, 3), size=32, mode="bicubic")
        x = x / x.square().mean().sqrt()
    net = UNet(resized=resized)
    found = holds(net, x, within=3.5)
    plan = initium.plan(net, inputs=x)
    assert "1.00 before, 1.00 after the relu" in plan.entries["joined.1.weight"].reason
    pooled = "2.22 (1.00 to 3.09, as max pooling joins alike or independent values) before"
    assert pooled in plan.entries["first.1.weight"].reason
    assert found["joined.0.weight"].followed


class Branches(nn.Module):
    """Blocks of branches of different activations, joined by ``join``."""

    def __init__(self, join, layers: int = 4, width: int = 192) -> None:
        super().__init__()
        self.join = join
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 4)
        self.a, self.b = linears(layers, width, width // 3), linears(layers, width, width // 3)
        self.c, self.d = linears(layers, width, width // 3), linears(layers, width // 3)
        self.wide = width

    def forward(self, x):
        x = self.stem(x)
        for a, b, c, d in zip(self.a, self.b, self.c, self.d, strict=True):
            x = self.join(F.relu(a(x)), torch.tanh(b(x)), d(F.gelu(c(x))))
        return self.head(x)


def test_inception_blocks_are_followed():
    found = holds(Branches(lambda *y: torch.cat(y, -1)), torch.randn(64, 192), within=1.6)
    each = (1 + 0.394294 + 1) / 3
    assert found["a.3.weight"].before == pytest.approx(each, rel=1e-5)
    assert found["a.3.weight"].variances == pytest.approx((2 / each,), rel=1e-5)


def test_dense_connections_are_followed():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 32), nn.Conv2d(32 + 6 * 16, 4, 1)
            self.layers = nn.ModuleList(conv(32 + 16 * place, 16) for place in range(6))

        def forward(self, x):
            held = [self.stem(x)]
            for layer in self.layers:
                held.append(torch.tanh(layer(torch.cat(held, 1))))
            return self.head(torch.cat(held, 1))

    found = holds(Dense(), torch.randn(4, 3, 12, 12), within=1.3)
    assert found["head.weight"].before == pytest.approx((32 + 96 * 0.394294) / 128, rel=1e-5)


AVERAGES = {
    "half of a sum": (lambda a, b: (a + b) / 2, 0.5),
    "weighted": (lambda a, b: 0.9 * a - 0.3 * b, 0.9),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.25), 0.625),
    "mean of a stack": (lambda a, b: torch.stack([a, b]).mean(0), 0.5),
    "alpha": (lambda a, b: torch.add(a, b, alpha=0.5), 1.25),
    "gated": (lambda a, b: torch.sigmoid(a) * b + 0.5 * a, 0.2933 + 0.25),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_averages_of_branches_keep_the_signal(kind):
    average, expected = AVERAGES[kind]

    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(128, 128), nn.Linear(128, 4)
            self.a, self.b = linears(8, 128), linears(8, 128)

        def forward(self, x):
            x = self.stem(x)
            for a, b in zip(self.a, self.b, strict=True):
                x = average(a(x), b(x))
            return self.head(x)

    found = holds(Averaged(), torch.randn(128, 128), within=1.5)
    if kind != "gated":
        assert found["a.5.weight"].before == pytest.approx(expected, rel=1e-6)
        assert found["a.5.weight"].variances == pytest.approx((1 / expected,), rel=1e-6)


@pytest.mark.parametrize("phi", [F.relu, F.silu, torch.tanh])
def test_activations_of_averages_are_followed(phi):
    net = Branches(lambda a, b, c: phi(torch.cat([(a + c) / 2, b - 0.5 * c, c], -1)), layers=4)
    holds(net, torch.randn(128, 192), within=1.7)


def test_parts_of_one_matrix_are_told_apart():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.down, self.head = (
                nn.Linear(64, 128), nn.Linear(64, 64), nn.Linear(64, 4)
            )  # fmt: skip

        def forward(self, x):
            a, b = self.both(x).chunk(2, -1)
            return self.head(F.relu(self.down(0.5 * (a + b))))

    found = holds(Halves(), torch.randn(128, 64), within=1.2)
    assert found["down.weight"].before == pytest.approx(0.5)


# Gated layers and streams ------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "layers"), [(torch.sigmoid, 20), (F.hardsigmoid, 8)])
def test_chains_of_sigmoid_gates_keep_their_mean(gate, layers):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(192, 192), nn.Linear(192, 4)
            self.a, self.b = linears(layers, 192), linears(layers, 192)

        def forward(self, x):
            x = self.stem(x)
            for a, b in zip(self.a, self.b, strict=True):
                x = gate(a(x)) * b(x)
            return self.head(x)

    x = torch.randn(32, 192)
    x = x / x.square().mean(1, keepdim=True).sqrt()
    net = Gated()
    found = signals(initium.inspect(net, x))
    values = measured(net, x)
    assert all(found[f"a.{place}.weight"].before == pytest.approx(1) for place in range(layers))
    assert values["a.7.weight"] == pytest.approx(1, rel=0.25)
    if layers == 20:
        assert initium.plan(net, inputs=x).notes[0].startswith("20 gated layers in a row")


@pytest.mark.parametrize("gate", [F.silu, F.gelu, F.relu, torch.tanh, F.elu, F.softplus, F.mish])
def test_every_gate_is_made_up_for(gate):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(256, 256), nn.Linear(256, 256)
            self.c, self.d = nn.Linear(256, 256), nn.Linear(256, 256)
            self.head = nn.Linear(256, 4)

        def forward(self, x):
            x = gate(self.a(x)) * self.b(x)
            return self.head(gate(self.c(x)) * self.d(x))

    x = torch.randn(64, 256)
    x = x / x.square().mean(1, keepdim=True).sqrt()
    holds(Gated(), x, within=1.25, seeds=6)


def test_a_fused_gate_without_a_name_is_planned():
    net = nn.Sequential(nn.Linear(16, 16), FusedExp(), nn.Linear(16, 4))
    assert initium.plan(net, inputs=torch.randn(2, 16)).entries["1.both.weight"].std


class FusedExp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(16, 32)

    def forward(self, x):
        a, b = self.both(x).chunk(2, -1)
        return torch.exp(a) * b


class Carried(nn.Module):
    """Blocks t f(x) + (1 - t) x, with t on the stream where ``turned``."""

    def __init__(self, bias: float, phi, turned: bool = False, layers: int = 12) -> None:
        super().__init__()
        self.phi, self.turned = phi, turned
        self.stem, self.head = nn.Linear(128, 128), nn.Linear(128, 4)
        self.gate, self.own = linears(layers, 128), linears(layers, 128)
        for gate in self.gate:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x):
        x = self.stem(x)
        for gate, own in zip(self.gate, self.own, strict=True):
            t, f = torch.sigmoid(gate(x)), self.phi(own(x))
            x = t * x + (1 - t) * f if self.turned else t * f + (1 - t) * x
        return self.head(x)


@pytest.mark.parametrize(
    ("bias", "phi", "turned"),
    [
        (-2.0, F.relu, False),
        (2.0, F.relu, True),
        (0.0, F.gelu, False),
        (-1.0, nn.Identity(), False),
    ],
)
def test_highways_keep_their_stream(bias, phi, turned):
    net, x = Carried(bias, phi, turned), torch.randn(64, 128)
    values = measured(net, x)
    assert all(0.6 < values[f"own.{place}.weight"] < 2.5 for place in range(12))
    plan = initium.plan(net, inputs=x)
    assert "keeps the stream: 1.00 before, 1.00 after" in plan.entries["own.3.weight"].reason
    assert "the gate that carries" in plan.entries["gate.3.weight"].reason


def test_a_highway_that_cannot_keep_its_stream_says_so():
    plan = initium.plan(Carried(-2.0, torch.tanh), inputs=torch.randn(4, 128))
    assert "its stream fades, as tanh does not reach" in plan.entries["own.3.weight"].reason


@pytest.mark.parametrize(("c", "s"), [(0.9, 0.1), (0.6, 0.8), (0.8, 1.0)])
def test_weighted_residual_sums_keep_their_stream(c, s):
    class Weighted(Carried):
        def forward(self, x):
            x = self.stem(x)
            for up, own in zip(self.gate, self.own, strict=True):
                x = c * x + s * own(F.relu(up(x)))
            return self.head(x)

    net, x = Weighted(0.0, None), torch.randn(64, 128)
    view = initium.inspect(net, x)
    assert room(view.parameters["own.5.weight"], view) == pytest.approx((1 - c * c) / s**2)
    values = measured(net, x)
    assert all(0.75 < values[f"gate.{place}.weight"] < 1.35 for place in range(12))


def test_the_point_of_a_target_is_reached():
    for phi in ("relu", "gelu", "elu", "softplus"):
        z = torch.randn(1_000_000) * math.sqrt(unit_point(phi, 3.0))
        assert getattr(F, phi)(z).square().mean().item() == pytest.approx(3.0, rel=0.02)
    assert unit_point("tanh", 3.0) == 1.0


# Terms that are made of the same signals ---------------------------------------------------------


class Net(nn.Module):
    """Layers, and what is done with them."""

    def __init__(self, run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (lambda a, b: sum((a + b).chunk(2, -1)), 4.0),
        (lambda a, b: a.chunk(2, -1)[0] - a.chunk(2, -1)[1], 2.0),
        (lambda a, b: sum(F.relu(a).chunk(2, -1)), 2 + 2 / math.pi),
        (lambda a, b: (F.relu(a + b) + a)[..., :64], 3.0),
        (lambda a, b: torch.rsub(a, b, alpha=3)[..., :64], 10.0),
    ],
)
def test_terms_are_as_dependent_as_they_are(join, expected):
    layers = {"a": nn.Linear(64, 128), "b": nn.Linear(64, 128), "c": nn.Linear(64, 64)}
    net = Net(lambda self, x: self.c(join(self.a(x), self.b(x))), **layers)
    x = torch.randn(64, 64)
    found = holds(net, x, 1.2)["c.weight"]
    assert found.before == pytest.approx(expected, rel=5e-3)
    assert found.followed


@pytest.mark.parametrize(
    ("same", "expected"), [(True, 4.0), (False, 2 + 2 / math.pi)], ids=["one input", "two"]
)
def test_a_matrix_that_reads_twice(same, expected):
    def run(self, x):
        other = x if same else self.p(x)
        return self.c(F.relu(self.a(x)) + F.relu(self.a(other)))

    net = Net(run, **{name: nn.Linear(64, 64) for name in "apc"})
    plan = initium.plan(net, inputs=torch.randn(2, 64))
    found = signals(initium.inspect(net, torch.randn(2, 64)))["c.weight"]
    assert found.before == pytest.approx(expected, rel=5e-3)
    assert found.followed is same
    assert any("c.weight is joined" in note for note in plan.notes) is not same


def test_a_dense_net_is_planned_in_seconds():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4 * (i + 1), 4) for i in range(60))

        def forward(self, x):
            for layer in self.layers:
                x = torch.cat([x, F.relu(layer(x))], -1)
            return x

    calls = alike.cache_info().misses
    initium.plan(Dense(), inputs=torch.zeros(2, 4))
    assert alike.cache_info().misses - calls < 200
