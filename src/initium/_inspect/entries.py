"""Further entry points: what the model's own forward pass does not reach is run on its own.

First the methods that lead into other parts (``get_image_features``, ``encode`` ...), then, from
the top down, every module of which no parameter was reached; a list of layers runs as a chain. What
such a module needs is guessed (:mod:`initium._model.guess`), and where no guess fits, its children
are tried. All of it goes into one graph. Not covered: modules whose arguments are objects of the
model's own classes; their parameters are left to weaker rungs of evidence.

The work is bounded by operators and not by seconds, so that it does not depend on the machine.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from initium._inspect.graph import Graph
from initium._inspect.tracer import Tracer, tracing
from initium._model.call import first_floating
from initium._model.guess import guesses, signature
from initium._model.hf_inputs import transformers_inputs
from initium._model.names import canonical

__all__ = ["FURTHER", "OWN", "reach"]

Arguments = dict[str, Any]

OWN = 200_000
"""Operators that the model's own forward pass may record."""

FURTHER = 40_000
"""Operators that all further entry points may record together, failed attempts included."""

ATTEMPT = 15_000
"""Operators that one attempt at one of them may record."""

FAR, PATIENCE = 40, 3
"""After so many attempts that recorded so many operators before they failed, it is not the
arguments that are wrong."""

_METHODS = re.compile(
    r"^(get_(?!input|output|position)\w+_(features|embeds|embeddings|tokens)|encode|decode|(en|de)code_\w+"
    r"|forward_(features|head|image|text|audio))$"
)
_PLAIN = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
_HOLDERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def reach(model: nn.Module, inputs: object) -> tuple[Graph, str | None]:
    """The data flow of ``model``, and why its own forward pass is not in it, if it is not.

    Args:
        model: unwrapped; its tensors are swapped for meta ones meanwhile.
        inputs: for its forward pass; ``None`` runs further entry points alone.
    """
    with tracing(model) as tracer:
        problem = _own(tracer, model, inputs)
        _Explorer(tracer, model, again=inputs is not None and problem is not None).run()
        return tracer.graph, problem


def _own(tracer: Tracer, model: nn.Module, inputs: object) -> str | None:
    """Run the model's own forward pass: as it is, without labels, in evaluation mode.

    What the last of these recorded is kept, also where it failed.
    """
    if inputs is None:
        return "no inputs were given, and none could be inferred"
    attempts = [(inputs, model.training)]
    if isinstance(inputs, dict) and "labels" in inputs:
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        attempts.append((inputs, model.training))
    if model.training:
        attempts.append((inputs, False))
    problem = None
    for batch, training in attempts:
        tracer.forget(0)
        tracer.graph.invented.clear()
        model.train(training)
        try:
            tracer.enter("", model, batch, OWN, final=True)
            return None
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            problem = problem or f"the trace failed with {type(error).__name__}: {text}"
    return problem


