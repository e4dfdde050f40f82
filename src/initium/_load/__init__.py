"""Models from a short text, a batch for any module, and models without their weights."""

from __future__ import annotations

from initium._load.load import FORMS, Loaded, init_function, load, loss_function
from initium._load.weightless import weightless
from initium._model.inputs import example_inputs

__all__ = [
    "FORMS",
    "Loaded",
    "example_inputs",
    "init_function",
    "load",
    "loss_function",
    "weightless",
]
