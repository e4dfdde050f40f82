"""What measures: hooks on every module and on every output's gradient, into accumulators.

Nothing of the pass is kept: a tensor is reduced where it appears, block by block in double
precision (single where the device has no double), and forgotten. An output that several nested
modules return is measured once. What drives the model is not known here.

Not covered: values that pass between modules without being a module's output (a functional ReLU).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from initium._check.facts import LayerFacts
from initium._check.thresholds import SATURATED_SIGMOID, SATURATED_TANH
from initium._model.call import first_floating, tensors
from initium._model.moments import BLOCK, Moments
from initium._model.names import canonical, named_modules
from initium._report.records import LayerRecord
from initium._types import ModelView

__all__ = ["Measure", "sample_count"]

ALIVE_ROWS = 64


def sample_count(inputs: object) -> int:
    """Number of samples of a batch; 1 where it has one, or where all its samples are equal."""
    shaped = [tensor for tensor in tensors(inputs) if tensor.dim() > 0]
    if not shaped or any(tensor.is_meta for tensor in shaped):
        return 1
    count = shaped[0].shape[0]
    batched = [tensor for tensor in shaped if tensor.shape[0] == count]
    differ = any(not torch.equal(tensor, tensor[:1].expand_as(tensor)) for tensor in batched)
    return count if count > 1 and differ else 1


@dataclass(slots=True)
class _Layer:
    """What one module has shown so far."""

    module_type: str
    order: int
    calls: int = 0
    shape: tuple[int, ...] = ()
    forward: Moments = field(default_factory=Moments)
    backward: Moments = field(default_factory=Moments)
    signal: bool = True
    saturated: float | None = None
    breaks: bool = False
    alive: torch.Tensor | None = None
    producer: str | None = None
    resolution: float = 0.0


@dataclass(slots=True)
class _Seen:
    """One output tensor: who returned it first, and everyone who returned it."""

    reference: weakref.ref[torch.Tensor]
    version: int
    moments: Moments
    producer: str
    layers: list[_Layer]


class Measure:
    """Hooks for one forward and backward pass; afterwards :meth:`layers` and :meth:`facts`.

    Args:
        model: the module to watch.
        samples: batch size, from :func:`sample_count`.
        view: names the matrix that a module holds.
    """

    def __init__(self, model: nn.Module, samples: int, view: ModelView) -> None:
        self.model = model
        self.samples = samples
        self.weights = _weights(model, view)
        self.found: dict[str, _Layer] = {}
        self.seen: dict[int, _Seen] = {}
        self.forward_done = False
        self.handles: list[Any] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are there inside the block, and gone after it."""
        try:
            for name, module in named_modules(self.model):
                hook = self._hook(name)
                self.handles.append(module.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in self.handles:
                handle.remove()
            self.seen.clear()

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensor = first_floating(output)
            if tensor is None or tensor.numel() == 0:
                return
            with torch.no_grad():
                self._output(name, module, (args, kwargs), tensor)

        return hook

    def _output(self, name: str, module: nn.Module, given: Any, tensor: torch.Tensor) -> None:
        layer = self.found.get(name)
        if layer is None:
            layer = _Layer(type(module).__name__, len(self.found), shape=tuple(tensor.shape))
            self.found[name] = layer
        version = 0 if tensor.is_inference() else tensor._version
        seen = self.seen.get(id(tensor))
        if seen is None or seen.reference() is not tensor or seen.version != version:
            samples = self._samples(tensor) if not self.forward_done else 0
            moments = Moments.of(tensor, samples) if samples else Moments()
            seen = _Seen(weakref.ref(tensor), version, moments, name, [])
            self.seen[id(tensor)] = seen
            if tensor.requires_grad:
                shared = seen.layers
                hook = tensor.register_hook(lambda grad: _gradient(shared, grad))
                self.handles.append(hook)
        seen.layers.append(layer)
        if self.forward_done:
            return
        layer.calls += 1
        layer.forward.add(seen.moments)
        layer.signal &= self._samples(tensor) > 1
        layer.resolution = max(layer.resolution, torch.finfo(tensor.dtype).eps)
        if seen.moments.nonfinite and not layer.breaks:
            floating = (value for value in tensors(given) if value.is_floating_point())
            layer.breaks = all(bool(value.isfinite().all()) for value in floating)
        layer.saturated = _saturated(module, tensor, layer.saturated)
        if name in self.weights:
            self._units(name, layer, module, first_floating(given))

    def _samples(self, tensor: torch.Tensor) -> int:
        fits = tensor.dim() > 0 and self.samples > 1 and tensor.shape[0] % self.samples == 0
        return self.samples if fits else 1

    def _units(
        self, name: str, layer: _Layer, module: nn.Module, given: torch.Tensor | None
    ) -> None:
        """Which input units were non-zero at least once; candidates shrink with every row."""
        if given is None or given.dim() < 2 or given.grad_fn is None:
            return
        convolution = isinstance(module, torch.nn.modules.conv._ConvNd) and given.dim() > 2
        size = given.shape[1 if convolution else -1]
        if layer.alive is None or layer.alive.numel() != size:
            layer.alive = torch.zeros(size, dtype=torch.bool, device=given.device)
            seen = self.seen.get(id(given))
            known = seen is not None and seen.reference() is given
            layer.producer = seen.producer if seen is not None and known else None
        samples = given.flatten(2).mT if convolution else given.reshape(1, -1, size)
        for rows in samples:
            start, step = 0, ALIVE_ROWS
            while start < len(rows):
                silent = (~layer.alive).nonzero().squeeze(-1)
                if silent.numel() == 0:
                    return
                layer.alive[silent] = rows[start : start + step, silent].ne(0).any(0)
                start, step = start + step, max(ALIVE_ROWS, BLOCK // silent.numel())

    def layers(self) -> dict[str, LayerRecord]:
        """A record for every module that was called, in the order in which they finished."""
        dead = {
            layer.producer: 1.0 - float(layer.alive.double().mean())
            for layer in self.found.values()
            if layer.alive is not None and layer.producer is not None
        }
        return {
            name: _record(name, layer, self.weights.get(name), dead.get(name))
            for name, layer in self.found.items()
        }

    def facts(self) -> dict[str, LayerFacts]:
        """What the findings need to know of modules besides their records."""
        return {
            name: LayerFacts(
                breaks=layer.breaks,
                resolution=layer.resolution,
                input_units=0 if layer.alive is None else layer.alive.numel(),
                dead_inputs=0 if layer.alive is None else int((~layer.alive).sum()),
                producer=layer.producer,
            )
            for name, layer in self.found.items()
        }


def _gradient(layers: list[_Layer], grad: torch.Tensor) -> None:
    moments = Moments.of(grad)
    for layer in layers:
        layer.backward.add(moments)


def _saturated(module: nn.Module, tensor: torch.Tensor, before: float | None) -> float | None:
    if isinstance(module, (nn.Tanh, nn.Hardtanh)) and not isinstance(module, nn.ReLU6):
        limits = (-SATURATED_TANH, SATURATED_TANH)
    elif isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        limits = (1 - SATURATED_SIGMOID, SATURATED_SIGMOID)
    else:
        return before
    parts = tensor.detach().reshape(-1).split(1 << 20)
    outside = sum(int(((part < limits[0]) | (part > limits[1])).sum()) for part in parts)
    return max(before or 0.0, outside / tensor.numel())


def _weights(model: nn.Module, view: ModelView) -> dict[str, str]:
    """Module -> the first matrix that it holds itself (or through a parametrization)."""
    names = {id(value): canonical(name, model) for name, value in model.named_parameters()}
    held: dict[str, str] = {}
    for name, module in named_modules(model):
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            continue
        own = list(module.parameters(recurse=False))
        parametrized = getattr(module, "parametrizations", {})
        for leaf in parametrized:
            own.extend(parametrized[leaf].parameters(recurse=False))
        for parameter in own:
            known = view.parameters.get(names[id(parameter)])
            if known is not None and known.is_matrix and name not in held:
                held[name] = known.name
    return held


def _record(name: str, layer: _Layer, weight: str | None, dead: float | None) -> LayerRecord:
    forward, backward = layer.forward, layer.backward
    reached = backward.elements > 0
    return LayerRecord(
        name=name,
        module_type=layer.module_type,
        order=layer.order,
        calls=layer.calls,
        shape=layer.shape,
        mean=forward.per_element(forward.total),
        second_moment=forward.per_element(forward.squares),
        signal=forward.centred / forward.freedom if layer.signal and forward.freedom else None,
        nonfinite=forward.per_element(forward.nonfinite),
        zeros=forward.per_element(forward.zeros),
        grad_mean=backward.per_element(backward.total) if reached else None,
        grad_second_moment=backward.per_element(backward.squares) if reached else None,
        grad_nonfinite=backward.per_element(backward.nonfinite),
        dead_units=dead,
        saturated=layer.saturated,
        weight=weight,
    )
