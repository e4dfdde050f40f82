"""How far the inspection reaches: wrappers, odd modules, and parts that one forward leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import initium
from initium import ModelView, ParameterView, inspect
from initium._load.optional import import_optional

WIDTH = 16


def roles(view: ModelView) -> dict[str, str]:
    return {name: str(one.role) for name, one in view.parameters.items()}


def rung(view: ModelView, name: str) -> str:
    return view.parameters[name].evidence["role"].rung


class Block(nn.Module):
    """A pre-norm block: attention, then a feed-forward layer."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


BLOCK = {
    "qkv": "attn_qkv",
    "proj": "attn_out",
    "up": "mlp_up",
    "down": "mlp_down",
    "norm1": "norm_scale",
    "norm2": "norm_scale",
}


def assert_block(view: ModelView, prefix: str) -> None:
    for leaf, role in BLOCK.items():
        assert view.parameters[f"{prefix}.{leaf}.weight"].role == role
        assert rung(view, f"{prefix}.{leaf}.weight") == "traced"


# ------------------------------------------------------------------------- further entry points


class Tower(nn.Module):
    """An image encoder that the forward pass on text leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.patches(pixel_values).flatten(2).transpose(1, 2))


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.text = nn.Embedding(50, WIDTH), Block()
        self.head = nn.Linear(WIDTH, 50)
        self.vision, self.projection = Tower(), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.text(self.words(ids)))

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.projection(self.vision(pixel_values)[:, 0])


def test_a_method_leads_into_the_tower_that_forward_leaves_out():
    view = inspect(TwoTowers(), torch.zeros(2, 5, dtype=torch.long))
    assert view.problem is None
    assert_block(view, "vision.blocks.0")
    assert view.parameters["vision.patches.weight"].role == "patch"
    assert view.parameters["projection.weight"].order is not None
    assert view.parameters["head.weight"].role == "head"
    detail = view.parameters["vision.blocks.0.qkv.weight"].evidence["role"].detail
    assert detail.endswith("(entered at get_image_features())")
    assert "entered" not in view.parameters["text.qkv.weight"].evidence["role"].detail


class Broken(nn.Module):
    """Its forward pass fails in the middle: behind the first block, before the other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first = nn.Embedding(50, WIDTH), Block()
        self.bad = nn.Linear(WIDTH + 1, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.bad(self.first(self.words(ids)))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_a_failing_forward_pass_still_gives_most_of_the_model():
    view = inspect(Broken(), torch.zeros(2, 5, dtype=torch.long))
    assert view.traced
    assert view.problem is not None
    assert view.problem.startswith("the trace failed with RuntimeError")
    for prefix in ("first", "layers.0", "layers.2"):
        assert_block(view, prefix)
    writers = [view.parameters[f"layers.{i}.down.weight"] for i in range(3)]
    assert [(one.depth, one.branches) for one in writers] == [(1, 6), (3, 6), (5, 6)]
    assert rung(view, "bad.weight") == "declared"


class LooseEnd(nn.Module):
    """Queries are made, and then the code fails: nothing may be said of them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.queries = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.queries(self.norm(self.inner(x)))
        raise NotImplementedError(f"no kernel for {q.shape}")


def test_a_product_that_met_nothing_before_the_failure_is_not_believed():
    view = inspect(LooseEnd(), torch.zeros(2, 5, WIDTH))
    assert rung(view, "queries.weight") == "declared"
    assert rung(view, "inner.weight") == "traced"
    assert view.parameters["inner.weight"].norm_after


class TrainingOnly(nn.Module):
    """Refuses to train without targets."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise ValueError("targets are needed in training")
        return self.block(x)


def test_what_refuses_to_train_is_seen_in_evaluation_and_left_in_training():
    model = TrainingOnly()
    view = inspect(model, torch.zeros(2, 5, WIDTH))
    assert view.problem is None
    assert_block(view, "block")
    assert model.training
    assert model.block.training


class Idle(nn.Module):
    """Holds a block that nothing calls, and one whose arguments nobody can guess."""

    class Session:
        width: int

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([Block()])
            self.table = nn.Parameter(torch.zeros(3, WIDTH))

        def forward(self, session: Idle.Session) -> torch.Tensor:
            return self.inner[0](self.table[None] * session.width)

    def __init__(self) -> None:
        super().__init__()
        self.out, self.closed = nn.Linear(WIDTH, 4), Idle.Closed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


def test_where_no_guess_fits_the_children_are_tried():
    view = inspect(Idle(), torch.zeros(2, WIDTH))
    assert_block(view, "closed.inner.0")
    assert view.parameters["closed.table"].order is None


def test_without_inputs_the_parts_are_still_seen():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, one: object, two: object) -> None: ...

    view = inspect(Two())
    assert view.problem == "no inputs were given, and none could be inferred"
    assert_block(view, "block")


