"""The check: what it measures, what it concludes, and that it changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from initium import spec
from initium._check import check
from initium._check.facts import Facts, LayerFacts
from initium._check.findings import draw
from initium._check.loss import first_loss
from initium._check.measure import sample_count
from initium._check.parameters import duplicate_rows
from initium._check.planned import find_plan
from initium._check.trend import decay, growth
from initium._model.moments import Moments
from initium._model.state import fingerprint
from initium._plan import Entry, Plan
from initium._report.records import LayerRecord, LossRecord, ParameterRecord, Report
from initium._types import Axes, ModelView, ParameterView
from initium.errors import InitiumError, InputError, ModelError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices on a busy machine: waiting for a second thread takes longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- models and views, made by hand


def view_of(model: nn.Module, head: str = "head", activation: str | None = "relu") -> ModelView:
    """What an inspection would say of a model of linear layers, convolutions and norms."""
    parameters = {}
    modules = dict(model.named_modules())
    for order, (name, value) in enumerate(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        kind = type(modules[owner]).__name__
        role = "linear" if value.dim() > 1 else "bias"
        role = "head" if role == "linear" and owner == head else role
        role = "embedding" if kind == "Embedding" else role
        role = "scale" if leaf == "gate" else role
        role = "norm_scale" if "Norm" in kind and leaf == "weight" else role
        parameters[name] = ParameterView(
            name=name,
            shape=tuple(value.shape),
            dtype="float32",
            module=owner,
            module_type=kind,
            role=role,
            axes=Axes((1,), (0,), (), tuple(range(2, value.dim()))) if value.dim() > 1 else None,
            fan_in=value[0].numel() if value.dim() > 1 else None,
            activation=activation if role == "linear" else None,
            neutral=1.0 if role == "norm_scale" else None,
            order=6 if leaf == "gate" else order,
            trainable=value.requires_grad,
        )
    return ModelView(model=type(model).__name__, parameters=parameters, buffers={})


class MLP(nn.Module):
    def __init__(self, depth: int = 50, width: int = 128, act: Callable[..., nn.Module] = nn.ReLU):
        super().__init__()
        sizes = [64] + [width] * (depth - 1)
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.act = act()
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, depth: int = 6, width: int = 64, scaled: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 100, bias=False)
        for name, value in self.named_parameters():
            if value.dim() > 1:
                writes = scaled and name.split(".")[-2] in ("out", "down")
                nn.init.normal_(value, std=0.02 / (math.sqrt(2 * depth) if writes else 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def set_weights(model: nn.Module, fill: Callable[[torch.Tensor], object]) -> nn.Module:
    for value in model.parameters():
        if value.dim() > 1:
            fill(value)
        else:
            nn.init.zeros_(value)
    return model


def digits(samples: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 64, generator=generator)
    return x, torch.randint(0, 10, (samples,), generator=generator)


def run(model: nn.Module, inputs: object, targets: object = None, **given: object) -> Report:
    view = view_of(model, activation=given.pop("activation", "relu"))  # type: ignore[arg-type]
    return check(model, inputs, targets, view=view, **given)  # type: ignore[arg-type]


def codes(report: Report, severity: str | None = None) -> list[str]:
    return [f.code for f in report.findings if severity in (None, f.severity)]


# ---------------------------------------------------------------- the deep ReLU network

FILLS: dict[str, tuple[Callable[[torch.Tensor], object], list[str]]] = {
    "he": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), []),
    "he, fan_out": (lambda w: nn.init.kaiming_uniform_(w, mode="fan_out", a=0), []),
    "orthogonal": (lambda w: nn.init.orthogonal_(w, math.sqrt(2)), []),
    "xavier": (nn.init.xavier_normal_, ["IN201"]),
    "normal(0.2)": (lambda w: nn.init.normal_(w, std=0.2), ["IN202"]),
    "zeros": (nn.init.zeros_, ["IN303"]),
    "constant": (lambda w: nn.init.constant_(w, 0.01), ["IN403"]),
}


@pytest.mark.parametrize("name", FILLS)
def test_deep_relu_network_under_every_scheme(name: str) -> None:
    fill, errors = FILLS[name]
    width = 256 if name in ("he", "xavier", "normal(0.2)") else 64
    report = run(set_weights(MLP(width=width), fill), *digits())
    assert codes(report, "error") == errors
    assert report.ok is not bool(errors)
    if errors:
        (finding,) = [f for f in report.findings if f.severity == "error"]
        assert 'initium.initialize(model, "he")' in finding.fix
        assert "--recipe he" in finding.fix


def test_torch_default_in_a_deep_relu_network_is_named_located_and_explained() -> None:
    report = run(MLP(), *digits())
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("IN201", "error")
    assert finding.where[0] in ("layers.1", "layers.2")
    assert finding.where[-1] == "layers.48"
    assert finding.numbers["factor"] == pytest.approx(1 / 6, rel=0.15)
    assert "variance 0.33/fan_in, and relu needs 2/fan_in" in finding.message
    assert "torch's default" in finding.message
    assert "relu halves" in finding.message
    # The second moment alone does not show it: the biases hold it up.
    assert report.layers["layers.48"].second_moment > 1e-4
    assert report.layers["layers.48"].signal < 1e-12


def test_the_proposed_fix_works() -> None:
    model = MLP(width=128)
    assert not run(model, *digits()).ok
    set_weights(model, FILLS["he"][0])
    assert run(model, *digits()).ok


@pytest.mark.parametrize(("depth", "severity"), [(4, None), (10, "warning"), (20, "error")])
def test_severity_grows_with_depth(depth: int, severity: str | None) -> None:
    assert run(MLP(depth, 128), *digits()).worst() == severity


@pytest.mark.parametrize("scaled", [True, False])
def test_small_gpt_is_healthy(scaled: bool) -> None:
    ids = torch.randint(0, 100, (4, 16), generator=torch.Generator().manual_seed(0))
    report = run(GPT(scaled=scaled), ids, ids, activation="gelu")
    assert report.findings == ()
    assert report.loss.source == "cross-entropy of the next token"
    assert report.loss.value == pytest.approx(math.log(100), rel=0.02)


def test_normalised_networks_hide_no_alarm() -> None:
    layers: list[nn.Module] = []
    for _ in range(20):
        layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    assert run(nn.Sequential(*layers, nn.Linear(64, 10)), *digits()).findings == ()


# ---------------------------------------------------------------- by design, and not


class Residual(nn.Module):
    """A branch that starts closed, in one of the usual ways."""

    def __init__(self, close: str) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 32)
        self.gate = nn.Parameter(torch.full((32,), 1e-6 if close == "layer scale" else 1.0))
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            if close == "zero gate":
                self.gate.zero_()
            if close in ("zero matrix", "deadlock"):
                self.last.weight.zero_()
            if close == "deadlock":
                self.gate.zero_()
                self.last.bias.zero_()
            if close == "zero head":
                self.head.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.gate * self.last(F.relu(self.first(x))))


@pytest.mark.parametrize(
    ("close", "codes_and_severities"),
    [
        ("open", []),
        ("layer scale", []),
        ("zero gate", [("IN303", "info")]),
        ("zero matrix", [("IN303", "info")]),
        ("zero head", [("IN303", "info")]),
    ],
)
def test_closed_branches_are_by_design(
    close: str, codes_and_severities: list[tuple[str, str]]
) -> None:
    report = run(Residual(close), *digits())
    assert [(f.code, f.severity) for f in report.findings] == codes_and_severities


def test_a_zero_head_is_not_symmetric_although_absent_classes_agree() -> None:
    model = MLP(3, 32)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    x, y = digits()
    report = run(model, x, y % 3)
    assert report.parameters["head.weight"].duplicate_units == 7
    assert codes(report) == ["IN303"]
    assert report.ok


def test_deadlocked_zeros_are_an_error() -> None:
    (finding,) = [f for f in run(Residual("deadlock"), *digits()).findings if f.severity == "error"]
    assert finding.code == "IN303"
    assert set(finding.where[:2]) == {"last.weight", "gate"}


def test_unused_parameters() -> None:
    model = MLP(3, 32)
    model.spare = nn.Linear(3, 3)
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.severity) == ("IN304", "warning")
    assert finding.where == ("spare.weight", "spare.bias")
    (finding,) = run(model, *digits(), inferred=True).findings
    assert finding.severity == "info"


def test_frozen_model_is_only_run_forward() -> None:
    model = MLP(3, 32).requires_grad_(False)
    report = run(model, *digits())
    assert report.ok
    assert "no parameter is trainable" in report.notes[0]
    assert report.layers["head"].grad_second_moment is None


def test_dead_units_are_attributed_to_their_producer() -> None:
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    with torch.no_grad():
        model[0].bias[:90] = -100
    finding = run(model, *digits()).findings[0]
    assert (finding.code, finding.severity, finding.where) == (
        "IN401",
        "warning",
        ("0.weight", "1"),
    )
    report = run(model, *digits())
    assert report.layers["1"].dead_units == pytest.approx(0.9)


def test_constant_input_features_are_not_dead_units() -> None:
    x, y = digits()
    x[:, :60] = 0
    assert run(MLP(3, 32), x, y).findings == ()


@pytest.mark.parametrize(("kind", "std"), [(nn.Tanh, 1.0), (nn.Sigmoid, 3.0)])
def test_saturated_units(kind: type[nn.Module], std: float) -> None:
    model = set_weights(MLP(3, 64, kind), lambda w: nn.init.normal_(w, std=std))
    report = run(model, *digits(), activation="tanh")
    if kind is nn.Tanh:
        (finding,) = [f for f in report.findings if f.code == "IN402"]
        assert finding.where == ("act",)
    else:  # a std that no scheme gives is the root of it
        (finding,) = [f for f in report.findings if f.severity != "info"]
        assert finding.code == "IN204"
    assert 0.4 < report.layers["act"].saturated < 1


def test_an_output_without_its_input() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.ones_like(self.first(x)) + 0 * self.first(x))

    report = run(Blind(), *digits())
    assert "IN203" in codes(report, "error")
    assert report.findings[0].where == ("head",)


def test_equal_samples_say_nothing_about_the_signal() -> None:
    x, y = digits()
    report = run(MLP(), x[:1].expand(8, 64), y[:8])
    assert not {"IN201", "IN203"} & set(codes(report))
    assert "equal ones" in report.notes[0]


# ---------------------------------------------------------------- numbers that are not finite


def test_nonfinite_weights_are_the_root() -> None:
    model = MLP(4, 32)
    with torch.no_grad():
        model.layers[1].weight[0, 0] = math.nan
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.where) == ("IN101", ("layers.1.weight",))


class Masked(nn.Module):
    """A buffer that multiplies, as a mask does."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.register_buffer("mask", torch.full((32,), value))
        self.gate = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x).relu() * self.mask * self.gate)


