"""Building a model without its weights: the shape of a 70-billion-parameter model on a laptop.

Covered: parameters of two or more dimensions are put on the meta device while they are registered,
so that neither memory nor random numbers are spent on them; vectors, scalars and buffers stay real
(a trace needs the values of position tables and masks). Ties survive. Not covered: constructors
that read their own weights back as numbers, which fail as on any meta tensor, and what other
threads build meanwhile, which is built without weights too.

The idea of patching the registration is that of Accelerate's ``init_empty_weights``
(https://huggingface.co/docs/accelerate/package_reference/big_modeling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["weightless"]

_FACTORIES = (torch.empty, torch.rand, torch.randn)
_LARGE = 1 << 20


@contextmanager
def weightless() -> Iterator[None]:
    """Within this context, modules are built with their matrices on the meta device.

    Example:
        >>> with weightless():
        ...     layer = torch.nn.Linear(100_000, 100_000)
        >>> layer.weight.device.type, layer.bias.device.type
        ('meta', 'cpu')
    """
    register = nn.Module.register_parameter
    moved = WeakTensorKeyDictionary()

    def register_without_data(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and _has_data(param):
            if param not in moved:
                moved[param] = _on_meta(param)
            param = moved[param]
        register(module, name, param)

    nn.Module.register_parameter = register_without_data  # type: ignore[method-assign,assignment]
    try:
        with _LargeFactoriesOnMeta():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _has_data(param: nn.Parameter) -> bool:
    lazy = torch.nn.parameter.is_lazy(param)
    return not lazy and param.dim() >= 2 and param.device.type != "meta"


def _on_meta(param: nn.Parameter) -> nn.Parameter:
    copy = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
    copy.__dict__.update(param.__dict__)
    return copy


class _LargeFactoriesOnMeta(TorchFunctionMode):
    """Large empty and random floating tensors are weights to be: they never get memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES and "out" not in options:
            shape = options.get("size", args[0] if len(args) == 1 else args)
            sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
            dtype = options.get("dtype") or torch.get_default_dtype()
            floating = dtype.is_floating_point or dtype.is_complex
            if floating and len(sizes) >= 2 and math.prod(sizes) >= _LARGE:
                options["device"] = "meta"
                options.pop("generator", None)
        return func(*args, **options)
