"""What drives: one forward and one backward pass of the whole model, under :func:`preserved`.

Gradients are taken with ``torch.autograd.grad``, so that ``.grad`` and hooks on its accumulation
(an optimiser in the backward pass) are never touched. Reentrant activation checkpointing needs
``backward()``; the pass is then made again that way, with those hooks set aside.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initium._check.between import Between
from initium._check.loss import LossFunction, Start, first_loss
from initium._check.measure import Measure, sample_count
from initium._check.parameters import named_parameters
from initium._model.call import call
from initium._model.quiet import without_dropout
from initium._types import ModelView
from initium.errors import InitiumError, InputError, ModelError

__all__ = ["Pass", "bare", "eager", "run"]


@dataclass(slots=True)
class Pass:
    """One finished pass: accumulators, the loss, and gradients that are handed out once."""

    measure: Measure
    start: Start
    gradients: dict[str, torch.Tensor | None]
    differentiated: bool
    dropout: bool

    def take(self, name: str) -> torch.Tensor | None:
        """The gradient of a parameter; afterwards it is no longer held here."""
        return self.gradients.pop(name, None)


def bare(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, DDP and DataParallel, which would hide its modules."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def run(
    model: nn.Module,
    inputs: object,
    targets: object,
    loss_fn: LossFunction | None,
    view: ModelView,
) -> Pass:
    """Forward, loss, backward; to be called under ``preserved``.

    Raises:
        InputError: the model does not run on the batch, or the loss does not fit.
        ModelError: the output has no gradient although parameters ask for one.
    """
    try:
        return _run(model, inputs, targets, loss_fn, view, _by_grad)
    except RuntimeError as error:
        if "heckpoint" not in str(error) or isinstance(error, InitiumError):
            raise
    with _accumulation_hooks_aside(model):
        return _run(model, inputs, targets, loss_fn, view, _by_backward)


Backward = Callable[[Start, dict[str, nn.Parameter]], dict[str, torch.Tensor | None]]


def _run(
    model: nn.Module,
    inputs: object,
    targets: object,
    loss_fn: LossFunction | None,
    view: ModelView,
    backward: Backward,
) -> Pass:
    trained = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    measure = Measure(model, sample_count(inputs), view)
    with (
        torch.enable_grad(),
        eager(),
        measure.watching(),
        without_dropout(model) as quiet,
    ):
        with measure.between if trained else nullcontext():
            output = _forward(model, inputs)
        measure.forward_done = True
        start = first_loss(output, inputs, targets, loss_fn)
        del output
        if not trained:
            return Pass(measure, start, {}, False, quiet.met)
        if not any(tensor.requires_grad for tensor in start.tensors):
            raise _detached(start)
        gradients = backward(start, trained)
    return Pass(measure, Start((), (), start.record), gradients, True, quiet.met)


def eager() -> AbstractContextManager[None]:
    """Compiled submodules run without their compiler, which has no use for hooks."""
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


def _forward(model: nn.Module, inputs: object) -> Any:
    try:
        return call(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if _measuring(error):
            error.add_note("this was raised while measuring: it is no fault of the model")
            raise
        lines = str(error).strip().splitlines() or [""]
        raise InputError(
            f"the model does not run on this batch: {type(error).__name__}: {lines[0]}",
            where="inputs",
            value=_described(inputs),
            fix="pass a mapping for keyword arguments, a tuple for positional ones, or one tensor, "
            "on the model's device",
        ) from error


def _measuring(error: Exception) -> bool:
    """Whether it was raised by what looks at the pass, and not by the model."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
        if module == Measure.__module__:
            return True
        if module == Between.__module__ and function != "__torch_dispatch__":
            return True
    return False


def _by_grad(start: Start, trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor | None]:
    found = torch.autograd.grad(
        start.tensors, list(trained.values()), list(start.cotangents), allow_unused=True
    )
    return dict(zip(trained, found, strict=True))


def _by_backward(start: Start, trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor | None]:
    torch.autograd.backward(start.tensors, list(start.cotangents))
    return {name: parameter.grad for name, parameter in trained.items()}


@contextmanager
def _accumulation_hooks_aside(model: nn.Module) -> Iterator[None]:
    held = [p._post_accumulate_grad_hooks for p in model.parameters()]
    kept = [(hooks, dict(hooks)) for hooks in held if hooks]
    try:
        for hooks, _ in kept:
            hooks.clear()
        yield
    finally:
        for hooks, entries in kept:
            hooks.update(entries)


def _detached(start: Start) -> InitiumError:
    if start.record.source == "loss_fn":
        return InputError(
            "has no gradient",
            where="loss_fn",
            fix="compute it from the output with torch operations, without .item() or .detach()",
        )
    return ModelError(
        "the output has no gradient, although parameters require one",
        fix="remove torch.no_grad(), .detach() or .data from the model's forward",
    )


def _described(inputs: object) -> str:
    if isinstance(inputs, torch.Tensor):
        return f"{tuple(inputs.shape)} {str(inputs.dtype).removeprefix('torch.')}"
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {_described(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(_described(value) for value in inputs) + ")"
    return type(inputs).__name__