@pytest.mark.parametrize(
    ("value", "code", "told"),
    [
        (math.nan, "IN101", "all elements of mask are NaN or infinite; the output of the model is"),
        (math.inf, "IN101", "all elements of mask are NaN or infinite; the output of the model is"),
        (0.0, "IN401", "the buffer mask, which stands there, is all zero"),
    ],
)
def test_a_bad_buffer_is_the_root(value: float, code: str, told: str) -> None:
    finding = run(Masked(value), *digits()).findings[0]
    assert (finding.code, finding.severity, finding.where[0]) == (code, "error", "mask")
    assert told in finding.message
    assert finding.fix == "rebuild mask: initialising weights leaves buffers alone"


def test_statistics_that_a_pass_does_not_read_are_a_warning() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    model[1].running_var.fill_(math.nan)
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.severity, finding.where) == (
        "IN101",
        "warning",
        ("1.running_var",),
    )
    assert "reset_running_stats() does it" in finding.fix


def test_a_buffer_of_minus_infinity_is_a_mask() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model.register_buffer("mask", torch.full((4,), -math.inf))
    assert run(model, *digits()).findings == ()


def test_a_scalar_parameter_that_is_not_a_number_is_named() -> None:
    model = Masked(1.0)
    model.gate.data.fill_(math.nan)
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.where) == ("IN101", ("gate",))
    assert finding.fix.startswith("initialise gate: ")


