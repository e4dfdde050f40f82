"""A plan as plain torch code: the same distributions, drawn by torch, without initium.

Covered: every spec; repeated blocks become loops. The bits are torch's own, so they depend on its
generator and on the order of calls, and a tensor that the plan keeps is only named in a comment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

from initium._fill.tensor import COMPLEX
from initium._plan.plan import Entry, Plan
from initium._tables import Fold, fold
from initium.errors import PlanError
from initium.spec import (
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Keep,
    Normal,
    Orthogonal,
    Part,
    Sparse,
    Spec,
    TruncatedNormal,
    Uniform,
    Value,
)

__all__ = ["to_torch"]

HEAD = '''"""Initial weights of {model}: recipe {recipe}, seed {seed}. Plain torch."""

{imports}

{helpers}
@torch.no_grad()
def initialize(model: torch.nn.Module) -> None:
    torch.manual_seed({seed})
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
'''

HELPERS = {
    "orthogonal": '''
def orthogonal(tensor, gain, outputs=(0,), batch=()):
    """One orthogonal matrix per batch index; the axes `outputs` are its rows."""
    inputs = [axis for axis in range(tensor.dim()) if axis not in outputs + batch]
    view = tensor.permute(*batch, *outputs, *inputs)
    stack = view.shape[: len(batch)]
    rows = view.shape[len(batch) : len(batch) + len(outputs)].numel()
    made = torch.empty(stack.numel(), rows, view.shape.numel() // (stack.numel() * rows))
    for matrix in made:
        nn.init.orthogonal_(matrix, gain)
    view.copy_(made.reshape(view.shape))
''',
    "delta_orthogonal": '''
def delta_orthogonal(tensor, gain, groups):
    """An orthogonal matrix per group at the centre tap, zeros elsewhere."""
    nn.init.zeros_(tensor)
    centre = (slice(None), slice(None), *(size // 2 for size in tensor.shape[2:]))
    made = torch.empty(tensor.shape[:2])
    for matrix in made.chunk(groups):
        nn.init.orthogonal_(matrix, gain)
    tensor[centre] = made
''',
    "dirac": '''
def dirac(tensor, gain, groups):
    """`gain` at the centre tap from input i to output i of each group."""
    nn.init.zeros_(tensor)
    rows = tensor.shape[0] // groups
    for row in range(groups * rows):
        if row % rows < tensor.shape[1]:
            tensor[(row, row % rows, *(size // 2 for size in tensor.shape[2:]))] = gain
''',
    "stored": '''
def stored(data, dtype, shape):
    """A tensor from base64 of zlib of its little-endian bytes."""
    raw = bytearray(zlib.decompress(base64.b64decode(data)))
    return torch.frombuffer(raw, dtype=dtype).reshape(shape) if raw else torch.empty(shape)
''',
    "part": '''
def part(tensor, axis, starts, size, fill):
    """Fill the runs of `size` at `starts` along `axis` as one tensor."""
    index = torch.cat([torch.arange(start, start + size) for start in starts]).to(tensor.device)
    made = tensor.index_select(axis, index)
    fill(made)
    tensor.index_copy_(axis, index, made)
''',
}


def to_torch(plan: Plan) -> str:
    """The code of a plan; see :meth:`initium.Plan.to_torch`."""
    body: list[str] = []
    keyed = ((name, (entry.spec, entry.shape, entry.dtype)) for name, entry in plan.entries.items())
    for group in fold(keyed):
        entry = plan.entries[group.names[0]]
        body.extend(_loop(group, partial(_statements, entry)))
    text = "\n".join(body or ["    pass"])
    helpers = [code for name, code in HELPERS.items() if f"{name}(" in text]
    imports = ["import torch", "from torch import nn"]
    if "stored(" in text:
        imports = ["import base64", "import zlib", "", *imports]
    head = HEAD.format(
        model=_one_line(plan.model) or "a model",
        recipe=_one_line(plan.recipe),
        seed=plan.seed,
        imports="\n".join(imports),
        helpers="\n".join((*helpers, "")),
    )
    return f"{head}{text}\n"


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _loop(group: Fold, statements: Callable[[str], list[str]]) -> Iterator[str]:
    """Statements for every name of a fold, in nested loops."""
    letters = iter("ijklmnopqrst")
    indent, parts, values = "    ", [], iter(group.values)
    for piece in group.template:
        if piece is not None:
            parts.append(piece.replace("{", "{{").replace("}", "}}"))
            continue
        found = next(values)
        if len(found) == 1:
            parts.append(str(found[0]))
            continue
        letter = next(letters)
        yield f"{indent}for {letter} in {_range(found)}:"
        indent += "    "
        parts.append(f"{{{letter}}}")
    name = ".".join(parts)
    looped = len(indent) > 4
    text = repr(name) if looped else repr(group.names[0])
    for line in statements(f"tensors[{'f' if looped else ''}{text}]"):
        yield indent + line


def _range(values: tuple[int, ...]) -> str:
    steps = {after - before for before, after in pairwise(values)}
    if len(steps) == 1 and len(values) > 2 and steps != {1}:
        return f"range({values[0]}, {values[-1] + 1}, {steps.pop()})"
    if values == tuple(range(values[0], values[-1] + 1)):
        return f"range({values[0]}, {values[-1] + 1})" if values[0] else f"range({values[-1] + 1})"
    return repr(values)


def _statements(entry: Entry, target: str) -> list[str]:
    spec = entry.spec
    if isinstance(spec, Keep):
        return [f"_ = {target}  # left as it is"]
    if entry.dtype in COMPLEX and not isinstance(spec, (Constant, Value)):
        return [_call(f"torch.view_as_real({target})", spec.scaled(math.sqrt(0.5)))]
    if isinstance(spec, Blocks):
        return [_part(target, part) for part in spec.parts]
    if entry.dtype.startswith("float8") and not isinstance(spec, Value):
        return [f"{target}.copy_({_call(f'torch.empty({entry.shape})', spec)})"]
    return [_call(target, spec)]


def _call(target: str, spec: Spec) -> str:
    """One expression that fills ``target``, which may be a view."""
    match spec:
        case Constant(value):
            return f"nn.init.constant_({target}, {value!r})"
        case Normal(std, mean):
            return f"nn.init.normal_({target}, mean={mean!r}, std={std!r})"
        case Uniform(low, high):
            return f"nn.init.uniform_({target}, {low!r}, {high!r})"
        case TruncatedNormal():
            return _truncated(target, spec)
        case Orthogonal(gain, (0,), ()):
            return f"nn.init.orthogonal_({target}, gain={gain!r})"
        case Orthogonal(gain, outputs, batch):
            return f"orthogonal({target}, {gain!r}, {outputs}, {batch})"
        case DeltaOrthogonal(gain, groups):
            return f"delta_orthogonal({target}, {gain!r}, {groups})"
        case Dirac(gain, groups):
            return f"dirac({target}, {gain!r}, {groups})"
        case Identity(gain):
            return f"nn.init.eye_({target}).mul_({gain!r})"
        case Sparse(sparsity, std):
            return f"nn.init.sparse_({target}, sparsity={sparsity!r}, std={std!r})"
        case Value(dtype, shape, data):
            return f"{target}.copy_(stored({data!r}, torch.{dtype}, {shape}))"
    raise PlanError("has no form in plain torch", where=target, value=str(spec))


def _truncated(target: str, spec: TruncatedNormal) -> str:
    low, high = spec.bounds
    bounds = ", ".join(f"{key}={_float(value)}" for key, value in (("a", low), ("b", high)))
    if spec.sigma == 0:
        return f"nn.init.constant_({target}, {spec.mean!r})"
    return f"nn.init.trunc_normal_({target}, mean={spec.mean!r}, std={spec.sigma!r}, {bounds})"


def _float(value: float) -> str:
    return f"float({str(value)!r})" if math.isinf(value) else repr(value)


def _part(target: str, part: Part) -> str:
    starts = tuple(low for low, _ in part.runs())
    fill = f"{part.size}, lambda block: {_call('block', part.spec)}"
    if part.stacked:
        return f"for at in {_range(starts)}: part({target}, {part.axis}, (at,), {fill})"
    return f"part({target}, {part.axis}, {starts}, {fill})"
