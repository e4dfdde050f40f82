"""Models of ``moments.py`` held out: no prediction had been compared on them before its one run.

They were chosen before any prediction was made of them. ``FRESH`` in ``zoo.py`` names all. Those of
libraries were drawn at random (``random.Random(0)``) from the whole lists of transformers, timm and
``lucidrains.py``, leaving out the families of ``zoo.py`` and ``sample.txt``: the first ones in the
drawn order, one of a family, that run with a loss at the sizes of ``zoo.py``, have at most 30
million weights and take at most 2 seconds for a pass. The nets written out here are of kinds that
``zoo.py`` lacks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["FRESH_NETS"]

WIDTH = 96


class LastState(nn.Module):
    """Token ids through a recurrent layer in both directions; its last states to classes."""

    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, WIDTH)
        self.rnn = kind(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        state = self.rnn(self.embed(ids))[1]
        last = state[0] if isinstance(state, tuple) else state
        out: torch.Tensor = self.head(F.relu(self.hidden(torch.cat([last[-2], last[-1]], 1))))
        return out


class Double(nn.Sequential):
    """Two convolutions, each with a group norm and a ReLU."""

    def __init__(self, inner: int, outer: int) -> None:
        parts: list[nn.Module] = []
        for start in (inner, outer):
            parts += [nn.Conv2d(start, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.ReLU()]
        super().__init__(*parts)


class UNet(nn.Module):
    """Three scales down and up again, joined by concatenation; a class for every pixel."""

    def __init__(self, widths: tuple[int, int, int] = (32, 48, 64)) -> None:
        super().__init__()
        one, two, three = widths
        self.down = nn.ModuleList([Double(3, one), Double(one, two), Double(two, three)])
        self.rise = nn.ModuleList(
            [nn.ConvTranspose2d(three, two, 2, stride=2), nn.ConvTranspose2d(two, one, 2, stride=2)]
        )
        self.up = nn.ModuleList([Double(2 * two, two), Double(2 * one, one)])
        self.head = nn.Conv2d(one, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for rise, block, beside in zip(self.rise, self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([rise(x), beside], 1))
        out: torch.Tensor = self.head(x).flatten(2).transpose(1, 2)
        return out


class Dilated(nn.Module):
    """A gated causal convolution with a residual and a skip output, as in WaveNet."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.both = nn.Conv1d(WIDTH, 2 * WIDTH, 3, dilation=dilation)
        self.write, self.skip = nn.Conv1d(WIDTH, WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signal, gate = self.both(F.pad(x, (self.past, 0))).chunk(2, 1)
        mixed = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.write(mixed), self.skip(mixed)


class Waves(nn.Module):
    """Token ids through dilated convolutions; the sum of their skips to the next token."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, WIDTH)
        self.blocks = nn.ModuleList(Dilated(2**number) for number in range(depth))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(WIDTH, 200, 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).transpose(1, 2)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        out: torch.Tensor = self.head(total).transpose(1, 2)
        return out


class Scan(nn.Module):
    """x + out(silu(gate) * s), where s_t = a s_(t-1) + (1 - a) u_t with a learned a per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.into, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decay = nn.Parameter(torch.linspace(-2, 4, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, gate = self.into(self.norm(x)).chunk(2, -1)
        keep = torch.sigmoid(self.decay)
        state, states = torch.zeros_like(u[:, 0]), []
        for now in u.unbind(1):
            state = keep * state + (1 - keep) * now
            states.append(state)
        out: torch.Tensor = x + self.out(F.silu(gate) * torch.stack(states, 1))
        return out


class Towers(nn.Module):
    """Two batches of vectors through one tower; cosines of all pairs, times ten, as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Linear(64, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, 2 * WIDTH), nn.GELU(),
            nn.Linear(2 * WIDTH, WIDTH),
        )  # fmt: skip

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        left, right = (F.normalize(self.tower(x), dim=-1) for x in (one, other))
        return 10 * left @ right.T


def _scans() -> nn.Module:
    ends = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 200)
    return nn.Sequential(nn.Embedding(200, WIDTH), *(Scan() for _ in range(4)), *ends)


def _ids() -> object:
    return torch.randint(0, 200, (8, 24))


FRESH_NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "last states of a gru": (lambda: LastState(nn.GRU), _ids),
    "last states of an lstm": (lambda: LastState(nn.LSTM), _ids),
    "u-net, group norm": (UNet, lambda: torch.randn(8, 3, 16, 16)),
    "dilated convolutions, gated": (Waves, _ids),
    "scan over time, gated": (_scans, _ids),
    "twin towers, cosines": (Towers, lambda: (torch.randn(16, 64), torch.randn(16, 64))),
}
