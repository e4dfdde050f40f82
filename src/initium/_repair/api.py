"""``repair``: change what the findings name, check again, and widen only where that is not enough.

The model is filled, checked and put back for every trial. Of all trials the one with the fewest
errors, then warnings, then changes is the repair; if none is better than the start, nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from initium._audit import Audit
from initium._calibrate import calibrate
from initium._check import check
from initium._check.drive import bare
from initium._check.loss import LossFunction
from initium._inspect import inspect
from initium._model.call import must_be_module
from initium._model.inputs import example_inputs
from initium._model.names import slots
from initium._model.sharding import is_sharded, must_show_parameters, reshard
from initium._model.state import preserved
from initium._plan import Entry, Plan
from initium._plan.fit import must_fit
from initium._plan.table import spec_text
from initium._repair.advice import advice
from initium._repair.case import Case, Recipes, Values, around
from initium._repair.entries import Step, entry_of, kept, sane, stands_alone
from initium._repair.records import OWN, Change, Repair
from initium._repair.remedies import COPIES, REMEDIES, SUSPECTS, steps_for
from initium._report.records import Finding, Report
from initium._types import ModelView
from initium.errors import InitiumError, InputError, ModelError
from initium.recipes._chains import chain_of
from initium.spec import Constant, Keep

__all__ = ["repair"]

VALUES = "IN721"
"""From this code on an audit's findings are on values, which every check looks at."""
ROUNDS = 4
"""Local trials before a repair is widened."""
TRIES = 16
"""Checks at most, to find which changes of a widened repair are not needed."""
WIDENED = "More than what was named is planned anew, as auto has it, for less did not suffice."
FITTED = (
    "No rule for the weights sufficed: all of the model is planned anew, as auto has it, and the "
    "stds are fitted to this batch by initium.calibrate."
)
"""Stds that are fitted to one another: none of them is taken back alone."""
PLANNED = frozenset({"IN601", "IN602"})
"""Findings that a plan is not held: they are mended first, and all else is judged after that."""


def repair(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: LossFunction | None = None,
    plan: Plan | None = None,
    *,
    report: Report | Audit | None = None,
    view: ModelView | None = None,
    seed: int = 0,
    inferred: bool = False,
) -> Repair:
    """A plan that changes what the findings of a check name, and leaves everything else as it is.

    What is named gets the start of its like, else that of ``auto``; the model is filled with it,
    checked and put back; what the next findings name is taken in. Where that does not converge, the
    blocks around are planned anew, then all of the model, and the notes say so.

    Args:
        model: with real weights; they are the same afterwards.
        inputs, targets, loss_fn: as for :func:`initium.check`.
        plan: the plan that the model is to start from; without one, it starts as its own code has
            made it, and the repair's plan says ``keep`` for all that is not changed.
        report: of :func:`initium.check` on the same batch (and ``plan``), if that was made already;
            or an audit, whose findings are mended together with those of a check.
        view: what the model is, if that is known already.
        seed: of what is drawn, where no ``plan`` has one.
        inferred: as for :func:`initium.check`.

    Raises:
        InputError, ModelError: as :func:`initium.check`; the report is of another model; the model
            is sharded.
        PlanError: the plan is not for this model.

    Example:
        >>> import torch, initium
        >>> layers = [[nn.Linear(64, 64), nn.ReLU()] for _ in range(8)]
        >>> net = nn.Sequential(*(layer for pair in layers for layer in pair), nn.Linear(64, 4))
        >>> plan = initium.initialize(net, "he")
        >>> with torch.no_grad():
        ...     _ = net[4].weight.mul_(30)
        >>> mended = initium.repair(net, torch.randn(32, 64))
        >>> [one.parameter for one in mended.changed], mended.ok
        (['4.weight'], True)
        >>> mended.plan.apply(net)
    """
    must_be_module(model)
    inner = bare(model)
    _must_be_whole(inner)
    if inputs is None:
        inputs = example_inputs(inner)
        inferred = inferred or inputs is not None
    audited = report if isinstance(report, Audit) else None
    report = None if isinstance(report, Audit) else report
    deep = report is not None and report.deep is not None
    view = inspect(inner, inputs) if view is None else view
    _must_be_of(view, report, audited)

    def look(under: Plan | None) -> Report:
        return check(
            inner, inputs, targets, loss_fn, under, inferred=inferred, view=view, deep=deep
        )

    report = look(plan) if report is None else report
    values = {name: slot.tensor for name, slot in slots(inner).items() if not slot.is_buffer}
    if plan is not None:
        must_fit(plan, {name: tuple(value.shape) for name, value in values.items()})
    base = _kept(view, seed) if plan is None else plan
    findings = audited.findings if audited is not None else ()
    buffers = {name: slot.tensor for name, slot in slots(inner).items() if slot.is_buffer}
    work = _Work(
        inner, inputs, view, Values(values, buffers), look, Recipes(view, base.seed), findings
    )
    start = _Trial(base, work.with_audit(report, {}), {})
    best, notes, everything = _mended(start, work)
    return _repair(start, best, work, notes, everything)


