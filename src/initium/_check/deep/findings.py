"""What follows from deep measurements: IN801 to IN805.

Effective ranks, Jacobians and the agreement of samples are measured and not judged, except where
nothing is left: what is healthy there depends on the task.
"""

from __future__ import annotations

import math

from initium._check.chain import advice, listed
from initium._check.facts import Facts
from initium._check.thresholds import (
    CHAOTIC,
    ORDERED,
    PAIRS,
    RANK_LOST,
    SEED_SPREAD,
    UPDATE_HIGH,
    UPDATE_LOW,
)
from initium._check.trend import decay
from initium._report.deep import Deep, Seeds, Steps
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["judge"]

TABLES = frozenset({"embedding", "position"})
"""Matrices of which one batch moves a few rows only."""


def judge(deep: Deep, facts: Facts, view: ModelView) -> list[Finding]:
    """All findings of the deep check."""
    found = []
    if deep.steps is not None:
        found += _silent(deep.steps, facts, view)
        found += _updates(deep.steps, view)
    found += _correlations(deep, facts, view)
    found += _rank(deep, facts, view)
    if deep.seeds is not None:
        found += _seeds(deep.seeds)
    return found


def _silent(steps: Steps, facts: Facts, view: ModelView) -> list[Finding]:
    """IN801: a gradient of exactly zero at every step, without a reason that lasts."""
    silent = [
        name
        for name, norms in steps.gradients.items()
        if all(norm == 0.0 for norm in norms) and _ran(name, facts, view) and not _idle(name, view)
    ]
    if not silent:
        return []
    return [
        Finding(
            code="IN801",
            severity="warning" if facts.inferred else "error",
            title="no gradient after real steps",
            where=tuple(silent),
            message=f"{len(silent)} parameters still have a gradient of exactly zero at step "
            f"{len(steps.losses)} of {steps.optimizer}: {listed(silent)}; a branch that only "
            "starts closed would have opened at step 2",
            fix="see what stands between them and the loss: two zero factors in a row, units "
            "that are never active, or a value that is cut off from autograd",
            numbers={"parameters": len(silent), "steps": len(steps.losses)},
        )
    ]


def _ran(name: str, facts: Facts, view: ModelView) -> bool:
    """Not so for experts that no token of this batch was routed to."""
    known = view.parameters.get(name)
    owner = known.module if known is not None else name.rpartition(".")[0]
    return owner in facts.layers or not known or not known.is_matrix


def _idle(name: str, view: ModelView) -> bool:
    """A bias whose shift is taken out again behind it."""
    known = view.parameters.get(name)
    if known is None or known.role not in ("bias", "norm_bias"):
        return False
    partner = view.parameters.get(known.partner or "")
    return known.norm_after or (
        partner is not None and (partner.role == "attn_k" or partner.norm_after)
    )


def _updates(steps: Steps, view: ModelView) -> list[Finding]:
    """IN802: a first step out of proportion, where the optimizer is the caller's own."""
    if steps.assumed:
        return []
    judged = {
        name: ratio
        for name, ratio in steps.updates.items()
        if (known := view.parameters.get(name)) is not None
        and known.is_matrix
        and known.role not in TABLES
        and steps.gradients[name][0]
    }
    found = []
    for word, names in (
        ("large", [name for name, ratio in judged.items() if ratio > UPDATE_HIGH]),
        ("small", [name for name, ratio in judged.items() if ratio < UPDATE_LOW]),
    ):
        if not names:
            continue
        names.sort(key=lambda name: judged[name], reverse=word == "large")
        most = judged[names[0]]
        found.append(
            Finding(
                code="IN802",
                severity="warning",
                title=f"first update too {word}",
                where=tuple(names),
                message=f"the first step of {steps.optimizer} changes {listed(names)} by "
                f"{most:.2g} of their own norm at worst; 1e-4 to 1e-1 is usual, 1e-3 typical",
                fix=f"a learning rate {_times(most)} for them, a warm-up, or another scale of "
                "their weights",
                numbers={"log10": math.log10(most) if most else -math.inf},
            )
        )
    return found


