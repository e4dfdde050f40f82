"""What a model's signal is predicted to be, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from initium._scheme.edge import Edge

__all__ = ["Band", "Draw", "LayerMoments", "LayerPrediction", "Prediction"]

VERSION = 2
"""Of the JSON; goes up where a field goes or changes its meaning. A reader meets files that lack
what came later, and takes the defaults: an error that is not there is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMoments:
    """The first floating tensor of a module's output, averaged over its calls.

    ``mean`` E[x], ``second_moment`` E[x^2], ``grad_second_moment`` E[(dL/dx)^2]; ``None`` where no
    gradient arrived. All over all elements of the tensor. ``tier`` and ``grad_tier`` say what they
    rest on.
    """

    name: str
    module_type: str
    order: int
    calls: int
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    grad_second_moment: float | None = None
    tier: str = ""
    grad_tier: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of what a plan does to a model: moments by module, and the first loss.

    ``loss_tier`` says what the loss rests on, ``notes`` where a law was not exact, and ``problem``
    why the pass ended early; it is empty if it did not.
    """

    layers: Mapping[str, LayerMoments]
    loss: float | None = None
    loss_tier: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """Where 95% of single starts are expected."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrediction:
    """What the output of one module is predicted to be.

    Moments are those of :class:`LayerMoments`.

    Attributes:
        second_moment, grad_second_moment: geometric means over draws, as their spread over seeds is
            multiplicative; without draws, the closed forms.
        band, grad_band: of single starts, ``None`` without draws.
        closed, grad_closed: at infinite width; a gradient's is ``None`` where none arrives.
        closed_error, grad_closed_error: relative standard errors of what was sampled in those: 0
            where nothing was, ``None`` where it is not known, as after a single pass.
        tier, grad_tier: what those rest on: ``closed form``; ``monte carlo`` where an operator on
            the way has none and was sampled; ``lazy draw`` where no closed form could be made of
            this model.
    """

    name: str
    module_type: str
    order: int
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    band: Band | None
    closed: float
    tier: str
    closed_error: float | None = None
    grad_second_moment: float | None = None
    grad_band: Band | None = None
    grad_closed: float | None = None
    grad_closed_error: float | None = None
    grad_tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The signal of a model under a plan, without its weights.

    ``layers`` by module in execution order; ``loss`` the expected first loss, by closed forms as
    far as ``loss_tier`` says, ``loss_error`` its relative standard error as for layers, and
    ``loss_band`` its band over draws, ``None`` without a loss or without draws; ``passes`` over how
    many closed forms are averaged, and ``draws`` how many lazy ones the bands rest on; ``notes``
    where a law was not exact, or closed forms depart from draws; ``problem`` says what could not be
    predicted, where and why: what is there was reached before. ``print(prediction)`` shows a table,
    repeated blocks folded.
    """

    model: str
    plan: str
    layers: Mapping[str, LayerPrediction]
    loss: float | None = None
    loss_band: Band | None = None
    loss_tier: str = ""
    loss_error: float | None = None
    passes: int = 1
    draws: int = 0
    batch: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""

    def to_json(self) -> str:
        """Everything, as JSON text: ``{"initium": "prediction", "version": 2, "layers": ...}``."""
        from initium._plain import as_json

        return as_json(self, {"initium": "prediction", "version": VERSION})

    def to_html(self, path: str | Path, edges: Sequence[Edge] = ()) -> Path:
        """Write one page with the curves through depth and their bands.

        Args:
            path: of the file.
            edges: the edge of chaos for plain layers, to be drawn too.
        """
        from initium._files import write_text
        from initium._report.prediction import render_prediction

        return write_text(path, render_prediction(self, edges))

    def _repr_html_(self) -> str:
        from initium._report.prediction import notebook_prediction

        return notebook_prediction(self)

    def __str__(self) -> str:
        from initium._predict.table import prediction_table

        return prediction_table(self)
