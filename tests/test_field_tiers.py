"""What is called a closed form is one: operator by operator, and in chains of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import initium
from initium._predict import passes
from initium._predict.draw import draw
from initium._predict.field.losses import log_sum_exp
from initium._predict.measure import CLOSED, SAMPLED

torch.set_num_threads(1)


class Chain(nn.Module):
    """A layer, some operators, and a layer."""

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.steps = nn.ModuleList(Step(name, width) for name in names)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        y: torch.Tensor = self.out(x)
        return y


class Step(nn.Module):
    """One operator; ``w``, ``v`` and ``fused`` are layers, ``vector`` and ``table`` are random."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.w, self.v = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.fused = nn.Linear(width, 2 * width)
        self.norm, self.batch = nn.LayerNorm(width), nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.vector = nn.Parameter(torch.zeros(width))
        self.table = nn.Parameter(torch.zeros(1, TOKENS, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = STEPS[self.name](self, x)
        return y


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _norm_by_hand(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6)


def _gate(s: Step, x: torch.Tensor) -> torch.Tensor:
    gate, value = s.fused(x).chunk(2, -1)
    return F.silu(gate) * value


def _into_slices(s: Step, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = s.v(x[:, 0])
    y[:, 1:] = s.v(x[:, 1:])
    return y


def _rotated(s: Step, x: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(*RING)).flatten(-2)


TOKENS, WIDTH = 4, 128
RING = torch.ones(WIDTH // 2), torch.arange(WIDTH / 2)
RAW = torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).abs()
STEPS: dict[str, Callable[[Step, torch.Tensor], torch.Tensor]] = {
    "linear": lambda s, x: s.w(x),
    "relu": lambda s, x: F.relu(x),
    "gelu": lambda s, x: F.gelu(x),
    "tanh": lambda s, x: torch.tanh(x),
    "silu by hand": lambda s, x: x * torch.sigmoid(x),
    "abs": lambda s, x: x.abs(),
    "shift": lambda s, x: x + 0.5,
    "layer norm": lambda s, x: s.norm(x),
    "rms by hand": lambda s, x: _rms(x),
    "norm by hand": lambda s, x: _norm_by_hand(x),
    "residual": lambda s, x: x + s.w(F.gelu(x)),
    "positive residual": lambda s, x: x + F.relu(s.w(x)),
    "gate": _gate,
    "table": lambda s, x: x + s.table,
    "vector": lambda s, x: x * s.vector,
    "raw sum": lambda s, x: x + RAW,
    "raw product": lambda s, x: x * RAW,
    "twice": lambda s, x: s.v(F.relu(s.v(x))),
    "transposed": lambda s, x: x + F.relu(s.v(x)) @ s.v.weight,
    "slices": _into_slices,
    "complex": _rotated,
    "lstm": lambda s, x: s.lstm(x)[0],
    "pooled": lambda s, x: x + F.relu(x).mean(1, keepdim=True),
    "half": lambda s, x: torch.cat([x[..., : s.width // 2], s.w(x)[..., s.width // 2 :]], -1),
    "mask": lambda s, x: x * (x > 0),
    "attention": lambda s, x: x + F.scaled_dot_product_attention(s.w(x), s.v(x), s.v(x)),
    "maximum": lambda s, x: torch.maximum(s.w(x), s.v(x)),
    "batch norm": lambda s, x: s.batch(x.flatten(0, 1)).view_as(x),
    "mean of channels": lambda s, x: s.w(x) + 10 * x.mean(-1, keepdim=True),
}
TRUE: dict[str, str] = {
    **dict.fromkeys(["linear", "gelu", "silu by hand", "rms by hand", "residual", "gate"], CLOSED),
    **dict.fromkeys(["norm by hand", "twice", "layer norm", "shift", "table"], CLOSED),
    **dict.fromkeys(["transposed", "slices", "complex", "lstm", "pooled", "mask"], SAMPLED),
    **dict.fromkeys(["attention", "maximum", "mean of channels"], SAMPLED),
}


def _chained(names: Sequence[str]) -> tuple[nn.Module, initium.Plan, torch.Tensor]:
    model = Chain(names, WIDTH)
    inputs = torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    rules = {"**.vector": "normal(1)", "**.table": "normal(1)"}
    plan = initium.plan(model, "torch", inputs, rules=rules)
    return model, plan, inputs


@pytest.mark.parametrize("name", TRUE)
def test_the_tier_of_an_operator(name: str) -> None:
    model, plan, inputs = _chained([name])
    assert draw(model, plan, inputs, closed=True).layers["steps.0"].tier == TRUE[name]


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3))
def test_what_is_called_closed_form_is_right(names: list[str]) -> None:
    """Two seeds agree, and the mean of lazy draws, which know no rule, is the same."""
    model, plan, inputs = _chained(names)
    first, second = (draw(model, plan, inputs, seed=s, closed=True).layers for s in range(2))
    lazy = [draw(model, plan, inputs, seed=seed).layers for seed in range(6)]
    for name, one in first.items():
        pairs = [
            (one.tier, *(d[name].second_moment for d in (first, second)),
             [d[name].second_moment for d in lazy], 0.03),
            (one.grad_tier, *(d[name].grad_second_moment or 0.0 for d in (first, second)),
             [d[name].grad_second_moment or 0.0 for d in lazy], 0.15),
        ]  # fmt: skip
        for tier, mine, other, drawn, goal in pairs:
            if tier == CLOSED and name in lazy[0]:
                assert mine == pytest.approx(other, rel=2 / WIDTH), (name, "two seeds")
                error = np.std(drawn, ddof=1) / math.sqrt(len(drawn))
                mean = np.mean(drawn)
                assert abs(mine - mean) <= goal * mean + 4 * error, (name, mine, mean, error)


class Depthwise(nn.Module):
    """Depthwise convolutions of one channel each, and a function of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 256, 3, padding=1, bias=False)
        self.deep = nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.deep(self.stem(x)))
        return y


def test_depthwise_convolutions_are_a_mixture_of_scales() -> None:
    """Each channel has a scale of its own, so that their law is no normal one."""
    model, inputs = Depthwise(), torch.ones(2, 3, 6, 6)
    plan = initium.plan(model, "normal(1)", inputs)
    found = draw(model, plan, inputs, closed=True).layers
    assert (found["stem"].tier, found["deep"].tier, found["act"].tier) == (CLOSED, CLOSED, SAMPLED)
    real = []
    for seed in range(20):
        replace(plan, seed=seed).apply(model)
        with torch.no_grad():
            real.append(float(model(inputs).square().mean()))
    assert found["act"].second_moment == pytest.approx(np.mean(real), rel=0.15)


class Penalty(nn.Module):
    """A model whose output holds the gradient of an inner one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 400))
        self.end = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        y = self.inner(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        again = self.inner(x)
        z: torch.Tensor = self.end(torch.stack([y - again, slope]))
        return z


@pytest.mark.parametrize("closed", [False, True])
def test_weights_are_the_same_after_a_gradient_of_a_gradient(closed: bool) -> None:
    model, inputs = Penalty(), torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(nn.ModuleDict({"inner": model.inner}), "lecun")
    ends = []
    model.end.register_forward_hook(lambda module, args, output: ends.append(output.detach()))
    found = draw(model, plan, inputs, closed=closed).layers["end"]
    assert float(ends[0][0].abs().max()) < (0.1 if closed else 1e-4)
    assert found.tier != CLOSED
    real = []
    for seed in range(8):
        replace(plan, seed=seed).apply(model)
        real.append(float(model(inputs).detach()[1].square().mean()))
    assert float(ends[0][1].square().mean()) == pytest.approx(np.mean(real), rel=0.2)


@pytest.mark.parametrize("classes", [2, 10, 3000])
@pytest.mark.parametrize("variance", [0.01, 1.0, 20.0])
def test_the_expected_log_sum_exp(classes: int, variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, classes, generator=generator) * variance**0.5
    drawn = logits.logsumexp(1).double()
    error = float(drawn.std()) / len(drawn) ** 0.5
    found = float(log_sum_exp(torch.tensor([variance]), classes)[0])
    assert abs(found - float(drawn.mean())) < 4 * error


def test_many_variances_are_interpolated() -> None:
    variances = torch.linspace(0.1, 3, 200)
    exact = torch.cat([log_sum_exp(one[None], 50) for one in variances[::20]])
    torch.testing.assert_close(log_sum_exp(variances, 50)[::20], exact, rtol=1e-4, atol=0)


def test_a_variance_that_is_lost_has_no_loss() -> None:
    lost = torch.tensor([1.0, torch.inf, torch.nan])
    assert log_sum_exp(lost, 50).isnan().tolist() == [False, True, True]
    assert log_sum_exp(lost[1:], 50).isnan().all()


@pytest.mark.parametrize("targets", [4, 64])
def test_the_first_loss_knows_no_sampling_noise(targets: int) -> None:
    """The same in every draw, and the mean over real starts: few targets or many."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(targets, 64, generator=generator)
    labels = torch.randint(0, 10, (targets,), generator=generator)
    plan = initium.plan(model, "lecun", inputs)
    found = [draw(model, plan, inputs, targets=labels, seed=s, closed=True) for s in range(2)]
    assert found[0].loss_tier == CLOSED
    assert found[0].loss == pytest.approx(found[1].loss, rel=2e-3)
    real = []
    for seed in range(60):
        replace(plan, seed=seed).apply(model)
        real.append(float(F.cross_entropy(model(inputs), labels).detach()))
    assert abs((found[0].loss or 0) - np.mean(real)) < 4 * np.std(real) / len(real) ** 0.5
    made = initium.predict(model, plan, inputs, targets=labels, draws=4)
    assert made.loss == pytest.approx(found[0].loss, rel=2e-3)
    assert made.loss_tier == CLOSED
    assert made.loss_band is not None


def test_a_loss_with_ignored_targets_and_a_sum() -> None:
    model = nn.Linear(32, 6, bias=False)
    inputs, labels = torch.ones(3, 32), torch.tensor([1, -100, 2])
    plan = initium.plan(model, "lecun", inputs)
    expected = float(log_sum_exp(torch.ones(1), 6)[0])
    mean = draw(model, plan, inputs, targets=labels, closed=True).loss
    assert mean == pytest.approx(expected, rel=1e-3)

    def total(output: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, given, reduction="sum")

    found = draw(model, plan, inputs, targets=labels, loss_fn=total, closed=True).loss
    assert found == pytest.approx(2 * expected, rel=1e-3)


def test_as_many_passes_as_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*args: object, **options: object) -> object:
        made.append(options["seed"])
        return draw(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(passes, "draw", counted)
    softmax = nn.Softmax(-1)
    cases = ((nn.GELU(), 32, 0, 1), (softmax, 1024, 0, 3), (softmax, 16, 0, 8), (softmax, 16, 3, 5))
    for act, width, draws, count in cases:
        model = nn.Sequential(nn.Linear(32, width), act, nn.Linear(width, width))
        inputs = torch.full((2, 32), 0.1 if width > 32 else 2.0)
        plan = initium.plan(model, "lecun", inputs)
        made.clear()
        initium.predict(model, plan, inputs, draws=draws)
        assert len(made) == count


ELEMENTWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "square": torch.square,
    "hinge": lambda o: F.relu(1 - o),
    "softplus": lambda o: F.softplus(-o),
    "bce": lambda o: F.binary_cross_entropy_with_logits(o, torch.ones_like(o), reduction="none"),
}


@pytest.mark.parametrize("recipe", ["he", "auto", "torch"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_loss_of_each_output_knows_the_weights_behind_it(name: str, recipe: str) -> None:
    """W^T f(W x) is not what a new W^T would give."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    inputs = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, recipe, inputs)

    def loss(output: torch.Tensor, _: object) -> torch.Tensor:
        return ELEMENTWISE[name](output).mean()

    found = [draw(model, plan, inputs, loss_fn=loss, closed=True, seed=s) for s in range(4)]
    assert {one.layers["0"].grad_tier for one in found} == {SAMPLED}
    assert name == "bce" or found[0].layers["2"].grad_tier == CLOSED
    real = []
    for seed in range(12):
        replace(plan, seed=seed).apply(model)
        hidden = model[0](inputs)
        (gradient,) = torch.autograd.grad(loss(model[1:](hidden), None), hidden)
        real.append(float(gradient.square().mean()))
    mine = [one.layers["0"].grad_second_moment or 0.0 for one in found]
    error = math.hypot(np.std(real) / 12**0.5, np.std(mine) / 4**0.5)
    assert abs(np.mean(mine) - np.mean(real)) < 0.05 * np.mean(real) + 3 * error


@pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
def test_a_cross_entropy_knows_little_of_its_head(scale: float) -> None:
    """Closed while logits are small; far beyond the weights that made them, it is sampled."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256, bias=False))
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    rules = {"2.weight": f"normal({scale / 16})"}
    plan = initium.plan(model, "he", inputs, rules=rules)
    labels = torch.arange(64)
    found = draw(model, plan, inputs, targets=labels, closed=True).layers["0"]
    real = []
    for seed in range(6):
        replace(plan, seed=seed).apply(model)
        hidden = model[0](inputs)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model[1:](hidden), labels), hidden)
        real.append(float(gradient.square().mean()))
    if scale < 2:
        assert found.grad_tier == CLOSED
    assert found.grad_second_moment == pytest.approx(np.mean(real), rel=0.06)


def test_a_loss_on_the_way_and_one_at_the_end() -> None:
    """The sum of both gradients follows the signal, although one of them alone does not."""

    class Ways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(128, 128), nn.Linear(128, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.first(x)
            return x, self.head(x)

    def loss(output: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return output[0].square().mean() + F.cross_entropy(output[1], labels)

    model = nn.Sequential(nn.Linear(128, 128), Ways())
    inputs = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, "lecun", inputs)
    found = draw(model, plan, inputs, targets=torch.arange(4), loss_fn=loss, closed=True).layers
    assert (found["1.first"].grad_tier, found["0"].grad_tier) == (CLOSED, SAMPLED)
    only = draw(model, plan, inputs, loss_fn=lambda o, _: o[1].logsumexp(-1).mean(), closed=True)
    assert only.loss is not None


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(2, 16, 3), (4, 2, 12)),
    "one channel": (nn.Conv2d(1, 16, 3, padding=1), (4, 1, 8, 8)),
    "three": (nn.Conv2d(3, 32, 1), (4, 3, 8, 8)),
    "eight": (nn.Conv2d(8, 64, 1, bias=False), (4, 8, 8, 8)),
    "grouped": (nn.Conv2d(4, 32, 3, padding=1, groups=4), (4, 4, 8, 8)),
    "strided": (nn.Conv2d(3, 16, 3, stride=2, padding=1), (4, 3, 8, 8)),
    "transposed": (nn.ConvTranspose2d(3, 16, 4, 2, 1), (4, 3, 8, 8)),
}


@pytest.mark.parametrize("recipe", ["he", "torch"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_small_convolution_is_that_of_its_plan(name: str, recipe: str) -> None:
    """Not that of the few weights of one draw."""
    layer, shape = CONVOLUTIONS[name]
    model = nn.Sequential(layer, nn.ReLU())
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, recipe, inputs)
    found = [draw(model, plan, inputs, closed=True, seed=s).layers for s in range(2)]
    assert found[0]["0"].tier == CLOSED
    normal = name != "grouped" and (recipe == "he" or layer.bias is None)
    assert (found[0]["1"].tier == CLOSED) == normal
    for number, goal in (("0", 1e-3), ("1", 5e-3)):
        one, other = (layers[number] for layers in found)
        if one.tier == CLOSED:
            assert one.second_moment == pytest.approx(other.second_moment, rel=goal)
    real = []
    for seed in range(100):
        replace(plan, seed=seed).apply(model)
        real.append(float(layer(inputs).square().mean().detach()))
    mean, error = np.mean(real), np.std(real) / 10
    assert abs(found[0]["0"].second_moment - mean) < 4 * error


def test_a_convolution_with_a_mean_has_no_closed_form() -> None:
    model, inputs = nn.Conv2d(8, 16, 3, bias=False), torch.ones(1, 8, 6, 6)
    plan = initium.plan(model, "he", inputs, rules={"weight": "constant(0.5)"})
    found = draw(model, plan, inputs, closed=True).layers[""]
    assert found.tier == SAMPLED
    assert found.second_moment == pytest.approx((0.5 * 72) ** 2)


@pytest.mark.parametrize(
    ("norm", "tier"),
    [
        (nn.GroupNorm(64, 256), SAMPLED),
        (nn.GroupNorm(8, 256), SAMPLED),
        (nn.GroupNorm(4, 256), CLOSED),
        (nn.LayerNorm(256), CLOSED),
        (nn.Sequential(nn.Unflatten(1, (8, 32)), nn.LayerNorm(32), nn.Flatten()), SAMPLED),
        (nn.Sequential(nn.Unflatten(1, (16, 16)), nn.RMSNorm(16), nn.Flatten()), SAMPLED),
    ],
)
def test_a_norm_of_few_values_is_not_normal(norm: nn.Module, tier: str) -> None:
    model = nn.Sequential(nn.Linear(256, 256), norm, nn.Tanh())
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, "he", inputs)
    found = draw(model, plan, inputs, closed=True).layers
    assert found["2"].tier == tier
    real = []
    for seed in range(4):
        replace(plan, seed=seed).apply(model)
        real.append(float(model(inputs).square().mean().detach()))
    assert found["2"].second_moment == pytest.approx(np.mean(real), rel=0.02)


def test_a_loss_of_normalised_logits_is_sampled() -> None:
    """Ten logits of fixed length lie on a sphere, and their maxima stray less."""
    model = nn.Linear(128, 10, bias=False)
    inputs = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    plan = initium.plan(model, "lecun", inputs)

    def loss(output: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(20 * F.normalize(output), given)

    found = draw(model, plan, inputs, targets=labels, loss_fn=loss, closed=True)
    assert found.loss_tier == SAMPLED


def test_dropout_is_said_to_be_off() -> None:
    layers = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)
    for model, said in ((nn.Sequential(*layers), True), (nn.Sequential(*layers).eval(), False)):
        plan = initium.plan(model, "he", torch.ones(2, 8))
        for draws in (0, 3):
            found = initium.predict(model.train(said), plan, torch.ones(2, 8), draws=draws)
            assert any("dropout was switched off" in note for note in found.notes) == said
