"""``calibrate``: every product with a weight meets its target on the batch, and nothing else moves.

The oracle is independent: plain forward hooks that square what layers put out. Closed forms where
they exist, torch's own seeds and copies of the state for what must stay as it was.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import initium
from initium import Calibration, ModelView, calibrate
from initium._load.optional import import_optional
from initium._model.quiet import without_dropout
from initium.demo.models import ACTIVATIONS, GPT, ConvNet, ResNet, ViT, mlp
from initium.errors import InputError, ModelError, PlanError

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Embedding)


def measured(model: nn.Module, inputs: object) -> dict[str, float]:
    """Second moments of what the weighted layers put out, by plain hooks."""
    found: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):

            def hook(_: nn.Module, __: object, out: torch.Tensor, name: str = name) -> None:
                found[f"{name}.weight"] = out.double().square().mean().item()

            handles.append(module.register_forward_hook(hook))
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad(), without_dropout(model):
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    model.load_state_dict(state)
    for handle in handles:
        handle.remove()
    return found


def must_agree(model: nn.Module, inputs: object, made: Calibration, least: int) -> None:
    """Hooks see every scaled layer within 1% of what is said, and that within 10% of its target."""
    seen = measured(model, inputs)
    checked = 0
    for one in made.scaled:
        assert one.reached, one
        if not one.block and one.name in seen:
            assert seen[one.name] == pytest.approx(one.after, rel=1e-2), one
            checked += 1
    assert checked >= least


def again(
    model: nn.Module, inputs: object, passes: int = 1, view: ModelView | None = None
) -> float:
    """How far from 1 the factors of a second calibration are."""
    made = calibrate(model, inputs, passes=passes, view=view)
    return max(abs(one.factor - 1) for one in made.scaled)


def by_name(made: Calibration) -> dict[str, initium._calibrate.Scaled]:
    return {f"{one.name}{one.block and f'[{one.block}]'}": one for one in made.scaled}


# -- plain networks ---------------------------------------------------------------------------


PLAIN = [(activation, 10) for activation in sorted(ACTIVATIONS)] + [("relu", 100)]


@pytest.mark.parametrize(("activation", "depth"), PLAIN)
def test_every_layer_of_a_plain_network_has_second_moment_one(activation: str, depth: int) -> None:
    model, batch = mlp(activation, depth, 24, 16), torch.randn(32, 16)
    view = initium.inspect(model, batch)
    made = calibrate(model, batch, view=view)
    must_agree(model, batch, made, depth)
    hidden = [one for one in made.scaled if one.role != "head"]
    assert len(hidden) == depth - 1
    assert all(one.after == pytest.approx(1, abs=1e-3) for one in hidden)
    assert made.scaled[-1].target == 0.04
    assert again(model, batch, view=view) < 0.01


def test_a_network_that_overflows_is_brought_back() -> None:
    model = mlp("relu", 30, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    batch = torch.randn(32, 64)
    assert not model(batch).isfinite().all()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    made = calibrate(model, batch)
    assert made.reached
    assert model(batch).isfinite().all()
    assert json.loads(made.to_json())["scaled"][-1]["before"] is None


def lsuv(model: nn.Sequential, batch: torch.Tensor, tolerance: float = 0.1) -> None:
    """Algorithm 1 of Mishkin and Matas (2016): orthonormal, then divide by the output's std."""
    x = batch
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                for _ in range(10):
                    if abs((variance := layer(x).var().item()) - 1) < tolerance:
                        break
                    layer.weight.div_(variance**0.5)
            x = layer(x)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_on_a_plain_network_it_does_what_lsuv_does(activation: str) -> None:
    """From the same directions both end at the same weights, but for LSUV's tolerance."""
    ours, batch = mlp(activation, 12, 64), torch.randn(256, 64)
    for layer in ours:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
            nn.init.orthogonal_(layer.weight)
    theirs = copy.deepcopy(ours)
    calibrate(ours, batch)
    torch.manual_seed(7)
    lsuv(theirs, batch)
    for mine, other in list(zip(ours, theirs, strict=True))[:-1]:
        if isinstance(mine, nn.Linear):
            scale = other.weight.norm() / mine.weight.norm()
            assert 0.85 < scale < 1.2  # variance within 10%, and mean^2 is not part of it
    x = batch
    for layer in theirs[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert 0.9 <= x.var().item() <= 1.1


def test_biases_are_part_of_what_is_brought_to_its_target() -> None:
    layer, batch = nn.Linear(16, 64), torch.randn(512, 16)
    nn.init.uniform_(layer.bias, -1, 1)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 8))
    bias = layer.bias.clone()
    made = calibrate(model, batch)
    assert layer(batch).square().mean().item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(layer.bias, bias)
    assert made.reached


