"""Faults of ``faults.py`` in weights: single tensors, and whole stacks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from _faults.models import Names, Subject

# Single tensors -------------------------------------------------------------------------------


def scaled(factor: float) -> Callable[[Subject], Names]:
    """One matrix of a kind that occurs four times, times a factor."""

    def inject(s: Subject) -> Names:
        name = s.pick(s.peers())
        if name:
            s.weight(name).mul_(factor)
        return [name]

    return inject


def constant_matrix(s: Subject) -> Names:
    name = s.pick(s.peers())
    if name:
        s.weight(name).fill_(0.02)
    return [name]


def zero_matrix(s: Subject) -> Names:
    """A matrix of a plain chain: no shortcut leads round it."""
    plain = [one for one in s.peers() if one.stream is None and "stream" not in one.source]
    name = s.pick(plain) if not any(one.writes_residual for one in s.known.owners) else None
    if name:
        s.weight(name).zero_()
    return [name]


def zero_pair(s: Subject) -> Names:
    """Two matrices in a row: each waits for the other."""
    held = {one.name: one for one in s.matrices() if not one.writes_residual}
    second = s.pick(
        one
        for one in s.matrices()
        if len(one.reads) == 1 and one.reads[0] in held and one.source in ("", "product")
    )
    if second is None:
        return []
    names = [s.known.parameters[second].reads[0], second]
    for name in [*names, *biases_of(s, names)]:
        s.weight(name).zero_()
    return names


def zero_before_relu(s: Subject) -> Names:
    name = s.pick(one for one in s.matrices() if one.activation == "relu" and not one.norm_after)
    for one in [name, *biases_of(s, [name])] if name else []:
        s.weight(one).zero_()
    return [name]


def biases_of(s: Subject, weights: Iterable[str | None]) -> list[str]:
    return [one.name for one in s.known.owners if one.role == "bias" and one.partner in weights]


def shifted(s: Subject) -> Names:
    """Weights from 0 to a instead of from -a to a, where no norm takes the means out."""
    name = s.pick(one for one in s.peers() if not (one.norm_before or one.norm_after))
    if name:
        weight = s.weight(name)
        weight.uniform_(0.0, math.sqrt(12.0) * float(weight.std()))
    return [name]


def poisoned(value: float) -> Callable[[Subject], Names]:
    def inject(s: Subject) -> Names:
        name = s.pick(s.matrices())
        if name:
            s.weight(name).view(-1)[3] = value
        return [name]

    return inject


def constant_bias(value: float, *before: str) -> Callable[[Subject], Names]:
    """One bias, of a matrix that one of these activations follows; of any if none is named, but
    for heads, where a softmax takes it out."""

    def inject(s: Subject) -> Names:
        matrices = {
            one.name
            for one in s.matrices()
            if not (one.norm_after or one.role == "head")
            and (not before or (one.activation or "").partition("(")[0] in before)
        }
        name = s.pick(
            one
            for one in s.known.owners
            if one.role == "bias" and one.partner in matrices and one.trainable
        )
        if name:
            s.weight(name).fill_(value)
        return [name]

    return inject


def drawn_biases(s: Subject) -> Names:
    names = [one.name for one in s.find("bias") if one.numel >= 8 and "LSTM" not in one.module_type]
    for name in names:
        s.weight(name).normal_()
    return names


def norm_scale(factor: float) -> Callable[[Subject], Names]:
    """One norm's scale, which is 1, or 0 where the model adds one to it, times a factor."""

    def inject(s: Subject) -> Names:
        name = s.pick(one for one in s.find("norm_scale") if one.numel >= 8)
        if name:
            neutral = s.known.parameters[name].neutral
            s.weight(name).fill_(factor - 1.0 if neutral == 0.0 else factor)
        return [name]

    return inject


def all_norm_scales(s: Subject) -> Names:
    names = [one.name for one in s.find("norm_scale") if one.numel >= 8]
    for name in names:
        s.weight(name).fill_(100.0)
    return names


def queries_and_keys(factor: float) -> Callable[[Subject], Names]:
    """The queries and keys of one attention, fused or not; all of its module is the place."""

    def inject(s: Subject) -> Names:
        held = {one.name: one for one in s.matrices()}
        fused = [one for one in held.values() if {b.label for b in one.blocks} >= {"q", "k"}]
        queries = [one for one in held.values() if one.role == "attn_q" or one in fused]
        chosen = s.pick(queries)
        if chosen is None:
            return []
        around = held[chosen].module.rpartition(".")[0]
        whole = around if chosen.endswith(".weight") else held[chosen].module
        if held[chosen] in fused:
            return [*_scale_blocks(s, held[chosen], ("q", "k"), factor), whole]
        keys = [
            name
            for name, one in held.items()
            if one.role == "attn_k" and one.module.rpartition(".")[0] == around
        ]
        pair = [chosen, *keys]
        for name in pair:
            s.weight(name).mul_(factor)
        return [*pair, whole] if len(pair) == 2 else []

    return inject


