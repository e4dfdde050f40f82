"""Calling a model with a batch, and finding the tensors in what goes in and comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from initium.errors import ModelError

__all__ = ["call", "first_floating", "map_tensors", "must_be_module", "tensors"]


def must_be_module(model: object) -> None:
    """Refuse anything but a module, before it fails in some deeper place.

    Raises:
        ModelError: it is not one, or it holds a compiled TorchScript module, whose code cannot be
            followed.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            "is not a torch.nn.Module",
            where="model",
            value=type(model).__name__,
            fix="pass the model itself, built",
        )
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.RecursiveScriptModule):  # type: ignore[attr-defined]
            raise ModelError(
                "is a TorchScript module, whose code cannot be followed",
                where=name or "model",
                value=part.original_name,
                fix="pass the model as it was before torch.jit.script",
            )


def call(model: Callable[..., Any], inputs: object) -> Any:
    """``model(**inputs)`` for a mapping, ``model(*inputs)`` for a tuple, ``model(inputs)`` else."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def tensors(tree: object) -> Iterator[torch.Tensor]:
    """The tensors in a nest of mappings, sequences and dataclasses, in order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))


def first_floating(tree: object) -> torch.Tensor | None:
    """The first floating-point or complex tensor of an output, or ``None``."""
    for tensor in tensors(tree):
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor
    return None


def map_tensors(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nest with every tensor changed; other leaves are passed through."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(value, change) for key, value in tree.items()}
    if isinstance(tree, Mapping):
        return {key: map_tensors(tree[key], change) for key in tree}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(value, change) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(value, change) for value in tree)
    return tree
