"""What the trace says of one parameter, while the rules are still finding out."""

from __future__ import annotations

from dataclasses import dataclass, field

from initium._inspect.activation import Following
from initium._inspect.operators import CONVOLUTION
from initium._inspect.uses import Use
from initium._types import Block, Join, Role

__all__ = ["Facts", "Source", "channel_axis", "pointwise"]


@dataclass(frozen=True, slots=True)
class Source:
    """``kind``: ``norm``, ``stream``, ``product``, ``input``, or ``mixed``; then the activation on
    the way from there, and 1 / E[phi(z)^2] of it for z ~ N(0, 1); ``mean`` or ``max`` pooling, and
    how many elements one output of it joins."""

    kind: str = ""
    activation: str | None = None
    gain: float = 1.0
    pooling: str = ""
    window: int = 1


@dataclass(slots=True)
class Facts:
    """Statements on one parameter; ``why`` maps a statement to what was seen.

    ``also_head``: a looked-up table also makes the output. ``count``: how many operators use it,
    ``loops``: how many of these read its own product.
    """

    role: Role = "unknown"
    use: Use | None = None
    following: Following = field(default_factory=Following)
    blocks: tuple[Block, ...] = ()
    stream: int | None = None
    depth: int | None = None
    branches: int | None = None
    trunk: int | None = None
    trunk_depth: int | None = None
    trunk_depths: tuple[int, ...] = ()
    writes: bool = False
    head_dim: int | None = None
    norm_before: bool = False
    partner: str | None = None
    magnitude_of: str | None = None
    neutral: float | None = None
    source: Source = field(default_factory=Source)
    kept: float = 1.0
    joined: Join | None = None
    rescaled: float = 1.0
    added: float = 1.0
    carrier: tuple[str, bool] | None = None
    standardised: bool = False
    logit_scale: float | None = None
    reads: tuple[str, ...] = ()
    count: int = 0
    loops: int = 0
    also_head: bool = False
    why: dict[str, str] = field(default_factory=dict)


def channel_axis(use: Use) -> int:
    """The dimension of a product along which its outputs lie."""
    return 1 if use.node.op in CONVOLUTION else len(use.out.shape) - 1


def pointwise(use: Use) -> bool:
    """Whether a product mixes channels alone: a linear layer or an ungrouped 1x1 convolution."""
    return all(size == 1 for size in use.kernel) and use.groups == 1
