"""Cases that once went wrong, from the model to the verdict."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import initium

WIDTH = 32


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(64, WIDTH), torch.randint(0, 4, (64,))


class PostActivated(nn.Module):
    """relu(x + f(x)) without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.down(F.relu(self.up(x))))


class Parallel(nn.Module):
    """x + attention(h) + mlp(h), added one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        mixed = F.scaled_dot_product_attention(*self.qkv(h).chunk(3, -1))
        return x + self.proj(mixed) + self.down(F.gelu(self.up(h)))


class ReZero(nn.Module):
    """A gate of zero times a scale: a product of parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(WIDTH))
        self.f = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.gate * self.scale) * self.f(x)


def test_a_stream_goes_on_through_the_activation_behind_each_sum():
    model = nn.Sequential(*[PostActivated() for _ in range(40)], nn.Linear(WIDTH, 4))
    inputs, targets = batch()
    view = initium.inspect(model, inputs)
    assert {p.branches for p in view.owners if p.writes_residual} == {40}
    initium.plan(view, "auto").apply(model)
    report = initium.check(model, inputs, targets)
    assert report.ok
    assert report.loss.value == pytest.approx(1.386, abs=0.1)


def test_parallel_branches_are_two_branches():
    model = nn.Sequential(Parallel(), Parallel(), Parallel())
    seen = initium.inspect(model, torch.randn(2, 5, WIDTH)).parameters
    assert [(seen[f"{i}.proj.weight"].depth, seen[f"{i}.down.weight"].depth) for i in range(3)] == [
        (0, 1),
        (2, 3),
        (4, 5),
    ]
    assert {seen[f"{i}.down.weight"].role for i in range(3)} == {"mlp_down"}
    assert seen["2.down.weight"].branches == 6


def test_a_weight_norm_gets_the_length_that_the_scheme_asks_for():
    layers = [
        layer
        for _ in range(20)
        for layer in (parametrizations.weight_norm(nn.Linear(64, 64)), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    inputs = torch.randn(64, 64)
    assert "IN201" in [finding.code for finding in initium.check(model, inputs).findings]
    initium.initialize(model, "he", inputs)
    assert float(model[0].weight.detach().var()) == pytest.approx(2 / 64, rel=0.1)
    assert initium.check(model, inputs).ok


def test_a_spectral_norm_finds_the_singular_vectors_of_its_new_weight():
    layer = parametrizations.spectral_norm(nn.Linear(64, 64)).eval()
    initium.initialize(layer, "he", torch.randn(2, 64))
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, abs=0.15)


def overlapping() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.zeros(4, 1).expand(4, 4))
    return model


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def inferred() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (overlapping, "elements that share memory"),
        (shared, "shares its memory with 0.weight"),
        (inferred, "made in inference mode"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(build, message):
    model = build()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    plan = initium.plan(model, "he", torch.zeros(2, 4))
    with pytest.raises(initium.PlanError, match=message):
        plan.apply(model)
    for was, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(was, parameter.detach())


def test_a_table_that_renormalises_itself_is_left_as_found():
    model = nn.Sequential(
        nn.Embedding(50, WIDTH, max_norm=1.0), nn.Flatten(), nn.Linear(4 * WIDTH, 4)
    )
    before = model[0].weight.detach().clone()
    initium.check(model, torch.randint(0, 50, (64, 4)), batch()[1])
    assert torch.equal(before, model[0].weight.detach())


def test_the_batch_is_left_as_found():
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.sub_(1.0))

    inputs, targets = batch()
    before = inputs.clone()
    initium.check(Greedy(), inputs, targets)
    assert torch.equal(before, inputs)


def test_a_summed_loss_is_told_and_is_no_error():
    inputs, targets = batch()

    def summed(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, wanted, reduction="sum")

    report = initium.check(nn.Linear(WIDTH, 4), inputs, targets, summed)
    assert report.ok
    assert report.loss.flaw == "summed"
    assert [(f.code, f.title) for f in report.findings] == [("IN501", "loss summed")]


@pytest.mark.parametrize(("std", "code"), [(1e5, "IN204"), (1e-8, "IN203")])
def test_a_shallow_net_of_impossible_size_is_an_error(std, code):
    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 1))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std if parameter.ndim > 1 else 1e-8)
    report = initium.check(model, batch()[0], torch.randn(64, 1), F.mse_loss)
    assert [(finding.code, finding.severity) for finding in report.findings] == [(code, "error")]


def test_a_milder_root_never_hides_a_grave_loss():
    model = nn.Sequential(
        *[layer for _ in range(8) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())],
        nn.Linear(WIDTH, 4),
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(14 / WIDTH) ** 0.5)
    inputs, targets = batch()
    report = initium.check(model, inputs, targets)
    assert report.loss.value is not None
    assert report.loss.value > 100
    assert not report.ok


