"""Plans from weights that are there: what they measure, and what they then predict."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initium
from initium._predict.realised import realised_plan
from initium.errors import ModelError
from initium.spec import Blocks, Constant, Keep, Normal, Orthogonal, Value


class Fused(nn.Module):
    """Attention with one weight for query, key and value."""

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: torch.Tensor = self.out(mixed)
        return result


class Experts(nn.Module):
    """Every token goes through every expert of a stack."""

    def __init__(self, experts: int = 3, width: int = 160) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.empty(experts, width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x.expand(len(self.stack), -1, -1), self.stack).relu().mean(0)


def stack(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def power(model: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(inputs).square().mean())


def spec_of(model: nn.Module, name: str, inputs: object = None) -> initium.spec.Spec:
    return realised_plan(model, inputs).entries[name].spec


@pytest.mark.parametrize("mean", [0.0, -0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_matrix_is_its_mean_and_standard_deviation(mean: float, dtype: torch.dtype) -> None:
    layer = nn.Linear(300, 400, dtype=dtype)
    nn.init.normal_(layer.weight, mean, 0.5)
    spec = spec_of(layer, "weight")
    assert isinstance(spec, Normal)
    values = layer.weight.detach().double()
    assert spec.mean == pytest.approx(float(values.mean()), rel=1e-9)
    assert spec.std == pytest.approx(float(values.std(correction=0)), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(300, 300), (200, 700), (700, 200)])
def test_orthogonal_weights_are_known_by_what_they_do(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    layer = nn.Linear(*shape, bias=False)
    nn.init.orthogonal_(layer.weight, 1.7)
    spec = spec_of(layer.to(dtype), "weight")
    assert isinstance(spec, Orthogonal)
    assert spec.gain == pytest.approx(1.7, rel=2e-3)


def test_a_matrix_that_is_nearly_orthogonal_is_not() -> None:
    layer = nn.Linear(300, 300)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        layer.weight[0] *= 1.01
    assert isinstance(spec_of(layer, "weight"), Normal)


def test_the_kernel_of_a_convolution_is_measured_and_known_as_orthogonal() -> None:
    conv = nn.Conv2d(64, 128, 3)
    assert isinstance(spec_of(conv, "weight"), Normal)
    nn.init.orthogonal_(conv.weight, 2.0)
    assert spec_of(conv, "weight") == Orthogonal(2.0)


def test_each_block_of_a_fused_weight_is_measured() -> None:
    model, inputs = Fused(), torch.randn(2, 8, 160)
    stds = (0.1, 0.2, 0.4)
    with torch.no_grad():
        for part, std in zip(model.qkv.weight.chunk(3), stds, strict=True):
            part.normal_(0, std)
    spec = spec_of(model, "qkv.weight", inputs)
    assert isinstance(spec, Blocks)
    assert [part.size for part in spec.parts] == [160, 160, 160]
    for part, std in zip(spec.parts, stds, strict=True):
        assert isinstance(part.spec, Normal)
        assert part.spec.std == pytest.approx(std, rel=0.03)


def test_each_expert_of_a_stack_is_measured() -> None:
    model, inputs = Experts(), torch.randn(8, 160)
    with torch.no_grad():
        nn.init.orthogonal_(model.stack[0], 1.5)
        model.stack[1].normal_(0, 0.2)
        model.stack[2].fill_(0.25)
    spec = spec_of(model, "stack", inputs)
    assert isinstance(spec, Blocks)
    first, second, third = (part.spec for part in spec.parts)
    assert first == Orthogonal(1.5, outputs=(2,), batch=(0,))
    assert isinstance(second, Normal)
    assert second.std == pytest.approx(0.2, rel=0.03)
    assert third == Constant(0.25)
    found = initium.predict(model, None, inputs, draws=3).layers[""].second_moment
    assert found == pytest.approx(power(model, inputs), rel=0.1)


STRUCTURES = {
    "identity": torch.eye(300),
    "looks linear": F.pad(torch.randn(150, 150), (0, 150, 0, 150)),
    "sparse": torch.randn(300, 300) * (torch.rand(300, 300) < 0.5),
}
STRUCTURES["looks linear"] = torch.kron(
    torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), nn.init.orthogonal_(torch.empty(150, 150))
)


@pytest.mark.parametrize("values", STRUCTURES.values(), ids=STRUCTURES)
def test_structures_that_no_law_has_are_kept(values: torch.Tensor) -> None:
    layer = nn.Linear(300, 300)
    layer.weight.data = values
    assert spec_of(layer, "weight") == Keep()


def test_what_is_small_is_no_matrix_or_a_constant() -> None:
    model = stack(nn.Embedding(900, 128, padding_idx=3), nn.Linear(128, 600), nn.LayerNorm(600))
    nn.init.constant_(model[1].weight, 0.25)
    plan = realised_plan(model, torch.zeros(2, 4, dtype=torch.long))
    specs = {name: entry.spec for name, entry in plan.entries.items()}
    assert [specs[name] for name in ("1.bias", "2.weight", "2.bias")] == [Keep()] * 3
    assert specs["1.weight"] == Constant(0.25)
    table = specs["0.weight"]
    assert isinstance(table, Blocks)
    assert [part.size for part in table.parts] == [3, 1, 896]
    assert table.parts[1].spec == Constant(0.0)


def test_ties_and_buffers_are_those_of_the_model() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(600, 200), nn.BatchNorm1d(200)
            self.head = nn.Linear(200, 600, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.norm(self.table(tokens)))
            return logits

    plan = realised_plan(Tied(), torch.arange(8))
    assert plan.ties == {"table.weight": ("head.weight",)}
    assert isinstance(plan.entries["table.weight"].spec, Normal)
    assert plan.entries["norm.running_var"].kept
    assert initium.predict(Tied(), plan, torch.arange(8), draws=3).plan == "its own weights"


def test_it_predicts_the_moments_of_other_weights_of_the_same_law() -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(16, 40), torch.arange(16) % 10

    def build() -> nn.Module:
        hidden = [layer for _ in range(4) for layer in (nn.Linear(300, 300), nn.Tanh())]
        return stack(nn.Linear(40, 300), *hidden, nn.Linear(300, 10))

    model = build()
    small = {name for name, entry in realised_plan(model).entries.items() if entry.kept}
    predicted = initium.predict(model, None, inputs, targets=targets, draws=6)
    logs: dict[str, list[float]] = {name: [] for name in predicted.layers}
    gradients: dict[str, list[float]] = {name: [] for name in predicted.layers}
    for _ in range(6):
        other = build()
        kept = {name: values for name, values in model.state_dict().items() if name in small}
        other.load_state_dict(kept, strict=False)
        report = initium.check(other, inputs, targets)
        for name, layer in report.layers.items():
            logs[name].append(math.log(layer.second_moment))
            gradients[name].append(math.log(layer.grad_second_moment or 0))
    for name, layer in predicted.layers.items():
        assert sum(logs[name]) / 6 == pytest.approx(math.log(layer.second_moment), abs=0.15)
        backward = sum(gradients[name]) / 6
        assert backward == pytest.approx(math.log(layer.grad_second_moment or 0), abs=0.3)


def test_a_model_of_small_parts_is_predicted_as_it_is() -> None:
    model, inputs = stack(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)), torch.randn(8, 20)
    found = initium.predict(model, None, inputs, draws=3).layers[""]
    assert found.second_moment == pytest.approx(power(model, inputs), rel=1e-6)
    assert found.band.low == pytest.approx(found.band.high)


def test_the_result_of_a_parametrization_is_what_counts() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(8, 300)
    model = stack(nn.utils.parametrizations.orthogonal(nn.Linear(300, 300)), nn.Tanh())
    plan = realised_plan(model, inputs, small=10**6)
    assert isinstance(plan.entries["0.parametrizations.weight.original"].spec, Value)
    found = initium.predict(model, plan, inputs, draws=3).layers["0"]
    assert found.second_moment == pytest.approx(power(model[0], inputs), rel=1e-4)


def test_the_plan_can_be_printed_and_drawn_from() -> None:
    model = stack(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 4))
    plan = realised_plan(model)
    assert "its own weights" in str(plan)
    assert "Measured" in plan.entries["0.weight"].reason
    before = model[0].weight.detach().clone()
    dataclasses.replace(plan, seed=3).apply(model)
    assert float(model[0].weight.detach().std()) == pytest.approx(float(before.std()), rel=0.02)
    assert not torch.equal(model[0].weight, before)


REFUSED = [
    (nn.Linear(3, 4, device="meta"), r"weight: is on the meta device .* initium.plan"),
    (stack(nn.Linear(2, 2)).append(nn.Linear(2, 300).to("meta")), r"1\.weight: is on the meta"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_weights_without_values_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        initium.predict(model, None, torch.ones(2, 3))


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(300, 300)
    with torch.no_grad():
        layer.weight[3, 4] = math.nan
        layer.weight[5, 6] = math.inf
    with pytest.raises(ModelError, match=r"weight: holds NaN or infinity \(got '2 of 90000"):
        realised_plan(layer)


def test_sharded_weights_are_refused() -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    dist.init_process_group("fake", rank=0, world_size=2, store=dist.HashStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        layer = nn.Linear(4, 8)
        held = DTensor.from_local(torch.ones(4, 4), mesh, [Shard(0)])
        layer.weight = nn.Parameter(held)
        with pytest.raises(ModelError, match="weight: is sharded over processes"):
            realised_plan(layer)
    finally:
        dist.destroy_process_group()