@dataclass(frozen=True)
class _Trial:
    """A plan, the check of the model under it, and what was changed, by parameter."""

    plan: Plan
    report: Report
    changes: Mapping[str, Change]

    @property
    def score(self) -> tuple[int, int]:
        """Errors, warnings."""
        found = [finding.severity for finding in self.report.findings]
        return found.count("error"), found.count("warning")


@dataclass(frozen=True)
class _Work:
    """What every trial needs."""

    model: nn.Module
    inputs: object
    view: ModelView
    values: Values
    look: Callable[[Plan | None], Report]
    recipes: Recipes
    audited: tuple[Finding, ...]

    def case(self, trial: _Trial) -> Case:
        return Case(self.view, trial.plan, trial.report, self.values, self.recipes)

    def steps(self, trial: _Trial) -> list[Step]:
        """What is not as planned, once; else what the findings ask for."""
        case, found = self.case(trial), trial.report.findings
        again = [
            step
            for step in steps_for([one for one in found if one.code in PLANNED], case)
            if step.name not in trial.changes and not trial.plan.entries[step.name].kept
        ]
        return again or steps_for([one for one in found if one.code not in PLANNED], case)

    def tried(self, plan: Plan, changes: Mapping[str, Change]) -> _Trial:
        """The model under a plan, checked, and put back."""
        with preserved(self.model, clone=self.written(plan)):
            plan.apply(self.model)
            return _Trial(plan, self.with_audit(self.look(plan), changes), changes)

    def written(self, plan: Plan) -> list[str]:
        """The parameters that a plan does not keep."""
        return [name for name in self.values.tensors if not plan.entries[name].kept]

    def with_audit(self, report: Report, changes: Mapping[str, Change]) -> Report:
        """A check, with what an audit found and no check can see again: unless it is changed."""
        left = [one for one in self.audited if one.code < VALUES and not self._done(one, changes)]
        return replace(report, findings=(*report.findings, *left)) if left else report

    def _done(self, finding: Finding, changes: Mapping[str, Change]) -> bool:
        """Whether all that the remedy of an audit's finding names is changed."""
        if finding.code not in REMEDIES:
            return False
        named = set(finding.where) & set(self.values.tensors)
        return len(named - set(changes)) <= (finding.code in COPIES)


def _must_be_whole(model: nn.Module) -> None:
    """Raise ModelError for DTensors: processes with other batches would try other plans, and wait
    for one another."""
    must_show_parameters(model)
    reshard(model)
    for name, slot in slots(model).items():
        if is_sharded(slot.tensor):
            raise ModelError(
                "is sharded, and every trial would have to be agreed on by all processes",
                where=name,
                value=type(slot.tensor).__name__,
                fix="repair the model before it is sharded, save Repair.plan, and apply that to "
                "the sharded model",
            )


