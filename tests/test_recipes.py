"""Recipes: `torch` against what torch's own modules draw, the others against their formulas."""

from __future__ import annotations

import inspect
import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from views import model, of_module, parameter, tiny_gpt

from initium._plan import Rule, plan_model
from initium._types import Axes, Block
from initium.errors import PlanError
from initium.recipes import RECIPES
from initium.spec import Blocks, Constant, Keep, Normal, Orthogonal, Part, Uniform

MODULES = {
    "linear": lambda: nn.Linear(30, 20),
    "conv1d": lambda: nn.Conv1d(8, 12, 5),
    "conv2d_grouped": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "conv3d": lambda: nn.Conv3d(2, 6, 3),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(8, 12, 3),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(6, 12, 3, stride=2, groups=3),
    "embedding": lambda: nn.Embedding(40, 20),
    "embedding_padded": lambda: nn.Embedding(40, 20, padding_idx=3),
    "embedding_bag": lambda: nn.EmbeddingBag(40, 20, padding_idx=0),
    "layer_norm": lambda: nn.LayerNorm(8),
    "rms_norm": lambda: nn.RMSNorm(8),
    "group_norm": lambda: nn.GroupNorm(2, 8),
    "batch_norm": lambda: nn.BatchNorm2d(8),
    "instance_norm": lambda: nn.InstanceNorm1d(8, affine=True),
    "rnn": lambda: nn.RNN(6, 10, num_layers=2, bidirectional=True),
    "lstm": lambda: nn.LSTM(6, 10),
    "lstm_projected": lambda: nn.LSTM(6, 20, proj_size=4),
    "gru": lambda: nn.GRU(6, 10, bias=False),
    "lstm_cell": lambda: nn.LSTMCell(6, 10),
    "gru_cell": lambda: nn.GRUCell(6, 10),
    "rnn_cell": lambda: nn.RNNCell(6, 10),
    "attention": lambda: nn.MultiheadAttention(16, 2),
    "attention_unequal": lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=12, add_bias_kv=True),
    "bilinear": lambda: nn.Bilinear(20, 5, 7),
    "prelu": lambda: nn.PReLU(6),
}


@pytest.mark.parametrize("name", MODULES)
def test_torch_is_what_torch_draws(name):
    module = MODULES[name]()
    entries = plan_model(of_module(module), "torch").entries
    torch.manual_seed(0)
    drawn = [dict(MODULES[name]().named_parameters()) for _ in range(60)]
    for parameter_name, entry in entries.items():
        if entry.role == "buffer":
            continue
        values = torch.stack([found[parameter_name].detach() for found in drawn]).double()
        moments = entry.spec.moments(entry.shape)
        noise = 5 * max(moments.std, 1e-12) / math.sqrt(values.numel())
        assert values.mean().item() == pytest.approx(moments.mean, abs=noise)
        assert values.std(correction=0).item() == pytest.approx(moments.std, abs=noise)
        if isinstance(entry.spec, Uniform):
            assert values.abs().max().item() <= entry.spec.high * (1 + 1e-6)
            assert values.abs().max().item() >= entry.spec.high * 0.98
        if isinstance(entry.spec, Blocks):
            zero = values.abs().amax(dim=(0, 2)) == 0
            assert zero.nonzero().flatten().tolist() == [module.padding_idx]
            assert entry.spec.parts[-1].spec == Normal(1.0)


def test_torch_keeps_what_it_does_not_know():
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    entry = plan_model(of_module(Mine()), "torch").entries["weight"]
    assert entry.spec == Keep()
    assert "No torch default is known" in entry.reason


# Roles ------------------------------------------------------------------------------------------

