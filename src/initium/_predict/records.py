"""What a model's signal is predicted to be, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Band", "Draw", "LayerMoments", "LayerPrediction", "Prediction"]

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMoments:
    """The first floating tensor of a module's output, averaged over its calls.

    ``mean`` E[x], ``second_moment`` E[x^2], ``grad_second_moment`` E[(dL/dx)^2]; ``None`` where no
    gradient arrived. All over all elements of the tensor.
    """

    name: str
    module_type: str
    order: int
    calls: int
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    grad_second_moment: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One sample of what a plan does to a model: moments by module, and the first loss.

    ``notes`` say where a law was not exact.
    """

    layers: Mapping[str, LayerMoments]
    loss: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """Where 95% of single starts are expected."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrediction:
    """What the output of one module is predicted to be.

    Moments are those of :class:`LayerMoments`. ``second_moment`` and ``grad_second_moment`` are
    geometric means over draws: their spread over seeds is multiplicative.
    """

    name: str
    module_type: str
    order: int
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    band: Band
    grad_second_moment: float | None = None
    grad_band: Band | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The signal of a model under a plan, without its weights.

    ``layers`` by module in execution order; ``loss`` the first loss and ``loss_band`` its band,
    ``None`` without a loss; ``draws`` how many samples it rests on; ``notes`` where a law was not
    exact. ``print(prediction)`` shows a table, repeated blocks folded.
    """

    model: str
    plan: str
    layers: Mapping[str, LayerPrediction]
    loss: float | None = None
    loss_band: Band | None = None
    draws: int = 0
    batch: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Everything, as JSON text: ``{"initium": "prediction", "version": 1, "layers": ...}``."""
        from initium._plain import plain

        data = {"initium": "prediction", "version": VERSION}
        return json.dumps({**data, **dict(plain(self))}, indent=2, allow_nan=False)  # type: ignore[call-overload]

    def __str__(self) -> str:
        from initium._predict.table import prediction_table

        return prediction_table(self)
