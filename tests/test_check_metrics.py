"""The metrics of a check: each against an independent computation, each fault found at its place,
and the healthy twin silent."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Average
from scipy import stats
from torch import nn

import initium
from initium._check.attend import of_logits, of_queries
from initium._check.batch import batch_facts
from initium._check.gates import gate_values, saturated_gates
from initium._check.sample import Ranges, channel_mean, mean_square, sampled, token_cosine
from initium._check.thresholds import FORMATS
from initium._check.trend import fit
from initium._cli import run as main
from initium._report.codes import codes, page
from initium._report.records import Finding, Report
from initium._types import ModelView
from initium.errors import InputError


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def found(report: Report, code: str) -> Finding:
    assert code in [finding.code for finding in report.findings], str(report)
    return next(finding for finding in report.findings if finding.code == code)


VIEWS: dict[object, ModelView] = {}


def checked(model: nn.Module, inputs: object, *given: Any) -> Report:
    """A check with the view of the first model of its kind: inspection takes the longest."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=True)]
    key = (str(model), str(names), str(vars(model).get("kind")), type(inputs))
    if key not in VIEWS:
        VIEWS[key] = initium.inspect(model, inputs)
    return initium.check(model, inputs, *given, view=VIEWS[key])


def alarms(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity != "info"]


# ---------------------------------------------------------------- statistics on samples


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 600))
def test_samples_are_spread_and_bounded(size: int, most: int) -> None:
    part = sampled(torch.arange(size), most)
    assert 0 < len(part) <= most
    assert len(part.unique()) == len(part)
    assert size <= most or int(part[-1]) >= size - 2 * -(-size // most) * 4 or size < 64


def test_sampled_second_moment() -> None:
    x = torch.randn(256, 1024) * 3
    assert mean_square(x) == pytest.approx(9, rel=0.06)
    assert mean_square(x[0]) == pytest.approx(float(x[0].square().mean()), rel=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 1.0), (3.0, 0.1)])
def test_channel_mean_against_its_definition(mean: float, std: float) -> None:
    x = torch.randn(64, 50) * std + mean * torch.randn(50)
    wide = x.double()
    between, within = wide.mean(0).square(), wide.var(0) / 64
    wanted = float((between - within).sum() / wide.square().mean(0).sum())
    assert channel_mean(x, -1) == pytest.approx(max(0.0, wanted), abs=1e-9)
    assert channel_mean(x.t().reshape(50, 64, 1, 1).transpose(0, 1), 1) == channel_mean(x, -1)
    assert channel_mean(x[:4], -1) is None


def test_token_cosine_against_all_pairs() -> None:
    x = torch.randn(3, 7, 20) + 1
    pairs = F.cosine_similarity(x[:, :, None], x[:, None], dim=-1)
    wanted = (pairs.sum((1, 2)) - 7).mean() / 42
    assert token_cosine(x) == pytest.approx(float(wanted), rel=1e-5)
    assert token_cosine(torch.ones(2, 5, 4)) == pytest.approx(1.0)
    assert token_cosine(torch.ones(2, 1, 4)) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1e-2, 1e4])
def test_ranges_against_the_cast_itself(name: str, scale: float) -> None:
    dtype = getattr(torch, name)
    x = torch.randn(1000) * scale
    x[::10] = 0
    ranges = Ranges()
    ranges.see("x", x)
    total, overflow, subnormal, lost = ranges.beyond("x", name)
    cast = x.to(dtype).float()
    tiny = torch.finfo(dtype).smallest_normal
    assert total == 900
    beyond = x.abs() > torch.finfo(dtype).max
    assert overflow == pytest.approx(int(beyond.sum()), abs=25)
    assert lost == int(((cast == 0) & (x != 0)).sum())
    assert subnormal == int(((x.abs() < tiny) & (cast != 0)).sum())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=40).filter(lambda v: len(set(v)) > 2),
)
def test_fit_against_scipy(logs: list[float]) -> None:
    line = stats.linregress(range(len(logs)), logs)
    half = stats.t.ppf(0.975, len(logs) - 2) * line.stderr
    got = fit([math.exp(value) for value in logs])
    assert math.log(got.factor) == pytest.approx(line.slope, abs=1e-6)
    assert math.log(got.low) == pytest.approx(line.slope - half, rel=0.02, abs=0.02)
    assert math.log(got.high) == pytest.approx(line.slope + half, rel=0.02, abs=0.02)


