"""Every error that initium raises on purpose.

::

    InitiumError
    ├── SpecError          a distribution with impossible numbers, or one that does not fit a shape
    ├── RecipeError        an unknown recipe, a wrong argument, a rule that cannot be read
    ├── ModelError         a model that cannot be found, imported, built or run
    ├── InputError         a batch, target or loss that does not fit the model
    ├── PlanError          a plan that does not cover its model, or belongs to another one
    ├── PlanFileError      a plan file that is damaged or of an unknown version
    ├── OutputError        a file that cannot be written; nothing was changed
    └── DependencyError    an optional package that is needed here and not installed

One message is one line: what is wrong, where, the value that was found, the choices, and the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DependencyError",
    "InitiumError",
    "InputError",
    "ModelError",
    "OutputError",
    "PlanError",
    "PlanFileError",
    "RecipeError",
    "SpecError",
    "TraceWarning",
    "near",
]


class Near(tuple[str, ...]):
    """A few names like the one that was given: suggestions, not all the choices."""


class InitiumError(Exception):
    """Base of all errors of initium.

    Args:
        what: what is wrong, as a clause without a full stop.
        where: the parameter, file or argument concerned.
        value: what was found there.
        choices: what would have been accepted.
        fix: what to do about it, as a clause.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        value: object = None,
        choices: Iterable[str] = (),
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.value = value
        self.choices = choices if isinstance(choices, Near) else tuple(choices)
        self.fix = fix
        super().__init__(self._line())

    def _line(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.value is not None:
            line += f" (got {self.value!r})"
        if self.choices:
            asks = isinstance(self.choices, Near)
            line += "; did you mean " if asks else "; choose from "
            line += ", ".join(self.choices) + ("?" if asks else "")
        if self.fix:
            line += f"{'' if line.endswith('?') else '.'} Fix: {self.fix}"
        return " ".join(line.split())


class TraceWarning(UserWarning):
    """The model's own forward pass was not seen on the inputs that were given."""


class SpecError(InitiumError, ValueError):
    """A distribution with impossible numbers, or one that does not fit a shape."""


class RecipeError(InitiumError, ValueError):
    """An unknown recipe, a wrong argument, or a rule that cannot be read."""


class ModelError(InitiumError):
    """A model that cannot be found, imported, built or run."""


class InputError(InitiumError):
    """A batch, target or loss that does not fit the model."""


class PlanError(InitiumError):
    """A plan that does not cover its model, or that belongs to another one."""


class PlanFileError(InitiumError, ValueError):
    """A plan file that is damaged or of an unknown version."""


class OutputError(InitiumError, OSError):
    """A file that cannot be written; nothing was changed."""

    def __str__(self) -> str:
        return self._line()


class DependencyError(InitiumError, ImportError):
    """An optional package that is needed here and not installed."""


def near(name: str, known: Iterable[str], count: int = 3) -> Near:
    """The names most like ``name``, for the choices of an error message."""
    return Near(difflib.get_close_matches(name, list(dict.fromkeys(known)), n=count, cutoff=0.4))