class Log(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


def test_the_module_that_breaks_is_the_root() -> None:
    model = nn.Sequential(nn.Linear(64, 32), Log(), nn.Linear(32, 10))
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.severity, finding.where[0]) == ("IN102", "error", "1")


def test_overflow_after_an_explosion_is_the_explosion() -> None:
    model = set_weights(MLP(40, 64), lambda w: nn.init.normal_(w, std=12.0))
    report = run(model, *digits())
    assert codes(report) == ["IN202"]


def test_a_gradient_that_breaks() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x).abs().sqrt() + x

    model = nn.Sequential(nn.Linear(64, 32), Root(), nn.Linear(32, 10))
    (finding,) = run(model, *digits()).findings
    assert (finding.code, finding.where[:2]) == ("IN103", ("1", "0"))


def test_a_loss_that_is_not_finite() -> None:
    x, y = digits()
    report = run(MLP(3, 32), x, y, loss_fn=lambda z, t: F.cross_entropy(z, t) / 0)
    assert codes(report) == ["IN103"]
    assert "first loss is inf" in report.findings[0].message


# ---------------------------------------------------------------- the loss

N, T, C = 4, 5, 7


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((N, C), (N,)), ((N, T, C), (N, T)), ((N, C, 3, 2), (N, 3, 2)), ((N, T, C), (N, T - 1))],
)
def test_cross_entropy_of_every_layout(logits: tuple[int, ...], targets: tuple[int, ...]) -> None:
    z, y = torch.randn(logits, requires_grad=True), torch.randint(0, C, targets)
    record = first_loss(z, None, y, None).record
    flat = z[:, : targets[1]] if len(targets) == 2 else z
    flat = flat if flat.dim() == 4 else flat.reshape(-1, C)
    wanted = F.cross_entropy(flat, y if flat.dim() == 4 else y.reshape(-1))
    rows = z[:, : targets[1]] if len(targets) == 2 else z.movedim(1, -1) if z.dim() == 4 else z
    assert record.value == pytest.approx(wanted.item(), rel=1e-5)
    assert record.expected == pytest.approx(math.log(C))
    independent = (rows.logsumexp(-1) - rows.mean(-1)).mean().item()
    assert record.independent == pytest.approx(independent, rel=1e-5)
    assert record.logit_std == pytest.approx(rows.var(-1, correction=0).mean().sqrt().item())


