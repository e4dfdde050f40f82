"""A model from a short text: ``initium check MODEL`` on the command line, ``load`` in Python.

==============================  ===============================================================
source                          model
==============================  ===============================================================
``demo:<name>``                 a model that ships with initium, with real data
``hf:<model type>``             transformers' default configuration of that type
``hf:<path>/config.json``       a configuration file, or the folder that holds it
``timm:<name>``                 a model of timm
``path/file.py:<callable>``     what the callable (or class) in that file returns
``package.module:<callable>``   what the callable (or class) in that module returns
==============================  ===============================================================

A callable takes no arguments and returns a module, ``(model, inputs)`` or ``(model, inputs,
targets)``. Nothing is downloaded, and the global random state is left as it was.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from initium import demo
from initium._load.random import seeded
from initium._load.weightless import weightless
from initium._model.call import map_tensors
from initium._model.inputs import example_inputs
from initium.errors import InitiumError, InputError, ModelError, near

__all__ = ["FORMS", "SIZES", "Loaded", "init_function", "load", "loss_function"]

FORMS = (
    "demo:<name>",
    "hf:<model type>",
    "hf:<path/config.json>",
    "timm:<name>",
    "path/file.py:<callable>",
    "package.module:<callable>",
)
"""What :func:`load` accepts, as patterns."""

SIZES = {
    "width": ("width", "hidden_size", "n_embd", "d_model", "embed_dim", "hidden", "dim"),
    "depth": (
        "depth",
        "layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "num_hidden_layers",
        "blocks",
    ),
}
"""The names under which a callable may take its width and its depth."""

LossFn = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and a batch for it; ``note`` says in words where the batch comes from, ``inferred``
    whether it was made up from what the model says of itself."""

    model: nn.Module
    inputs: object
    targets: object
    loss_fn: LossFn | None
    name: str
    note: str
    inferred: bool = False


def load(
    source: str,
    tiny: bool = False,
    seed: int = 0,
    meta: bool = False,
    inputs: str | None = None,
    width: int | None = None,
    depth: int | None = None,
) -> Loaded:
    """Build the model that ``source`` names, with a batch for it.

    Args:
        source: one of :data:`FORMS`.
        tiny: scale an ``hf:`` model down; the others are built as they are.
        seed: for whatever the model's own code draws while it is built.
        meta: build the matrices on the meta device, without memory or numbers.
        inputs: ``file.py:callable`` or ``module:callable`` for another batch; the callable takes no
            arguments and returns the inputs, or a tuple ``(inputs, targets)``.
        width, depth: the size of the model instead of its own; a callable has to take an argument
            of that name, or one of :data:`SIZES`.

    Raises:
        ModelError: the model cannot be found, imported or built, or has no such sizes.
        InputError: the same for ``inputs``.
        DependencyError: the package behind ``hf:`` or ``timm:`` is not installed.

    Example:
        >>> loaded = load("demo:mlp-tanh-4")
        >>> loaded.name, tuple(loaded.inputs.shape)
        ('demo:mlp-tanh-4', (128, 64))
    """
    scheme, _, rest = source.partition(":")
    with seeded(seed):
        with weightless() if meta else nullcontext():
            loaded = _build(source, scheme, rest, tiny, meta, width, depth)
        if inputs is None:
            made_up = loaded.inferred and loaded.inputs is not None
            return replace(loaded, inputs=_with_values(loaded.inputs)) if made_up else loaded
        batch, targets = _read_batch(inputs)
    return Loaded(
        loaded.model, batch, targets, loaded.loss_fn, loaded.name, f"the batch of {inputs}"
    )


def _with_values(batch: object) -> object:
    """A made-up batch that was built without values, as unit normal numbers."""
    generator = torch.Generator().manual_seed(0)

    def real(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) if tensor.is_meta else tensor

    return map_tensors(batch, real)


def _build(
    source: str,
    scheme: str,
    rest: str,
    tiny: bool,
    meta: bool,
    width: int | None,
    depth: int | None,
) -> Loaded:
    if not rest:
        raise ModelError("is not the name of a model", where=source or "model", choices=FORMS)
    if scheme == "demo":
        return Loaded(*demo.build(rest, width, depth), source, "real data that ships with initium")
    if scheme == "hf":
        from initium._load.hf import load_hf

        model, batch, note = load_hf(rest, tiny=tiny, meta=meta, width=width, depth=depth)
        return Loaded(model, batch, None, None, source, note, inferred=True)
    if scheme == "timm":
        from initium._load.timm import load_timm

        model, batch, labels, note = load_timm(rest, width, depth)
        return Loaded(model, batch, labels, None, source, note, inferred=True)
    return _from_callable(source, {"width": width, "depth": depth})


