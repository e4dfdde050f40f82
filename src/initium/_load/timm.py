"""``timm:<name>``: a model of timm, freshly initialised, with a batch of unit normal images.

timm is imported only when it is asked for. Nothing is ever downloaded: ``pretrained`` is off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from initium._load.optional import import_optional
from initium._load.weightless import weightless
from initium._model.inputs import example_inputs
from initium.errors import ModelError, near

__all__ = ["load_timm"]


def load_timm(
    name: str, width: int | None = None, depth: int | None = None
) -> tuple[nn.Module, object, torch.Tensor | None, str]:
    """The model, a batch of images, random class labels if it classifies, and a note.

    ``width`` and ``depth`` are an ``embed_dim`` and a number of blocks, for models that have them.

    Raises:
        DependencyError: timm is not installed.
        ModelError: timm knows no such model, or cannot build it.
    """
    timm = import_optional("timm")
    base = name.split(".")[0]
    known = timm.list_models()
    if base not in known:
        raise ModelError(
            "timm has no such model",
            where="timm",
            value=name,
            choices=near(base, known),
            fix="timm.list_models('*part*') lists what there is",
        )
    sizes = _sizes(timm, base, width, depth)
    try:
        model = timm.create_model(base, pretrained=False, **sizes)
    except Exception as error:
        raise ModelError(
            f"timm could not build it: {type(error).__name__}: {error}", where=f"timm:{name}"
        ) from error
    images = example_inputs(model)
    classes = getattr(model, "num_classes", 0)
    if not classes or not isinstance(images, torch.Tensor):
        return model, images, None, "unit normal images, no labels: the model has no classifier"
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (len(images),), generator=generator)
    return model, images, labels, "unit normal images, random class labels"


def _sizes(timm: Any, name: str, width: int | None, depth: int | None) -> dict[str, int]:
    """The arguments that make a vision transformer as wide and as deep; heads keep their size."""
    if width is None and depth is None:
        return {}
    with weightless():
        model = timm.create_model(name, pretrained=False)
    before, blocks = getattr(model, "embed_dim", None), getattr(model, "blocks", None)
    heads = getattr(getattr(next(iter(blocks or ()), None), "attn", None), "num_heads", None)
    if not isinstance(before, int) or heads is None:
        raise ModelError(
            "is not a vision transformer of one width, so that it cannot be made in another size",
            where=f"timm:{name}",
            value=type(model).__name__,
            fix="write a function with arguments width= and depth= that builds it",
        )
    sizes = {"depth": depth} if depth is not None else {}
    if width is not None:
        sizes["embed_dim"] = width
        sizes["num_heads"] = max(width * heads // before, 1)
    return sizes