def test_gaussian_logits_cost_half_their_variance() -> None:
    z = torch.randn(2000, 500, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 500, (2000,), generator=torch.Generator().manual_seed(1))
    record = first_loss(z.requires_grad_(), None, y, None).record
    assert record.independent == pytest.approx(math.log(500) + 0.5, rel=0.01)
    assert record.value == pytest.approx(record.independent, rel=0.02)


def test_targets_that_are_the_inputs_are_the_next_tokens() -> None:
    z, ids = torch.randn(N, T, C, requires_grad=True), torch.randint(0, C, (N, T))
    record = first_loss(z, ids, ids, None).record
    wanted = F.cross_entropy(z[:, :-1].reshape(-1, C), ids[:, 1:].reshape(-1))
    assert record.source == "cross-entropy of the next token"
    assert record.value == pytest.approx(wanted.item())


def test_ignored_targets_do_not_count() -> None:
    z, y = torch.randn(N, C, requires_grad=True), torch.tensor([1, -100, 2, -100])
    record = first_loss(z, None, y, None).record
    kept = z[[0, 2]].detach()
    assert record.independent == pytest.approx((kept.logsumexp(1) - kept.mean(1)).mean().item())


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ({"loss": torch.tensor(2.0, requires_grad=True)}, "model"),
        (torch.tensor(2.0, requires_grad=True), "model"),
        (torch.ones(2, 3, requires_grad=True), "random cotangent"),
        ((torch.ones(2), torch.ones(2, 3, requires_grad=True)), "random cotangent"),
    ],
)
def test_where_the_loss_comes_from(output: object, source: str) -> None:
    start = first_loss(output, None, None, None)
    assert start.record.source == source
    assert all(tensor.requires_grad for tensor in start.tensors)


