"""initium: plan, fill, verify and explain the starting weights of a PyTorch model.

::

    import initium

    plan = initium.plan(model, "auto", inputs=batch)   # pure data: every parameter, and why
    plan.apply(model)                                  # same seed, same bits, everywhere
    report = initium.check(model, inputs=batch)        # is it fit to train from these weights?
    print(report)

Importing this package is cheap: torch is loaded with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initium import errors, init, recipes, spec, stream, testing
    from initium._api import initialize, plan
    from initium._calibrate import Calibration, calibrate
    from initium._check import check
    from initium._inspect import inspect
    from initium._plan import Entry, Plan, Recipe, Rule
    from initium._plan.explain import explain
    from initium._predict import Prediction, predict
    from initium._report.records import Finding, Report
    from initium._types import ModelView, ParameterView
    from initium.errors import (
        DependencyError,
        InitiumError,
        InputError,
        ModelError,
        OutputError,
        PlanError,
        PlanFileError,
        RecipeError,
        SpecError,
    )

    __version__: str

__all__ = [
    "Calibration",
    "DependencyError",
    "Entry",
    "Finding",
    "InitiumError",
    "InputError",
    "ModelError",
    "ModelView",
    "OutputError",
    "ParameterView",
    "Plan",
    "PlanError",
    "PlanFileError",
    "Prediction",
    "Recipe",
    "RecipeError",
    "Report",
    "Rule",
    "SpecError",
    "__version__",
    "calibrate",
    "check",
    "errors",
    "explain",
    "init",
    "initialize",
    "inspect",
    "plan",
    "predict",
    "recipes",
    "spec",
    "stream",
    "testing",
]

_SUBMODULES = frozenset({"errors", "init", "recipes", "spec", "stream", "testing"})

_HOMES = {
    "initium._api": ("initialize", "plan"),
    "initium._calibrate": ("Calibration", "calibrate"),
    "initium._check": ("check",),
    "initium._inspect": ("inspect",),
    "initium._plan": ("Entry", "Plan", "Recipe", "Rule"),
    "initium._plan.explain": ("explain",),
    "initium._predict": ("Prediction", "predict"),
    "initium._report.records": ("Finding", "Report"),
    "initium._types": ("ModelView", "ParameterView"),
    "initium.errors": (
        "DependencyError",
        "InitiumError",
        "InputError",
        "ModelError",
        "OutputError",
        "PlanError",
        "PlanFileError",
        "RecipeError",
        "SpecError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    value: object
    if name == "__version__":
        value = _version()
    elif name in _SUBMODULES:
        value = import_module(f"initium.{name}")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'initium' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("initium")
    except PackageNotFoundError:
        return "0+source"  # run from a source tree that is not installed
