"""One run of init code: seeded, on poisoned memory, recorded, and undone afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from initium._audit import poison
from initium._audit.tape import Tape
from initium._model.names import Slot, canonical, slots
from initium._model.sharding import local
from initium._model.state import preserved
from initium.errors import InitiumError, ModelError

__all__ = ["InitFunction", "Run", "held_values", "run"]

InitFunction = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Run:
    """A model as init code left it.

    Attributes:
        model: the model, which holds these values only while the run's block is open.
        slots: its parameters and buffers.
        before: the tensors that stood in their places when the code started; empty where the code
            built the model.
        tape: what was written.
        material: canonical names of tensors that were on meta when the code started.
    """

    model: nn.Module
    slots: dict[str, Slot]
    before: dict[str, Slot]
    tape: Tape
    material: frozenset[str]


@contextmanager
def run(
    init_fn: InitFunction,
    model: nn.Module | None,
    *,
    which: int,
    seed: int,
    record: bool = False,
) -> Iterator[Run]:
    """Run ``init_fn`` with filling number ``which``; everything is put back behind the block.

    Raises:
        ModelError: the code raised, returned no module, or left one on meta.
    """
    if model is None:
        with preserved(nn.Module()):
            yield _built(init_fn, Tape(which, record), seed)
        return
    names = [canonical(name, model) for name, _ in model.named_parameters()]
    with preserved(model, clone=dict.fromkeys(names)):
        material = _materialise(model)
        before = slots(model)
        tape = Tape(which, record)
        for name, slot in before.items():
            if not slot.is_buffer or name in material:
                poison.fill(slot.tensor, which)
            tape.watch(slot.tensor)
        for module, name in _old_norms(model):
            tape.derive(getattr(module, name), module, name)
        _seed(seed)
        with tape:
            _called(init_fn, model)
        yield Run(model, slots(model), before, tape, material)


def _built(init_fn: InitFunction, tape: Tape, seed: int) -> Run:
    _seed(seed)
    with tape:
        result = _called(init_fn)
    model = result[0] if isinstance(result, tuple) and result else result
    if not isinstance(model, nn.Module):
        raise ModelError(
            "without a model, the init code has to build one and return it",
            where="init_fn",
            value=type(result).__name__,
            fix="return the module, or pass the model too: initium.audit(init_fn, model)",
        )
    held = slots(model)
    for name, slot in held.items():
        if slot.tensor.is_meta:
            raise ModelError(
                "is still on the meta device after the init code",
                where=name,
                fix="call model.to_empty(device='cpu') in it before the weights are written",
            )
    return Run(model, held, {}, tape, frozenset())


def _called(init_fn: InitFunction, *args: object) -> object:
    try:
        return init_fn(*args)
    except InitiumError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"the init code raised {type(error).__name__}: {text}", where="init_fn"
        ) from error


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _materialise(model: nn.Module) -> frozenset[str]:
    """Memory for what is on meta, as ``to_empty`` gives it, but with ties kept."""
    material = set()
    for name, slot in slots(model).items():
        if not slot.tensor.is_meta:
            continue
        material.add(name)
        made = torch.empty_like(slot.tensor, device="cpu", requires_grad=False)
        trainable = slot.tensor.requires_grad
        parameter = None if slot.is_buffer else nn.Parameter(made, requires_grad=trainable)
        for owner, leaf in slot.places:
            if parameter is None:
                owner._buffers[leaf] = made
            else:
                owner._parameters[leaf] = parameter
    return frozenset(material)


def _old_norms(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Weights that a hook computes: :func:`torch.nn.utils.weight_norm` and ``spectral_norm``."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm)):
                yield module, hook.name


def held_values(run: Run) -> dict[str, torch.Tensor]:
    """What this process holds of every tensor, sharing its memory."""
    return {name: local(slot.tensor).detach() for name, slot in run.slots.items()}
