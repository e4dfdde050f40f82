"""Predictions without weights, against the moments of real starts."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initium
from initium._predict import passes
from initium._predict.api import _loss_band, _spread
from initium._predict.draw import draw
from initium._predict.records import Draw, LayerMoments
from initium.errors import InputError, ModelError, PlanError


class Residual(nn.Module):
    """A small pre-norm net with a branch per block."""

    def __init__(self, width: int = 224, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(20, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        logits: torch.Tensor = self.head(x)
        return logits


class Sum(nn.Module):
    """Nothing says what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one + other + self.shift


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 20, generator=generator), torch.arange(16) % 10


def test_real_starts_lie_in_the_bands(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, targets = batch
    real, meta = Residual(), Residual().to("meta")
    view, plan = initium.inspect(real, inputs), initium.plan(real, "auto", inputs)
    predicted = initium.predict(meta, plan, inputs, targets=targets, draws=6)
    inside = total = 0
    logs: dict[str, list[float]] = {name: [] for name in predicted.layers}
    for seed in range(8):
        dataclasses.replace(plan, seed=seed).apply(real)
        report = initium.check(real, inputs, targets, view=view)
        assert report.loss.value is not None
        assert predicted.loss is not None
        assert report.loss.value == pytest.approx(predicted.loss, rel=0.05)
        for name, layer in report.layers.items():
            band = predicted.layers[name].band
            inside += band.low <= layer.second_moment <= band.high
            total += 1
            logs[name].append(math.log(layer.second_moment))
    assert inside / total > 0.9
    for name, found in logs.items():
        mean = sum(found) / len(found)
        assert mean == pytest.approx(math.log(predicted.layers[name].second_moment), abs=0.2)


def test_the_same_seed_predicts_the_same(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, targets = batch
    model = Residual(64, 1)
    plan = initium.plan(model, "he", inputs)
    before = [parameter.clone() for parameter in model.parameters()]
    one, same, other = (
        initium.predict(model, plan, inputs, targets=targets, draws=3, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.layers["head"].second_moment != other.layers["head"].second_moment
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)


def test_a_closed_branch_is_predicted_as_zero(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 300))
    plan = initium.plan(
        model, "he", batch[0], rules=[initium.Rule("zeros", name="2.weight", reason="closed")]
    )
    found = initium.predict(model, plan, batch[0], draws=3).layers
    assert found["2"].second_moment == 0
    assert (found["2"].band.low, found["2"].band.high) == (0, 0)
    assert found["0"].grad_second_moment == 0


def test_it_prints_and_reads_as_json(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = Residual(64, 3)
    plan = initium.plan(model, "auto", batch[0])
    predicted = initium.predict(model, plan, batch[0], targets=batch[1], draws=3)
    text = str(predicted)
    assert "Residual under auto: predicted from 3 lazy draws" in text
    assert "up.{0..2}" in text
    noted = dataclasses.replace(predicted, notes=("a b: c", "up.0.w: x", "up.1.w: x", "up.2.w: y"))
    assert str(noted).endswith("note: a b: c\nnote: up.{0..1}.w: x\nnote: up.2.w: y")
    assert "first loss 2." in text
    data = json.loads(predicted.to_json())
    assert (data["initium"], data["version"]) == ("prediction", 2)
    assert data["layers"]["head"]["second_moment"] == predicted.layers["head"].second_moment


@pytest.mark.parametrize(
    "normed", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm]
)
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norms_are_those_of_the_drawn_weights(normed: Any, training: bool) -> None:
    def build() -> nn.Module:
        return nn.Sequential(normed(nn.Linear(300, 300)), nn.ReLU(), nn.Linear(300, 5))

    torch.manual_seed(0)
    inputs, model = torch.randn(16, 300), build().train(training)
    plan = initium.plan(model, "auto", inputs)
    predicted = initium.predict(model, plan, inputs, draws=4).layers["0"].second_moment
    real = []
    for seed in range(4):
        dataclasses.replace(plan, seed=seed).apply(model)
        real.append(initium.check(model, inputs).layers["0"].second_moment)
    assert predicted == pytest.approx(sum(real) / 4, rel=0.15)


def test_ties_lost_on_the_way_to_meta_are_those_of_the_plan() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(500, 256)
            self.head = nn.Linear(256, 500, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.table(tokens))
            return logits

    tokens, model = torch.arange(32).reshape(2, 16), Tied()
    plan = initium.plan(model, "normal(0.5)", tokens)
    lost = Tied().to("meta")
    assert lost.head.weight is not lost.table.weight
    found = initium.predict(lost, plan, tokens, draws=3)
    # the token's own logit is |row|^2 = 64, of 500; the others have variance 256 / 16
    assert found.layers["head"].mean == pytest.approx(64 / 500, rel=0.2)


def test_wrong_use_is_said(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = nn.Linear(20, 4)
    plan = initium.plan(model, "he")
    with pytest.raises(InputError, match=r"draws: has to be at least 3, or 0 \(got 2\)"):
        initium.predict(model, plan, batch[0], draws=2)
    with pytest.raises(InputError, match=r"seed: has to be from 0 to 2\^64 - 1 \(got -1\)"):
        initium.predict(model, plan, batch[0], seed=-1)
    with pytest.raises(InputError, match="the batch is empty"):
        initium.predict(model, plan, torch.ones(0, 20))
    with pytest.raises(InputError, match="NaN"):
        initium.predict(model, plan, torch.full((2, 20), math.nan))
    with pytest.raises(PlanError, match="shape"):
        initium.predict(nn.Linear(20, 5), plan, batch[0])
    with pytest.raises(InputError, match="needs a batch"):
        initium.predict(Sum(), initium.plan(Sum(), "zeros"))
    with pytest.raises(ModelError, match="the forward pass of a draw fails") as caught:
        initium.predict(model, plan, torch.ones(2, 7))
    assert "7" in str(caught.value)


@pytest.mark.parametrize("losses", [[0.2, 0.9, 1.4], [0.5, 3.0, 0.1, 0.2]])
def test_the_band_of_a_loss_that_is_never_negative_is_not_either(losses: list[float]) -> None:
    band = _loss_band(losses)
    assert 0.0 < band.low < min(losses)
    assert max(losses) < band.high


def test_the_band_of_other_losses_is_that_of_their_spread() -> None:
    assert _loss_band([-0.2, 0.9, 1.4]) == _spread([-0.2, 0.9, 1.4])
    assert _loss_band([2.2, 2.3, 2.4]) == _spread([2.2, 2.3, 2.4])


class Again(nn.Module):
    """One narrow layer, many times: single starts differ by far."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(24, 24, bias=False), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(16):
            x = x + torch.relu(self.layer(F.layer_norm(x, (24,)))) * x
        y: torch.Tensor = self.end(x)
        return y


def test_what_strays_is_averaged_over_more_passes() -> None:
    model, inputs = Again(), torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    found = initium.predict(model, initium.plan(model, "xavier", inputs), inputs, draws=0)
    end = found.layers["end"]
    assert end.tier == "monte carlo"
    assert end.closed_error is not None
    assert end.closed_error > 0.1
    assert found.passes == 8
    (note,) = [note for note in found.notes if "differ widely" in note]
    assert "averages of 8 passes" in note


def test_what_is_known_has_no_error(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    found = initium.predict(model, initium.plan(model, "he"), batch[0], targets=batch[1], draws=0)
    assert {one.tier for one in found.layers.values()} == {"closed form"}
    assert {(one.closed_error, one.grad_closed_error) for one in found.layers.values()} == {(0, 0)}
    assert (found.loss_error, found.passes) == (0, 1)
    assert not found.notes


def test_no_two_seeds_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = Again(), torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    plan, asked = initium.plan(model, "xavier", inputs), list[int]()

    def spied(*args: Any, seed: int, **options: Any) -> Draw:
        asked.append(seed)
        return draw(*args, seed=seed, **options)

    monkeypatch.setattr(passes, "draw", spied)
    for seed in (0, 1):
        initium.predict(model, plan, inputs, draws=0, seed=seed)
    assert asked == list(range(16))


def run(loss: float, second: float, tier: str) -> Draw:
    layer = LayerMoments(
        name="end", module_type="Identity", order=0, calls=1, shape=(1, 1), mean=0.0,
        second_moment=second, tier=tier,
    )  # fmt: skip
    return Draw({"end": layer}, loss, tier)


@pytest.mark.parametrize(
    ("losses", "seconds", "tier", "expected"),
    [
        ([2.0], [1.0], "closed form", 1),
        ([2.0] * 8, [1.0] * 8, "monte carlo", 3),  # two may agree by chance
        ([2.0, 2.0, 8.0, 2.0, 2.0, 2.0, 2.0, 2.0], [1.0] * 8, "monte carlo", 8),
        ([2.0] * 8, [1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0], "monte carlo", 8),
        ([2.0] * 8, [1.0, 1.5, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2], "monte carlo", 4),
    ],
)
def test_passes_are_made_until_moments_and_the_loss_are_steady(
    losses: list[float],
    seconds: list[float],
    tier: str,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = iter([run(loss, second, tier) for loss, second in zip(losses, seconds, strict=True)])
    monkeypatch.setattr(passes, "draw", lambda *args, **options: next(made))
    model = nn.Linear(2, 2)
    found = passes.run_passes(model, initium.plan(model, "he"), torch.ones(1, 2), draws=0)
    assert len(found.closed) == expected


@pytest.mark.parametrize(
    ("values", "tier", "expected"),
    [
        ([], "monte carlo", (None, None)),
        ([3.0], "closed form", (3.0, 0.0)),
        ([3.0], "monte carlo", (3.0, None)),
        ([0.0, 0.0], "monte carlo", (0.0, 0.0)),
        ([-1.0, 2.0, -4.0], "monte carlo", (-1.0, None)),
        ([1.0, math.inf], "monte carlo", (math.inf, None)),
        ([1.0, 3.0], "monte carlo", (2.0, 0.5)),
    ],
)
def test_an_error_that_is_not_known_is_no_zero(
    values: list[float], tier: str, expected: tuple[float | None, float | None]
) -> None:
    assert passes.average(values, tier) == expected


class Dropped(nn.Module):
    """Leaves its layer out, unless that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.layerdrop = nn.Linear(20, 64), 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out if torch.rand(()) >= self.layerdrop else 0 * out


def test_no_layer_is_left_out(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = Dropped()
    found = initium.predict(model, initium.plan(model, "he"), batch[0], draws=0)
    assert found.layers[""].second_moment > 0.5
    assert model.layerdrop == 1.0


# What cannot be predicted, with the rest ---------------------------------------------------------


class Odd(nn.Module):
    """Two layers with something unusual between them, or at the end."""

    def __init__(self, between: Any = None, end: Any = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)
        self.between, self.end = between or (lambda h, model: h), end or (lambda y: y)

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self.b(self.between(self.a(x), self)))


class OneWay(torch.autograd.Function):
    """An operator without a derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign() * x.abs().sqrt()


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    words: str = "fine"


def refused(h: torch.Tensor, model: nn.Module) -> torch.Tensor:
    raise RuntimeError("not today")


PARTIAL = {
    "forward": (Odd(refused), ["a"], "the forward pass of a draw fails: RuntimeError: not today"),
    "wrong shape": (Odd(lambda h, model: h[:, :7]), ["a"], "(in b). Fix: check that the inputs"),
    "backward": (
        Odd(lambda h, model: OneWay.apply(h)), ["a", "b", ""],
        "the backward pass of a draw fails: NotImplementedError",
    ),
    "integers": (Odd(end=lambda y: y.argmax(-1)), ["a", "b"], "floating-point tensor (got 'torch"),
    "a text": (Odd(end=lambda y: "cat"), ["a", "b"], "no floating-point tensor (got 'str')"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize("draws", [0, 3])
@pytest.mark.filterwarnings("ignore:the model's own forward pass was not seen")
def test_what_was_reached_is_predicted(
    name: str, draws: int, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model, reached, said = PARTIAL[name]
    plan = initium.plan(model, "he", batch[0])
    found = initium.predict(model, plan, batch[0], draws=draws)
    assert list(found.layers) == reached
    assert said in found.problem
    assert (found.layers["a"].band is None) == (draws == 0)
    assert " ".join(f"not all is predicted: {found.problem}".split()) in " ".join(
        str(found).split()
    )
    whole = initium.predict(Odd(), plan, batch[0], draws=0)
    assert found.layers["a"].closed == pytest.approx(whole.layers["a"].closed, rel=1e-6)
    gradients = [one.grad_closed for one in found.layers.values()]
    assert gradients[:1] == [None]
    assert (gradients[-1] is not None) == (name == "backward")
    assert all(parameter.grad is None for parameter in model.parameters())


def numpy_of_weights(h: torch.Tensor, model: Any) -> torch.Tensor:
    return h * float(abs(model.a.weight.detach().numpy()).max() > 0)


@pytest.mark.filterwarnings("ignore:the model's own forward pass was not seen")
def test_the_next_tier_takes_over_where_one_fails(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, plain = Odd(numpy_of_weights), Odd()
    plan = initium.plan(model, "he", batch[0])
    found = initium.predict(model, plan, batch[0], draws=0)
    assert not found.problem
    assert {one.tier for one in found.layers.values()} == {"lazy draw"}
    assert found.passes >= 3
    assert found.layers["b"].closed_error is not None
    assert found.layers["b"].closed_error > 0
    (note,) = [note for note in found.notes if note.startswith("no closed form could be made")]
    assert "numpy() is not supported" in note
    assert "by: c closed form, l lazy draw, m monte carlo" in str(found)
    expected = initium.predict(plain, plan, batch[0], draws=0)
    for name, layer in expected.layers.items():
        assert found.layers[name].closed == pytest.approx(layer.closed, rel=0.5)


def test_weights_drawn_whole_take_over_where_laws_fail(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = nn.Sequential(nn.Linear(20, 300), Odd(numpy_of_weights))
    model[1].a, inputs = nn.Linear(300, 300), batch[0]
    model[1].b = nn.Linear(300, 5)
    plan = initium.plan(model, "he", inputs)
    found = initium.predict(model, plan, inputs, draws=3)
    assert not found.problem
    assert any(note.startswith("no law of products could be used") for note in found.notes)
    band = found.layers["1.b"].band
    assert band is not None
    assert band.low < found.layers["1.b"].second_moment < band.high


def test_rows_that_a_table_lacks_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 3))
    plan = initium.plan(model, "normal(1)", torch.arange(4))
    for row in (300, -1):
        with pytest.raises(ModelError, match=f"0.weight has 300 rows, and no row {row} "):
            initium.predict(model, plan, torch.tensor([0, row]), draws=0)


OUTPUTS = {
    "mapping": lambda y: {"logits": y, "text": "cat"},
    "dataclass": Answer,
    "nested": lambda y: ({"a": [y]}, 3),
    "complex": lambda y: torch.fft.fft(y),
    "bfloat16": lambda y: y.bfloat16(),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_form_have_gradients(
    name: str, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = Odd(end=OUTPUTS[name])
    found = initium.predict(model, initium.plan(model, "he", batch[0]), batch[0], draws=0)
    assert not found.problem
    expected = initium.predict(Odd(), initium.plan(Odd(), "he"), batch[0], draws=0)
    assert found.layers["b"].closed == pytest.approx(expected.layers["b"].closed, rel=1e-6)
    assert found.layers["a"].grad_closed is not None
    assert found.layers["a"].grad_closed > 0


def test_a_loss_is_no_line_of_the_table(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = Odd(end=lambda y: {"loss": y.square().mean(), "logits": y})
    plan = initium.plan(model, "he", batch[0])
    text = str(initium.predict(model, plan, batch[0], draws=0))
    assert "(the model)" not in text
    assert "first loss" in text
    alone = Odd(end=lambda y: y.sum(-1))
    assert "(the model)" in str(initium.predict(alone, plan, batch[0], draws=0))


def test_models_that_map_over_samples_are_measured_outside(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    class Mapped(Odd):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.vmap(super().forward)(x)

    model = Mapped()
    found = initium.predict(model, initium.plan(model, "he", batch[0]), batch[0], draws=0)
    assert list(found.layers) == [""]
    expected = initium.predict(Odd(), initium.plan(Odd(), "he"), batch[0], draws=0)
    assert found.layers[""].closed == pytest.approx(expected.layers[""].closed, rel=0.6)


def test_files_without_later_fields_are_read(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    from initium._report.reading import parse_report

    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    plan = initium.plan(model, "he", batch[0])
    plan.apply(model)
    predicted = initium.predict(model, plan, batch[0], targets=batch[1], draws=3)
    report = initium.check(model, *batch, plan=plan, prediction=predicted)
    assert parse_report(report.to_json()).prediction == predicted
    data = json.loads(report.to_json())
    old = data["prediction"]
    for field in ("loss_error", "passes", "problem"):
        del old[field]
    for layer in old["layers"].values():
        del layer["closed_error"], layer["grad_closed_error"]
    read = parse_report(json.dumps(data)).prediction
    assert read is not None
    assert (read.loss, read.passes, read.problem) == (predicted.loss, 1, "")
    assert read.loss_error is None
    assert {one.closed_error for one in read.layers.values()} == {None}  # not known, and not zero


class Rooted(nn.Module):
    """A root of what is negative as often as not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 64), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).sqrt())


def test_where_the_signal_is_no_number_is_said() -> None:
    net, batch = Rooted(), torch.randn(4, 20)
    found = initium.predict(net, initium.plan(net, "he", inputs=batch), batch)
    assert found.problem == "the signal is NaN behind second, and in 2 of 3 modules"
    assert found.layers["first"].second_moment > 0
    assert not any("nan" in note for note in found.notes)
