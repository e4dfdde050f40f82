"""Models of vit-pytorch and of torch itself through the whole path."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import initium
from initium._load.optional import import_optional

vit_pytorch = import_optional("vit_pytorch")


class Tagger(nn.Module):
    """An embedding, a bidirectional LSTM of two layers, and a linear layer per token."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 24, padding_idx=0)
        self.memory = nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(64, 7)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.tags(self.memory(self.words(ids))[0])


IMAGES = (8, 3, 32, 32)
VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 64, "depth": 3, "heads": 4}
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "vit-pytorch ViT": (
        lambda: vit_pytorch.ViT(**VIT, mlp_dim=128),
        lambda: torch.randn(IMAGES),
    ),
    "vit-pytorch SimpleViT": (
        lambda: vit_pytorch.SimpleViT(**VIT, mlp_dim=128),
        lambda: torch.randn(IMAGES),
    ),
    "torch Transformer": (
        lambda: nn.Transformer(32, 4, 2, 2, 64, batch_first=True),
        lambda: (torch.randn(8, 5, 32), torch.randn(8, 6, 32)),
    ),
    "torch TransformerEncoder, pre-norm": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True), 3
        ),
        lambda: torch.randn(8, 5, 32),
    ),
    "LSTM tagger": (Tagger, lambda: torch.randint(1, 40, (8, 12))),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_foreign_model_starts_healthy(name):
    build, batch = MODELS[name]
    model, inputs = build(), batch()
    view = initium.inspect(model, inputs)
    assert view.problem is None
    assert not [p.name for p in view.owners if p.role == "unknown" and len(p.shape) > 1]
    plan = initium.plan(view, "auto", seed=1)
    plan.apply(model)
    report = initium.check(model, inputs, plan=plan)
    assert report.ok, str(report)


WRITERS = {
    "vit-pytorch ViT": 6,
    "vit-pytorch SimpleViT": 6,
    "torch Transformer": 10,
    "torch TransformerEncoder, pre-norm": 6,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_residual_writers_are_counted_right(name):
    build, batch = MODELS[name]
    view = initium.inspect(build(), batch())
    assert sum(p.writes_residual for p in view.owners) == WRITERS[name]


def test_a_recurrent_plan_is_per_gate_and_keeps_the_padding_row():
    model = Tagger()
    plan = initium.initialize(model, "auto", inputs=torch.randint(1, 40, (4, 6)))
    assert str(plan.entries["memory.weight_hh_l1_reverse"].spec).startswith("blocks(")
    assert not model.words.weight[0].any()
    hidden = model.memory.weight_hh_l0.detach().reshape(4, 32, 32)
    for gate in hidden:
        assert torch.allclose(gate @ gate.T, torch.eye(32), atol=1e-5)


def lucidrains():
    """The table of these models in ``benchmarks``, which is no package."""
    path = Path(__file__).parents[1] / "benchmarks" / "lucidrains.py"
    spec = importlib.util.spec_from_file_location("lucidrains", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_names_every_model_of_vit_pytorch():
    listed = {name.split(".")[0] for name in lucidrains().TABLES["vit-pytorch"]}
    folder = Path(vit_pytorch.__file__).parent
    there = {
        path.stem
        for path in folder.glob("*.py")
        if any(isinstance(node, ast.ClassDef) for node in ast.parse(path.read_text()).body)
    }
    assert there - listed == set()


@pytest.mark.parametrize(
    "name",
    [
        "cait.CaiT",
        "cross_vit.CrossViT",
        "max_vit.MaxViT",
        "simple_uvit.SimpleUViT",
        "na_vit.NaViT",
        "simple_vit_with_hyper_connections.SimpleViT",
    ],
)
def test_models_of_many_kinds_are_planned_whole(name):
    model, inputs = lucidrains().build("vit-pytorch", name)
    view = initium.inspect(model, inputs)
    assert view.problem is None
    assert not [p.name for p in view.owners if p.role == "unknown" and len(p.shape) > 1]
    assert all(p.order is not None for p in view.owners if len(p.shape) > 1)