def test_a_bias_that_is_too_large_is_said_and_the_product_brought_there() -> None:
    model, batch = nn.Sequential(nn.Linear(16, 64, bias=True)), torch.randn(512, 16)
    nn.init.constant_(model[0].bias, 3.0)
    (one,) = calibrate(model, batch).scaled
    assert "its bias alone is above that" in one.reason
    assert not one.reached
    product = model(batch) - model[0].bias
    assert product.square().mean().item() == pytest.approx(one.target, rel=1e-3)


# -- any kind of layer -------------------------------------------------------------------------


class Products(nn.Module):
    """Products of every spelling, registered in the reverse of the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ["at", "left", "einsum", "addmm", "bmm", "tensordot", "mul", "function"]
        for name in reversed(self.names):
            shape = (4, 8, 8) if name == "bmm" else (8, 8)
            setattr(self, name, nn.Parameter(torch.rand(1) * 3 * torch.randn(shape)))
        self.out: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            weight = getattr(self, name)
            x = torch.tanh(self.apply_one(name, x, weight))
        return x

    def apply_one(self, name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "at": lambda: x @ weight,
            "left": lambda: (weight @ x.transpose(0, 1)).transpose(0, 1),
            "einsum": lambda: torch.einsum("bi,oi->bo", x, weight),
            "addmm": lambda: torch.addmm(torch.full((8,), 0.1), x, weight.t()),
            "bmm": lambda: torch.bmm(x.view(4, -1, 8), weight).reshape(-1, 8),
            "tensordot": lambda: torch.tensordot(x, weight, dims=1),
            "mul": lambda: torch.matmul(x, weight.t().contiguous()),
            "function": lambda: F.linear(x, weight),
        }
        self.out[name] = ways[name]()
        return self.out[name]


def test_any_spelling_of_a_product_in_execution_order() -> None:
    model, batch = Products(), torch.randn(64, 8)
    made = calibrate(model, batch)
    assert [one.name for one in made.scaled] == model.names
    model(batch)
    for one in made.scaled:
        moment = model.out[one.name].square().mean().item()
        assert moment == pytest.approx(one.target, rel=1e-3), one
    assert again(model, batch) < 0.01


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 8, 3, padding=1), (4, 4, 20)),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (4, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3, bias=False, padding_mode="circular", padding=1), (4, 4, 9, 9)),
        (nn.Conv3d(4, 8, 2), (4, 4, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 8, 3, stride=2), (4, 4, 5, 5)),
        (nn.Linear(4, 8), (2, 3, 4)),
        (nn.Linear(4, 8), (4,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_layers_of_every_shape(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(0, -1) if len(shape) == 1 else nn.ReLU())
    batch = torch.randn(shape)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    (one,) = calibrate(model, batch).scaled
    assert layer(batch).square().mean().item() == pytest.approx(one.target, rel=1e-3)


def test_a_bilinear_layer() -> None:
    layer, batch = nn.Bilinear(5, 6, 7), (torch.randn(32, 5), torch.randn(32, 6))
    (one,) = calibrate(layer, batch).scaled
    assert one.operator == "bilinear"
    assert layer(*batch).square().mean().item() == pytest.approx(one.target, rel=1e-3)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_layers_by_their_input_weights(kind: type[nn.RNNBase], packed: bool) -> None:
    model = kind(6, 8, 2, bidirectional=True, dropout=0.5)
    batch: object = torch.randn(5, 4, 6)
    if packed:
        batch = nn.utils.rnn.pack_padded_sequence(batch, torch.tensor([5, 4, 3, 2]))
    wrapped = Holding(model)
    made = calibrate(wrapped, Boxed(batch) if packed else batch)
    names = {one.name for one in made.scaled}
    assert names == {f"inner.weight_ih_l{n}{side}" for n in (0, 1) for side in ("", "_reverse")}
    data = batch.data if packed else batch
    first = model.weight_ih_l0
    assert F.linear(data, first).square().mean().item() == pytest.approx(1, rel=1e-2)
    assert all("every step" in one.reason for one in made.left if "weight_hh" in one.name)


class Boxed:
    """Something that is not a tensor, as an argument."""

    def __init__(self, value: object) -> None:
        self.value = value


class Holding(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: object) -> torch.Tensor:
        out = self.inner(x.value if isinstance(x, Boxed) else x)[0]
        return out if isinstance(out, torch.Tensor) else out.data


def test_a_convolutional_network() -> None:
    model, batch = ConvNet(10), torch.randn(8, 1, 8, 8)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 11)
    assert again(model, batch) < 0.01


# -- residual networks and transformers --------------------------------------------------------


class NormFree(nn.Module):
    """x + f(x), without a normalisation; each branch is two layers."""

    def __init__(self, width: int, depth: int, in_place: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width, bias=False)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(depth))
        self.in_place = in_place
        self.stream: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        self.stream = [x.square().mean().item()]
        for up, down in zip(self.up, self.down, strict=True):
            branch = F.dropout(down(F.relu(up(x))), 0.1, self.training)
            x = x.add_(branch) if self.in_place else x + branch
            self.stream.append(x.square().mean().item())
        return x


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("depth", [2, 12])
def test_a_residual_stream_about_doubles_however_deep(depth: int, in_place: bool) -> None:
    model, batch = NormFree(64, depth, in_place), torch.randn(128, 64)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 2 * depth + 1)
    for one in made.scaled:
        if one.name.startswith("down"):
            assert one.target == pytest.approx(1 / depth, rel=1e-3)
            assert f"1/{depth} of the stream" in one.reason
    with torch.no_grad():
        model.eval()(batch)
    assert 1.5 < model.stream[-1] / model.stream[0] < 3


def test_the_share_is_that_of_the_stream_as_it_is() -> None:
    """A stream that is the model's input has the moment that the input has."""
    model = NormFree(32, 4)
    model.embed = nn.Identity()  # type: ignore[assignment]
    batch = 10 * torch.randn(64, 32)
    made = calibrate(model, batch)
    assert made.reached
    share = batch.square().mean().item() / 4
    for one in made.scaled:
        if one.name.startswith("down"):
            assert one.target == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_torchs_own_transformer_layers(norm_first: bool, training: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2).train(training)
    batch = torch.randn(8, 10, 32)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 4)
    found = by_name(made)
    for layer in (0, 1):
        for block in "qkv":
            assert found[f"layers.{layer}.self_attn.in_proj_weight[{block}]"].after == (
                pytest.approx(1, rel=1e-3)
            )
    weight, out = model.layers[0].self_attn.in_proj_weight, batch
    bias = model.layers[0].self_attn.in_proj_bias
    if norm_first:
        out = model.layers[0].norm1(batch)
    q, k, v = F.linear(out, weight, bias).chunk(3, -1)
    for part in (q, k, v):
        assert part.square().mean().item() == pytest.approx(1, rel=1e-3)
    share = found["layers.0.linear2.weight"]
    assert share.reason.startswith("1/4" if norm_first else "1/1")
    assert again(model, batch) < 0.01