# ---------------------------------------------------------------- attention


def entropy_by_hand(logits: torch.Tensor, allowed: torch.Tensor) -> tuple[float, float, float]:
    """Mean H / ln n, root of the mean variance, mean largest probability; row by row."""
    entropies, variances, peaks = [], [], []
    for row, mask in zip(logits.flatten(0, -2), allowed.flatten(0, -2), strict=True):
        kept = row[mask].double()
        if len(kept) > 1:
            p = kept.softmax(0)
            entropies.append(float(-(p * p.log()).sum()) / math.log(len(kept)))
            variances.append(float(kept.var()))
            peaks.append(float(p.max()))
    count = len(entropies)
    return sum(entropies) / count, math.sqrt(sum(variances) / count), sum(peaks) / count


@pytest.mark.parametrize("masked", [-math.inf, torch.finfo(torch.float32).min, -1e4, None])
def test_masks_of_every_kind_take_keys_out(masked: float | None) -> None:
    logits = torch.randn(2, 3, 8, 8)
    allowed = torch.ones(8, 8, dtype=torch.bool).tril().expand(2, 3, 8, 8)
    if masked is None:
        allowed = torch.ones_like(allowed)
    given_logits = logits if masked is None else torch.where(allowed, logits, logits + masked)
    record = of_logits(given_logits).record("a", 0)
    entropy, std, peak = entropy_by_hand(logits, allowed)
    assert record.entropy == pytest.approx(entropy)
    assert record.logit_std == pytest.approx(std)
    assert record.peak == pytest.approx(peak)
    assert record.keys == 8
    assert record.causal is (masked is not None)


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("kind", ["causal", "bool", "added", "none"])
def test_queries_and_keys_give_the_logits_of_torch(kind: str, shared: int) -> None:
    q, k = torch.randn(2, 4, 6, 16), torch.randn(2, 4 // shared, 6, 16)
    logits = q @ k.repeat_interleave(shared, 1).mT / 4
    allowed = torch.ones(6, 6, dtype=torch.bool)
    if kind != "none":
        allowed = allowed.tril()
    mask = {"bool": allowed, "added": torch.zeros(6, 6).masked_fill(~allowed, -math.inf)}
    record = of_queries(q, k, mask.get(kind), kind == "causal").record("a", 0)
    entropy, std, peak = entropy_by_hand(logits, allowed.expand_as(logits))
    assert (record.entropy, record.logit_std) == pytest.approx((entropy, std))
    assert record.peak == pytest.approx(peak)
    assert record.scale == pytest.approx(1.0)


class Attention(nn.Module):
    """Causal self-attention: torch's function, or written out."""

    def __init__(self, width: int = 32, heads: int = 2, by_hand: bool = False) -> None:
        super().__init__()
        self.heads, self.by_hand, self.scale = heads, by_hand, (width // heads) ** -0.5
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = [
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        ]
        q, k, v = split
        if self.by_hand:
            length = x.shape[1]
            mask = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)
            weights = F.softmax(q @ k.mT * self.scale + mask, dim=-1, dtype=torch.float32).to(
                q.dtype
            )
            y = F.dropout(weights, 0.1, self.training) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, by_hand: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, 2, by_hand)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.shortcut:
            return self.attn(self.norm1(x))
        x = x + self.attn(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, depth: int = 5, by_hand: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        self.kind = (by_hand, shortcut)
        self.embed = nn.Embedding(50, 32)
        self.blocks = nn.ModuleList(Block(32, by_hand, shortcut) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        for value in self.parameters():
            if value.dim() > 1:
                nn.init.normal_(value, std=0.08)
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


IDS = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))


def scaled(model: nn.Module, factors: dict[str, float]) -> nn.Module:
    with torch.no_grad():
        for name, factor in factors.items():
            model.get_parameter(name).mul_(factor)
    return model


