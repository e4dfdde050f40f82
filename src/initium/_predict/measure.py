"""Moments of every module's output, and of the gradient that comes back to it.

The same definition as a check's records: the first floating tensor of the output, all calls of the
module together; a tensor that several nested modules return is reduced once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import _disable_current_modes

from initium._model.call import first_floating
from initium._model.moments import Moments
from initium._model.names import named_modules
from initium._predict.records import LayerMoments

__all__ = ["CLOSED", "LAZY", "SAMPLED", "Gauge", "weaker"]

CLOSED, SAMPLED, LAZY = "closed form", "monte carlo", "lazy draw"
"""Tiers: what moments rest on."""


@dataclass(slots=True)
class _Layer:
    name: str
    module_type: str
    order: int
    shape: tuple[int, ...]
    calls: int = 0
    tier: str = ""
    grad_tier: str = ""
    forward: Moments = field(default_factory=Moments)
    backward: Moments = field(default_factory=Moments)

    def moments(self) -> LayerMoments:
        forward, backward = self.forward, self.backward
        gradient = backward.per_element(backward.squares) if backward.elements else None
        return LayerMoments(
            name=self.name,
            module_type=self.module_type,
            order=self.order,
            calls=self.calls,
            shape=self.shape,
            mean=forward.per_element(forward.total),
            second_moment=forward.per_element(forward.squares),
            grad_second_moment=gradient,
            tier=self.tier,
            grad_tier=self.grad_tier,
        )


@dataclass(slots=True)
class _Seen:
    """One output tensor, and the layers that returned it."""

    reference: weakref.ref[torch.Tensor]
    version: int
    sums: Moments
    layers: list[_Layer]


def weaker(one: str, other: str) -> str:
    """The weaker of two tiers."""
    return SAMPLED if SAMPLED in (one, other) else other


class Gauge:
    """Hooks for one forward and backward pass of a model.

    Args:
        model: whose modules are measured.
        tier: what the moments of a tensor rest on.
    """

    def __init__(
        self, model: nn.Module, tier: Callable[[torch.Tensor], str] = lambda tensor: LAZY
    ) -> None:
        self.model = model
        self.tier = tier
        self.found: dict[str, _Layer] = {}
        self.seen: dict[int, _Seen] = {}
        self.handles: list[Any] = []
        self.forward_done = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are there inside the block, and gone after it."""
        try:
            for name, module in named_modules(self.model):
                self.handles.append(module.register_forward_hook(self._hook(name)))
            yield
        finally:
            for handle in self.handles:
                handle.remove()
            self.seen.clear()

    def layers(self) -> dict[str, LayerMoments]:
        """By module, in the order in which they finished."""
        return {name: layer.moments() for name, layer in self.found.items()}

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_floating(output)
            if tensor is None or is_functorch_wrapped_tensor(tensor):  # of many, by vmap
                return
            if tensor.numel() and not self.forward_done:
                self._take(name, module, tensor)

        return hook

    def _take(self, name: str, module: nn.Module, tensor: torch.Tensor) -> None:
        layer = self.found.get(name)
        if layer is None:
            kind, shape = type(module).__name__, tuple(tensor.shape)
            layer = self.found[name] = _Layer(name, kind, len(self.found), shape)
        seen = self.seen.get(id(tensor))
        if seen is None or seen.reference() is not tensor or seen.version != tensor._version:
            seen = _Seen(weakref.ref(tensor), tensor._version, _moments(tensor), [])
            self.seen[id(tensor)] = seen
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(self._gradient(seen.layers)))
        seen.layers.append(layer)
        layer.calls += 1
        layer.forward.add(seen.sums)
        layer.tier = weaker(layer.tier, self.tier(tensor))

    def _gradient(self, layers: list[_Layer]) -> Callable[[torch.Tensor], None]:
        def hook(gradient: torch.Tensor) -> None:
            sums = _moments(gradient)
            for layer in layers:
                layer.backward.add(sums)
                layer.grad_tier = weaker(layer.grad_tier, self.tier(gradient))

        return hook


def _moments(tensor: torch.Tensor) -> Moments:
    """Below the modes of a draw: what is measured is no part of the model."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        real = type(tensor) in (torch.Tensor, nn.Parameter)
        values = tensor if real else tensor.detach() + 0.0  # of a lazy weight
        return Moments.of(values, zeros=False, exact=False)
