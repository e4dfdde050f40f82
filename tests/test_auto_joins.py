"""``auto`` where signals are joined, gated, dropped or scaled, against networks that are run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initium
from initium.recipes._chains import chains
from initium.recipes._signal import signals
from initium.spec import Constant


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Net(nn.Module):
    """Layers, and what is done with them."""

    def __init__(self, run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def mean_square(net: nn.Module, layer: nn.Module, x: torch.Tensor, seeds: int = 4) -> float:
    """E[y^2] of what a layer puts out, over plans of ``auto``."""
    plan, held = initium.plan(net, inputs=x), []
    hook = layer.register_forward_hook(lambda module, args, output: held.append(output))
    for seed in range(seeds):
        dataclasses.replace(plan, seed=seed).apply(net)
        with torch.no_grad():
            net(x)
    hook.remove()
    return float(np.mean([value.square().mean().item() for value in held]))


# Gates -------------------------------------------------------------------------------------------


def swiglu(width: int, layers: int) -> nn.Sequential:
    def run(block, x):
        return block.down(F.silu(block.gate(x)) * block.up(x))

    return nn.Sequential(
        *(
            Net(run, **{name: nn.Linear(width, width) for name in ("gate", "up", "down")})
            for _ in range(layers)
        ),
        nn.Linear(width, 4),
    )


@pytest.mark.parametrize(("width", "layers"), [(64, 3), (512, 4)])
def test_gated_blocks_with_a_matrix_in_between_are_warned_of(width, layers):
    (note,) = initium.plan(swiglu(width, layers), inputs=torch.randn(2, width)).notes
    assert note.startswith(f"{layers} gated layers in a row up to {layers - 1}.")
    assert initium.plan(swiglu(width, 1), inputs=torch.randn(2, width)).notes == ()


FUSED = {
    "tanh sigmoid": lambda a, b: torch.tanh(a) * torch.sigmoid(b),
    "relu sigmoid": lambda a, b: F.relu(a) * torch.sigmoid(b),
    "tanh tanh": lambda a, b: torch.tanh(a) * torch.tanh(b),
    "linear sigmoid": lambda a, b: a * torch.sigmoid(b),
}


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("gate", FUSED)
def test_what_leaves_a_fused_gate_is_known(gate, kind):
    axis = 1 if kind == "conv" else -1
    make = (lambda i, o: nn.Conv1d(i, o, 1)) if kind == "conv" else nn.Linear
    layers = {"both": make(64, 128), "down": make(64, 64), "head": make(64, 4)}
    net = Net(
        lambda self, x: self.head(F.relu(self.down(FUSED[gate](*self.both(x).chunk(2, axis))))),
        **layers,
    )
    x = torch.randn(64, 64, 4) if kind == "conv" else torch.randn(256, 64)
    labels = [b.label for b in initium.inspect(net, x).parameters["both.weight"].blocks]
    assert sorted(labels) == ["gate", "up"]
    assert mean_square(net, net.down, x) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("carried", [True, False])
def test_the_bias_of_a_gate_that_carries_is_kept(carried):
    def run(self, x):
        x = self.stem(x)
        t = torch.sigmoid(self.gate(x))
        return self.head(t * F.relu(self.own(x)) + ((1 - t) * x if carried else 0.0))

    net = Net(run, **{name: nn.Linear(16, 16) for name in ("stem", "gate", "own", "head")})
    nn.init.constant_(net.gate.bias, -2.0)
    plan = initium.plan(net, inputs=torch.randn(2, 16))
    assert plan.entries["gate.bias"].spec == Constant(-2.0 if carried else 0.0)
    assert ("carries" in plan.entries["gate.bias"].reason) is carried
    assert plan.entries["stem.weight"].std == pytest.approx(1 / 4)


# Sums --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [F.relu, torch.tanh, lambda x: x])
def test_sums_of_branches_are_followed(phi):
    def run(self, x):
        x = self.stem(x)
        return self.head(self.down(sum(phi(one(x)) for one in self.branches)))

    branches = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
    net = Net(
        run, stem=nn.Linear(64, 64), branches=branches, down=nn.Linear(64, 64),
        head=nn.Linear(64, 4),
    )  # fmt: skip
    x = torch.randn(64, 64)
    before = signals(initium.inspect(net, x))["down.weight"].before
    mean = math.sqrt(2) * 0.398942 if phi is F.relu else 0.0
    each = 0.3943 if phi is torch.tanh else 1.0
    assert before == pytest.approx(4 * each + 12 * mean**2, rel=1e-3)
    assert mean_square(net, net.down, x) == pytest.approx(1.0, rel=0.15)
    assert initium.plan(net, inputs=x).notes == ()


def test_what_is_not_followed_is_said_to_be_taken_as_one():
    def run(self, x):
        y = self.stem(x)
        learned = self.b(y) * self.scale
        return self.head(self.down(torch.cat([torch.tanh(self.a(y)), learned], -1)))

    layers = {name: nn.Linear(16, 16) for name in ("stem", "a", "b")}
    net = Net(run, **layers, down=nn.Linear(32, 8), head=nn.Linear(8, 4))
    net.scale = nn.Parameter(torch.full((16,), 0.1))
    plan = initium.plan(net, inputs=torch.randn(2, 16))
    assert "taken as 1.00 before" in plan.entries["down.weight"].reason
    assert "taken" not in plan.entries["head.weight"].reason
    (note,) = plan.notes
    assert note.startswith("The signal in front of down.weight is joined from several")


@pytest.mark.parametrize("scale", [0.5**0.5, 0.6])
def test_scaled_residual_sums_keep_their_stream(scale):
    def run(self, x):
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = (x + down(F.relu(up(x)))) * scale
        return self.head(self.last(x))

    ups, downs = (nn.ModuleList(nn.Linear(64, 64) for _ in range(6)) for _ in range(2))
    net = Net(
        run, stem=nn.Linear(64, 64), ups=ups, downs=downs, last=nn.Identity(),
        head=nn.Linear(64, 4),
    )  # fmt: skip
    x = torch.randn(64, 64)
    found = signals(initium.inspect(net, x))
    assert found["downs.3.weight"].variances == pytest.approx((1 / scale**2 - 1,))
    assert found["ups.3.weight"].variances == pytest.approx((2.0,))
    assert mean_square(net, net.last, x, 12) == pytest.approx(1.0, rel=0.2)


# Dropout, standardised weights, transposed convolutions, activations without a name ---------------


@pytest.mark.parametrize("layers", [1, 8])
def test_dropout_is_counted_while_the_model_trains(layers):
    parts: list[nn.Module] = [nn.Linear(64, 64)]
    for _ in range(layers):
        parts += [nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64)]
    net, x = nn.Sequential(*parts, nn.ReLU(), nn.Linear(64, 4)), torch.randn(64, 64)
    assert mean_square(net, net[3 * layers], x) == pytest.approx(2.0, rel=0.25)
    reason = initium.plan(net, inputs=x).entries["3.weight"].reason
    assert "2.00 before" in reason
    assert "dropout in front leaves 0.50" in reason
    assert "dropout" not in initium.plan(net.eval(), inputs=x).entries["3.weight"].reason


def test_standardised_weights_stand_in_no_chain():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            weight = (self.weight - mean) / self.weight.std((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / 12, self.bias, padding=1)

    def net(kind):
        layers = [(kind(16, 16, 3, padding=1), nn.ReLU()) for _ in range(8)]
        return nn.Sequential(*(one for pair in layers for one in pair))

    x = torch.randn(2, 16, 6, 6)
    assert len(chains(initium.inspect(net(nn.Conv2d), x))) == 1
    view = initium.inspect(net(Standardised), x)
    assert chains(view) == ()
    assert "which undoes its scale" in initium.plan(view, "auto").entries["2.weight"].reason


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(1, 4, 1, 0), (4, 4, 2, 1), (4, 3, 2, 1), (3, 5, 3, 1)],
)
def test_transposed_convolutions_count_the_taps_that_meet_data(size, kernel, stride, padding):
    net = nn.Sequential(nn.ConvTranspose2d(32, 64, kernel, stride, padding), nn.ReLU())
    x = torch.randn(16, 32, size, size)
    assert mean_square(net, net[0], x) == pytest.approx(2.0, rel=0.1)


def test_activations_without_a_name_are_said():
    class Wave(nn.Module):
        def forward(self, x):
            return torch.sin(30 * x)

    net = nn.Sequential(nn.Linear(16, 32), Wave(), nn.Linear(32, 32), Wave(), nn.Linear(32, 4))
    (note,) = initium.plan(net, inputs=torch.randn(2, 16)).notes
    assert note.startswith("Activations without a name, first behind 0.weight (custom (")
    assert "gradient by up to x9" in note
