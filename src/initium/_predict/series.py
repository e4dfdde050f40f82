"""The repeated blocks of a model, and how close its inputs stay to one another through them.

A series is made of modules whose names differ in their numbers alone, of one type and one shape of
output: the blocks of a transformer, the layers of a plain net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from initium._model.call import first_floating
from initium._model.names import named_modules
from initium._plan import Plan
from initium._predict.draw import draw
from initium._predict.records import LayerPrediction

__all__ = ["distances", "longest_series"]


def longest_series(layers: Iterable[LayerPrediction]) -> tuple[LayerPrediction, ...]:
    """The longest series among modules, the outermost of equally long ones; empty without one."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[LayerPrediction]] = {}
    for layer in layers:
        parts = ["#" if part.isdecimal() else part for part in layer.name.split(".")]
        if "#" in parts:
            pattern = ".".join(parts)
            groups.setdefault((pattern, layer.module_type, layer.shape), []).append(layer)
    found = max(groups.values(), key=lambda one: (len(one), -one[0].name.count(".")), default=[])
    return tuple(sorted(found, key=lambda layer: layer.order)) if len(found) > 1 else ()


def distances(
    model: nn.Module, plan: Plan, inputs: object, names: Sequence[str], seed: int = 0
) -> list[float]:
    """1 - c at the output of each named module: how far apart its inputs still are, in one draw.

    c is the mean cosine over pairs: of positions of the same sample where the output is
    ``[samples, positions, channels]``, else of samples.

    Example:
        >>> import initium
        >>> net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
        >>> inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
        >>> found = distances(net, initium.plan(net, "he"), inputs, ["0", "1"])
        >>> found[0] > found[1]  # a ReLU brings its inputs together
        True
    """
    found: dict[str, float] = {}

    def hook(name: str) -> Callable[..., None]:
        def take(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_floating(output)
            if tensor is not None and name not in found:
                found[name] = 1 - _cosine(tensor.detach())

        return take

    wanted = set(names)
    modules = [(name, module) for name, module in named_modules(model) if name in wanted]
    handles = [module.register_forward_hook(hook(name)) for name, module in modules]
    try:
        draw(model, plan, inputs, seed=seed)
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name in names if name in found]


def _cosine(output: torch.Tensor) -> float:
    """The mean cosine over pairs; nan where there is only one of what is compared."""
    rows = output.double()
    rows = rows if rows.dim() == 3 and rows.shape[1] > 1 else rows.flatten(1).unsqueeze(0)
    unit = torch.nn.functional.normalize(rows, dim=-1)
    count = unit.shape[1]
    if count < 2:
        return float("nan")
    both = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return float(both.mean()) / (count * (count - 1))
