"""Lazy draws: the model's own code runs without its weights, and products are drawn when needed.

Activations are real, on the CPU, forward and backward. A parameter with more than ``dense``
elements is a :class:`~initium._predict.lazy.weight.LazyWeight`: a product with it is drawn from its
law given all earlier products, so that ties, reuse and the transposed products of the backward pass
are exact; the small ones have the values that the plan gives them.

Dropout and LayerDrop are switched off, as in a check, with a note. Not covered: gradients of the
weights themselves, reentrant activation checkpointing of frozen inputs, models that write to their
weights while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from traceback import walk_tb
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from initium._model.call import call, map_tensors, must_be_module, tensors
from initium._model.names import Slot, named_modules, slots
from initium._model.parametrized import settle
from initium._model.quiet import without_dropout
from initium._model.state import preserved
from initium._plan import Entry, Plan
from initium._predict.field.mode import FieldMode
from initium._predict.lazy.matrix import INDEPENDENT
from initium._predict.lazy.source import Shared, Source, values
from initium._predict.lazy.view import View
from initium._predict.lazy.weight import LazyWeight
from initium._predict.measure import Gauge
from initium._predict.records import Draw
from initium.errors import InitiumError, InputError, ModelError, PlanError
from initium.spec import Keep

__all__ = ["DENSE", "Unfinished", "draw", "start_of"]

MEMORY = 4 << 30
DENSE = 1 << 16
IGNORED = -100
"""torch's ``ignore_index``."""
DROPOUT = (
    "dropout was switched off, as in a check: with it, as in a step of training, moments and the "
    "loss are larger"
)
UNRUN = (
    "check that the inputs fit the model, and that it runs without its weights' values in its own "
    "code"
)
UNDERIVED = "give what it names a derivative; what the forward pass has reached is predicted"


class Unfinished(ModelError):
    """A pass that ended early; ``reached`` is what it had measured by then."""

    def __init__(self, what: str, reached: Draw, **details: Any) -> None:
        super().__init__(what, **details)
        self.reached = reached


def draw(
    model: nn.Module,
    plan: Plan,
    inputs: object,
    *,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    dense: int = DENSE,
    memory: int = MEMORY,
    closed: bool = False,
) -> Draw:
    """One forward and backward pass as it would be after ``plan.apply(model)``, without weights.

    Args:
        model: any module; its parameters may be on the meta device, and are never read.
        plan: of this model; its seed is not used.
        inputs: a batch on the CPU: a mapping, a tuple or one tensor.
        targets: for ``loss_fn``, or class indices of the output for a cross-entropy.
        loss_fn: ``loss_fn(output, targets)``. Without it the loss is the model's own, else the
            cross-entropy with the targets, else a standard normal cotangent of the output, the same
            in every draw and in a check.
        seed: of this draw; the same seed gives the same numbers.
        dense: parameters of at most so many elements have values.
        memory: bytes that may be spent on the values of larger ones, where a product would see
            most of a weight or an operator needs them.
        closed: keep second moments at what they are at infinite width, wherever a rule knows that
            (:mod:`initium._predict.field`); ``dense`` then holds for vectors alone.

    Returns:
        Moments of every module's output, the loss, and notes where a law was not exact.

    Raises:
        PlanError: the plan lacks a parameter, or keeps one that the model has no values for.
        InputError: a loss that does not fit.
        Unfinished: the model does not run, or needs more values than ``memory`` allows.

    Example:
        >>> import initium
        >>> layer = nn.Linear(4096, 4096, bias=False, device="meta")
        >>> plan = initium.plan(layer, "normal(0.015625)")
        >>> found = draw(layer, plan, torch.ones(1, 4096))
        >>> bool(abs(found.layers[""].second_moment - 1) < 0.2)
        True

    Source: Lu 2021, Householder Dice (arXiv:2101.07464).
    """
    must_be_module(model)
    inputs = map_tensors(inputs, _on_cpu)
    shared = Shared(seed, memory, even=closed)
    found = _run(model, plan, map_tensors(inputs, torch.clone), targets, loss_fn, dense, shared)
    if found is None:  # what its transpose meets are no orthogonal vectors
        shared = Shared(seed, memory, even=closed, free=frozenset(shared.both))
        found = _run(model, plan, inputs, targets, loss_fn, dense, shared)
    assert found is not None
    return found