def test_further_entry_points_have_a_budget(monkeypatch):
    monkeypatch.setattr("initium._inspect.entries.FURTHER", 5)
    view = inspect(TwoTowers(), torch.zeros(2, 5, dtype=torch.long))
    assert rung(view, "text.qkv.weight") == "traced"
    assert rung(view, "vision.patches.weight") == "declared"


# ------------------------------------------------------------------------------------ wrappers


def test_a_compiled_model_is_never_compiled_by_an_inspection():
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    whole = torch.compile(nn.Sequential(Block(), nn.Linear(WIDTH, 4)), backend=backend)
    inner = nn.Sequential(torch.compile(Block(), backend=backend), nn.Linear(WIDTH, 4))
    in_place = nn.Sequential(Block(), nn.Linear(WIDTH, 4))
    in_place.compile(backend=backend)
    for model in (whole, inner, in_place):
        view = inspect(model, torch.zeros(2, 5, WIDTH))
        assert view.problem is None
        assert_block(view, "0")
        assert set(view.parameters) == set(dict(in_place.named_parameters()))
    assert compiled == []


@pytest.fixture
def group(tmp_path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_data_parallel_wrappers_are_looked_through():
    bare = nn.Sequential(Block(), nn.Linear(WIDTH, 4))
    before = inspect(bare, torch.zeros(2, 5, WIDTH))
    wrapped = nn.parallel.DistributedDataParallel(bare)
    after = inspect(wrapped, torch.zeros(2, 5, WIDTH))
    assert roles(after) == roles(before)
    assert after.problem is None


@pytest.fixture
def pretended_ranks() -> Iterator[int]:
    """Four ranks of which only this one exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield 4
    dist.destroy_process_group()


def test_a_sharded_model_is_seen_with_its_global_shapes(pretended_ranks):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    bare = nn.Sequential(Block(), Block(), nn.Linear(WIDTH, 4))
    before = inspect(bare, torch.zeros(2, 5, WIDTH))
    mesh = init_device_mesh("cpu", (pretended_ranks,))
    for part in (bare[0], bare[1], bare):
        fully_shard(part, mesh=mesh)
    assert bare[0].up.weight.to_local().shape == (WIDTH, WIDTH)
    after = inspect(bare, torch.zeros(2, 5, WIDTH))
    assert after.problem is None
    assert roles(after) == roles(before)
    shapes = {name: one.shape for name, one in after.parameters.items()}
    assert shapes == {name: one.shape for name, one in before.parameters.items()}
    assert type(bare[0].up.weight).__name__ == "DTensor"


# -------------------------------------------------------------------------------- odd modules


class Packed(nn.Module):
    """Sequences of different lengths through a recurrence."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.words = nn.Embedding(30, WIDTH)
        self.memory = getattr(nn, kind)(WIDTH, 8, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(self.words(ids), lengths, True, enforce_sorted=False)
        padded, _ = pad_packed_sequence(self.memory(packed)[0], batch_first=True)
        return self.head(padded)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_packed_sequences(kind):
    view = inspect(Packed(kind), (torch.zeros(3, 6, dtype=torch.long), torch.tensor([4, 6, 2])))
    assert view.problem is None
    found = roles(view)
    assert found["memory.weight_ih_l0"] == "recurrent_input"
    assert found["memory.weight_hh_l0_reverse"] == "recurrent_hidden"
    assert (found["words.weight"], found["head.weight"]) == ("embedding", "head")


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.blocks, self.reentrant = nn.ModuleList([Block(), Block()]), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant):
    view = inspect(Checkpointed(reentrant), torch.zeros(2, 5, WIDTH))
    assert view.problem is None
    assert_block(view, "blocks.1")
    assert view.parameters["blocks.1.down.weight"].branches == 4


class Functional(nn.Module):
    """Calls another module with parameters that it holds itself."""

    def __init__(self) -> None:
        super().__init__()
        template = Block()
        self.names = [name for name, _ in template.named_parameters()]
        self.weights = nn.ParameterList(p.detach().clone() for p in template.parameters())
        self.template = [template]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.names, self.weights, strict=True))
        return torch.func.functional_call(self.template[0], given, (x,))


def test_parameters_that_are_passed_to_a_function():
    model = Functional()
    view = inspect(model, torch.zeros(2, 5, WIDTH))
    assert view.problem is None
    for position, name in enumerate(model.names):
        if name.endswith("weight"):
            assert view.parameters[f"weights.{position}"].role == BLOCK[name.split(".")[0]]


@dataclass
class Output:
    logits: torch.Tensor
    extra: dict[str, torch.Tensor]