def test_torchs_encoder_and_decoder() -> None:
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    batch = (torch.randn(4, 6, 16), torch.randn(4, 5, 16))
    made = calibrate(model, batch)
    assert made.reached
    cross = [one for one in made.scaled if "multihead_attn.in_proj" in one.name]
    assert {one.block for one in cross} == {"q", "k", "v"}
    assert max(abs(one.factor - 1) for one in calibrate(model, batch).scaled) < 0.01


def test_residual_networks_with_batch_norm() -> None:
    model, batch = ResNet(), torch.randn(8, 1, 8, 8)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 10)
    assert all(one.target == 1 for one in made.scaled if "conv" in one.name)
    assert int(model.stem[1].num_batches_tracked) == 0


def test_a_vision_transformer() -> None:
    model, batch = ViT(layers=2), torch.randn(8, 1, 8, 8)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 5)
    assert by_name(made)["patch.weight"].after == pytest.approx(1, rel=1e-3)


def test_a_table_that_is_tied_to_the_head_makes_small_logits() -> None:
    model = GPT(40, context=16, width=32, layers=2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "norm" not in name:
            nn.init.zeros_(parameter)
    ids = torch.randint(40, (8, 16))
    made = calibrate(model, ids)
    assert made.reached
    found = by_name(made)
    assert found["embedding.weight"].target == pytest.approx(0.04 / 32)
    assert found["position.weight"].target == pytest.approx(0.01 / 32)
    loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(40.0).log().item(), rel=0.03)


