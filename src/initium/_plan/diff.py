"""What differs between two plans: entries added, removed or changed; printable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from initium._plan.plan import Entry, Plan
from initium._plan.table import spec_text
from initium._tables import fold, number, render, shape_text, table

__all__ = ["PlanDiff", "diff"]


@dataclass(frozen=True)
class PlanDiff:
    """The difference of two plans; false in a boolean context if there is none.

    Attributes:
        added: entries that only the other plan has.
        removed: entries that only the first plan has.
        changed: entries whose spec, shape, dtype or aliases differ, as (before, after).
        settings: seed, recipe, model, stream version or needs where they differ, likewise.
    """

    added: Mapping[str, Entry]
    removed: Mapping[str, Entry]
    changed: Mapping[str, tuple[Entry, Entry]]
    settings: Mapping[str, tuple[object, object]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.settings)

    def __str__(self) -> str:
        if not self:
            return "no difference"
        lines = [
            f"{key}: {old} -> {new}" for key, (old, new) in self.settings.items() if key != "needs"
        ]
        lines += self._needs()
        rows = []
        for sign, entries in (("-", self.removed), ("+", self.added)):
            for group in fold((name, (e.spec, e.shape)) for name, e in entries.items()):
                entry = entries[group.names[0]]
                rows.append((sign, group.pattern, _told(entry, entry), number(entry.std)))
        keyed = (
            (name, tuple(_facts(entry) for entry in pair)) for name, pair in self.changed.items()
        )
        for group in fold(keyed):
            before, after = self.changed[group.names[0]]
            rows.append(
                (
                    "~",
                    group.pattern,
                    f"{_told(before, after)} -> {_told(after, before)}",
                    f"{number(before.std)} -> {number(after.std)}",
                )
            )
        if not rows:
            return "\n".join(lines)
        body = render(table(("", "name", "spec", "std"), rows))
        return "\n".join([*lines, *([""] if lines else []), body])

    def _needs(self) -> list[str]:
        """What is no longer needed outside the weights, and what is now."""
        old, new = self.settings.get("needs", ((), ()))
        assert isinstance(old, tuple)
        assert isinstance(new, tuple)
        gone = [f"- needs {need}" for need in old if need not in new]
        return gone + [f"+ needs {need}" for need in new if need not in old]


def diff(before: Plan, after: Plan) -> PlanDiff:
    """What changes from ``before`` to ``after``; reasons and evidence are not compared."""
    old, new = before.entries, after.entries
    settings = {
        key: (getattr(before, key), getattr(after, key))
        for key in ("model", "recipe", "seed", "stream", "needs")
        if getattr(before, key) != getattr(after, key)
    }
    return PlanDiff(
        added={name: entry for name, entry in new.items() if name not in old},
        removed={name: entry for name, entry in old.items() if name not in new},
        changed={
            name: (entry, new[name])
            for name, entry in old.items()
            if name in new and _facts(entry) != _facts(new[name])
        },
        settings=settings,
    )


def _facts(entry: Entry) -> tuple[object, ...]:
    return (
        entry.spec,
        entry.shape,
        entry.dtype,
        entry.aliases,
        entry.lr,
        entry.persistent,
    )


def _told(entry: Entry, other: Entry) -> str:
    told = [spec_text(entry.spec)]
    if entry.shape != other.shape:
        told.append(shape_text(entry.shape))
    if entry.dtype != other.dtype:
        told.append(entry.dtype)
    if entry.lr != other.lr:
        told.append(f"lr x{number(entry.lr)}")
    if entry.persistent != other.persistent:
        told.append("persistent" if entry.persistent else "not persistent")
    if entry.aliases != other.aliases:
        told.append(f"tied to {', '.join(entry.aliases)}" if entry.aliases else "untied")
    return " ".join(told)
