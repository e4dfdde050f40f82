"""Statistics of the stream over 2^32 samples per distribution, against exact values.

Moments, Kolmogorov-Smirnov and chi-square on 2^16 bins, tails, serial correlation, correlation with
another name and another seed, and the trace moments of orthogonal matrices. Every row has what is
expected, what was seen, and how many standard errors lie between them; for chi-square, the normal
score of its excess; for Kolmogorov-Smirnov, sqrt(n) D, which is below 1.63 in 99 of 100 runs.

    python benchmarks/randomness.py [log2 of the samples]     # writes docs/statistics.md

Not covered: what only more samples or batteries of tests such as TestU01 would see.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from initium.spec import Normal, Orthogonal, Spec, TruncatedNormal, Uniform
from initium.stream import draw, fill_into, native

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
CHUNK = 1 << 18
PER_UNIT = 4096
REACH = 8
LAGS = (1, 2, 3, 4, 5, 8, 64, 1024, 4096)
TAILS = (3.0, 4.0, 5.0, 5.5, 6.0)
ORDER, MATRICES = 16, 1 << 14
NAME = "statistics"

Row = tuple[str, str, str, float]


@dataclass(frozen=True)
class Law:
    """A distribution of the stream: its spec, and the ends between which its density lies."""

    label: str
    spec: Spec
    end: float = math.inf

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(X < x)."""
        inside = np.clip(x, -self.end, self.end)
        if isinstance(self.spec, Uniform):
            return (inside + 1) / 2
        mass: np.ndarray = (ndtr(inside) - ndtr(-self.end)) / (ndtr(self.end) - ndtr(-self.end))
        return mass

    def masses(self, edges: np.ndarray) -> np.ndarray:
        """P(X in bin), for bins that are mirrored at zero: from the lower half, which is exact."""
        lower = np.diff(self.cdf(edges[: len(edges) // 2 + 1]))
        return np.concatenate([lower, lower[::-1]])

    def moment(self, order: int) -> float:
        """E X^order."""
        if order % 2:
            return 0.0
        if order == 0:
            return 1.0
        if isinstance(self.spec, Uniform):
            return 1 / (order + 1)
        before = (order - 1) * self.moment(order - 2)
        if math.isinf(self.end):
            return before
        density = math.exp(-(self.end**2) / 2) / math.sqrt(2 * math.pi)
        return before - 2 * self.end ** (order - 1) * density / math.erf(self.end / math.sqrt(2))


LAWS = (
    Law("normal", Normal(1)),
    Law("uniform on [-1, 1]", Uniform(-1, 1), 1.0),
    Law("normal truncated at 2 sigma", TruncatedNormal(1, compensated=False), 2.0),
)


@dataclass
class Sums:
    """What is kept of the samples."""

    samples: int = 0
    powers: np.ndarray = field(default_factory=lambda: np.zeros(7))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * REACH * PER_UNIT, np.int64))
    lagged: np.ndarray = field(default_factory=lambda: np.zeros(len(LAGS)))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(len(LAGS)))
    crossed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    memory: np.ndarray = field(default_factory=lambda: np.empty((3, CHUNK)))

    def add(self, x: np.ndarray, others: tuple[np.ndarray, np.ndarray]) -> None:
        """Another chunk of float32 samples, and those of two other streams at the same places."""
        self.samples += len(x)
        one, two, three = self.memory
        one[:] = x
        np.multiply(one, one, out=two)
        np.multiply(two, one, out=three)
        self.powers += [
            *(len(x), one.sum(), two.sum(), three.sum()),
            *(two @ two, two @ three, three @ three),
        ]
        np.floor(np.multiply(one, PER_UNIT, out=two), out=two)
        bins = three.view(np.int64)
        np.add(two, REACH * PER_UNIT, out=bins, casting="unsafe")
        self.counts += np.bincount(bins, minlength=len(self.counts))
        for at, lag in enumerate(LAGS):
            self.lagged[at] += x[:-lag] @ x[lag:]
            self.pairs[at] += len(x) - lag
        self.crossed += [x @ other for other in others]


def sample(law: Law, samples: int) -> Sums:
    """Draw in chunks; the log says how far it is."""
    sums, shape = Sums(), (samples,)
    x, named, seeded = (np.empty(CHUNK, np.float32) for _ in range(3))
    streams = ((x, NAME, 0), (named, NAME + ".other", 0), (seeded, NAME, 1))
    for start in range(0, samples, CHUNK):
        for out, name, seed in streams:
            cut = (slice(start, start + CHUNK),)
            fill_into(law.spec, seed=seed, name=name, shape=shape, out=out, index=cut, threads=1)
        sums.add(x, (named, seeded))
        if start % (1 << 28) == 0:
            print(f"{law.label}: {start / samples:.0%}", file=sys.stderr, flush=True)
    return sums


