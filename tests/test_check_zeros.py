"""Zeros by design open at a later step and are information; zeros that wait for one another are an
error. What really happens is measured: three steps of Adam."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initium
from initium._check.api import check
from initium._check.deep.passes import Subject
from initium._check.deep.steps import take_steps
from initium._check.opening import opened
from initium._model.state import preserved
from initium._report.records import Report

WIDTH, CLASSES, BATCH = 16, 6, 8


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def zero(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def scalar() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).movedim(2, 0).transpose(-2, -3)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Block(nn.Module):
    """A transformer's block whose branches are shut in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.attn, self.mlp = how, Attention(), mlp()
        self.norm = nn.LayerNorm(WIDTH) if "pre-norm" in how else nn.Identity()
        if "scalar" in how:
            self.alpha = nn.Parameter(torch.zeros(() if "number" in how else 1))
        if how == "scale per channel":
            self.alpha = nn.Parameter(torch.zeros(WIDTH))
        if how == "zero projections":
            zero(self.attn.out, self.mlp[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for branch in (self.attn, self.mlp):
            added = branch(self.norm(x))
            if self.how != "zero projections":
                added = added * (self.alpha.tanh() if "tanh" in self.how else self.alpha)
            x = x + added
        return x


class Transformer(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH)
        self.blocks = nn.Sequential(*(Block(how) for _ in range(3)))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(ids)).mean(1))


class Listed(nn.Module):
    """The scalars of all layers in one vector, or in a list of their own."""

    def __init__(self, vector: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.alphas = (
            nn.Parameter(torch.zeros(6)) if vector else nn.ParameterList(scalar() for _ in range(6))
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for index, layer in enumerate(self.layers):
            x = x + self.alphas[index] * F.relu(layer(x))
        return self.head(x)


class Around(nn.Module):
    """ReZero around any module, with the dropout of its first implementation."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.resweight = inside, scalar()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.dropout(self.inside(x) * self.resweight, 0.1, self.training)


class Convolved(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.two = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        if how == "gamma of the last norm":
            self.norm, self.last = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
            nn.init.zeros_(self.last.weight)
        if how == "SkipInit":
            self.alpha = nn.Parameter(torch.zeros(()))
        if how == "Fixup":
            self.shifts = nn.ParameterList(scalar() for _ in range(4))
            self.scale = nn.Parameter(torch.ones(1))
            zero(self.two)
        if how == "zero convolution":
            self.open = nn.Conv2d(WIDTH, WIDTH, 1)
            zero(self.open)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "gamma of the last norm":
            return F.relu(x + self.last(self.two(F.relu(self.norm(self.one(x))))))
        if self.how == "Fixup":
            a, b, c, d = self.shifts
            branch = self.two(F.relu(self.one(x + a) + b) + c) * self.scale + d
            return F.relu(x + branch)
        branch = self.two(F.relu(self.one(F.relu(x))))
        return x + (self.alpha * branch if self.how == "SkipInit" else self.open(branch))


def convolutions(how: str, zero_head: bool = False) -> nn.Sequential:
    head = nn.Linear(WIDTH, CLASSES)
    if zero_head:
        zero(head)
    blocks = (Convolved(how) for _ in range(3))
    stem = nn.Conv2d(3, WIDTH, 3, padding=1)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class Modulated(nn.Module):
    """adaLN-Zero (Peebles & Xie 2022): the condition scales, shifts and gates both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), mlp()
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        zero(self.ada)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        parts = self.ada(condition)[:, None].chunk(6, -1)
        for branch, (shift, scale, gate) in ((self.attn, parts[:3]), (self.mlp, parts[3:])):
            x = x + gate * branch(F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift)
        return x


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.condition = nn.Linear(4, WIDTH), nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(Modulated() for _ in range(2))
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.out = nn.Linear(WIDTH, 4)
        zero(self.ada, self.out)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        x, condition = self.embed(x), self.condition(condition)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.ada(condition)[:, None].chunk(2, -1)
        return self.out(F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift)


class Controlled(nn.Module):
    """A frozen network and a copy of it between zero convolutions (Zhang et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.base = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        for frozen in (self.stem, self.head, self.base):
            frozen.requires_grad_(False)
        self.copy = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.hint = nn.Conv2d(8, 8, 1)
        self.outs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        zero(self.hint, self.outs)

    def forward(self, x: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = x + self.hint(hint)
        for base, twin, out in zip(self.base, self.copy, self.outs, strict=True):
            y = F.silu(twin(y))
            x = F.silu(base(x)) + out(y)
        return self.head(x)


class Adapted(nn.Module):
    """LoRA: a frozen matrix beside a product whose second factor starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(4, WIDTH) / 4)
        self.lora_B = nn.Parameter(torch.zeros(WIDTH, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


class Waiting(nn.Module):
    """Two zero factors in one branch."""

    def __init__(self, how: str, lifted: bool = False, zero_head: bool = False) -> None:
        super().__init__()
        self.how = how
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.alpha, self.beta = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        if how == "two matrices":
            zero(self.up, self.down)
            if lifted:
                nn.init.constant_(self.up.bias, 0.1)
        if how == "scalar and matrix":
            zero(self.down)
            nn.init.zeros_(self.alpha)
        if how == "two scalars":
            nn.init.zeros_(self.alpha)
            nn.init.zeros_(self.beta)
        if zero_head:
            zero(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.beta * (self.alpha * self.down(F.gelu(self.up(x)))))


def tokens() -> torch.Tensor:
    return torch.randint(0, 20, (BATCH, 6))


def vectors() -> torch.Tensor:
    return torch.randn(BATCH, WIDTH)


def pictures() -> torch.Tensor:
    return torch.randn(BATCH, 3, 8, 8)


def sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *layers, nn.Linear(WIDTH, CLASSES))


def encoder() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, norm_first=True)


