"""Tensors that are copies of one another, and rows that are.

Covered: equal bits; equal values up to one factor, also where one tensor only starts like the other
(one seed for every tensor). Constants and regular patterns are copies by design and left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from initium._audit.findings import listed, plural
from initium._model.state import fingerprint
from initium._report.records import Finding
from initium._types import MATRIX_ROLES, ModelView

__all__ = ["find_copied_rows", "find_twins"]

HEAD = 16
"""Elements that tensors are sorted by: equal directions by chance are out of the question."""
COMPARED = 4096
DRAWN = frozenset({*MATRIX_ROLES, "embedding", "position", "token"})


def find_twins(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Tensors that look random and are equal, or equal up to scale as far as they go (IN726)."""
    drawn = {
        name: value
        for name, value in values.items()
        if view.parameters[name].role in DRAWN and _looks_random(value)
    }
    equal = _groups((fingerprint(value), name) for name, value in drawn.items())
    doubled = {name for group in equal for name in group[1:]}
    alike = _alike({name: value for name, value in drawn.items() if name not in doubled})
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
        message=f"{listed(first)} {how}, although they look random; {plural(len(names), 'tensor')} "
        f"in {plural(len(groups), 'group')}",
        fix="draw each anew: a layer that was deep-copied has to be reset, and a generator must "
        "not be seeded again for every tensor",
        numbers={"tensors": len(names), "groups": len(groups)},
    )


def _groups(keyed: Iterable[tuple[object, str]]) -> list[tuple[str, ...]]:
    found: dict[object, list[str]] = defaultdict(list)
    for key, name in keyed:
        found[key].append(name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def _looks_random(value: torch.Tensor) -> bool:
    head = value.flatten()[: 4 * HEAD]
    if len(head) < HEAD or not bool(head.isfinite().all()):
        return False
    steps = head.float().diff()
    return len(head.unique()) > len(head) // 2 and len(steps.unique()) > len(head) // 2


def _alike(values: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Groups of tensors whose first elements are the same up to one factor."""
    heads = {name: _direction(value, HEAD) for name, value in values.items()}
    rough = _groups((tuple((head * 50).round().int().tolist()), n) for n, head in heads.items())
    groups = []
    for group in rough:
        first = values[group[0]]
        same = [group[0]] + [name for name in group[1:] if _agree(first, values[name])]
        if len(same) > 1:
            groups.append(tuple(same))
    return groups


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


CLOSE = 0.01
"""Distance of two rows, relative to their length, below which they start alike."""


def find_copied_rows(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Tables whose last rows are all the same: a vocabulary that was grown (IN734)."""
    for name, value in values.items():
        known = view.parameters[name]
        if known.role not in {"embedding", "head"} or value.dim() != 2 or len(value) < 4:
            continue
        last = value[-1].float()
        size = float(last.norm())
        if size == 0.0 or not _looks_random(last):
            continue
        run = 1
        while run < len(value) and float((value[-1 - run].float() - last).norm()) < CLOSE * size:
            run += 1
        if 2 <= run <= len(value) // 2:
            yield Finding(
                code="IN734",
                severity="warning",
                title="new rows all alike",
                where=(name,),
                message=f"the last {run} of {len(value):,} rows of {name} are the same within "
                f"{CLOSE:.0%}: tokens that start alike and are told apart by their gradients only",
                fix=f"with torch.no_grad(): {name}[-{run}:] += std * torch.randn_like("
                f"{name}[-{run}:]), with the std of the other rows",
                numbers={"rows": run, "of": len(value)},
            )