def rows(law: Law, sums: Sums) -> Iterator[Row]:
    n = sums.samples
    for order in range(1, 7):
        exact, seen = law.moment(order), sums.powers[order] / n
        error = math.sqrt((law.moment(2 * order) - exact**2) / n)
        yield f"moment {order}", f"{exact:.6f}", f"{seen:.6f}", (seen - exact) / error
    edges = np.linspace(-REACH, REACH, len(sums.counts) + 1)
    masses, held = law.masses(edges), sums.counts.copy()
    if law.end < REACH:  # the end itself belongs to the last bin
        last = int((REACH + law.end) * PER_UNIT)
        held[last - 1 : last + 1] = held[last - 1] + held[last], 0
    below = np.cumsum(held) / n - np.cumsum(masses)
    yield "sqrt(n) D", "below 1.63", "", math.sqrt(n) * float(abs(below).max())
    common = masses * n >= 100
    expected = np.append(masses[common], masses[~common].sum()) * n
    counts = np.append(held[common], held[~common].sum())
    whole = expected > 0
    square = float(((counts - expected)[whole] ** 2 / expected[whole]).sum())
    freedom = int(whole.sum()) - 1
    score = (square - freedom) / math.sqrt(2 * freedom)
    yield "chi-square", f"{freedom}", f"{square:.0f}", score
    impossible = int(held[masses == 0].sum())
    yield "outside its support", "0", f"{impossible}", float(impossible)
    if math.isinf(law.end):
        for cut in TAILS:
            mean = 2 * float(ndtr(-cut)) * n
            beyond = int(held[abs(edges[:-1] + 0.5 / PER_UNIT) > cut].sum())
            score = (beyond - mean) / math.sqrt(mean)
            yield f"beyond {cut:g} sigma", f"{mean:.1f}", f"{beyond}", score
    for lag, total, pairs in zip(LAGS, sums.lagged, sums.pairs, strict=True):
        seen = total / pairs / law.moment(2)
        yield f"correlation at lag {lag}", "0", f"{seen:.1e}", seen * math.sqrt(pairs)
    for other, total in zip(("name", "seed"), sums.crossed, strict=True):
        seen = total / n / law.moment(2)
        yield f"correlation with another {other}", "0", f"{seen:.1e}", seen * math.sqrt(n)


def haar() -> Iterator[Row]:
    """Moments of traces and entries of Haar-random matrices of the orthogonal group.

    Source: Diaconis and Evans, "Linear functionals of eigenvalues of random matrices", Trans. AMS
    353 (2001): tr Q^j is as N(1 for even j, j) in its low moments.
    """
    shape = (MATRICES, ORDER, ORDER)
    spec = Orthogonal(batch=(0,), outputs=(1,))
    made = draw(spec, seed=0, name=NAME, shape=shape).astype(np.float64)
    square = made @ made
    one, two, three = (np.trace(q, axis1=1, axis2=2) for q in (made, square, square @ made))
    entry = made[:, 0, 0]
    n = ORDER
    for label, values, exact in (
        ("tr Q", one, 0.0),
        ("(tr Q)^2", one**2, 1.0),
        ("(tr Q)^4", one**4, 3.0),
        ("tr Q^2", two, 1.0),
        ("(tr Q^2)^2", two**2, 3.0),
        ("tr Q^3", three, 0.0),
        ("(tr Q^3)^2", three**2, 3.0),
        ("det Q", np.linalg.det(made), 0.0),
        ("n q_00^2", n * entry**2, 1.0),
        ("n^2 q_00^4", n**2 * entry**4, 3 * n / (n + 2)),
    ):
        error = values.std() / math.sqrt(len(values))
        yield label, f"{exact:.4f}", f"{values.mean():.4f}", (values.mean() - exact) / error


def section(title: str, table: Iterator[Row]) -> list[str]:
    return [
        *("", f"## {title}", ""),
        "| measure | expected | seen | standard errors |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {exact} | {seen} | {score:.2f} |" for name, exact, seen, score in table),
    ]


def main() -> None:
    power = int(sys.argv[1]) if sys.argv[1:] else 32
    if power < 20:
        sys.exit(f"2^{power} samples are too few for the bins. Fix: ask for 20 or more")
    using = native.level()
    lines = [
        "# Statistics of the stream",
        "",
        f"Written by `benchmarks/randomness.py` on {time.strftime('%Y-%m-%d')}: 2^{power} samples",
        f"per distribution, seed 0, kernels of level {using.name if using else 'NumPy'}. Moments",
        "are raw; the last column is in standard errors, for chi-square the normal score of its",
        "excess, and for `sqrt(n) D` (Kolmogorov-Smirnov, at the edges of bins 1/4096 wide) the",
        "statistic itself.",
    ]
    for law in LAWS:
        lines += section(law.label, rows(law, sample(law, 1 << power)))
    title = f"Orthogonal: {MATRICES} matrices of order {ORDER}"
    lines += section(title, haar())
    text = "\n".join([*lines, ""])
    print(text)
    if power >= 32:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
