"""One forward pass that measures every product with a weight, and, if asked to, scales the weight.

A dispatch mode below autograd sees the operators, whatever modules or functions they come from. A
product's output is measured, the weight multiplied in place so that its second moment meets the
target, and the operator run again: everything downstream sees the calibrated signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from initium._calibrate.look import Look
from initium._calibrate.products import (
    LOOKUPS,
    RECURRENT,
    bias_of,
    operator_of,
    recurrent_steps,
)
from initium._calibrate.steer import Steer
from initium._calibrate.streams import Gauge
from initium._calibrate.sums import Sums, constant, sums_of
from initium._calibrate.targets import Unit
from initium._calibrate.weights import Weights
from initium.errors import ModelError

__all__ = ["Seen", "Sweep"]


@dataclass(slots=True)
class Seen:
    """What one pass over all batches has measured of one unit.

    ``each`` are the sums of its first, second ... use in a forward pass, over all batches. ``root``
    is the parameter to scale it by; ``empty`` says that it is zero, ``varied`` that its output is
    not one constant.
    """

    module: str
    operator: str
    each: list[Sums] = field(default_factory=list)
    lookup: bool = False
    product: bool = False
    root: str | None = None
    empty: bool = False
    varied: bool = False

    @property
    def all(self) -> Sums:
        """The sums over all uses."""
        total = Sums()
        for sums in self.each:
            total.add(sums)
        return total


class Sweep(TorchDispatchMode):
    """Measures, and scales where ``targets`` says to what.

    Args:
        weights: the model's memory.
        units: parameter name -> its units.
        module: says in which module the model is.
    """

    def __init__(
        self, weights: Weights, units: Mapping[str, tuple[Unit, ...]], module: Callable[[], str]
    ) -> None:
        super().__init__()
        self.weights = weights
        self.units = units
        self.module = module
        self.number = 0
        self.seen: dict[Unit, Seen] = {}
        self.used: dict[tuple[Unit, bool], int] = {}
        self.measured: list[tuple[Unit, float]] = []
        self.look: Look | None = None
        self.gauge: Gauge | None = None
        self.steer: Steer | None = None

    def begin(self) -> None:
        """A forward pass begins."""
        self.number = 0
        self.used.clear()

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        schema_name = func._schema.name.split("::")[-1]
        name = schema_name if schema_name.startswith("_") else schema_name.rstrip("_")
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        number, self.number = self.number, self.number + 1
        self.measured = []
        if func._schema.is_mutable:
            result = func(*args, **kwargs)
        elif name in RECURRENT:
            result = self._recurrent(func, name, args, kwargs)
        elif name in LOOKUPS:
            result = self._lookup(func, name, args, kwargs)
        else:
            result = self._product(func, name, args, kwargs)
        self.weights.note(func, args, kwargs, operands, result)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if self.look is not None:
            given, measured = (args, kwargs), self.measured
            self.look.passed(number, name, given, operands, outputs, measured)
        if self.gauge is not None and outputs:
            self.gauge.passed(number, name, outputs[0])
        return result

    # -- the three kinds of operators ----------------------------------------------------------

    def _product(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = operator_of(name)
        if operator is None:
            return func(*args, **kwargs)
        found = self._weight(name, operator.operands, args)
        if found is None:
            return func(*args, **kwargs)
        weight, position = found

        def run() -> torch.Tensor:
            again = [self.weights.again(weight) if a is weight else a for a in _flat(name, args)]
            return func(*_unflat(name, args, again), **kwargs)

        if name.endswith("_cell"):
            self._input_part(name, args[0], weight)
            return run()
        out = run()
        bias = bias_of(operator, name, args, kwargs, out)
        return self._measure(name, weight, run, bias, operator.dim(position, weight, out), out)

    def _lookup(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        weight = args[0]

        def run() -> Any:
            return func(self.weights.again(weight), *args[1:], **kwargs)

        first = run()
        if not self.weights.roots(weight):
            return first
        padding = args[2] if name == "embedding" and len(args) > 2 else -1
        kept = args[1] != padding if isinstance(padding, int) and padding >= 0 else None

        def rows(result: Any) -> torch.Tensor:
            out = result if isinstance(result, torch.Tensor) else result[0]
            return out if kept is None else out[kept]

        self._measure(name, weight, lambda: rows(run()), None, None, rows(first))
        return first if self.steer is None else run()

    def _recurrent(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        data = args[0]
        for step in recurrent_steps(func, args):
            for weight in step.weights:
                self._input_part(name, data, weight)
            data = step.run(data)
        return func(*args, **kwargs)

    def _input_part(self, name: str, data: torch.Tensor, weight: torch.Tensor) -> None:
        """The product of a recurrent weight with its input, before any state is added."""

        def run() -> torch.Tensor:
            return torch.nn.functional.linear(data, self.weights.again(weight))

        if self.weights.roots(weight):
            self._measure(name, weight, run, None, data.dim() - 1)

    def _weight(
        self, name: str, positions: tuple[int, ...], args: tuple[Any, ...]
    ) -> tuple[torch.Tensor, int] | None:
        """The one operand that is made of parameters, if the others are not."""
        flat = _flat(name, args)
        places = range(len(flat)) if name == "einsum" else positions
        tensors = [(flat[p], p) for p in places if p < len(flat) and _tensor(flat[p])]
        mine = [(tensor, p) for tensor, p in tensors if self.weights.roots(tensor)]
        moving = any(self.weights.is_data(tensor) for tensor in flat if _tensor(tensor))
        both = (0, *places) if len(places) == 1 else places
        learned = [
            t for p in both if p < len(flat) and _tensor(t := flat[p]) and self.weights.roots(t)
        ]
        if not moving and len(learned) > 1:
            self.weights.fixed.update(*map(self.weights.roots, learned))
        return mine[0] if moving and len(mine) == 1 else None

    # -- measuring and scaling -----------------------------------------------------------------

    def _measure(
        self,
        operator: str,
        weight: torch.Tensor,
        run: Callable[[], torch.Tensor],
        bias: torch.Tensor | None,
        dim: int | None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = run() if out is None else out
        if not (out.is_floating_point() or out.is_complex()) or out.numel() == 0:
            return out
        parts = self._parts(weight, dim)
        changed = False
        for unit, runs in parts:
            sums = sums_of(out, bias, dim, runs)
            changed |= self._unit(unit, operator, weight, sums, constant(out, dim, runs))
        if changed:
            out = run()
        for unit, runs in parts:
            self._record(unit, operator, sums_of(out, bias, dim, runs))
        return out

    def _parts(
        self, weight: torch.Tensor, dim: int | None
    ) -> list[tuple[Unit, tuple[tuple[int, int], ...]]]:
        """The units that an operand holds, each with its ranges of the output; none for all."""
        name = self.weights.named(weight)
        units = self.units.get(name, (Unit(name, self.weights.view.parameters[name].role),))
        if len(units) == 1 or dim is None or len(self.weights.roots(weight)) > 1:
            whole = units[0] if len(units) == 1 else Unit(name, units[0].role)
            return [(whole, ())]
        parameter, axis = self.weights.held[name].tensor, units[0].axis
        start, size = _rows_of(weight, parameter, axis, weight in self.weights.made)
        inside = [
            (unit, tuple((a - start, b - start) for a, b in unit.runs))
            for unit in units
            if all(start <= a and b <= start + size for a, b in unit.runs)
        ]
        return inside or [(Unit(name, units[0].role), ())]

    def _unit(
        self,
        unit: Unit,
        operator: str,
        weight: torch.Tensor,
        sums: Sums,
        same: bool,
    ) -> bool:
        """Scale one unit if that is due; whether it was changed."""
        lookup = operator in LOOKUPS
        self.used[unit, lookup] = self.used.get((unit, lookup), 0) + 1
        seen = self.seen.get(unit)
        if seen is None:
            seen = self.seen[unit] = Seen(self.module(), operator)
        if self.look is not None:
            self._look(unit, seen, weight, same)
        if self.steer is None:
            return False
        if not math.isfinite(sums.mean):
            raise _broken(unit, self.module(), operator, sums.mean)
        factor = self.steer.factor(unit, sums, self.used[unit, lookup], lookup)
        if factor is None:
            return False
        unit.multiply(self.weights.held[self.steer.courses[unit].root].tensor, factor)
        return True

    def _look(self, unit: Unit, seen: Seen, weight: torch.Tensor, same: bool) -> None:
        """What can be known before anything is scaled: whether, and through which parameter."""
        if not seen.each:
            seen.root = self.weights.scalable(weight, self.weights.roots(weight))
            own = unit.parts(self.weights.held[unit.name].tensor)
            zero = not any(bool(part.any()) for part in own)
            seen.empty = zero or not bool(self.weights.again(weight).any())
        seen.varied |= not same

    def _record(self, unit: Unit, operator: str, sums: Sums) -> None:
        seen = self.seen[unit]
        self.measured.append((unit, sums.mean))
        lookup = operator in LOOKUPS
        seen.lookup |= lookup
        seen.product |= not lookup
        if seen.lookup and not lookup:
            return
        use = self.used[unit, lookup]
        if use > len(seen.each):
            seen.each.append(Sums())
        seen.each[use - 1].add(sums)


def _rows_of(
    weight: torch.Tensor, parameter: torch.Tensor, axis: int, copied: bool
) -> tuple[int, int]:
    """Which indices along ``axis`` of the parameter an operand holds, as (start, count)."""
    size = parameter.shape[axis]
    if copied or weight.numel() == parameter.numel():
        return 0, size
    start = (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(axis)
    return start, weight.numel() * size // parameter.numel()


def _tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _flat(name: str, args: tuple[Any, ...]) -> list[Any]:
    """The operands, which ``einsum`` holds in a list."""
    return list(args[1]) if name == "einsum" else list(args)


def _unflat(name: str, args: tuple[Any, ...], flat: list[Any]) -> tuple[Any, ...]:
    return (args[0], flat, *args[2:]) if name == "einsum" else tuple(flat)


def _broken(unit: Unit, module: str, operator: str, value: float) -> ModelError:
    return ModelError(
        f"the output of its {operator} in {module or 'the model'} is not finite, and all weights "
        "are as they were",
        where=unit.name,
        value=value,
        fix="look for what makes infinities before it: the batch, a division, a wide activation "
        "in half precision",
    )
