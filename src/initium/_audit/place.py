"""Who wrote: the line of code, the initialiser's name, and what else the call stack knows.

A place is the first frame outside torch and the standard library, from the innermost outward, that
is no initialiser itself. Initialisers are known by torch's convention for names: what writes in
place ends in an underscore, be it ``torch.nn.init.normal_`` or ``_trunc_normal_`` of a library that
has its own. On the way lie frames of torch that tell more: the constructor of a module that resets
itself, the getter of a parametrized weight, the bounds of a truncated normal.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch
from torch import nn

__all__ = ["Place", "here"]

TORCH = str(Path(torch.__file__).parent)
STANDARD = sysconfig.get_path("stdlib")
PACKAGES = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
OWN = str(Path(__file__).parent)
LOADERS = frozenset({"load_state_dict", "_load_from_state_dict", "from_pretrained"})
GETTERS = frozenset({"get_parametrized", "compute_weight"})


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a write comes from.

    Attributes:
        where: ``file:line in function``.
        routine: the outermost initialiser, or ``load_state_dict``; else ``None``.
        default: inside the constructor of a module of torch.
        derived: the module and name of the weight that a parametrization is computing.
        bounds: (low, high, std) of a truncated normal.
    """

    where: str
    routine: str | None = None
    default: bool = False
    derived: tuple[nn.Module, str] | None = None
    bounds: tuple[float, float, float] | None = None


def here() -> Place:
    """The place that the running operator was called from."""
    frame: FrameType | None = sys._getframe(1)
    routine: str | None = None
    default, derived, bounds = False, None, None
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        kind = _kind(file)
        if "trunc_normal_" in name and bounds is None:
            bounds = _bounds(frame)
        if _initialises(name) or name in LOADERS:
            routine = name.removeprefix("_no_grad_").lstrip("_")
        elif kind == "user":
            break
        elif kind == "modules":
            default = default or name == "__init__"
        elif name in GETTERS and kind == "utils":
            derived = _derived(frame) or derived
        frame = frame.f_back
    where = _told(frame) if frame is not None else "unknown"
    return Place(where, routine, default, derived, bounds)


@lru_cache(maxsize=4096)
def _kind(file: str) -> str:
    if file.startswith(TORCH):
        inside = file[len(TORCH) :].replace("\\", "/")
        if inside.startswith("/nn/modules/") and not inside.endswith("/module.py"):
            return "modules"
        return "utils" if inside.startswith("/nn/utils/") else "torch"
    if file.startswith(OWN):
        return "own"
    standard = file.startswith((STANDARD, "<frozen", "<@beartype")) and not file.startswith(
        PACKAGES
    )
    return "standard" if standard else "user"


def _initialises(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _told(frame: FrameType) -> str:
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"


@lru_cache(maxsize=4096)
def _short(file: str) -> str:
    path = Path(file)
    for base in (*PACKAGES, str(Path.cwd())):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return path.name


def _derived(frame: FrameType) -> tuple[nn.Module, str] | None:
    """The module and weight of ``get_parametrized``, or of the hook of an older norm of weights."""
    held = frame.f_locals
    module = held.get("module", held.get("self"))
    name = held.get("tensor_name", getattr(held.get("self"), "name", None))
    return (module, name) if isinstance(module, nn.Module) and isinstance(name, str) else None


def _bounds(frame: FrameType) -> tuple[float, float, float] | None:
    numbers = [frame.f_locals.get(name) for name in ("a", "b", "std")]
    if all(isinstance(number, (int, float)) for number in numbers):
        low, high, std = (float(number) for number in numbers if number is not None)
        return low, high, std
    return None