LONE = [
    ("auto", parameter("w", (20, 50), gain=2.0, activation="relu"), Normal(0.2)),
    ("auto", parameter("w", (20, 25), "attn_out", writes_residual=True, branches=4), Normal(0.1)),
    ("auto", parameter("w", (10, 25), "head"), Normal(0.04)),
    ("auto", parameter("w", (8, 25), "router"), Normal(0.04)),
    ("auto", parameter("w", (50, 16), "embedding", axes=None), Normal(1.0)),
    ("auto", parameter("w", (50, 16), "position", axes=None), Normal(0.02)),
    ("auto", parameter("w", (50, 16), "position", axes=None, trainable=False), Keep()),
    ("auto", parameter("w", (1, 1, 16), "token", axes=None), Normal(0.02)),
    ("auto", parameter("w", (16,), "norm_scale", neutral=1.0), Constant(1.0)),
    ("auto", parameter("w", (16,), "norm_scale", neutral=0.0), Constant(0.0)),
    ("auto", parameter("w", (16,), "norm_scale"), Constant(1.0)),
    ("auto", parameter("w", (16,), "norm_bias"), Constant(0.0)),
    ("auto", parameter("w", (16,), "bias"), Constant(0.0)),
    ("auto", parameter("w", (16,), "scale", constant=1e-6), Constant(1e-6)),
    ("auto", parameter("w", (), "scale", on_meta=True), Constant(1.0)),
    ("auto", parameter("w", (16,), "scale"), Keep()),
    ("auto", parameter("w", (8, 16), "lora_a"), Uniform(-0.25, 0.25)),
    ("auto", parameter("w", (16, 8), "lora_b"), Constant(0.0)),
    ("auto", parameter("w", (16, 8), "ssm_a"), Keep()),
    ("auto", parameter("w", (16, 8), "unknown"), Normal(0.02)),
    ("auto", parameter("w", (16,), "unknown", constant=3.0), Constant(3.0)),
    ("auto", parameter("w", (16,), "unknown"), Keep()),
    ("auto", parameter("w", (8, 16), "modulation"), Normal(0.02)),
    ("xavier", parameter("w", (2, 4)), Uniform(-1.0, 1.0)),
    ("xavier(2, normal)", parameter("w", (4, 4)), Normal(1.0)),
    ("he", parameter("w", (20, 50), gain=2.0, activation="relu"), Normal(0.2)),
    ("he", parameter("w", (20, 100)), Normal(0.1)),
    ("he(nonlinearity=relu)", parameter("w", (20, 50)), Normal(0.2)),
    ("he(fan_out)", parameter("w", (50, 20), backward_gain=2.0, activation="relu"), Normal(0.2)),
    ("he", parameter("w", (4, 2, 3, 3), "conv", gain=2.0), Normal(1 / 3)),
    ("he", parameter("w", (50, 16), "embedding", axes=None), Normal(0.02)),
    ("lecun", parameter("w", (20, 100), gain=2.0, activation="relu"), Normal(0.1)),
    ("orthogonal", parameter("w", (20, 20), gain=4.0), Orthogonal(2.0)),
    ("orthogonal(3)", parameter("w", (20, 20), gain=4.0), Orthogonal(3.0)),
    ("gpt2", parameter("w", (20, 20)), Normal(0.02)),
    ("gpt2", parameter("w", (2, 2), "attn_out", writes_residual=True, branches=4), Normal(0.01)),
    ("gpt2", parameter("w", (50, 16), "position", axes=None), Normal(0.01)),
    ("zeros", parameter("w", (16,), "norm_scale", neutral=1.0), Constant(0.0)),
    ("normal(0.5)", parameter("w", (20, 20), gain=2.0), Normal(0.5)),
    ("normal(0.5)", parameter("w", (16,), "norm_scale", neutral=1.0), Constant(1.0)),
    ("normal(0.5)", parameter("w", (16,), "bias"), Constant(0.0)),
]


