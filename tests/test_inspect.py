"""What inspection sees: roles, fans, blocks, activations, streams, and that names play no part."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initium
from initium import inspect
from initium._types import Axes, ParameterView
from initium.errors import ModelError


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int | None = None) -> None:
        super().__init__()
        self.heads, self.kv = heads, kv_heads or heads
        self.size = width // heads
        self.fused = nn.Linear(width, (heads + 2 * self.kv) * self.size)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.fused(x).split(
            [self.heads * self.size, self.kv * self.size, self.kv * self.size], dim=-1
        )
        q = q.view(batch, length, self.heads, self.size).transpose(1, 2)
        k = k.view(batch, length, self.kv, self.size).transpose(1, 2)
        v = v.view(batch, length, self.kv, self.size).transpose(1, 2)
        k = k.repeat_interleave(self.heads // self.kv, 1)
        v = v.repeat_interleave(self.heads // self.kv, 1)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(self.size)).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = Attention(width, heads, kv_heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm1(x))
        h = self.up(self.norm2(x))
        gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h.pow(3))))
        return x + self.down(gelu)


class Decoder(nn.Module):
    def __init__(self, depth: int = 3, width: int = 32, kv_heads: int | None = None) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.places = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, 4, kv_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 50, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Gated(nn.Module):
    """A fused gate and up projection, and an RMS norm written out by hand with a unit offset."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(16))
        self.inner = nn.Linear(16, 96, bias=False)
        self.outer = nn.Linear(48, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.scale)
        gate, up = self.inner(y).chunk(2, dim=-1)
        return x + self.outer(F.silu(gate) * up)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(16, 4, bias=False)
        self.first = nn.Parameter(torch.randn(4, 16, 24))
        self.second = nn.Parameter(torch.randn(4, 24, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, index = self.route(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for expert in range(4):
            chosen = (index == expert).any(-1)
            h = F.relu(x[chosen] @ self.first[expert])
            out[chosen] += (h @ self.second[expert]) * weight[chosen].sum(-1, keepdim=True)
        return x + out


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.a = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.b = nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.short = nn.Conv2d(8, 16, 1, stride=2, bias=False)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.back = nn.ConvTranspose2d(16, 6, 4, stride=2, padding=1, groups=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        y = self.norm_b(self.b(F.leaky_relu(self.norm_a(self.a(x)), 0.2)))
        x = self.short(x) + y
        return self.back(torch.tanh(self.deep(x)))


def views(model: nn.Module, inputs: object) -> dict[str, ParameterView]:
    view = inspect(model, inputs)
    assert view.problem is None
    return dict(view.parameters)


DECODER = {
    "tokens.weight": "embedding",
    "places.weight": "position",
    "blocks.1.norm1.weight": "norm_scale",
    "blocks.1.norm1.bias": "norm_bias",
    "blocks.1.mix.fused.weight": "attn_qkv",
    "blocks.1.mix.fused.bias": "bias",
    "blocks.1.mix.out.weight": "attn_out",
    "blocks.1.up.weight": "mlp_up",
    "blocks.1.down.weight": "mlp_down",
    "head.weight": "head",
}


def test_a_decoder_role_by_role():
    seen = views(Decoder(), torch.zeros(2, 5, dtype=torch.long))
    assert {name: seen[name].role for name in DECODER} == DECODER
    assert all(seen[name].evidence["role"].rung == "traced" for name in DECODER)


def test_names_play_no_part():
    plain, scrambled = Decoder(), Decoder()
    renamed: dict[str, str] = {}

    def scramble(module: nn.Module, prefix: str = "", new: str = "") -> None:
        for number, (name, child) in enumerate(list(module._modules.items())):
            letter = f"x{number}"
            scramble(child, f"{prefix}{name}.", f"{new}{letter}.")
        for name in module._parameters:
            renamed[f"{prefix}{name}"] = f"{new}{name}"

    class Renamed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            scramble(inner)
            object.__setattr__(self, "hidden", inner)
            for number, child in enumerate(inner._modules.values()):
                self.add_module(f"x{number}", child)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.hidden(ids)  # type: ignore[operator]

    ids = torch.zeros(2, 5, dtype=torch.long)
    known = views(plain, ids)
    blind = views(Renamed(scrambled), ids)
    assert sorted(view.role for view in known.values()) == sorted(
        view.role for view in blind.values()
    )
    assert all(view.evidence["role"].rung == "traced" for view in blind.values())


def test_writers_and_their_place_on_the_stream():
    seen = views(Decoder(depth=3), torch.zeros(2, 5, dtype=torch.long))
    writers = {name: view for name, view in seen.items() if view.writes_residual}
    assert list(writers) == [
        f"blocks.{i}.{leaf}.weight" for i in range(3) for leaf in ("mix.out", "down")
    ]
    assert [view.depth for view in writers.values()] == list(range(6))
    assert {view.branches for view in writers.values()} == {6}
    assert seen["blocks.2.up.weight"].depth == 5


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_blocks_of_a_fused_projection(kv_heads):
    seen = views(Decoder(kv_heads=kv_heads), torch.zeros(2, 5, dtype=torch.long))
    view = seen["blocks.0.mix.fused.weight"]
    assert [(block.label, block.start, block.total) for block in view.blocks] == [
        ("q", 0, 32),
        ("k", 32, 8 * kv_heads),
        ("v", 32 + 8 * kv_heads, 8 * kv_heads),
    ]
    assert (view.fan_in, view.fan_out) == (32, 32)


def test_interleaved_heads():
    class Interleaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(2, 5, 4, 24).transpose(1, 2).chunk(3, dim=-1)
            mixed = F.scaled_dot_product_attention(q, k, v)
            return x + self.out(mixed.transpose(1, 2).reshape(2, 5, 32))

    view = views(Interleaved(), torch.zeros(2, 5, 32))["qkv.weight"]
    assert [(b.label, b.start, b.size, b.count, b.stride) for b in view.blocks] == [
        ("q", 0, 8, 4, 24),
        ("k", 8, 8, 4, 24),
        ("v", 16, 8, 4, 24),
    ]


def test_gate_and_up_and_a_norm_with_unit_offset():
    seen = views(Gated(), torch.zeros(2, 5, 16))
    inner = seen["inner.weight"]
    assert inner.role == "mlp_gate_up"
    assert [(b.label, b.start, b.total, b.activation) for b in inner.blocks] == [
        ("gate", 0, 48, "silu"),
        ("up", 48, 48, None),
    ]
    assert inner.fan_out == 48
    assert seen["outer.weight"].role == "mlp_down"
    assert seen["outer.weight"].writes_residual
    assert (seen["scale"].role, seen["scale"].neutral) == ("norm_scale", 0.0)


def test_experts_are_matrices_of_their_own():
    view = inspect(Experts(), torch.randn(6, 16))
    first = view.parameters["first"]
    assert first.axes == Axes((1,), (2,), (0,))
    assert (first.fan_in, first.fan_out) == (16, 24)
    assert [(block.label, block.count, block.stacked) for block in first.blocks] == [
        ("expert", 4, True)
    ]
    assert view.parameters["route.weight"].role == "router"
    assert view.unseen


FANS = {
    "stem.weight": (27, 72, "conv", "relu"),
    "a.weight": (36, 36, "conv", "leaky_relu(0.2)"),
    "b.weight": (72, 144, "conv", None),
    "short.weight": (8, 16, "conv", None),
    "deep.weight": (9, 9, "conv_depthwise", "tanh"),
    "back.weight": (128, 48, "conv_transpose", None),
}


@pytest.mark.parametrize("name", FANS)
def test_convolutions(name):
    view = views(Bottleneck(), torch.zeros(2, 3, 8, 8))[name]
    assert (view.fan_in, view.fan_out, view.role, view.activation) == FANS[name]


def test_a_shortcut_projection_is_no_writer():
    seen = views(Bottleneck(), torch.zeros(2, 3, 8, 8))
    assert seen["b.weight"].writes_residual
    assert not seen["short.weight"].writes_residual
    assert seen["back.weight"].stride == 4


ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: x * torch.sigmoid(x),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
    "relu6": F.relu6,
    "relu_squared": lambda x: F.relu(x) ** 2,
    "leaky_relu(0.3)": lambda x: F.leaky_relu(x, 0.3),
    "elu(0.5)": lambda x: F.elu(x, 0.5),
    "celu(0.5)": lambda x: F.celu(x, 0.5),
    "softplus(3)": lambda x: F.softplus(x, 3.0),
    "selu": F.selu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_recognised_by_what_they_compute(name):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(F.dropout(ACTIVATIONS[name](self.first(x)), 0.1))

    assert views(Net(), torch.zeros(3, 4))["first.weight"].activation == name


def test_an_unnamed_activation_still_has_its_gain():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.sin(2 * self.first(x)))

    view = views(Net(), torch.zeros(3, 4))["first.weight"]
    assert view.gain == pytest.approx(2 / (1 - math.exp(-8)), rel=1e-3)


def test_tied_names_and_padding_rows():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 8, padding_idx=3)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    seen = views(Tied(), torch.zeros(2, 5, dtype=torch.long))
    assert seen["head.weight"].tied_to == "table.weight"
    assert seen["table.weight"].aliases == ("head.weight",)
    assert (seen["table.weight"].padding_row, seen["table.weight"].fan_in) == (3, 1)


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 0)])
def test_recurrent_gates(cell, gates):
    seen = views(cell(6, 10, batch_first=True), torch.zeros(2, 5, 6))
    given, hidden = seen["weight_ih_l0"], seen["weight_hh_l0"]
    assert (given.role, hidden.role) == ("recurrent_input", "recurrent_hidden")
    assert (given.fan_in, given.fan_out, hidden.fan_in) == (6, 10, 10)
    assert len(given.blocks) == gates