def test_the_random_cotangent_is_fixed() -> None:
    z = torch.ones(2, 3, requires_grad=True)
    first, second = (first_loss(z, None, None, None).cotangents[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("scale", "worst"), [(1.0, None), (3.0, "warning"), (40.0, "error")])
def test_first_loss_against_its_expectation(scale: float, worst: str | None) -> None:
    model = nn.Sequential()
    model.head = nn.Linear(64, 10)
    set_weights(model, lambda w: nn.init.normal_(w, std=scale / 8))
    report = run(model, *digits(500))
    assert report.worst() == worst
    assert codes(report) == ([] if worst is None else ["IN501"])


def test_trained_weights_are_only_worth_knowing() -> None:
    x, y = digits()
    model = nn.Sequential()
    model.head = nn.Linear(64, 10)
    for _ in range(200):
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        for value, grad in zip(model.parameters(), grads, strict=True):
            value.data -= 0.5 * grad
    (finding,) = run(model, x, y).findings
    assert (finding.code, finding.severity) == ("IN501", "info")


class Returns(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.head, self.make = nn.Linear(64, 10), make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(self.head(x))


class Bare(nn.Module):
    """Nothing says what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


X, Y = digits(8)
WRONG: dict[str, tuple[Callable[[], object], type[InitiumError], str]] = {
    "no batch": (lambda: check(Bare()), InputError, "inputs: the check needs a batch"),
    "shape": (lambda: run(MLP(2, 8), torch.ones(2, 3)), InputError, "does not run on this batch"),
    "argument": (lambda: run(MLP(2, 8), {"y": X}), InputError, "unexpected keyword argument 'y'"),
    "text output": (lambda: run(Returns(str), X), ModelError, "no floating-point tensor"),
    "integer output": (lambda: run(Returns(lambda z: z.long()), X), ModelError, "no floating"),
    "detached": (lambda: run(Returns(torch.Tensor.detach), X), ModelError, "has no gradient"),
    "out of range": (lambda: run(MLP(2, 8), X, Y + 5), InputError, r"0\.\.9.*\(got 1[0-4]\)"),
    "negative": (lambda: run(MLP(2, 8), X, Y - 20), InputError, r"\(got -\d+\)"),
    "all ignored": (lambda: run(MLP(2, 8), X, Y * 0 - 100), InputError, "every target is ignored"),
    "target shape": (lambda: run(MLP(2, 8), X, Y[:3]), InputError, r"\(3,\).*\(8, 10\)"),
    "float targets": (lambda: run(MLP(2, 8), X, X), InputError, "float32.*pass loss_fn="),
    "loss shape": (
        lambda: run(MLP(2, 8), X, Y, loss_fn=lambda z, y: z),
        InputError,
        r"loss_fn: is not a scalar \(got \(8, 10\)\)",
    ),
    "loss type": (
        lambda: run(MLP(2, 8), X, Y, loss_fn=lambda z, y: 1.0),
        InputError,
        "loss_fn: is not a tensor",
    ),
    "loss detached": (
        lambda: run(MLP(2, 8), X, Y, loss_fn=lambda z, y: z.detach().sum()),
        InputError,
        "loss_fn: has no gradient",
    ),
    "loss raises": (
        lambda: run(MLP(2, 8), X, Y, loss_fn=lambda z, y: z[99]),
        InputError,
        "loss_fn: raised IndexError",
    ),
    "meta": (lambda: run(nn.Linear(3, 3, device="meta"), X), ModelError, "meta device"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_clear_line(case: str) -> None:
    attempt, kind, message = WRONG[case]
    with pytest.raises(kind, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert "Fix:" in str(caught.value) or caught.value.value is not None


def test_what_fails_while_measuring_is_not_the_models_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*given: object, **named: object) -> Moments:
        raise RuntimeError("no moments")

    monkeypatch.setattr(Moments, "of", broken)
    with pytest.raises(RuntimeError, match="no moments") as caught:
        run(MLP(2, 8), *digits())
    assert not isinstance(caught.value, InputError)
    assert caught.value.__notes__ == [
        "this was raised while measuring: it is no fault of the model"
    ]


# ---------------------------------------------------------------- measurements against torch


def test_moments_against_closed_forms() -> None:
    x = torch.randn(6, 70, 301, dtype=torch.float64) * 3 + 1
    x[0, :5] = 0
    turned = torch.randn(301, 6, dtype=torch.float64).T
    cases = [(x, True), (x.transpose(1, 2), True), (x.float(), True), (x.float(), False)]
    cases += [(turned, True), (turned.float(), True), (turned.float(), False)]
    for tensor, exact in cases:
        moments = Moments.of(tensor, samples=6, exact=exact)
        wide = tensor.double()
        assert moments.per_element(moments.total) == pytest.approx(wide.mean().item())
        assert moments.per_element(moments.squares) == pytest.approx(wide.square().mean().item())
        signal = wide.var(0).mean().item()
        assert moments.centred / moments.freedom == pytest.approx(signal)
        assert moments.zeros == int((tensor == 0).sum())


def test_moments_of_tiny_numbers_do_not_underflow() -> None:
    x = torch.full((4, 10), 1e-30)
    for exact in (True, False):
        assert Moments.of(x, exact=exact).squares == pytest.approx(40e-60, rel=1e-5)
        assert Moments.of(1e25 * x / 1e-30, exact=exact).squares == pytest.approx(40e50, rel=1e-5)


def test_what_samples_differ_by_is_seen_beside_a_large_common_part() -> None:
    """In single precision too, where the mean of a column is rounded."""
    x = (1000.0 + 0.01 * torch.randn(512, 40, dtype=torch.float64)).float()
    wide = x.double().var(0).mean().item()
    moments = Moments.of(x, samples=512, exact=False)
    assert moments.centred / moments.freedom == pytest.approx(wide, rel=1e-5)


def test_layers_and_gradients_against_torch() -> None:
    model, (x, y) = MLP(3, 16), digits()
    report = run(model, x, y)
    h = x
    hidden = []
    for layer in model.layers:
        z = layer(h)
        z.retain_grad()
        hidden.append(z)
        h = F.relu(z)
    F.cross_entropy(model.head(h), y).backward()
    for index, z in enumerate(hidden):
        record = report.layers[f"layers.{index}"]
        assert record.weight == f"layers.{index}.weight"
        assert record.shape == (32, 16)
        assert record.mean == pytest.approx(z.mean().item(), abs=1e-7)
        assert record.second_moment == pytest.approx(z.square().mean().item())
        assert record.signal == pytest.approx(z.var(0).mean().item())
        assert record.grad_second_moment == pytest.approx(z.grad.square().mean().item())
    assert report.layers["act"].calls == 2
    assert report.layers[""].second_moment == report.layers["head"].second_moment
    for name, value in model.named_parameters():
        record = report.parameters[name]
        assert record.grad_second_moment == pytest.approx(value.grad.square().mean().item())
        assert record.std == pytest.approx(value.std(correction=0).item(), rel=1e-4)
        assert record.duplicate_units == 0
    assert list(report.layers) == ["layers.0", "act", "layers.1", "head", ""]


@pytest.mark.parametrize(("rows", "expected"), [((), 0), ((0, 3), 2), ((1, 2, 5), 3)])
def test_duplicate_rows(rows: tuple[int, ...], expected: int) -> None:
    value, grad = torch.randn(8, 40), torch.randn(8, 40) * 1e-30
    for row in rows:
        value[row], grad[row] = value[rows[0]], grad[rows[0]]
    assert duplicate_rows(value, grad, (0,)) == expected
    assert duplicate_rows(value.t(), grad.t(), (1,)) == expected
    assert duplicate_rows(value, torch.randn(8, 40), (0,)) == 0


@pytest.mark.parametrize(
    ("inputs", "samples"),
    [
        (torch.randn(4, 3), 4),
        (torch.ones(4, 3), 1),
        (torch.randn(1, 3), 1),
        ({"ids": torch.randn(4, 3), "mask": torch.ones(4, 3)}, 4),
        ((torch.tensor(2.0), torch.randn(5, 2)), 5),
        ("text", 1),
    ],
)
def test_sample_count(inputs: object, samples: int) -> None:
    assert sample_count(inputs) == samples


# ---------------------------------------------------------------- nothing is changed


class Noisy(nn.Module):
    """Batch norm, dropout and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 32), nn.BatchNorm1d(32)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(32, 10)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self.head(self.drop(self.norm(self.first(x)).relu()))


def test_results_equal_a_plain_run_and_the_model_is_untouched() -> None:
    model, (x, y) = Noisy(), digits()
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    state = {name: fingerprint(value) for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    loss = F.cross_entropy(plain(x), y)
    torch.set_rng_state(random)
    first, second = run(model, x, y), run(model, x, y)
    assert first.loss.value == loss.item()
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: fingerprint(value) for name, value in model.state_dict().items()} == state
    assert all(bool((value.grad == 1).all()) for value in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    assert model.training


def test_eval_mode_is_followed_and_fresh_statistics_are_said() -> None:
    report = run(Noisy().eval(), *digits())
    assert report.mode == "eval"
    assert "batch norms are in eval mode" in report.notes[0]


def test_an_optimiser_in_the_backward_pass_does_not_step() -> None:
    model = MLP(3, 16)
    steps = []
    for value in model.parameters():
        value.register_post_accumulate_grad_hook(steps.append)
    run(model, *digits())
    assert steps == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_measured_once(reentrant: bool) -> None:
    class Checkpointed(MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.layers[0](x))
            for layer in self.layers[1:]:
                x = checkpoint(lambda h, layer=layer: F.relu(layer(h)), x, use_reentrant=reentrant)
            return self.head(x)

    torch.manual_seed(0)
    model, steps = Checkpointed(4, 16), []
    for value in model.parameters():
        value.register_post_accumulate_grad_hook(steps.append)
    torch.manual_seed(0)
    plain, report = run(MLP(4, 16), *digits()), run(model, *digits())
    assert steps == []
    assert all(len(value._post_accumulate_grad_hooks) == 1 for value in model.parameters())
    for name in ("layers.0", "layers.1", "layers.2", "head"):
        ours, theirs = report.layers[name], plain.layers[name]
        assert ours.calls == 1
        assert ours.second_moment == pytest.approx(theirs.second_moment)
        assert ours.grad_second_moment == pytest.approx(theirs.grad_second_moment)


# ---------------------------------------------------------------- findings without torch


def facts(signals: list[float], grads: list[float] | None = None) -> tuple[Facts, ModelView]:
    """A chain of layers with these variances, and a view of it."""
    grads = grads or [1.0] * len(signals)
    layers, parameters, views = {}, {}, {}
    for order, (signal, grad) in enumerate(zip(signals, grads, strict=True)):
        name, weight = f"l{order}", f"l{order}.weight"
        layers[name] = LayerRecord(
            name=name,
            module_type="Linear",
            order=order,
            calls=1,
            shape=(8, 64),
            mean=0.0,
            second_moment=max(signal, 1e-6),
            signal=signal,
            grad_second_moment=grad,
            weight=weight,
        )
        parameters[weight] = ParameterRecord(
            name=weight,
            role="linear",
            shape=(64, 64),
            trainable=True,
            mean=0.0,
            std=0.1,
            second_moment=0.01,
            grad_second_moment=grad,
        )
        views[weight] = ParameterView(
            name=weight, shape=(64, 64), dtype="float32", role="linear", fan_in=64, order=order
        )
    loss = LossRecord(source="random cotangent")
    return (
        Facts(layers=layers, parameters=parameters, loss=loss),
        ModelView(model="chain", parameters=views, buffers={}),
    )


@pytest.mark.parametrize(
    ("signals", "grads", "expected"),
    [
        ([1.0] * 12, None, []),
        ([1.0 * 0.3**i for i in range(30)], None, [("IN201", "error")]),
        ([1.0 * 0.3**i for i in range(12)], None, [("IN201", "warning")]),
        ([1e5, *[1.0] * 12], None, []),
        ([1.0, 0.3, 1e-3, 1e-5] * 6, None, []),
        ([float(i + 1) for i in range(48)], None, []),
        ([10.0**i for i in range(16)], None, [("IN202", "error")]),
        ([1.0] * 30, [0.3 ** (29 - i) for i in range(30)], [("IN301", "error")]),
        ([1.0] * 30, [3.0 ** (29 - i) for i in range(30)], [("IN302", "error")]),
        ([1.0] * 12, [1.0, *[1e-12] * 11], []),
        ([*[1.0] * 6, *[0.0] * 6], None, [("IN203", "error")]),
    ],
)
def test_trends_over_depth(
    signals: list[float], grads: list[float] | None, expected: list[tuple[str, str]]
) -> None:
    assert [(f.code, f.severity) for f in draw(*facts(signals, grads))] == expected


def test_a_lost_signal_is_located() -> None:
    given, view = facts([*[1.0] * 6, *[0.0] * 6])
    (finding,) = draw(given, view)
    assert finding.where[0] == "l6"


def test_untrained_batch_norms_soften_the_verdict() -> None:
    given, view = facts([0.3**i for i in range(30)])
    (finding,) = draw(dataclasses.replace(given, fresh_norms=True), view)
    assert finding.severity == "warning"
    assert "statistics that were never collected" in finding.message


def test_masks_of_minus_infinity_are_information() -> None:
    given, view = facts([1.0] * 6)
    layers = dict(given.layers)
    layers["mask"] = dataclasses.replace(layers["l2"], name="mask", nonfinite=0.5, weight=None)
    modules = {"mask": LayerFacts(breaks=True)}
    (finding,) = draw(dataclasses.replace(given, layers=layers, modules=modules), view)
    assert (finding.code, finding.severity, finding.where[0]) == ("IN102", "info", "mask")


def test_decay_and_growth_are_mirror_images() -> None:
    values = [(f"l{i}", 0.25**i) for i in range(20)]
    fall, rise = decay(values), growth([(name, 1 / value) for name, value in values])
    assert fall is not None
    assert rise is not None
    assert fall.names == rise.names
    assert fall.factor == pytest.approx(0.25)
    assert rise.factor == pytest.approx(4.0)
    assert growth(values) is None
    assert decay([]) is None


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("std", "written", "errors"),
    [(0.02, 0.02, []), (0.02, 0.021, ["IN601"]), (0.02, 0.0, ["IN601"])],
)
def test_weights_against_their_plan(std: float, written: float, errors: list[str]) -> None:
    given, view = facts([1.0])
    weight = torch.randn(300, 300) * written
    record = dataclasses.replace(
        given.parameters["l0.weight"],
        shape=(300, 300),
        mean=weight.mean().item(),
        std=weight.std().item(),
        second_moment=weight.square().mean().item(),
    )
    given = dataclasses.replace(given, parameters={"l0.weight": record})
    entry = Entry(spec.Normal(std), (300, 300), "float32", "linear", "a test")
    found = find_plan(given, view, Plan({"l0.weight": entry}))
    assert [finding.code for finding in found] == errors