class Unscaled(nn.Module):
    """Attention whose logits are, or are not, divided by sqrt(d)."""

    def __init__(self, divided: bool, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))
        self.divided, self.fused = divided, fused
        self.logits = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (4, 16)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        scale = 0.25 if self.divided else 1.0
        self.logits = q @ k.transpose(-1, -2) * scale
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        return self.logits.softmax(-1) @ v


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("divided", [False, True])
def test_attention_logits_are_of_order_one(divided: bool, fused: bool) -> None:
    model, batch = Unscaled(divided, fused), torch.randn(16, 12, 64)
    made = calibrate(model, batch)
    model(batch)
    assert 0.5 < model.logits.square().mean().item() < 2
    assert by_name(made)["q.weight"].target == pytest.approx(1 if divided else 0.25)


SMALL = {
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}),
    "Llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "T5": ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}),
}


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_small_transformers_of_the_library(kind: str) -> None:
    library = import_optional("transformers")
    name, settings = SMALL[kind]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    sizes |= {"vocab_size": 60, "num_hidden_layers": 1, "num_layers": 1}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind != "Llama":
        sizes = {key: size for key, size in sizes.items() if not key.endswith(("_size", "heads"))}
        sizes["vocab_size"] = 60
    model = getattr(library, name)(getattr(library, f"{kind}Config")(**sizes, **settings))
    ids = torch.randint(3, 60, (8, 16))
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "T5" else {})
    view = initium.inspect(model, batch)
    made = calibrate(model, batch, view=view)
    assert len(made.scaled) >= 6
    assert made.reached, str(made)
    assert again(model, batch, view=view) < 0.01


def test_a_small_model_of_timm() -> None:
    timm = import_optional("timm")
    model, batch = timm.create_model("resnet10t"), torch.randn(2, 3, 32, 32)
    made = calibrate(model, batch)
    must_agree(model, batch, made, 10)


# -- weights that are not plain ----------------------------------------------------------------


def normed_weights() -> nn.Sequential:
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        weight_norm(nn.Linear(8, 16)), nn.ReLU(), weight_norm(nn.Linear(16, 16)), nn.ReLU()
    )


def test_a_weight_norm_is_scaled_by_its_length() -> None:
    model, batch = normed_weights(), torch.randn(64, 8)
    before = model[0].parametrizations.weight.original1.clone()
    made = calibrate(model, batch)
    must_agree(model, batch, made, 0)
    assert [one.name for one in made.scaled] == [
        f"{layer}.parametrizations.weight.original0" for layer in (0, 2)
    ]
    assert torch.equal(model[0].parametrizations.weight.original1, before)
    seen = measured(model, batch)
    assert seen["0.weight"] == pytest.approx(1, rel=1e-3)
    assert seen["2.weight"] == pytest.approx(1, rel=1e-3)
    directions = [one for one in made.left if "original1" in one.name]
    assert [one.reason for one in directions] == ["a direction: its length is scaled instead"] * 2


