"""What measures: hooks on every module and on every output's gradient, into accumulators.

Nothing of the pass is kept: a tensor is reduced where it appears, block by block in double
precision (single where the device has no double), and forgotten. An output that several nested
modules return is measured once. What drives the model is not known here.

Values that pass between modules without being a module's output are seen as far as
:mod:`initium._check.between` looks at their operators.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from initium._check.between import Between
from initium._check.facts import LayerFacts
from initium._check.gates import saturated_gates
from initium._check.sample import Ranges, channel_mean, mean_square, token_cosine
from initium._model.call import first_floating, tensors
from initium._model.moments import Moments
from initium._model.names import canonical, named_modules
from initium._report.records import AttentionRecord, BranchRecord, LayerRecord
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
    given: float | None = None
    channel_mean: float | None = None
    token_cosine: float | None = None
    tracked: bool = False
    cuts: bool = False


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
        self.view = view
        self.weights = _weights(model, view)
        self.norms = _norms(model, view)
        self.parents = {n for n, m in named_modules(model) if next(m.children(), None) is not None}
        self.between = Between(self)
        self.activations, self.gradients = Ranges(), Ranges()
        self.dtypes: frozenset[str] = frozenset()
        self.stack: list[tuple[str, bool]] = [("", True)]
        self.placed: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}
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
                if name:
                    entered = self._entered(name, module)
                    self.handles.append(module.register_forward_pre_hook(entered))
            yield
        finally:
            for handle in self.handles:
                handle.remove()
            self.seen.clear()
            self.placed.clear()

    def _entered(self, name: str, module: nn.Module) -> Callable[..., None]:
        transparent = not isinstance(module, nn.RNNBase)

        def hook(module: nn.Module, args: Any) -> None:
            if not self.forward_done:
                self.stack.append((name, transparent))

        return hook

    def _left(self, name: str) -> None:
        """Modules that were left by an exception are left, too."""
        while len(self.stack) > 1 and self.stack.pop()[0] != name:
            pass

    def here(self) -> str | None:
        """The innermost module that is running, unless it is a recurrent one."""
        name, transparent = self.stack[-1]
        return name if transparent else None

    def place(self, given: torch.Tensor) -> str:
        """The running module if nothing is inside it, else what made ``given``, else it all the
        same."""
        here = self.stack[-1][0]
        return here if here not in self.parents else self._producer(given) or here

    def age(self, tensor: torch.Tensor) -> int | None:
        """When the module that returned ``tensor`` first did so."""
        seen = self.seen.get(id(tensor))
        if seen is None or seen.reference() is not tensor:
            return None
        return self.found[seen.producer].order

    def made(self, tensor: torch.Tensor, place: str) -> None:
        """A functional activation: whoever reads ``tensor`` reads it from ``place``."""
        self.placed[id(tensor)] = (weakref.ref(tensor), place)

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if name and not self.forward_done:
                self._left(name)
            tensor = first_floating(output)
            if tensor is None or tensor.numel() == 0:
                return
            with torch.no_grad(), torch._C.DisableTorchFunction(), self.between.aside():
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
            moments = Moments.of(tensor, samples, exact=False) if samples else Moments()
            seen = _Seen(weakref.ref(tensor), version, moments, name, [])
            self.seen[id(tensor)] = seen
            if tensor.requires_grad:
                shared = seen.layers
                hook = tensor.register_hook(lambda grad: self._gradient(name, shared, grad))
                self.handles.append(hook)
            if not self.forward_done and tensor.is_floating_point():
                self.activations.see(name, tensor)
                self.dtypes |= {str(tensor.dtype).removeprefix("torch.")}
        seen.layers.append(layer)
        if self.forward_done:
            return
        layer.calls += 1
        layer.tracked |= tensor.requires_grad
        layer.cuts = not layer.tracked and any(value.requires_grad for value in tensors(given))
        layer.forward.add(seen.moments)
        layer.signal &= self._samples(tensor) > 1
        layer.resolution = max(layer.resolution, torch.finfo(tensor.dtype).eps)
        if seen.moments.nonfinite and not layer.breaks:
            floating = (value for value in tensors(given) if value.is_floating_point())
            layer.breaks = all(bool(value.isfinite().all()) for value in floating)
        source = first_floating(given)
        if source is not None and source is not tensor and source.numel():
            self._read(name, layer, module, source, tensor)
        if tensor.dim() == 3 and (name in self.parents or isinstance(module, nn.Embedding)):
            layer.token_cosine = token_cosine(tensor)
        if isinstance(module, nn.RNNBase):
            gates = saturated_gates(module, given[0])
            layer.saturated = gates if gates is not None else layer.saturated
        weight = self.view.parameters.get(self.weights.get(name, ""))
        if weight is not None and weight.writes_residual:
            self.between.wrote(weight.name, layer.order)

    def _read(
        self, name: str, layer: _Layer, module: nn.Module, given: torch.Tensor, out: torch.Tensor
    ) -> None:
        layer.producer = layer.producer or self._producer(given)
        if name in self.weights or name in self.norms:
            seen = self.seen.get(id(given))
            current = seen is not None and seen.reference() is given and not given.is_inference()
            if seen is not None and current and seen.version == given._version:
                layer.given = seen.moments.per_element(seen.moments.squares)
            elif given.is_floating_point():
                layer.given = mean_square(given)
        if name in self.weights:
            self._units(name, layer, module, given)
            if out.is_floating_point() and out.dim() > 1:
                convolution = isinstance(module, torch.nn.modules.conv._ConvNd)
                layer.channel_mean = channel_mean(out, 1 if convolution else -1)

    def _gradient(self, name: str, layers: list[_Layer], grad: torch.Tensor) -> None:
        with torch._C.DisableTorchFunction():
            moments = Moments.of(grad, zeros=False, exact=False)
            if grad.is_floating_point():
                self.gradients.see(name, grad)
        for layer in layers:
            layer.backward.add(moments)

    def _samples(self, tensor: torch.Tensor) -> int:
        fits = tensor.dim() > 0 and self.samples > 1 and tensor.shape[0] % self.samples == 0
        return self.samples if fits else 1

    def _units(
        self, name: str, layer: _Layer, module: nn.Module, given: torch.Tensor | None
    ) -> None:
        """Which input units were non-zero at least once; most of them show it in a few rows."""
        if given is None or given.dim() < 2 or given.grad_fn is None:
            return
        convolution = isinstance(module, torch.nn.modules.conv._ConvNd) and given.dim() > 2
        size = given.shape[1 if convolution else -1]
        if layer.alive is None or layer.alive.numel() != size:
            layer.alive = torch.zeros(size, dtype=torch.bool, device=given.device)
            layer.producer = self._producer(given)
        samples = given.flatten(2).mT if convolution else given.reshape(1, -1, size)
        for rows in samples:
            for part in (rows[:ALIVE_ROWS], rows[ALIVE_ROWS:]):
                if len(part) and not bool(layer.alive.all()):
                    low, high = torch.aminmax(part, dim=0)
                    layer.alive |= low.ne(0) | high.ne(0)

    def _producer(self, given: torch.Tensor) -> str | None:
        """The module that returned ``given``, or that of which it is a view in another shape."""
        held = self.placed.get(id(given))
        if held is not None and held[0]() is given:
            return held[1]
        seen = self.seen.get(id(given))
        if seen is not None and seen.reference() is given:
            return seen.producer
        base = None if given.is_inference() else given._base
        same = base is not None and base.numel() == given.numel()
        return self._producer(base) if base is not None and same else None

    def layers(self) -> dict[str, LayerRecord]:
        """A record for every module that was called, in the order in which they finished."""
        dead = {
            layer.producer: 1.0 - float(layer.alive.double().mean())
            for layer in self.found.values()
            if layer.alive is not None and layer.producer is not None
        }
        return {
            name: _record(
                name,
                layer,
                self.weights.get(name),
                dead.get(name),
                layer.saturated
                if layer.saturated is not None
                else self.between.saturated.get(name),
            )
            for name, layer in self.found.items()
        }

    def attention(self) -> tuple[AttentionRecord, ...]:
        """What was attended, in execution order."""
        held = self.between.attention.items()
        return tuple(sums.record(name, order) for order, (name, sums) in enumerate(held))

    def branches(self) -> tuple[BranchRecord, ...]:
        """The sums of residual streams, in execution order."""
        found = []
        for sum_ in self.between.branches:
            known = self.view.parameters[sum_.writer]
            if known.stream is not None and known.depth is not None:
                found.append(
                    BranchRecord(
                        weight=sum_.writer,
                        stream=known.stream,
                        depth=known.depth,
                        before=sum_.before,
                        branch=sum_.branch,
                        after=sum_.after,
                    )
                )
        return tuple(found)

    def facts(self) -> dict[str, LayerFacts]:
        """What the findings need to know of modules besides their records."""
        outside = self._added_outside()
        return {
            name: LayerFacts(
                breaks=layer.breaks,
                resolution=layer.resolution,
                input_units=0 if layer.alive is None else layer.alive.numel(),
                dead_inputs=0 if layer.alive is None else int((~layer.alive).sum()),
                producer=layer.producer,
                epsilon=self.norms.get(name),
                branch=name in outside,
                tracked=layer.tracked,
                cuts=layer.cuts,
            )
            for name, layer in self.found.items()
        }

    def _added_outside(self) -> set[str]:
        """Modules around the end of a branch that return it before it is added."""
        found = set()
        for sum_ in self.between.branches:
            parts = sum_.writer.split(".")
            around = (".".join(parts[:end]) for end in range(1, len(parts)))
            found |= {name for name in around if not f"{sum_.place}.".startswith(f"{name}.")}
        return found


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


def _norms(model: nn.Module, view: ModelView) -> dict[str, float | None]:
    """Modules that hold the scale of a normalisation, with the epsilon under its root."""
    parameters = view.parameters.values()
    held = {known.module for known in parameters if known.role == "norm_scale"}
    found: dict[str, float | None] = {}
    for name, module in named_modules(model):
        if name in held:
            values = (getattr(module, key, None) for key in ("eps", "variance_epsilon", "epsilon"))
            found[name] = next((value for value in values if isinstance(value, float)), None)
    return found


def _record(
    name: str, layer: _Layer, weight: str | None, dead: float | None, saturated: float | None
) -> LayerRecord:
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
        saturated=saturated,
        weight=weight,
        input_second_moment=layer.given,
        channel_mean=layer.channel_mean,
        token_cosine=layer.token_cosine,
    )
