"""Recipes of state-space models, adapters and single papers, against their sources' formulas.

The numbers are written out here from each source. Where transformers or peft has the model, they
are also compared with what that library draws.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import cache
from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import nn
from views import model, parameter

import initium
from initium import recipes
from initium._load.optional import import_optional
from initium._plan import Plan, Rule, plan_model
from initium._types import Axes, Block, ModelView
from initium.errors import PlanError, RecipeError
from initium.spec import (
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    Joint,
    Keep,
    Logarithm,
    LogUniform,
    Mirrored,
    Normal,
    Orthogonal,
    Uniform,
)

IDS = torch.arange(2).reshape(1, 2)
SIZES = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 3}
MODELS = {
    "mamba": ("Mamba", {**SIZES, "state_size": 16, "rescale_prenorm_residual": True}),
    "mamba2": (
        "Mamba2",
        {
            **SIZES,
            "num_heads": 16,
            "head_dim": 8,
            "n_groups": 2,
            "rescale_prenorm_residual": True,
            "tie_word_embeddings": True,
        },
    ),
    "rwkv": ("Rwkv", {**SIZES, "context_length": 32}),
}


@cache
def built(name: str) -> nn.Module:
    transformers = import_optional("transformers")
    kind, sizes = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**sizes)
    )


@cache
def view(name: str) -> ModelView:
    return initium.inspect(built(name), {"input_ids": IDS})


@cache
def planned(name: str) -> Plan:
    return plan_model(view(name), name)


def std(plan: Plan, name: str) -> float:
    found = plan.entries[name].std
    assert found is not None
    return found


# State-space models -------------------------------------------------------------------------------

INNER, RANK = 128, 4
MAMBA_STDS = {
    "in_proj.weight": 1 / sqrt(3 * 64),
    "x_proj.weight": 1 / sqrt(3 * INNER),
    "dt_proj.weight": RANK**-0.5 / sqrt(3),
    "conv1d.weight": 1 / sqrt(3 * 4),
    "conv1d.bias": 1 / sqrt(3 * 4),
    "out_proj.weight": 1 / sqrt(3 * INNER) / sqrt(3),
    "A_log": float(np.log(np.arange(1, 17)).std()),
    "D": 0.0,
}


@pytest.mark.parametrize(("leaf", "wanted"), MAMBA_STDS.items())
def test_mamba_has_the_formula_of_its_source(leaf: str, wanted: float) -> None:
    plan = planned("mamba")
    for layer in range(3):
        assert std(plan, f"backbone.layers.{layer}.mixer.{leaf}") == pytest.approx(wanted)
    assert plan.entries["backbone.embeddings.weight"].spec == Normal(0.02)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_steps_of_mamba_are_log_uniform(name: str) -> None:
    leaf = "dt_proj.bias" if name == "mamba" else "dt_bias"
    spec = planned(name).entries[f"backbone.layers.1.mixer.{leaf}"].spec
    assert spec == InverseSoftplus(LogUniform(0.001, 0.1), 1e-4)
    steps = scipy.stats.loguniform(0.001, 0.1)
    mean = steps.expect(lambda step: log(exp(step) - 1))
    square = steps.expect(lambda step: (log(exp(step) - 1) - mean) ** 2)
    moments = spec.moments((INNER,))
    assert (moments.mean, moments.std) == pytest.approx((mean, sqrt(square)))


@pytest.mark.parametrize("leaf", ["dt_proj.weight", "conv1d.weight", "out_proj.weight"])
def test_mamba_has_the_spread_that_transformers_draws(leaf: str) -> None:
    plan = planned("mamba")
    for layer in range(3):
        drawn = built("mamba").get_parameter(f"backbone.layers.{layer}.mixer.{leaf}")
        wanted = std(plan, f"backbone.layers.{layer}.mixer.{leaf}")
        assert drawn.std().item() == pytest.approx(wanted, rel=0.07)


def test_mamba_has_the_states_and_steps_that_transformers_has() -> None:
    plan, theirs = planned("mamba"), built("mamba").get_parameter
    states = "backbone.layers.1.mixer.A_log"
    assert torch.allclose(plan.tensor(states), theirs(states).detach(), atol=1e-6)
    ours = np.concatenate(
        [plan.tensor(f"backbone.layers.{n}.mixer.dt_proj.bias").numpy() for n in range(3)]
    )
    drawn = np.concatenate(
        [theirs(f"backbone.layers.{n}.mixer.dt_proj.bias").detach().numpy() for n in range(3)]
    )
    assert scipy.stats.ks_2samp(ours, drawn).pvalue > 0.01


def test_mamba_2_draws_its_decays_where_transformers_counts_the_heads() -> None:
    plan, states = planned("mamba2"), "backbone.layers.1.mixer.A_log"
    assert plan.entries[states].spec == Logarithm(Uniform(1, 16))
    assert std(plan, "backbone.layers.0.mixer.in_proj.weight") == pytest.approx(1 / sqrt(3 * 64))
    assert std(plan, "backbone.layers.0.mixer.out_proj.weight") == pytest.approx(
        1 / sqrt(3 * INNER) / sqrt(3)
    )
    assert plan.entries["backbone.embeddings.weight"].spec == Normal(0.02)
    counted = torch.log(torch.arange(1, 17.0))
    assert torch.equal(built("mamba2").get_parameter(states).detach(), counted)


@pytest.mark.parametrize(
    ("text", "leaf", "spec"),
    [
        ("mamba(dt_min=0.01)", "dt_proj.bias", InverseSoftplus(LogUniform(0.01, 0.1), 1e-4)),
        ("mamba(dt_floor=0.02)", "dt_proj.bias", InverseSoftplus(LogUniform(0.001, 0.1), 0.02)),
        ("mamba2(a_max=8)", "A_log", Logarithm(Uniform(1, 8))),
    ],
)
def test_numbers_of_mamba(text: str, leaf: str, spec: object) -> None:
    plan = plan_model(view("mamba"), text)
    assert plan.recipe == text
    assert plan.entries[f"backbone.layers.0.mixer.{leaf}"].spec == spec


def rwkv_lm(layers: int = 3, width: int = 12) -> ModelView:
    """The parameters of RWKV-LM by their names there."""
    made = [
        parameter("emb.weight", (40, width), "embedding", axes=None, fan_in=None, fan_out=None),
        parameter("head.weight", (40, width), "head"),
    ]
    for layer in range(layers):
        for leaf in ("time_decay", "time_first"):
            made.append(parameter(f"blocks.{layer}.att.{leaf}", (width,), "unknown"))
        for leaf in ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_r"):
            name = f"blocks.{layer}.{leaf}"
            made.append(parameter(name, (1, 1, width), "norm_scale", axes=None))
        for leaf in ("att.key", "att.value", "att.receptance", "att.output", "ffn.receptance"):
            made.append(parameter(f"blocks.{layer}.{leaf}.weight", (width, width)))
        made.append(parameter(f"blocks.{layer}.ffn.key.weight", (4 * width, width), "mlp_up"))
        made.append(parameter(f"blocks.{layer}.ffn.value.weight", (width, 4 * width), "mlp_down"))
    return model(*made)


def test_rwkv_has_the_formula_of_its_source() -> None:
    layers, width = 3, 12
    plan = plan_model(rwkv_lm(layers, width), "rwkv(lr_init=0.001)")
    channel = np.arange(width)
    for layer in range(layers):
        late, early = layer / (layers - 1), 1 - layer / layers
        mix = (channel / width) ** early
        wanted = {
            "att.time_decay": -5 + 8 * (channel / (width - 1)) ** (0.7 + 1.3 * late),
            "att.time_first": np.log(0.3) + ((channel + 1) % 3 - 1) * 0.5,
            "att.time_mix_k": mix,
            "att.time_mix_v": mix + 0.3 * late,
            "att.time_mix_r": (channel / width) ** (0.5 * early),
            "ffn.time_mix_r": mix,
        }
        for leaf, values in wanted.items():
            drawn = plan.tensor(f"blocks.{layer}.{leaf}").reshape(-1).numpy()
            assert drawn == pytest.approx(values, abs=1e-6), leaf
    for leaf in ("att.key", "att.receptance", "att.output", "ffn.receptance", "ffn.value"):
        assert plan.entries[f"blocks.1.{leaf}.weight"].spec == Constant(0)
    assert plan.entries["blocks.1.att.value.weight"].spec == Orthogonal(1)
    assert plan.entries["blocks.1.ffn.key.weight"].spec == Orthogonal(2)
    assert plan.entries["head.weight"].spec == Orthogonal(0.5 * sqrt(40 / width))
    assert plan.entries["emb.weight"].spec == Uniform(-0.001, 0.001)


@pytest.mark.parametrize("leaf", ["decay", "mix_key", "mix_value", "mix_receptance", "first"])
def test_ramps_of_rwkv_are_those_of_transformers(leaf: str) -> None:
    for layer in range(3):
        name = f"rwkv.blocks.{layer}.attention.time_{leaf}"
        ours, theirs = planned("rwkv").tensor(name), built("rwkv").get_parameter(name).detach()
        if leaf == "first":  # where transformers takes ones_like of the formula
            assert torch.equal(theirs, torch.ones_like(theirs))
            assert ours.mean().item() == pytest.approx(log(0.3), abs=0.02)
        else:
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_rwkv_needs_numbered_blocks_and_copes_with_one() -> None:
    alone = model(parameter("time.time_decay", (4,), "unknown"))
    with pytest.raises(RecipeError, match=r"rwkv: time.time_decay: needs the number of the block"):
        plan_model(alone, "rwkv")
    plan = plan_model(model(parameter("b.0.att.time_decay", (1,), "unknown")), "rwkv")
    assert plan.tensor("b.0.att.time_decay").item() == -5


# Adapters -----------------------------------------------------------------------------------------


@cache
def adapted(start: object) -> nn.Module:
    """A small Llama with adapters of rank 16, as peft starts them."""
    transformers = import_optional("transformers")
    peft = pytest.importorskip("peft")
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 1}
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)
    )
    targets = ["q_proj", "v_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for what that has renamed
        return peft.get_peft_model(
            base, peft.LoraConfig(r=16, target_modules=targets, init_lora_weights=start)
        )


@pytest.mark.parametrize(
    ("recipe", "start", "spread_a", "spread_b"),
    [
        ("lora", True, lambda fan_in: 1 / sqrt(3 * fan_in), 0.0),
        ("lora_gaussian", "gaussian", lambda fan_in: 1 / 16, 0.0),
        ("lora_orthogonal", "orthogonal", lambda fan_in: 0.1 / sqrt(2), 0.1 / sqrt(2)),
    ],
)
def test_adapters_have_the_formula_and_the_spread_of_peft(
    recipe: str, start: object, spread_a: object, spread_b: float
) -> None:
    net = adapted(start)
    plan = initium.plan(net, recipe, inputs={"input_ids": IDS})
    seen = 0
    for name, entry in plan.entries.items():
        if "lora_A" in name:
            wanted = spread_a(entry.shape[1])  # type: ignore[operator]
        elif "lora_B" in name:
            wanted = spread_b
        else:
            assert entry.role == "buffer" or entry.spec == Keep()
            continue
        seen += 1
        assert entry.std == pytest.approx(wanted)
        assert net.get_parameter(name).std().item() == pytest.approx(wanted, rel=0.1)
        assert plan.tensor(name).std().item() == pytest.approx(wanted, rel=0.1)
    assert seen == 6
    assert [need.what for need in plan.needs] == ["scaling of the update"]


def test_orthogonal_adapters_start_without_an_update() -> None:
    plan = initium.plan(adapted(True), "lora_orthogonal", inputs={"input_ids": IDS})
    ups = [name for name in plan.entries if "lora_B" in name]
    for up in ups:
        down = plan.tensor(up.replace("lora_B", "lora_A")).double()
        update = plan.tensor(up).double() @ down
        assert update.abs().max() < 1e-6
        assert down.norm() > 1


def test_adapters_of_embeddings_are_the_other_way_round() -> None:
    views = (
        parameter("embed.lora_embedding_A.default", (4, 50), "embedding"),
        parameter("embed.lora_embedding_B.default", (32, 4)),
    )
    plan = plan_model(model(*views), "lora")
    specs = [entry.spec for entry in plan.entries.values()]
    assert specs == [Constant(0), Normal(1)]


def test_orthogonal_adapters_refuse_what_they_cannot_pair() -> None:
    down = parameter("q.lora_A.weight", (4, 8), "lora_a")
    with pytest.raises(RecipeError, match=r"q.lora_B.weight: must read exactly one A"):
        plan_model(model(down, parameter("q.lora_B.weight", (8, 4), "lora_b")), "lora_orthogonal")
    odd = parameter("q.lora_A.weight", (3, 8), "lora_a")
    with pytest.raises(PlanError, match=r"complements\(0.1\): needs an even rank"):
        plan_model(model(odd), "lora_orthogonal")


# Single papers ------------------------------------------------------------------------------------


class Block_(nn.Module):
    """x + alpha f(x), with another scale inside f if ``noisy``."""

    def __init__(self, width: int, noisy: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.alpha = nn.Parameter(torch.ones(1))
        self.heat = nn.Parameter(torch.ones(())) if noisy else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.alpha * self.down(torch.relu(self.up(x) * self.heat))


class Residual(nn.Module):
    """Two gated blocks between two layers, and a temperature of the logits."""

    def __init__(self, noisy: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(Block_(8, noisy) for _ in range(2))
        self.leave = nn.Linear(8, 3)
        self.temperature = nn.Parameter(torch.full((), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x) * self.temperature


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def specs(net: nn.Module, recipe: object, x: torch.Tensor) -> dict[str, object]:
    plan = initium.plan(net, recipe, inputs=x)
    plan.apply(net)
    return {name: entry.spec for name, entry in plan.entries.items()}


X = torch.linspace(-1, 1, 24).reshape(4, 6)


def test_rezero_closes_every_branch_and_leaves_other_scales() -> None:
    net = Residual()
    found = specs(net, "rezero", X)
    assert (found["blocks.0.alpha"], found["blocks.1.alpha"]) == (Constant(0), Constant(0))
    assert found["temperature"] == Constant(2)
    bound = sqrt(6 / (8 + 16))
    assert found["blocks.1.up.weight"] == Uniform(-bound, bound)
    wanted = net.leave(net.enter(X)) * 2
    assert torch.allclose(net(X), wanted)


def test_skipinit_is_he_with_closed_branches() -> None:
    found = specs(Residual(), "skipinit(0.5)", X)
    assert found["blocks.0.alpha"] == Constant(0.5)
    assert found["blocks.0.up.weight"] == Normal(sqrt(2 / 8))
    assert found["blocks.0.down.weight"] == Normal(sqrt(1 / 16))


def test_gates_that_cannot_be_told_from_other_scales_must_be_named() -> None:
    with pytest.raises(RecipeError, match="2 scales beside 1 residual branches: which are gates"):
        specs(Residual(noisy=True), "rezero", X)
    found = specs(Residual(noisy=True), 'rezero(gates="*.alpha")', X)
    assert (found["blocks.0.alpha"], found["blocks.0.heat"]) == (Constant(0), Constant(1))


@pytest.mark.parametrize("recipe", ["rezero", "skipinit"])
def test_a_model_without_gates_is_told_what_it_needs(recipe: str) -> None:
    plan = initium.plan(mlp(6, 8, 3), recipe, inputs=X)
    (need,) = plan.needs
    assert str(need).startswith("residual gate learned, 0 at the start: alpha of every x + alpha")
    assert initium.plan(Residual(), recipe, inputs=X).needs == ()


def test_zero_hadamard_draws_nothing_at_random() -> None:
    net = Residual()
    found = specs(net, "zero_hadamard", X)
    assert found["enter.weight"] == Hadamard()
    assert found["blocks.0.up.weight"] == Hadamard()
    assert found["blocks.0.down.weight"] == found["leave.weight"] == Constant(0)
    assert specs(mlp(8, 8, 4, 2), "zero_hadamard", torch.ones(2, 8))["2.weight"] == Identity()
    wanted = scipy.linalg.hadamard(8)[:, :6] / sqrt(8)
    assert net.enter.weight.detach().numpy() == pytest.approx(wanted)
    convolution = nn.Sequential(
        *(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(80, 2))
    )
    found = specs(convolution, "zero_hadamard", torch.ones(1, 3, 8, 8))
    assert (found["0.weight"], found["2.weight"]) == (Dirac(), Hadamard())


def test_an_identity_rnn_keeps_its_state() -> None:
    net = nn.RNN(5, 8, nonlinearity="relu")
    found = specs(net, "irnn", torch.zeros(3, 2, 5))
    assert found["weight_ih_l0"] == Normal(0.001)
    assert found["weight_hh_l0"] == Identity()
    state = torch.rand(1, 2, 8)
    out, _ = net(torch.zeros(30, 2, 5), state)
    assert torch.equal(out[-1], state[0])
    gates = specs(nn.LSTM(5, 8), "irnn(0.5, 0.01)", torch.zeros(3, 2, 5))["weight_hh_l0"]
    assert isinstance(gates, Blocks)
    assert {part.spec for part in gates.parts} == {Identity(0.5)}


def test_looks_linear_networks_are_linear() -> None:
    net = mlp(6, 12, 20, 12, 4)
    found = specs(net, "looks_linear", X)
    assert found["0.weight"] == Mirrored(Orthogonal(), (0,))
    assert found["2.weight"] == Mirrored(Orthogonal())
    assert found["6.weight"] == Mirrored(Orthogonal(), (1,))
    x, y = torch.randn(2, 50, 6)
    assert torch.allclose(net(x + 2 * y), net(x) + 2 * net(y), atol=1e-5)
    deep = mlp(*(16,) * 20)
    specs(deep, "looks_linear(1)", torch.ones(1, 16))
    signal = torch.randn(9, 16)
    assert deep(signal).norm().item() > 0.1 * signal.norm().item()


def test_looks_linear_convolutions_are_linear_and_odd_widths_are_he() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 3)),
    )
    found = specs(net, "looks_linear", torch.ones(1, 2, 4, 4))
    assert found["2.weight"] == Mirrored(DeltaOrthogonal())
    x, y = torch.randn(2, 5, 2, 4, 4)
    assert torch.allclose(net(x + 2 * y), net(x) + 2 * net(y), atol=1e-5)
    found = specs(mlp(6, 7, 4), "looks_linear", X)
    assert found == {**found, "0.weight": Normal(sqrt(2 / 6)), "2.weight": Orthogonal()}


def test_delta_orthogonal_keeps_norms() -> None:
    net = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(9)))
    found = specs(net, "delta_orthogonal", torch.ones(1, 8, 5, 5))
    assert set(found.values()) == {DeltaOrthogonal()}
    x = torch.randn(2, 8, 5, 5)
    assert torch.allclose(net(x).norm(dim=1), x.norm(dim=1), rtol=1e-4)
    mixed = nn.Sequential(nn.Conv1d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    found = specs(mixed, "delta_orthogonal", torch.ones(1, 4, 5))
    assert found["0.weight"] == DeltaOrthogonal(sqrt(2), 2)
    assert found["3.weight"] == Orthogonal()
    assert specs(mixed, "delta_orthogonal(3)", torch.ones(1, 4, 5))["0.weight"].gain == 3


# Mimetic ------------------------------------------------------------------------------------------


def attention(fused: bool, transposed: bool = False, **known: object) -> ModelView:
    """Attention of width 24 with 3 heads, as fused or single matrices."""
    axes = Axes(inputs=(0,), outputs=(1,)) if transposed else Axes(inputs=(1,), outputs=(0,))
    known = {"axes": axes, "head_dim": 8, **known}
    out = parameter("h.0.attn.out.weight", (24, 24), "attn_out", **known)
    if fused:
        blocks = tuple(
            Block(label, int(transposed), 24 * place, 24) for place, label in enumerate("qkv")
        )
        shape = (24, 72) if transposed else (72, 24)
        known = {**known, "blocks": blocks, "fan_in": 24, "fan_out": 24}
        return model(out, parameter("h.0.attn.qkv.weight", shape, "attn_qkv", **known))
    names = ("q", "k", "v")
    return model(
        out,
        *(
            parameter(f"h.0.attn.{name}.weight", (24, 24), f"attn_{name}", **known)
            for name in names
        ),
    )


@pytest.mark.parametrize(("fused", "transposed"), [(False, False), (True, False), (True, True)])
def test_mimetic_products_are_near_the_identity(fused: bool, transposed: bool) -> None:
    plan = plan_model(attention(fused, transposed), "mimetic(0, 1, 0, 0.5)")
    out = plan.tensor("h.0.attn.out.weight")
    if fused:
        q, k, v = plan.tensor("h.0.attn.qkv.weight").chunk(3, int(transposed))
    else:
        q, k, v = (plan.tensor(f"h.0.attn.{name}.weight") for name in "qkv")
    if transposed:
        q, k, v, out = q.T, k.T, v.T, out.T
    assert torch.allclose(out @ v, -0.5 * torch.eye(24), atol=1e-6)
    for head in range(3):
        rows = slice(8 * head, 8 * head + 8)
        product = q[rows].T @ k[rows]
        assert torch.allclose(product @ product, product, atol=1e-5)
        assert torch.trace(product).item() == pytest.approx(8)


def test_mimetic_has_the_numbers_of_the_paper() -> None:
    plan = plan_model(attention(False), "mimetic")
    spec = plan.entries["h.0.attn.q.weight"].spec
    assert isinstance(spec, Joint)
    assert str(spec.of) == "near_identity(0.7, 0.7, heads=3)"
    q, k = (plan.tensor(f"h.0.attn.{name}.weight").numpy() for name in "qk")
    v, out = (plan.tensor(f"h.0.attn.{name}.weight").numpy() for name in ("v", "out"))
    noise = (out @ v).T + 0.4 * np.eye(24)
    assert noise.std() == pytest.approx(0.4 / sqrt(24), rel=0.1)
    singular = np.linalg.svd(q[:8].T @ k[:8], compute_uv=False)
    assert (singular[8:] < 1e-5).all()
    assert singular[0] < 0.7 + 2 * 0.7


def test_mimetic_can_be_told_the_heads_and_asks_for_them() -> None:
    with pytest.raises(RecipeError, match=r"the number of heads is not known. Fix: pass it, as in"):
        plan_model(attention(False, head_dim=None), "mimetic")
    plan = plan_model(attention(False, head_dim=None), "mimetic(heads=6)")
    assert plan.entries["h.0.attn.k.weight"].spec.of.heads == 6


def test_mimetic_refuses_what_is_not_defined() -> None:
    whole = attention(False)
    grouped = dataclasses.replace(
        whole,
        parameters={
            **whole.parameters,
            "h.0.attn.k.weight": parameter("h.0.attn.k.weight", (8, 24), "attn_k", head_dim=8),
        },
    )
    with pytest.raises(RecipeError, match="have not as many heads, as with grouped queries"):
        plan_model(grouped, "mimetic")
    alone = model(parameter("h.0.attn.q.weight", (24, 24), "attn_q", head_dim=8))
    with pytest.raises(RecipeError, match="has no single attn_k that it is drawn with"):
        plan_model(alone, "mimetic")


def test_recipes_take_rules_in_front() -> None:
    plan = plan_model(attention(False), "mimetic", rules=[Rule("zeros", role="attn_out")])
    assert plan.entries["h.0.attn.out.weight"].spec == Constant(0)


@pytest.mark.parametrize(
    "name",
    [
        *("mamba", "mamba2", "rwkv", "lora", "lora_gaussian", "lora_orthogonal", "zero_hadamard"),
        *("mimetic", "rezero", "skipinit", "irnn", "looks_linear", "delta_orthogonal"),
    ],
)
def test_every_recipe_is_registered_and_cites_its_source(name: str) -> None:
    made = recipes.RECIPES[name]
    assert made().text == name
    for section in ("Formula:", "Source:", "Known divergences:", "Example:"):
        assert section in (made.__doc__ or "")
