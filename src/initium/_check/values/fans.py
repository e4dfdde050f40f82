"""Fans read off the wrong axes: fused blocks, groups, transposed convolutions, stacked matrices.

``torch.nn.init`` takes fan_in from dimension 1 and fan_out from dimension 0, times the taps. Where
that is not what the weight does, its formulas give another std than they are meant to. Found from
the values alone: the std is that of a formula with torch's fans, of no formula with the right ones,
and shared by no other matrix with other fans (a fixed std reads no fans). Some formula also fits by
chance, and how likely that is goes with the finding: a uniform law shows its bounds to 1/n, a
normal one its std to 1/sqrt(2 n), and weights of several shapes that all fit say more than one. Not
covered: formulas besides the six in ``FORMULAS``, and weights of fewer than some 3000 elements,
whose std is noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from initium._check.thresholds import (
    FAN_NOISE,
    FAN_RANGE,
    FAN_SIGMAS,
    FAN_TOLERANCE,
    FANS_OFF,
    OBLIQUE,
    ORTHOGONAL,
)
from initium._check.words import also
from initium._report.records import Finding
from initium._types import Block, ModelView, ParameterView

__all__ = ["find_gates", "find_misread"]

FORMULAS = {
    "xavier, 2 / (fan_in + fan_out)": lambda inputs, outputs: 2 / (inputs + outputs),
    "kaiming fan_in, 2 / fan_in": lambda inputs, outputs: 2 / inputs,
    "kaiming fan_out, 2 / fan_out": lambda inputs, outputs: 2 / outputs,
    "lecun, 1 / fan_in": lambda inputs, outputs: 1 / inputs,
    "1 / fan_out": lambda inputs, outputs: 1 / outputs,
    "torch's default, 1 / (3 fan_in)": lambda inputs, outputs: 1 / (3 * inputs),
}
"""Variances that ``torch.nn.init`` gives for a linear layer and for ReLU."""

OUTWARD = {"kaiming fan_out, 2 / fan_out", "1 / fan_out"}
"""Formulas that read fan_out alone: for a transposed convolution they give what the others give
with swapped fans, and are what it should be given then."""

BOUND = 3.0
"""The largest of n uniform magnitudes misses the bound by a part 1/n on average, and by three times
that with probability exp(-3)."""

CODES = {
    "fused": ("IN721", "fans of the fused matrix"),
    "grouped": ("IN723", "fan-out of a grouped convolution"),
    "transposed": ("IN724", "fans of a transposed convolution swapped"),
    "stacked": ("IN725", "stacked matrices read as a convolution"),
    "layout": ("IN725", "fans read off the wrong axes"),
}
FIXES = {
    "fused": "initialise the blocks one by one: for part in {name}.chunk({blocks}): "
    "nn.init.xavier_uniform_(part)",
    "grouped": "divide fan_out by groups={groups}: nn.init.normal_({name}, std={std:.4g})",
    "transposed": "swap the first two dimensions for the init: "
    "nn.init.kaiming_normal_({name}.transpose(0, 1))",
    "stacked": "initialise the matrices one by one, with fans ({fan_in}, {fan_out}): "
    "nn.init.normal_({name}, std={std:.4g})",
    "layout": "give the std for fans ({fan_in}, {fan_out}) itself: "
    "nn.init.normal_({name}, std={std:.4g})",
}


def find_misread(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Weights whose std is that of a formula with the wrong fans (IN721, IN723, IN724, IN725)."""
    matrices = {name: value for name, value in values.items() if value.dim() > 1}
    if not any(_kind(view.parameters[name]) for name in matrices):
        return
    scales = {name: _rms(value) for name, value in matrices.items()}
    groups: dict[str, list[_Match]] = {}
    for name, scale in scales.items():
        known = view.parameters[name]
        kind = _kind(known)
        noise = FAN_TOLERANCE + FAN_SIGMAS * math.sqrt(0.5 / values[name].numel())
        if kind is None or not scale > 0.0 or noise > FAN_NOISE or _is_fixed(known, scales, view):
            continue
        found = _match(known, scale, noise)
        if found is not None and _is_one_draw(values[name], known, noise):
            formula, right = found
            chance = _chance(values[name], scale, _law(known, formula))
            groups.setdefault(kind, []).append(_Match(known, formula, scale, right, chance))
    for kind, found_ones in groups.items():
        chance = math.prod({one.known.shape: one.chance for one in found_ones}.values())
        for hidden in (False, True):
            part = [one for one in found_ones if one.hidden == hidden]
            if part:
                yield _misread(kind, part, hidden, chance)