def test_attention_by_hand_is_seen_like_torchs_own() -> None:
    torch.manual_seed(1)
    fused = checked(GPT(), IDS)
    torch.manual_seed(1)
    by_hand = checked(GPT(by_hand=True), IDS)
    assert [a.name for a in fused.attention] == [f"blocks.{i}.attn" for i in range(5)]
    for one, two in zip(fused.attention, by_hand.attention, strict=True):
        assert (
            (one.name, one.keys, one.causal)
            == (two.name, two.keys, two.causal)
            == (one.name, 16, True)
        )
        assert one.logit_std == pytest.approx(two.logit_std, rel=1e-4)
        assert one.entropy == pytest.approx(two.entropy, rel=1e-4)
    assert alarms(fused) == alarms(by_hand) == []


@pytest.mark.parametrize("by_hand", [False, True])
def test_peaked_attention_is_found_where_it_is(by_hand: bool) -> None:
    names = {"blocks.2.attn.q.weight": 9.0, "blocks.2.attn.k.weight": 9.0}
    finding = found(checked(scaled(GPT(by_hand=by_hand), names), IDS), "IN404")
    assert finding.where[:3] == ("blocks.2.attn", *names)
    assert finding.numbers["logit_std"] > 5
    assert "visible keys" in finding.message
    factor = finding.numbers["logit_std"] ** -0.5
    fixed = scaled(scaled(GPT(by_hand=by_hand), names), dict.fromkeys(names, factor))
    assert alarms(checked(fixed, IDS)) == []


def test_a_missing_scale_is_named() -> None:
    model = scaled(GPT(), {f"blocks.{i}.attn.{m}.weight": 2.0 for i in range(5) for m in "qk"})
    assert alarms(checked(model, IDS)) == []
    for block in model.blocks:
        block.attn.scale = 4.0
    finding = found(checked(model, IDS), "IN404")
    assert "multiplied by 16/sqrt(head_dim)" in finding.message
    assert finding.fix == "divide the logits by sqrt(head_dim)"


def test_attention_without_differences() -> None:
    names = {f"blocks.{i}.attn.{m}.weight": 1e-4 for i in range(5) for m in "qk"}
    finding = found(checked(scaled(GPT(), names), IDS), "IN405")
    assert finding.where[0] == "blocks.0.attn"


def test_a_router_is_no_attention() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = self.router(x).softmax(-1)
            return weights[:, :1] * self.a(x) + weights[:, 1:] * self.b(x)

    assert checked(Routed(), torch.randn(32, 8)).attention == ()


def test_tokens_that_become_alike() -> None:
    finding = found(checked(GPT(8, shortcut=False), IDS), "IN207")
    assert finding.where[-1] == "blocks.7"
    assert finding.numbers["end"] > 0.98 > 0.5 > finding.numbers["start"]
    assert alarms(checked(GPT(8), IDS)) == []


class Pooled(nn.Module):
    """Branches that are scaled, or not added at all, outside of their modules."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(50, 32), nn.ModuleList(Average(32) for _ in range(4))
        self.scale, self.head = scale, nn.Linear(32, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x) if self.scale is None else x + self.scale * layer(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("scale", "alike"), [(1.0, False), (0.1, False), (0.0, False), (None, True)]
)
def test_alike_tokens_of_a_branch_are_no_collapse_whatever_scales_it(
    scale: float | None, alike: bool
) -> None:
    report = checked(Pooled(scale), IDS)
    assert report.layers["layers.3"].token_cosine > 0.98
    assert ("IN207" in alarms(report)) == alike


def test_tokens_that_are_apart_behind_the_last_block_have_not_collapsed() -> None:
    """The same where no sum is seen, such as one by a function of indices."""

    class Unseen(Pooled):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            for layer in self.layers:
                x = torch.stack([x, layer(x)]).sum(0)
            return x

    model = Unseen(1.0)
    del model.head
    report = checked(model, IDS)
    assert report.layers[""].token_cosine < 0.5
    assert report.branches == ()
    assert report.layers["layers.3"].token_cosine > 0.98
    assert "IN207" not in alarms(report)


@pytest.mark.parametrize(("small", "shape"), [("2", None), ("0", None), ("2", (2, 16))])
def test_a_norm_without_an_input_names_the_matrix_that_starves_it(
    small: str, shape: tuple[int, ...] | None
) -> None:
    """The one whose own input is large enough, also through a view in another shape."""
    middle: list[nn.Module] = [] if shape is None else [nn.Unflatten(1, shape)]
    model = nn.Sequential(
        nn.Linear(32, 32, bias=False),
        nn.Identity(),
        nn.Linear(32, 32, bias=False),
        *middle,
        nn.LayerNorm(32 if shape is None else 16),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    model.get_parameter(f"{small}.weight").data.mul_(1e-4)
    finding = found(checked(model, torch.randn(64, 32)), "IN208")
    assert finding.where[0] == f"{small}.weight"
    assert f"larger values in {small}.weight" in finding.fix


# ---------------------------------------------------------------- a cut, and a constant


@pytest.mark.parametrize("inside", [False, True])
def test_a_cut_is_named_by_the_last_module_before_it(inside: bool) -> None:
    """Between two modules, or inside the module that returns without a gradient."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(16, 16) for _ in range(3))
            self.act = nn.ReLU()
            if inside:
                self.b.register_forward_hook(lambda module, args, output: output.detach())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.b(self.act(self.a(x)))
            return self.c(self.act(x if inside else x.detach()))

    finding = found(checked(Cut(), torch.randn(32, 16)), "IN304")
    assert finding.where[0] == "b"
    assert finding.fix.endswith("behind b")