def test_multihead_attention_with_cross_attention():
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
    seen = views(model, (torch.zeros(2, 4, 16), torch.zeros(2, 6, 16)))
    cross = seen["decoder.layers.0.multihead_attn.in_proj_weight"]
    assert cross.role == "attn_qkv"
    assert [(block.label, block.start, block.size) for block in cross.blocks] == [
        ("q", 0, 16),
        ("k", 16, 16),
        ("v", 32, 16),
    ]


def test_the_model_is_left_as_found():
    model = Bottleneck().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objects = {name: id(tensor) for name, tensor in model.named_parameters()}
    inspect(model, torch.randn(2, 3, 8, 8))
    assert model.training
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == objects
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_without_inputs_types_speak_and_say_so():
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 5)
            self.mystery = nn.Parameter(torch.randn(3, 5))

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.one(first) + second @ self.mystery

    view = inspect(Opaque())
    assert not view.traced
    assert view.problem
    assert view.parameters["one.weight"].evidence["role"].rung == "declared"
    assert view.parameters["mystery"].role == "unknown"
    assert view.parameters["mystery"].evidence["role"].rung == "assumed"


def test_meta_models_of_any_size():
    with torch.device("meta"):
        model = Decoder(depth=2, width=4096)
    seen = views(model, torch.zeros(2, 5, dtype=torch.long))
    assert seen["blocks.0.up.weight"].shape == (16384, 4096)
    assert seen["blocks.1.down.weight"].depth == 3


class Scaled(nn.Module):
    """A norm as transformers writes it: in float32, the weight behind it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float64)
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class UnitLength(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1)


class Normed(nn.Module):
    """A norm behind a product; ``direct``: a residual sum reads the product without it."""

    def __init__(self, norm: nn.Module, direct: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), norm
        self.second, self.direct = nn.Linear(16, 16), direct

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        made = self.second(F.relu(self.norm(x)))
        return x + made if self.direct else made


@pytest.mark.parametrize("norm", [nn.RMSNorm(16), nn.LayerNorm(16), Scaled(), UnitLength()])
@pytest.mark.parametrize("direct", [False, True])
def test_a_norm_behind_a_product_is_seen_and_what_reads_the_product_without_it(norm, direct):
    seen = views(Normed(norm, direct), torch.randn(4, 8))["first.weight"]
    assert (seen.norm_after, seen.norm_skipped) == (True, direct)
    assert seen.activation == "relu"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_torchscript_is_refused(inside):
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = nn.Sequential(nn.Linear(4, 4), net) if inside else net
    with pytest.raises(ModelError, match=f"^{'1' if inside else 'model'}: is a TorchScript module"):
        initium.plan(model, inputs=torch.zeros(2, 4))
