"""``preserved``: a model is afterwards exactly as it was, whatever its forward pass does."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from initium._model.state import _process_state, fingerprint, preserved
from initium.errors import ModelError


class Restless(nn.Module):
    """Does in ``forward`` everything that real models do to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("counter", torch.zeros(3))
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("wide", torch.zeros(1, 3).expand(5, 3))
        self.cache: dict[int, list[torch.Tensor]] = {0: []}
        self.names = ["a"]
        self.flags = {"x"}
        self.loose = torch.ones(2)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter += 1
        self.counter.data[0] = -5
        self.table = torch.full((3,), 7.0)
        self.register_buffer("late", torch.ones(1))
        self.cache[0].append(x)
        self.cache[1] = [x]
        self.names.append("b")
        self.flags.clear()
        self.loose.mul_(3)
        self.note = "seen"
        del self.linear._parameters["bias"]
        self.linear.register_parameter("bias", None)
        self.linear.weight.requires_grad_(False)
        self.register_forward_hook(lambda *_: None)
        self.eval()
        noise = torch.rand(1) + torch.rand(1, generator=self.generator)
        return self.linear(x) * (noise + random.random() + np.random.rand())


def facts(model: nn.Module) -> list[object]:
    """Everything that can be compared by identity or bits."""
    found: list[object] = []
    for name, module in model.named_modules():
        found.append((name, module.training, sorted(vars(module))))
        found.append([len(getattr(module, key)) for key in vars(module) if key.endswith("_hooks")])
        for held in (module._parameters, module._buffers):
            found += [(key, id(value)) for key, value in held.items()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found += [(key, fingerprint(value), value.requires_grad) for key, value in tensors]
    found += [(key, id(value.grad)) for key, value in model.named_parameters()]
    return found


def random_states() -> list[object]:
    """Without Python's own, which the run-time type checker of this suite uses, too."""
    legacy = np.random.get_state()
    return [torch.get_rng_state().tolist(), legacy[1].tolist(), legacy[2]]


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (8, 4)),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (8, 4)),
    "spectral norm": (spectral, (8, 4)),
    "lstm": (lambda: nn.LSTM(4, 3), (5, 2, 4)),
    "restless": (Restless, (2, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward_leave_no_trace(name: str) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = build(), torch.randn(shape)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = copy.deepcopy(model.state_dict())
    grads = [parameter.grad for parameter in model.parameters()]
    before, chance = facts(model), random_states()
    with preserved(model):
        output = model(x)
        output = output[0] if isinstance(output, tuple) else output
        if output.requires_grad:
            output.sum().backward()
    now = random_states()
    assert now == chance
    assert facts(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is grad
        assert grad is not None
        assert bool((grad == 1).all())


def test_attributes_of_a_restless_module_are_put_back() -> None:
    model = Restless()
    table, chance = model.table, model.generator.get_state()
    with preserved(model):
        model(torch.ones(2, 4))
        assert model.cache[1]
    assert model.table is table
    assert model.cache == {0: []}
    assert (model.names, model.flags) == (["a"], {"x"})
    assert model.loose.tolist() == [1.0, 1.0]
    assert not hasattr(model, "note")
    assert torch.equal(model.generator.get_state(), chance)
    assert len(model._forward_hooks) == 0


def test_an_exception_goes_on_and_the_model_is_restored() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = facts(model)

    def broken() -> None:
        model.eval()
        model[0].running_mean.add_(1)
        raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"), preserved(model):
        broken()
    assert facts(model) == before
    assert model[0].running_mean.tolist() == [0.0, 0.0]


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "in place": lambda weight: weight.detach().add_(1),
    "data": lambda weight: weight.data.mul_(2),
    "one bit": lambda weight: weight.data.view(torch.int32)[1, 2].bitwise_xor_(1),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_written_parameter_is_named(write: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ModelError, match=r"1\.weight: .* wrote to parameters"), preserved(model):
        WRITES[write](model[1].weight)


def test_a_written_parameter_is_noted_on_the_exception() -> None:
    model = nn.Linear(2, 2)

    def broken() -> None:
        model.weight.data.zero_()
        raise KeyError("boom")

    with pytest.raises(KeyError) as caught, preserved(model):
        broken()
    assert caught.value.__notes__ == ["the values of weight were changed and not restored"]


def test_all_random_states_are_put_back() -> None:
    before = [*random_states(), random.getstate()]
    restore = _process_state()
    torch.rand(3), random.random(), np.random.rand()
    assert [*random_states(), random.getstate()] != before
    restore()
    assert [*random_states(), random.getstate()] == before


def test_cloned_parameters_are_restored_in_place() -> None:
    model = nn.Linear(3, 3)
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    with preserved(model, clone=["weight"]):
        model.weight.data.zero_()
    assert torch.equal(model.weight, before)
    assert model.weight.data_ptr() == place


def test_a_replaced_data_is_put_back() -> None:
    model = nn.Linear(3, 3)
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    with preserved(model):
        model.weight.data = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(model.weight, before)
    assert model.weight.data_ptr() == place


def test_unknown_clone_is_an_error_with_choices() -> None:
    with pytest.raises(ModelError, match="wieght: no such parameter to clone; did you mean weight"):
        preserved(nn.Linear(2, 2), clone=["wieght"]).__enter__()


def test_hooks_and_attributes_of_parameters_are_put_back() -> None:
    model = nn.Linear(2, 2)
    model.weight.register_hook(lambda grad: grad)
    with preserved(model):
        model.weight.register_hook(lambda grad: grad * 2)
        model.bias.register_hook(lambda grad: grad * 2)
        model.weight.extra = 1
    assert len(model.weight._backward_hooks) == 1
    assert model.bias._backward_hooks is None
    assert not hasattr(model.weight, "extra")


def test_torch_defaults_are_put_back() -> None:
    with preserved(nn.Linear(2, 2)):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_default_device().type == "cpu"


ODD_TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "meta": lambda: torch.empty(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "empty": lambda: torch.empty(0, 4),
    "scalar": lambda: torch.tensor(2.0),
    "bool": lambda: torch.tensor([True, False]),
    "half": lambda: torch.ones(3, dtype=torch.bfloat16),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "nan": lambda: torch.tensor([float("nan"), 1.0]),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_every_kind_of_buffer_is_restored(kind: str) -> None:
    model = nn.Module()
    model.register_buffer("held", ODD_TENSORS[kind]())
    held, before = model.held, fingerprint(model.held)
    with preserved(model):
        if kind not in ("meta", "empty", "float8", "csr"):
            model.held.zero_()
            assert fingerprint(model.held) != before
        model.held = torch.zeros(1)
    assert model.held is held
    assert fingerprint(model.held) == before


def test_fingerprint_sees_any_change_and_any_order() -> None:
    x = torch.randn(300, 301)
    seen = {fingerprint(x), fingerprint(x.flip(0)), fingerprint(-x), fingerprint(x.double())}
    for index in range(0, x.numel(), 9973):
        y = x.clone()
        y.view(-1)[index] += 1
        seen.add(fingerprint(y))
    assert len(seen) == 4 + len(range(0, x.numel(), 9973))
    assert fingerprint(x) == fingerprint(x.clone())
