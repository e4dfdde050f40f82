"""Tensors that are copies of one another, and rows that are.

Covered: equal bits; equal values up to one factor, also where one tensor only starts like the other
(one seed for every tensor). Constants and regular patterns are copies by design and left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from initium._check.thresholds import ROWS_ALIKE, UNITS_FEWEST
from initium._check.values.parts import is_layer, matrices_in
from initium._check.words import also, listed
from initium._report.records import Finding
from initium._report.words import count
from initium._types import MATRIX_ROLES, ModelView

__all__ = ["find_copied_rows", "find_equal_rows", "find_twins"]

HEAD = 16
"""Elements that tensors are sorted by: equal directions by chance are out of the question."""
LOOKED = 4 * HEAD
"""Elements from which it is told whether a tensor looks random."""
COMPARED = 4096
GRID = 50
"""Steps per unit to which directions are rounded when they are sorted."""
DRAWN = frozenset({*MATRIX_ROLES, "embedding", "position", "token"})


def find_twins(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Tensors that look random and are equal, or equal up to scale as far as they go (IN726)."""
    rough: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, value in values.items():
        if view.parameters[name].role in DRAWN:
            head = _head(value)
            if _looks_random(head):
                rough[_key(head)].append(name)
    equal: list[tuple[str, ...]] = []
    alike: list[tuple[str, ...]] = []
    for similar in rough.values():
        if len(similar) > 1:
            same, scaled = _sorted_out({name: values[name] for name in similar})
            equal += same
            alike += scaled
    if not equal and not alike:
        return
    groups = sorted([*equal, *alike], key=len, reverse=True)
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    first = groups[0]
    how = "hold the same values" if first in equal else "are scaled copies as far as they go"
    yield Finding(
        code="IN726",
        severity="warning",
        title="identical tensors",
        where=names,
        message=f"{listed(first)} {how}, although they look random; {count(len(names), 'tensor')} "
        f"in {count(len(groups), 'group')}",
        fix="draw each anew: a layer that was deep-copied has to be reset, and a generator must "
        "not be seeded again for every tensor",
        numbers={"tensors": len(names), "groups": len(groups)},
    )


def _head(value: torch.Tensor) -> np.ndarray:
    """Its first elements, in the order of its indices, behind a first row of padding."""
    if value.dim() > 1 and len(value) > 1 and not bool(value[0].any()):
        value = value[1:]
    if not value.is_contiguous():
        rows = max(1, -(-LOOKED // max(1, value[:1].numel())))
        value = value[:rows]
    return value.reshape(-1)[:LOOKED].double().cpu().numpy()


def _looks_random(head: np.ndarray) -> bool:
    if len(head) < HEAD or not np.isfinite(head).all() or not head[:HEAD].any():
        return False
    steps = np.diff(head.astype(np.float32))
    return len(set(head.tolist())) > len(head) // 2 and len(set(steps.tolist())) > len(head) // 2


def _key(head: np.ndarray) -> tuple[int, ...]:
    """The direction of the first elements on a coarse grid, the same for all multiples."""
    part = head[:HEAD]
    scaled = GRID * part / np.linalg.norm(part) * np.sign(part[np.abs(part).argmax()])
    return tuple(np.rint(scaled).astype(int).tolist())


def _sorted_out(
    values: Mapping[str, torch.Tensor],
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Groups of equal tensors; and of one from each group those that agree up to a factor."""
    groups: list[list[str]] = []
    for name, value in values.items():
        for group in groups:
            first = values[group[0]]
            same = first.shape == value.shape and first.dtype == value.dtype
            if same and torch.equal(first, value):
                group.append(name)
                break
        else:
            groups.append([name])
    lone = [group[0] for group in groups]
    scaled = [lone[0], *(name for name in lone[1:] if _agree(values[lone[0]], values[name]))]
    return (
        [tuple(group) for group in groups if len(group) > 1],
        [tuple(scaled)] if len(scaled) > 1 else [],
    )


def _agree(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether they agree up to a factor; the last block of a fill on a CPU is drawn apart."""
    count = min(first.numel(), second.numel(), COMPARED + HEAD) - HEAD
    if first.shape == second.shape:
        count = min(first.numel(), COMPARED)
    count = max(count, HEAD)
    off = (_direction(first, count) - _direction(second, count)).abs().max()
    eps = max(torch.finfo(first.dtype).eps, torch.finfo(second.dtype).eps)
    return float(off) < 32 * eps


def _direction(value: torch.Tensor, count: int) -> torch.Tensor:
    head = value.flatten()[:count].double().cpu()
    return head / head.norm() * head[head.abs().argmax()].sign()


def find_equal_rows(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Tables whose rows, and matrices whose units, are all the same, such as constants (IN403).

    Also of one block of a fused matrix, one expert, one group: these are matrices of their own.
    """
    matrices = []
    for name, value in values.items():
        known = view.parameters[name]
        if known.role == "embedding" and value.dim() == 2 and len(value) > 3 and _alike(value[1:]):
            yield Finding(
                code="IN403",
                severity="error",
                title="all tokens alike",
                where=(name,),
                message=f"all {len(value):,} rows of {name} are the same: the model cannot tell "
                "one token from another",
                fix=f"draw them at random: nn.init.normal_({name}, std=0.02)",
                numbers={"rows": len(value)},
            )
        elif known.is_matrix and known.trainable:
            alike = [len(part) for part in matrices_in(value, known) if _alike(part)]
            matrices += [(name, max(alike), known.fan_in or 1)] if alike else []
    for layers in (True, False):
        some = [one for one in matrices if is_layer(view.parameters[one[0]]) == layers]
        if not some:
            continue
        name, rows, fan_in = some[0]
        names = tuple(one for one, *_ in some)
        yield Finding(
            code="IN403",
            severity="warning" if layers else "info",
            title="symmetric units",
            where=names,
            message=f"{rows:,} units of {name} have the same weights: they compute one and the "
            f"same thing, and only what follows tells them apart{also(names, 'matrix')}",
            fix=f"draw them at random: nn.init.normal_({name}, std={fan_in**-0.5:.3g})",
            numbers={"rows": rows, "matrices": len(names)},
        )


def _alike(rows: torch.Tensor) -> bool:
    """Whether all rows, of several elements each, are equal and not zero."""
    if len(rows) < UNITS_FEWEST or rows.shape[1] < 2 or not torch.equal(rows[0], rows[1]):
        return False
    return bool(rows[0].any()) and bool((rows == rows[0]).all())


def find_copied_rows(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Tables whose last rows are all the same: a vocabulary that was grown (IN734)."""
    for name, value in values.items():
        known = view.parameters[name]
        if known.role not in {"embedding", "head"} or value.dim() != 2 or len(value) < 4:
            continue
        last = value[-1].float()
        size = float(last.norm())
        if size == 0.0 or not _looks_random(_head(last)):
            continue
        run = 1
        while (
            run < len(value) and float((value[-1 - run].float() - last).norm()) < ROWS_ALIKE * size
        ):
            run += 1
        if 2 <= run <= len(value) // 2:
            yield Finding(
                code="IN734",
                severity="warning",
                title="new rows all alike",
                where=(name,),
                message=f"the last {run} of {len(value):,} rows of {name} are the same within "
                f"{ROWS_ALIKE:.0%}: tokens that start alike and are told apart by their gradients "
                "only",
                fix=f"with torch.no_grad(): {name}[-{run}:] += std * torch.randn_like("
                f"{name}[-{run}:]), with the std of the other rows",
                numbers={"rows": run, "of": len(value)},
            )
