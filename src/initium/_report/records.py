"""The outcome of a check, as data: what was measured, and the findings drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from initium._report.deep import Deep
from initium._types import Severity

if TYPE_CHECKING:
    import initium._predict.records

__all__ = [
    "SEVERITIES",
    "AttentionRecord",
    "BranchRecord",
    "Finding",
    "Histogram",
    "LayerRecord",
    "LossRecord",
    "ParameterRecord",
    "RangeRecord",
    "Report",
]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
SCHEMA = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing worth saying about a model.

    Attributes:
        code: stable identifier, such as ``"IN201"``.
        severity: ``error``: will not learn, is numerically broken, or contradicts its plan beyond
            noise. ``warning``: probably slower or fragile. ``info``: by design, worth knowing.
        where: parameter, buffer or module names, the root cause first.
        title: the finding in a few words ("vanishing signal").
        message: what was seen, in plain words, with the numbers that matter.
        fix: what to change, concretely; empty for information.
        numbers: the measurements behind it.
    """

    code: str
    severity: Severity
    title: str
    where: tuple[str, ...]
    message: str
    fix: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """What passed through one module, averaged over its calls.

    All moments are of the first floating tensor of the module's output, over all its elements:
    ``mean`` E[x], ``second_moment`` E[x^2], ``signal`` the mean over units and positions of the
    variance between the samples of the batch (``None`` for a batch of one), ``grad_second_moment``
    E[(dL/dx)^2] (``None`` where no gradient arrived). ``weight`` names the matrix that the module
    itself holds, if it holds one.

    Of modules with a matrix or a norm: ``input_second_moment`` E[x^2] of the first floating tensor
    that they are given. Of modules with a matrix: ``channel_mean``, the part of E[x^2] that lies in
    the channels' means, sum_c E[x_c]^2 / sum_c E[x_c^2]. Of outputs [samples, tokens, width] of
    embeddings and containers: ``token_cosine``, the mean cosine between two tokens of one sample.
    ``saturated`` is the part of the values of a tanh or sigmoid in its flat ends.
    """

    name: str
    module_type: str
    order: int
    calls: int
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    signal: float | None = None
    nonfinite: float = 0.0
    zeros: float = 0.0
    grad_mean: float | None = None
    grad_second_moment: float | None = None
    grad_nonfinite: float = 0.0
    dead_units: float | None = None
    saturated: float | None = None
    weight: str | None = None
    input_second_moment: float | None = None
    channel_mean: float | None = None
    token_cosine: float | None = None

    @property
    def gain(self) -> float | None:
        """E[out^2] / E[in^2]; ``None`` where either is unknown or zero."""
        if not self.input_second_moment or self.second_moment == 0.0:
            return None
        return self.second_moment / self.input_second_moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """The finite values of an even sample, in equal bins from ``low`` to ``high``.

    Attributes:
        counts: values in each bin; a single one where all values are equal.
        below, above: values beyond the bins.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0

    @property
    def values(self) -> int:
        """How many values it is made of."""
        return sum(self.counts) + self.below + self.above


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRecord:
    """What one parameter holds and what gradient reached it.

    ``grad_mean`` and ``grad_second_moment`` are ``None`` where autograd never reached it.
    ``duplicate_units`` counts the rows (along the output axis) that equal another row in value
    *and* in gradient. ``spec`` and ``reason`` are the plan's, ``histogram`` is that of a sample of
    the values.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    trainable: bool
    mean: float
    std: float
    second_moment: float
    nonfinite: float = 0.0
    grad_mean: float | None = None
    grad_second_moment: float | None = None
    grad_nonfinite: float = 0.0
    duplicate_units: int = 0
    units: int = 0
    planned_std: float | None = None
    spec: str | None = None
    reason: str | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecord:
    """The first loss: where it came from, its value, and what a healthy start would give.

    ``expected`` is ln C for a cross-entropy over C classes; ``independent`` is the loss that these
    very logits would give to targets independent of them, E[logsumexp(z)] - E[z].
    ``flaw``: ``"summed"`` over the rows instead of averaged, or ``"softmax twice"``.
    """

    source: str
    value: float | None = None
    expected: float | None = None
    independent: float | None = None
    classes: int | None = None
    logit_std: float | None = None
    flaw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRecord:
    """The softmaxes of one module whose result is multiplied by values, on a sample of their rows.

    Only keys that the mask allows count. ``keys`` is the largest number of them in one row;
    ``logit_std`` the root of the mean variance of the logits within a row; ``entropy`` the mean of
    H / ln n over rows of n > 1 keys, 1 for a uniform row; ``peak`` the mean largest probability.
    ``scale`` is the factor on the products of queries and keys in units of 1/sqrt(head dimension),
    where it can be seen.
    """

    name: str
    order: int
    calls: int
    keys: int
    logit_std: float
    entropy: float
    peak: float
    causal: bool = False
    scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRecord:
    """One sum of a residual stream: second moments of stream, branch, and their sum.

    ``weight`` is the matrix that ends the branch; ``stream`` and ``depth`` count as in the view.
    """

    weight: str
    stream: int
    depth: int
    before: float
    branch: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRecord:
    """What a number format would lose of what was measured, as parts of the non-zero elements.

    ``overflow``: beyond the largest number. ``subnormal``: below the smallest normal one.
    ``lost``: rounded to zero. ``worst`` names the tensor that would lose most, ``worst_lost`` its
    part that overflows or is lost. All on a sample of every tensor.
    """

    what: str
    dtype: str
    overflow: float
    subnormal: float
    lost: float
    worst: str = ""
    worst_lost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict of a check, with everything it rests on.

    ``ok`` means that there is no finding of severity ``error``. ``print(report)`` shows it for a
    terminal, :meth:`to_json` and :meth:`to_html` for everything else.
    """

    model: str
    findings: tuple[Finding, ...]
    layers: Mapping[str, LayerRecord]
    parameters: Mapping[str, ParameterRecord]
    loss: LossRecord
    plan: str | None = None
    batch: str = ""
    mode: str = "train"
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    deep: Deep | None = None
    attention: tuple[AttentionRecord, ...] = ()
    branches: tuple[BranchRecord, ...] = ()
    ranges: tuple[RangeRecord, ...] = ()
    prediction: initium._predict.records.Prediction | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def worst(self) -> Severity | None:
        """The gravest severity found, or ``None`` if there is no finding."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    def to_dict(self) -> dict[str, object]:
        """The whole report as plain data; non-finite numbers become ``null`` in JSON."""
        return {"initium": "report", "schema": SCHEMA, "ok": self.ok, **asdict(self)}

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as strict JSON text; also written to ``path``, at once or not at all."""
        from initium._plain import saved_json

        return saved_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report back from what :meth:`to_json` made.

        Numbers that were not finite come back as NaN, or as ``None`` where the field knows it.

        Raises:
            InputError: the text is no report, or one of another version.
        """
        from initium._report.reading import parse_report

        return parse_report(text)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report back from a file, as :meth:`from_json`."""
        from initium._report.reading import load_report

        return load_report(path)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no network; returns its path."""
        from initium._files import write_text
        from initium._report.html import render_html

        return write_text(path, render_html(self))

    def __str__(self) -> str:
        from initium._report.terminal import render_report

        return render_report(self)

    def _repr_html_(self) -> str:
        from initium._report.html import render_notebook

        return render_notebook(self)
