"""The first loss: which one, its value, and what a healthy start would give.

Order of choice: ``loss_fn(output, targets)``; the loss that the model returns, also beside logits
in a tuple; cross-entropy, if the targets are class indices of the output's logits ([N, C],
[N, T, C], [N, C, H, W]); and without targets a fixed random cotangent. Regression losses are never
guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F

from initium._model.call import tensors
from initium._report.records import LossRecord
from initium.errors import InputError, ModelError

__all__ = ["Start", "first_loss"]

IGNORED = -100
"""torch's ``ignore_index``."""
NOT_OUTPUTS = ("past_key_values", "hidden_states", "attentions", "cross_attentions", "mems")
"""Fields of an output that repeat inner values, as Transformers names them."""
BLOCK = 1 << 18
OWN_LOSS = 0.25
"""How far a loss may lie from the mean cross-entropy of its logits to be judged as one."""
EXACT = 1e-4
"""Relative difference within which a loss is computed by a formula: float32 sums round to 1e-6."""
NODES = 256
"""Operators of autograd between logits and a loss that is computed from them, at most."""

LossFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Start:
    """What the backward pass starts from: tensors, their cotangents (None: a scalar), a record."""

    tensors: tuple[torch.Tensor, ...]
    cotangents: tuple[torch.Tensor | None, ...]
    record: LossRecord


def first_loss(output: Any, inputs: object, targets: Any, loss_fn: LossFunction | None) -> Start:
    """Choose and compute the loss.

    Raises:
        InputError: targets or loss that do not fit the output.
        ModelError: an output without a floating-point tensor.
    """
    if loss_fn is not None:
        loss = _scalar(_call(loss_fn, output, targets), "loss_fn")
        logits, labels = _logits(output), targets
        if not _are_labels(labels) or logits is None or not _matches(logits, labels):
            return _start(loss, LossRecord(source="loss_fn", value=float(loss.detach())))
        return _start(loss, _statistics("loss_fn", loss, *_pairs(logits, labels, inputs)[:2]))
    own = _own_loss(output, targets)
    if own is not None:
        loss = _scalar(own, "the model's loss")
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        logits = (
            _logits(output) if isinstance(output, Mapping) or hasattr(output, "logits") else None
        )
        if logits is None or not _are_labels(labels) or not _matches(logits, labels):
            return _start(loss, LossRecord(source="model", value=float(loss.detach())))
        return _start(loss, _statistics("model", loss, *_pairs(logits, labels, inputs)[:2]))
    if targets is not None:
        return _cross_entropy(output, inputs, targets)
    return _random_cotangent(output)


def _start(loss: torch.Tensor, record: LossRecord) -> Start:
    return Start((loss,), (None,), record)


def _call(loss_fn: LossFunction, output: Any, targets: Any) -> Any:
    try:
        return loss_fn(output, targets)
    except Exception as error:
        raise InputError(
            f"raised {type(error).__name__}: {error}",
            where="loss_fn",
            fix="loss_fn(output, targets) gets exactly what the model returned and what was passed "
            "as targets",
        ) from error


def _scalar(loss: Any, where: str) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise InputError(
            "is not a tensor", where=where, value=type(loss).__name__, fix="return a scalar tensor"
        )
    if loss.numel() != 1:
        raise InputError(
            "is not a scalar",
            where=where,
            value=tuple(loss.shape),
            fix="reduce it, such as .mean()",
        )
    if not loss.is_floating_point():
        raise InputError("is not a floating-point number", where=where, value=str(loss.dtype))
    return loss.reshape(())


