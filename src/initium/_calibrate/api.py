"""``calibrate``: measure, scale in execution order, measure again, and only then change weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.backends.mha
from torch import nn
from torch.utils.data import DataLoader, Dataset

from initium._calibrate.job import FIXED, Job, must_be_batch
from initium._calibrate.look import Look
from initium._calibrate.records import Calibration, LeftAlone, Scaled
from initium._calibrate.specs import must_hold, scaled_plan
from initium._calibrate.steer import Course, Steer
from initium._calibrate.sweep import Seen
from initium._calibrate.targets import Unit, left_alone
from initium._calibrate.weights import Weights
from initium._check.drive import bare
from initium._inspect import inspect
from initium._model.call import must_be_module
from initium._model.names import named_modules, slots
from initium._model.quiet import without_dropout
from initium._model.sharding import is_sharded, must_show_parameters
from initium._model.state import preserved
from initium._plan import Plan
from initium._types import ModelView
from initium.errors import InputError, ModelError

__all__ = ["calibrate"]

BIASED = "; its bias alone is above that, and the product without it was brought there"
UNSEEN = "no product of it with data was seen"


def calibrate(
    model: nn.Module,
    inputs: object,
    plan: Plan | None = None,
    *,
    passes: int = 1,
    view: ModelView | None = None,
) -> Calibration:
    """Multiply every weight so that what it puts out on real data has the second moment it should.

    Goes through the model in execution order: where a product with a weight W is computed, W
    becomes f W with E[(f W x + b)^2] = target over the batch, and the product is computed again.
    The targets are 1 for a hidden layer, 1/N of its stream for one of N residual branches, 0.04 for
    a head; ``docs/calibrate.md`` has all of them and the reasons. Each batch is run ``passes``
    times to scale, and once before and once after to measure; all without gradients and without
    dropout.

    Either all weights are changed or none. Biases, norms, vectors, frozen parameters, zero weights,
    buffers, running statistics, random states, mode, hooks and gradients stay as they are.

    Args:
        model: with real weights that are not sharded.
        inputs: one batch, as for :func:`initium.inspect`; or several, as a list, an iterator or a
            :class:`~torch.utils.data.DataLoader`, whose mean is calibrated. Batches of an iterator
            are held in memory; a loader is gone through several times.
        plan: the plan that the weights were made by; the result then holds it with scaled specs.
        passes: 1 suffices where each weight is used once in a pass; weights that are used several
            times get near the mean over their uses with 2 or 3.
        view: what the model is, if that is known already.

    Raises:
        ModelError: weights that are on the meta device, sharded, expanded or made in inference
            mode, or an output that is not finite; nothing has been changed then.
        InputError: no batch, one that the model does not run on, or a loader that gives its batches
            only once.
        PlanError: the plan is not for this model, or the model does not hold what it plans.

    Source: Mishkin and Matas 2016, arXiv:1511.06422 (LSUV). Known divergences: second moment
    instead of variance; operators in execution order instead of modules in order of registration;
    no orthogonal start of its own; the factor is solved for and not iterated; residual branches,
    heads and tables have other targets than 1.

    Example:
        >>> import torch, initium
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(),
        ...                           torch.nn.Linear(64, 64))
        >>> batch = torch.randn(256, 8)
        >>> [round(one.after, 4) for one in initium.calibrate(net, batch).scaled]
        [1.0, 0.04]
        >>> round(net(batch).square().mean().item(), 4)
        0.04
    """
    must_be_module(model)
    inner = bare(model)
    must_show_parameters(inner)
    _must_be_writable(inner)
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
        raise InputError("is not a count of 1 or more", where="passes", value=passes, fix="pass 1")
    batches, first = _batches(inputs)
    view = inspect(inner, first) if view is None else view
    if plan is not None:
        must_hold(plan, inner)
    kept = _kept(inner, view)
    open_ = [one.name for one in view.owners if kept.get(one.name) is None]
    with preserved(inner, clone={*open_, *_renormed(inner)}), _running(inner) as module:
        job = Job(inner, view, Weights(slots(inner), view), batches, kept, module, Look(view))
        courses = job.plan_courses()
        for _ in range(passes):
            job.scale(courses)
        steer = Steer(courses, job.gauge())
        after = job.measure(steer.gauge)
        target = {unit: steer.target(unit) for unit in courses}
    scaled, left = _rows(job, courses, after, target)
    made = Calibration(
        model=view.model,
        scaled=scaled,
        left=left,
        passes=passes,
        batches=job.count,
        plan=None if plan is None else scaled_plan(plan, view, courses),
        notes=_notes(view, scaled, passes),
    )
    _commit(inner, courses)
    return made


@contextmanager
def _running(model: nn.Module) -> Iterator[Any]:
    """Everything that must be in place while the model runs; gives the module it is in."""
    names = {id(module): name for name, module in named_modules(model)}
    stack: list[str] = []

    def enter(module: nn.Module, args: object) -> None:
        stack.append(names[id(module)])

    def leave(module: nn.Module, args: object, output: object) -> None:
        stack.pop()

    for module in model.modules():
        module.register_forward_pre_hook(enter, prepend=True)
        module.register_forward_hook(leave, always_call=True)
    fast, cache = torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_cache_enabled()
    with ExitStack() as held:
        held.callback(torch.backends.mha.set_fastpath_enabled, fast)
        held.callback(torch.set_autocast_cache_enabled, cache)
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_autocast_cache_enabled(False)
        if "torch._dynamo" in sys.modules:
            held.enter_context(torch.compiler.set_stance("force_eager"))
        held.enter_context(torch.no_grad())
        held.enter_context(torch._C._AutoDispatchBelowAutograd())
        held.enter_context(without_dropout(model))
        yield lambda: stack[-1] if stack else ""


def _batches(inputs: object) -> tuple[Iterable[object], object]:
    """The batches, to be gone through several times, and the first; random states stay."""
    if inputs is None:
        raise InputError("is missing", where="inputs", fix="pass one batch as the model takes it")
    if isinstance(inputs, Dataset):
        raise InputError(
            "is a data set and not a batch",
            where="inputs",
            value=type(inputs).__name__,
            fix="pass torch.utils.data.DataLoader(dataset, batch_size=...)",
        )
    with preserved(nn.Module()):
        if isinstance(inputs, Iterator):
            inputs = list(inputs)
        batches = inputs if isinstance(inputs, (list, DataLoader)) else [inputs]
        for first in batches:
            must_be_batch(first)
            return batches, first
    raise InputError("holds no batch", where="inputs", fix="pass at least one batch")


def _must_be_writable(model: nn.Module) -> None:
    for name, slot in slots(model).items():
        if slot.tensor.is_meta:
            raise ModelError(
                "is on the meta device and holds no values",
                where=name,
                fix="fill the model first: initium.initialize(model)",
            )
        if is_sharded(slot.tensor):
            raise ModelError(
                "is sharded, and a factor would have to be agreed on by all processes",
                where=name,
                value=type(slot.tensor).__name__,
                fix="calibrate the model before it is sharded, save Calibration.plan, and apply "
                "that to the sharded model",
            )
        expanded = not slot.is_buffer and 0 in slot.tensor.stride()
        if expanded and slot.tensor.requires_grad and slot.tensor.numel() > 1:
            raise ModelError(
                "is expanded: several of its elements are one number in memory",
                where=name,
                value=f"shape {tuple(slot.tensor.shape)}, strides {slot.tensor.stride()}",
                fix="make it a parameter of its own: nn.Parameter(tensor.clone())",
            )
        if slot.tensor.is_inference():
            raise ModelError(
                "was made in inference mode and cannot be written",
                where=name,
                fix="build the model outside torch.inference_mode()",
            )


def _renormed(model: nn.Module) -> set[str]:
    """Tables that torch itself renormalises while they are looked up."""
    return {
        f"{name}.weight" if name else "weight"
        for name, module in named_modules(model)
        if getattr(module, "max_norm", None) is not None and hasattr(module, "weight")
    }


def _kept(model: nn.Module, view: ModelView) -> dict[str, str]:
    """The parameters that keep their values whatever is measured, and why."""
    renormed = _renormed(model)
    kept: dict[str, str] = {}
    for name, slot in slots(model).items():
        if slot.is_buffer:
            continue
        why = left_alone(view.parameters[name])
        if why is None and not (slot.tensor.is_floating_point() or slot.tensor.is_complex()):
            why = "not of a floating-point type"
        if why is None and name in renormed:
            why = "renormalised by its own layer (max_norm)"
        if why is not None:
            kept[name] = why
    return kept


def _commit(model: nn.Module, courses: Mapping[Unit, Course]) -> None:
    """The only place where weights change for good: every factor once."""
    held = slots(model)
    with torch.no_grad():
        for unit, course in courses.items():
            unit.multiply(held[course.root].tensor, course.factor)


def _rows(
    job: Job,
    courses: Mapping[Unit, Course],
    after: Mapping[Unit, Seen],
    target: Mapping[Unit, float],
) -> tuple[tuple[Scaled, ...], tuple[LeftAlone, ...]]:
    scaled, left, done = [], [], set()
    for unit, seen in job.before.items():
        course = courses.get(unit)
        if course is not None:
            scaled.append(
                Scaled(
                    name=course.root,
                    block=unit.block,
                    role=unit.role,
                    factor=course.factor,
                    before=seen.all.mean,
                    after=after.get(unit, seen).all.mean,
                    target=target[unit],
                    reason=course.aim.reason + (BIASED if course.biased else ""),
                    module=seen.module,
                    operator=seen.operator,
                    uses=course.uses,
                )
            )
            done.add(course.root)
        else:
            done.add(unit.name)
            why = job.reason(unit, seen) or UNSEEN
            left.append(
                LeftAlone(
                    name=unit.name,
                    block=unit.block,
                    role=unit.role,
                    reason=why,
                    module=seen.module,
                    operator=seen.operator,
                )
            )
    lengths = {one.magnitude_of for one in job.view.owners if one.magnitude_of}
    for one in job.view.owners:
        if one.name not in done:
            why = job.kept.get(one.name, FIXED if one.name in job.weights.fixed else UNSEEN)
            if one.name in lengths:
                why = "a direction: its length is scaled instead"
            left.append(LeftAlone(name=one.name, role=one.role, reason=why, module=one.module))
    order = {name: number for number, name in enumerate(job.view.parameters)}
    return tuple(scaled), tuple(sorted(left, key=lambda one: order[one.name]))


def _notes(view: ModelView, scaled: tuple[Scaled, ...], passes: int) -> tuple[str, ...]:
    notes = []
    if passes == 1 and any(one.uses > 1 and not one.reached for one in scaled):
        notes.append("Weights are used several times in a pass: passes=3 gets them nearer.")
    if not view.traced and view.problem:
        notes.append(f"Roles come without a trace: {view.problem}")
    return tuple(notes)