HOW = (
    "scalar",
    "scalar, pre-norm",
    "scalar that is a number",
    "scalar behind tanh",
    "scale per channel",
    "zero projections",
)
Made = tuple[Callable[[], nn.Module], Callable[[], object]]


class Complex(nn.Module):
    """A product in the frequency domain behind a complex factor of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.waves = nn.Parameter(torch.randn(WIDTH // 2 + 1, dtype=torch.cfloat))
        self.gate = nn.Parameter(torch.zeros(WIDTH // 2 + 1, dtype=torch.cfloat))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + torch.fft.irfft(torch.fft.rfft(x) * self.waves * self.gate))


OPEN: dict[str, Made] = {
    **{f"transformer, {how}": (lambda how=how: Transformer(how), tokens) for how in HOW},
    "scalars in a vector": (lambda: Listed(vector=True), vectors),
    "scalars in a list": (lambda: Listed(vector=False), vectors),
    "ReZero around MLPs": (lambda: sequence(*(Around(mlp()) for _ in range(3))), vectors),
    "ReZero around torch's layers": (
        lambda: nn.Sequential(nn.Embedding(20, WIDTH), Around(encoder()), Around(encoder())),
        tokens,
    ),
    **{
        f"convolutions, {how}": (lambda how=how: convolutions(how), pictures)
        for how in ("gamma of the last norm", "SkipInit", "zero convolution")
    },
    "Fixup": (lambda: convolutions("Fixup", zero_head=True), pictures),
    "SkipInit and a zero head": (lambda: convolutions("SkipInit", zero_head=True), pictures),
    "adaLN-Zero": (Diffusion, lambda: (torch.randn(BATCH, 5, 4), torch.randn(BATCH, 4))),
    "ControlNet": (Controlled, lambda: (pictures(), torch.randn(BATCH, 8, 8, 8))),
    "complex factors": (Complex, vectors),
    "LoRA": (lambda: sequence(Adapted(), Adapted()), vectors),
    "two matrices, one with a bias": (lambda: Waiting("two matrices", lifted=True), vectors),
}
SHUT: dict[str, Made] = {
    f"{how}{', zero head' if zero_head else ''}": (
        lambda how=how, zero_head=zero_head: Waiting(how, zero_head=zero_head),
        vectors,
    )
    for how in ("two matrices", "scalar and matrix", "two scalars")
    for zero_head in (False, True)
}


def made(entry: Made) -> tuple[nn.Module, object, torch.Tensor | None]:
    model, inputs = entry[0](), entry[1]()
    with torch.no_grad():
        output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    labelled = output.dim() == 2
    return model, inputs, torch.randint(0, CLASSES, (BATCH,)) if labelled else None


def checked(entry: Made) -> tuple[Report, set[str]]:
    """The report, and who has no gradient after three real steps of Adam: the oracle."""
    model, inputs, targets = made(entry)
    view = initium.inspect(model, inputs)
    report = check(model, inputs, targets, view=view)
    steps = take_steps(Subject(model, inputs, targets, None, view, BATCH), None)
    return report, {name for name, norms in steps.gradients.items() if norms[-1] == 0.0}


@pytest.mark.parametrize("entry", OPEN.values(), ids=OPEN)
def test_zeros_by_design_are_information(entry: Made) -> None:
    report, silent = checked(entry)
    assert not {"error", "warning"} & {finding.severity for finding in report.findings}
    zeros = [finding for finding in report.findings if finding.code == "IN303"]
    assert zeros
    assert "so the path opens at step 2" in zeros[0].message
    assert silent == set()


@pytest.mark.parametrize("entry", SHUT.values(), ids=SHUT)
def test_zeros_that_wait_for_one_another_are_an_error(entry: Made) -> None:
    report, silent = checked(entry)
    finding = next(one for one in report.findings if one.severity == "error")
    assert finding.code in ("IN303", "IN731")
    roots = {name for name in silent if report.parameters[name].second_moment == 0.0}
    assert {name for name in roots if "bias" not in name} <= set(finding.where)
    assert finding.where[0] in roots


def test_a_zero_scalar_among_scalars_that_opens_nothing_is_not_believed() -> None:
    """Element by element: the last layer's scalar gets no gradient, so its layer stays shut."""

    class Forgotten(Listed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for index, layer in enumerate(self.layers):
                x = x + (index < 5) * self.alphas[index] * F.relu(layer(x))
            return self.head(x)

    model, inputs = Forgotten(vector=True), vectors()
    report = initium.check(model, inputs, torch.randint(0, CLASSES, (BATCH,)))
    alarm = next(finding for finding in report.findings if finding.severity != "info")
    assert (alarm.code, alarm.severity) == ("IN303", "warning")
    assert set(alarm.where) == {"layers.5.weight", "layers.5.bias"}


def slopes(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: g for name, g in subject.gradients()[0].items() if g is not None}


def test_looking_at_what_opens_leaves_the_model_as_it_was() -> None:
    model, inputs, targets = made(OPEN["scalars in a vector"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subject = Subject(model, inputs, targets, None, initium.inspect(model, inputs), BATCH)
    names = frozenset(name for name, _ in model.named_parameters() if name.startswith("layers"))
    with preserved(model):
        assert opened(subject, names, slopes(subject), []).found == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_zeros_with_nothing_around_them_are_a_warning() -> None:
    """The path opens, but until then the whole network is one constant; a zero head is meant."""
    layers = [nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    for index, expected in ((2, ["IN203"]), (4, [])):
        model = nn.Sequential(*copy.deepcopy(layers), nn.Linear(WIDTH, CLASSES))
        nn.init.zeros_(model[index].weight)
        report = initium.check(model, vectors(), torch.randint(0, CLASSES, (BATCH,)))
        alarms = [finding for finding in report.findings if finding.severity != "info"]
        assert [finding.code for finding in alarms] == expected
        for finding in alarms:
            assert finding.where[0] == "2.weight"
            assert finding.fix.startswith("nothing goes around 2.weight")
        zeros = next(finding for finding in report.findings if finding.code == "IN303")
        assert zeros.severity == "info"
        assert "open from step 2" not in " ".join(finding.message for finding in alarms)
        assert zeros.where[0] == f"{index}.weight"


def stacked(*zeros: int) -> nn.Sequential:
    """Three layers with biases as torch draws them; the weights of some are zero."""
    layers = [nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    for index in zeros:
        nn.init.zeros_(model[index].weight)
    return model


@pytest.mark.parametrize(
    ("zeros", "named"),
    [((0, 2, 4), ("0.weight", "2.weight")), ((2, 4), ("2.weight",)), ((4,), ())],
    ids=str,
)
def test_hidden_zeros_that_open_one_after_the_other_are_a_warning(
    zeros: tuple[int, ...], named: tuple[str, ...]
) -> None:
    report = initium.check(stacked(*zeros), vectors(), torch.randint(0, CLASSES, (BATCH,)))
    alarms = [finding for finding in report.findings if finding.severity != "info"]
    assert [(one.code, one.severity) for one in alarms] == [("IN303", "warning")] * bool(named)
    for finding in alarms:
        assert finding.where[: len(named)] == named
        assert finding.fix.startswith(f"nothing goes around {', '.join(named)}")


class Gated(nn.Module):
    """A branch behind one factor, which may be a buffer and never move."""

    def __init__(self, gate: torch.Tensor, zero_head: bool = False) -> None:
        super().__init__()
        self.stem, self.branch = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        if isinstance(gate, nn.Parameter):
            self.gate = gate
        else:
            self.register_buffer("gate", gate)
        if zero_head:
            zero(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.gate * self.branch(x))


class Routed(nn.Module):
    """Two experts of eight drawn at random, beside a branch behind a zero scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))
        self.gate, self.head = scalar(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weights = torch.zeros(8)
        weights[torch.randperm(8)[:2]] = 1.0
        for weight, expert in zip(weights, self.experts, strict=True):
            x = x + weight * expert(x)
        return self.head(x + self.gate * self.branch(x))


@pytest.mark.parametrize(
    ("make", "gate", "opens", "stays"),
    [
        (lambda: Gated(torch.zeros(WIDTH), zero_head=True), "head.weight", "stem", "branch"),
        (Routed, "gate", "branch", "experts"),
    ],
    ids=["a buffer of zeros", "random routing"],
)
def test_only_what_did_open_is_said_to_open(
    make: Callable[[], nn.Module], gate: str, opens: str, stays: str
) -> None:
    report = initium.check(make(), vectors(), torch.randint(0, CLASSES, (BATCH,)))
    found = [one for one in report.findings if one.code == "IN303"]
    stuck, opened = sorted(found, key=lambda one: one.severity == "info")
    assert stuck.severity != "info"
    assert {name.partition(".")[0] for name in stuck.where} == {stays}
    assert opened.where == (gate, f"{opens}.weight", f"{opens}.bias")


class Refusing(Gated):
    """It takes one pass with gradients, and no second one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "passes", None) is not None:
            self.passes.append(0)
            if len(self.passes) > 1:
                raise ValueError("one pass\nis enough")
        return super().forward(x)


class Passes(list[int]):
    """No plain container, so that nothing puts it back."""


@pytest.mark.parametrize(
    ("zero_head", "severity", "where"),
    [(False, "info", "gate"), (True, "warning", "gate")],
    ids=["zero scale", "zero scale and zero head"],
)
def test_a_refused_pass_is_a_note(zero_head: bool, severity: str, where: str) -> None:
    model = Refusing(scalar(), zero_head)
    view = initium.inspect(model, vectors())
    model.passes = Passes()
    report = check(model, vectors(), torch.randint(0, CLASSES, (BATCH,)), view=view)
    assert len(model.passes) == 2
    assert report.notes == (
        "whether zero gradients stay zero was not measured, because another pass failed: "
        "ValueError: one pass",
    )
    finding = next(one for one in report.findings if one.code == "IN303")
    assert (finding.severity, finding.where[0]) == (severity, where)
    assert "no pass has tried" in finding.message
    assert not model.gate.any()


def test_a_zero_whose_elements_share_their_memory_is_left_alone() -> None:
    model = Gated(nn.Parameter(torch.zeros(1).expand(WIDTH)))
    report = initium.check(model, vectors(), torch.randint(0, CLASSES, (BATCH,)))
    finding = next(one for one in report.findings if one.code == "IN303")
    assert (finding.severity, finding.where[0]) == ("info", "gate")
    assert "may open at step 2, which no pass has tried" in finding.message


@pytest.mark.parametrize(
    ("name", "passes"),
    [("scalars in a list", 2), ("SkipInit and a zero head", 3), ("adaLN-Zero", 3)],
)
def test_what_a_check_costs(name: str, passes: int) -> None:
    model, inputs, targets = made(OPEN[name])
    view, calls = initium.inspect(model, inputs), Passes()
    handle = model.register_forward_hook(lambda *given: calls.append(0))
    check(model, inputs, targets, view=view)
    handle.remove()
    assert len(calls) == passes


class OneMore(nn.Module):
    """A norm that multiplies by 1 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (WIDTH,)) * (1.0 + self.weight)


def test_a_norm_that_multiplies_by_one_more_is_shut_at_minus_one() -> None:
    class Shut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.norm = nn.Linear(WIDTH, WIDTH), mlp(), OneMore()
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(x + self.norm(self.branch(x)))

    model, inputs, targets = Shut(), vectors(), torch.randint(0, CLASSES, (BATCH,))
    view = initium.inspect(model, inputs)
    assert view.parameters["norm.weight"].neutral == 0.0
    assert "IN303" not in {f.code for f in check(model, inputs, targets, view=view).findings}
    nn.init.constant_(model.norm.weight, -1.0)
    report = check(model, inputs, targets, view=view)
    finding = next(one for one in report.findings if one.code == "IN303")
    assert (finding.severity, finding.where[0]) == ("info", "norm.weight")
    assert {"branch.0.weight", "branch.2.weight"} <= set(finding.where)
    subject = Subject(model, inputs, targets, None, view, BATCH)
    names = frozenset({"branch.0.weight", "branch.2.weight"})
    assert opened(subject, names, slopes(subject), []).found == names
