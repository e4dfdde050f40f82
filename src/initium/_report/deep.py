"""What ``deep=True`` measures besides one pass, as data, and in words. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Agreement", "Deep", "DeepLayer", "Jacobian", "Seeds", "Steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepLayer:
    """One layer on the way to the head.

    Attributes:
        name: the module.
        participation: participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of the
            covariance of its units over samples and positions.
        stable_rank: sum l / max l.
        limit: the largest that both can be: units, or rows less one.
        correlations: mean cosine of the outputs of two inputs, for each cosine of ``Deep.pairs``.
    """

    name: str
    participation: float | None = None
    stable_rank: float | None = None
    limit: int = 0
    correlations: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jacobian:
    """Singular values of the output of one sample with respect to what enters.

    Attributes:
        entry: ``inputs``, or the embedding whose output is varied.
        inputs, outputs: its dimensions.
        largest: the largest singular value; not ``exact``: a lower bound from Lanczos steps.
        smallest: the smallest of min(inputs, outputs); not ``exact``: an upper bound.
        rms: the root of their mean square, ||J||_F / sqrt(min(inputs, outputs)).
        exact: all rows or columns were computed.
    """

    entry: str
    inputs: int
    outputs: int
    largest: float
    smallest: float
    rms: float
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Three real optimizer steps, undone afterwards.

    Attributes:
        optimizer: what was stepped with.
        assumed: it was not given by the caller.
        gradients: norm of each parameter's gradient at steps 1, 2, 3; ``None``: no path to it.
        updates: ||W_2 - W_1|| / ||W_1|| of each parameter that is not zero, with that optimizer.
        sgd: lr ||g|| / ||W_1||, plain SGD with lr 0.1.
        losses: the loss before each step, where it is a number.
    """

    optimizer: str
    assumed: bool
    gradients: Mapping[str, tuple[float | None, ...]]
    updates: Mapping[str, float]
    sgd: Mapping[str, float]
    losses: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Gradients of single samples.

    Attributes:
        samples: how many.
        cosine: mean cosine between the gradients of two samples.
        noise_scale: tr(S) / |G|^2, the batch at which noise and signal are equal; ``None`` where
            the samples show no common gradient.
    """

    samples: int
    cosine: float
    noise_scale: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The plan drawn again under other seeds.

    Attributes:
        seeds: which.
        losses: the first loss under each, where it is a number.
        forward, backward: standard deviation over seeds of log10 of each layer's second moment.
    """

    seeds: tuple[int, ...]
    losses: tuple[float | None, ...]
    forward: Mapping[str, float]
    backward: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deep:
    """All of it; what could not be measured is ``None`` or empty, and a note says why.

    Attributes:
        pairs: the cosines of the pairs of inputs behind ``DeepLayer.correlations``.
        depth_scale: layers over which the distance between correlations falls by e.
        fixed_point: c*, the correlation that all pairs have settled at, if they have.
    """

    layers: tuple[DeepLayer, ...] = ()
    pairs: tuple[float, ...] = ()
    depth_scale: float | None = None
    fixed_point: float | None = None
    jacobian: Jacobian | None = None
    steps: Steps | None = None
    agreement: Agreement | None = None
    seeds: Seeds | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Labels and sentences, as a terminal shows them."""
        return tuple(_lines(self))


def _lines(deep: Deep) -> Iterator[tuple[str, str]]:
    if deep.steps is not None:
        yield "steps", _steps(deep.steps)
    ranks = [layer for layer in deep.layers if layer.participation is not None]
    if ranks:
        low = min(ranks, key=lambda layer: layer.participation or 0.0)
        yield (
            "rank",
            f"participation ratio {_n(ranks[0].participation)} of {ranks[0].limit} at "
            f"{ranks[0].name}, {_n(ranks[-1].participation)} of {ranks[-1].limit} at "
            f"{ranks[-1].name}; lowest {_n(low.participation)} at {low.name}",
        )
    pairs = [layer for layer in deep.layers if layer.correlations]
    if pairs:
        before = ", ".join(_n(value) for value in deep.pairs)
        after = ", ".join(_n(value) for value in pairs[-1].correlations)
        text = f"correlations {before} come in, {after} arrive at {pairs[-1].name}"
        if deep.fixed_point is not None:
            text += f"; they settle at c* = {_n(deep.fixed_point)}"
        if deep.depth_scale is not None:
            text += f"; depth scale {_n(deep.depth_scale)} of {len(pairs)} layers"
        yield "pairs", text
    if deep.jacobian is not None:
        yield "jacob.", _jacobian(deep.jacobian)
    if deep.agreement is not None:
        scale = deep.agreement.noise_scale
        yield (
            "agree",
            f"gradients of {deep.agreement.samples} samples have a mean cosine of "
            f"{_n(deep.agreement.cosine)}; "
            + (f"noise scale {_n(scale)} samples" if scale else "no common direction"),
        )
    if deep.seeds is not None and deep.seeds.forward:
        worst = max(deep.seeds.forward, key=lambda name: deep.seeds.forward[name])  # type: ignore[union-attr]
        yield (
            "seeds",
            f"over {len(deep.seeds.seeds)} seeds the second moment varies most at {worst}: by "
            f"{_n(10 ** deep.seeds.forward[worst])} times",
        )
    for note in deep.notes:
        yield "note", note


def _steps(steps: Steps) -> str:
    text = f"{steps.optimizer}{', assumed' if steps.assumed else ''}"
    opened = sum(
        1 for norms in steps.gradients.values() if norms[0] == 0.0 and any(n for n in norms[1:])
    )
    still = sum(1 for norms in steps.gradients.values() if not any(norms) and norms[0] == 0.0)
    if opened or still:
        text += f"; of the parameters without gradient at step 1, {opened} have one by step 3"
        text += f" and {still} have not" if still else ""
    ratios = sorted(math.log10(value) for value in steps.updates.values() if value > 0)
    if ratios:
        text += (
            f"; update to weight 10^{ratios[0]:.1f} to 10^{ratios[-1]:.1f}, "
            f"median 10^{ratios[len(ratios) // 2]:.1f}"
        )
    return text


def _jacobian(found: Jacobian) -> str:
    least, most = ("", "") if found.exact else ("at most ", "at least ")
    return (
        f"of {found.outputs} outputs to {found.inputs} numbers of {found.entry}: singular values "
        f"{most}{_n(found.largest)} (largest), {least}{_n(found.smallest)} (smallest), "
        f"{_n(found.rms)} (root mean square)"
    )


def _n(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