@pytest.mark.parametrize(
    ("recipe", "view", "spec"), LONE, ids=[f"{recipe}-{view.role}" for recipe, view, _ in LONE]
)
def test_what_a_role_gets(recipe, view, spec):
    entry = plan_model(model(view), recipe).entries["w"]
    if isinstance(spec, (Normal, Uniform)):
        assert type(entry.spec) is type(spec)
        assert entry.std == pytest.approx(spec.moments(view.shape).std)
    else:
        assert entry.spec == spec


def test_the_activated_half_of_a_gated_pair_gets_the_gain():
    spec = plan_model(tiny_gpt(1)).entries["h.0.up.weight"].spec
    gate, up = (part.spec.std * math.sqrt(16) for part in spec.parts)
    assert up == pytest.approx(1.0)
    z = gate * torch.randn(1 << 21, generator=torch.Generator().manual_seed(0))
    assert nn.functional.silu(z).square().mean().item() == pytest.approx(1.0, rel=0.01)


def test_he_backward_gain_of_a_block_is_that_of_its_own_activation():
    spec = plan_model(tiny_gpt(1), "he(fan_out)").entries["h.0.up.weight"].spec
    assert [part.spec.std for part in spec.parts] == pytest.approx(
        [math.sqrt(2.6352 / 64), 1 / 8], rel=1e-4
    )


def test_residual_writers_shrink_with_the_branches():
    stds = [plan_model(tiny_gpt(n)).entries["h.0.down.weight"].std for n in (1, 4)]
    assert stds[0] / stds[1] == pytest.approx(2.0)


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_position_know_of_the_tie(tied):
    entries = plan_model(tiny_gpt(tied=tied)).entries
    expected = 0.2 / 4 if tied else 1.0
    assert entries["wte.weight"].std == pytest.approx(expected)
    assert entries["wpe.weight"].std == pytest.approx(expected / 2)
    assert ("head.weight" in entries) is not tied


def test_an_embedding_that_is_used_again_may_be_the_head():
    view = parameter("w", (50, 16), "embedding", axes=None, uses=2)
    assert plan_model(model(view)).entries["w"].std == pytest.approx(0.05)


@pytest.mark.parametrize("recipe", ["auto", "he", "gpt2", "normal(0.3)", "torch"])
def test_a_padding_row_stays_zero(recipe):
    view = parameter("w", (5, 4), "embedding", axes=None, padding_row=0, torch_type="Embedding")
    spec = plan_model(model(view), recipe).entries["w"].spec
    assert spec.parts[0] == Part(0, 0, 1, Constant(0.0))
    assert (spec.parts[1].start, spec.parts[1].size, spec.parts[1].spec.std > 0) == (1, 4, True)


def test_recurrent_weights_are_planned_per_gate():
    gates = tuple(Block(gate, 0, 8 * i, 8) for i, gate in enumerate("ifgo"))
    known = {"blocks": gates, "fan_out": 8, "axes": Axes(inputs=(1,), outputs=(0,))}
    view = model(
        parameter("ih", (32, 24), "recurrent_input", **known),
        parameter("hh", (32, 8), "recurrent_hidden", **known),
    )
    entries = plan_model(view).entries
    assert entries["ih"].spec == Normal(math.sqrt(2 / (24 + 8)))
    assert [part.spec for part in entries["hh"].spec.parts] == [Orthogonal()] * 4


def test_orthogonal_experts_keep_their_axes():
    axes = Axes(inputs=(1,), outputs=(2,), batch=(0,))
    stack = (Block("expert", 0, 0, 1, count=4, stride=1, stacked=True),)
    view = parameter("w", (4, 6, 8), "mlp_up", axes=axes, fan_in=6, fan_out=8, blocks=stack)
    plan = plan_model(model(view), "orthogonal")
    drawn = plan.tensor("w").double()
    for expert in drawn:
        np.testing.assert_allclose(expert @ expert.T, np.eye(6), atol=1e-5)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_reasons_are_one_line(name):
    plan = plan_model(
        tiny_gpt(), {"normal": "normal(1)", "mimetic": "mimetic(heads=2)"}.get(name, name)
    )
    assert all(entry.reason and "\n" not in entry.reason for entry in plan.entries.values())


