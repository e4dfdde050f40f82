"""How many gates of an LSTM, GRU or plain recurrent module are shut: its kernels hide them.

The first layer's first direction is computed again from its definition for a few samples and
steps. Not covered: packed sequences and LSTMs with a projection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from initium._check.thresholds import SATURATED_SIGMOID, SATURATED_TANH

__all__ = ["gate_values", "saturated_gates"]

SAMPLES, STEPS = 8, 32


def saturated_gates(module: nn.RNNBase, args: tuple[Any, ...]) -> float | None:
    """The part of all gates and candidates in their flat ends; ``None`` where it is not known."""
    values = gate_values(module, args)
    if values is None:
        return None
    sigmoids, tanhs = values
    flat = (sigmoids < 1 - SATURATED_SIGMOID) | (sigmoids > SATURATED_SIGMOID)
    outside = float(flat.sum() + (tanhs.abs() > SATURATED_TANH).sum())
    return outside / max(1, sigmoids.numel() + tanhs.numel())


def gate_values(
    module: nn.RNNBase, args: tuple[Any, ...]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """All values of sigmoids and of tanhs inside the gates, as two vectors.

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
    weights: dict[str, torch.Tensor] = {
        kind: getattr(module, f"{kind}_l0") for kind in ("weight_ih", "weight_hh")
    }
    zero = weights["weight_ih"].new_zeros(())
    biases = [getattr(module, f"bias_{kind}_l0", zero) for kind in ("ih", "hh")]
    h = c = x.new_zeros(x.shape[1], module.hidden_size)
    if len(args) > 1 and args[1] is not None:
        given = args[1] if isinstance(args[1], tuple) else (args[1],)
        first = [state.reshape(-1, *state.shape[-2:])[0][:SAMPLES] for state in given]
        if all(state.shape == h.shape for state in first):
            h, c = first[0], first[-1]
    sigmoids, tanhs = [], []
    for step in x:
        inner = step @ weights["weight_ih"].T + biases[0]
        outer = h @ weights["weight_hh"].T + biases[1]
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
    none = x.new_zeros(0)
    return (
        torch.cat([value.flatten() for value in sigmoids]) if sigmoids else none,
        torch.cat([value.flatten() for value in tanhs]) if tanhs else none,
    )
