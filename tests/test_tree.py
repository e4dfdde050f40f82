"""A view as a tree and as JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from views import tiny_gpt

import initium


class Twin(nn.Module):
    """Blocks that are alike but for the first, and a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8 if i else 3, 8), nn.ReLU(), nn.Linear(8, 8)) for i in range(4)
        )
        self.head = nn.Linear(8, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_blocks_that_are_alike_are_one():
    assert initium.inspect(Twin(), torch.zeros(1, 3)).tree().splitlines() == [
        "Twin  552",
        "├── blocks  536",
        "│   ├── 0  104",
        "│   │   ├── 0.weight  8x3  linear  3 -> 8  then relu",
        "│   │   ├── 0.bias  8  bias",
        "│   │   ├── 2.weight  8x8  linear  8 -> 8",
        "│   │   └── 2.bias  8  bias",
        "│   └── {1..3}  3 x 144",
        "│       ├── 0.weight  8x8  linear  8 -> 8  then relu",
        "│       ├── 0.bias  8  bias",
        "│       ├── 2.weight  8x8  linear  8 -> 8",
        "│       └── 2.bias  8  bias",
        "└── head.weight  2x8  head  8 -> 2",
    ]


def test_a_line_says_what_the_parameter_does():
    tree = tiny_gpt().tree()
    assert "attn_qkv  16 -> 16  [q, k, v]" in tree
    assert "writes to stream 0" in tree
    assert "tied to head.weight" in tree


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, tiny_gpt().tree().splitlines())) <= width


def test_no_trace_is_said():
    view = initium.inspect(nn.Sequential(nn.Bilinear(3, 3, 2)))
    assert f"No trace: {view.problem}" in " ".join(view.tree().split())


def test_json_of_a_tied_name_holds_what_is_its_own():
    data = json.loads(tiny_gpt().to_json())["parameters"]
    assert data["head.weight"] == {
        "name": "head.weight",
        "shape": [50, 16],
        "dtype": "float32",
        "module": "head",
        "role": "head",
        "tied_to": "wte.weight",
    }
    assert data["wte.weight"]["role"] == "embedding"
    assert "its own role is head" in " ".join(str(tiny_gpt()).split())


def test_json_holds_everything():
    view = initium.inspect(Twin(), torch.zeros(1, 3))
    data = json.loads(view.to_json())
    assert (data["initium"], data["version"], data["model"], data["traced"]) == (
        "view",
        1,
        "Twin",
        True,
    )
    assert list(data["parameters"]) == list(view.parameters)
    told = data["parameters"]["blocks.0.0.weight"]
    assert (told["role"], told["shape"], told["fan_in"], told["activation"]) == (
        "linear",
        [8, 3],
        3,
        "relu",
    )
    assert told["evidence"]["role"]["rung"] == "traced"
    assert told["axes"] == {"inputs": [1], "outputs": [0], "batch": [], "field": []}
