"""Modules that several tests build models of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Average"]


class Average(nn.Module):
    """A branch: attention that is close to an average, behind a norm. What adds it is outside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q / 10, k / 10, v))
