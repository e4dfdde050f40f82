"""``timm:<name>``: a model of timm, freshly initialised, with a batch of unit normal images.

timm is imported only when it is asked for. Nothing is ever downloaded: ``pretrained`` is off.
"""

from __future__ import annotations

import torch
from torch import nn

from initium._load.optional import import_optional
from initium._model.inputs import example_inputs
from initium.errors import ModelError, near

__all__ = ["load_timm"]


def load_timm(name: str) -> tuple[nn.Module, object, torch.Tensor | None, str]:
    """The model, a batch of images, random class labels if it classifies, and a note.

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
    try:
        model = timm.create_model(base, pretrained=False)
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
