"""Grids of sizes, slopes, distances between inputs, the edge of chaos, the page of a prediction."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import nn

import initium
from initium import _cli
from initium._load import load
from initium._load.resize import resize
from initium._predict.realised import realised_plan
from initium._predict.records import LayerPrediction
from initium._predict.series import distances, longest_series
from initium._report.charts import Scale, area
from initium._report.prediction import render_prediction
from initium._slopes import fit, student
from initium.errors import InputError, ModelError, RecipeError

MLP = """
import torch
from torch import nn

def net(width=32, n_layer=3):
    layers = [nn.Linear(width, width, bias=False) for _ in range(n_layer)]
    return nn.Sequential(*layers), torch.ones(2, width)

def fixed():
    return nn.Linear(4, 4)

class Moded(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (10 if self.training else 1)

def moded(width=16):
    return Moded(width, width), torch.ones(2, width)

class Halfway(nn.Sequential):
    def forward(self, x):
        raise RuntimeError(f"no way on from {tuple(self[0](x).shape)}")

def halfway():
    return Halfway(nn.Linear(16, 4)), torch.ones(2, 16)

def picky(width):
    assert width % 16 == 0, "width has to be a multiple of 16"
    return net(width)
"""


def linear(width: int = 128, depth: int = 3) -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    inputs = torch.randn(8, width, generator=torch.Generator().manual_seed(1))
    return nn.Sequential(*layers), inputs


def plain(activation: type[nn.Module], width: int, depth: int, bias: bool = True) -> nn.Sequential:
    pairs = ((nn.Linear(width, width, bias=bias), activation()) for _ in range(depth))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def layer(name: str, order: int) -> LayerPrediction:
    return LayerPrediction(
        name=name, module_type="M", order=order, shape=(2, 4), mean=0.0, second_moment=1.0,
        band=None, closed=1.0, tier="closed form",
    )  # fmt: skip


def gaussian(function: Any) -> float:
    """E[function(u)], u ~ N(0, 1), by SciPy."""
    density = stats.norm.pdf
    return integrate.quad(lambda u: function(u) * density(u), -10, 10, points=[0.0], limit=200)[0]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 100])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


def test_a_fit_without_errors_is_least_squares() -> None:
    generator = np.random.default_rng(0)
    x, noise = np.arange(7.0), generator.normal(size=7)
    found, expected = fit(list(x), list(2 * x + noise)), stats.linregress(x, 2 * x + noise)
    reach = stats.t.ppf(0.975, 5) * expected.stderr
    assert found.value == pytest.approx(expected.slope)
    assert found.low == pytest.approx(expected.slope - reach, rel=1e-3)
    assert found.high == pytest.approx(expected.slope + reach, rel=1e-3)
    assert fit([0.0, 1.0], [0.0, 2.0]).low is None


def test_a_fit_with_errors_is_weighted_and_widened_by_its_misfit() -> None:
    x, y, errors = np.array([0.0, 1, 2, 3]), np.array([0.0, 1.1, 1.9, 3.1]), [0.1, 0.2, 0.1, 0.3]
    expected, covariance = optimize.curve_fit(
        lambda at, a, b: a + b * at, x, y, sigma=errors, absolute_sigma=True
    )
    residuals = (y - expected[0] - expected[1] * x) / errors
    assert float(residuals @ residuals) / 2 < 1
    found = fit(list(x), list(y), errors, freedom=12)
    reach = stats.t.ppf(0.975, 12) * math.sqrt(covariance[1, 1])
    assert found.value == pytest.approx(expected[1])
    assert found.high == pytest.approx(expected[1] + reach, rel=1e-3)
    bent = fit(list(x), [0.0, 3.0, 0.0, 3.0], errors, freedom=12)
    assert bent.high is not None
    assert bent.high - bent.value > 5 * reach


def test_intervals_hold_the_exponent_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    x, inside = [math.log(width) for width in (64, 128, 256)], 0
    for _ in range(300):
        draws = generator.normal(-1.5 * np.array(x), 0.3, size=(4, 3))
        errors = draws.std(0, ddof=1) / 2
        found = fit(x, list(draws.mean(0)), list(errors), freedom=9)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= -1.5 <= found.high
    assert inside / 300 > 0.9


def test_a_linear_net_has_the_growth_and_the_exponents_of_its_formula() -> None:
    std = 0.08
    grid = initium.predict_grid(linear, f"normal({std})", widths=[64, 256], depths=[2, 5], draws=6)
    sizes = [(one.width, one.depth) for one in grid.points]
    assert sizes == [(64, 2), (64, 5), (256, 2), (256, 5)]
    for point in grid.points:
        assert point.width is not None
        assert point.depth is not None
        factor = std**2 * point.width
        assert point.blocks == point.depth
        assert point.parameters == point.depth * point.width**2
        assert point.growth == pytest.approx(factor, rel=0.15)
        assert point.chi == pytest.approx(factor, rel=0.15)
        assert point.gradient_ratio == pytest.approx(factor ** (point.depth - 1), rel=0.5)
        assert point.closer == pytest.approx(1, abs=0.02)
        assert point.output_band is not None
        assert point.output is not None
        assert point.output_band.low < point.output < point.output_band.high
    for one in grid.exponents:
        assert one.low is not None
        assert one.high is not None
        if one.along == "width":
            power = {"output": 0, "last_block": 0, "gradient_ratio": -1}[one.of] + one.at  # type: ignore[operator]
            assert one.low - 0.1 <= power <= one.high + 0.1
            assert one.value == pytest.approx(power, abs=0.3)


def test_a_tanh_net_has_the_chi_of_mean_field_theory() -> None:
    """C_W = 3: the fixed point and chi by SciPy."""

    def build(width: int) -> tuple[nn.Module, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return plain(nn.Tanh, width, 12, bias=False), torch.randn(8, width, generator=generator)

    grid = initium.predict_grid(build, "normal(0.1)", widths=[300], draws=4)
    point = grid.points[0]
    q = optimize.brentq(
        lambda q: q - 3 * gaussian(lambda u: math.tanh(math.sqrt(q) * u) ** 2), 0.1, 3
    )
    chi = 3 * gaussian(lambda u: (1 - math.tanh(math.sqrt(q) * u) ** 2) ** 2)
    assert point.chi == pytest.approx(chi, rel=0.05)
    assert point.gradient_ratio == pytest.approx(chi**11, rel=0.5)
    assert grid.exponents == ()


def test_what_a_grid_says_of_the_gradient_is_what_real_starts_have() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 96, generator=generator)
    targets = torch.arange(16) % 10

    def build(depth: int = 6) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
        return nn.Sequential(*plain(nn.Tanh, 96, depth), nn.Linear(96, 10)), inputs, targets

    grid = initium.predict_grid(build, "he", depths=[6], draws=4)
    model, _, _ = build()
    ratios, losses = [], []
    for seed in range(8):
        initium.plan(model, "he", seed=seed).apply(model)
        report = initium.check(model, inputs, targets)
        first, last = (report.layers[name].grad_second_moment for name in ("0", "10"))
        ratios.append(math.log((first or 0) / (last or 1)))
        losses.append(report.loss.value or 0)
    found = grid.points[0]
    assert found.gradient_ratio is not None
    assert math.log(found.gradient_ratio) == pytest.approx(sum(ratios) / 8, abs=0.2)
    assert found.loss == pytest.approx(sum(losses) / 8, rel=0.1)


def test_without_draws_there_are_closed_forms_alone() -> None:
    grid = initium.predict_grid(linear, "normal(0.08)", widths=[64, 256], depths=[3], draws=0)
    for point in grid.points:
        assert point.growth == pytest.approx(0.0064 * (point.width or 0), rel=1e-3)
        assert point.closer is None
        assert point.output_band is None
    found = {one.of: one.value for one in grid.exponents}
    assert found["last_block"] == pytest.approx(3, abs=0.03)
    assert "closed forms alone" in str(grid)


def test_where_a_recipe_breaks_is_said() -> None:
    grid = initium.predict_grid(linear, "normal(0.01)", widths=[32], depths=[2, 6], draws=3)
    sound, broken = grid.points
    assert sound.breaks == ()
    assert len(broken.breaks) == 2
    assert re.fullmatch(
        r"the signal falls to .*e-1\d of itself through the blocks", broken.breaks[0]
    )
    assert re.search(r"width 32, depth 6: the signal falls", str(grid))
    blown = initium.predict_grid(linear, "normal(3)", widths=[32], depths=[6], draws=3).points[0]
    assert blown.breaks[0].startswith("the signal grows")
    assert blown.breaks[1].startswith("the gradient grows")


def test_own_weights_make_a_grid_too() -> None:
    def build(width: int) -> tuple[nn.Module, torch.Tensor]:
        model, inputs = linear(width, 3)
        for layer in model.children():
            nn.init.orthogonal_(layer.weight, 0.5)  # type: ignore[arg-type]
        return model, inputs

    grid = initium.predict_grid(build, None, widths=[64, 300], draws=3)
    assert grid.plan == "its own weights"
    assert [point.growth for point in grid.points] == pytest.approx([0.25, 0.25], rel=1e-3)


def test_a_size_that_does_not_work_leaves_the_others() -> None:
    def build(width: int) -> tuple[nn.Module, torch.Tensor]:
        if width == 3:
            raise ValueError("three is odd")
        return linear(width)

    grid = initium.predict_grid(build, "he", widths=[3, 16, 32], draws=3)
    assert [bool(point.problem) for point in grid.points] == [True, False, False]
    said = "building it with width=3 raises ValueError: three is odd"
    assert said in grid.points[0].problem
    assert said in " ".join(str(grid).split())
    assert len(grid.exponents) == 3
    data = json.loads(grid.to_json())
    assert (data["initium"], data["version"], len(data["points"])) == ("grid", 1, 3)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, InputError, "no size is varied"),
    ({"widths": [0]}, InputError, r"widths: has to hold positive numbers \(got \[0\]"),
    ({"depths": [True]}, InputError, "depths: has to hold positive"),
    ({"widths": [4], "recipe": "hee"}, RecipeError, "hee"),
    ({"widths": [4], "build": lambda width: 3}, ModelError, "did not return a module"),
    ({"widths": [4], "build": lambda width: 1 / 0}, ModelError, "width=4 raises ZeroDivisionError"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_use_is_said(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"build": linear} | arguments
    with pytest.raises(error, match=message):
        initium.predict_grid(arguments.pop("build"), **arguments)


def test_distances_follow_the_map_of_relu_layers() -> None:
    """c -> (sin t + (pi - t) cos t) / pi with cos t = c: the kernel of Cho & Saul 2009."""
    net = plain(nn.ReLU, 1024, 6, bias=False)
    inputs = torch.linalg.qr(torch.randn(1024, 4))[0].T
    names = [str(at) for at in range(0, 12, 2)]
    found = distances(net, initium.plan(net, "he"), inputs, names)
    c = 0.0
    for apart in found:
        assert apart == pytest.approx(1 - c, abs=0.06)
        angle = math.acos(c)
        c = (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi


def test_distances_are_between_tokens_where_there_are_some() -> None:
    layer = nn.Linear(8, 8)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    net = nn.Sequential(layer)
    keep = realised_plan(net)
    same = torch.ones(3, 5, 8) * torch.tensor([1.0, -1.0, 2.0])[:, None, None]
    assert distances(net, keep, same, ["0"]) == pytest.approx([0], abs=1e-6)
    assert distances(net, keep, torch.eye(8)[None, :4], ["0"]) == pytest.approx([1])
    assert distances(net, keep, torch.eye(8)[:3], ["0"]) == pytest.approx([1])
    assert math.isnan(distances(net, keep, torch.ones(1, 8), ["0"])[0])


SERIES = [
    (["e", "h.0.a", "h.0", "h.1.a", "h.1", "h.2.a", "h.2", "h", "head"], ["h.0", "h.1", "h.2"]),
    (["a.0.norm1", "a.0.norm2", "a.0", "a.1", "b.0", "b.1", "b.2"], ["b.0", "b.1", "b.2"]),
    (["conv1", "conv2", "0", ""], []),
]


@pytest.mark.parametrize(("names", "expected"), SERIES)
def test_the_series_is_that_of_the_blocks(names: list[str], expected: list[str]) -> None:
    layers = [layer(name, order) for order, name in enumerate(names)]
    assert [one.name for one in longest_series(layers)] == expected
    narrow = dataclasses.replace(layers[0], shape=(3,))
    assert longest_series([layer("0", 0), dataclasses.replace(narrow, name="1")]) == ()


# ------------------------------------------------------------------------------- models by size


SIZED = [
    ("demo:mlp-relu-9-512", 48, 3, 64 * 48 + 48 + 48 * 48 + 48 + 48 * 10 + 10),
    ("demo:gpt", 16, 2, None),
    ("demo:vit", 16, 3, None),
    ("demo:convnet", 4, 5, None),
    ("demo:resnet", 4, 1, None),
    ("hf:gpt2", 64, 2, None),
    ("hf:llama", 128, 3, None),
    ("hf:bert", None, 1, None),
    ("timm:vit_tiny_patch16_224", 64, 2, None),
]


@pytest.mark.parametrize(("source", "width", "depth", "count"), SIZED)
def test_models_come_in_other_sizes(
    source: str, width: int | None, depth: int, count: int | None
) -> None:
    loaded = load(source, meta=True, width=width, depth=depth)
    numbers = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert numbers == (count or numbers)
    shapes = {size for parameter in loaded.model.parameters() for size in parameter.shape}
    assert width is None or width in shapes
    plan = initium.plan(loaded.model, "he", loaded.inputs)
    deep = {int(found[1]) for name in plan.entries if (found := re.search(r"\.(\d+)\.", name))}
    if source.startswith(("hf", "timm", "demo:gpt", "demo:vit")):
        assert len(deep) == depth


def test_the_heads_of_a_configuration_keep_their_size_where_they_can() -> None:
    settings = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4,
                "head_dim": 64, "intermediate_size": 4096, "num_hidden_layers": 2,
                "vocab_size": 9, "layer_types": ["a", "b"]}  # fmt: skip
    small = resize(settings, {}, 256, 5)
    assert small == settings | {
        "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1,
        "intermediate_size": 1024, "num_hidden_layers": 5, "layer_types": ["a", "b", "a", "b", "a"],
    }  # fmt: skip
    tiny = resize(settings, {}, 128)
    assert (tiny["num_attention_heads"], tiny["num_key_value_heads"], tiny["head_dim"]) == (
        16,
        4,
        8,
    )
    with pytest.raises(ModelError, match="no number hidden_size"):
        resize({"model_type": "x", "hidden_sizes": [3, 4]}, {}, 8)


UNSIZED = [
    ("hf:clip", "hf:clip: its configuration has no number hidden_size"),
    ("timm:resnet18", "is not a vision transformer of one width"),
    ("m.py:fixed", r"m.py:fixed: takes no argument for its width .*choose from width, hidden_size"),
    ("m.py:picky", "AssertionError when called with width=7: width has to be a multiple of 16"),
]


@pytest.mark.parametrize(("source", "message"), UNSIZED)
def test_models_of_one_size_say_so(source: str, message: str, here: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load(source, meta=True, width=7)


# ------------------------------------------------------------------------------- edge of chaos


@pytest.mark.parametrize("activation", ["tanh", "softsign"])
def test_chi_is_one_and_q_is_settled_on_the_line(activation: str) -> None:
    from initium._scheme.activations import activation as named

    phi = named(activation)

    def mean_square(function: Any, q: float) -> float:
        return gaussian(lambda u: float(function(np.array([math.sqrt(q) * u]))[0]) ** 2)

    line = initium.edge_of_chaos(activation).line
    shown = [place for place in line if 0.01 < place[1] < 1]
    assert shown
    for weight, bias in (shown[0], shown[-1]):

        def excess(q: float, weight: float = weight) -> float:
            return weight * mean_square(phi.derivative, q) - 1

        q = optimize.brentq(excess, 1e-5, 10)
        assert weight * mean_square(phi.function, q) + bias == pytest.approx(q, rel=1e-3)


def test_the_line_of_a_homogeneous_activation_is_upright() -> None:
    assert initium.edge_of_chaos("relu").line == ((2.0, 0.0), (2.0, math.inf))
    (weight, _), (_, top) = initium.edge_of_chaos("leaky_relu(0.5)").line
    assert (weight, top) == (pytest.approx(2 / 1.25), math.inf)
    assert initium.edge_of_chaos("softplus").line == ()


PLACES = [
    ("tanh", 0.5, 0.0, "ordered", None),
    ("tanh", 1.0, 0.0, "critical", math.inf),
    ("tanh", 1.5, 0.3, "ordered", "chi"),
    ("tanh", 4.0, 0.0, "chaotic", "some"),
    ("relu", 1.5, 0.1, "ordered", "chi"),
    ("relu", 2.0, 0.0, "critical", math.inf),
    ("relu", 2.5, 0.0, "chaotic", None),
]


@pytest.mark.parametrize(("activation", "weight", "bias", "phase", "depth"), PLACES)
def test_layers_lie_on_their_side(
    activation: str, weight: float, bias: float, phase: str, depth: float | str | None
) -> None:
    (point,) = initium.edge_of_chaos(activation, {"w": (weight, bias)}).points
    assert point.phase == phase
    if depth == "chi":  # inputs become equal, and the distance follows chi
        assert point.depth == pytest.approx(-1 / math.log(point.chi), rel=1e-3)
    elif depth == "some":
        assert point.depth is not None
        assert 0 < point.depth < 100
    else:
        assert point.depth == depth


def test_an_edge_can_be_seen_and_read() -> None:
    edge = initium.edge_of_chaos(
        "tanh", {"h.0.w": (2.0, 0.1), "h.1.w": (2.0, 0.1), "<b>": (1.0, 0)}
    )
    text = str(edge)
    assert "edge of chaos of tanh: chi = 1 on the line" in text
    assert re.search(r"^A  h\.\{0\.\.1\}\.w +2 +0\.1", text, re.MULTILINE)
    assert text.count("·") > 20
    svg = edge.to_svg()
    assert svg.count("<circle") == 2
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    assert "prefers-color-scheme: dark" in svg
    data = json.loads(edge.to_json())
    assert data["points"][1]["phase"] == "critical"
    assert "only beyond C_W = 108" in str(initium.edge_of_chaos("sigmoid", {"w": (1.0, 0.0)}))
    with pytest.raises(RecipeError, match="tanhh"):
        initium.edge_of_chaos("tanhh")


def test_layers_of_a_model_are_placed_by_its_plan() -> None:
    net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), *plain(nn.Tanh, 64, 3), nn.Linear(64, 5))
    inputs = torch.randn(4, 20)
    rules = {"*.weight": "normal(0.25)", "*.bias": "normal(0.5)"}
    plan = initium.plan(net, "auto", inputs, rules=rules)
    (edge,) = initium.model_edges(net, plan, inputs)
    (point,) = edge.points
    assert (edge.activation, point.name) == ("tanh", "{2..6..2}.weight")
    assert (point.weight, point.bias) == (pytest.approx(64 / 16), pytest.approx(0.25))
    with torch.no_grad():
        for layer in (net[2], net[4], net[6]):
            layer.weight.normal_(0, 0.25)
            layer.bias.fill_(0.5)
    measured = initium.model_edges(net, None, inputs)[0].points
    assert [one.name for one in measured] == ["2.weight", "4.weight", "6.weight"]
    for one in measured:
        assert one.weight == pytest.approx(4, rel=0.1)
        assert one.bias == pytest.approx(0.25)


def test_norms_and_streams_have_no_edge() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU())
    with pytest.raises(InputError, match=r"no plain layers .* --depths 4,8,16"):
        initium.model_edges(net, initium.plan(net, "he"))


# ---------------------------------------------------------------------- command line and page


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.py").write_text(MLP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = [
    ("m.py:net --recipe normal(0.1) --widths 16,32 --depths 2,3 --draws 3", "normal(0.1): 4 sizes"),
    ("m.py:net --widths 16,32 --draws 3", "m.py:net under its own weights: 2 sizes"),
    ("demo:mlp-tanh-3-16 --draws 3", "under its own weights: predicted"),
    ("demo:mlp-tanh-4-16 --recipe he --edge", "edge of chaos of tanh"),
]


@pytest.mark.parametrize(("line", "said"), COMMANDS)
def test_the_command_line(
    line: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["predict", *line.split()]) == 0
    out, err = capsys.readouterr()
    assert said in out
    assert err == ""
    assert _cli.run(["predict", *line.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "read"),
    [
        ("", lambda data: data["layers"][""]["closed"]),
        ("--widths 16,32", lambda data: data["points"][0]["output"]),
    ],
)
def test_a_prediction_is_for_training_unless_told(
    more: str, read: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for flag in ([], ["--eval"]):
        line = f"predict m.py:moded --recipe he --draws 0 --json {more}".split()
        assert _cli.run([*line, *flag]) == 0
        found.append(read(json.loads(capsys.readouterr().out)))
    assert found[0] == pytest.approx(100 * found[1], rel=1e-4)


@pytest.mark.filterwarnings("ignore:the model's own forward pass was not seen")
def test_what_cannot_be_predicted_is_said_beside_the_rest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "predict m.py:halfway --recipe he --draws 0"
    assert _cli.run([*line.split(), "--html", "page.html"]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"^0 +[0-9.]+ +- ", out, re.MULTILINE)
    (told,) = [one for one in err.splitlines() if one.startswith("initium: error: ")]
    assert "not all could be predicted: Halfway: the forward pass of a draw fails: " in told
    assert "RuntimeError: no way on from (2, 4)" in told
    page = (here / "page.html").read_text()
    assert "Not all is predicted." in page
    assert "no way on from (2, 4)" in page
    assert _cli.run([*line.split(), "--json"]) == 2
    data = json.loads(capsys.readouterr().out)
    assert list(data["layers"]) == ["0"]
    assert "no way on" in data["problem"]


REFUSED = [
    ("demo:gpt --widths 8,x", "--widths is not a list such as 64,128,256 (got '8,x')"),
    ("demo:gpt --depths 0", "--depths is not a list"),
    ("demo:gpt --widths 8 --edge", "exclude --plan, --edge and --html"),
    ("demo:gpt-1 --recipe he --edge", "no plain layers"),
    ("demo:gpt-1 --recipe he --html nowhere/x.html", "nowhere/x.html: the folder does not exist"),
    ("m.py:fixed --widths 8,16", "takes no argument for its width"),
]


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_the_command_line_refuses(
    line: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(["predict", *line.split()]) == 2
    assert said in capsys.readouterr().err


def test_the_page_shows_curves_in_their_bands(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "predict demo:mlp-tanh-5-32 --recipe he --draws 3 --html page.html"
    assert _cli.run(line.split()) == 0
    assert "page: page.html" in capsys.readouterr().out
    page = (here / "page.html").read_text()
    assert page.count('class="band moment"') == page.count('class="band gradient"') == 1
    assert page.count('<tr id="layer-') == 10
    assert "Edge of chaos of tanh" in page
    assert "{2..6..2}.weight" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_names_cannot_break_out_of_the_page() -> None:
    net = nn.Sequential()
    net.add_module("<script>x", nn.Linear(4, 4))
    found = initium.predict(net, initium.plan(net, "he"), torch.ones(2, 4), draws=3)
    page = render_prediction(found)
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page


def test_a_band_is_the_area_between_two_curves() -> None:
    found = area([1.0, None, 1.0], [100.0, 2.0, 10.0], Scale(0, 2), range(3))
    assert found == "M166.7 0L833.3 50L833.3 100L166.7 100Z"
    assert area([None], [None], Scale(0, 2), [0]) == ""