class _Explorer:
    """Walks a model from the top down and runs what was not reached."""

    def __init__(self, tracer: Tracer, model: nn.Module, again: bool) -> None:
        self.tracer = tracer
        self.model = model
        self.again = again
        self.end = tracer.made + FURTHER
        self.works: dict[Hashable, Arguments] = {}
        self.fails: set[Hashable] = set()
        self.kinds: dict[nn.Module, Hashable] = {}
        self.inside: dict[str, list[str]] = {"": list(tracer.graph.parameters)}
        for name in tracer.graph.parameters:
            parts = name.split(".")
            for depth in range(1, len(parts)):
                self.inside.setdefault(".".join(parts[:depth]), []).append(name)

    def run(self) -> None:
        """The whole again where its own inputs failed; methods that lead into parts; modules."""
        model = self.model
        if self.again:
            arguments = guesses(model, model, self._config(model))
            self._attempt("forward() on guessed inputs", model, arguments, [""], final=True)
        self._methods(model, "")
        inner = getattr(model, "base_model_prefix", "")
        wrapped = getattr(model, inner, None) if inner else None
        if isinstance(wrapped, nn.Module):
            self._methods(wrapped, inner)
        self._walk(model, "", self._config(model))

    # -- what is missing -------------------------------------------------------------------------

    def missing(self, *names: str) -> int:
        """How many parameters inside the modules nothing has read."""
        values = self.tracer.graph.parameters
        return sum(not values[key].users for name in names for key in self.inside.get(name, ()))

    def _untouched(self, name: str) -> bool:
        return 0 < self.missing(name) == len(self.inside.get(name, ()))

    def _kind(self, module: nn.Module) -> Hashable:
        """Modules of one kind take the same arguments: same class, same names, same shapes."""
        if module not in self.kinds:
            shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
            self.kinds[module] = (type(module), shapes)
        return self.kinds[module]

    @staticmethod
    def _config(module: nn.Module) -> Any:
        config = getattr(module, "config", None)
        return config if hasattr(config, "model_type") else None

    # -- walking ---------------------------------------------------------------------------------

    def _methods(self, model: nn.Module, name: str) -> None:
        for method in sorted({key for cls in _own_classes(model) for key in vars(cls)}):
            if _METHODS.match(method) and self.missing(name):
                function = getattr(model, method, None)
                if callable(function):
                    place = f"{name}.{method}()" if name else f"{method}()"
                    self._attempt(place, function, self._arguments(function, model), [name])

    def _walk(self, module: nn.Module, name: str, config: Any) -> None:
        config = self._config(module) or config
        if not self.missing(name) or self.tracer.made >= self.end:
            return
        if name and self._untouched(name) and _callable(module):
            self._enter(module, module, name, config)
        if not self.missing(name):
            return
        children = [
            (canonical(f"{name}.{key}".lstrip("."), self.model), child)
            for key, child in module.named_children()
        ]
        if isinstance(module, nn.ModuleList):
            self._chains(children, config)
        for child_name, child in children:
            self._walk(child, child_name, config)

    def _chains(self, children: list[tuple[str, nn.Module]], config: Any) -> None:
        """Run neighbours of one class as a chain, where they are layers on one stream."""
        for _, group in groupby(children, key=lambda item: type(item[1])):
            layers = [(name, layer) for name, layer in group if self._untouched(name)]
            if len(layers) > 1 and _callable(layers[0][1]):
                name = f"{layers[0][0]} to {layers[-1][0].rpartition('.')[2]}"
                chain = _chain([layer for _, layer in layers])
                self._enter(chain, layers[0][1], name, config, [name for name, _ in layers])

    def _enter(
        self,
        function: Callable[..., Any],
        module: nn.Module,
        name: str,
        config: Any,
        parts: list[str] | None = None,
    ) -> None:
        """Run one module on its own, or a chain of which it is the first."""
        key = (self._kind(module), parts is None)
        if key not in self.fails:
            known = self.works.get(key)
            arguments = iter([known]) if known else self._arguments(module, module, config)
            used = self._attempt(name, function, arguments, parts or [name], _makes_outputs(module))
            if used is None:
                self.fails.add(key)
            else:
                self.works[key] = used

    def _arguments(
        self, function: Callable[..., Any], module: nn.Module, config: Any = None
    ) -> Iterator[Arguments]:
        """What others of the same kind were called with, then guesses."""
        if function is module:
            kind = self._kind(module)
            for other, args, kwargs in list(self.tracer.calls.values()):
                if type(other) is type(module) and self._kind(other) == kind:
                    with suppress(TypeError):
                        yield _by_name(module, args, kwargs)
                    break
        if self._config(module) is not None:
            with suppress(Exception):
                yield transformers_inputs(module, labels=False, function=function)
        with suppress(Exception):
            yield from guesses(function, module, config)

    def _attempt(
        self,
        entry: str,
        function: Callable[..., Any],
        arguments: Iterator[Arguments],
        parts: list[str],
        final: bool = False,
    ) -> Arguments | None:
        """Try one set of arguments after the other; keep the first run that reaches anything new.

        Where none runs to its end, the one that came furthest is kept as far as it came.
        """
        before = self.missing(*parts)
        best: tuple[int, Arguments | None] = (0, None)
        far = 0
        for attempt in arguments:
            if far == PATIENCE:
                break
            mark, graph = self.tracer.made, self.tracer.graph
            invented, outputs = len(graph.invented), len(graph.outputs)
            limit = min(ATTEMPT, self.end - mark)
            if limit <= 0:
                return None
            try:
                self.tracer.enter(entry, function, attempt, limit, final)
                if self.missing(*parts) < before:
                    return attempt
            except Exception:
                reached = before - self.missing(*parts)
                if reached > best[0]:
                    best = (reached, attempt)
                far += self.tracer.made - mark > FAR
            self.tracer.forget(mark)
            del graph.invented[invented:], graph.outputs[outputs:]
        if best[1] is not None and self.tracer.made < self.end:
            limit = min(ATTEMPT, self.end - self.tracer.made)
            with suppress(Exception):
                self.tracer.enter(entry, function, best[1], limit)
        return None


def _own_classes(model: nn.Module) -> Iterator[type]:
    """The classes of a model that its own library wrote."""
    own = (cls for cls in type(model).__mro__ if issubclass(cls, nn.Module))
    return (cls for cls in own if cls is not nn.Module)


def _makes_outputs(module: nn.Module) -> bool:
    """Whether it is a whole language model, head included, inside a larger one."""
    head = getattr(module, "get_output_embeddings", None)
    return callable(head) and head() is not None


def _callable(module: nn.Module) -> bool:
    """Whether running it alone says more than its type does."""
    known = isinstance(module, (*_PLAIN, *_HOLDERS, ParametrizationList))
    return not known and type(module).forward is not nn.Module.forward


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """Arguments of a call by name, without objects that the call may have changed (caches)."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    given = {**bound.arguments, **bound.arguments.pop("kwargs", {})}
    return {name: value for name, value in given.items() if _plain(value)}


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (torch.Tensor, bool, int, float, str, torch.dtype))


def _chain(layers: list[nn.Module]) -> Callable[..., Any]:
    """The layers one after the other: each gets the first tensor that the one before gave."""
    first = next((n for n, p in signature(layers[0].forward).items() if p.default is p.empty), "")

    def run(**arguments: Any) -> Any:
        output: Any = None
        for layer in layers:
            output = layer(**arguments)
            passed = first_floating(output)
            if first in arguments and passed is not None:
                arguments = {**arguments, first: passed}
        return output

    return run
