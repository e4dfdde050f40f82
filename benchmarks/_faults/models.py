"""A network of ``faults.py`` with its batch and a healthy start, and what faults ask it.

A network keeps the weights that its own library gives it where a check finds nothing wrong with
them, and gets those of ``auto`` otherwise.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo import build

import initium
from _faults.nets import NETS
from _faults.networks import CONFIGS
from initium._load import load
from initium._load.optional import import_optional
from initium._types import ModelView, ParameterView

__all__ = ["Names", "Subject", "subject"]

Names = Iterable[str | None]
"""Spoilt places; a ``None`` among them is none."""


@dataclass
class Subject:
    """What a fault is injected into.

    Attributes:
        model, inputs, targets, loss_fn, plan: as :func:`initium.check` takes them.
        view: of the healthy model; ``None`` once a fault has changed its structure.
        start: whose weights it has, ``own`` or ``auto``.
        init: init code that gives weights of the same law; an audit runs it.
        random: chooses the places of faults.
    """

    name: str
    model: nn.Module
    inputs: Any
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    plan: initium.Plan | None = None
    view: ModelView | None = None
    start: str = "own"
    init: Callable[[nn.Module], object] | None = None
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def fresh(self, salt: str) -> Subject:
        """A copy to be spoilt; ``salt`` chooses where."""
        return replace(
            self,
            model=copy.deepcopy(self.model),
            inputs=copy.deepcopy(self.inputs),
        ).again(salt)

    def again(self, salt: str) -> Subject:
        """The same subject, with the same places chosen anew."""
        return replace(self, random=random.Random(f"{salt}/{self.name}"))

    def forward(self) -> Any:
        """What the model gives for the batch."""
        if isinstance(self.inputs, dict):
            return self.model(**self.inputs)
        return (
            self.model(*self.inputs) if isinstance(self.inputs, tuple) else self.model(self.inputs)
        )

    @property
    def known(self) -> ModelView:
        """The view, made now if there is none."""
        if self.view is None:
            self.view = initium.inspect(self.model, self.inputs)
        return self.view

    def aliases(self, name: str) -> tuple[str, ...]:
        """Other names of a parameter's tensor."""
        return self.known.parameters[name].aliases if name in self.known.parameters else ()

    def weight(self, name: str) -> torch.Tensor:
        return self.model.get_parameter(name)

    def find(self, *roles: str) -> list[ParameterView]:
        """Trainable parameters of these roles that are used, in execution order."""
        held = [
            one
            for one in self.known.owners
            if one.role in roles and one.trainable and one.order is not None
        ]
        return sorted(held, key=lambda one: one.order or 0)

    def matrices(self) -> list[ParameterView]:
        """Matrices that count: used, trainable, of 256 elements at least, tables left out."""
        held = [
            one
            for one in self.known.owners
            if one.is_matrix and one.trainable and one.order is not None and one.numel >= 256
        ]
        return sorted(held, key=lambda one: one.order or 0)

    def pick(self, options: Iterable[ParameterView]) -> str | None:
        """The name of one of them, by chance; ``None`` of none."""
        held = list(options)
        return self.random.choice(held).name if held else None

    def peers(self) -> list[ParameterView]:
        """Matrices with three others at least of their role and shape."""
        held = self.matrices()
        kinds = [(one.role, one.shape) for one in held]
        return [one for one in held if kinds.count((one.role, one.shape)) > 3]


def subject(name: str, own: bool = False) -> Subject:
    """The network ``name`` with its batch and a healthy start; or its own start, whatever it is."""
    torch.manual_seed(0)
    if name.startswith("hf:"):
        loaded = load(f"hf:{_config(name[3:])}")
        made = Subject(name, loaded.model, loaded.inputs)
    elif name.startswith("torch:"):
        make, batch, classes = NETS[name[6:]]
        made = Subject(name, make(), batch())
        made.targets = None if classes is None else torch.randint(classes, (8, 16))
    else:
        net = build(name)
        made = Subject(name, net.model, net.inputs, net.targets)
    made.view = initium.inspect(made.model, made.inputs)
    if own:
        return made
    report = initium.check(made.model, made.inputs, made.targets, view=made.view)
    if report.worst() in ("error", "warning"):
        initium.plan(made.view, "auto").apply(made.model)
        made.start = "auto"
    return made


def _config(kind: str) -> Path:
    """A configuration file of :data:`CONFIGS`."""
    made = import_optional("transformers").CONFIG_MAPPING[kind](**CONFIGS[kind])
    path = Path(tempfile.mkdtemp()) / "config.json"
    path.write_text(json.dumps(made.to_dict() | {"model_type": kind}, default=str))
    return path
