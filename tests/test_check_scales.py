"""What weights are by definition or by their size: units that are equal, matrices of one sign,
scales that no scheme gives; shut gates; gradients that half precision flushes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import initium
from initium._check.gates import gate_values, saturated_gates
from initium._check.ranges import range_records
from initium._check.sample import Ranges
from initium._check.scales import schemes_range
from initium._check.values import find_in_values
from initium._check.values.parts import matrices_in
from initium._report.records import Finding, Report
from initium._types import Axes, Block, ParameterView


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(0, 10, (16,), generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 50, (8, 24), generator=torch.Generator().manual_seed(2))


def alarms(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity != "info"]


def found(report: Report, code: str) -> Finding:
    assert code in [finding.code for finding in report.findings], str(report)
    return next(finding for finding in report.findings if finding.code == code)


def is_mended(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether the repair leaves no alarm."""
    initium.repair(model, inputs, targets).plan.apply(model)
    return alarms(initium.check(model, inputs, targets)) == []


def convolutions(wrap: Callable[[nn.Module], nn.Module] = lambda conv: conv) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for width in (16, 16, 32, 32, 64):
        conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers += [wrap(conv), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.rnn = kind(32, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


class Stack(nn.Module):
    """Matrices in odd places: a transposed one, experts, groups, a stack of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.randn(16, 32) / 4)
        self.experts = nn.Parameter(torch.randn(4, 32, 32) / 32**0.5)
        self.conv = nn.Conv1d(32, 32, 3, padding=1, groups=4)
        self.depthwise = nn.Conv1d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x @ self.turned).unflatten(0, (4, -1))
        x = torch.bmm(x, self.experts).flatten(0, 1).relu()
        x = self.depthwise(self.conv(x.unsqueeze(-1).expand(-1, -1, 4)))
        return self.head(x.mean(-1))


ROWS = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))


def values_of(spoil: Callable[[Stack], object]) -> list[tuple[str, tuple[str, ...]]]:
    model = Stack()
    with torch.no_grad():
        spoil(model)
    view = initium.inspect(model, ROWS)
    findings = find_in_values(dict(model.named_parameters()), view)
    return [(f.code, f.where) for f in findings if f.code in ("IN403", "IN205")]


# ---------------------------------------------------------------- equal units, one sign


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("turned", lambda m: m.turned.fill_(0.02)),
        ("turned", lambda m: m.turned.copy_(m.turned[:, :1].expand(-1, 32).clone())),
        ("experts", lambda m: m.experts.fill_(0.02)),
        ("experts", lambda m: m.experts[2].fill_(0.02)),
        ("conv.weight", lambda m: m.conv.weight[8:16].fill_(0.02)),
        ("head.weight", lambda m: m.head.weight.fill_(-0.1)),
    ],
    ids=["constant", "equal columns", "experts", "one expert", "one group", "head"],
)
def test_equal_units_are_found_in_whatever_layout(
    name: str, spoil: Callable[[Stack], object]
) -> None:
    assert values_of(spoil) == [("IN403", (name,))]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("turned", lambda m: m.turned.uniform_(0.0, 0.5)),
        ("turned", lambda m: m.turned.uniform_(-0.5, 0.0)),
        ("experts", lambda m: m.experts[1].abs_()),
        ("conv.weight", lambda m: m.conv.weight.log_normal_(0.0, 1.0)),
        ("head.weight", lambda m: m.head.weight.abs_()),
    ],
    ids=["0 to a", "-a to 0", "one expert", "log-normal", "head"],
)
def test_a_matrix_of_one_sign_was_not_drawn_about_zero(
    name: str, spoil: Callable[[Stack], object]
) -> None:
    assert values_of(spoil) == [("IN205", (name,))]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: None,
        lambda m: m.turned.zero_(),
        lambda m: nn.init.eye_(m.experts[0]),
        lambda m: nn.init.dirac_(m.conv.weight, groups=4),
        lambda m: nn.init.orthogonal_(m.turned),
        lambda m: m.depthwise.weight.fill_(1 / 3),
        lambda m: nn.init.sparse_(m.head.weight, 0.9),
        lambda m: m.head.weight.data.bernoulli_(0.1),
        lambda m: m.turned.requires_grad_(False).fill_(0.1),
    ],
    ids=["drawn", "zero", "eye", "dirac", "orthogonal", "means", "sparse", "rare", "frozen"],
)
def test_what_is_meant_so_is_no_fault_of_values(spoil: Callable[[Stack], object]) -> None:
    assert values_of(spoil) == []


def test_a_matrix_of_one_sign_is_named_and_mended_where_norms_hide_it() -> None:
    model = convolutions()
    with torch.no_grad():
        model[6].weight.abs_()
    finding = found(initium.check(model, IMAGES, CLASSES), "IN205")
    assert finding.where == ("6.weight",)
    assert "have one sign" in finding.message
    assert is_mended(model, IMAGES, CLASSES)


def test_matrices_in_blocks_experts_and_groups() -> None:
    stack = torch.arange(2 * 6 * 4.0).reshape(2, 6, 4)
    blocks = (Block("up", 1, 0, 3), Block("gate", 1, 3, 3))
    known = ParameterView(
        name="w", shape=(2, 6, 4), dtype="float32", axes=Axes((2,), (1,), (0,)), blocks=blocks
    )
    parts = list(matrices_in(stack, known))
    assert [part.tolist() for part in parts] == [
        stack[expert, rows].tolist() for rows in (slice(3), slice(3, 6)) for expert in range(2)
    ]
    conv = torch.arange(6 * 2 * 3.0).reshape(6, 2, 3)
    known = ParameterView(
        name="w", shape=(6, 2, 3), dtype="float32", axes=Axes((1,), (0,), (), (2,)), groups=2
    )
    assert [part.tolist() for part in matrices_in(conv, known)] == [
        conv[:3].flatten(1).tolist(), conv[3:].flatten(1).tolist()
    ]  # fmt: skip


# ---------------------------------------------------------------- positive by design


class Bare(nn.Module):
    """A bare parameter, applied by ``use`` between two layers."""

    def __init__(
        self,
        value: torch.Tensor,
        use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        second: bool = False,
    ) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 16), nn.Linear(16, 10)
        if second:
            self.mean = nn.Parameter(torch.randn(16, 16) / 4)
        self.bare, self.use, self.second = nn.Parameter(value), use, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.second:
            x = F.linear(x, self.mean + self.use(self.bare, x))
        else:
            x = self.use(self.bare, x)
        return self.head(x.relu())


def _triangle(taps: int) -> torch.Tensor:
    half = 1 - (torch.arange(taps) - (taps - 1) / 2).abs() / (taps / 2)
    return torch.outer(half, half)


def _upsampling(channels: int, taps: int) -> nn.Sequential:
    stride, padding = taps // 2, taps // 4
    up = nn.ConvTranspose2d(channels, channels, taps, stride, padding, groups=channels, bias=False)
    with torch.no_grad():
        up.weight.copy_(_triangle(taps))
    down = nn.Conv2d(3, channels, 3, 2, 1)
    last = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 10)]
    return nn.Sequential(down, nn.BatchNorm2d(channels), nn.ReLU(), up, *last)


def _positive_head() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        model[2].weight.abs_()
    return model


def _filters(inputs: int, outputs: int) -> torch.Tensor:
    apart = torch.arange(float(inputs))[:, None] - torch.linspace(0, inputs - 1, outputs)
    return (-(apart**2) / inputs).exp()


LAGS = torch.arange(16.0)
BY_DESIGN: dict[str, Callable[[], nn.Module]] = {
    "bilinear upsampling": lambda: _upsampling(16, 4),
    "bilinear upsampling for one class": lambda: _upsampling(1, 16),
    "adjacency": lambda: Bare(torch.rand(16, 16) / 16, lambda a, x: x @ a),
    "edge importance": lambda: Bare(torch.ones(16, 16), lambda e, x: x @ (0.1 * e * EDGES)),
    "decay": lambda: Bare((0.9 ** (LAGS[:, None] - LAGS)).tril(), lambda m, x: x @ m / 16),
    "factorisation": lambda: Bare(torch.rand(16, 16) / 10, lambda w, x: x @ w.clamp(0)),
    "averages": lambda: Bare(torch.rand(16, 16).softmax(0), lambda w, x: x @ w),
    "softplus": lambda: Bare(torch.empty(16, 16).uniform_(-5, -4), _scaled(F.softplus), True),
    "sigmoid": lambda: Bare(torch.empty(16, 16).uniform_(1, 3), _scaled(torch.sigmoid), True),
    "noise": lambda: Bare(torch.full((16, 16), 0.1), _scaled(torch.abs), True),
    "Gaussian filters": lambda: Bare(_filters(16, 16), lambda w, x: x.square() @ w),
    "positive head": _positive_head,
}
EDGES = (torch.rand(16, 16, generator=torch.Generator().manual_seed(4)) < 0.3).float()


def _scaled(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda bare, x: 0.1 * function(bare) * torch.randn_like(bare)


@pytest.mark.parametrize("case", BY_DESIGN)
def test_matrices_that_are_positive_by_design_raise_no_alarm(case: str) -> None:
    model = BY_DESIGN[case]()
    images = "upsampling" in case
    targets = None if case == "positive head" else CLASSES
    report = initium.check(model, IMAGES if images else ROWS, targets)
    assert not {"IN205", "IN403"} & set(alarms(report)), str(report)


def test_a_fault_beside_a_matrix_that_is_positive_by_design_is_named() -> None:
    model = BY_DESIGN["factorisation"]()
    with torch.no_grad():
        model.head.weight.mul_(1000)
    report = initium.check(model, ROWS, CLASSES)
    assert report.findings[0].code == "IN501"
    assert "head.weight" in report.findings[0].where
    assert found(report, "IN205").severity == "info"


def test_values_that_were_set_have_no_mean_by_chance() -> None:
    model = nn.Linear(32, 12)
    view = initium.inspect(model, torch.randn(4, 32))
    drawn = torch.rand(12, 32)
    for values, codes in [
        (drawn, ["IN205"]),
        (_filters(32, 12).T, []),
        (drawn / drawn.sum(1, keepdim=True), []),
        ((drawn > 0.4) * 0.5 + 0.1, []),
    ]:
        held = find_in_values({"weight": values.contiguous()}, view)
        assert [finding.code for finding in held] == codes


def test_a_frozen_bias_that_shuts_gates_is_meant() -> None:
    model = Recurrent()
    nn.init.constant_(model.rnn.bias_hh_l1, 100.0).requires_grad_(False)
    view = initium.inspect(model, TOKENS)
    codes = [f.code for f in find_in_values(dict(model.named_parameters()), view)]
    assert "IN205" not in codes


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 48, 1.0, 2 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_constant_has_no_scatter(value: float, dtype: torch.dtype) -> None:
    model = nn.Linear(1200, 48).to(dtype)
    nn.init.constant_(model.weight, value)
    view = initium.inspect(model, torch.randn(4, 1200, dtype=dtype))
    codes = [f.code for f in find_in_values({"weight": model.weight}, view)]
    assert "IN205" not in codes


def test_groups_of_a_transposed_convolution() -> None:
    weight = torch.arange(4 * 3 * 2.0).reshape(4, 3, 2)
    axes = Axes(outputs=(1,), inputs=(0,), batch=(), field=(2,))

    def parts(groups: int) -> list[torch.Tensor]:
        known = ParameterView(
            name="w", shape=(4, 3, 2), dtype="float32", role="conv_transpose", axes=axes,
            groups=groups,
        )  # fmt: skip
        return list(matrices_in(weight, known))

    first, second = parts(2)
    assert torch.equal(first, weight[:2].transpose(0, 1).flatten(1))
    assert torch.equal(second, weight[2:].transpose(0, 1).flatten(1))
    assert parts(4) == []


# ---------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"role": "linear", "fan_in": 50, "fan_out": 8}, 0.02, 0.2),
        ({"role": "linear", "fan_in": 12288, "fan_out": 49152}, (1 / 3 / 49152) ** 0.5, 0.02),
        ({"role": "conv", "fan_in": 50, "fan_out": 2}, 0.02, 1.0),
        ({"role": "conv_transpose", "fan_in": 50, "fan_out": 50, "stride": 4}, 0.02, 0.4),
        ({"role": "linear", "fan_in": 100, "fan_out": 4, "gain": 4.0}, 0.02, 0.2),
    ],
)
def test_the_range_of_schemes(settings: dict[str, object], low: float, high: float) -> None:
    known = ParameterView(name="w", shape=(8, 50), dtype="float32", **settings)  # type: ignore[arg-type]
    assert schemes_range(known) == pytest.approx((low, high))


def test_scales_that_batch_norm_hides_are_found_in_every_convolution() -> None:
    model = convolutions()
    assert alarms(initium.check(model, IMAGES, CLASSES)) == []
    with torch.no_grad():
        model[6].weight.mul_(50)
        model[9].weight.mul_(1e-3)
    finding = found(initium.check(model, IMAGES, CLASSES), "IN209")
    assert set(finding.where) == {"6.weight", "9.weight"}
    assert is_mended(model, IMAGES, CLASSES)


def test_the_length_of_a_normed_weight_has_a_scale_too() -> None:
    model = convolutions(weight_norm)
    assert alarms(initium.check(model, IMAGES, CLASSES)) == []
    with torch.no_grad():
        model[6].parametrizations.weight.original1.mul_(1e3)  # its direction: no effect
    assert alarms(initium.check(model, IMAGES, CLASSES)) == []
    with torch.no_grad():
        model[6].parametrizations.weight.original0.mul_(100)
    finding = found(initium.check(model, IMAGES, CLASSES), "IN209")
    assert finding.where == ("6.parametrizations.weight.original0",)


def test_a_recurrent_matrix_of_the_second_layer_is_out_of_scale() -> None:
    model = Recurrent()
    assert alarms(initium.check(model, TOKENS, TOKENS)) == []
    with torch.no_grad():
        model.rnn.weight_hh_l1.mul_(40)
    finding = found(initium.check(model, TOKENS, TOKENS), "IN204")
    assert finding.where == ("rnn.weight_hh_l1",)
    assert is_mended(model, TOKENS, TOKENS)


class Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def test_matrices_that_are_all_wrong_alike_have_no_peers_and_are_found() -> None:
    blocks = [Branch(32) for _ in range(5)]
    model = nn.Sequential(*blocks, nn.LayerNorm(32), nn.Linear(32, 10))
    x = torch.randn(64, 32)
    assert alarms(initium.check(model, x, CLASSES.repeat(4))) == []
    with torch.no_grad():
        for block in blocks:
            block.down.weight.mul_(100)
    finding = found(initium.check(model, x, CLASSES.repeat(4)), "IN204")
    assert set(finding.where) == {f"{i}.down.weight" for i in range(5)}
    assert is_mended(model, x, CLASSES.repeat(4))


def test_a_factor_in_the_forward_pass_is_part_of_the_scale() -> None:
    """Equalised learning rates draw with std 1 and multiply by 1/sqrt(fan_in) at run time."""

    class Equalised(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight * self.in_features**-0.5, self.bias)

    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), Equalised(256, 256), nn.ReLU())
    model.append(nn.Linear(256, 10))
    nn.init.normal_(model[2].weight)
    x = torch.randn(64, 32)
    assert "IN204" not in alarms(initium.check(model, x))
    model[2].__class__ = nn.Linear
    assert "2.weight" in found(initium.check(model, x), "IN204").where


class Waves(nn.Module):
    """Fourier features of what ``read`` makes of the input, added to the input's own."""

    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor], inputs: int) -> None:
        super().__init__()
        self.read, self.first = read, nn.Linear(2, 128)
        self.waves, self.head = nn.Linear(inputs, 64, bias=False), nn.Linear(128, 10)
        nn.init.normal_(self.waves.weight, std=30.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.waves(self.read(x))
        return self.head(torch.cat([z.cos(), z.sin()], -1) + self.first(x))


GRID = torch.linspace(-1, 1, 64)[:, None]


@pytest.mark.parametrize(
    ("read", "inputs"),
    [
        (lambda x: x, 2),
        (lambda x: (x[:, :1] + 1e-3).log(), 1),
        (lambda x: GRID, 1),
        (lambda x: F.one_hot((9 * x[:, 0]).long(), 10).float(), 10),
    ],
    ids=["input", "log", "grid", "one-hot"],
)
def test_frequencies_of_sines_may_be_large(
    read: Callable[[torch.Tensor], torch.Tensor], inputs: int
) -> None:
    assert alarms(initium.check(Waves(read, inputs), torch.rand(64, 2), CLASSES.repeat(4))) == []


@pytest.mark.parametrize("waves", [(torch.sin, torch.cos), (torch.cos, torch.sin), (torch.sin,)])
def test_phases_of_a_learned_input_may_be_large_where_waves_are_joined(
    waves: tuple[Callable[[torch.Tensor], torch.Tensor], ...],
) -> None:
    class Phases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.phases = nn.Linear(2, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32 * len(waves), 10)
            nn.init.normal_(self.phases.weight, std=20.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.phases(self.first(x))
            return self.head(torch.cat([wave(z) for wave in waves], -1) if waves[1:] else z.sin())

    report = initium.check(Phases(), torch.rand(64, 2), CLASSES.repeat(4))
    assert ("IN204" in alarms(report)) == (len(waves) == 1)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_the_length_of_a_normed_weight_along_any_dimension(dim: int | None) -> None:
    normed = weight_norm(nn.Linear(512, 512), dim=dim)
    model = nn.Sequential(nn.Linear(32, 512), nn.ReLU(), normed, nn.ReLU(), nn.Linear(512, 10))
    x, y = torch.randn(64, 32), CLASSES.repeat(4)
    assert "IN204" not in alarms(initium.check(model, x, y))
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(30)
    names = found(initium.check(model, x, y), "IN204").where
    assert "2.parametrizations.weight.original0" in names or names[0] == "2"


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_bias_that_shuts_gates_is_named(kind: type[nn.RNNBase]) -> None:
    model = Recurrent(kind)
    nn.init.constant_(model.rnn.bias_hh_l1, 100.0)
    finding = found(initium.check(model, TOKENS, TOKENS), "IN205")
    assert finding.where == ("rnn.bias_hh_l1",)
    with torch.no_grad():
        model.rnn.bias_hh_l1.uniform_(1.0, 1e5).log_()  # chrono
    assert "IN205" not in alarms(initium.check(model, TOKENS, TOKENS))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_of_every_layer_and_direction(kind: type[nn.RNNBase]) -> None:
    """What a module computes follows from its gates: outputs of the last layer, both directions."""
    rnn = kind(5, 7, 3, bidirectional=True)
    x, start = torch.randn(4, 3, 5), torch.randn(6, 3, 7)
    given = (start, 0.5 * start) if kind is nn.LSTM else start
    with torch.no_grad():
        out = rnn(x, given)[0]
        values = gate_values(rnn, (x, given))
    assert values is not None
    assert len(values) == 6
    for side, (sigmoids, tanhs) in enumerate(values[4:]):
        h, c = start[4 + side], 0.5 * start[4 + side]
        steps = range(4) if side == 0 else range(3, -1, -1)
        for count, step in enumerate(steps):
            n = tanhs.reshape(4, 3, 7)[count]
            if kind is nn.LSTM:
                i, f, o = sigmoids.reshape(4, 3, 3, 7)[count]
                c = f * c + i * n
                h = o * c.tanh()
            elif kind is nn.GRU:
                z = sigmoids.reshape(4, 2, 3, 7)[count, 1]
                h = (1 - z) * n + z * h
            else:
                h = n
            assert torch.allclose(h, out[step, :, 7 * side : 7 * side + 7], atol=1e-5)


def test_the_worst_layer_counts() -> None:
    rnn = nn.RNN(16, 16, 3)
    x = torch.randn(6, 4, 16)
    with torch.no_grad():
        healthy = saturated_gates(rnn, (x,))
        nn.init.constant_(rnn.bias_hh_l2, 10.0)
        assert saturated_gates(rnn, (x,)) == 1.0
    assert healthy is not None
    assert healthy < 0.1


# ---------------------------------------------------------------- number formats


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_zeros_beside_subnormal_numbers_were_flushed(dtype: torch.dtype) -> None:
    exact = 2.0**-25 * torch.randn(1000, dtype=torch.float64)
    seen = Ranges()
    seen.see("", exact.to(dtype))
    seen.see("a", exact.to(dtype))
    seen.see("b", torch.cat([torch.ones(500), torch.zeros(500)]).to(dtype))
    record = next(r for r in range_records(Ranges(), seen, Ranges()) if r.dtype == "float16")
    flushed = int((exact.abs() <= 2.0**-25).sum())
    total = 2 * 1000 + 500
    assert record.lost == pytest.approx(2 * flushed / total, rel=0.02)
    assert record.lost + record.subnormal == pytest.approx(2000 / total, rel=1e-6)
    assert record.worst == "a"


def test_half_precision_without_scaling_names_a_place() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).half()
    x = torch.randn(64, 32).half()

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1e-4 * F.cross_entropy(output.float(), targets)

    finding = found(initium.check(model, x, CLASSES.repeat(4), loss), "IN104")
    assert finding.severity == "warning"
    assert finding.where[0].split(".")[0] in ("0", "2")
    assert "GradScaler" in finding.fix