def test_a_spectral_norm_undoes_any_scale_and_is_left_alone() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16)), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    made = calibrate(model, torch.randn(64, 8))
    assert not made.scaled
    assert any("no multiple of one parameter" in one.reason for one in made.left)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Standardised(nn.Linear):
    """Weight standardisation, with or without a factor that undoes nothing."""

    scaled = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight * 3 if self.scaled else self.weight / self.weight.std()
        return F.linear(x, weight, self.bias)


@pytest.mark.parametrize("scaled", [False, True])
def test_weights_that_forward_computes(scaled: bool) -> None:
    layer = Standardised(8, 16)
    layer.scaled = scaled
    batch = torch.randn(64, 8)
    made = calibrate(nn.Sequential(layer, nn.ReLU()), batch)
    assert len(made.scaled) == scaled
    if scaled:
        assert layer(batch).square().mean().item() == pytest.approx(1, rel=1e-3)


def test_zero_weights_stay_closed() -> None:
    model, batch = NormFree(16, 3), torch.randn(32, 16)
    nn.init.zeros_(model.down[1].weight)
    made = calibrate(model, batch)
    assert not model.down[1].weight.any()
    (left,) = (one for one in made.left if one.name == "down.1.weight")
    assert left.reason == "zero: it stays closed"
    assert made.reached


def test_outputs_without_a_signal_are_reported() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.three = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            zero = self.two(F.relu(self.one(x) - 100))
            return zero + self.three(torch.ones_like(x))

    made = calibrate(Dead(), torch.randn(8, 4))
    reasons = {one.name: one.reason for one in made.left}
    assert reasons["two.weight"] == "its output is zero on this batch"
    assert reasons["three.weight"] == "its output is one constant on this batch"


def test_frozen_weights_and_vectors_are_left_alone() -> None:
    model = mlp("relu", 3, 8, 8)
    model[0].weight.requires_grad_(False)
    made = calibrate(model, torch.randn(16, 8))
    reasons = {one.name: one.reason for one in made.left}
    assert reasons["0.weight"] == "frozen"
    assert reasons["2.bias"] == "not the weight of a product"
    assert len(made.scaled) + len(made.left) == 6


def test_padding_is_not_part_of_what_is_looked_up() -> None:
    table = nn.Embedding(10, 8, padding_idx=0)
    model = nn.Sequential(table, nn.LayerNorm(8))
    ids = torch.tensor([[1, 2, 3, 0, 0, 0, 0, 0]])
    calibrate(model, ids)
    assert table(ids[:, :3]).square().mean().item() == pytest.approx(1, rel=1e-3)


def test_a_table_that_its_layer_renormalises_is_left_alone() -> None:
    table = nn.Embedding(10, 8, max_norm=0.5)
    before = table.weight.clone()
    made = calibrate(nn.Sequential(table, nn.Linear(8, 4)), torch.arange(10)[None])
    assert torch.equal(table.weight, before)
    assert any("max_norm" in one.reason for one in made.left)