def test_a_constant_behind_a_matrix_says_nothing_of_the_matrix() -> None:
    """Its output is 30 times the others', and the same for all samples: code made it."""
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(32, 32), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    for layer in model[::2]:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    model[6].register_forward_hook(lambda module, args, output: torch.full_like(output, 30.0))
    report = checked(model, torch.randn(32, 32))
    assert found(report, "IN203").where[0] == "6"
    assert "IN204" not in alarms(report)


# ---------------------------------------------------------------- functions between modules


class Functional(nn.Module):
    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.head, self.act, self.kind = nn.Linear(32, 10), act, act.__name__

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


X = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("act", "factor"), [(F.tanh, 9.0), (torch.sigmoid, 20.0)])
def test_functional_saturation_is_named_by_its_layer(
    act: Callable[[torch.Tensor], torch.Tensor], factor: float
) -> None:
    model = scaled(Functional(act), {"layers.1.weight": factor})
    report = checked(model, X)
    with torch.no_grad():
        inner = act(model.layers[1](act(model.layers[0](X))))
        flat = inner.abs() > 0.97 if act is F.tanh else (inner - 0.5).abs() > 0.485
    assert report.layers["layers.1"].saturated == pytest.approx(float(flat.float().mean()))
    assert found(report, "IN402").where[0] == "layers.1"
    assert alarms(checked(Functional(act), X)) == []


def test_dead_units_of_a_functional_relu_are_named_by_their_layer() -> None:
    model = Functional(F.relu)
    with torch.no_grad():
        model.layers[1].bias[:31] = -1.5
    finding = found(checked(model, X), "IN401")
    assert finding.where[:2] == ("layers.1.bias", "layers.1")
    assert finding.numbers["share"] == pytest.approx(31 / 32)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(16, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "share"), [(nn.LSTM, 0.75), (nn.GRU, 2 / 3), (nn.RNN, 1.0)])
def test_shut_gates(kind: type[nn.RNNBase], share: float) -> None:
    """Gates forced open by their biases: i, f, o of four, r, z of three; the candidate is free."""
    x = torch.randn(8, 6, 16)
    model = Recurrent(kind)
    with torch.no_grad():
        bias = model.rnn.bias_ih_l0
        if kind is nn.LSTM:
            bias[[*range(48), *range(72, 96)]] = 12.0
        else:
            bias[: 48 if kind is nn.GRU else 24] = 12.0
        assert saturated_gates(model.rnn, (x,)) == pytest.approx(share, abs=1e-3)
    report = checked(model, x)
    assert report.layers["rnn"].saturated == pytest.approx(share, abs=1e-3)
    if kind is not nn.GRU:
        assert found(report, "IN402").where == ("rnn",)
    assert "IN402" not in alarms(checked(Recurrent(kind), x))