def _must_be_of(view: ModelView, report: Report | None, audited: Audit | None) -> None:
    """Raise InputError unless a report or an audit is of this model's parameters."""
    given = report if report is not None else audited
    if given is None:
        return
    shapes = {one.name: one.shape for one in view.parameters.values()}
    if report is not None:
        told = {name: record.shape for name, record in report.parameters.items()}
        wrong = [name for name, shape in told.items() if shapes.get(name) != shape]
        wrong += [one.name for one in view.owners if one.name not in told]
    else:
        assert audited is not None
        wrong = [one.name for one in view.owners if one.name not in audited.tensors]
    if wrong:
        raise InputError(
            f"is of another model ({given.model}): {wrong[0]} differs",
            where="report",
            fix="pass what initium.check or initium.audit said of this model, or leave it out",
        )


def _kept(view: ModelView, seed: int) -> Plan:
    """The model as its own code made it."""
    entries = {}
    for known in view.owners:
        entries[known.name] = kept(known, str(known.evidence.get("role", "")))
    for buffer in view.buffers.values():
        if buffer.tied_to is None:
            ties = (one.name for one in view.buffers.values() if one.tied_to == buffer.name)
            entries[buffer.name] = Entry(
                spec=Keep(),
                shape=buffer.shape,
                dtype=buffer.dtype,
                role="buffer",
                reason="Kept as the model's own code made it.",
                aliases=tuple(ties),
                persistent=buffer.persistent,
            )
    return Plan(entries, recipe="keep", seed=seed, model=view.model)


def _mended(start: _Trial, work: _Work) -> tuple[_Trial, list[str], bool]:
    """The best trial, what has to be said of how it came about, and whether ``auto`` for all of
    the model was one."""
    trials, everything = [start, *_rounds(start, work)], False
    best, notes = _best(trials), []
    for widen in (_blocks, _whole, _calibrated):
        left = work.steps(best)
        if not left:
            break
        wider = widen(start, trials, left, work)
        if wider is None:
            continue
        everything = everything or widen is not _blocks
        plan, changes, told = wider
        made = work.tried(plan, changes)
        trials += [made, *_rounds(made, work)]
        if (found := _best(trials)) is not best:
            best, notes = found, [told]
    if best is not start:
        less = best
        if notes != [FITTED]:
            less = _taken_back(start, _pruned(start, best, work), work, wide=bool(notes))
        if notes and (count := len(best.changes) - len(less.changes)):
            notes = [f"{WIDENED} {count} of these parameters did not need it and are as before."]
        best = less
    elif work.steps(start):
        notes = ["No plan that was tried is better than the start, so nothing is changed."]
    return best, notes, everything or start.plan.recipe == "auto"


def _rounds(trial: _Trial, work: _Work) -> Iterator[_Trial]:
    """Change what is named, check, and again."""
    for _ in range(ROUNDS):
        made = _amended(trial, work.steps(trial), work)
        if made is None:
            return
        trial = work.tried(*made)
        yield trial


def _best(trials: Iterable[_Trial]) -> _Trial:
    return min(trials, key=lambda trial: (*trial.score, len(trial.changes)))


def _amended(
    trial: _Trial, steps: Iterable[Step], work: _Work
) -> tuple[Plan, dict[str, Change]] | None:
    """The plan with these steps taken; ``None`` if they change nothing."""
    case = work.case(trial)
    steps = _with_lengths(steps, work)
    changing = {step.name for step in steps}
    place = {known.name: known.order for known in work.view.owners}
    orders = [order for name in changing if (order := place.get(name)) is not None]
    first = min(orders, default=None)
    entries, changes = dict(trial.plan.entries), dict(trial.changes)
    for step in steps:
        direction = work.view.parameters[step.name].magnitude_of or step.name
        is_first = first is not None and place.get(direction) == first
        entry = entry_of(step, case, changing, is_first)
        if entry is not None and str(entry.spec) == str(entries[step.name].spec):
            wider = replace(step, how="auto") if step.how in ("like", "own") else None
            entry = entry_of(wider, case, changing, is_first) if wider is not None else entry
        if entry is not None and _holds(case, step.name, entry):
            continue
        again = step.how == "plan" and step.name not in changes
        if entry is None or (str(entry.spec) == str(entries[step.name].spec) and not again):
            continue
        entries[step.name] = entry
        old = changes.get(step.name)
        before = old.before if old is not None else _told(step.name, case, again)
        changes[step.name] = Change(
            parameter=step.name,
            before=before,
            after=spec_text(entry.spec),
            code=old.code if old is not None else step.code,
            reason=entry.reason if not again else "Applied again: it did not hold what is planned.",
        )
    if changes == trial.changes:
        return None
    return replace(trial.plan, entries=entries), changes


