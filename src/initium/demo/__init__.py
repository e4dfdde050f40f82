"""Models and data that ship with initium, so that a check needs nothing but the package.

=============================  ==========================================================
name                           model
=============================  ==========================================================
``mlp-<activation>-<depth>``   a plain MLP, 512 wide; ``mlp-tanh-30-128`` sets the width
``convnet``                    20 plain convolutions without normalisation
``resnet``                     a small ResNet with BatchNorm
``vit``                        a small pre-norm vision transformer
``gpt``, ``gpt-<layers>``      a small pre-norm character-level GPT with a tied head
=============================  ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from initium.demo import models
from initium.demo.data import ALPHABET, digits, text_batch
from initium.errors import ModelError, near

__all__ = ["NAMES", "Demo", "build"]

NAMES = ("mlp-<activation>-<depth>[-<width>]", "convnet", "resnet", "vit", "gpt[-<layers>]")
"""The names that :func:`build` knows, as patterns."""

WIDTH = 512
MAX_DEPTH, MAX_WIDTH = 1000, 8192
_DEPTHS = {"convnet": "depth", "resnet": "blocks"}


Demo = tuple[nn.Module, torch.Tensor, torch.Tensor, None]
"""A model, a batch of real data, and ``None``: the loss is cross-entropy on the logits."""


def build(name: str, width: int | None = None, depth: int | None = None) -> Demo:
    """The demo model ``name``, freshly built from torch's global generator, with its batch.

    Args:
        name: one of :data:`NAMES`, with or without a leading ``demo:``.
        width, depth: instead of its own: units or channels, and layers (blocks of a stage for
            ``resnet``).

    Raises:
        ModelError: no such demo, or a size out of range; the message lists the choices.

    Example:
        >>> model, inputs, targets, loss_fn = build("mlp-relu-3")
        >>> tuple(model(inputs).shape), tuple(targets.shape), loss_fn
        ((128, 10), (128,), None)
    """
    family, *options = name.removeprefix("demo:").split("-")
    if family == "mlp" and len(options) in (2, 3) and options[0] in models.ACTIVATIONS:
        depth = _size(name, "depth", str(depth or options[1]), MAX_DEPTH)
        width = _size(name, "width", str(width or "".join(options[2:]) or WIDTH), MAX_WIDTH)
        return models.mlp(options[0], depth, width), *digits(flat=True), None
    sizes = {"width": width, _DEPTHS.get(family, "layers"): depth}
    chosen = {key: size for key, size in sizes.items() if size is not None}
    if family == "gpt" and len(options) <= 1:
        layers = _size(name, "number of layers", options[0], MAX_DEPTH) if options else 6
        model = models.GPT(len(ALPHABET), **({"layers": layers} | chosen))
        return model, *text_batch(), None
    plain: dict[str, Callable[..., nn.Module]] = {
        "convnet": models.ConvNet,
        "resnet": models.ResNet,
        "vit": models.ViT,
    }
    if family in plain and not options:
        return plain[family](**chosen), *digits(), None
    if family == "mlp" and len(options) in (2, 3):
        meant = near(options[0], models.ACTIVATIONS)
        raise ModelError(
            f"has no activation {options[0]!r}",
            where=f"demo:{name.removeprefix('demo:')}",
            choices=models.ACTIVATIONS,
            fix=f"write mlp-{meant[0]}-{options[1]}" if meant else None,
        )
    raise ModelError("there is no such demo model", where="demo", value=name, choices=NAMES)


def _size(name: str, what: str, text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise ModelError(
            f"the {what} must be a whole number from 1 to {most}",
            where=f"demo:{name.removeprefix('demo:')}",
            value=text,
        )
    return int(text)
