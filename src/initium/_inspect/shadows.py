"""Real values for what can be known without weights.

While the model runs on the meta device, everything that follows from constants, buffers and integer
inputs alone is also computed for real on the CPU. Where the model's Python code asks for a value
that depends on weights (``.item()``, ``if tensor:``, ``topk`` indices), one is invented, and the
place is noted: what lies on the other branch was not seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from initium.errors import ModelError

__all__ = ["LIMIT", "Shadows"]

LIMIT = 1 << 22
"""Elements up to which real values are kept."""


class Shadows:
    """Real CPU values by the identity of the abstract tensor that stands for them.

    ``moment`` tells how far the trace is; ``turns`` are the moments at which the outermost module's
    own code asked for an invented value.
    """

    def __init__(self, place: Callable[[], str], moment: Callable[[], int]) -> None:
        self.place = place
        self.moment = moment
        self.invented: list[str] = []
        self.turns: list[int] = []
        self._values: dict[int, torch.Tensor] = {}
        self._by_storage: dict[int, set[int]] = {}
        self._tainted: set[int] = set()

    def known(self, tensor: torch.Tensor) -> bool:
        if id(tensor) in self._tainted:
            return False
        return id(tensor) in self._values or tensor.device.type != "meta"

    def get(self, tensor: torch.Tensor) -> torch.Tensor:
        """The real value of a known tensor."""
        return self._values.get(id(tensor), tensor)

    def set(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        if value.numel() > LIMIT:
            return
        self._values[id(tensor)] = value
        self._tainted.discard(id(tensor))
        if value.layout is torch.strided:
            storage = value.untyped_storage()._cdata
            self._by_storage.setdefault(storage, set()).add(id(tensor))

    def forget(self, tensor: torch.Tensor) -> None:
        """After a write of unknown contents: the tensor and its aliases are no longer known."""
        value = self._values.pop(id(tensor), None)
        if value is not None:
            for other in self._by_storage.pop(value.untyped_storage()._cdata, ()):
                self._values.pop(other, None)
        if tensor.device.type != "meta":
            self._tainted.add(id(tensor))

    def value(self, tensor: torch.Tensor, why: str) -> torch.Tensor:
        """The real value, invented where it is not known.

        Raises:
            ModelError: too many elements to invent.
        """
        if self.known(tensor):
            return self.get(tensor)
        return self.invent(tensor, torch.ones(tensor.shape, dtype=tensor.dtype), why)

    def asked(self, tensor: torch.Tensor, why: str) -> torch.Tensor:
        """The real value, asked for by Python code that may go another way with another one.

        Raises:
            ModelError: too many elements to invent.
        """
        if not self.known(tensor) and not self.place():
            self.turns.append(self.moment())
        return self.value(tensor, why)

    def invent(self, tensor: torch.Tensor, value: torch.Tensor, why: str) -> torch.Tensor:
        if tensor.numel() > LIMIT:
            raise ModelError(
                f"{why} needs the contents of a tensor of {tensor.numel()} elements that depend "
                "on the weights",
                where=self.place() or None,
            )
        note = f"{why} in {self.place() or 'the model'}"
        if note not in self.invented:
            self.invented.append(note)
        self.set(tensor, value)
        return value
