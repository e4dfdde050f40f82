"""Lazy draws: all products agree with the matrix that is made afterwards, and it has its law."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import initium
import initium._predict.draw as lazy_module
from initium._load.optional import import_optional
from initium._plan import Entry, Plan
from initium._predict.draw import draw
from initium._predict.lazy.law import Gaussian, Haar, Law, Rows, split
from initium._predict.lazy.source import Shared, Source
from initium._predict.lazy.view import NotAView, View, positions
from initium._predict.lazy.weight import LazyWeight
from initium._predict.records import Draw
from initium.errors import InputError, ModelError, PlanError
from initium.spec import Blocks, Constant, Identity, Normal, Orthogonal, Part, Spec, Uniform

transformers = import_optional("transformers")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


# The laws.


def adaptive(law: Law, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Products whose vectors depend on earlier ones, as in a model."""
    asked = []
    for side in (0, 0, 1, 1, 0, 1):
        size = law.sizes[side]
        wanted = F.pad(x, (0, max(0, size - x.shape[1])))[:, :size].tanh() + 0.1
        y = law.product(wanted, side)
        asked.append((wanted, y, side))
        x = y
    return asked


@pytest.mark.parametrize("make", [Gaussian, Haar])
@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (30, 50), (50, 30)])
def test_what_was_answered_is_what_the_whole_matrix_gives(
    make: type[Law], rows: int, columns: int
) -> None:
    law = make(rows, columns, generator(1), torch.float64)
    asked = adaptive(law, normal(3, columns).double())
    whole = law.whole()
    for x, y, side in asked:
        torch.testing.assert_close(y, x @ (whole if side else whole.T))
    assert whole.shape == (rows, columns)


@pytest.mark.parametrize("make", [Gaussian, Haar])
def test_products_are_linear_repeatable_and_adjoint(make: type[Law]) -> None:
    law = make(60, 50, generator(2), torch.float32)
    a, b, u = normal(2, 50, seed=1), normal(2, 50, seed=2), normal(2, 60, seed=3)
    first = law.product(a, 0)
    assert torch.allclose(law.product(a, 0), first, atol=1e-5)
    both = law.product(a + b, 0)
    torch.testing.assert_close(both, first + law.product(b, 0), rtol=1e-4, atol=1e-4)
    assert law.seen == 4
    torch.testing.assert_close(law.product(u, 1) @ a.T, u @ first.T, rtol=1e-4, atol=1e-4)


def test_a_gaussian_matrix_stays_gaussian_under_adaptive_questions() -> None:
    source, wholes = generator(3), []
    for run in range(400):
        law = Gaussian(4, 5, source, torch.float64)
        adaptive(law, normal(1, 5, seed=run).double())
        wholes.append(law.whole())
    elements = torch.stack(wholes).reshape(400, 20)
    assert scipy.stats.kstest(elements.flatten().numpy(), "norm").pvalue > 0.01
    correlation = torch.corrcoef(elements.T) - torch.eye(20)
    assert correlation.abs().max() < 4.5 / math.sqrt(400)


def test_a_haar_matrix_stays_haar_under_adaptive_questions() -> None:
    source, corners = generator(4), []
    for run in range(400):
        law = Haar(3, 6, source, torch.float64)
        law.product(normal(1, 6, seed=run).double(), 0)
        law.product(normal(1, 3, seed=run).double(), 1)
        whole = law.whole()
        torch.testing.assert_close(whole @ whole.T, torch.eye(3).double())
        corners.append(whole[[0, 1, 2], [5, 0, 2]])
    squares = torch.stack(corners).square().flatten().numpy()
    assert scipy.stats.kstest(squares, scipy.stats.beta(0.5, 2.5).cdf).pvalue > 0.01


def test_dependent_vectors_cost_one_direction() -> None:
    law = Gaussian(30, 20, generator(0), torch.float32)
    x = normal(1, 20)
    y = law.product(torch.cat([x, 1e-20 * x, 0 * x, -3 * x]), 0)
    assert law.seen == 1
    torch.testing.assert_close(y[1:], torch.tensor([[1e-20], [0], [-3]]) * y[:1])


