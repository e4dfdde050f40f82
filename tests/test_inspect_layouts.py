"""Products in other layouts: gate and up on an axis of their own, ``tensordot``, ``inner``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rules import TOKENS, WIDTH, assert_seen
from torch import Tensor, nn

from initium import inspect

HIDDEN = 24
LAYOUTS = {"dcf": (WIDTH, 2, HIDDEN), "cdf": (2, WIDTH, HIDDEN), "cfd": (2, HIDDEN, WIDTH)}


class GateUp(nn.Module):
    """Gate and up in one weight, with an axis that tells them apart."""

    def __init__(self, letters: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.w = nn.Parameter(torch.zeros(LAYOUTS[letters]))
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.letters = letters

    def forward(self, x: Tensor) -> Tensor:
        u = torch.einsum(f"btd,{self.letters}->btcf", self.norm(x), self.w)
        return x + self.down(F.silu(u[:, :, 0]) * u[:, :, 1])


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("letters", LAYOUTS)
def test_gate_and_up_on_an_axis_of_their_own(letters, renamed):
    expected = {"w": "mlp_gate_up 16 gate=1 up=1", "down.weight": "mlp_down 24 16 writes"}
    assert_seen(lambda: GateUp(letters), TOKENS, expected, renamed=renamed)


@pytest.mark.parametrize("letters", LAYOUTS)
def test_the_gate_has_the_activation(letters):
    gate, up = inspect(GateUp(letters), TOKENS).parameters["w"].blocks
    assert (gate.activation, up.activation, up.gain) == ("silu", None, 1.0)
    assert gate.gain > 1


class Contracted(nn.Module):
    """A first matrix by a function of its own."""

    def __init__(self, product) -> None:
        super().__init__()
        self.w, self.last = nn.Parameter(torch.zeros(WIDTH, HIDDEN)), nn.Linear(HIDDEN, 3)
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.product(x, self.w)))


CONTRACTIONS = {
    "number": lambda x, w: torch.tensordot(x, w, 1),
    "dims": lambda x, w: torch.tensordot(x, w, ([-1], [0])),
    "left": lambda x, w: torch.tensordot(w, x, ([0], [2])).permute(1, 2, 0),
    "inner": lambda x, w: torch.inner(x, w.T),
}


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name, renamed):
    expected = {"w": "linear 16 24", "last.weight": "head 24 3"}
    assert_seen(lambda: Contracted(CONTRACTIONS[name]), TOKENS, expected, renamed=renamed)


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda z: 1 - torch.sigmoid(z), "sigmoid"), (lambda z: F.relu(-z), "relu")],
)
def test_a_mirrored_activation_keeps_its_name(function, name):
    model = Contracted(lambda x, w: x @ w)
    model.forward = lambda x: model.last(function(x @ model.w))
    assert inspect(model, TOKENS).parameters["w"].activation == name


class Layers(nn.Module):
    """Queries, keys and values of every layer in one tensor, and what writes back in another."""

    def __init__(self, layers: int, heads: int) -> None:
        super().__init__()
        width = WIDTH // heads
        self.qkv = nn.Parameter(torch.zeros(layers, 3, WIDTH, heads, width))
        self.out = nn.Parameter(torch.zeros(layers, heads, width, WIDTH))
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.layers):
            y = F.layer_norm(x, (WIDTH,))
            q, k, v = torch.einsum("btd,cdhe->cbhte", y, self.qkv[layer])
            weights = (q @ k.transpose(-1, -2)).softmax(-1)
            x = x + torch.einsum("bhts,bhse,hed->btd", weights, v, self.out[layer])
        return x


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("sizes", [(2, 4), (4, 4), (4, 2), (2, 2)])
def test_heads_are_no_layers(sizes, renamed):
    expected = {"qkv": "attn_qkv 16 16", "out": "attn_out 16 16 writes"}
    assert_seen(lambda: Layers(*sizes), TOKENS, expected, renamed=renamed)