def test_the_page_of_the_catalogue_is_what_the_code_says():
    docs = Path(__file__).parents[1] / "docs"
    maker = runpy.run_path(str(docs / "make_catalogue.py"))
    assert (docs / "catalogue.md").read_text() == maker["page"]()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_says_its_formula_use_source_and_divergences(name):
    told = inspect.getdoc(RECIPES[name])
    for heading in ("When to use:", "Source:", "Known divergences:", "Example:"):
        assert heading in told, heading


# For what kind of model ---------------------------------------------------------------------------


def plain(*roles: str, **known):
    """A traced model with a matrix of each role."""
    views = [parameter(f"{i}.w", (8, 8), role, **known) for i, role in enumerate(roles)]
    return replace(model(*views), traced=True)


def norm(name: str = "norm.w"):
    return parameter(name, (8,), "norm_scale")


def trunk(streams: tuple[int, ...], *more):
    """Attention and feed-forward on one trunk, each branch on the stream that is given."""
    views = [
        parameter(f"{i}.w", (8, 8), "mlp_down" if i % 2 else "attn_out", writes_residual=True,
                  trunk=0, trunk_depth=i, stream=stream, depth=0, branches=len(streams))
        for i, stream in enumerate(streams)
    ]  # fmt: skip
    return replace(model(*views, *more), traced=True)


PRE, POST = trunk((0, 0, 0, 0), norm()), trunk((0, 1, 2, 3), norm())
BARE = trunk((0, 0, 0, 0))
CONVOLUTIONAL = plain("conv", "conv", "head")
KINDS = [
    ("deepnorm", POST, PRE, "is pre-norm"),
    ("deepnorm", POST, CONVOLUTIONAL, "has no attention"),
    ("subln", PRE, POST, "is post-norm"),
    ("t_fixup", BARE, PRE, "has norms, 1 of them, such as norm.w"),
    ("fixup", BARE, PRE, "has norms"),
    ("fixup", BARE, CONVOLUTIONAL, "has no residual branches"),
    ("skipinit", BARE, PRE, "has norms"),
    ("rezero", PRE, CONVOLUTIONAL, "has no residual branches"),
    ("completep", PRE, CONVOLUTIONAL, "has no residual branches"),
    ("zero_hadamard", PRE, CONVOLUTIONAL, "has no residual branches"),
    ("resnet", CONVOLUTIONAL, PRE, "has no convolutions"),
    ("convnext", CONVOLUTIONAL, PRE, "has no convolutions"),
    ("delta_orthogonal", CONVOLUTIONAL, PRE, "has no convolutions"),
    ("gpt2", PRE, CONVOLUTIONAL, "has no attention"),
    ("olmo_core", PRE, CONVOLUTIONAL, "has no attention"),
    ("vit", plain("patch", "attn_qkv"), PRE, "has no patch embedding"),
    ("mae", plain("patch", "attn_qkv"), CONVOLUTIONAL, "has no patch embedding"),
    ("dit", plain("modulation"), PRE, "has no modulation"),
    ("irnn", plain("recurrent_hidden"), PRE, "has no recurrent matrices"),
    ("mamba", plain("ssm_a"), PRE, "has no state-space parameters"),
    ("mamba2", plain("ssm_a"), PRE, "has no state-space parameters"),
    ("lora", plain("lora_a"), PRE, "has no adapters"),
    ("lora_gaussian", plain("lora_a"), PRE, "has no adapters"),
    ("rwkv", model(parameter("blocks.0.att.time_decay", (8,), "scale")), PRE, "named time_decay"),
]


