"""Second moments that a convolution gives to each position, from those of its input.

q_out(p) = (C_in / groups) sum over taps t of E[W_t^2] q_in(p + t) + E[b^2]: a convolution of the
map of second moments with the mean squares of the taps, so that padding, stride, dilation and
transposition count as they do for the signal. Groups are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["backward_squares", "forward_squares"]

aten = torch.ops.aten


def forward_squares(x: torch.Tensor, weight: torch.Tensor, args: Sequence[Any]) -> torch.Tensor:
    """By position, with one channel.

    Args:
        x: ``[B, C_in, ...]``, or without a batch.
        weight: its values.
        args: of ``aten.convolution`` from the bias on.
    """
    bias, stride, padding, dilation, transposed, output_padding, groups = args
    taps = _taps(weight)
    fan = (weight.shape[0] if transposed else weight.shape[1] * groups) / groups
    moments = _moments(x) * fan
    settings = (stride, padding, dilation, transposed, output_padding, 1)
    found: torch.Tensor = aten.convolution.default(moments, taps, None, *settings)
    return found if bias is None else found + bias.detach().double().square().mean()


def backward_squares(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, args: Sequence[Any]
) -> torch.Tensor:
    """Of the gradient for ``x``, likewise.

    Args:
        gradient: ``[B, C_out, ...]``.
        x: the input of the forward pass, for its shape.
        weight: its values.
        args: of ``aten.convolution_backward`` from the stride on.
    """
    stride, padding, dilation, transposed, output_padding, groups, _ = args
    fan = (weight.shape[1] * groups if transposed else weight.shape[0]) / groups
    moments = _moments(gradient) * fan
    like = x.new_zeros((x.shape[0], 1, *x.shape[2:]), dtype=torch.float64)
    settings = (stride, padding, dilation, transposed, output_padding, 1, [True, False, False])
    taps = _taps(weight)
    found: torch.Tensor = aten.convolution_backward.default(moments, like, taps, None, *settings)[0]
    return found


def _moments(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().square().mean(1, keepdim=True)


def _taps(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().double().square().mean((0, 1), keepdim=True)
