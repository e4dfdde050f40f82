"""``initium.repair`` by the code of a finding: what only a deep check sees, attention, gradients,
buffers, and models in which no rule for the weights suffices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initium
from initium._inspect import inspect
from initium._repair.advice import advice
from initium._repair.case import Case as Round
from initium._repair.case import Recipes, Values
from initium._report.records import Finding


class Subject(NamedTuple):
    model: nn.Module
    inputs: Tensor
    targets: Tensor


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subject(model: nn.Module, width: int, recipe: str = "") -> Subject:
    if recipe:
        initium.initialize(model, recipe)
    return Subject(model, torch.randn(32, width, generator=drawn()), torch.arange(32) % 4)


def chain(depth: int, width: int, activation: type[nn.Module], recipe: str) -> Subject:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    return subject(nn.Sequential(*layers, nn.Linear(width, 4)), width, recipe)


# ---------------------------------------------------------------- attention


class Attention(nn.Module):
    """By hand; the code multiplies its logits by ``scale``."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        split = (*x.shape[:2], 2, -1)
        q, k, v = (part(x).reshape(split).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = (self.scale * (q @ k.transpose(-2, -1))).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, width: int, scale: float, shortcut: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, scale)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention(self.norm1(x))
        x = x + mixed if self.shortcut else mixed
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    def __init__(self, scale: float, shortcut: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 64)
        self.blocks = nn.Sequential(*(Block(64, scale, shortcut) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 64, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.table(tokens))))


def language(recipe: str = "auto", scale: float = 32**-0.5, shortcut: bool = True) -> Subject:
    net, tokens = Language(scale, shortcut), torch.randint(0, 64, (8, 16), generator=drawn())
    initium.initialize(net, recipe, tokens)
    return Subject(net, tokens, tokens.roll(-1, 1))


def scaled(names: set[str], factor: float) -> Subject:
    found = language()
    with torch.no_grad():
        for name in names:
            found.model.get_parameter(name).mul_(factor)
    return found


OUT = {f"blocks.{block}.attention.out.weight" for block in range(6)}
LOGITS = {f"blocks.{block}.attention.{one}.weight" for block in range(6) for one in "qk"}
FIRST = {f"blocks.1.attention.{one}.weight" for one in "qk"}


# ---------------------------------------------------------------- chains, gates, buffers


class Amplified(nn.Module):
    """A buffer multiplies what the layer puts out."""

    gain: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)
        self.register_buffer("gain", torch.full((32,), gain))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x)) * self.gain


def amplified(gain: float) -> Subject:
    net = nn.Sequential(*(Amplified(gain) for _ in range(8)), nn.Linear(32, 4))
    return subject(net, 32, "he")


class Masked(nn.Module):
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 4)
        self.register_buffer("mask", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.mask)


class Twisted(nn.Module):
    """A residual block whose code multiplies the gradient and not the signal."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.1 * self.down(F.gelu(self.up(self.norm(x))))
        return self.factor * x + ((1 - self.factor) * x).detach()


def twisted(factor: float) -> Subject:
    blocks = (Twisted(factor) for _ in range(4))
    return subject(nn.Sequential(*blocks, nn.LayerNorm(32), nn.Linear(32, 4)), 32, "he")


class Gated(nn.Module):
    """A branch behind two scales that are zero: neither ever opens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.gate, self.outer = (nn.Parameter(torch.zeros(32)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.outer * self.gate * self.branch(x).tanh())


def redrawn(std: float, bias: float = 0.0) -> Subject:
    """A chain of tanh whose hidden weights and biases have other stds."""
    found = chain(12, 100, nn.Tanh, "xavier")
    with torch.no_grad():
        for place in range(0, 24, 2):
            for name, size in (("weight", std), ("bias", bias)):
                found.model.get_parameter(f"{place}.{name}").normal_(
                    0, size, generator=drawn(place)
                )
    return found


def of_rank_one() -> Subject:
    found = chain(8, 64, nn.ReLU, "he")
    with torch.no_grad():
        rows, columns = (torch.randn(64, generator=drawn(seed)) for seed in (5, 6))
        found.model.get_parameter("8.weight").copy_(rows.outer(columns) * (2 / 64) ** 0.5)
    return found


HIDDEN = {f"{place}.weight" for place in range(0, 24, 2)}


SCALE = "IN204"


class Case(NamedTuple):
    """A broken model, the code that a check gives it (of the effect, or of the weights' scale
    itself), and the only parameters that may change."""

    make: Callable[[], Subject]
    code: str
    allowed: set[str]
    deep: bool = False


MENDED = {
    "queries and keys of next to nothing": Case(lambda: scaled(LOGITS, 1e-5), "IN405", LOGITS),
    "those of one attention": Case(lambda: scaled(FIRST, 1e-5), "IN405", FIRST),
    "logits that the code enlarges": Case(lambda: language("xavier", 4.0), "IN404", LOGITS),
    "chaotic gradients": Case(lambda: redrawn(2.0), "IN302", HIDDEN),
    "two gates at zero": Case(lambda: subject(Gated(), 32), "IN801", {"gate", "outer"}, True),
    "order": Case(lambda: redrawn(0.063, 0.316), "IN803", HIDDEN, True),
    "chaos": Case(lambda: redrawn(0.3), "IN803", HIDDEN, True),
    "a matrix of rank one": Case(of_rank_one, "IN804", {"8.weight"}, True),
    "a gain that only data show": Case(
        lambda: amplified(5.0),
        "IN501",
        {*(f"{block}.inner.weight" for block in range(8)), "8.weight"},
    ),
}


def above_info(report: initium.Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity != "info"]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MENDED)
def test_what_is_found_is_mended_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(0)
    case = MENDED[name]
    broken = case.make()
    before = bits(broken.model)
    report = initium.check(*broken, deep=case.deep)
    assert {case.code, SCALE} & set(above_info(report))

    made = initium.repair(*broken, report=report)
    changed = {one.parameter for one in made.changed}
    assert changed
    assert changed <= case.allowed
    assert above_info(made.report) == []
    assert made.advice == ()

    made.plan.apply(broken.model)
    after = bits(broken.model)
    assert {one for one in before if not torch.equal(after[one], before[one])} == changed
    assert above_info(initium.check(*broken, plan=made.plan, deep=case.deep)) == []