class Keyed(nn.Module):
    """Takes whatever it is given, returns a dataclass, and holds its weights in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ParameterDict({"a": torch.zeros(WIDTH, 8), "b": torch.zeros(8, 4)})
        self.gates = nn.ParameterList([torch.ones(8)])

    def forward(self, **kwargs: torch.Tensor) -> Output:
        hidden = F.relu(kwargs["x"] @ self.maps["a"]) * self.gates[0]
        return Output(hidden @ self.maps["b"], {"hidden": hidden})


def test_keywords_containers_and_dataclasses():
    view = inspect(Keyed(), {"x": torch.zeros(3, WIDTH)})
    assert view.problem is None
    assert view.parameters["maps.a"].activation == "relu"
    assert (view.parameters["maps.a"].fan_in, view.parameters["maps.a"].fan_out) == (WIDTH, 8)
    assert view.parameters["maps.b"].role == "head"
    assert view.parameters["gates.0"].role == "scale"


def test_a_shared_block_is_one_block_that_is_used_often():
    block = Block()
    view = inspect(nn.Sequential(block, block, block), torch.zeros(2, 5, WIDTH))
    assert_block(view, "0")
    assert view.parameters["0.down.weight"].uses == 3
    assert view.parameters["0.down.weight"].branches == 6


@pytest.mark.parametrize("training", [True, False])
def test_torch_transformers_in_both_modes(training):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    found = roles(inspect(model, torch.zeros(2, 5, WIDTH)))
    for place in ("layers.0", "layers.1"):
        assert found[f"{place}.self_attn.in_proj_weight"] == "attn_qkv"
        assert found[f"{place}.self_attn.out_proj.weight"] == "attn_out"
        assert found[f"{place}.linear1.weight"] == "mlp_up"
        assert found[f"{place}.linear2.weight"] == "mlp_down"


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64, torch.float64]
)
def test_dtypes(dtype):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(8, WIDTH).to(dtype))
            self.second = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if dtype.is_complex:
                return self.second(F.linear(x.to(dtype), self.first).abs())
            return self.second(F.relu(F.linear(x, self.first.to(x.dtype))))

    view = inspect(Mixed(), torch.zeros(2, WIDTH))
    assert view.problem is None
    assert view.parameters["first"].dtype == str(dtype).removeprefix("torch.")
    assert view.parameters["first"].fan_in == WIDTH
    assert view.parameters["second.weight"].role == "head"


def test_hooks_are_seen_and_stay():
    model = nn.Sequential(nn.Linear(WIDTH, 8), nn.Linear(8, 4))
    model[0].register_forward_hook(lambda module, args, output: F.relu(output))
    hooks = dict(model[0]._forward_hooks)
    view = inspect(model, torch.zeros(2, WIDTH))
    assert view.parameters["0.weight"].activation == "relu"
    assert dict(model[0]._forward_hooks) == hooks
    assert not model[0]._forward_pre_hooks


# ----------------------------------------------------------------------------- parametrizations


class Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu() + weight.triu(1).T


PARAMETRIZED: dict[str, Callable[[], nn.Linear]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)),
    "symmetric": lambda: _symmetric(),
}


def _symmetric() -> nn.Linear:
    layer = nn.Linear(WIDTH, WIDTH)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_a_parametrized_weight_is_seen_and_filled_through_its_parametrization(kind):
    model = nn.Sequential(PARAMETRIZED[kind](), nn.ReLU(), nn.Linear(WIDTH, 4))
    inputs = torch.zeros(2, WIDTH)
    view = inspect(model, inputs)
    assert view.problem is None
    before = model[0].weight.detach().clone()
    initium.plan(view, "auto", seed=5).apply(model)
    after = model[0].weight.detach()
    assert not torch.equal(before, after)
    assert torch.isfinite(after).all()
    if kind == "orthogonal":
        assert torch.allclose(after @ after.T, torch.eye(WIDTH), atol=1e-4)
    if kind == "symmetric":
        assert torch.equal(after, after.T)


def low_rank(view: ModelView) -> dict[str, ParameterView]:
    return {name: one for name, one in view.parameters.items() if "lora_" in name}


def test_adapters_of_peft():
    peft = import_optional("peft")
    config = peft.LoraConfig(r=2, target_modules=["qkv", "up"])
    model = peft.get_peft_model(nn.Sequential(Block(), nn.Linear(WIDTH, 4)), config)
    view = inspect(model, torch.zeros(2, 5, WIDTH))
    assert view.problem is None
    found = low_rank(view)
    assert {one.role for name, one in found.items() if "lora_A" in name} == {"lora_a"}
    assert {one.role for name, one in found.items() if "lora_B" in name} == {"lora_b"}
    base = "base_model.model.0.qkv.base_layer.weight"
    assert view.parameters[base].role == "attn_qkv"