class Buffered(nn.Module):
    """Data reaches the layers through memory that was made of constants."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "steps":
            out = torch.zeros(x.shape)
            for step in range(x.shape[1]):
                out[:, step] = self.one(x[:, step])
            return self.two(F.relu(out))
        held = torch.zeros(x.shape)
        half = held[..., :4]
        if self.how == "out":
            torch.add(x[..., :4], 1, out=half)
        else:
            half.copy_(x[..., :4])
        return self.two(F.relu(self.one(held)))


@pytest.mark.parametrize("how", ["slice", "steps", "out"])
def test_what_data_is_written_into_is_data(how: str) -> None:
    model, batch = Buffered(how), torch.randn(32, 3, 8)
    nn.init.zeros_(model.two.bias)
    made = calibrate(model, batch)
    assert [one.name for one in made.scaled] == ["one.weight", "two.weight"]
    assert made.reached
    assert model(batch).square().mean().item() == pytest.approx(0.04, rel=1e-3)
    assert how != "steps" or made.scaled[0].uses == 3
    assert not any("no product" in one.reason for one in made.left)


class Gated(nn.Module):
    """A weight times a learned number, and times a learned matrix between nought and one."""

    def __init__(self, number: str, gate: str, weight: str) -> None:
        super().__init__()
        self.names = number, gate, weight
        self.register_parameter(number, nn.Parameter(torch.ones(1)))
        self.register_parameter(gate, nn.Parameter(torch.randn(4, 8)))
        self.register_parameter(weight, nn.Parameter(torch.randn(4, 8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number, gate, weight = (getattr(self, name) for name in self.names)
        return F.linear(x, number * gate.sigmoid() * weight)


@pytest.mark.parametrize("names", ["abc", "cba", "bac", "cab"])
def test_a_computed_weight_is_scaled_whatever_its_parameters_are_called(names: str) -> None:
    model, batch = Gated(*names), torch.randn(32, 8)
    made = calibrate(model, batch)
    assert [one.name for one in made.scaled] == [names[2]]
    assert model(batch).square().mean().item() == pytest.approx(made.scaled[0].target, rel=1e-3)


def test_products_with_learned_inputs_are_listed_as_such() -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents = nn.Parameter(torch.randn(4, 8))
            self.query, self.key, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key = self.query(self.latents), self.key(x)
            return self.head((query @ key.mT).softmax(-1) @ x)

    model = Latent()
    before = model.query.weight.clone()
    made = calibrate(model, torch.randn(5, 6, 8))
    reasons = {one.name: one.reason for one in made.left}
    assert reasons["query.weight"] == "multiplied with parameters, not with data"
    assert torch.equal(model.query.weight, before)
    assert [one.name for one in made.scaled] == ["key.weight", "head.weight"]


# -- weights with several uses -----------------------------------------------------------------


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(8, 16, bias=False), nn.Linear(16, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.shared(a)) * F.relu(self.shared(b)))


def test_uses_of_a_shared_weight_are_averaged() -> None:
    model, batch = Siamese(), (torch.randn(64, 8), 3 * torch.randn(64, 8))
    made = calibrate(model, batch)
    moments = [model.shared(part).square().mean().item() for part in batch]
    assert sum(moments) / 2 == pytest.approx(1, rel=1e-3)
    assert by_name(made)["shared.weight"].uses == 2
    assert max(abs(one.factor - 1) for one in calibrate(model, batch).scaled) < 0.01


class Looped(nn.Module):
    """One layer, again and again, with or without a norm between."""

    def __init__(self, times: int, norm: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32, bias=False)
        self.times, self.norm = times, norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = F.relu(self.layer(x))
            x = F.layer_norm(x, (32,)) if self.norm else x
        return x


@pytest.mark.parametrize("norm", [False, True])
def test_a_weight_that_feeds_itself_needs_more_passes(norm: bool) -> None:
    model, batch = Looped(5, norm), torch.randn(64, 32)
    made = calibrate(model, batch, passes=3)
    assert made.reached, str(made)
    assert by_name(made)["layer.weight"].uses == 5


# -- batches -----------------------------------------------------------------------------------


def batches() -> list[torch.Tensor]:
    return [scale * torch.randn(32, 8) for scale in (0.5, 1.0, 2.0)]


@pytest.mark.parametrize(
    "given_as", [list, iter, lambda parts: DataLoader(torch.cat(parts), batch_size=32)]
)
def test_several_batches_meet_the_target_in_the_mean(given_as: Callable[..., object]) -> None:
    model, parts = mlp("relu", 6, 64, 8), batches()
    made = calibrate(model, given_as(parts))
    assert made.batches == 3
    assert made.reached
    x = torch.cat(parts)
    for layer in model[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert x.square().mean().item() == pytest.approx(1, rel=0.1)


def test_a_second_pass_gets_nearer_and_then_nothing_moves() -> None:
    model, parts = mlp("gelu", 6, 64, 8), batches()
    calibrate(model, parts, passes=3)
    assert again(model, parts, passes=2) < 0.01


def test_a_loader_leaves_the_random_states_and_gives_the_same_batches_to_every_pass() -> None:
    first: list[float] = []

    class Recording(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first.append(float(x[0, 0]))
            return super().forward(x)

    model = Recording(8, 4)
    view = initium.inspect(model, torch.randn(2, 8))
    loader = DataLoader(torch.randn(64, 8), batch_size=16, shuffle=True)
    first.clear()
    before = torch.get_rng_state()
    calibrate(model, loader, view=view)
    assert torch.equal(torch.get_rng_state(), before)
    assert first[:4] == first[-4:]
    assert len(set(first[:4])) == 4
    calibrate(model, loader)
    assert torch.equal(torch.get_rng_state(), before)


class Once(IterableDataset[torch.Tensor]):
    """Gives its samples once, whoever asks."""

    def __init__(self, count: int) -> None:
        self.samples = iter(torch.randn(count, 8))

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.samples


@pytest.mark.parametrize("count", [4, 12])
@pytest.mark.parametrize("known", [False, True])
def test_a_loader_that_gives_its_batches_once_is_refused(count: int, known: bool) -> None:
    model = nn.Linear(8, 4)
    before = model.weight.clone()
    view = initium.inspect(model, torch.randn(2, 8)) if known else None
    with pytest.raises(InputError, match=r"none when it was gone through again.* pass a list of"):
        calibrate(model, DataLoader(Once(count), batch_size=4), view=view)
    assert torch.equal(model.weight, before)


# -- nothing else moves ------------------------------------------------------------------------


def everything(model: nn.Module) -> dict[str, object]:
    """What must be the same afterwards, as data."""
    return {
        "rng": torch.get_rng_state().tolist(),
        "buffers": {name: value.tolist() for name, value in model.named_buffers()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "ids": {name: id(value) for name, value in model.named_parameters()},
        "grad": {
            name: value.grad.tolist() if value.grad is not None else None
            for name, value in model.named_parameters()
        },
        "requires": {name: value.requires_grad for name, value in model.named_parameters()},
        "vectors": {
            name: value.tolist() for name, value in model.named_parameters() if value.dim() == 1
        },
        "grad_mode": torch.is_grad_enabled(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "cache": torch.is_autocast_cache_enabled(),
    }


@pytest.mark.parametrize("training", [False, True])
def test_only_the_scaled_weights_change_and_each_by_one_number(training: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    ).train(training)
    model[1].running_mean.add_(0.3)
    batch = torch.randn(6, 1, 8, 8)
    model(batch).sum().backward()
    model[0].register_forward_hook(lambda *_: None)
    before, weights = everything(model), copy.deepcopy(model.state_dict())
    given_batch = batch.clone()
    made = calibrate(model, batch)
    assert everything(model) == before
    assert torch.equal(batch, given_batch)
    factors = {one.name: one.factor for one in made.scaled}
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name] * factors.get(name, 1)), name


class Breaks(nn.Module):
    """Fails at a given point, after some layers have been scaled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.how, self.calls = how, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.one(x)
        if self.how == "raises" and self.calls > 1:
            raise ValueError("no more")
        if self.how == "infinite":
            x = x / 0
        x = self.two(x)
        return x.abs().neg().sqrt() if self.how == "output" else x


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "raises",
            InputError,
            r"inputs: the model does not run on this batch: ValueError: no more",
        ),
        (
            "infinite",
            ModelError,
            r"two\.weight: the output of its linear in two is not finite, and all weights are as "
            r"they were \(got nan\)\. Fix: look for what makes infinities",
        ),
        ("output", ModelError, r"output: the model's output holds NaN although every product"),
    ],
)
def test_all_or_nothing(how: str, error: type[Exception], message: str) -> None:
    model, batch = Breaks(how), torch.randn(4, 8)
    before, weights = everything(model), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        calibrate(model, batch)
    assert everything(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def expanded() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(1, 2).expand(2, 2))
    return layer


