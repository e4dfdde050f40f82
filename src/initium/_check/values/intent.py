"""Values that work against what a parameter is for: adapters, padding, tied heads, gates, biases.

Each rule is one function from values and a view to findings. What is often meant so, such as a
branch that starts closed, is not reported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from initium._check.thresholds import (
    BIAS_FEWEST,
    FEWEST_CLASSES,
    FORGET,
    LOSS_FRACTION,
    LOSS_NATS,
    LOUD,
    VALUES_SET,
)
from initium._check.words import also
from initium._report.records import Finding
from initium._types import ModelView, ParameterView

__all__ = [
    "find_adapters",
    "find_biases",
    "find_forget",
    "find_padding",
    "find_shut",
    "find_wide_head",
]

Values = Mapping[str, torch.Tensor]

ABOVE = 3
"""Parts of a name in which the two factors of an adapter may differ: ``lora_A.default.weight``."""
SIGMOIDS = frozenset({"sigmoid", "hardsigmoid", "softplus"})


def find_adapters(values: Values, view: ModelView) -> Iterable[Finding]:
    """Low-rank adapters that never learn, or that change the model at once (IN727)."""
    shut, opened = [], []
    for name, second in values.items():
        if view.parameters[name].role != "lora_b":
            continue
        first = _partner(name, view)
        if first is None or first not in values:
            continue
        if bool(second.any()):
            opened += [name] if bool(values[first].any()) else []
        elif not bool(values[first].any()):
            shut.append((first, name))
    if shut:
        first, name = shut[0]
        yield Finding(
            code="IN727",
            severity="error",
            title="adapter that never learns",
            where=tuple(one for pair in shut for one in pair),
            message=f"{first} and {name} are both zero: the gradient of each is a product with the "
            f"other, so it is zero forever{also([b for _, b in shut], 'adapter')}",
            fix=f"nn.init.kaiming_uniform_({first}, a=5**0.5), with {name} left at zero",
            numbers={"adapters": len(shut)},
        )
    if opened:
        yield Finding(
            code="IN727",
            severity="warning",
            title="adapter that changes the model at once",
            where=tuple(opened),
            message=f"{opened[0]} is not zero, so that the adapter adds random numbers to what the "
            f"frozen weight computes{also(opened, 'adapter')}",
            fix=f"nn.init.zeros_({opened[0]})",
            numbers={"adapters": len(opened)},
        )


def _partner(name: str, view: ModelView) -> str | None:
    """The first factor of an adapter whose second one is ``name``."""
    for read in view.parameters[name].reads:
        if view.parameters[read].role == "lora_a":
            return read
    parts = name.split(".")
    shared, best = max(
        (
            (_shared(parts, one.name.split(".")), one.name)
            for one in view.owners
            if one.role == "lora_a"
        ),
        default=(0, None),
    )
    return best if shared >= max(len(parts) - ABOVE, 0) else None


def _shared(first: list[str], second: list[str]) -> int:
    """How many parts two dotted names have in common at the front."""
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


def find_padding(values: Values, view: ModelView) -> Iterable[Finding]:
    """Padding rows that are not zero, and get no gradient that would change them (IN728)."""
    found = []
    for name, value in values.items():
        row = view.parameters[name].padding_row
        if row is not None and value.dim() == 2 and bool(value[row].any()):
            found.append((name, row, float(value[row].float().square().mean().sqrt())))
    if found:
        name, row, size = found[0]
        names = tuple(one for one, *_ in found)
        yield Finding(
            code="IN728",
            severity="warning",
            title="padding row overwritten",
            where=names,
            message=f"row {row} of {name} is the padding row and has rms {size:.3g}: it gets no "
            f"gradient, so every padded position keeps adding the same random vector"
            f"{also(names, 'table')}",
            fix=f"after the init: with torch.no_grad(): {name}[{row}].zero_()",
            numbers={"rms": size, "tables": len(names)},
        )


def find_wide_head(values: Values, view: ModelView) -> Iterable[Finding]:
    """Heads, tied or not, whose logits are large behind a normalised stream (IN729).

    Logits of a stream with unit second moment have std s = std(w) sqrt(width), which adds s^2 / 2
    to a first loss of ln C.
    """
    for name, value in values.items():
        known = view.parameters[name]
        tied = known.role == "embedding" and known.is_tied
        if not (tied or known.role == "head") or value.dim() != 2 or len(value) < FEWEST_CLASSES:
            continue
        spread = float(value.float().square().mean().sqrt()) * math.sqrt(value.shape[1])
        chance = math.log(len(value))
        if spread**2 / 2 <= max(LOSS_NATS, LOSS_FRACTION * chance):
            continue
        good = 1 / math.sqrt(value.shape[1])
        behind = "behind a norm" if known.norm_before else "from features of order one"
        yield Finding(
            code="IN729",
            severity="warning" if known.norm_before and not tied else "info",
            title="head too wide",
            where=(name,),
            message=f"{name} makes {len(value):,} logits from {value.shape[1]} features, with std "
            f"{spread:.3g} {behind}: a first loss of about {chance + spread**2 / 2:.3g} "
            f"instead of ln {len(value):,} = {chance:.3g}"
            + (", unless the model scales the logits, which a check measures" if tied else ""),
            fix=f"nn.init.normal_({name}, std={min(good, 0.02):.3g}), and scale what is looked up "
            "by the inverse where it has to be of order one"
            if tied
            else f"nn.init.normal_({name}, std={min(good, 0.02):.3g})",
            numbers={"logit_std": spread, "classes": len(value), "chance": chance},
        )


def find_shut(values: Values, view: ModelView) -> Iterable[Finding]:
    """Zero weights in front of a ReLU that nothing lifts off zero (IN731)."""
    lifted = {
        one.partner
        for one in view.owners
        if one.role == "bias" and (one.name not in values or bool((values[one.name] > 0).any()))
    }
    found = [
        name
        for name, value in values.items()
        if _feeds_relu(view.parameters[name]) and name not in lifted and not bool(value.any())
    ]
    if found:
        yield Finding(
            code="IN731",
            severity="error",
            title="zero weights before a ReLU",
            where=tuple(found),
            message=f"{found[0]} is zero and feeds a ReLU without a positive bias: its output is "
            "exactly zero, where a ReLU has no slope, so it never gets a gradient"
            f"{also(found, 'weight')}",
            fix=f"nn.init.kaiming_normal_({found[0]}, nonlinearity='relu'); to start a branch "
            "closed, put the zero in its last matrix, behind which there is no ReLU",
            numbers={"weights": len(found)},
        )


def _feeds_relu(known: ParameterView) -> bool:
    relu = (known.activation or "").partition("(")[0] in {"relu", "relu6", "relu2", "relu_squared"}
    return known.is_matrix and relu and not known.norm_after and not known.gated


def find_forget(values: Values, view: ModelView) -> Iterable[Finding]:
    """Forget biases set in both biases of an LSTM, which adds them up (IN732)."""
    pairs: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        known = view.parameters[name]
        leaf = name.rpartition(".")[2]
        gates = known.module_type in {"LSTM", "LSTMCell"} and leaf.startswith("bias_")
        if gates and _forget(value) > FORGET:
            pairs[f"{known.module}.{leaf.replace('_ih', '').replace('_hh', '')}"].append(name)
    doubled = [tuple(names) for names in pairs.values() if len(names) == 2]
    if doubled:
        first, second = doubled[0]
        one, two = _forget(values[first]), _forget(values[second])
        yield Finding(
            code="IN732",
            severity="warning",
            title="forget bias counted twice",
            where=tuple(name for pair in doubled for name in pair),
            message=f"the forget gate's part of {first} is {one:.3g} and that of {second} is "
            f"{two:.3g}; the LSTM adds both, so its forget bias is {one + two:.3g}"
            f"{also([pair[0] for pair in doubled], 'layer')}",
            fix=f"set it in one of them: with torch.no_grad(): {second}"
            f"[{len(values[second]) // 4}:{len(values[second]) // 2}].zero_()",
            numbers={"forget_bias": one + two, "layers": len(doubled)},
        )


def _forget(value: torch.Tensor) -> float:
    """The mean over the second of the four gates, which torch orders as i, f, g, o."""
    return float(value.float().chunk(4)[1].mean()) if value.numel() >= 4 else 0.0


def find_biases(values: Values, view: ModelView) -> Iterable[Finding]:
    """Biases drawn as large as the signal they are added to (IN733).

    Not those of gates, which are spread on purpose: chrono initialisation (Tallec & Ollivier 2018,
    arXiv:1804.11188) draws them from log U(1, T), with std 1 and more.
    """
    found = []
    for name, value in values.items():
        known = view.parameters[name]
        if known.role != "bias" or value.numel() < BIAS_FEWEST or _of_gates(known, view):
            continue
        spread = float(value.float().std())
        if spread >= LOUD and len(value.unique()) > VALUES_SET:
            found.append((spread, name))
    if found:
        found.sort(key=lambda item: -item[0])
        spread, first = found[0]
        names = tuple(name for _, name in found)
        yield Finding(
            code="IN733",
            severity="warning",
            title="biases as large as the signal",
            where=names,
            message=f"{first} is drawn with std {spread:.3g}: an offset that is the same for every "
            f"sample, beside a signal of order one{also(names)}",
            fix=f"nn.init.zeros_({first})",
            numbers={"std": spread, "biases": len(names)},
        )


def _of_gates(known: ParameterView, view: ModelView) -> bool:
    """Whether it shifts a sigmoid, or belongs to a recurrent matrix."""
    partner = view.parameters.get(known.partner or "")
    if known.module_type in {"LSTM", "LSTMCell", "GRU", "GRUCell"}:
        return True
    if partner is None:
        return False
    gates = {block.activation for block in partner.blocks} | {partner.activation, known.activation}
    return partner.role.startswith("recurrent") or bool(gates & SIGMOIDS)