ALIKE = {"apart": 0.0, "alike": 0.9, "nearly the same": 1 - 1e-6, "one twice": 0.0}
KINDS = {"random": {}, "even": {"even": True}, "free": {"even": True, "free": True}}


def vectors(name: str, size: int) -> torch.Tensor:
    """Eight of them, as correlated as the name says, and of very different lengths."""
    share = ALIKE[name]
    x = (1 - share) ** 0.5 * normal(8, size, seed=11) + share**0.5 * normal(1, size, seed=12)
    if name == "one twice":
        x[1] = x[0]
    return x * torch.logspace(-3, 3, 8)[:, None]


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_matrix_is_one_matrix(name: str, kind: str) -> None:
    law = Gaussian(300, 400, generator(1), torch.float32, **KINDS[kind])
    x, more, u = vectors(name, 400), normal(3, 400, seed=4), vectors(name, 300)
    y = law.product(x, 0)
    back = law.product(u, 1)
    after = law.product(more, 0)
    whole = law.whole()
    for asked, made, matrix in ((x, y, whole.T), (u, back, whole), (more, after, whole.T)):
        unit = torch.linalg.vector_norm(asked, dim=1, keepdim=True)
        torch.testing.assert_close(asked / unit @ matrix, made / unit, rtol=1e-3, atol=5e-3)
    share = whole.square().mean()
    assert float(share) == pytest.approx(1.0, abs=6 * (2 / whole.numel()) ** 0.5)


@pytest.mark.parametrize("name", ALIKE)
def test_an_even_matrix_keeps_lengths_and_angles(name: str) -> None:
    x = vectors(name, 400)
    unit = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    y = Gaussian(300, 400, generator(1), torch.float32, even=True).product(unit, 0)
    torch.testing.assert_close(y @ y.T / 300, unit @ unit.T, rtol=0, atol=2e-6)


def test_a_free_matrix_keeps_lengths_beyond_its_width() -> None:
    law = Gaussian(16, 400, generator(1), torch.float32, even=True, free=True)
    y = law.product(torch.cat([torch.zeros(1, 400), torch.eye(400)[:60]]), 0)
    lengths = torch.linalg.vector_norm(y, dim=1)
    torch.testing.assert_close(lengths, torch.tensor([0.0] + [4.0] * 60), rtol=1e-5, atol=0)


DIGITS = [
    (torch.float32, 1e-3, 40),
    (torch.float32, 1e-4, 40),
    (torch.float32, 3e-7, 1),
    (torch.float64, 1e-4, 40),
    (torch.float64, 1e-9, 40),
    (torch.float64, 1e-14, 1),
]


@pytest.mark.parametrize(("dtype", "apart", "rank"), DIGITS)
def test_vectors_are_told_apart_as_far_as_their_dtype_goes(
    dtype: torch.dtype, apart: float, rank: int
) -> None:
    x = normal(1, 500).to(dtype) + apart * normal(40, 500, seed=1).to(dtype)
    _, fresh, new = split(x, Rows(torch.empty(0, 500, dtype=dtype)))
    basis = fresh.solid()
    assert len(basis) == rank
    torch.testing.assert_close(basis @ basis.T, torch.eye(rank, dtype=dtype), rtol=0, atol=2e-5)
    torch.testing.assert_close(new @ basis, x, rtol=0, atol=5 * apart if rank == 1 else 1e-5)