@pytest.mark.parametrize("first", [True, False])
def test_gates_follow_the_module(first: bool) -> None:
    """From z and n of a GRU its outputs follow: h = (1 - z) n + z h."""
    rnn = nn.GRU(5, 7, batch_first=first)
    x, start = torch.randn(4, 3, 5), torch.randn(1, 4 if first else 3, 7)
    with torch.no_grad():
        values = gate_values(rnn, (x, start))
        out = rnn(x, start)[0]
    assert values is not None
    out = out.transpose(0, 1) if first else out
    ((sigmoids, tanhs),) = values
    z = sigmoids.reshape(len(out), 2, *out.shape[1:])[:, 1]
    n, h = tanhs.reshape(out.shape), start[0]
    for step in range(len(out)):
        h = (1 - z[step]) * n[step] + z[step] * h
        assert torch.allclose(h, out[step], atol=1e-5)


class Listed(nn.Module):
    """An LSTM that is given its state, as a tuple or as a list."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind, self.rnn, self.head = kind, nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.kind(torch.ones(2, 1, len(x), 24))
        return self.head(self.rnn(x, state)[0][:, -1])


def test_the_state_of_an_lstm_may_be_a_list() -> None:
    x, model = torch.randn(8, 6, 16), Listed(tuple)
    wanted = checked(model, x).layers["rnn"].saturated
    model.kind = list
    assert wanted is not None
    assert checked(model, x).layers["rnn"].saturated == wanted


def test_gates_that_cannot_be_computed_again_are_not_known() -> None:
    x = torch.randn(8, 6, 16, dtype=torch.bfloat16)
    assert saturated_gates(nn.LSTM(16, 24, batch_first=True), (x,)) is None


class Columns(nn.Module):
    """The product of a matrix and columns, turned back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(24, 16) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight @ x.T).T


class Narrow(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(16, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x[:, None].expand(-1, 6, -1))[0]


@pytest.mark.parametrize(
    "make",
    [Columns, lambda: Narrow(nn.LSTM), lambda: Narrow(nn.GRU)],
    ids=["columns", "LSTM", "GRU"],
)
def test_outputs_that_lie_across_the_memory(make: Callable[[], nn.Module]) -> None:
    model, x = make(), torch.randn(8, 16)
    output = model(x).detach()
    assert not output.is_contiguous()
    record = checked(nn.Sequential(model, nn.Flatten(), nn.Linear(output[0].numel(), 5)), x).layers[
        "0"
    ]
    assert record.second_moment == pytest.approx(output.square().mean().item(), rel=1e-5)
    assert record.signal == pytest.approx(output.var(0).mean().item(), rel=1e-5)


# ---------------------------------------------------------------- depth and single layers


class Residual(nn.Module):
    """Branches of two layers, with or without a norm in front."""

    def __init__(self, depth: int, norm: bool, factor: float = 1.0) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(32, 32), nn.Linear(32, 10)
        self.first = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.last = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.LayerNorm(32) if norm else nn.Identity() for _ in range(depth)
        )
        for layer in (*self.first, *self.last):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        for layer in self.last:
            layer.weight.data.mul_(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, first, last in zip(self.norms, self.first, self.last, strict=True):
            x = x + last(F.relu(first(norm(x))))
        return self.head(x)


def test_branches_against_the_stream_itself() -> None:
    model = Residual(3, norm=True)
    report = checked(model, X)
    with torch.no_grad():
        x = model.stem(X)
        wanted = []
        for norm, first, last in zip(model.norms, model.first, model.last, strict=True):
            branch = last(F.relu(first(norm(x))))
            wanted.append([x, branch, x := x + branch])
    assert [record.weight for record in report.branches] == [f"last.{i}.weight" for i in range(3)]
    for record, tensors in zip(report.branches, wanted, strict=True):
        moments = [float(tensor.square().mean()) for tensor in tensors]
        assert [record.before, record.branch, record.after] == pytest.approx(moments, rel=1e-5)


def test_a_stream_that_multiplies_names_its_writers_and_the_fix_works() -> None:
    finding = found(checked(Residual(14, norm=False), X), "IN206")
    assert finding.where == tuple(f"last.{i}.weight" for i in range(14))
    assert finding.numbers["factor"] == pytest.approx(3.0, rel=0.25)
    assert "1/sqrt(branches)" in finding.fix
    assert "IN202" not in alarms(checked(Residual(14, norm=False), X))
    assert alarms(checked(Residual(14, norm=False, factor=14**-0.5), X)) == []
    assert "IN206" not in alarms(checked(Residual(14, norm=True), X))


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("blocks.3.up.weight", 30.0),
        ("blocks.1.attn.out.weight", 40.0),
        ("blocks.2.down.weight", 1 / 40),
    ],
)
def test_one_layer_out_of_line_is_one_finding_at_its_place(name: str, factor: float) -> None:
    report = checked(scaled(GPT(), {name: factor}), IDS)
    (finding,) = [f for f in report.findings if f.severity != "info"]
    assert (finding.code, finding.where) == ("IN204", (name.removesuffix(".weight"), name))
    wanted = float(report.layers[finding.where[0]].gain or 0)
    assert finding.numbers["gain"] == pytest.approx(wanted)
    factor = math.sqrt(finding.numbers["usual"] / finding.numbers["gain"])
    assert f"{factor:.3g}" in finding.fix
    assert alarms(checked(scaled(GPT(), {name: factor * 1.0}), IDS)) in ([], ["IN204"])