def _run(
    model: nn.Module,
    plan: Plan,
    inputs: object,
    targets: object,
    loss_fn: Callable[[Any, Any], Any] | None,
    dense: int,
    shared: Shared,
) -> Draw | None:
    """One pass; ``None`` where a weight turns out on the way forward to be used transposed too."""
    mode = FieldMode(shared) if shared.even else None
    seed = shared.seed
    with preserved(model), _swapped(model, plan, dense, shared, mode):
        gauge = Gauge(model) if mode is None else Gauge(model, mode.tier)
        loss: float | None = None
        loss_tier = ""
        torch.manual_seed(seed)
        try:
            with (
                torch.enable_grad(),
                gauge.watching(),
                mode or nullcontext(),
                without_dropout(model) as quiet,
            ):
                output = call(model, inputs)
                gauge.forward_done = True
                if quiet.met:
                    shared.note(DROPOUT)
                if shared.even and shared.both and not shared.free:
                    return None
                loss, start, cotangents = start_of(output, targets, loss_fn)
                del output
                if mode is not None:
                    mode.has_loss = loss is not None
                loss_tier = "" if loss is None else gauge.tier(start[0])
                shared.last = True
                if any(tensor.requires_grad for tensor in start):
                    torch.autograd.backward(start, cotangents)
                else:
                    shared.note("the output has no gradient")
        except (InputError, PlanError):
            raise
        except Exception as error:
            reached = Draw(gauge.layers(), loss, loss_tier, tuple(shared.notes))
            raise _unfinished(error, model, reached, gauge.forward_done) from error
    return Draw(gauge.layers(), loss, loss_tier, tuple(shared.notes))


def _unfinished(error: Exception, model: nn.Module, reached: Draw, back: bool) -> Unfinished:
    """Which pass failed, in which module, and why."""
    if isinstance(error, InitiumError):
        return Unfinished(error.what, reached, where=error.where, value=error.value, fix=error.fix)
    line = (str(error).strip().splitlines() or [""])[0]
    place = _place(error, model)
    return Unfinished(
        f"the {'backward' if back else 'forward'} pass of a draw fails: {type(error).__name__}: "
        f"{line}{place and f' (in {place})'}",
        reached,
        where=type(model).__name__,
        fix=UNDERIVED if back else UNRUN,
    )


def _place(error: Exception, model: nn.Module) -> str:
    """The innermost module of a model that was being called."""
    names = {id(module): name for name, module in named_modules(model)}
    called = (id(frame.f_locals.get("self")) for frame, _ in walk_tb(error.__traceback__))
    return next((names[one] for one in [*called][::-1] if one in names), "")


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        raise InputError(
            "is on the meta device and has no values",
            where="inputs",
            value=tuple(tensor.shape),
            fix="pass a real batch; only the parameters may lack values",
        )
    return tensor.detach().cpu()


@contextmanager
def _swapped(
    model: nn.Module, plan: Plan, dense: int, shared: Shared, mode: FieldMode | None
) -> Iterator[None]:
    """Every parameter and buffer replaced by what a draw uses, and put back afterwards.

    Names that the plan ties are one tensor, also where the model lost its ties on the way to the
    meta device. What a parametrization reads gets values, as :func:`settle` needs them.
    """
    undo: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    owners = {name: owner for owner, names in plan.ties.items() for name in names}
    made: dict[str, torch.Tensor] = {}
    try:
        for name, slot in slots(model).items():
            owner = owners.get(name, name)
            if owner not in made:
                limit = shared.memory if any(map(_is_parametrization, slot.places)) else dense
                entry = _entry(plan, owner, slot)
                made[owner] = _drawn(owner, slot, entry, limit, shared)
                if mode is not None and not isinstance(made[owner], LazyWeight):
                    mode.enrol(owner, made[owner], entry.spec)
            for module, leaf in slot.places:
                holder: dict[str, Any] = module._buffers if slot.is_buffer else module._parameters
                undo.append((holder, leaf, slot.tensor))
                holder[leaf] = made[owner]
        settle(model)
        yield
    finally:
        for holder, leaf, tensor in undo:
            holder[leaf] = tensor


def _is_parametrization(place: tuple[nn.Module, str]) -> bool:
    return isinstance(place[0], nn.utils.parametrize.ParametrizationList)


def _entry(plan: Plan, name: str, slot: Slot) -> Entry:
    entry = plan.entries.get(name)
    if entry is None:
        if slot.is_buffer:
            return Entry(Keep(), tuple(slot.tensor.shape), "", "buffer", "")
        raise PlanError("is not in the plan", where=name, fix="plan this model anew")
    if entry.shape != tuple(slot.tensor.shape):
        raise PlanError(
            f"has another shape in the plan, {entry.shape}",
            where=name,
            value=tuple(slot.tensor.shape),
            fix="plan this model anew",
        )
    return entry