def test_a_free_matrix_keeps_lengths_alone() -> None:
    law = Gaussian(300, 400, generator(1), torch.float32, even=True, free=True)
    y = law.product(torch.eye(400)[:20], 0)
    gram = y @ y.T / 300
    torch.testing.assert_close(gram.diagonal(), torch.ones(20), rtol=0, atol=1e-6)
    angles = (gram - torch.eye(20)).square().sum() / (20 * 19) * 300
    assert float(angles) == pytest.approx(1.0, abs=6 * (2 / 190) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_that_is_not_kept_is_the_same(kind: str) -> None:
    x, u = vectors("alike", 400), vectors("alike", 300)
    kept, last = (Gaussian(300, 400, generator(1), torch.float32, **KINDS[kind]) for _ in range(2))
    for law in (kept, last):
        law.product(x, 0)
    torch.testing.assert_close(last.product(u, 1, keep=False), kept.product(u, 1), rtol=0, atol=0)
    assert (last.seen, kept.seen) == (8, 16)


def test_products_of_tiny_and_huge_vectors() -> None:
    for scale in (1e-30, 1e-12, 1e12, 1e25):
        law = Gaussian(300, 400, generator(1), torch.float32, even=True)
        x = normal(4, 400)
        y = law.product(x * scale, 0) / scale
        torch.testing.assert_close(y @ y.T / 300, x @ x.T, rtol=1e-4, atol=1e-3)


# Views.


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, Any]]]:
    """A shape, and view operators that fit, as names with arguments."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)))
    here, steps = torch.arange(math.prod(shape)).reshape(shape), []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["permute", "reshape", "slice", "select", "unsqueeze"]))
        dim = draw(st.integers(0, max(here.dim() - 1, 0)))
        if kind == "permute":
            argument: Any = (tuple(draw(st.permutations(range(here.dim())))),)
        elif kind == "reshape":
            factors = [n for n in (1, 2, 3, 4, 6) if here.numel() % n == 0]
            argument = ((draw(st.sampled_from(factors)), -1),)
        elif kind == "slice" and here.dim():
            first = draw(st.integers(0, here.shape[dim] - 1))
            stop = draw(st.integers(first + 1, here.shape[dim]))
            argument = (dim, first, stop, draw(st.integers(1, 3)))
        elif kind == "select" and here.dim():
            argument = (dim, draw(st.integers(0, here.shape[dim] - 1)))
        else:
            kind, argument = "unsqueeze", (dim,)
        steps.append((kind, argument))
        here = applied(here, kind, argument)
    return shape, steps


def applied(tensor: torch.Tensor, kind: str, argument: Any) -> torch.Tensor:
    if kind == "slice":
        dim, first, stop, step = argument
        return torch.ops.aten.slice(tensor, dim, first, stop, step)
    return getattr(tensor, kind)(*argument)


@given(chains())
@settings(max_examples=150)
def test_views_show_what_torch_shows(chain: tuple[Any, Any]) -> None:
    shape, steps = chain
    whole = torch.arange(math.prod(shape)).reshape(shape)
    wanted, view = whole, View.of(shape)
    try:
        for kind, argument in steps:
            wanted = applied(wanted, kind, argument)
            view = getattr(view, kind)(*argument)
    except NotAView:
        return
    assert view.shape == tuple(wanted.shape)
    assert torch.equal(view.show(whole), wanted)


def test_views_across_axes_and_after_copies_are_understood() -> None:
    whole = torch.arange(24 * 5).reshape(24, 5)
    heads = View.of((24, 5)).reshape((4, 3, 2, 5)).select(1, 1).permute((2, 0, 1)).reshape((5, 8))
    wanted = whole.reshape(4, 3, 2, 5)[:, 1].permute(2, 0, 1).reshape(5, 8)
    assert torch.equal(heads.show(whole), wanted)
    found = positions(heads, 1, (0,), (24, 5))
    assert found is not None
    assert torch.equal(whole[found].T, wanted)
    assert positions(heads, 0, (1,), (24, 5)) is None


# Products with a lazy weight, against the same with its values.

SHAPE = (48, 40)


def lazy(shape: tuple[int, ...], spec: Spec, memory: int = 1 << 30, seed: int = 0) -> LazyWeight:
    entry = Entry(spec, shape, "float32", "linear", "")
    source = Source("w", entry, torch.float32, True, Shared(seed, memory))
    return LazyWeight(source, View.of(shape), torch.float32)


X, U = normal(3, 40, seed=5), normal(3, 48, seed=6)
IDS = torch.tensor([[1, 5, 1], [47, 0, 5]])


def both_sides(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    hidden = F.linear(x, w).tanh()
    return F.linear((hidden @ w).relu(), w)


def tied(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.linear(F.embedding(IDS, w).mean(1) + x[:2], w)


def pieces(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    first, second, third = w.chunk(3)
    return F.linear(x, first) * F.linear(x, second) + (x @ third.t()).tanh() + (x @ w.t())[:, :16]


def heads(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    q, k = torch.einsum("bd,hcd->chb", x, w.view(6, 8, 40)).unbind(0)[:2]
    return q * k + (w.unflatten(0, (6, 8))[:, 3] @ x.T) / 2


def columns(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x[:, :10] @ w[:, :10].T + F.linear(x[:, 10:], w[:, 10:]) + w @ x[0]


def scaled(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w * 0.5, torch.ones(48)) + F.linear(x, w / 4) - (2 * w @ x.T).T


def three(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.matmul(w, x.T.expand(2, 40, 3)) + torch.matmul(x, w.T).T


CASES = {f.__name__: f for f in (both_sides, tied, pieces, heads, columns, scaled, three)}
SPECS = {
    "normal": Normal(0.2),
    "with a mean": Normal(0.2, mean=0.05),
    "constant": Constant(0.1),
    "orthogonal": Orthogonal(1.5),
    "rows": Blocks((Part(0, 0, 16, Normal(0.1)), Part(0, 16, 32, Normal(0.5, mean=1)))),
    "columns": Blocks((Part(1, 0, 30, Normal(0.1)), Part(1, 30, 10, Constant(2)))),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_products_are_those_of_one_matrix(
    case: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], spec: Spec
) -> None:
    w = lazy(SHAPE, spec, memory=0)
    x = X.clone().requires_grad_()
    y = case(w, x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    source = w.source
    assert source.values is None
    assert not any(matrix.values is not None for matrix in source.matrices.values())
    source.shared.memory = 1 << 30
    whole = source.whole("the test")
    x_real = X.clone().requires_grad_()
    wanted = case(whole, x_real)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
    (wanted_gradient,) = torch.autograd.grad(wanted, x_real, torch.ones_like(wanted))
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-3)


def test_a_stack_of_matrices_is_drawn_one_by_one() -> None:
    def experts(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        second = torch.bmm(x.expand(4, 3, 40), w.mT)[1]
        picked = F.linear(x, w[torch.tensor(2)]) + F.linear(x, w[1])
        grouped = torch._grouped_mm(x.bfloat16(), w.mT.bfloat16(), torch.tensor([1, 1, 3, 3]).int())
        return picked + second + grouped

    spec = Blocks((Part(0, 0, 3, Normal(0.2)), Part(0, 3, 1, Constant(0.3))))
    w = lazy((4, 48, 40), spec, memory=0)
    y = experts(w, X)
    assert set(w.source.matrices) == {(0,), (1,), (2,), (3,)}
    w.source.shared.memory = 1 << 30
    torch.testing.assert_close(y.detach(), experts(w.source.whole("the test"), X), rtol=0, atol=0.1)


def test_a_stack_that_is_used_as_one_matrix() -> None:
    def experts(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,eoi->beo", x, w)[:, 3] + F.linear(x.tanh(), w[1])

    w = lazy((4, 48, 40), Normal(0.2), memory=0)
    y = experts(w, X)
    w.source.shared.memory = 1 << 30
    torch.testing.assert_close(y.detach(), experts(w.source.whole("the test"), X))


def test_attention_with_a_fused_weight() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    w = lazy((96, 32), Normal(0.3), memory=0)
    x, other = normal(1, 3, 32), normal(1, 2, 32, seed=1)
    attention._parameters["in_proj_weight"] = w  # type: ignore[assignment]
    itself, across = attention(x, x, x)[0], attention(x, other, other)[0]
    w.source.shared.memory = 1 << 30
    attention._parameters["in_proj_weight"] = nn.Parameter(w.source.whole("the test"))
    torch.testing.assert_close(attention(x, x, x)[0], itself)
    torch.testing.assert_close(attention(x, other, other)[0], across)


def test_an_unused_matrix_gets_the_values_of_its_spec_when_it_is_made() -> None:
    spec = Uniform(-1, 1)
    wanted = torch.from_numpy(np.array(initium.stream.draw(spec, seed=3, name="w", shape=SHAPE)))
    w = lazy(SHAPE, spec, seed=3)
    full = normal(30, 40)
    torch.testing.assert_close(F.linear(full, w).detach(), full @ wanted.T)
    assert w.source.shared.notes == {}
    w = lazy(SHAPE, spec, seed=3)
    assert torch.equal((w + 0).detach(), wanted)
    assert list(w.source.shared.notes) == ["w: its values were drawn, for aten.add.Tensor"]


def test_elements_that_are_not_normal_are_noted_and_keep_their_spread() -> None:
    w = lazy((400, 400), Uniform(-0.3, 0.1))
    y = F.linear(torch.full((1, 400), 0.5), w).detach()
    assert list(w.source.shared.notes) == [
        "w: uniform(-0.3, 0.1) drawn as normal with the same mean and standard deviation"
    ]
    assert abs(float(y.mean()) + 20) < 1
    assert 0.8 < float(y.std()) / (0.4 / math.sqrt(12) * math.sqrt(100)) < 1.2


def test_an_identity_is_exact() -> None:
    w = lazy((48, 48), Identity(2))
    torch.testing.assert_close(F.linear(U, w).detach(), 2 * U)


def test_a_matrix_half_seen_is_made_from_what_was_seen() -> None:
    w = lazy((20, 30), Normal(1))
    first = F.linear(normal(6, 30), w)
    assert w.source.matrices[()].values is None
    second = F.linear(normal(6, 30, seed=1), w)
    values = w.source.matrices[()].values
    assert values is not None
    torch.testing.assert_close(first.detach(), normal(6, 30) @ values.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second.detach(), normal(6, 30, seed=1) @ values.T)


def test_many_rows_are_looked_up_in_what_is_made() -> None:
    ids = torch.arange(60).reshape(3, 20) % 45
    w = lazy(SHAPE, Normal(1))
    first = F.linear(X, w)
    rows = F.embedding(ids, w)
    values = w.source.matrices[()].values
    assert values is not None
    torch.testing.assert_close(first.detach(), X @ values.T, rtol=1e-4, atol=1e-4)
    assert torch.equal(rows.detach(), values[ids])
    assert torch.equal(w[10:, 5:][torch.tensor([0, -1])].detach(), values[[10, 47], 5:])
    untouched = lazy(SHAPE, Normal(1))
    assert torch.equal(F.embedding(ids, untouched).detach(), untouched.source.whole("")[ids])


def test_vectors_that_are_not_finite_spoil_only_themselves() -> None:
    w = lazy(SHAPE, Normal(1))
    x = X.clone()
    x[1, 2] = math.inf
    y = F.linear(x, w)
    assert y.isfinite().all(1).tolist() == [True, False, True]


# Whole models.


class Shared3(nn.Module):
    """One layer three times, then decoded by its own transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(96, 96, bias=False)
        self.out = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.layer(x).tanh()
        return self.out(x @ self.layer.weight)