@pytest.mark.parametrize(
    ("make", "inputs", "error", "message"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), torch.ones(1, 2), ModelError, "weight: is on the"),
        (lambda: nn.Linear(2, 2), None, InputError, "inputs: is missing"),
        (lambda: nn.Linear(2, 2), [], InputError, "inputs: holds no batch"),
        (lambda: nn.Linear(2, 2), torch.ones(0, 2), InputError, "inputs: a batch is empty"),
        (lambda: nn.Linear(2, 2), torch.full((1, 2), torch.nan), InputError, "2 of 2 values"),
        (lambda: nn.Linear(2, 2), torch.ones(1, 3), InputError, "does not run on this batch"),
        (lambda: nn.Linear(2, 2), iter(()), InputError, "inputs: holds no batch"),
        (lambda: nn.Linear(2, 2), DataLoader([]), InputError, "inputs: holds no batch"),
        (lambda: nn.Linear(2, 2), Once(3), InputError, "inputs: is a data set .*DataLoader"),
        (lambda: nn.Linear(2, 2), torch.ones(1, 2, device="meta"), InputError, "on the meta"),
        (expanded, torch.ones(1, 2), ModelError, r"weight: is expanded: .*tensor\.clone\(\)"),
        (
            lambda: nn.Linear(2, 2),
            DataLoader(TensorDataset(torch.ones(4, 2), torch.ones(4))),
            InputError,
            r"without their labels: calibrate\(model, \(x for x, _ in loader\)\)",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(
    make: Callable[[], nn.Module], inputs: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        calibrate(make(), inputs)
    assert "\n" not in str(caught.value)
    assert "Fix:" in str(caught.value)


@pytest.mark.parametrize("passes", [0, True, 1.5])
def test_passes_is_a_count(passes: object) -> None:
    with pytest.raises((InputError, Exception), match="passes"):
        calibrate(nn.Linear(2, 2), torch.ones(2, 2), passes=passes)  # type: ignore[arg-type]


# -- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["auto", "he", "orthogonal", "gpt2"])
def test_the_plan_gives_the_calibrated_weights_again(recipe: str, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, batch = nn.TransformerEncoder(layer, 1), torch.randn(4, 6, 16)
    plan = initium.plan(model, recipe, inputs=batch)
    plan.apply(model)
    made = calibrate(model, batch, plan)
    assert made.plan is not None
    fresh = copy.deepcopy(model)
    for parameter in fresh.parameters():
        nn.init.constant_(parameter, 7.0)
    initium.Plan.load(made.plan.save(tmp_path / "plan.yaml")).apply(fresh)
    for (name, ours), theirs in zip(model.named_parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, msg=name)
    entry = made.plan.entries["layers.0.linear1.weight"]
    assert re.search(r"Calibrated: x [\d.e+-]+\.$", entry.reason)
    assert plan.diff(made.plan)


def test_a_plan_of_something_else_is_refused() -> None:
    model, batch = nn.Linear(4, 4), torch.randn(8, 4)
    plan = initium.plan(model, "he")
    with pytest.raises(PlanError, match=r"weight: holds other values than the plan gives it"):
        calibrate(model, batch, plan)
    with pytest.raises(PlanError, match=r"has shape \(4, 3\) in the model and shape \(4, 4\)"):
        calibrate(nn.Linear(3, 4), torch.randn(8, 3), plan)


# -- the result --------------------------------------------------------------------------------


def test_the_table_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = calibrate(mlp("relu", 12, 16, 8), torch.randn(16, 8))
    text = str(made)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Sequential: 12 weights scaled, 12 left alone; 1 pass over 1 batch")
    assert "{0..20..2}.weight" in text


def test_json_holds_everything() -> None:
    made = calibrate(mlp("relu", 2, 16, 8), torch.randn(16, 8))
    data = json.loads(made.to_json())
    assert data["initium"] == "calibration"
    assert data["reached"] is True
    assert [one["name"] for one in data["scaled"]] == ["0.weight", "2.weight"]
    assert {one["operator"] for one in data["scaled"]} == {"linear"}
    assert [one["module"] for one in data["scaled"]] == ["0", "2"]
    assert {one["reason"] for one in data["left"]} == {"not the weight of a product"}


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_where_it_ends_does_not_depend_on_the_scale_it_starts_from(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, batch = mlp("tanh", 4, 8, 8), torch.randn(16, 8)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight.mul_(scale)
    calibrate(model, batch)
    calibrate(other, batch)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def documented() -> Iterator[str]:
    page = Path(__file__).parents[1] / "docs" / "calibrate.md"
    yield from re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_examples_of_the_page_run() -> None:
    ran = 0
    for code in documented():
        exec(compile(code, "docs/calibrate.md", "exec"), {})
        ran += 1
    assert ran
