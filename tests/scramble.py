"""A model without names: every module, parameter, buffer and class gets a meaningless one.

The renaming is real (``named_parameters`` shows it) and the model still runs. Covered: access by
attribute, index, slice and key, parametrized and recurrent layers, containers of parameters. Not
covered: code that compares the names it iterates over, and names of methods and arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, KeysView, Mapping
from typing import Any

from torch import nn

__all__ = ["scramble"]


class _Renamed(dict[str, Any]):
    """What a module holds, under new names, that still answers to the old ones.

    Who iterates sees the new names; who asks by name may use the old one, so that the code of
    ``forward`` still works.
    """

    def __init__(self, held: Mapping[str, Any], new: Mapping[str, str]) -> None:
        super().__init__((new[name], value) for name, value in held.items())
        self.new = new

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(self.new.get(name, name))

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(self.new.get(name, name), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(self.new.get(name, name))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self.new.get(str(name), name))

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(self.new.get(name, name), default)

    def keys(self) -> Any:
        return KeysView(self)


def _nameless(cls: type[nn.Module], name: str) -> type[nn.Module]:
    """A subclass under another name. Its text is still the old one, for who looks it up:
    transformers keeps by the text of a class what it records of it."""
    kind = type(name, (type(cls),), {"__repr__": lambda _: repr(cls)})
    return kind(name, (cls,), {"__module__": cls.__module__})


def scramble(model: nn.Module) -> None:
    """Give every submodule, parameter and buffer of ``model`` a meaningless name, in place.

    The classes lose their names too, each class consistently. The model still runs.
    """
    words = _words()
    blank: dict[type[nn.Module], type[nn.Module]] = {}
    for module in list(model.modules()):
        for kind in ("_modules", "_parameters", "_buffers"):
            held = module.__dict__[kind]
            new = {name: next(words) for name in held}
            module.__dict__[kind] = _Renamed(held, new)
            if kind == "_buffers":
                fleeting = module._non_persistent_buffers_set
                module.__dict__["_non_persistent_buffers_set"] = {
                    new.get(name, name) for name in fleeting
                }
        cls = type(module)
        if cls not in blank:
            blank[cls] = _nameless(cls, next(words))
        module.__class__ = blank[cls]


def _words() -> Iterator[str]:
    for length in itertools.count(3):
        for letters in itertools.product("zjy", repeat=length):
            yield "".join(letters)