def test_a_closed_gate_times_a_scale_is_by_design():
    model = nn.Sequential(ReZero(), ReZero(), nn.Linear(WIDTH, 4))
    inputs, targets = batch()
    seen = initium.inspect(model, inputs).parameters
    assert (seen["0.gate"].role, seen["0.scale"].role) == ("scale", "scale")
    assert initium.check(model, inputs, targets).worst() == "info"


def test_a_projected_lstm_keeps_its_gates_apart():
    model = nn.LSTM(8, 16, 2, bidirectional=True, proj_size=4, batch_first=True)
    seen = initium.inspect(model, torch.randn(2, 5, 8)).parameters
    roles = {"ih": "recurrent_input", "hh": "recurrent_hidden", "hr": "linear"}
    for name, view in seen.items():
        if name.startswith("weight"):
            kind = name.split("_")[1]
            assert (view.role, len(view.blocks)) == (roles[kind], 0 if kind == "hr" else 4)


def test_a_table_read_by_indexing_is_an_embedding():
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Parameter(torch.randn(50, 8)), nn.Linear(8, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table[ids])

    assert initium.inspect(Indexed(), torch.zeros(4, 6, dtype=torch.long)).parameters[
        "table"
    ].role == ("embedding")


def test_the_plan_of_another_model_is_refused_by_a_check():
    plan = initium.plan(nn.Linear(3, 3), "he", torch.zeros(2, 3))
    with pytest.raises(initium.PlanError, match=r"weight: has shape \(4, 32\)"):
        initium.check(nn.Linear(WIDTH, 4), batch()[0], plan=plan)


def test_a_dead_layer_is_named_with_its_cause_not_its_consequence():
    model = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(model[0].bias, -100.0)
    report = initium.check(model, *batch())
    assert not report.ok
    assert report.findings[0].code == "IN401"


def test_a_frozen_model_is_said_to_be_one():
    model = nn.Linear(WIDTH, 4).requires_grad_(False)
    report = initium.check(model, *batch())
    assert [(finding.code, finding.severity) for finding in report.findings] == [
        ("IN305", "warning")
    ]


def test_tables_that_are_added_share_one_scale():
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.types = nn.Embedding(50, WIDTH), nn.Embedding(2, WIDTH)
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 50, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.words(ids) + self.types(kinds)))

    ids, kinds = torch.randint(0, 50, (4, 6)), torch.randint(0, 2, (4, 6))
    plan = initium.plan(Summed(), "auto", (ids, kinds))
    assert plan.entries["types.weight"].std == plan.entries["words.weight"].std


@pytest.mark.parametrize("kind", ["module", "function", "attention", "depth"])
def test_dropout_does_not_pass_for_signal(kind):
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)
            self.mix = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.linear(x))
            if kind == "module":
                return self.drop(x)
            if kind == "function":
                return F.dropout(x, 0.1, self.training)
            if kind == "attention":
                return x + 0 * self.mix(x[:, None], x[:, None], x[:, None])[0][:, 0]
            return x * x.new_empty(len(x), 1).bernoulli_(0.9) / 0.9

    model = nn.Sequential(*[Layer() for _ in range(30)], nn.Linear(WIDTH, 4))
    report = initium.check(model, *batch())
    assert "IN201" in [finding.code for finding in report.findings]
    assert any("dropout was switched off" in note for note in report.notes)


def test_learned_queries_are_tokens():
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latent = nn.Parameter(torch.randn(1, 1, WIDTH))
            self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.q(self.latent.expand(len(x), -1, -1))
            k, v = self.kv(x).chunk(2, dim=-1)
            return self.out(F.scaled_dot_product_attention(q, k, v))

    seen = initium.inspect(Pool(), torch.randn(3, 5, WIDTH)).parameters
    roles = {name: view.role for name, view in seen.items() if "bias" not in name}
    assert roles == {
        "latent": "token",
        "q.weight": "attn_q",
        "kv.weight": "attn_qkv",
        "out.weight": "attn_out",
    }


@pytest.mark.parametrize("persistent", [True, False])
def test_a_module_with_a_buffer_that_several_hold(persistent: bool) -> None:
    """As rotary embeddings that every layer is given."""

    class Angles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("angles", torch.arange(4.0), persistent=persistent)

    class Turned(nn.Module):
        def __init__(self, angles: nn.Module) -> None:
            super().__init__()
            self.angles, self.linear = angles, nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x * self.angles.angles.cos())

    shared = Angles()
    model = nn.Sequential(Turned(shared), Turned(shared))
    plan = initium.plan(model, "auto", torch.ones(2, 4))
    assert plan.entries["0.angles.angles"].aliases == ("1.angles.angles",)
    plan.apply(model)
    assert torch.equal(model[1].angles.angles, torch.arange(4.0))