@pytest.mark.parametrize(
    ("name", "fits", "other", "told"), KINDS, ids=[f"{n}-{told}" for n, _, _, told in KINDS]
)
def test_a_recipe_says_when_a_model_is_of_another_kind(name, fits, other, told):
    recipe = RECIPES[name]()
    assert recipe.noted(fits) == ()
    (note,) = recipe.noted(other)
    assert note.startswith(f"{name.split('_')[0]}")
    assert "was published for" in note
    assert told in note


@pytest.mark.parametrize("name", ["auto", "torch", "he", "xavier", "lecun", "orthogonal", "normal"])
def test_general_recipes_are_for_every_model(name):
    assert all(RECIPES[name]().noted(view) == () for view in (PRE, POST, BARE, CONVOLUTIONAL))


def test_what_was_not_seen_is_not_missed():
    unseen = model(parameter("w", (8, 8), "linear"))
    for name in ("gpt2", "deepnorm", "resnet", "fixup", "irnn"):
        assert RECIPES[name]().noted(unseen) == ()


@pytest.mark.parametrize("recipe", ["orthogonal", "delta_orthogonal"])
def test_complex_weights_say_what_to_do_instead(recipe):
    view = model(parameter("w", (8, 8), dtype="complex64"))
    with pytest.raises(PlanError, match=r"w: .*complex64.*Fix: add a rule such as Rule\(.normal\("):
        plan_model(view, recipe)
    rule = Rule("normal(1 / sqrt(fan_in))", name="w")
    assert plan_model(view, recipe, rules=[rule]).entries["w"].std == pytest.approx(8**-0.5)
    for fine in ("he", "xavier", "zeros", "lecun(truncated)"):
        plan_model(view, fine)


# What a class is called, and what its constructor gave ------------------------------------------


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))


class Scaled(nn.Linear):
    def __init__(self) -> None:
        super().__init__(5, 3)
        self.gain = nn.Parameter(torch.randn(3))


class Reset(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


def test_torch_goes_by_the_class_and_not_by_its_name():
    assert plan_model(of_module(Linear()), "torch").entries["weight"].kept
    assert plan_model(of_module(Reset(5, 3)), "torch").entries["weight"].kept
    scaled = plan_model(of_module(Scaled()), "torch").entries
    assert scaled["weight"].spec == Uniform(-(5**-0.5), 5**-0.5)
    assert scaled["gain"].kept


@pytest.mark.parametrize("recipe", ["torchtitan_llama3", "mup", "auto"])
def test_a_table_that_is_used_again_starts_as_a_tied_one(recipe):
    known = {"axes": None, "fan_in": None, "fan_out": None}
    specs = [
        plan_model(model(parameter("e", (9, 16), "embedding", **known, **how)), recipe)
        .entries["e"]
        .spec
        for how in ({"uses": 2}, {"aliases": ("head",)}, {"uses": 1})
    ]
    assert specs[0] == specs[1] != specs[2]


@pytest.mark.parametrize(
    ("shape", "known", "value", "told"),
    [
        ((), {}, -10.0, "keeps its constructor's constant"),
        ((1,), {}, -10.0, "keeps its constructor's constant"),
        ((1,), {"torch_type": "Linear"}, 0.0, "start at zero."),
        ((1,), {"partner": "w"}, 0.0, "start at zero."),
        ((4,), {}, 0.0, "the constant -10 of its constructor is replaced"),
    ],
)
def test_a_constant_bias_is_kept_or_named(shape, known, value, told):
    view = parameter("b", shape, "bias", constant=-10.0, **known)
    entry = plan_model(model(view), "auto").entries["b"]
    assert entry.spec == Constant(value)
    assert told in entry.reason


def test_frozen_parameters_are_planned_and_noted():
    view = model(parameter("w", (4, 4), trainable=False), parameter("v", (4, 4)))
    assert "1 frozen parameter is planned too, such as w" in plan_model(view, "he").notes[-1]
    assert plan_model(view, "he", rules={"w": "keep"}).notes == ()