class Tied(nn.Module):
    """Embedding, ``x @ w`` and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(150, 96)
        self.w = nn.Parameter(torch.empty(96, 96))
        self.act = nn.GELU()
        self.head = nn.Linear(96, 150, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.head(x + self.act(x @ self.w))


class Recurrent(nn.Module):
    """A GRU cell over four steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(64, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 64)
        for step in x.unbind(1):
            h = self.norm(self.cell(step, h))
        return h


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=96, n_head=4, n_layer=1, vocab_size=150, n_positions=16,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).train()


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=96, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=150, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


class Residual(nn.Module):
    """A small residual net of convolutions, grouped, strided and transposed ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.down = nn.Conv2d(8, 12, 2, stride=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.grouped(x).relu()
        x = x + self.up(self.down(x).relu())
        return self.head(x.mean((2, 3)))


TOKENS = torch.randint(150, (2, 6), generator=generator(0))
MODELS: dict[str, tuple[Callable[[], nn.Module], object, str]] = {
    "gpt2": (gpt2, {"input_ids": TOKENS, "labels": TOKENS}, "normal(0.08)"),
    "llama": (llama, {"input_ids": TOKENS, "labels": TOKENS}, "normal(0.08)"),
    "shared": (Shared3, normal(4, 96), "orthogonal"),
    "shared normal": (Shared3, normal(4, 96), "normal(0.1)"),
    "tied": (Tied, TOKENS, "normal(0.1)"),
    "recurrent": (Recurrent, normal(2, 4, 64), "normal(0.2)"),
}


def real_run(model: nn.Module, plan: Plan, inputs: object, seed: int) -> Draw:
    """With all values drawn; another test holds this to a check."""
    return draw(model, plan, inputs, seed=seed, dense=1 << 40)


@pytest.mark.parametrize("name", [*MODELS, "convolutions"])
def test_with_values_a_draw_is_a_check(name: str) -> None:
    if name == "convolutions":
        build, inputs, recipe = Residual, normal(4, 3, 8, 8), "he"
    else:
        build, inputs, recipe = MODELS[name]
    model = build()
    plan = replace(initium.plan(model, recipe, inputs=inputs), seed=7)
    found = [real_run(model, plan, inputs, 7)]
    if name == "convolutions":
        found.append(draw(model, plan, inputs, seed=7, dense=20))
    plan.apply(model)
    report = initium.check(model, inputs)
    for one in found:
        assert one.layers.keys() == report.layers.keys()
        for key, layer in one.layers.items():
            other = report.layers[key]
            assert (layer.calls, layer.shape) == (other.calls, other.shape)
            for what in ("mean", "second_moment", "grad_second_moment"):
                wanted = getattr(other, what)
                close = wanted and pytest.approx(wanted, rel=1e-3, abs=1e-6)
                assert getattr(layer, what) == close, (key, what)
        assert one.loss is None or one.loss == pytest.approx(report.loss.value)


def logs(layers: Any) -> dict[str, float]:
    """log q of every module, and of its gradient where one arrived."""
    found = {}
    for name, layer in layers.items():
        found[f"{name} forward"] = math.log(layer.second_moment)
        if layer.grad_second_moment:
            found[f"{name} backward"] = math.log(layer.grad_second_moment)
    return found


DRAWS = 32


@pytest.mark.parametrize("name", MODELS)
def test_moments_are_those_of_real_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tested elsewhere; here the type checks of its small functions would take most of the time.
    monkeypatch.setattr(lazy_module, "preserved", lambda model: nullcontext())
    build, inputs, recipe = MODELS[name]
    model = build()
    plan = initium.plan(model, recipe, inputs=inputs)
    model.to("meta")
    lazily, really = [], []
    for seed in range(DRAWS):
        found = draw(model, plan, inputs, seed=seed, dense=200)
        assert all("dropout was switched off" in note for note in found.notes)
        lazily.append(logs(found.layers))
        really.append(logs(real_run(model, plan, inputs, 1000 + seed).layers))
    assert lazily[0].keys() == really[0].keys()
    for key in lazily[0]:
        drawn, real = (np.array([run[key] for run in runs]) for runs in (lazily, really))
        error = math.sqrt((drawn.var(ddof=1) + real.var(ddof=1)) / DRAWS)
        assert abs(drawn.mean() - real.mean()) <= 3 * error + 1e-6, key


# What may go wrong, and what is left behind.


def linear(width: int = 300) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))


def test_a_draw_is_repeatable_and_leaves_nothing_behind() -> None:
    model = linear().train()
    plan = initium.plan(model, "he")
    batch = normal(2, 300).requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = dict(model.named_parameters())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (draw(model, plan, batch, seed=3, dense=1000) for _ in range(2))
    assert first == second
    assert first.layers["0"].second_moment != draw(model, plan, batch).layers["0"].second_moment
    assert torch.equal(torch.get_rng_state(), state)
    assert all(held[name] is value for name, value in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert batch.grad is None
    assert all(p.grad is None for p in held.values())
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_on_meta_stay_there_also_after_an_error() -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("by design")

    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(300, 300), Broken(300, 2))
    held = list(model.parameters())
    plan = initium.plan(model, "he")
    with pytest.raises(ModelError, match="forward pass of a draw fails: ZeroDivisionError: by des"):
        draw(model, plan, normal(2, 300))
    assert all(one is other for one, other in zip(model.parameters(), held, strict=True))
    assert all(parameter.is_meta for parameter in held)
    assert not model[0]._forward_hooks


def test_losses() -> None:
    model, labels = linear(), torch.tensor([0, 3])
    plan, batch = initium.plan(model, "he"), normal(2, 300)
    entropy = draw(model, plan, batch, targets=labels)
    given = draw(model, plan, batch, targets=labels, loss_fn=F.cross_entropy)
    assert entropy.loss is not None
    assert entropy == given
    scaled = draw(model, plan, batch, loss_fn=lambda y, _: 2 * F.cross_entropy(y, labels))
    assert scaled.loss == pytest.approx(2 * entropy.loss)
    gradient = scaled.layers["0"].grad_second_moment
    assert gradient == pytest.approx(4 * (entropy.layers["0"].grad_second_moment or 0))
    assert draw(model, plan, batch).loss is None


def test_frozen_weights_have_no_gradient_behind_them() -> None:
    model = linear().requires_grad_(False)
    found = draw(model, initium.plan(model, "he"), normal(2, 300), dense=1000)
    assert found.notes == ("the output has no gradient",)
    assert found.layers["2"].grad_second_moment is None


def huge() -> nn.Module:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.empty(1 << 16, 1 << 16, device="meta"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table

    return Added()


def kept(model: nn.Module) -> Plan:
    plan = initium.plan(model, "he")
    entries = {
        name: replace(entry, spec=initium.spec.Keep()) for name, entry in plan.entries.items()
    }
    return replace(plan, entries=entries)


ERRORS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "too large": (
        lambda: draw(model := huge(), initium.plan(model, "normal(1)"), normal(1, 1)),
        ModelError,
        r"table: is used by aten.add.Tensor, which needs its values, .* \(got '17.2 GB'\)\. Fix: ",
    ),
    "not planned": (
        lambda: draw(linear(), replace(initium.plan(linear(), "he"), entries={}), normal(2, 300)),
        PlanError,
        "0.weight: is not in the plan",
    ),
    "another shape": (
        lambda: draw(linear(), initium.plan(linear(200), "he"), normal(2, 300)),
        PlanError,
        r"0.weight: has another shape in the plan, \(200, 200\) \(got \(300, 300\)\)",
    ),
    "kept without values": (
        lambda: draw(model := linear().to("meta"), kept(model), normal(2, 300)),
        PlanError,
        "0.weight: is kept as the model has it, and the model has no values",
    ),
    "inputs on meta": (
        lambda: draw(linear(), initium.plan(linear(), "he"), torch.empty(2, 300, device="meta")),
        InputError,
        "inputs: is on the meta device",
    ),
    "wrong inputs": (
        lambda: draw(linear(), initium.plan(linear(), "he"), normal(2, 30), dense=10),
        ModelError,
        "Sequential: the forward pass of a draw fails: RuntimeError",
    ),
    "a broken loss": (
        lambda: draw(linear(40), initium.plan(linear(40), "he"), X, loss_fn=lambda *_: 1 / 0),
        InputError,
        "loss_fn: raises ZeroDivisionError: division by zero",
    ),
    "wrong targets": (
        lambda: draw(linear(), initium.plan(linear(), "he"), normal(2, 300), targets=normal(3)),
        InputError,
        r"targets: are no class indices for an output of shape \(2, 4\)",
    ),
    "no scalar": (
        lambda: draw(
            linear(), initium.plan(linear(), "he"), normal(2, 300), loss_fn=lambda y, _: y
        ),
        InputError,
        r"loss_fn: is not a scalar tensor \(got \(2, 4\)\). Fix: reduce it: reduction='mean'",
    ),
}


@pytest.mark.parametrize(("run", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_what_is_wrong(
    run: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run()


def test_kept_values_of_a_real_model_are_used() -> None:
    model = linear()
    found = draw(model, kept(model), batch := normal(2, 300), dense=10)
    wanted = model(batch).square().mean()
    assert found.layers[""].second_moment == pytest.approx(float(wanted.detach()))


def test_a_large_model_needs_little_memory_and_time() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 17, 1 << 17, bias=False), nn.Linear(1 << 17, 10))
    plan = initium.plan(model, "lecun")
    found = draw(model, plan, normal(2, 1 << 17), memory=0)
    assert found.layers["0"].second_moment == pytest.approx(1, rel=0.05)
    assert found.notes == ()
