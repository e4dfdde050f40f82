"""The changes that findings advise, made by hand to a spoilt network.

Each gets the subject and the first place that the finding names. Code behind a block, a spare
layer and a table are changed at that place alone, so that advice which names another mends nothing;
code behind every block is taken away from all once one of them is named, and which rows of a table
are new is not read from the finding. Batch, labels, loss and frozen parameters are one place each,
and their changes do not look at it. Not covered: init code, where the code with the advised change
is the sound code itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from _faults import batch
from _faults.models import Subject

__all__ = ["Mend"]

Mend = Callable[[Subject, str], object]


def normalise(s: Subject, where: str) -> None:
    """(x - mean) / std."""
    key, pixels = batch.floats(s)
    if pixels is not None:
        batch.put(s, key, (pixels - pixels.mean()) / pixels.std())


def shuffle(s: Subject, where: str) -> None:
    """A batch of all classes."""
    classes = batch.classes(s)
    s.targets = torch.arange(len(s.targets)) % classes


def hide_label(s: Subject, where: str) -> None:
    """The feature that holds the label, replaced by noise."""
    key, features = batch.floats(s)
    if features is not None:
        features.flatten(1)[:, batch.LEAKING] = torch.randn(len(features))
        batch.put(s, key, features)


def plain_loss(s: Subject, where: str) -> None:
    """The mean cross-entropy of the logits."""
    list(batch.with_loss(F.cross_entropy)(s))


def scale_loss(s: Subject, where: str) -> None:
    """What GradScaler does at its start."""
    loss = s.loss_fn
    assert loss is not None
    s.loss_fn = lambda output, targets: 2.0**16 * loss(output, targets)


def unfreeze(s: Subject, where: str) -> None:
    s.model.requires_grad_(True)
    s.view = None


def remove(s: Subject, where: str) -> None:
    """The spare module, where it is named."""
    if where.partition(".")[0] == batch.SPARE:
        delattr(s.model, batch.SPARE)
        s.view = None


def add_noise(s: Subject, where: str) -> None:
    """New rows of a table apart from each other."""
    rows = s.weight(where)[-batch.NEW_ROWS :]
    rows.add_(float(s.weight(where).std()) * torch.randn_like(rows))


def clean(s: Subject, where: str) -> nn.Module | None:
    """No code behind the module named, or else behind a block that it is in; that one."""
    modules = dict(s.model.named_modules())
    parts = where.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next(
        (modules[one] for one in around if one in modules and batch.unhook(modules[one])), None
    )


def clean_everywhere(s: Subject, where: str) -> None:
    """No code behind any block, where that of one of them is named."""
    if clean(s, where) is not None:
        for module in s.model.modules():
            batch.unhook(module)


def guard(change: Callable[[torch.Tensor], torch.Tensor]) -> Mend:
    """The step behind the module named, kept within its domain."""

    def mend(s: Subject, where: str) -> None:
        module = clean(s, where)
        if module is not None:
            batch.hook(module, change)

    return mend
