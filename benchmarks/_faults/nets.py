"""Networks of torch's own modules for ``faults.py``, as papers and tutorials have them.

Covered: an encoder and decoder of ``nn.Transformer``, a U-Net (Ronneberger et al. 2015), a tagger
of bidirectional LSTMs, FSRCNN (Dong et al. 2016) and a convolutional decoder, all small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["NETS"]

WORDS, CLASSES = 200, 20


class EncoderDecoder(nn.Module):
    """Two sequences of token ids to logits of the second."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.source = nn.Embedding(WORDS, width)
        self.target = nn.Embedding(WORDS, width)
        self.body = nn.Transformer(width, 4, 3, 3, 2 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.source(source), self.target(target)))
        return out


class Tagger(nn.Module):
    """A class for every token, from both directions."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.rnn = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(self.embed(ids))[0])
        return out


class UNet(nn.Module):
    """Down and up again, each level joined with its like; no norms."""

    def __init__(self, width: int = 24, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            _double(inputs, outputs) for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * outputs, outputs, 2, 2) for outputs in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(_double(2 * one, one) for one in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = [self.down[0](x)]
        for block in self.down[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([levels.pop(), up(x)], 1))
        out: torch.Tensor = self.head(x)
        return out


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def _fsrcnn(width: int = 56, narrow: int = 12) -> nn.Module:
    """Features, a narrow chain, and a picture three times as large."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 5, padding=2), nn.PReLU(width)]
    layers += [nn.Conv2d(width, narrow, 1), nn.PReLU(narrow)]
    for _ in range(4):
        layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.PReLU(narrow)]
    layers += [nn.Conv2d(narrow, width, 1), nn.PReLU(width)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 1, 9, 3, padding=4, output_padding=2))


def _decoder() -> nn.Module:
    """A vector to a picture."""
    return nn.Sequential(
        nn.ConvTranspose2d(64, 96, 4), nn.ReLU(), nn.ConvTranspose2d(96, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 24, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(24, 3, 4, 2, 1),
    )  # fmt: skip


def _ids(count: int = 8, length: int = 16) -> torch.Tensor:
    return torch.randint(0, WORDS, (count, length))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object], int | None]] = {
    "encoder-decoder": (EncoderDecoder, lambda: (_ids(), _ids()), WORDS),
    "bidirectional LSTM": (Tagger, _ids, CLASSES),
    "U-Net": (UNet, lambda: torch.randn(4, 3, 32, 32), None),
    "FSRCNN": (_fsrcnn, lambda: torch.randn(8, 1, 16, 16), None),
    "decoder": (_decoder, lambda: torch.randn(16, 64, 1, 1), None),
}
"""Constructor, batch, and the number of classes if every token has one."""
