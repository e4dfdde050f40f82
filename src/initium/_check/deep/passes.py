"""The subject of all deep measurements, and its lean forward and backward passes.

To be called under ``preserved``. Dropout is off, as in the check itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from initium._check.drive import eager, run
from initium._check.loss import LossFunction, Start, first_loss
from initium._check.parameters import named_parameters
from initium._model.call import call, map_tensors
from initium._model.quiet import without_dropout
from initium._types import ModelView

__all__ = ["Subject", "measuring"]


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Gradients on; compilers and dropout off."""
    with torch.enable_grad(), eager(), without_dropout(model):
        yield


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the batch and the loss that it is measured on."""

    model: nn.Module
    inputs: object
    targets: object
    loss_fn: LossFunction | None
    view: ModelView
    samples: int

    def call(self, inputs: object) -> Any:
        """The output; the batch itself stays as it is."""
        return call(self.model, map_tensors(inputs, lambda t: t.clone() if t.is_leaf else t))

    def start(self) -> Start:
        """Forward pass and loss."""
        return first_loss(self.call(self.inputs), self.inputs, self.targets, self.loss_fn)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by canonical name."""
        return {name: p for name, p in named_parameters(self.model).items() if p.requires_grad}

    def gradients(
        self, names: Set[str] | None = None
    ) -> tuple[dict[str, torch.Tensor | None], float | None, str]:
        """The gradients of trainable parameters, all or those of ``names``, the loss where there
        is one, and which it is."""
        trained = self.trained()
        if names is not None:
            trained = {name: value for name, value in trained.items() if name in names}
        try:
            with measuring(self.model):
                start = self.start()
                found = torch.autograd.grad(
                    start.tensors,
                    list(trained.values()),
                    list(start.cotangents),
                    allow_unused=True,
                )
        except RuntimeError as error:
            if "heckpoint" not in str(error):
                raise
            done = run(self.model, self.inputs, self.targets, self.loss_fn, self.view)
            return done.gradients, done.start.record.value, done.start.record.source
        return dict(zip(trained, found, strict=True)), start.record.value, start.record.source

    def sample(self, index: int) -> Subject:
        """The same on one sample of the batch alone."""

        def taken(tensor: torch.Tensor) -> torch.Tensor:
            batched = tensor.dim() > 0 and tensor.shape[0] == self.samples
            return tensor[index : index + 1] if batched else tensor

        return replace(
            self,
            inputs=map_tensors(self.inputs, taken),
            targets=map_tensors(self.targets, taken),
            samples=1,
        )
