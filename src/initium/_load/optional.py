"""Importing packages that are only needed when their models are asked for.

Covered: a clear error for what is missing or broken, and a torchvision whose compiled operators do
not load. Not covered: version limits.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

from initium.errors import DependencyError

__all__ = ["import_optional"]

_STAND_IN = "torchvision._meta_registrations"


def import_optional(package: str) -> Any:
    """Import ``package``, which may itself import torchvision.

    Raises:
        DependencyError: the package is not installed, or does not import.
    """
    if package in sys.modules:
        return sys.modules[package]
    if importlib.util.find_spec(package) is None:
        raise DependencyError(
            "is needed for this model and not installed",
            where=package,
            fix=f"pip install {package}",
        )
    _mend_torchvision()
    try:
        return importlib.import_module(package)
    except Exception as error:
        raise DependencyError(
            f"is installed and cannot be imported: {type(error).__name__}: {error}",
            where=package,
            fix=f"repair or reinstall {package}",
        ) from error


def _mend_torchvision() -> None:
    """Make torchvision importable where its compiled operators do not load.

    A torchvision that was built for another torch raises ``operator torchvision::nms does not
    exist`` while it registers shape functions for its operators. Models seldom use those operators,
    so an empty module stands in for the registration.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception:
        for loaded in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        sys.modules[_STAND_IN] = types.ModuleType(_STAND_IN)
