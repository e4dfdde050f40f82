"""A check looks on and changes nothing: loss and gradients of a watched pass equal those of a plain
one to the last bit, whatever the model does, and the model is afterwards as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import initium
from initium._check.api import check
from initium._check.drive import bare, run
from initium._check.loss import LossFunction
from initium._model.quiet import without_dropout
from initium._model.state import fingerprint, preserved
from initium._report.records import Report
from initium._types import ModelView

WIDTH, CLASSES = 16, 5
X = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % CLASSES


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def counted(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., object]:
    raise AssertionError("a check compiles nothing")


class Net(nn.Module):
    """Three layers and a head; ``how`` says in which way they are used."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm, self.act = nn.BatchNorm1d(WIDTH), nn.ReLU(inplace="in place" in how)
        self.head = nn.Linear(WIDTH, CLASSES)
        if how == "compiled layers":
            self.layers[1] = torch.compile(self.layers[1], backend=counted)
            self.layers[2].compile(backend=counted)
        if how == "frozen":
            for module in (self.stem, self.layers[1]):
                module.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return self.body(x)
        return self.body(x)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        for index, layer in enumerate(self.layers):
            if self.how == "used several times":
                x = x + self.act(self.layers[0](self.act(self.layers[index % 2](x))))
            elif self.how == "in place":
                x = self.act(layer(x).add_(x))
            elif self.how.startswith("checkpointed"):
                reentrant = self.how == "checkpointed, reentrant"
                x = checkpoint(self.block, layer, x, use_reentrant=reentrant)
            else:
                x = self.block(layer, x)
        return self.head(x)

    def block(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(layer(x))


class Attending(nn.Module):
    """Torch's own attention, with weights and without."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.two = nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True)
        self.rnn, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None] * torch.linspace(0.5, 1.5, 4)[:, None]
        return self.head(self.rnn(self.two(self.one(x, x, x)[0]))[0].mean(1))


HOW = (
    "plain",
    "used several times",
    "in place",
    "checkpointed",
    "checkpointed, reentrant",
    "autocast",
    "compiled layers",
    "frozen",
)
MODELS: dict[str, Callable[[], nn.Module]] = {
    **{how: (lambda how=how: Net(how)) for how in HOW},
    "compiled": lambda: torch.compile(Net(), backend=counted),
    "data parallel": lambda: nn.DataParallel(Net()),
    "attention and recurrence": Attending,
    "double": lambda: Net().double(),
}
Gradients = dict[str, torch.Tensor | None]


def plain_pass(
    model: nn.Module, loss_fn: LossFunction | None = None, x: torch.Tensor = X
) -> tuple[float, Gradients]:
    """Loss and gradients as a training loop has them, of a copy."""
    model = copy.deepcopy(bare(model))
    with torch.compiler.set_stance("force_eager"):
        z = model(x)
        loss = F.cross_entropy(z, Y) if loss_fn is None else loss_fn(z, Y)
        loss.backward()
    return float(loss.detach()), {
        name.replace("._orig_mod", ""): p.grad
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def assert_equal(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        ours = found[name]
        assert (ours is None) == (gradient is None), name
        assert gradient is None or (ours is not None and torch.equal(ours, gradient)), name


def prints(model: nn.Module) -> dict[str, object]:
    return {name: fingerprint(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_watched_pass_is_the_plain_pass(make: Callable[[], nn.Module]) -> None:
    model = make()
    inner = bare(model)
    x = X.to(next(inner.parameters()).dtype)
    before, random = prints(model), torch.get_rng_state()
    modules = dict(inner.named_modules())
    value, gradients = plain_pass(model, x=x)
    view = initium.inspect(inner, x)
    with preserved(inner):
        done = run(inner, x, Y, None, view)
        assert done.start.record.value == value
        assert_equal(done.gradients, gradients)
    report = check(model, x, Y, view=view)
    assert report.loss.value == value
    assert prints(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert dict(inner.named_modules()) == modules
    for module in modules.values():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        assert not any(hooks)
    for name, parameter in bare(model).named_parameters():
        assert parameter.grad is None, name
        assert not parameter._backward_hooks, name


def test_inside_autocast_a_check_is_a_pass_inside_autocast() -> None:
    model = Net()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradients = plain_pass(model)
        view = initium.inspect(model, X)
        with preserved(model):
            done = run(model, X, Y, None, view)
    assert done.start.record.value == value != plain_pass(model)[0]
    assert done.measure.dtypes >= {"bfloat16"}
    assert_equal(done.gradients, gradients)


def test_a_module_that_is_used_several_times_has_all_its_uses() -> None:
    model, seen = Net("used several times"), []
    report = check(model, X, Y)

    def look(module: nn.Module, args: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    model.layers[0].register_forward_hook(look)
    F.cross_entropy(model(X), Y).backward()
    assert len(seen) == report.layers["layers.0"].calls == 5
    record, values = report.layers["layers.0"], torch.stack(seen)
    slopes = torch.stack([output.grad for output in seen])
    assert record.second_moment == pytest.approx(values.square().mean().item(), rel=1e-5)
    assert record.grad_second_moment == pytest.approx(slopes.square().mean().item(), rel=1e-5)
    assert "layers.2.weight" in {n for f in report.findings if f.code == "IN304" for n in f.where}


def test_what_is_changed_in_place_is_measured_before() -> None:
    class Chain(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
            self.act = nn.LeakyReLU(0.1, inplace)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.act(self.one(x)))

    written, kept = Chain(True), Chain(False)
    written.load_state_dict(kept.state_dict())
    assert check(written, X, Y).layers == check(kept, X, Y).layers


def test_frozen_parameters_get_no_gradient_and_the_rest_keeps_its_own() -> None:
    frozen, free = Net("frozen"), Net()
    free.load_state_dict(frozen.state_dict())
    ours, theirs = check(frozen, X, Y), check(free, X, Y)
    assert ours.loss == theirs.loss
    for name, record in ours.parameters.items():
        shut = name.startswith(("stem", "layers.1"))
        assert record.trainable != shut
        wanted = None if shut else theirs.parameters[name].grad_second_moment
        assert record.grad_second_moment == wanted


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Named(NamedTuple):
    logits: torch.Tensor


RETURNS: dict[str, Callable[[torch.Tensor], object]] = {
    "tensor": lambda z: z,
    "dict": lambda z: {"logits": z, "hidden": None},
    "dict without a known name": lambda z: {"anything": z},
    "dataclass": Output,
    "tuple": lambda z: (z, None),
    "list": lambda z: [z],
    "named tuple": Named,
    "nest": lambda z: {"out": (Output(z),)},
}


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.net, self.wrap = Net(), wrap

    def forward(self, x: torch.Tensor) -> object:
        return self.wrap(self.net(x))


def judged(report: Report) -> tuple[object, ...]:
    return report.loss, report.parameters, report.findings


@pytest.mark.parametrize("targets", [Y, None], ids=["cross-entropy", "random cotangent"])
@pytest.mark.parametrize("wrap", RETURNS.values(), ids=RETURNS)
def test_whatever_holds_the_output(
    wrap: Callable[[torch.Tensor], object], targets: torch.Tensor | None
) -> None:
    plain, model = Returning(RETURNS["tensor"]), Returning(wrap)
    model.load_state_dict(plain.state_dict())
    view = initium.inspect(plain, X)
    ours, theirs = check(model, X, targets, view=view), check(plain, X, targets, view=view)
    assert judged(ours) == judged(theirs)
    assert ours.loss.source == ("cross-entropy" if targets is not None else "random cotangent")


def test_without_a_loss_gradients_are_those_of_the_same_random_cotangent() -> None:
    model = Net()
    view = initium.inspect(model, X)
    with preserved(model):
        done = run(model, X, None, None, view)
    cotangent = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(model)
    plain(X).backward(cotangent)
    assert_equal(done.gradients, {name: p.grad for name, p in plain.named_parameters()})


@pytest.mark.parametrize("wrap", [dict, lambda **held: SimpleNamespace(**held)])
def test_a_loss_of_the_model_itself(wrap: Callable[..., object]) -> None:
    class Losing(Net):
        def forward(self, x: torch.Tensor) -> object:
            z = super().forward(x)
            return wrap(loss=F.cross_entropy(z, Y), logits=z)

    model = Losing()
    value = model(X)
    value = value["loss"] if isinstance(value, dict) else value.loss
    assert check(model, X).loss.value == value.item()


def test_a_loss_of_the_caller_gets_what_the_model_returned() -> None:
    model = Net()

    def loss_fn(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, targets, label_smoothing=0.1)

    value, gradients = plain_pass(model, loss_fn)
    with preserved(model):
        done = run(model, X, Y, loss_fn, initium.inspect(model, X))
    assert done.start.record.value == value
    assert_equal(done.gradients, gradients)


# ---------------------------------------------------------------- dropout


class Noise(nn.Module):
    """One kind of noise between two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.5)
        self.attention = nn.MultiheadAttention(WIDTH, 2, 0.5)
        self.config = SimpleNamespace(layerdrop=0.9 if kind == "layers" else 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, on = self.one(x), self.training
        if self.kind == "dropout":
            x = F.dropout(x, 0.5, on)
        elif self.kind == "primitive":
            x = torch.dropout(x, 0.5, on)
        elif self.kind == "alpha":
            x = F.alpha_dropout(x, 0.5, on)
        elif self.kind == "channels":
            x = F.dropout2d(x[:, :, None, None], 0.5, on)[:, :, 0, 0]
        elif self.kind == "paths" and on:
            x = x * x.new_empty(len(x), 1).bernoulli_(0.5).div_(0.5)
        elif self.kind == "attention":
            x = self.attention(x, x, x)[0]
        elif self.kind == "fused attention":
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if on else 0.0)
        elif self.kind == "recurrent":
            x = self.rnn(x[None])[0][0]
        elif self.kind == "packed":
            x = self.rnn(pack_sequence([x]))[0].data
        elif self.kind == "layers" and on and torch.rand(()) < self.config.layerdrop:
            return x
        return self.two(x)


