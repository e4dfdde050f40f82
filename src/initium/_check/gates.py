"""How many gates of an LSTM, GRU or plain recurrent module are shut: its kernels hide them.

Every layer and direction is computed again from its definition for a few samples and steps. Not
covered: packed sequences and LSTMs with a projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from initium._check.thresholds import SATURATED_SIGMOID, SATURATED_TANH

__all__ = ["gate_values", "saturated_gates"]

SAMPLES, STEPS = 8, 32
Gates = tuple[torch.Tensor, torch.Tensor]
"""All values of sigmoids and of tanhs, as two vectors."""


def saturated_gates(module: nn.RNNBase, args: tuple[Any, ...]) -> float | None:
    """The part of gates and candidates in their flat ends, in the layer and direction in which it
    is largest; ``None`` where it is not known, or where the module cannot be computed again."""
    try:
        found = gate_values(module, args)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    return None if found is None else max(_flat(*values) for values in found)


def _flat(sigmoids: torch.Tensor, tanhs: torch.Tensor) -> float:
    flat = (sigmoids < 1 - SATURATED_SIGMOID) | (sigmoids > SATURATED_SIGMOID)
    outside = float(flat.sum() + (tanhs.abs() > SATURATED_TANH).sum())
    return outside / max(1, sigmoids.numel() + tanhs.numel())


def gate_values(module: nn.RNNBase, args: tuple[Any, ...]) -> list[Gates] | None:
    """What is inside the gates of every layer, forward and then backward.

    LSTM (Hochreiter & Schmidhuber 1997): i, f, o = sigmoid, g = tanh of W_i x + b_i + W_h h + b_h.
    GRU (Cho et al. 2014): r, z = sigmoid; n = tanh(W_i x + b_i + r (W_h h + b_h)).
    """
    x = args[0] if args else None
    if not isinstance(x, torch.Tensor) or module.proj_size:
        return None
    if x.dim() == 3:
        x = x.transpose(0, 1) if module.batch_first else x
        x = x[:STEPS, :SAMPLES]
    else:
        x = x[:STEPS, None]
    directions = ("", "_reverse") if module.bidirectional else ("",)
    states = _states(module, x, args[1] if len(args) > 1 else None)
    found = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in directions:
            h, c = next(states)
            backward = bool(direction)
            hidden, values = _layer(
                module, f"l{layer}{direction}", x.flip(0) if backward else x, h, c
            )
            outputs.append(hidden.flip(0) if backward else hidden)
            found.append(values)
        x = torch.cat(outputs, -1)
    return found


def _states(
    module: nn.RNNBase, x: torch.Tensor, given: Any
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (h, c) before the first step, by layer and direction; zeros where none are given."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    zero = x.new_zeros(x.shape[1], module.hidden_size)
    parts = () if given is None else given if isinstance(given, (tuple, list)) else (given,)
    held = [part.reshape(-1, *part.shape[-2:])[:, :SAMPLES] for part in parts]
    if not held or any(part.shape != (count, *zero.shape) for part in held):
        return iter([(zero, zero)] * count)
    return iter(list(zip(held[0], held[-1], strict=True)))


def _layer(
    module: nn.RNNBase, suffix: str, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, Gates]:
    """The outputs of one layer in one direction, and what is inside its gates."""
    inward, outward = (getattr(module, f"weight_{kind}_{suffix}") for kind in ("ih", "hh"))
    zero = inward.new_zeros(())
    biases = [getattr(module, f"bias_{kind}_{suffix}", zero) for kind in ("ih", "hh")]
    outputs: list[torch.Tensor] = []
    sigmoids: list[torch.Tensor] = []
    tanhs: list[torch.Tensor] = []
    for step in x:
        inner = step @ inward.T + biases[0]
        outer = h @ outward.T + biases[1]
        if isinstance(module, nn.LSTM):
            i, f, g, o = (inner + outer).chunk(4, -1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            h = o * c.tanh()
            sigmoids += [i, f, o]
            tanhs += [g]
        elif isinstance(module, nn.GRU):
            r_in, z_in, n_in = inner.chunk(3, -1)
            r_out, z_out, n_out = outer.chunk(3, -1)
            r, z = (r_in + r_out).sigmoid(), (z_in + z_out).sigmoid()
            n = (n_in + r * n_out).tanh()
            h = (1 - z) * n + z * h
            sigmoids += [r, z]
            tanhs += [n]
        else:
            relu = getattr(module, "nonlinearity", "tanh") == "relu"
            h = (inner + outer).relu() if relu else (inner + outer).tanh()
            tanhs += [] if relu else [h]
        outputs.append(h)
    none = x.new_zeros(0)
    return torch.stack(outputs), (
        torch.cat([value.flatten() for value in sigmoids]) if sigmoids else none,
        torch.cat([value.flatten() for value in tanhs]) if tanhs else none,
    )
