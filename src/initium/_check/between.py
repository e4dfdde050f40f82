"""What happens between modules, seen operator by operator below autograd.

Attention (fused, or a softmax by hand whose result is multiplied by values), tanh and sigmoid
whether functions or modules, and the sums of residual streams. Nothing is kept of a tensor.

Not covered: what a kernel of its own computes inside (FlexAttention, a fused recurrent cell), and
operators of a pass in which nothing asks for a gradient.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from initium._check.attend import AttentionSums, of_logits, of_queries
from initium._check.sample import mean_square, sampled
from initium._check.thresholds import SATURATED_SIGMOID, SATURATED_TANH

__all__ = ["Between", "Branch", "Places"]

VALUES = 1 << 14
FLAT: dict[str, tuple[float, float]] = {
    "tanh": (-SATURATED_TANH, SATURATED_TANH),
    "hardtanh": (-SATURATED_TANH, SATURATED_TANH),
    "sigmoid": (1 - SATURATED_SIGMOID, SATURATED_SIGMOID),
    "hardsigmoid": (1 - SATURATED_SIGMOID, SATURATED_SIGMOID),
}
SOFTMAX = frozenset({"_softmax", "_safe_softmax"})
PRODUCTS = frozenset({"bmm", "baddbmm", "mm"})
KEPT = frozenset({"_to_copy", "clone", "mul", "masked_fill", "where"})
"""Operators through which the result of a softmax stays one on its way to the values."""
RECTIFIERS = frozenset({"relu", "threshold", "hardtanh", "clamp_min"})


@runtime_checkable
class Places(Protocol):
    """Where the model is: what :class:`initium._check.measure.Measure` knows."""

    def here(self) -> str | None:
        """The module that is running, or ``None`` where its inside is not to be looked at."""

    def place(self, given: torch.Tensor) -> str:
        """The name for an operator on ``given``."""

    def age(self, tensor: torch.Tensor) -> int | None:
        """How early a module returned ``tensor``; ``None`` if none did."""

    def made(self, tensor: torch.Tensor, place: str) -> None:
        """``tensor`` was made at ``place`` by no module."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Second moments of a stream, of the branch that is added to it, and of the sum; the matrix
    that ends the branch, and the module that adds it."""

    writer: str
    place: str
    before: float
    branch: float
    after: float


@dataclass(frozen=True, slots=True)
class _Softmax:
    """The result of a softmax that may turn out to be an attention's."""

    reference: weakref.ref[torch.Tensor]
    size: int
    place: str
    sums: AttentionSums