def _drawn(name: str, slot: Slot, entry: Entry, dense: int, shared: Shared) -> torch.Tensor:
    tensor, kept = slot.tensor, isinstance(entry.spec, Keep)
    if kept and not tensor.is_meta:
        held = tensor.detach().cpu().clone()
        return held if slot.is_buffer else nn.Parameter(held, tensor.requires_grad)
    floating = tensor.is_floating_point()
    small = tensor.numel() <= dense and not (shared.even and tensor.dim() > 1)
    if kept or slot.is_buffer or small or not floating:
        made = values(name, entry, shared.seed, tensor.dtype)
        if shared.even and isinstance(entry.spec, INDEPENDENT):
            made = _even(made, entry)
        return made if slot.is_buffer else nn.Parameter(made, tensor.requires_grad)
    source = Source(name, entry, tensor.dtype, tensor.requires_grad, shared)
    lazy = LazyWeight(source, View.of(entry.shape), tensor.dtype)
    lazy._is_param = True
    return lazy


def _even(values: torch.Tensor, entry: Entry) -> torch.Tensor:
    """A vector of random numbers with exactly the planned mean and std; a number stays."""
    moments = entry.spec.moments(entry.shape)
    spread = values.double().std(correction=0) if values.numel() > 1 else torch.zeros(())
    if not moments.std or moments.mean is None or not spread:
        return values
    centred = (values.double() - values.double().mean()) / spread
    return (centred * moments.std + moments.mean).to(values.dtype)


def start_of(
    output: Any, targets: Any, loss_fn: Callable[[Any, Any], Any] | None
) -> tuple[float | None, list[torch.Tensor], list[torch.Tensor | None]]:
    """The value of the loss, and what the backward pass starts from."""
    loss = _loss(output, targets, loss_fn)
    if loss is not None:
        return float(loss.detach()), [loss], [None]
    held = list(_outputs(output))
    found = [tensor for tensor in held if tensor.is_floating_point() or tensor.is_complex()]
    if not found:
        raise ModelError(
            "the model's output holds no floating-point tensor",
            value=str(held[0].dtype) if held else type(output).__name__,
            fix="return a tensor, or a tuple, mapping or dataclass with one; or pass loss_fn=",
        )
    used = [tensor for tensor in found if tensor.requires_grad] or found
    generator = torch.Generator().manual_seed(0)
    return None, used, [torch.randn(t.shape, generator=generator).to(t.dtype) for t in used]


def _loss(
    output: Any, targets: Any, loss_fn: Callable[[Any, Any], Any] | None
) -> torch.Tensor | None:
    if loss_fn is not None:
        try:
            loss = loss_fn(output, targets)
        except Exception as error:
            raise InputError(
                f"raises {type(error).__name__}: {error}",
                where="loss_fn",
                fix="loss_fn(output, targets) gets what the model returned and the targets",
            ) from error
        if not isinstance(loss, torch.Tensor):
            raise InputError("is not a scalar tensor", where="loss_fn", value=type(loss).__name__)
        if loss.numel() != 1:
            raise InputError(
                "is not a scalar tensor",
                where="loss_fn",
                value=tuple(loss.shape),
                fix="reduce it: reduction='mean', or .mean() at its end",
            )
        return loss.reshape(())
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own.reshape(())
    if isinstance(output, torch.Tensor) and output.dim() == 0:
        return output
    return None if targets is None else _cross_entropy(_outputs(output)[0], targets)


def _cross_entropy(logits: torch.Tensor, targets: Any) -> torch.Tensor:
    """Over the last dimension, or over the second as for images."""
    if isinstance(targets, torch.Tensor) and not targets.is_floating_point() and logits.dim() > 1:
        targets = targets.cpu().long()
        if targets.shape == logits.shape[:-1]:
            logits = logits.movedim(-1, 1)
        if targets.shape == (logits.shape[0], *logits.shape[2:]):
            return F.cross_entropy(logits, targets, ignore_index=IGNORED)
    raise InputError(
        f"are no class indices for an output of shape {tuple(logits.shape)}",
        where="targets",
        value=tuple(getattr(targets, "shape", ())),
        fix="pass targets of the output's shape without its class dimension, or loss_fn=",
    )


def _outputs(output: Any) -> list[torch.Tensor]:
    """The logits where they are named, else every tensor of the output."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return [named] if isinstance(named, torch.Tensor) else list(tensors(output))
