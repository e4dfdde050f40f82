"""``check``: measure one pass of a model as it is, and say what follows."""

from __future__ import annotations

import platform
import time
from dataclasses import replace

import torch
from torch import nn
from torch.distributed import ProcessGroup

from initium._check.batch import batch_facts
from initium._check.buffers import buffer_facts
from initium._check.deep.api import Announce, look_deeper
from initium._check.deep.passes import Subject
from initium._check.deep.steps import MakeOptimizer
from initium._check.distributed import find_between_ranks
from initium._check.drive import Pass, bare, run
from initium._check.facts import BufferFacts, Facts, Opening
from initium._check.findings import draw
from initium._check.gradient import unexplained
from initium._check.loss import LossFunction
from initium._check.measure import sample_count
from initium._check.opening import all_shut, opened
from initium._check.parameters import named_parameters, parameter_records
from initium._check.planned import planned_facts
from initium._check.ranges import range_records
from initium._check.ranks import Ranks, survey
from initium._check.sample import Ranges
from initium._check.values import find_in_values
from initium._inspect import inspect
from initium._model.call import map_tensors, must_be_module, tensors
from initium._model.inputs import example_inputs, must_be_usable
from initium._model.names import named_modules
from initium._model.sharding import gathered
from initium._model.state import preserved
from initium._plan import Plan
from initium._plan.fit import must_fit
from initium._predict.records import Prediction
from initium._report.deep import Deep
from initium._report.records import Report
from initium._types import ModelView
from initium.errors import InputError, ModelError

__all__ = ["check"]


def check(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: LossFunction | None = None,
    plan: Plan | None = None,
    *,
    inferred: bool = False,
    view: ModelView | None = None,
    deep: bool = False,
    optimizer: MakeOptimizer | None = None,
    announce: Announce | None = None,
    prediction: Prediction | None = None,
    group: ProcessGroup | None = None,
) -> Report:
    """Whether a model is fit to train from the weights it has.

    One forward and one backward pass in the model's own mode, but without dropout, whose noise
    would pass for signal; everything is put back afterwards. Where gradients are exactly zero, up
    to three more passes tell zeros that open from zeros that stay: a branch behind a zero scale
    takes one, behind a zero scale and a zero head two. Each costs a forward and a backward pass.

    Args:
        model: with real weights; wrapped or compiled models are checked without their wrapper.
        inputs: a mapping goes in as ``**``, a tuple as ``*``, anything else as the one argument;
            ``None``: a batch is inferred from the model where it says what it takes.
        targets: what the loss compares with.
        loss_fn: ``loss_fn(output, targets)``.
        plan: the plan to hold the weights against.
        inferred: the batch was made up: what it leaves unused is information, not a warning.
        view: what the model is, if that is known already.
        deep: measure what takes more passes too: real optimizer steps, ranks, the Jacobian, pairs
            of inputs, single samples, and with a plan other seeds (docs/deep.md).
        optimizer: makes the optimizer of those steps from the model; ``None``: Adam, 1e-3.
        announce: told in a sentence what ``deep`` will cost, before it starts.
        prediction: of :func:`initium.predict` for the same batch: shown beside what is measured,
            and a module that departs from it is a finding.
        group: processes that hold replicas of the model, all of which make this call: what they
            hold is compared. Those of a model that DTensors shard are compared without it
            (docs/distributed.md).

    Raises:
        InputError: no batch, or one that does not fit the model or its loss.
        ModelError: the model has no weights, no tensor output, or writes its own parameters.

    Example:
        >>> check(nn.Linear(4, 4), torch.arange(32.0).reshape(8, 4)).ok
        True
    """
    began = time.perf_counter()
    must_be_module(model)
    inner = bare(model)
    ranks = survey(inner, group)
    with gathered(inner) as sharded:
        if plan is not None:
            must_fit(plan, {name: tuple(p.shape) for name, p in named_parameters(model).items()})
        _must_have_weights(model)
        if inputs is None:
            inputs, inferred = _inferred_inputs(model), True
        must_be_usable(inputs)
        view = inspect(inner, inputs) if view is None else view
        buffers = buffer_facts(inner)
        written = _written_in_forward(inner)
        with preserved(inner, clone=written):
            started = time.perf_counter()
            done = run(inner, map_tensors(inputs, _copied), targets, loss_fn, view)
            passed = time.perf_counter() - started
            slopes: dict[str, torch.Tensor] = {}
            facts = _facts(
                inner, done, view, plan, inputs, targets, inferred, buffers, ranks, slopes
            )
        subject = Subject(inner, inputs, targets, loss_fn, view, facts.samples)
        if silent := unexplained(facts, view):
            facts = replace(facts, opening=_opening(subject, silent, slopes, written))
        slopes.clear()
        findings = draw(facts, view, plan, prediction)
        more: Deep | None = None
        if deep:
            more, findings = look_deeper(
                subject, facts, findings, plan, optimizer, passed, announce, written
            )
        return Report(
            model=type(inner).__name__,
            findings=findings,
            layers=facts.layers,
            parameters=facts.parameters,
            loss=facts.loss,
            plan=_plan_name(plan),
            batch=_batch(inputs, inferred),
            mode="train" if model.training else "eval",
            seconds=time.perf_counter() - began,
            notes=_notes(facts, view, done.dropout) + _notes_on_ranks(model, ranks, sharded),
            versions={"python": platform.python_version(), "torch": torch.__version__},
            deep=more,
            attention=facts.attention,
            branches=facts.branches,
            ranges=facts.ranges,
            prediction=prediction,
        )