@dataclass(frozen=True, slots=True)
class _Match:
    """A weight that one formula fits with the wrong fans; ``chance``: that any would."""

    known: ParameterView
    formula: str
    scale: float
    right: float
    chance: float

    @property
    def hidden(self) -> bool:
        """Whether it does no harm to the signal."""
        off = max(self.right / self.scale, self.scale / self.right)
        return self.known.norm_after or off < FANS_OFF


def _misread(kind: str, found: list[_Match], harmless: bool, chance: float) -> Finding:
    known, formula, scale, right = found[0].known, found[0].formula, found[0].scale, found[0].right
    code, title = CODES[kind]
    names = tuple(one.known.name for one in found)
    given = _torch_fans(known.shape)
    said = ", which the norm behind it hides" if known.norm_after else ""
    return Finding(
        code=code,
        severity="info" if harmless else "warning",
        title=title,
        where=names,
        message=f"{known.name} has std {scale:.4g}, which is that of {formula} with fans "
        f"{given}; it has fans {(known.fan_in, known.fan_out)}, for which the same formula "
        f"gives {right:.4g}{said}{also(names, 'weight')}",
        fix=FIXES[kind].format(
            name=known.name,
            blocks=len(known.blocks),
            groups=known.groups,
            fan_in=known.fan_in,
            fan_out=known.fan_out,
            std=right,
        ),
        numbers={"std": scale, "expected_std": right, "weights": len(names), "chance": chance},
    )


def _chance(value: torch.Tensor, scale: float, std: float) -> float:
    """The probability that some formula fits a weight of another origin as closely as this one."""
    count = value.numel()
    low, high = (float(end) for end in torch.aminmax(value))
    bound = math.sqrt(3.0) * std
    closest = BOUND / count + torch.finfo(value.dtype).eps
    uniform = all(-closest * BOUND < 1 - abs(end) / bound < closest * BOUND for end in (low, high))
    width = closest if uniform else max(abs(math.log(scale / std)), math.sqrt(0.5 / count))
    return min(1.0, 2 * len(FORMULAS) * width / FAN_RANGE)


def _law(known: ParameterView, formula: str) -> float:
    return float(FORMULAS[formula](*_torch_fans(known.shape)) ** 0.5)


def _kind(known: ParameterView) -> str | None:
    if not known.is_matrix or not known.fan_in or not known.fan_out:
        return None
    if _torch_fans(known.shape) == (known.fan_in, known.fan_out):
        return None
    if known.role == "conv_transpose":
        return "transposed"
    if any(block.stacked for block in known.blocks):
        return "stacked"
    if known.groups > 1:
        return "grouped"
    if known.role.startswith("conv"):
        return None
    return "fused" if known.blocks else "layout"