def test_a_single_huge_layer_is_the_root_of_what_follows() -> None:
    report = checked(scaled(Functional(F.relu, 8), {"layers.4.weight": 1e9}), X)
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("IN204", "error")
    assert finding.where[0] == "layers.4"
    assert "layers.5, layers.6, layers.7" in finding.message


def relu_net(depth: int = 12) -> Functional:
    model = Functional(F.relu, depth)
    for layer in model.layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def test_weights_with_a_mean_are_the_root() -> None:
    model = relu_net()
    with torch.no_grad():
        for layer in list(model.layers)[2:]:
            layer.weight.uniform_(0.5 / 32, 1.5 / 32)
    report = checked(model, X)
    finding = found(report, "IN205")
    assert finding.where[0] == "layers.2.weight"
    assert "mean 0.03" in finding.message
    assert "IN205" not in alarms(checked(relu_net(), X))


def test_a_bias_that_drowns_the_signal_is_the_root() -> None:
    model = relu_net(6)
    nn.init.uniform_(model.layers[3].bias, 30, 60)
    finding = found(checked(model, X), "IN205")
    assert finding.where[:2] == ("layers.3.bias", "layers.3")


def conv_net(factor: float) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (3, 8, 8, 8):
        conv = nn.Conv2d(width, 8, 3, padding=1, bias=False)
        conv.weight.data.mul_(factor)
        layers += [conv, nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_a_norm_does_not_hide_the_scale_of_the_weights() -> None:
    x = torch.randn(16, 3, 8, 8)
    finding = found(checked(conv_net(1e4), x), "IN209")
    assert set(finding.where) == {f"{i}.weight" for i in (0, 3, 6, 9)}
    assert alarms(checked(conv_net(1.0), x)) == []


def test_a_norm_on_next_to_nothing() -> None:
    def stem(factor: float) -> nn.Module:
        layers = nn.Linear(32, 32, bias=False), nn.LayerNorm(32), nn.Linear(32, 10)
        return scaled(nn.Sequential(*layers), {"0.weight": factor})

    finding = found(checked(stem(1e-4), X), "IN208")
    assert (finding.severity, finding.where) == ("warning", ("0.weight", "1"))
    assert finding.numbers["epsilon"] == 1e-5
    assert alarms(checked(stem(1.0), X)) == []


def test_a_tiny_table_before_a_norm_is_information() -> None:
    """As in RWKV; a table that is smaller still is not, and is named before the norm."""
    report = checked(scaled(GPT(), {"embed.weight": 1e-3}), IDS)
    assert found(report, "IN208").severity == "info"
    assert alarms(report) == []
    finding = found(checked(scaled(GPT(), {"embed.weight": 1e-6}), IDS), "IN208")
    assert (finding.severity, finding.where[0]) == ("warning", "embed.weight")


# ---------------------------------------------------------------- the batch and the loss

LABELS = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(2))