def _from_callable(source: str, sizes: Mapping[str, int | None]) -> Loaded:
    with _importable_here():
        result = _call(source, ModelError, sizes)
    parts = result if isinstance(result, tuple) else (result,)
    model = parts[0] if parts else None
    if not isinstance(model, nn.Module) or len(parts) > 3:
        raise ModelError(
            "did not return a module",
            where=source,
            value=type(result).__name__,
            choices=("a torch.nn.Module", "(model, inputs)", "(model, inputs, targets)"),
        )
    targets = parts[2] if len(parts) == 3 else None
    if len(parts) > 1:
        return Loaded(model, parts[1], targets, None, source, "the batch that came with the model")
    batch = example_inputs(model)
    note = "a batch inferred from the model" if batch is not None else "no batch could be inferred"
    return Loaded(model, batch, None, None, source, note, inferred=True)


def _read_batch(source: str) -> tuple[object, object]:
    _must_name(source)
    with _importable_here():
        result = _call(source, InputError)
    if isinstance(result, tuple) and len(result) == 2:
        return result
    if result is None:
        raise InputError(
            "returned None", where=source, choices=("the inputs", "a tuple (inputs, targets)")
        )
    return result, None


def _call(
    source: str, error_type: type[InitiumError], sizes: Mapping[str, int | None] | None = None
) -> Any:
    """What the callable behind ``file.py:name`` or ``module:name`` returns."""
    found = _found(source, error_type)
    arguments = {
        _argument(found, source, what): size
        for what, size in (sizes or {}).items()
        if size is not None
    }
    try:
        return found(**arguments)
    except InitiumError:
        raise
    except Exception as error:
        said = ", ".join(f"{name}={size}" for name, size in arguments.items())
        raise error_type(
            f"raised {type(error).__name__} when called "
            f"{f'with {said}' if said else 'without arguments'}: {error}",
            where=source,
        ) from error


def init_function(source: str) -> Callable[..., Any]:
    """The callable behind ``file.py:name`` or ``module:name`` that initialises a model.

    Raises:
        InputError: it cannot be found or imported.

    Example:
        >>> init_function("torch.nn.init:zeros_").__name__
        'zeros_'
    """
    _must_name(source)
    with _importable_here():
        return _found(source, InputError)


def loss_function(source: str) -> LossFn:
    """The callable behind ``file.py:name`` or ``module:name`` that computes ``loss(output,
    targets)``.

    Raises:
        InputError: it cannot be found or imported.

    Example:
        >>> loss_function("torch.nn.functional:mse_loss").__name__
        'mse_loss'
    """
    return init_function(source)


def _must_name(source: str) -> None:
    if ":" not in source:
        raise InputError(
            "does not name a callable",
            where=source,
            choices=("file.py:callable", "module:callable"),
        )


def _found(source: str, error_type: type[InitiumError]) -> Callable[..., Any]:
    """The callable behind ``file.py:name`` or ``module:name``."""
    place, _, path = source.rpartition(":")
    try:
        found: Any = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except InitiumError as error:
        raise error_type(error.what, where=source, choices=error.choices, fix=error.fix) from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if callable(getattr(found, name, None))]
            public = [name for name in names if not name.startswith("_")]
            raise error_type(
                f"{place} has no {part!r}",
                where=source,
                choices=near(part, public) or _own(found, public)[:8],
                fix="name a callable without arguments that is defined there",
            )
        found = getattr(found, part)
    if not callable(found):
        raise error_type(
            "is not callable",
            where=source,
            value=type(found).__name__,
            fix="name a function or class without arguments",
        )
    return found


def _argument(function: Callable[..., Any], source: str, what: str) -> str:
    """The name under which a callable takes its width or its depth."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    taken = [
        one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    for name in SIZES[what]:
        if name in taken:
            return name
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return what
    raise ModelError(
        f"takes no argument for its {what}",
        where=source,
        value=", ".join(taken) or "no arguments",
        choices=SIZES[what],
        fix=f"give the function an argument {what}=",
    )


def _own(holder: object, names: list[str]) -> list[str]:
    """Those of ``names`` that ``holder`` defines itself rather than imports."""
    home = getattr(holder, "__name__", None)
    return [name for name in names if getattr(getattr(holder, name), "__module__", None) == home]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        folder = path.parent
        there = sorted(file.name for file in folder.glob("*.py")) if folder.is_dir() else []
        raise ModelError(f"there is no file {path}", choices=near(path.name, there))
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise ModelError(f"importing {path} raised {_one_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ModelError(
                f"there is no module {error.name!r}",
                fix="run from the folder that holds it, or install it; a file is path/file.py:name",
            ) from error
        raise ModelError(
            f"importing {name} needs the module {error.name!r}, which is not installed",
            fix=f"pip install {(error.name or '').split('.')[0]}",
        ) from error
    except Exception as error:
        raise ModelError(f"importing {name} raised {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _importable_here() -> Iterator[None]:
    """The working folder is importable, as it is for ``python -m``."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