def _scale_blocks(s: Subject, known: Any, wanted: tuple[str, ...], factor: float) -> list[str]:
    for block in known.blocks:
        if block.label in wanted:
            for turn in range(block.count):
                start = block.start + turn * block.stride
                s.weight(known.name).narrow(block.axis, start, block.size).mul_(factor)
    return [known.name]


def tiny_embedding(s: Subject) -> Names:
    if not s.find("embedding"):
        return []
    names = [one.name for one in s.find("embedding", "position", "token")]
    for name in names:
        s.weight(name).mul_(1e-4)
    return names


def equal_rows(s: Subject) -> Names:
    """All tokens get the same vector."""
    names = [one.name for one in s.find("embedding", "position") if len(one.shape) >= 2]
    if not any(s.known.parameters[name].role == "embedding" for name in names):
        return []
    for name in names:
        table = s.weight(name)
        table.copy_(table.reshape(-1, table.shape[-1])[1].expand_as(table).clone())
    return names


def loud_table(s: Subject) -> Names:
    """An embedding of std 1 that makes the logits too, where it was a small one before."""
    name = s.pick(
        one
        for one in s.find("embedding")
        if one.aliases and one.numel > 1000 and float(s.weight(one.name).std()) < 0.5
    )
    if name:
        s.weight(name).normal_()
    return [name]


def loud_head(s: Subject) -> Names:
    """A head of std 1, where its logits get louder than that: features may be small."""
    name = s.pick(one for one in s.find("head") if len(one.shape) == 2 and one.shape[0] >= 10)
    if name is None:
        return []
    s.weight(name).normal_()
    return [name] if _spread(s, s.known.parameters[name].module) > 2.0 else []


def _spread(s: Subject, path: str) -> float:
    """The std of a module's output."""
    found, model = [math.inf], copy.deepcopy(s.model)
    model.get_submodule(path).register_forward_hook(
        lambda module, args, output: found.append(float(output.float().std()))
    )
    replace(s, model=model).forward()
    return found[-1]


# The whole stack ------------------------------------------------------------------------------


def everywhere(
    change: Callable[[torch.Tensor], object], *skipped: str
) -> Callable[[Subject], Names]:
    def inject(s: Subject) -> Names:
        names = [one.name for one in s.matrices() if one.role not in skipped]
        for name in names:
            change(s.weight(name))
        return names

    return inject


def zero_everywhere(s: Subject) -> Names:
    names = [one.name for one in s.matrices()]
    for name in [*names, *biases_of(s, names)]:
        s.weight(name).zero_()
    return names


def plain_relu(change: Callable[[torch.Tensor], object], layers: int) -> Callable[[Subject], Names]:
    """Every matrix of a chain of so many layers without norms or shortcuts."""

    def inject(s: Subject) -> Names:
        held = s.matrices()
        if len(held) < layers or s.find("norm_scale") or any(one.writes_residual for one in held):
            return []
        if not any((one.activation or "").startswith(("relu", "gelu")) for one in held):
            return []
        if any(len(one.reads) > 1 for one in held):
            return []
        for one in held:
            change(s.weight(one.name))
        return [one.name for one in held]

    return inject


def norm_free_writers(s: Subject) -> Names:
    """Branches that keep the variance of what they read, and read the stream without a norm."""
    writers = [one for one in s.matrices() if one.writes_residual]
    feeders = [name for one in writers for name in one.reads]
    inside = [*writers, *(s.known.parameters[name] for name in feeders)]
    if len(writers) < 8 or any(one.norm_before or one.norm_after for one in inside):
        return []
    for one in writers:
        assert one.fan_in
        s.weight(one.name).normal_(0.0, math.sqrt(2.0 / one.fan_in))
    for name in feeders:
        s.weight(name).normal_(0.0, math.sqrt(2.0 / (s.known.parameters[name].fan_in or 1)))
    return [*(one.name for one in writers), *feeders]


def loud_writers(s: Subject) -> Names:
    writers = [one.name for one in s.matrices() if one.writes_residual]
    for name in writers:
        s.weight(name).mul_(1000.0)
    return writers if len(writers) > 3 else []


def before_norms(s: Subject) -> Names:
    names = [one.name for one in s.matrices() if one.norm_after]
    for name in names:
        s.weight(name).mul_(1000.0)
    return names