def _torch_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _match(known: ParameterView, scale: float, noise: float) -> tuple[str, float] | None:
    """The formula whose std with torch's fans this is, and its std with the right ones.

    None where it is right: with its own fans, or those over the number of residual branches.
    """
    assert known.fan_in is not None
    assert known.fan_out is not None
    transposed = known.role == "conv_transpose"
    laws = {name: law for name, law in FORMULAS.items() if not transposed or name not in OUTWARD}
    # A stride leaves out taps: so many fewer inputs does one output of a transposed one add up.
    inputs = known.fan_in / known.stride if transposed else known.fan_in
    wrong = {name: law(*_torch_fans(known.shape)) ** 0.5 for name, law in laws.items()}
    right = {name: law(inputs, known.fan_out) ** 0.5 for name, law in laws.items()}
    scaled = {1, known.branches or 1} if known.writes_residual else {1}
    if any(_near(scale, std / root**0.5, noise) for std in right.values() for root in scaled):
        return None
    for name, std in wrong.items():
        if _near(scale, std, noise) and not _near(std, right[name], 3 * noise):
            return name, right[name]
    return None


def _is_one_draw(value: torch.Tensor, known: ParameterView, noise: float) -> bool:
    """Whether all blocks have the same std, and it is no orthogonal matrix, which has one too."""
    sizes = [
        _rms(value.narrow(block.axis, block.start, block.size))
        for block in known.blocks
        if not block.stacked
    ]
    even = not sizes or max(sizes) < math.exp(2 * len(sizes) * noise) * min(sizes)
    return even and not (value.dim() == 2 and _is_orthogonal(value, ORTHOGONAL))


def _near(first: float, second: float, tolerance: float) -> bool:
    return abs(math.log(first / second)) < tolerance


def _is_fixed(known: ParameterView, scales: Mapping[str, float], view: ModelView) -> bool:
    """Whether another matrix with other fans has the same std: then it follows from no fans."""
    fans, scale = _torch_fans(known.shape), scales[known.name]
    return any(
        other > 0
        and _near(other, scale, 2 * FAN_TOLERANCE)
        and not set(_torch_fans(view.parameters[name].shape)) & set(fans)
        for name, other in scales.items()
    )


def _rms(value: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(value.float())) / math.sqrt(value.numel())


WIDEST = 4096
"""Columns up to which products of all pairs are looked at."""


def find_gates(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Fused matrices that are orthogonal as a whole, and in no block (IN722)."""
    found = []
    for name, value in values.items():
        known = view.parameters[name]
        blocks = [block for block in known.blocks if not block.stacked and block.axis == 0]
        if value.dim() != 2 or len(blocks) < 2:
            continue
        rows, columns = value.shape
        if not 1 < columns <= rows:
            continue
        if _is_orthogonal(value, ORTHOGONAL) and not _is_orthogonal(
            _rows(value, blocks[0]), OBLIQUE
        ):
            found.append(known)
    if found:
        first, count = found[0], len(found[0].blocks)
        names = tuple(one.name for one in found)
        yield Finding(
            code="IN722",
            severity="warning",
            title="orthogonal over fused blocks",
            where=names,
            message=f"the columns of {first.name} {first.shape} are orthogonal over its {count} "
            f"blocks together, while no block is: a block has about 1/sqrt({count}) = "
            f"{count**-0.5:.2f} of the gain that was meant, and singular values that differ"
            f"{also(names, 'weight')}",
            fix=f"for part in {first.name}.chunk({count}): nn.init.orthogonal_(part)",
            numbers={"blocks": count, "weights": len(names)},
        )


def _rows(value: torch.Tensor, block: Block) -> torch.Tensor:
    starts = [block.start + turn * block.stride for turn in range(block.count)]
    return torch.cat([value[start : start + block.size] for start in starts])


def _is_orthogonal(value: torch.Tensor, tolerance: float) -> bool:
    """Whether the rows or the columns, whichever are fewer, have equal length and right angles."""
    if min(value.shape) > WIDEST:
        return False
    wide = value.float() if value.shape[0] >= value.shape[1] else value.float().T
    gram = wide.T @ wide
    size = float(gram.diagonal().mean())
    if size == 0.0:
        return False
    off = (gram - size * torch.eye(len(gram), device=gram.device)).abs().max()
    eps = torch.finfo(value.dtype).eps
    return float(off) < max(tolerance, 8 * eps) * size
