"""The second moment of joined signals: sums, averages, concatenations, products, activations.

A sum is a linear form of signals that are independent but for their means: E[(sum c x)^2] adds up
c^2 E[x^2] and the products of the means c E[x]; what comes in several times is added up before.
Terms that are made of the same signals, as in relu(a + b) + a, are simulated. A concatenation is
the mean over its elements. Products of independent signals multiply. Not covered: products of what
is made of the same signals; one matrix that reads several: its products count as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol, runtime_checkable

import numpy as np

from initium._scheme.activations import activation
from initium._scheme.meanfield import kernel
from initium._scheme.points import is_named, mean, second
from initium._types import Join

__all__ = ["ALIKE", "Made", "Moments", "alike", "largest", "moments"]


POINTS = 1 << 13
"""Values of a signal that is no normal, in front of an activation."""


ALIKE = 0.5
"""E[x x'] / E[x^2] of neighbours in the data: between that of noise and that of pictures."""


@runtime_checkable
class Made(Protocol):
    """What is known of a matrix: E[z^2] of each of its logical matrices, and E[y^2] of what leaves
    its activations and the product of a gated pair; how alike neighbours are in what it reads."""

    @property
    def outputs(self) -> tuple[float, ...]: ...

    @property
    def after(self) -> float: ...

    @property
    def alike(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Moments:
    """E[x^2] and E[x] of a signal; ``alike``: E[x x'] / E[x^2] of neighbours; ``followed``: back to
    matrices, norms and inputs alone, and not to a residual stream, which counts as 1."""

    second: float
    mean: float = 0.0
    alike: float = ALIKE
    followed: bool = True


def moments(join: Join, known: Mapping[str, Made]) -> Moments | None:
    """The moments of a joined signal; ``None`` where one of its matrices is not known yet, or its
    factors are not independent.

    Args:
        join: how it is made.
        known: by name, what each matrix puts out.

    Example:
        >>> parts = Join("norm", 0), Join("phi", 1, (Join("norm", 2),), name="relu")
        >>> moments(Join("cat", 3, parts, (0.5, 0.5)), {}).second
        0.75
        >>> moments(Join("sum", 3, parts, (0.5, 0.5)), {}).second
        0.375
    """
    found = _Walk(known, {}).of(join)
    return found and replace(found, second=float(f"{found.second:.12g}"))


@dataclass(frozen=True, slots=True)
class _Walk:
    """``found`` keeps what was made of each value."""

    known: Mapping[str, Made]
    found: dict[int, Moments | None]

    def of(self, join: Join) -> Moments | None:
        if join.value not in self.found:
            self.found[join.value] = self._look(join)
        return self.found[join.value]

    def _look(self, join: Join) -> Moments | None:
        if join.kind in ("norm", "input", "stream"):
            return Moments(1.0, followed=join.kind != "stream")
        if join.kind in ("product", "part"):
            made = self.known.get(join.name)
            if made is None or max(made.outputs) > min(made.outputs) * (1 + 1e-9):
                return None
            return Moments(made.outputs[0], 0.0, made.alike)
        if join.kind == "phi":
            return self._bent(join, join.parts[0])
        if join.kind == "sum":
            return self._summed(join)
        if join.kind == "pool":
            return self._pooled(join, join.parts[0])
        parts = [self.of(part) for part in join.parts]
        held = [part for part in parts if part is not None]
        if join.kind == "mul":
            return self._multiplied(join, held)
        return _mixed(join.weights, held)

    def _summed(self, join: Join) -> Moments | None:
        terms: dict[int, tuple[float, Join]] = {}
        _collect(join, 1.0, terms)
        held = [(factor, self.of(part)) for factor, part in terms.values()]
        whole = [(factor, part) for factor, part in held if part is not None]
        if len(whole) < len(held):
            return None
        middle = sum(factor * part.mean for factor, part in whole)
        alone = sum(factor**2 * (part.second - part.mean**2) for factor, part in whole)
        beside = sum(
            factor**2 * (part.second * part.alike - part.mean**2) for factor, part in whole
        )
        total, followed = alone + middle**2, all(part.followed for _, part in whole)
        if total <= 0:
            return None
        near = (beside + middle**2) / total
        leaves = [_sources(part) for _, part in terms.values()]
        if len(frozenset().union(*leaves)) < sum(map(len, leaves)):
            return self._simulated(join, near, followed)
        return Moments(total, middle, near, followed and not _repeats(join))

    def _multiplied(self, join: Join, held: list[Moments]) -> Moments | None:
        """A product of two parts of one fused matrix, or of independent signals."""
        first, other = (_fused(part) for part in join.parts)
        made = self.known.get(first) if first is not None and first == other else None
        if made is not None and len(made.outputs) > 1:
            return Moments(made.after, 0.0, made.alike)
        sources = [_sources(part) for part in join.parts]
        if len(held) < 2 or sources[0] & sources[1]:
            return None
        left, right = held
        followed = left.followed and right.followed and not _repeats(join)
        return Moments(
            left.second * right.second,
            left.mean * right.mean,
            left.alike * right.alike,
            followed,
        )

    def _bent(self, join: Join, inner: Join) -> Moments | None:
        """An activation of a signal; of a concatenation, of each part."""
        if inner.kind == "cat":
            parts = [self._bent(join, part) for part in inner.parts]
            return _mixed(inner.weights, [part for part in parts if part is not None])
        if inner.kind == "pool" and inner.name == "max":
            return self._pooled(inner, replace(join, parts=inner.parts))
        read = self.of(inner)
        if read is None:
            return None
        if _is_gaussian(inner) or not is_named(join.name):
            return Moments(
                second(join.name, read.second, join.gain),
                mean(join.name, read.second),
                alike(join.name, read.second, read.alike),
                read.followed,
            )
        return self._simulated(replace(join, parts=(inner,)), read.alike, read.followed)

    def _simulated(self, join: Join, near: float, followed: bool) -> Moments | None:
        """The moments of a signal that is no normal; ``near``: how alike its neighbours are."""
        leaves = sorted(_sources(join))
        sample = self._sampled(join, dict(zip(leaves, _normals(len(leaves)), strict=True)))
        if sample is None:
            return None
        squared = float(np.mean(sample**2))
        return Moments(squared, float(np.mean(sample)), near, followed) if squared > 0 else None

    def _pooled(self, join: Join, inner: Join) -> Moments | None:
        """Pooling of neighbours; of a concatenation, of each part."""
        if inner.kind == "cat":
            parts = [self._pooled(join, part) for part in inner.parts]
            return _mixed(inner.weights, [part for part in parts if part is not None])
        read, [window] = self.of(inner), join.weights
        if read is None:
            return None
        if join.name == "mean":
            left = read.alike + (1 - read.alike) / window
            return Moments(read.second * left, read.mean, read.alike / left, read.followed)
        before = inner.parts[0] if inner.kind == "phi" else inner
        z, phi = self.of(before), inner.name if inner.kind == "phi" else "identity"
        if z is None or not _is_gaussian(before) or not is_named(phi):
            return read
        return replace(largest(phi, z.second, z.alike, int(window)), followed=read.followed)

    def _sampled(self, join: Join, normals: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """Values of a signal, from unit normals for what it is made of; ``None`` where they are not
        those of one element."""
        if not join.parts:
            made = self.of(join)
            return math.sqrt(made.second) * normals[join.value] if made is not None else None
        parts = [self._sampled(part, normals) for part in join.parts]
        held = [part for part in parts if part is not None]
        if len(held) < len(parts) or join.kind == "cat":
            return None
        if join.kind == "phi":
            return activation(join.name)(held[0]) if is_named(join.name) else None
        if join.kind == "mul":
            return held[0] * held[1]
        if join.kind == "pool":
            return held[0]
        return np.asarray(sum(w * part for w, part in zip(join.weights, held, strict=True)))


def _mixed(shares: Sequence[float], parts: Sequence[Moments]) -> Moments | None:
    """The moments over the elements of all parts; ``None`` where one of them is lacking."""
    if len(parts) < len(shares):
        return None
    held = list(zip(shares, parts, strict=True))
    return Moments(
        sum(share * part.second for share, part in held),
        sum(share * part.mean for share, part in held),
        sum(share * part.second * part.alike for share, part in held)
        / sum(share * part.second for share, part in held),
        all(part.followed for part in parts),
    )


def _collect(join: Join, factor: float, terms: dict[int, tuple[float, Join]]) -> None:
    """The factors of the independent terms of a sum, of its sums too, in ``terms``."""
    if join.kind == "sum":
        for part, weight in zip(join.parts, join.weights, strict=True):
            _collect(part, factor * weight, terms)
    else:
        before = terms[join.value][0] if join.value in terms else 0.0
        terms[join.value] = before + factor, join


def _fused(join: Join) -> str | None:
    """The fused matrix of which a factor is a part, behind its activation."""
    while join.kind == "phi":
        join = join.parts[0]
    return join.name if join.kind == "part" else None


def _sources(join: Join) -> frozenset[int]:
    """The values that a join is made of in the end."""
    return frozenset(_leaves(join))


def _repeats(join: Join) -> bool:
    """Whether one matrix made several of the values that a join is made of."""
    names = [leaf.name for leaf in _leaves(join).values() if leaf.kind == "product"]
    return len(set(names)) < len(names)


def _leaves(join: Join) -> dict[int, Join]:
    """What a join is made of in the end, by value."""
    if not join.parts:
        return {join.value: join}
    return {value: leaf for part in join.parts for value, leaf in _leaves(part).items()}


def _is_gaussian(join: Join) -> bool:
    """Whether a signal is linear in products, norms and inputs."""
    if join.kind == "sum" or (join.kind == "pool" and join.name == "mean"):
        return all(_is_gaussian(part) for part in join.parts)
    return not join.parts


@lru_cache(maxsize=4096)
def alike(phi: str | None, q: float, before: float) -> float:
    """E[phi(z) phi(z')] / E[phi(z)^2] for z, z' ~ N(0, q) of which E[z z'] = before q.

    Example:
        >>> round(alike("relu", 2.0, 0.0) * math.pi, 6), alike(None, 2.0, 0.5)
        (1.0, 0.5)
    """
    if phi is None or not is_named(phi):
        return before
    held = kernel(phi)
    return held.covariance(q, q, min(max(before, -1.0), 1.0)) / held.second(q)


@lru_cache(maxsize=4096)
def largest(phi: str, q: float, before: float, window: int) -> Moments:
    """The moments of phi(max z) over a window of z ~ N(0, q) of which E[z z'] = before q.

    Example:
        >>> round(largest("relu", 2.0, 0.0, 4).second, 2)
        3.09
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    weights = weights / weights.sum()
    normal = NormalDist()
    tops = [normal.cdf(node) ** (1 / window) for node in nodes]
    own = np.array([normal.inv_cdf(min(max(top, 1e-300), 1 - 1e-16)) for top in tops])
    shared = min(max(before, 0.0), 1.0)
    z = math.sqrt(shared) * nodes[:, None] + math.sqrt(1 - shared) * own[None]
    made = activation(phi)(math.sqrt(q) * z)
    squared = float(weights @ made**2 @ weights)
    middles = made @ weights
    return Moments(squared, float(weights @ middles), float(weights @ middles**2) / squared)


@lru_cache(maxsize=8)
def _normals(count: int) -> np.ndarray:
    """Unit normals [count, points] that fill their space evenly: an additive recurrence with the
    powers of the root of x^(count + 1) = x + 1."""
    root = 1.5
    for _ in range(60):
        root = (1 + root) ** (1 / (count + 1))
    steps = root ** -np.arange(1.0, count + 1)
    even = (0.5 + steps[:, None] * np.arange(1, POINTS + 1)) % 1.0
    z = np.linspace(-6, 6, 4801)
    density = np.exp(-z * z / 2)
    return np.interp(even, (np.cumsum(density) - density / 2) / density.sum(), z)