class Between(TorchDispatchMode):
    """Watches the forward pass; ``attention``, ``saturated`` and ``branches`` are its results.

    Args:
        places: names what is running.
    """

    supports_higher_order_operators = True

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places
        self.attention: dict[str, AttentionSums] = {}
        self.saturated: dict[str, float] = {}
        self.branches: list[Branch] = []
        self.writer: tuple[str, int] | None = None
        self.active = False
        self._softmaxes: dict[int, _Softmax] = {}
        self._sums: dict[int, weakref.ref[torch.Tensor]] = {}

    def __enter__(self) -> Self:
        self.active = True
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.active = False
        super().__exit__(*raised)

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "_schema", None) and func._schema.name.removeprefix("aten::")
        look = LOOKS.get(_plain(name)) if name else None
        if look is None:
            return func(*args, **kwargs)
        before = look.before(self, args) if look.before is not None else None
        result = func(*args, **kwargs)
        given = args[0] if args else None
        if isinstance(given, torch.Tensor) and self.places.here() is not None:
            with torch.no_grad():
                look.after(self, func, args, kwargs, result, before)
        return result

    def aside(self) -> AbstractContextManager[None]:
        """What runs inside is not watched, nor slowed down."""
        return _disable_current_modes() if self.active else nullcontext()

    def wrote(self, writer: str, age: int) -> None:
        """The matrix that ends a residual branch has just been used."""
        self.writer = (writer, age)

    def _fused(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        names = (argument.name for argument in func._schema.arguments)
        given = dict(zip(names, args, strict=False)) | kwargs
        if not given["query"].requires_grad or given["query"].dim() > 4:
            return
        sums = of_queries(
            given["query"],
            given["key"],
            given.get("attn_mask", given.get("attn_bias")),
            bool(given.get("is_causal", False)),
            given.get("scale"),
        )
        self._attended(self.places.here() or "", sums)

    def _softmax(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        logits = args[0]
        if logits.requires_grad and logits.dim() > 1 and logits.shape[args[1]] > 1:
            self._keep(result, self.places.here() or "", of_logits(logits, args[1]))

    def _keep(self, tensor: torch.Tensor, place: str, sums: AttentionSums) -> None:
        found = _Softmax(weakref.ref(tensor), tensor.numel(), place, sums)
        self._softmaxes[_storage(tensor)] = found

    def _held(self, tensor: Any) -> _Softmax | None:
        """The softmax that ``tensor`` holds the result of, if it does."""
        if not isinstance(tensor, torch.Tensor) or not self._softmaxes:
            return None
        found = self._softmaxes.get(_storage(tensor))
        if found is None or found.reference() is None or found.size != tensor.numel():
            return None
        return found

    def _passed_on(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        held = next((found for found in map(self._held, args) if found is not None), None)
        if held is not None and result.numel() == held.size:
            self._keep(result, held.place, held.sums)

    def _multiplied(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        for operand in args[:3]:
            held = self._held(operand)
            if held is not None:
                del self._softmaxes[_storage(operand)]
                self._attended(held.place, held.sums)

    def _attended(self, place: str, sums: AttentionSums) -> None:
        if sums.rows:
            self.attention.setdefault(place, AttentionSums()).add(sums)

    def _flattened(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        """The part of a tanh's or sigmoid's values where its slope is below 6%."""
        name = _plain(func._schema.name.removeprefix("aten::"))
        place = self.places.place(args[0])
        if name in RECTIFIERS:
            self.places.made(result, place)
        if name not in FLAT or not args[0].requires_grad:
            return
        low, high = FLAT[name]
        if name == "hardtanh":
            bounds = [*args[1:3], *(kwargs.get(key) for key in ("min_val", "max_val"))]
            if [bound for bound in bounds if bound is not None] not in ([], [-1.0, 1.0], [-1, 1]):
                return
        values = sampled(result, VALUES)
        outside = float(((values < low) | (values > high)).double().mean())
        self.saturated[place] = max(self.saturated.get(place, 0.0), outside)

    def _before_sum(self, args: tuple[Any, ...]) -> tuple[bool, float, float] | None:
        """Whether the second operand is the branch, and both moments, before they are added."""
        if self.writer is None or len(args) < 2:
            return None
        one, two = args[0], args[1]
        both = isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor)
        if not both or one.shape != two.shape or one.dim() < 2 or not one.is_floating_point():
            return None
        old, young = ([look(tensor) for tensor in (one, two)] for look in (self._old, self._young))
        first = old[0] if old[0] != old[1] else young[1] if young[0] != young[1] else None
        return None if first is None else (first, mean_square(one), mean_square(two))

    def _old(self, tensor: torch.Tensor) -> bool:
        """Whether it is a sum of the stream, or was there before the branch ended."""
        held = self._sums.get(id(tensor))
        if held is not None and held() is tensor:
            return True
        age = self.places.age(tensor)
        return age is not None and self.writer is not None and age < self.writer[1]

    def _young(self, tensor: torch.Tensor) -> bool:
        """Whether the end of the branch, or something after it, returned it."""
        age = self.places.age(tensor)
        return age is not None and self.writer is not None and age >= self.writer[1]

    def _added(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: Any
    ) -> None:
        if before is None or self.writer is None or kwargs.get("alpha", 1) != 1:
            return
        first_is_stream, one, two = before
        stream, branch = (one, two) if first_is_stream else (two, one)
        place = self.places.here() or ""
        self.branches.append(Branch(self.writer[0], place, stream, branch, mean_square(result)))
        self.writer = None
        self._sums[id(result)] = weakref.ref(result)


@dataclass(frozen=True, slots=True)
class Look:
    """What to do after an operator, and what has to be known before it."""

    after: Callable[..., None]
    before: Callable[..., Any] | None = None


LOOKS: dict[str, Look] = {
    "add": Look(Between._added, Between._before_sum),
    "_scaled_dot_product": Look(Between._fused),
    **dict.fromkeys(sorted(SOFTMAX), Look(Between._softmax)),
    **dict.fromkeys(sorted(PRODUCTS), Look(Between._multiplied)),
    **dict.fromkeys(sorted(KEPT), Look(Between._passed_on)),
    **dict.fromkeys(sorted({*FLAT, *RECTIFIERS}), Look(Between._flattened)),
}


def _plain(name: str) -> str:
    """The operator's name without overload and in-place mark; every fused attention is one."""
    if name.startswith("_scaled_dot_product") and not name.endswith("backward"):
        return "_scaled_dot_product"
    return name if name.startswith("_") else name.rstrip("_")


def _storage(tensor: torch.Tensor) -> int:
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return tensor.untyped_storage().data_ptr() if plain else id(tensor)
