"""The layers of a report in the order of the forward pass, and which of them to show.

A model is a tree of modules, and a container reports the same tensor as its last child. So a curve
through depth follows the *spine*: the repeated blocks where there are any (their outputs are the
residual stream), otherwise the layers that hold a matrix. The remaining leaves are shown beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from initium._report.records import LayerRecord

__all__ = ["Gap", "Path", "fold", "through"]

_BLOCKS = 2
_PLENTY = 6


@dataclass(frozen=True, slots=True)
class Path:
    """The layers to draw through depth, in order.

    Attributes:
        layers: leaves and blocks, in the order of the forward pass.
        spine: indices into ``layers`` of those that the curve goes through.
        blocks: whether the spine is made of repeated blocks (otherwise of matrices).
    """

    layers: tuple[LayerRecord, ...]
    spine: tuple[int, ...]
    blocks: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """A number of layers that a table leaves out at this place."""

    layers: int


def through(layers: Mapping[str, LayerRecord]) -> Path:
    """The layers of a model as one path from its input to its output."""
    ordered = sorted(layers.values(), key=lambda layer: layer.order)
    parents = {ancestor for layer in ordered if layer.name for ancestor in _ancestors(layer.name)}
    blocks = _blocks([layer.name for layer in ordered], parents)
    shown = tuple(layer for layer in ordered if layer.name in blocks or layer.name not in parents)
    spine = [index for index, layer in enumerate(shown) if layer.name in blocks]
    if not spine:
        spine = [index for index, layer in enumerate(shown) if layer.weight is not None]
    if len(spine) < 2:
        spine = list(range(len(shown)))
    return Path(layers=shown, spine=tuple(spine), blocks=bool(blocks))


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _blocks(names: Sequence[str], parents: Collection[str]) -> frozenset[str]:
    """The names of the repeated blocks: the outermost series of numbered containers."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name in parents and name.rpartition(".")[2].isdigit():
            groups[re.sub(r"\d+", "#", name)].append(name)
    repeated = [group for group in groups.values() if len(group) >= _BLOCKS]
    if not repeated:
        return frozenset()
    repeated.sort(key=lambda group: group[0].count("."))
    plenty = [group for group in repeated if len(group) >= _PLENTY]
    chosen: list[str] = plenty[0] if plenty else max(repeated, key=len)
    return frozenset(chosen)


def fold(
    path: Path, limit: int, keep: Collection[str] = ()
) -> tuple[tuple[LayerRecord | Gap, ...], str]:
    """At most about ``limit`` rows of a path, and a sentence that says what was left out.

    A path that is too long first loses the layers inside its blocks, or those without a matrix.
    What is still too long becomes a sample: both ends, the extremes of signal and gradient, the
    layers in ``keep`` (a few of them), and evenly spaced ones.
    """
    layers = path.layers
    if len(layers) <= limit:
        return layers, ""
    spine = {layers[index].name for index in path.spine}
    must = _extremes(layers) | {0, len(layers) - 1}
    must |= set([i for i, layer in enumerate(layers) if layer.name in keep][: limit // 4])
    if path.blocks:
        said = f"one row for each of {len(spine)} blocks"
        inside = [spine.isdisjoint(_ancestors(layer.name)) for layer in layers]
    else:
        said = "only layers with a matrix"
        inside = [layer.name in spine for layer in layers]
    rows = [index for index in range(len(layers)) if inside[index] or index in must]
    if len(rows) <= limit:
        return tuple(layers[index] for index in rows), said
    even = max(limit * 2 // 3 - len(must), 2)
    spread = {rows[round(step * (len(rows) - 1) / (even + 1))] for step in range(1, even + 1)}
    chosen = _without_single_gaps(sorted(must | spread))
    said = f"a sample of {len(chosen)} of {len(layers):,} rows, the extremes among them"
    return tuple(_with_gaps(layers, chosen)), said


def _without_single_gaps(chosen: Sequence[int]) -> list[int]:
    """A row that would be left out alone is shown: a gap takes a line too.

    Example:
        >>> _without_single_gaps([0, 2, 5])
        [0, 1, 2, 5]
    """
    between = {after - 1 for before, after in pairwise(chosen) if after - before == 2}
    return sorted({*chosen, *between})


def _with_gaps(layers: Sequence[LayerRecord], chosen: Sequence[int]) -> Iterator[LayerRecord | Gap]:
    expected = 0
    for index in chosen:
        if index > expected:
            yield Gap(index - expected)
        yield layers[index]
        expected = index + 1


def _extremes(layers: Sequence[LayerRecord]) -> set[int]:
    """The layers with the smallest and the largest signal and gradient."""
    found: set[int] = set()
    for values in (
        [layer.second_moment for layer in layers],
        [layer.grad_second_moment for layer in layers],
    ):
        known = [(value, i) for i, value in enumerate(values) if value is not None]
        known = [(value, i) for value, i in known if value == value]
        if known:
            found |= {min(known)[1], max(known)[1]}
    return found