KINDS = (
    "dropout", "primitive", "alpha", "channels", "paths", "attention", "fused attention",
    "recurrent", "packed", "layers",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_training_is_evaluation(kind: str) -> None:
    model = Noise(kind)
    wanted = copy.deepcopy(model).eval()(X)
    with without_dropout(model) as quiet:
        torch.testing.assert_close(model(X), wanted)
        torch.testing.assert_close(model(X), wanted)
    assert quiet.met == (kind != "layers")
    assert model.training
    assert model.config.layerdrop == (0.9 if kind == "layers" else 0.0)
    with without_dropout(model.eval()) as quiet:
        model(X)
    assert not quiet.met


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_and_a_deep_check_see_no_noise(kind: str) -> None:
    model = Noise(kind)
    view: ModelView = initium.inspect(model.eval(), X)
    report = check(model.train(), X, view=view, deep=kind == "layers")
    quiet = check(model.eval(), X, view=view)
    for name, record in quiet.layers.items():
        assert report.layers[name].second_moment == pytest.approx(record.second_moment, rel=1e-5)
    assert any("dropout was switched off" in note for note in report.notes) == (kind != "layers")
    if report.deep is not None and report.deep.steps is not None:
        assert all(norms[0] for norms in report.deep.steps.gradients.values() if norms[0])
        assert report.deep.steps.gradients["two.weight"][-1]


def test_the_cost_of_a_deep_check_is_told_before_it_starts() -> None:
    model, at = Net(), []
    passes: list[int] = []

    def loss_fn(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return F.cross_entropy(output, targets)

    check(model, X, Y, loss_fn)
    once = len(passes)
    passes.clear()
    check(model, X, Y, loss_fn, deep=True, announce=lambda text: at.append((text, len(passes))))
    ((text, before),) = at
    assert text.startswith("deep check: about ")
    assert before == once < len(passes)