def _own_loss(output: Any, targets: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.dim() == 0 and output.is_floating_point() else None
    if isinstance(output, (tuple, list)) and not hasattr(output, "loss"):
        return _loss_among(list(output)) if targets is None else None
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss if isinstance(loss, torch.Tensor) else None


def _loss_among(output: list[Any]) -> torch.Tensor | None:
    """The one scalar of a tuple, unless another output does not enter it: an auxiliary loss."""
    given = [t for t in output if isinstance(t, torch.Tensor) and t.is_floating_point()]
    scalars = [tensor for tensor in given if tensor.dim() == 0 and tensor.requires_grad]
    others = [tensor for tensor in given if tensor.dim() > 0 and tensor.requires_grad]
    if len(scalars) != 1 or not all(_enters(tensor, scalars[0]) for tensor in others[:1]):
        return None
    return scalars[0]


def _enters(tensor: torch.Tensor, loss: torch.Tensor) -> bool:
    """Whether the loss is computed from a tensor within a few operators."""
    seen: set[object] = set()
    waiting = [loss.grad_fn]
    while waiting and len(seen) < NODES:
        node = waiting.pop(0)
        if node is None or node in seen:
            continue
        if node is tensor.grad_fn:
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def _logits(output: Any) -> torch.Tensor | None:
    """The field named logits, else the first floating tensor that is not the loss."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    return next((t for t in tensors(output) if t.is_floating_point() and t.dim() > 0), None)


def _outputs(output: Any) -> list[torch.Tensor]:
    """The tensors that the model means to return, each once."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, torch.Tensor):
        return [named]
    if isinstance(output, Mapping):
        output = [value for key, value in output.items() if key not in NOT_OUTPUTS]
    found = {id(tensor): tensor for tensor in tensors(output) if tensor.is_floating_point()}
    return list(found.values())


def _are_labels(targets: Any) -> TypeGuard[torch.Tensor]:
    integers = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
    return isinstance(targets, torch.Tensor) and targets.dtype in integers


def _matches(logits: torch.Tensor, labels: torch.Tensor) -> bool:
    if logits.dim() < 2:
        return False
    last, second = tuple(logits.shape[:-1]), (logits.shape[0], *logits.shape[2:])
    shape = tuple(labels.shape)
    shifted = len(last) == 2 and len(shape) == 2 and shape == (last[0], last[1] - 1)
    return shape in (last, second) or shifted


def _pairs(
    logits: torch.Tensor, labels: torch.Tensor, inputs: object
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Logits [rows, C], labels [rows], and how they were paired."""
    last, shape = tuple(logits.shape[:-1]), tuple(labels.shape)
    how = "cross-entropy"
    if shape != last and len(last) == 2 and shape == (last[0], last[1] - 1):
        logits, how = logits[:, :-1], "cross-entropy of the next token"
    elif shape == last and len(shape) == 2 and _is_an_input(labels, inputs):
        logits, labels = logits[:, :-1], labels[:, 1:]
        how = "cross-entropy of the next token"
    elif shape != last:
        logits = logits.movedim(1, -1)
    return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), how


def _is_an_input(labels: torch.Tensor, inputs: object) -> bool:
    if isinstance(inputs, Mapping):
        inputs = [value for key, value in inputs.items() if key != "labels"]
    return any(
        given.shape == labels.shape and not given.is_floating_point() and torch.equal(given, labels)
        for given in tensors(inputs)
    )


def _cross_entropy(output: Any, inputs: object, targets: Any) -> Start:
    logits = _logits(output)
    if logits is None:
        raise _no_tensor(output)
    if not _are_labels(targets):
        kind = str(targets.dtype) if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise InputError(
            "a loss is only assumed for targets that are class indices",
            where="targets",
            value=kind,
            fix="pass loss_fn=, such as torch.nn.functional.mse_loss",
        )
    if not _matches(logits, targets):
        raise InputError(
            f"targets of shape {tuple(targets.shape)} are no class indices for an output of shape "
            f"{tuple(logits.shape)}",
            where="targets",
            fix="pass targets of the output's shape without its class dimension, or loss_fn=",
        )
    rows, labels, how = _pairs(logits, targets, inputs)
    classes = rows.shape[1]
    if classes < 2:
        raise InputError(
            "cross-entropy needs two classes or more",
            where="targets",
            value=classes,
            fix="pass loss_fn=, such as a binary cross-entropy",
        )
    kept = labels[labels != IGNORED]
    if kept.numel() == 0:
        raise InputError("every target is ignored", where="targets", value=IGNORED)
    low, high = int(kept.min()), int(kept.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"class indices must lie in 0..{classes - 1}, the output has {classes} classes",
            where="targets",
            value=low if low < 0 else high,
        )
    loss = F.cross_entropy(rows, labels, ignore_index=IGNORED)
    return _start(loss, _statistics(how, loss, rows, labels))


def _statistics(
    source: str, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> LossRecord:
    """ln C, and E[logsumexp(z)] - E[z] with the spread of z, over rows that count; in blocks."""
    logits = logits.detach()
    flaw = _flaw(loss, logits, labels)
    if flaw != "summed" and not _is_mean_cross_entropy(loss, logits, labels):
        return LossRecord(source=source, value=float(loss.detach()))
    classes, count, lift, spread = logits.shape[1], 0, 0.0, 0.0
    for rows, _ in _blocks(logits, labels):
        count += rows.shape[0]
        lift += float((rows.logsumexp(1) - rows.mean(1)).sum())
        spread += float(rows.var(1, correction=0).sum())
    return LossRecord(
        source=source,
        value=float(loss.detach()),
        expected=math.log(classes),
        independent=lift / count if count else None,
        classes=classes,
        logit_std=math.sqrt(spread / count) if count and spread >= 0 else None,
        flaw=flaw,
    )


def _flaw(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> str | None:
    """A cross-entropy that is a sum, or that takes probabilities for logits.

    The outputs are probabilities where every row is positive and sums to one; where the loss
    applies a softmax of its own before the cross-entropy, its value is that of doing so.
    """
    kept = labels[labels != IGNORED]
    if len(kept) < 2 or not _fit(kept, logits):
        return None
    value, plain = float(loss.detach()), _mean_cross_entropy(logits, labels)
    if not math.isfinite(plain):
        return None
    if all(_are_probabilities(rows) for rows, _ in _blocks(logits, labels)):
        return "softmax twice" if _same(value, plain) else None
    if _same(value, plain):
        return None
    if _same(value, len(kept) * plain):
        return "summed"
    twice = _mean_cross_entropy(logits, labels, lambda rows: rows.softmax(1))
    return "softmax twice" if _same(value, twice) and not _same(plain, twice) else None


def _blocks(
    logits: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows that count with their labels, some at a time: logits may be most of a pass's memory."""
    step = max(1, BLOCK // logits.shape[1])
    for part, wanted in zip(logits.split(step), labels.split(step), strict=True):
        rows = wanted != IGNORED
        yield part[rows].float(), wanted[rows]


def _mean_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    change: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
) -> float:
    total, count = 0.0, 0
    for rows, wanted in _blocks(logits, labels):
        total += float(F.cross_entropy(change(rows), wanted, reduction="sum"))
        count += len(rows)
    return total / count


def _are_probabilities(rows: torch.Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-3).all())


def _fit(labels: torch.Tensor, logits: torch.Tensor) -> bool:
    return int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]