def test_of_blocks_that_make_tokens_alike_only_loud_writers_change() -> None:
    """A check may name the scale of these weights first; the remedy of IN207 finds it too."""
    torch.manual_seed(0)
    broken = scaled(OUT, 100)
    blocks = tuple(f"blocks.{block}" for block in range(6))
    alike = Finding(code="IN207", severity="warning", title="t", where=blocks, message="m")
    report = replace(initium.check(*broken), findings=(alike,))
    made = initium.repair(*broken, report=report)
    assert {one.parameter for one in made.changed} == OUT
    assert {one.code for one in made.changed} == {"IN207"}
    assert above_info(made.report) == []


def test_a_fit_to_the_batch_is_kept_whole_and_said() -> None:
    """Stds that are fitted to one another change together; zero biases stay as they are."""
    torch.manual_seed(0)
    made = initium.repair(*amplified(5.0))
    assert len(made.changed) == 9
    assert {one.reason for one in made.changed} == {
        "As auto has it; the std is fitted to this batch."
    }
    assert made.notes == (
        "No rule for the weights sufficed: all of the model is planned anew, as auto has it, and "
        "the stds are fitted to this batch by initium.calibrate.",
    )
    gains = [made.plan.entries[f"{block}.inner.weight"].std or 0.0 for block in range(1, 8)]
    assert max(gains) < 0.1  # he has 0.25, and the code multiplies by 5


NO_START = "no start of the weights mends this"

BY_HAND: dict[str, tuple[Callable[[], Subject], str, tuple[str, ...]]] = {
    "no shortcut": (
        lambda: language(shortcut=False),
        "IN207",
        ("a shortcut around every attention",),
    ),
    "a gradient that the code shrinks": (
        lambda: twisted(1e-3),
        "IN301",
        ("change the forward code of Twisted", NO_START, "a detach"),
    ),
    "a gradient that the code enlarges": (
        lambda: twisted(1e3),
        "IN302",
        ("change the forward code of Twisted", NO_START, "a detach"),
    ),
    "a signal that the code shrinks": (
        lambda: amplified(0.03),
        "IN201",
        ("change the forward code of Amplified", NO_START, "inner it multiplies the second"),
    ),
    "a buffer of zeros": (lambda: subject(Masked(), 32), "IN401", ("rebuild mask",)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_no_plan_mends_is_said_in_a_line(name: str) -> None:
    torch.manual_seed(0)
    make, code, words = BY_HAND[name]
    broken = make()
    before = bits(broken.model)
    made = initium.repair(*broken)
    assert made.changed == ()
    (found,) = [one for one in made.advice if one.code == code]
    assert all(word in found.fix for word in words), found.fix
    assert "initium.initialize" not in found.fix
    after = bits(broken.model)
    assert all(torch.equal(after[one], before[one]) for one in before)


# ---------------------------------------------------------------- advice


class Quiet(nn.Module):
    """Its code multiplies by a small number; what stands beside it feeds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.side = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.register_buffer("gain", torch.full((32,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x)) * self.gain + 0 * self.side(x).detach()


def test_advice_names_no_layers_that_are_not_connected() -> None:
    net = nn.Sequential(*(Quiet() for _ in range(8)), nn.Linear(32, 4))
    subject(net, 32, "he")
    for block in list(net)[:8]:
        nn.init.normal_(block.side.weight, std=3e-4)
    made = initium.repair(net, torch.randn(32, 32, generator=drawn()), torch.arange(32) % 4)
    assert made.advice
    assert not any(".side" in one.fix for one in made.advice), made.advice


@pytest.mark.parametrize("code", ["IN201", "IN901"])
def test_advice_replaces_what_a_remedy_has_tried_and_nothing_else(code: str) -> None:
    net, inputs, targets = chain(2, 32, nn.ReLU, "he")
    view = inspect(net, inputs)
    found = Finding(
        code=code,
        severity="error",
        title="a title",
        where=("0",),
        message="a message",
        fix='initium.initialize(model, "auto")',
    )
    report = replace(initium.check(net, inputs, targets), findings=(found,))
    values = Values(dict(net.named_parameters()))
    case = Round(view, initium.plan(net, "he"), report, values, Recipes(view, 0))
    (tried,) = advice(case, tried=True)
    assert (tried.fix == found.fix) == (code == "IN901")
    assert advice(case, tried=False) == [found]