def _holds(case: Case, name: str, entry: Entry) -> bool:
    """Whether a kept parameter holds this constant already."""
    if not case.plan.entries[name].kept or not isinstance(entry.spec, Constant):
        return False
    return bool((case.values[name] == entry.spec.value).all())


def _with_lengths(steps: Iterable[Step], work: _Work) -> list[Step]:
    """Direction and length of a weight norm change together, as auto has both."""
    found: dict[str, Step] = {}
    for step in steps:
        known = work.view.parameters[step.name]
        lengths = [one.name for one in work.view.owners if one.magnitude_of == step.name]
        pair = [*([known.magnitude_of] if known.magnitude_of else []), *lengths]
        found.setdefault(step.name, replace(step, how="auto") if pair else step)
        for name in pair:
            found.setdefault(name, Step(name, "auto", step.code))
    return list(found.values())


def _told(name: str, case: Case, held: bool) -> str:
    entry = case.plan.entries[name]
    if not entry.kept and not held:
        return spec_text(entry.spec)
    return f"{OWN}{case.values.moments(name)[1]:.3g}"


Wider = tuple[Plan, dict[str, Change], str]


def _blocks(start: _Trial, trials: list[_Trial], left: list[Step], work: _Work) -> Wider | None:
    """All of the blocks, or of the chains, in which something was changed or is still named."""
    codes = {step.name: step.code for step in left}
    codes |= {name: change.code for trial in trials for name, change in trial.changes.items()}
    places = {around(name): code for name, code in codes.items()}
    steps = []
    for known in work.view.owners:
        chain = chain_of(known, work.view) if known.is_matrix else None
        named = [codes[link] for link in chain.links if link in codes] if chain else []
        code = (named or [places.get(around(known.name), "")])[0]
        if code and known.trainable:
            steps.append(Step(known.name, "auto", code))
    made = _amended(start, steps, work)
    if made is None:
        return None
    told = (
        "Changing only what was named did not suffice: the blocks around are planned anew, as "
        "auto has them."
    )
    return *made, told


def _whole(start: _Trial, trials: list[_Trial], left: list[Step], work: _Work) -> Wider | None:
    """Everything that is trained, as ``auto`` has it."""
    code = left[0].code
    steps = [Step(known.name, "auto", code) for known in work.view.owners if known.trainable]
    made = _amended(start, steps, work)
    if made is None:
        return None
    return *made, "No smaller change sufficed: all of the model is planned anew, as auto has it."


def _calibrated(start: _Trial, trials: list[_Trial], left: list[Step], work: _Work) -> Wider | None:
    """``auto``, with every std fitted to the batch."""
    whole = _whole(start, trials, left, work)
    if whole is None:
        return None
    plan, changes, _ = whole
    kept = {name for name in work.values.tensors if plan.entries[name].kept}
    if work.case(start).fixed or any(work.view.parameters[name].is_matrix for name in kept):
        return None
    try:
        with preserved(work.model, clone=work.values.tensors):
            plan.apply(work.model)
            fitted = calibrate(work.model, work.inputs, plan, view=work.view).plan
    except InitiumError:
        return None
    assert fitted is not None
    if not all(sane(fitted.entries[name], name, work.recipes) for name in changes):
        return None
    reason = "As auto has it; the std is fitted to this batch."
    told = {
        name: replace(change, after=spec_text(fitted.entries[name].spec), reason=reason)
        for name, change in changes.items()
    }
    return fitted, told, FITTED