def _same(one: float, two: float) -> bool:
    return abs(one - two) <= EXACT * abs(two)


def _is_mean_cross_entropy(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether ln C is what to expect: smoothing and small penalties pass, sums do not."""
    kept = labels[labels != IGNORED]
    if kept.numel() == 0 or not _fit(kept, logits):
        return False
    plain = _mean_cross_entropy(logits, labels)
    value = float(loss.detach())
    finite = plain - plain == 0.0 and value - value == 0.0
    return not finite or abs(value - plain) <= OWN_LOSS * max(abs(plain), 1.0)


def _random_cotangent(output: Any) -> Start:
    """Standard normal numbers from a generator of their own, the same in every check."""
    found = _outputs(output)
    if not found:
        raise _no_tensor(output)
    used = [tensor for tensor in found if tensor.requires_grad] or found
    generator = torch.Generator(device="cpu").manual_seed(0)
    cotangents = tuple(
        torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor) for tensor in used
    )
    return Start(tuple(used), cotangents, LossRecord(source="random cotangent"))


def _no_tensor(output: Any) -> ModelError:
    return ModelError(
        "the model's output holds no floating-point tensor",
        value=type(output).__name__,
        fix="return a tensor, or a tuple, mapping or dataclass with one; or pass loss_fn=",
    )