def _times(ratio: float) -> str:
    if ratio > 1e-3:
        return f"{ratio / 1e-3:.0f} times smaller"
    return f"{1e-3 / ratio:.0f} times larger" if ratio else "above zero"


def _correlations(deep: Deep, facts: Facts, view: ModelView) -> list[Finding]:
    """IN803: all pairs of inputs become alike, or near ones become strangers."""
    layers = [layer for layer in deep.layers if layer.correlations]
    if len(layers) < 2:
        return []
    scale = f", depth scale {deep.depth_scale:.2g} layers" if deep.depth_scale else ""
    names = tuple(layer.name for layer in layers)
    far, near = layers[-1].correlations[0], layers[-1].correlations[-1]
    closer = decay([(layer.name, 1 - layer.correlations[0]) for layer in layers])
    if far > ORDERED and closer is not None:
        title, value, where = "all inputs become alike", far, closer.names + closer.rest
        message = (
            f"two inputs that are orthogonal have a cosine of {far:.5f} at {names[-1]}; each of "
            f"these {len(closer.names)} layers multiplies what it lacks of 1 by {closer.factor:.2g}"
        )
    elif near < CHAOTIC:
        title, value = "near inputs become strangers", near
        first = next(i for i, layer in enumerate(layers) if layer.correlations[-1] < CHAOTIC)
        where = names[first:]
        message = (
            f"two inputs of cosine {PAIRS[-1]} have one of {near:.2g} at {names[-1]}: what the net "
            "learns of one says nothing of the other"
        )
    else:
        return []
    return [
        Finding(
            code="IN803",
            severity="warning",
            title=title,
            where=where,
            message=message + scale,
            fix=advice(view, [facts.layers[name].weight for name in where]),
            numbers={"cosine": value, "layers": len(where)},
        )
    ]


def _rank(deep: Deep, facts: Facts, view: ModelView) -> list[Finding]:
    """IN804: units that all vary along one direction by the last layer."""
    layers = [layer for layer in deep.layers if layer.participation is not None]
    if len(layers) < 2 or (layers[-1].participation or 0.0) >= RANK_LOST:
        return []
    lost = [layer.name for layer in layers]
    for layer in reversed(layers):
        if (layer.participation or 0.0) >= RANK_LOST:
            lost = lost[lost.index(layer.name) + 1 :]
            break
    else:
        return []
    if layers[-1].limit < 4:
        return []
    last = layers[-1]
    return [
        Finding(
            code="IN804",
            severity="warning",
            title="rank collapse",
            where=tuple(lost),
            message=f"the units of {last.name} vary along {last.participation:.2f} directions "
            f"(participation ratio) of {last.limit} possible ones; {layers[0].name} has "
            f"{layers[0].participation:.3g}",
            fix=advice(view, [facts.layers[name].weight for name in lost]),
            numbers={"participation": last.participation or 0.0, "limit": last.limit},
        )
    ]


def _seeds(seeds: Seeds) -> list[Finding]:
    """IN805: the plan decides less than the draw."""
    wide = sorted(
        (name for name, value in seeds.forward.items() if value > SEED_SPREAD),
        key=lambda name: -seeds.forward[name],
    )
    if not wide:
        return []
    factor = 10 ** seeds.forward[wide[0]]
    return [
        Finding(
            code="IN805",
            severity="warning",
            title="the seed decides",
            where=tuple(wide),
            message=f"over {len(seeds.seeds)} seeds of the same plan the second moment of "
            f"{len(wide)} layers varies by a factor of {factor:.2g} at one sigma: {listed(wide)}",
            fix="wider layers, fewer of them, orthogonal weights or normalisation; or "
            "initium.calibrate(model, inputs), which removes what the draw left",
            numbers={"log10_std": seeds.forward[wide[0]], "layers": len(wide)},
        )
    ]