def test_raw_pixels_are_the_root_of_a_high_loss() -> None:
    model, pixels = relu_net(3), torch.randint(0, 256, (64, 32)).float()
    report = checked(model, pixels, LABELS)
    assert alarms(report) == ["IN502"]
    assert found(report, "IN502").severity == "error"
    assert alarms(checked(model, (pixels - pixels.mean()) / pixels.std(), LABELS)) == []


def test_labels_that_are_all_the_same() -> None:
    assert "IN503" in alarms(checked(relu_net(3), X, LABELS * 0 + 3))
    assert alarms(checked(relu_net(3), X, LABELS)) == []


def test_a_feature_that_is_the_target() -> None:
    x = X.clone()
    x[:, 17] = LABELS / 10 - 0.5
    finding = found(checked(relu_net(3), x, LABELS), "IN504")
    assert "feature 17" in finding.message
    assert batch_facts(X, LABELS).leak is None


def test_a_tied_table_is_named_as_the_root_of_a_high_loss() -> None:
    model = GPT()
    model.head.weight = model.embed.weight
    nn.init.normal_(model.embed.weight)
    finding = found(checked(model, IDS, IDS.roll(-1, 1)), "IN501")
    assert "embedding table" in finding.message
    assert f"{32**-0.5:.3g}" in finding.fix


def test_what_the_head_reads_is_named_as_the_root_of_a_high_loss() -> None:
    model = relu_net(3)
    for layer in model.layers:
        layer.weight.data.mul_(5)
    finding = found(checked(model, X, LABELS), "IN501")
    assert finding.where[0] == "layers.2"
    assert "what it reads" in finding.message


def test_gradients_below_half_precision() -> None:
    def mean_of_many(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(z.float(), y) * factor

    model = relu_net(3).half()
    factor = 1e-5
    finding = found(checked(model, X.half(), LABELS, mean_of_many), "IN104")
    assert "float16" in finding.message
    factor = 1e-9
    flushed = checked(model, X.half(), LABELS, mean_of_many)
    assert alarms(flushed) == ["IN104"]
    finding = found(flushed, "IN104")
    assert finding.severity == "error"
    assert "100% of the trainable elements have a gradient of exactly zero" in finding.message
    factor = 100.0
    assert alarms(checked(model, X.half(), LABELS, mean_of_many)) == []


def test_activations_that_half_precision_could_not_hold_are_information() -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * x

    layers = nn.Linear(32, 32), Times(1e6), Times(1e-6), nn.Linear(32, 10)
    finding = found(checked(nn.Sequential(*layers), X), "IN104")
    assert (finding.severity, finding.where) == ("info", ("1",))


# ---------------------------------------------------------------- the codes


def test_every_code_that_the_package_uses_has_its_page_and_no_other() -> None:
    package = Path(initium.__file__).parent
    used = set()
    for path in package.rglob("*.py"):
        if path.name != "codes.py":
            used |= set(re.findall(r'"(IN\d{3})"', path.read_text()))
    assert used == set(codes())


def test_the_page_is_made_of_the_codes() -> None:
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "findings.md").read_text() == page()


@pytest.mark.parametrize("name", codes())
def test_every_code_says_everything(name: str) -> None:
    code = codes()[name]
    assert all((code.title, code.symptom, code.cause, code.example, code.fix))
    text = initium.explain(name.lower())
    assert text.startswith(f"{name}: {code.title}")
    assert textwrap.indent(code.example, "    ") in text
    assert all(len(line) <= 120 for line in text.split("\n") if "https://" not in line)


def test_an_unknown_code_names_those_most_like_it() -> None:
    with pytest.raises(InputError, match=r"not the code of a finding \(got 'IN999'\)"):
        initium.explain("IN999")


def test_the_loss_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task.py").write_text(
        "import torch\n"
        "def model():\n    return torch.nn.Linear(8, 3), torch.randn(32, 8), torch.randn(32, 3)\n"
        "def loss(z, y):\n    return (z - y).square().mean() + 7\n"
    )
    source = str(tmp_path / "task.py")
    assert main(["check", f"{source}:model", "--loss", f"{source}:loss", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["loss"]["source"] == "loss_fn"
    assert report["loss"]["value"] > 7
    assert main(["check", f"{source}:model", "--loss", f"{source}:lost"]) == 2
    assert "did you mean loss" in capsys.readouterr().err
