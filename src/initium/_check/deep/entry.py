"""Where a differentiable signal enters: the first floating input, or the embedding's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initium._check.deep.passes import Subject
from initium._check.facts import Facts
from initium._model.call import map_tensors, tensors
from initium._model.names import named_modules

__all__ = ["Entry", "find_entry"]

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` is the embedding whose output enters; ``None``: a floating input does."""

    name: str
    module: nn.Module | None

    @contextmanager
    def changed(self, inputs: object, change: Change) -> Iterator[object]:
        """The inputs to call the model with, so that ``change`` is applied to what enters."""
        waiting = True

        def once(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal waiting
            if waiting and tensor.is_floating_point():
                waiting = False
                return change(tensor)
            return tensor

        if self.module is None:
            yield map_tensors(inputs, once)
            return

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            return once(output)

        handle = self.module.register_forward_hook(hook)
        try:
            yield inputs
        finally:
            handle.remove()


def find_entry(subject: Subject, facts: Facts) -> Entry | None:
    """What enters first: a leading floating tensor, else the first embedding, else any floating."""
    given = list(tensors(subject.inputs))
    if given and given[0].is_floating_point():
        return Entry("inputs", None)
    roles = {known.module: known.role for known in subject.view.parameters.values()}
    modules = dict(named_modules(subject.model))
    for record in sorted(facts.layers.values(), key=lambda layer: layer.order):
        module, role = modules[record.name], roles.get(record.name)
        table = isinstance(module, nn.Embedding) and role not in ("position", "token")
        if table or role == "embedding":
            return Entry(record.name, module)
    return Entry("inputs", None) if any(t.is_floating_point() for t in given) else None
