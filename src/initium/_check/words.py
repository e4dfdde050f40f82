"""Words that findings share: names folded into few."""

from __future__ import annotations

from collections.abc import Iterable

from initium._report.words import count
from initium._tables import fold

__all__ = ["also", "listed"]

SHOWN = 4


def listed(names: Iterable[str], most: int = SHOWN) -> str:
    """Names with repeated blocks folded; how many more there are behind the first few.

    Example:
        >>> listed(["h.0.weight", "h.1.weight", "head.bias"])
        'h.{0..1}.weight, head.bias'
    """
    folds = fold((name, None) for name in dict.fromkeys(names))
    more = sum(len(one.names) for one in folds[most:])
    text = ", ".join(one.pattern for one in folds[:most])
    return f"{text} and {more:,} more" if more else text


def also(names: Iterable[str], noun: str = "tensor") -> str:
    """How many there are besides the first, which the sentence has named; nothing for one.

    Example:
        >>> also(["a"]), also(["a", "b"])
        ('', '; 2 tensors in all: a, b')
    """
    names = list(names)
    return f"; {count(len(names), noun)} in all: {listed(names)}" if len(names) > 1 else ""
