"""What a recipe needs besides the weights, as data: a multiplier, a scale, an optimizer's setting.

A published start is often half of a parametrisation: DeepNorm multiplies the skip, muP divides the
logits. initium does not touch the model's code; the plan says what has to be done, where, by whom.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Need"]


@dataclass(frozen=True, slots=True)
class Need:
    """One thing outside the weights that a recipe is incomplete without.

    Attributes:
        what: the quantity, such as ``"residual multiplier"``.
        value: its number, or a formula or word where one number does not do.
        where: the place in the model or the training code.
        who: who has to apply it, such as ``"model code"`` or ``"optimizer"``.
        source: where it is published.

    Example:
        >>> print(Need("residual multiplier", 1.5, "x of every x + f(x)", "model code"))
        residual multiplier 1.5: x of every x + f(x) (model code)
    """

    what: str
    value: float | str
    where: str
    who: str
    source: str = ""

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:.6g}"
        return f"{self.what} {value}: {self.where} ({self.who})"
