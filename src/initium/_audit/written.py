"""Findings on how weights were written: IN701 to IN714, from the evidence of the runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from initium._audit.evidence import Evidence, TensorEvidence
from initium._audit.tape import Event
from initium._check.words import also, listed
from initium._report.records import Finding
from initium._report.words import count
from initium._types import Severity

__all__ = ["find_written"]

NEVER_BINDS = 6.0
"""Standard deviations: a normal number lies beyond with probability 2e-9."""


def find_written(evidence: Evidence) -> list[Finding]:
    """Everything that the writes themselves show."""
    rules: tuple[Callable[[Evidence], Iterable[Finding]], ...] = (
        _never,
        _twice,
        _after_load,
        _same_stream,
        _past_autograd,
        _restless,
        _seedless,
        _replaced,
        _lost,
        _empty,
        _dependent,
        _defeated,
        _conflicts,
        _unbound,
    )
    return [finding for rule in rules for finding in rule(evidence)]


def _those(evidence: Evidence, wanted: Callable[[TensorEvidence], object]) -> list[TensorEvidence]:
    return [one for one in evidence.tensors.values() if wanted(one)]


def _names(tensors: Iterable[TensorEvidence]) -> tuple[str, ...]:
    return tuple(one.name for one in tensors)


def _never(evidence: Evidence) -> Iterable[Finding]:
    missed = sorted(_those(evidence, lambda one: one.unwritten), key=lambda one: -one.unwritten)
    cases: tuple[tuple[Severity, Callable[[TensorEvidence], bool], str], ...] = (
        ("error", lambda one: one.material, "Their memory holds whatever was there before"),
        (
            "warning",
            lambda one: not one.material and not one.constant,
            "They keep what the constructor gave them; after to_empty() they would be garbage",
        ),
        (
            "info",
            lambda one: not one.material and one.constant,
            "They keep the value of their constructor; after to_empty() they would be garbage",
        ),
    )
    for severity, belongs, consequence in cases:
        group = [one for one in missed if belongs(one)]
        if not group:
            continue
        first, elements = group[0], sum(one.unwritten for one in group)
        yield Finding(
            code="IN701",
            severity=severity,
            title="never written",
            where=_names(group),
            message=f"{first.unwritten:,} of {first.elements:,} elements of {first.name} were "
            f"never written{also(_names(group))}. {consequence}",
            fix=_advice(first),
            numbers={"elements": elements, "tensors": len(group)},
        )


def _advice(one: TensorEvidence) -> str:
    if one.is_buffer:
        return f"compute {one.name} again in the init code: to_empty() keeps no buffer's values"
    if len(one.shape) > 1:
        how = f"nn.init.normal_({one.name}, std=...)"
    else:
        how = f"nn.init.{'zeros_' if one.name.endswith('bias') else 'ones_'}({one.name})"
    return (
        f"write {one.name} in the init code, such as {how}, or give every parameter a rule: "
        "initium.initialize(model)"
    )


def _replacements(one: TensorEvidence) -> list[Event]:
    """The writes that replaced all of a tensor, one for each line of code."""
    whole = [event for event in one.events if one.whole(event)]
    return [
        event
        for index, event in enumerate(whole)
        if index == 0 or _line(event) != _line(whole[index - 1])
    ]


def _line(event: Event) -> tuple[str, bool]:
    return event.place.where, event.place.default


def _said(event: Event) -> str:
    by = "the module's own constructor" if event.place.default else f"{event.by}"
    return f"{by} ({event.place.where})"


def _twice(evidence: Evidence) -> Iterable[Finding]:
    twice = _those(evidence, lambda one: not one.is_buffer and len(_replacements(one)) > 1)
    if not twice:
        return
    wasted = sum((len(_replacements(one)) - 1) * one.elements for one in twice)
    longest = max(twice, key=lambda one: (len(_replacements(one)), one.elements))
    chain = ", then ".join(_said(event) for event in _replacements(longest)[:3])
    yield Finding(
        code="IN702",
        severity="info",
        title="written more than once",
        where=_names(twice),
        message=f"{count(wasted, 'element')} of {count(len(twice), 'parameter')} written in "
        f"vain: {longest.name} by {chain}. Only the last one counts",
        fix="build the model under torch.device('meta') and call to_empty(device=...) before the "
        "init code runs, or take the earlier write out",
        numbers={"tensors": len(twice), "wasted_elements": wasted},
    )


def _after_load(evidence: Evidence) -> Iterable[Finding]:
    groups: dict[str, list[tuple[TensorEvidence, str, Event]]] = defaultdict(list)
    for one in evidence.tensors.values():
        loads = [index for index, event in enumerate(one.events) if event.loaded]
        if not loads and not one.loaded:
            continue
        last = loads[-1] if loads else -1
        later = [event for event in one.events[last + 1 :] if one.whole(event)]
        later = [event for event in later if loads or event.kind == "draw"]
        if later:
            source = _said(one.events[last]) if loads else "the code that built it"
            groups[later[-1].place.where].append((one, source, later[-1]))
    for where, group in groups.items():
        first, source, event = group[0]
        yield Finding(
            code="IN703",
            severity="warning",
            title="written after a load",
            where=_names(one for one, _, _ in group),
            message=f"{first.name} was loaded by {source}, and then overwritten by {event.by} at "
            f"{where}{also(_names(one for one, _, _ in group))}",
            fix="initialise first and load afterwards, or leave out of the init what is loaded",
            numbers={"tensors": len(group)},
        )


def _same_stream(evidence: Evidence) -> Iterable[Finding]:
    states: dict[int, dict[str, int]] = defaultdict(dict)
    for one in evidence.tensors.values():
        for state, draw in one.draws:
            states[state][one.name] = draw
    groups = [tuple(found) for found in states.values() if len(set(found.values())) > 1]
    if not groups:
        return
    groups.sort(key=len, reverse=True)
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    event = next((e for e in reversed(evidence.tensors[names[0]].events) if e.kind == "draw"), None)
    place = f" ({event.place.where})" if event is not None else ""
    yield Finding(
        code="IN704",
        severity="warning",
        title="drawn from the same random numbers",
        where=names,
        message=f"{listed(groups[0])} are drawn from the same state of the generator{place}: equal "
        "in their first elements up to scale, and equal throughout where the shapes are; "
        f"{count(len(names), 'tensor')} in {count(len(groups), 'group')}",
        fix="seed once, before the first tensor; a seed for each tensor has to depend on its name",
        numbers={"tensors": len(names), "groups": len(groups)},
    )


def _past_autograd(evidence: Evidence) -> Iterable[Finding]:
    by_data = _those(evidence, lambda one: any(event.bypass for event in one.events))
    assigned = _those(evidence, lambda one: one.assigned and one not in by_data)
    outside = _those(evidence, lambda one: one.outside)
    found = [*by_data, *assigned, *outside]
    if not found:
        return
    said = []
    for group, how in (
        (by_data, "written through .data"),
        (assigned, "given other memory by assigning to .data"),
        (outside, "written by code that torch does not see"),
    ):
        if group:
            events = [event for event in group[0].events if event.bypass]
            place = f" ({events[0].place.where})" if events else ""
            said.append(f"{count(len(group), 'tensor')} {how}, such as {group[0].name}{place}")
    yield Finding(
        code="IN705",
        severity="info",
        title="written past the parameter",
        where=_names(found),
        message=f"{'; '.join(said)}. The version counter stays, so that neither autograd nor "
        "subclasses and wrappers of the parameter notice",
        fix="with torch.no_grad(): parameter.normal_(...), or a function of torch.nn.init",
        numbers={"tensors": len(found)},
    )


def _restless(evidence: Evidence) -> Iterable[Finding]:
    found = _those(evidence, lambda one: one.restless)
    names = (*_names(found), *sorted(evidence.uneven))
    if not names:
        return
    first = found[0] if found else None
    detail = (
        f"{first.restless:,} of {first.elements:,} elements of {first.name} differ"
        if first is not None
        else f"{names[0]} is not there in every run, or has another shape"
    )
    place = f" (last written at {first.events[-1].place.where})" if first and first.events else ""
    yield Finding(
        code="IN706",
        severity="warning",
        title="not reproducible",
        where=names,
        message=f"with torch, NumPy and Python seeded alike, {detail} from run to run{place}"
        f"{also(names)}",
        fix="draw from torch's global generator, or from one that is made and seeded in the init "
        "code, not from the clock, the system or a generator that outlives the call",
        numbers={"tensors": len(names)},
    )


def _seedless(evidence: Evidence) -> Iterable[Finding]:
    found = _those(evidence, lambda one: one.seedless and not one.restless)
    if not found:
        return
    if evidence.reseeded:
        how = "the init code seeds torch's global generator itself"
        fix = "take torch.manual_seed(...) out of the init code; seed where the program starts"
    else:
        how = "they come from a generator with a fixed seed"
        fix = "pass a generator seeded by the caller, or leave generator= out"
    yield Finding(
        code="IN707",
        severity="warning" if evidence.reseeded else "info",
        title="the seed has no effect",
        where=_names(found),
        message=f"random numbers of {count(len(found), 'tensor')} are the same under two seeds: "
        f"{how}; {listed(_names(found))}",
        fix=fix,
        numbers={"tensors": len(found)},
    )


def _replaced(evidence: Evidence) -> Iterable[Finding]:
    found = _those(evidence, lambda one: one.replaced)
    if not found:
        return
    ties = [f"{first} and {second}" for first, second in evidence.ties]
    torn = f" {listed(ties)} were tied before and are not now." if ties else ""
    yield Finding(
        code="IN708",
        severity="warning",
        title="parameters replaced",
        where=_names(found),
        message=f"{count(len(found), 'tensor')} are other objects after the init than before: "
        f"{listed(_names(found))}.{torn} An optimizer, a tie or a hook made earlier goes on with "
        "the old ones",
        fix=f"write in place: with torch.no_grad(): {found[0].name}.copy_(values)",
        numbers={"tensors": len(found), "ties": len(ties)},
    )


def _lost(evidence: Evidence) -> Iterable[Finding]:
    if not evidence.lost:
        return
    names = tuple(dict.fromkeys(name for name, _ in evidence.lost))
    event = evidence.lost[0][1]
    yield Finding(
        code="IN709",
        severity="warning",
        title="init without effect",
        where=names,
        message=f"{event.by} at {event.place.where} writes to {names[0]}, which a parametrization "
        "computes anew at every use: what is written there is gone at once, and the parameters "
        f"behind it keep what they had{also(names, 'weight')}",
        fix="initialise before the parametrization is registered, or assign: module.weight = "
        "values, which writes through its right_inverse",
        numbers={"weights": len(names)},
    )


def _empty(evidence: Evidence) -> Iterable[Finding]:
    found = _those(evidence, lambda one: one.elements == 0 and (_missing(one) or one.events))
    elsewhere = [one for one in found if _missing(one)]
    for group in (elsewhere, [one for one in found if one not in elsewhere]):
        if not group:
            continue
        first = group[0]
        whole = first.wanted or (first.shape if 0 not in first.shape else ())
        here = f"while the whole has shape {tuple(whole)}" if whole else f"in shape {first.shape}"
        yield Finding(
            code="IN710",
            severity="error" if group is elsewhere else "info",
            title="init on an empty tensor",
            where=_names(group),
            message=f"{first.name} has no elements here, {here}: writing to it does nothing"
            f"{also(_names(group))}",
            fix="initialise before the model is sharded, or inside "
            "deepspeed.zero.GatheredParameters(params, modifier_rank=0)"
            if group is elsewhere
            else "",
            numbers={"tensors": len(group)},
        )


def _missing(one: TensorEvidence) -> bool:
    """Whether the elements of an empty tensor are somewhere else."""
    return one.wanted is not None and math.prod(one.wanted) > 0


def _dependent(evidence: Evidence) -> Iterable[Finding]:
    found = _those(evidence, lambda one: one.dependent)
    if not found:
        return
    first = found[0]
    by = f" by {_said(first.events[-1])}" if first.events else ""
    yield Finding(
        code="IN711",
        severity="error" if any(one.material for one in found) else "warning",
        title="depends on what was there before",
        where=_names(found),
        message=f"{first.dependent:,} of {first.elements:,} elements of {first.name} follow from "
        f"the contents of memory before the init{by}: other contents give other weights"
        f"{also(_names(found))}",
        fix="draw or set the values first, and scale or normalise them afterwards",
        numbers={"tensors": len(found)},
    )


def _defeated(evidence: Evidence) -> Iterable[Finding]:
    reach = Counter(
        event.place.where for one in evidence.tensors.values() for event in _replacements(one)
    )
    groups: dict[str, list[tuple[TensorEvidence, Event, Event]]] = defaultdict(list)
    for one in evidence.tensors.values():
        events = _replacements(one)
        zeros = [e for e in events if e.value == 0.0 and not e.place.default]
        if not zeros or events[-1].value == 0.0:
            continue
        zero, last = zeros[-1], events[-1]
        general = reach[last.place.where] > reach[zero.place.where]
        if general and last.kind in {"draw", "constant"}:
            groups[last.place.where].append((one, zero, last))
    for where, group in groups.items():
        first, zero, last = group[0]
        names = _names(one for one, _, _ in group)
        yield Finding(
            code="IN712",
            severity="warning",
            title="an intended zero overwritten",
            where=names,
            message=f"{first.name} is set to zero at {zero.place.where}, and then to something "
            f"else by {last.by} at {where}, a rule for {count(reach[where], 'tensor')}: what was "
            f"meant to start closed starts open{also(names)}",
            fix="run the rule for all first and the special one last, or leave these out of it",
            numbers={"tensors": len(names), "general": reach[where], "special": len(group)},
        )


def _conflicts(evidence: Evidence) -> Iterable[Finding]:
    for one in evidence.tensors.values():
        events = [event for event in _replacements(one) if not event.place.default]
        laws = {(event.by, event.numbers) for event in events}
        if len(one.names) > 1 and len(laws) > 1:
            chain = ", then ".join(_said(event) for event in events[:3])
            yield Finding(
                code="IN713",
                severity="warning",
                title="two rules for one tied tensor",
                where=one.names,
                message=f"{' and '.join(one.names)} are one tensor, written by {chain}: the order "
                "of the modules decides which rule holds",
                fix=f"leave all but {one.name} out of the init, or tie after it",
                numbers={"rules": len(laws)},
            )


def _unbound(evidence: Evidence) -> Iterable[Finding]:
    groups: dict[tuple[str, tuple[float, float, float]], list[str]] = defaultdict(list)
    for one in evidence.tensors.values():
        events = [event for event in one.events if event.place.bounds is not None]
        bounds = events[-1].place.bounds if events else None
        if bounds is not None and min(-bounds[0], bounds[1]) > NEVER_BINDS * bounds[2] > 0:
            groups[events[-1].place.where, bounds].append(one.name)
    if not groups:
        return
    (where, (low, high, std)), first = next(iter(groups.items()))
    names = tuple(name for group in groups.values() for name in group)
    yield Finding(
        code="IN714",
        severity="info",
        title="bounds that never bind",
        where=names,
        message=f"the truncated normal of {listed(first)} ({where}) has std {std:g} and bounds "
        f"[{low:g}, {high:g}], which lie {min(-low, high) / std:.3g} sigmas out: nothing is cut, "
        f"and the distribution is a plain normal; {count(len(names), 'tensor')} in all",
        fix=f"give bounds in the units of the values, a={-2 * std:g}, b={2 * std:g}, or use "
        "normal_, which is faster",
        numbers={"tensors": len(names), "sigmas": min(-low, high) / std},
    )
