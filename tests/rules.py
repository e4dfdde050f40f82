"""What the tests of single inspection rules share: how a case reads, and how it is tried.

A case is a small model, its inputs, and for each weight a text: ``role [fan_in fan_out] [writes]
[label=total ...]``. A model that is renamed throughout has to give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from scramble import scramble
from torch import Tensor, nn

from initium import inspect
from initium._model.names import slots
from initium._types import ParameterView

__all__ = ["IMAGE", "TOKENS", "WIDTH", "Cases", "assert_seen", "joined", "registry", "split"]

WIDTH = 16
TOKENS = torch.zeros(2, 5, WIDTH)
IMAGE = torch.zeros(2, 3, 8, 8)

Cases: TypeAlias = dict[str, tuple[Callable[[], nn.Module], object, dict[str, str]]]
"""Name -> a model, its inputs, and what has to be seen of it."""


def registry() -> tuple[Cases, Callable[[object, dict[str, str]], Callable[[type], type]]]:
    """Empty cases, and the decorator that adds the model it stands on: ``@case(inputs, {...})``."""
    cases: Cases = {}

    def case(inputs: object, expected: dict[str, str]) -> Callable[[type], type]:
        def register(model: type) -> type:
            cases[model.__name__] = (model, inputs, expected)
            return model

        return register

    return cases, case


def assert_seen(
    make: Callable[[], nn.Module], inputs: object, expected: Mapping[str, str], *, renamed: bool
) -> None:
    """Every weight that a case names is what the case says, and by the trace."""
    model = make()
    old = [key for key, slot in slots(model).items() if not slot.is_buffer]
    if renamed:
        scramble(model)
    new = [key for key, slot in slots(model).items() if not slot.is_buffer]
    names = dict(zip(old, new, strict=True))
    view = inspect(model, inputs)
    assert view.problem is None
    seen = {key: view.parameters[names[key]] for key in expected}
    assert {key: described(seen[key], text) for key, text in expected.items()} == expected
    assert all(found.evidence["role"].rung == "traced" for found in seen.values())


def described(view: ParameterView, text: str) -> str:
    """What the view says, with the kinds of statement that ``text`` makes."""
    said = [str(view.role)]
    words = text.split()
    if any(word.isdigit() for word in words):
        fused = any(not block.stacked for block in view.blocks) and "=" in text
        said += [str(view.fan_in)] if fused else [str(view.fan_in), str(view.fan_out)]
    if view.writes_residual:
        said.append("writes")
    if any("=" in word for word in words):
        said += [f"{block.label}={block.total}" for block in view.blocks]
    return " ".join(said)


def split(x: Tensor, heads: int) -> Tensor:
    """The last dimension cut into heads, which stand before the positions."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The heads side by side again."""
    return x.transpose(1, 2).flatten(2)
