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
    Arange,
    Blocks,
    Complements,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    Joint,
    Keep,
    Logarithm,
    LogUniform,
    Mirrored,
    NearIdentity,
    Normal,
    Orthogonal,
    Part,
    Power,
    SinCos,
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
    "ramp": '''
def ramp(tensor, start, step, axis):
    """start + step i along one axis, in the shape of `tensor`."""
    values = start + step * torch.arange(tensor.shape[axis], dtype=torch.float64)
    return values.movedim(0, -1).expand(tensor.movedim(axis, -1).shape).movedim(-1, axis)
''',
    "sincos": '''
def sincos(tensor, grid, prefix, base, interleaved, gain):
    """Sines and cosines of the points of a grid, the last axis first, after `prefix` zero rows."""
    count = tensor.shape[-1] // (2 * len(grid))
    frequencies = base ** (-torch.arange(count, dtype=torch.float64) / count)
    points = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    angles = [point.reshape(-1, 1) * frequencies for point in reversed(points)]
    pairs = [torch.stack([angle.sin(), angle.cos()], 2 if interleaved else 1) for angle in angles]
    table = torch.cat([pair.flatten(1) for pair in pairs], 1)
    tensor.copy_(torch.cat([torch.zeros(prefix, table.shape[1]), table]) * gain)
''',
    "hadamard": '''
def hadamard(tensor, gain):
    """The corner of a normalised Hadamard matrix, at the centre tap of a convolution."""
    made = torch.ones(1, 1)
    while made.shape[0] < max(tensor.shape[:2]):
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    corner = made[: tensor.shape[0], : tensor.shape[1]] * gain / made.shape[0] ** 0.5
    nn.init.zeros_(tensor)
    tensor[(slice(None), slice(None), *(size // 2 for size in tensor.shape[2:]))] = corner
''',
    "mirrored": '''
def mirrored(tensor, axes, fill):
    """Along each of `axes`, the second half is minus the first."""
    shape = [size // 2 if axis in axes else size for axis, size in enumerate(tensor.shape)]
    made = torch.empty(shape)
    fill(made)
    for axis in axes:
        made = torch.cat([made, -made], axis)
    tensor.copy_(made)
''',
    "near_identity": '''
def near_identity(key, rank, width, noise, identity, heads, made={}):
    """The two factors, as rows, of the best approximations of noise Z + identity I."""
    if key not in made:
        pairs = []
        for _ in range(heads):
            near = noise / width**0.5 * torch.randn(width, width) + identity * torch.eye(width)
            left, scale, right = torch.linalg.svd(near)
            size = rank // heads
            root = scale[:size, None].sqrt() * (torch.randint(2, (size, 1)) * 2 - 1)
            pairs.append((left.T[:size] * root, right[:size] * root))
        made[key] = [torch.cat(rows) for rows in zip(*pairs)]
    return made[key]
''',
    "complement": '''
def complement(key, member, rank, width, std, made={}):
    """Rows of one of two factors whose product is zero."""
    if key not in made:
        made[key] = nn.init.orthogonal_(torch.empty(rank, rank))
    return std * made[key][member::2].T @ torch.randn(rank // 2, width)
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
        case Arange() | LogUniform() | Logarithm() | InverseSoftplus() | Power():
            return f"{target}.copy_({_pointwise(target, spec)})"
        case SinCos(grid, prefix, base, interleaved, gain):
            return f"sincos({target}, {grid}, {prefix}, {base!r}, {interleaved}, {gain!r})"
        case Hadamard(gain):
            return f"hadamard({target}, {gain!r})"
        case Mirrored(of, axes):
            return f"mirrored({target}, {axes}, lambda half: {_call('half', of)})"
        case Joint():
            return f"{target}.copy_({_joint(target, spec)})"
        case Value(dtype, shape, data):
            return f"{target}.copy_(stored({data!r}, torch.{dtype}, {shape}))"
    raise PlanError("has no form in plain torch", where=target, value=str(spec))


def _pointwise(target: str, spec: Spec) -> str:
    """The values of a ramp, a log-uniform spec or a view, in the shape of ``target``."""
    match spec:
        case Constant(value):
            return f"torch.full_like({target}, {value!r}, dtype=torch.float32)"
        case Uniform(low, high):
            return f"torch.empty_like({target}, dtype=torch.float32).uniform_({low!r}, {high!r})"
        case LogUniform():
            low, high = spec.window
            return (
                f"torch.empty_like({target}, dtype=torch.float32).uniform_({low!r}, {high!r}).exp()"
            )
        case Arange(start, step, axis):
            return f"ramp({target}, {start!r}, {step!r}, {axis})"
        case Logarithm(of):
            return f"{_pointwise(target, of)}.log()"
        case InverseSoftplus(of, floor):
            return f"{_pointwise(target, of)}.clamp(min={floor!r}).expm1().log()"
        case Power(of, exponent, scale, shift):
            inner = _pointwise(target, of)
            return f"({inner}.pow({exponent!r}) * {scale!r} + {shift!r})"
    raise PlanError("has no form in plain torch", where=target, value=str(spec))


def _joint(target: str, spec: Joint) -> str:
    sizes = f"{target}.shape[{spec.axis}], {target}.shape[{1 - spec.axis}]"
    match spec.of:
        case NearIdentity(noise, identity, heads):
            made = f"near_identity({spec.key!r}, {sizes}, {noise!r}, {identity!r}, {heads})"
            rows = f"{made}[{spec.member}]"
        case Complements(std):
            rows = f"complement({spec.key!r}, {spec.member}, {sizes}, {std!r})"
    return f"{spec.gain!r} * {rows}{'.T' if spec.axis else ''}"


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
