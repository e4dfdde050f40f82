"""What differs between two plans: entries added, removed or changed; printable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import RenderableType

from initium._plan.plan import Entry, Plan
from initium._plan.table import rate_text, spec_text
from initium._tables import fold, legend, number, render, shape_text, table
from initium.spec import Spec, Value

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
        parts: list[RenderableType] = [
            f"{key}: {old} -> {new}" for key, (old, new) in self.settings.items() if key != "needs"
        ]
        if needs := self._needs():
            parts.append(legend(needs, justify="left"))
        if rows := self._rows():
            parts += ["", table(("", "name", "what", "std"), rows)]
        return render(*parts).lstrip("\n")

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """A line for each distinct change, repeated blocks folded."""
        told = {
            name: ("-", spec_text(entry.spec), number(entry.std))
            for name, entry in self.removed.items()
        }
        told |= {
            name: ("+", spec_text(entry.spec), number(entry.std))
            for name, entry in self.added.items()
        }
        for name, (before, after) in self.changed.items():
            stds = dict.fromkeys((number(before.std), number(after.std)))
            told[name] = ("~", "\n".join(_changes(before, after)), " -> ".join(stds))
        rows = []
        for group in fold(told.items()):
            sign, what, std = told[group.names[0]]
            rows.append((sign, group.pattern, what, std))
        return rows

    def _needs(self) -> list[tuple[str, str]]:
        """What is no longer needed outside the weights, and what is now."""
        old, new = self.settings.get("needs", ((), ()))
        assert isinstance(old, tuple)
        assert isinstance(new, tuple)
        gone = [("-", f"needs {need}") for need in old if need not in new]
        return gone + [("+", f"needs {need}") for need in new if need not in old]


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


def _changes(before: Entry, after: Entry) -> list[str]:
    """What differs between two entries, each as ``before -> after``."""
    told = []
    if before.spec != after.spec:
        told.append(_both(*_specs(before.spec, after.spec)))
    if before.shape != after.shape:
        told.append(_both(shape_text(before.shape), shape_text(after.shape)))
    if before.dtype != after.dtype:
        told.append(_both(before.dtype, after.dtype))
    if before.lr != after.lr:
        told.append(_both(rate_text(before.lr), f"x{number(after.lr)}"))
    if before.persistent != after.persistent:
        kinds = [
            "persistent" if entry.persistent else "not persistent" for entry in (before, after)
        ]
        told.append(_both(*kinds))
    if before.aliases != after.aliases:
        ties = [
            f"tied to {', '.join(entry.aliases)}" if entry.aliases else "not tied"
            for entry in (before, after)
        ]
        told.append(_both(*ties))
    return told


def _specs(before: Spec, after: Spec) -> tuple[str, str]:
    """Both specs, with as many digits as it takes to tell them apart."""
    short = spec_text(before), spec_text(after)
    if short[0] != short[1]:
        return short
    if isinstance(before, Value):
        return short[0], "other values"
    return str(before), str(after)


def _both(before: str, after: str) -> str:
    return f"{before} -> {after}"
