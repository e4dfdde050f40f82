"""A plan from weights that are there: the law that each matrix measures.

Covered: a large matrix becomes the law of its mean and standard deviation, block by block of a
fused weight and expert by expert of a stack; one whose rows (or columns) are orthonormal up to a
factor becomes the orthogonal law; equal elements a constant. Everything else is kept as it is:
vectors, buffers, whatever is small, positions, scales, and matrices with a structure that no law
has (mirrored halves, many zeros). Not covered: what training has made of a matrix beyond its two
moments, such as a few large singular values; weights that this process does not hold whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from initium._inspect import inspect
from initium._model.call import must_be_module
from initium._model.moments import Moments
from initium._model.names import Slot, slots
from initium._model.sharding import must_show_parameters, whole
from initium._plan import Entry, Plan
from initium._plan.layout import with_padding_row
from initium._types import ParameterView
from initium.errors import ModelError
from initium.spec import Blocks, Constant, Keep, Normal, Orthogonal, Part, Spec, Value

__all__ = ["SMALL", "realised_plan"]

SMALL = 65536
"""Elements up to which a draw has the values of a parameter, and not its law alone."""
ZEROS = 0.1
"""A matrix with a larger share of exact zeros has a structure: an identity, a mask, pruning."""
SINGLE = 1e-5
"""How far W W^T may be from c I, relative to c, after an orthogonalisation in single precision."""
RECIPE = "its own weights"


def realised_plan(model: nn.Module, inputs: object = None, *, small: int = SMALL) -> Plan:
    """The plan that a model's weights, as they are, might have been drawn from.

    Formulas: for each logical matrix normal(std, mean) with the mean and standard deviation of its
    elements; orthogonal(gain) with gain^2 = |W|^2 / min(rows, columns) where W W^T (or W^T W)
    equals gain^2 I within the rounding of the weights' dtype.

    Args:
        model: initialised, or with the weights of a checkpoint.
        inputs: one batch, as for :func:`initium.inspect`, so that fused blocks are seen.
        small: parameters of at most so many elements are kept as they are.

    Raises:
        ModelError: a parameter without values (on the meta device), sharded over processes, or
            with elements that are not finite.

    Example:
        >>> layer = nn.utils.skip_init(nn.Linear, 512, 512)
        >>> _ = nn.init.orthogonal_(layer.weight, 1.5), nn.init.zeros_(layer.bias)
        >>> plan = realised_plan(layer)
        >>> [str(entry.spec) for entry in plan.entries.values()]
        ['orthogonal(gain=1.5)', 'keep()']

    Source: R. Freivalds 1977, Probabilistic machines can use less running time (IFIP), for the test
    of W W^T = c I by random vectors.

    Known divergence: elements count as independent, so that a low rank or outliers are not seen.
    """
    must_be_module(model)
    must_show_parameters(model)
    found = slots(model)
    held = {name: _values(slot) for name, slot in found.items()}
    view = inspect(model, inputs)
    entries: dict[str, Entry] = {}
    for parameter in view.owners:
        spec, reason = _spec(parameter, found[parameter.name], held[parameter.name], small)
        entries[parameter.name] = Entry(
            spec,
            parameter.shape,
            parameter.dtype,
            parameter.role,
            reason,
            evidence=str(parameter.evidence.get("role", "")),
            aliases=parameter.aliases,
        )
    for buffer in view.buffers.values():
        if buffer.tied_to is None:
            entries[buffer.name] = Entry(
                Keep(),
                buffer.shape,
                buffer.dtype,
                "buffer",
                "A buffer, kept as it is.",
                persistent=buffer.persistent,
            )
    return Plan(entries, recipe=RECIPE, model=view.model, notes=view.notes)


def _values(slot: Slot) -> torch.Tensor:
    """The values of a parameter or buffer, sharing their memory."""
    if slot.tensor.is_meta:
        raise ModelError(
            "is on the meta device and has no values to measure",
            where=slot.name,
            value=tuple(slot.tensor.shape),
            fix="load or initialise the weights first, or pass a plan: initium.plan(model, ...)",
        )
    tensor = whole(slot.tensor)
    if tensor is None:
        raise ModelError(
            "is sharded over processes, and its moments are not those of the part held here",
            where=slot.name,
            fix="do this before the model is sharded, or pass the plan it was filled from",
        )
    return tensor.detach()


def _spec(view: ParameterView, slot: Slot, tensor: torch.Tensor, small: int) -> tuple[Spec, str]:
    """What stands for one parameter, and why."""
    tensor, made = _result(slot, tensor)
    moments = Moments.of(tensor)
    if moments.nonfinite or not math.isfinite(moments.squares):
        raise ModelError(
            "holds NaN or infinity",
            where=view.name,
            value=f"{int(moments.nonfinite)} of {moments.elements} elements",
            fix="load sound weights, or initialise it",
        )
    few = tensor.numel() <= small or tensor.dim() < 2
    if few or not _measurable(view, tensor) or _structured(view, tensor, moments):
        wide = torch.promote_types(tensor.dtype, torch.float32)
        kept = Value.of(tensor.to("cpu", wide).numpy()) if made else Keep()
        return kept, "Kept as it is."
    return _of_parts(view, tensor), "Measured: the law with the moments of its values."


def _result(slot: Slot, tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """What a parametrization with an inverse makes of a parameter: that is what plans are about."""
    owner = slot.owner
    if not isinstance(owner, nn.utils.parametrize.ParametrizationList) or slot.leaf != "original":
        return tensor, False
    spectral = nn.utils.parametrizations._SpectralNorm
    if any(isinstance(part, spectral) or not hasattr(part, "right_inverse") for part in owner):
        return tensor, False
    with torch.no_grad():
        made: torch.Tensor = owner()
    return (made.detach(), True) if made.shape == tensor.shape else (tensor, False)


def _measurable(view: ParameterView, tensor: torch.Tensor) -> bool:
    """Whether its elements are alike: matrices and tables of tokens, but not of positions."""
    return tensor.is_floating_point() and (view.is_matrix or view.role in ("embedding", "unknown"))


def _structured(view: ParameterView, tensor: torch.Tensor, moments: Moments) -> bool:
    """Whether it has what no elementwise law has: many zeros among others, or mirrored halves."""
    if ZEROS < moments.zeros / moments.elements < 1:
        return True
    for axis in (*view.axes.outputs, *view.axes.inputs) if view.axes else ():
        half, rest = divmod(tensor.shape[axis], 2)
        if half and not rest and bool(moments.squares):
            first, second = tensor.narrow(axis, 0, half), tensor.narrow(axis, half, half)
            if torch.equal(first.narrow(axis, 0, 1), -second.narrow(axis, 0, 1)):
                return torch.equal(first, -second)
    return False


def _of_parts(view: ParameterView, tensor: torch.Tensor) -> Spec:
    row = view.padding_row
    if row is not None and not bool(tensor[row].any()):
        return with_padding_row(view, _of_one(view, torch.cat([tensor[:row], tensor[row + 1 :]])))
    parts = []
    for place in _places(view):
        runs = [tensor.narrow(place.axis, start, end - start) for start, end in place.runs()]
        spec = _of_one(view, runs[0] if len(runs) == 1 else torch.cat(runs, place.axis))
        parts.append(Part(place.axis, place.start, place.size, spec, place.count, place.stride))
    if not parts:
        return _of_one(view, tensor)
    constant = isinstance(parts[0].spec, Constant)
    same = constant and all(part.spec == parts[0].spec for part in parts)
    return parts[0].spec if same else Blocks(tuple(parts))


def _places(view: ParameterView) -> Sequence[Part]:
    """Where the logical matrices of a parameter lie; nothing for a single one."""
    nothing = Keep()
    fused = [block for block in view.blocks if not block.stacked]
    if fused:
        return [Part(b.axis, b.start, b.size, nothing, b.count, b.stride) for b in fused]
    batch = view.axes.batch if view.axes else ()
    if batch:
        return [Part(batch[0], at, 1, nothing) for at in range(view.shape[batch[0]])]
    return [
        Part(block.axis, block.start + at * block.stride, block.size, nothing)
        for block in view.blocks
        for at in range(block.count)
    ]


def _of_one(view: ParameterView, tensor: torch.Tensor) -> Spec:
    """The law of one logical matrix, or of several that are alike."""
    moments = Moments.of(tensor)
    mean = moments.per_element(moments.total)
    if bool((tensor == tensor.reshape(-1)[0]).all()):
        return Constant(float(tensor.reshape(-1)[0]))
    gain = _orthogonal(view, tensor)
    if gain is not None:
        assert view.axes is not None
        return Orthogonal(gain, view.axes.outputs, view.axes.batch)
    return Normal(math.sqrt(max(moments.per_element(moments.squares) - mean**2, 0.0)), mean)


def _orthogonal(view: ParameterView, tensor: torch.Tensor) -> float | None:
    """The gain, where W W^T (or W^T W, of a tall matrix) is gain^2 I for every matrix."""
    if view.axes is None or not view.axes.outputs:
        return None
    outputs, batch = view.axes.outputs, view.axes.batch
    columns = [axis for axis in range(tensor.dim()) if axis not in (*outputs, *batch)]
    rows = math.prod(tensor.shape[axis] for axis in outputs)
    stacked = math.prod(tensor.shape[axis] for axis in batch)
    found = tensor.permute(*batch, *outputs, *columns).reshape(stacked, rows, -1)
    if min(found.shape[1:]) < 2:
        return None
    tolerance = max(torch.finfo(tensor.dtype).eps, SINGLE)
    squares = []
    for matrix in found:
        wide = matrix.to(torch.promote_types(tensor.dtype, torch.float32))
        wide = wide if len(wide) <= wide.shape[1] else wide.T
        square = float(wide.square().sum(dtype=torch.float64)) / len(wide)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(len(wide), 2, generator=generator).to(wide)
        away = torch.linalg.vector_norm(wide @ (wide.T @ x) - square * x)
        if not float(away) <= tolerance * square * float(torch.linalg.vector_norm(x)):
            return None
        squares.append(square)
    if max(squares) - min(squares) > tolerance * max(squares):
        return None
    gain = math.sqrt(sum(squares) / len(squares))
    return float(f"{gain:.6g}")
