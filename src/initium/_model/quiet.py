"""Dropout switched off while something is measured: its noise would pass for signal.

Two samples that have become alike still differ by their masks, so that a lost signal looks alive.
Everything else follows the model's mode: batch norms in training mode still use the batch.

Covered: dropout of every kind as modules and functions, that of attention and between the layers of
recurrent modules, stochastic depth drawn by ``bernoulli_``, and the layers that models of
Transformers drop whole. Not covered: noise that a model adds in any other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutDropout", "without_dropout"]

DROPOUTS = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
    }
)
PRIMITIVES = frozenset(
    {
        torch.dropout,
        torch.feature_dropout,
        torch.alpha_dropout,
        torch.feature_alpha_dropout,
        torch.native_dropout,
    }
)
RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[WithoutDropout]:
    """Within it nothing of ``model`` is left out at random; what it gives says if there was any.

    Example:
        >>> with without_dropout(layer := nn.Dropout(0.5)) as quiet:
        ...     layer(torch.ones(3)).tolist(), quiet.met
        ([1.0, 1.0, 1.0], True)
    """
    with _without_layerdrop(model), WithoutDropout() as quiet:
        yield quiet


@contextmanager
def _without_layerdrop(model: nn.Module) -> Iterator[None]:
    """No layer is left out (LayerDrop: Fan et al. 2019, arXiv:1909.11556)."""
    held: list[tuple[Any, float]] = []
    for module in model.modules():
        owners: tuple[Any, ...] = (module, getattr(module, "config", None))
        for owner in owners:
            rate = getattr(owner, "layerdrop", None)
            if isinstance(rate, float) and rate > 0.0:
                held.append((owner, rate))
                owner.layerdrop = 0.0
    try:
        yield
    finally:
        for owner, rate in held:
            owner.layerdrop = rate


class WithoutDropout(TorchFunctionMode):
    """Within this context dropout passes everything on; ``met`` tells whether there was any.

    Example:
        >>> with WithoutDropout():
        ...     F.dropout(torch.ones(3), 0.5, training=True).tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            self.met = self.met or bool(_given(args, kwargs, 2, "training", True))
            return args[0] if args else kwargs["input"]
        if func in PRIMITIVES:
            self.met = self.met or bool(_given(args, kwargs, 2, "train", True))
            args = (*args[:2], False, *args[3:])
            kwargs.pop("train", None)
        elif func is F.scaled_dot_product_attention:
            self.met = self.met or _given(args, kwargs, 4, "dropout_p", 0.0) > 0
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs.pop("dropout_p", None)
        elif func is F.multi_head_attention_forward:
            trained = bool(_given(args, kwargs, 13, "training", True))
            self.met = self.met or (trained and _given(args, kwargs, 10, "dropout_p", 0.0) > 0)
            args = (*args[:10], 0.0, *args[11:])
        elif func in RECURRENT:
            place = 6 if isinstance(args[3], (list, tuple)) else 5
            self.met = self.met or (args[place] > 0 and args[place + 1])
            args = (*args[:place], 0.0, *args[place + 1 :])
        elif func is torch.Tensor.bernoulli_:
            chance = _given(args, kwargs, 1, "p", 0.5)
            if isinstance(chance, float):
                self.met = True
                return args[0].fill_(chance)
        return func(*args, **kwargs)


def _given(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