def _facts(
    model: nn.Module,
    done: Pass,
    view: ModelView,
    plan: Plan | None,
    inputs: object,
    targets: object,
    inferred: bool,
    buffers: dict[str, BufferFacts],
    ranks: Ranks | None,
    slopes: dict[str, torch.Tensor],
) -> Facts:
    """Everything measured; gradients of parameters that are zero throughout go into ``slopes``."""
    measure, weights = done.measure, Ranges()

    def gradient(name: str) -> torch.Tensor | None:
        found = done.take(name)
        if found is not None and not found.is_sparse:
            measure.gradients.see(name, found)
        if found is not None and name in zeros:
            slopes[name] = found
        return found

    held = named_parameters(model)
    zeros = all_shut(held, view)
    for name, parameter in held.items():
        weights.see(name, parameter)
    parameters = parameter_records(held, gradient, view, plan)
    rows = (known.padding_row for known in view.parameters.values())
    padding = frozenset(row for row in rows if row is not None)
    return Facts(
        layers=measure.layers(),
        parameters=parameters,
        loss=done.start.record,
        modules=measure.facts(),
        samples=sample_count(inputs),
        inferred=inferred,
        fresh_norms=_has_fresh_norms(model),
        differentiated=done.differentiated,
        attention=measure.attention(),
        branches=measure.branches(),
        ranges=range_records(measure.activations, measure.gradients, weights),
        batch=batch_facts(inputs, targets, padding),
        dtypes=measure.dtypes,
        values=(*find_in_values(held, view), *find_between_ranks(ranks, held, view)),
        buffers=buffers,
        planned=planned_facts(held, plan),
    )


def _opening(
    subject: Subject,
    silent: frozenset[str],
    slopes: dict[str, torch.Tensor],
    written: list[str],
) -> Opening:
    """What further passes tell of ``silent``; the check itself does without them."""
    try:
        return opened(subject, silent, slopes, written)
    except ModelError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Opening(untested=silent, problem=f"{type(error).__name__}: {first}")


def _must_have_weights(model: nn.Module) -> None:
    for name, parameter in named_parameters(model).items():
        if parameter.is_meta:
            raise ModelError(
                "is on the meta device and holds no values",
                where=name,
                fix="fill the model first: initium.initialize(model)",
            )


def _inferred_inputs(model: nn.Module) -> object:
    found = example_inputs(bare(model))
    if found is None:
        raise InputError(
            "the check needs a batch, and none can be inferred from this model",
            where="inputs",
            fix="pass inputs=, one batch as the model takes it",
        )
    return found


def _written_in_forward(model: nn.Module) -> list[str]:
    """Tables that torch itself renormalises while they are looked up."""
    return [
        f"{name}.weight" if name else "weight"
        for name, module in named_modules(model)
        if getattr(module, "max_norm", None) is not None and hasattr(module, "weight")
    ]


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """The batch stays the caller's, whatever the model does to it in place."""
    return tensor.detach().clone()


def _has_fresh_norms(model: nn.Module) -> bool:
    """A batch norm in eval mode that has never seen a batch."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(
        not norm.training
        and norm.running_mean is not None
        and norm.running_var is not None
        and not bool(norm.running_mean.any())
        and bool((norm.running_var == 1).all())
        for norm in norms
    )


def _batch(inputs: object, inferred: bool) -> str:
    shapes = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors(inputs)]
    text = ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more" if shapes[4:] else "")
    return f"{text} (made up)" if inferred else text


def _plan_name(plan: Plan | None) -> str | None:
    return None if plan is None else str(getattr(plan, "recipe", "plan"))


def _notes(facts: Facts, view: ModelView, dropout: bool) -> tuple[str, ...]:
    notes = []
    if dropout:
        notes.append("dropout was switched off while measuring: its noise would pass for signal")
    if facts.samples == 1:
        notes.append(
            "the batch has one sample, or equal ones: whether samples stay apart was not measured"
        )
    if not facts.differentiated:
        notes.append("no parameter is trainable: no backward pass was made")
    if facts.fresh_norms:
        notes.append("batch norms are in eval mode with statistics that were never collected")
    if facts.opening.problem is not None:
        notes.append(
            "whether zero gradients stay zero was not measured, because another pass failed: "
            f"{facts.opening.problem}"
        )
    if not view.traced and view.problem:
        notes.append(f"roles come without a trace: {view.problem}")
    return tuple(notes)


def _notes_on_ranks(model: nn.Module, ranks: Ranks | None, sharded: bool) -> tuple[str, ...]:
    notes = []
    if sharded:
        notes.append("the model is sharded: it was gathered, and measured whole on every process")
    if ranks is None and any(
        type(m).__name__ == "DistributedDataParallel" for m in model.modules()
    ):
        notes.append(
            "the replicas of other processes were not compared: call this on every process, with "
            "group=torch.distributed.group.WORLD"
        )
    return tuple(notes)