def _pruned(start: _Trial, best: _Trial, work: _Work) -> _Trial:
    """Without the changes for findings that are still there, if that is no worse."""
    left = {finding.code for finding in best.report.findings if finding.severity != "info"}
    vain = {name for name, change in best.changes.items() if change.code in left}
    if not vain or len(vain) == len(best.changes):
        return best
    return _best([best, _without([vain], start, best, work)])


def _without(units: Iterable[Collection[str]], start: _Trial, trial: _Trial, work: _Work) -> _Trial:
    """The trial with some parameters as they were."""
    names = {name for unit in units for name in unit}
    entries = {
        name: start.plan.entries[name] if name in names else entry
        for name, entry in trial.plan.entries.items()
    }
    changes = {name: change for name, change in trial.changes.items() if name not in names}
    return work.tried(replace(trial.plan, entries=entries), changes)


def _taken_back(start: _Trial, best: _Trial, work: _Work, wide: bool) -> _Trial:
    """Without what is not needed. The few largest changes are tried alone; then the smallest half
    is taken back, or where that is needed, halves of it."""
    before, after = work.case(start), work.case(best)
    units = _units(best, work, wide)
    units.sort(key=lambda unit: max(_step(before.size(name), after.size(name)) for name in unit))
    tries, count = TRIES, 1
    while count < len(units):
        made = _without(units[:-count], start, best, work)
        tries -= 1
        if made.score <= best.score:
            best, units = made, units[-count:]
        count *= 2
    pending = _halves(units)
    while pending and tries > 0:
        group, *pending = pending
        if len(best.changes) == sum(map(len, group)):
            continue
        made = _without(group, start, best, work)
        tries -= 1
        if made.score <= best.score:
            best = made
        else:
            pending = [*_halves(group), *pending]
    return best


Units = list[list[str]]


def _units(trial: _Trial, work: _Work, wide: bool) -> Units:
    """What changes together or not at all: layers made for each other, direction and length, and
    what one finding asks for, unless that names suspects."""
    units: dict[object, list[str]] = {}
    for name, change in trial.changes.items():
        known = work.view.parameters[name]
        chain = chain_of(known, work.view) if known.is_matrix else None
        alone = chain is None or stands_alone(trial.plan.entries[name].spec)
        key: object = (known.magnitude_of or name) if alone or chain is None else tuple(chain.links)
        if change.code not in SUSPECTS and not wide:
            key = change.code
        units.setdefault(key, []).append(name)
    return list(units.values())


def _halves(units: Units) -> list[Units]:
    middle = len(units) // 2
    return [units[:middle], units[middle:]] if middle else []


def _step(before: float, after: float) -> float:
    """How far a change of a size goes."""
    if before == after:
        return 0.0
    held = min(before, after) > 0.0 and max(before, after) < math.inf
    return abs(math.log(after / before)) if held else math.inf


def _repair(start: _Trial, best: _Trial, work: _Work, notes: list[str], everything: bool) -> Repair:
    order = {name: place for place, name in enumerate(best.plan.entries)}
    changed = sorted(best.changes.values(), key=lambda change: order[change.parameter])
    plan = best.plan
    if changed:
        codes = ", ".join(sorted({change.code for change in changed}))
        plan = replace(
            plan,
            notes=(
                *plan.notes,
                f"Repaired: {len(changed)} of {len(work.values.tensors)} parameters, for {codes}.",
            ),
        )
    return Repair(
        plan=plan,
        changed=tuple(changed),
        advice=tuple(advice(work.case(best), everything and bool(work.steps(best)))),
        before=start.report,
        report=best.report,
        notes=tuple(notes),
    )
