"""What ``initium predict`` needs for its grids and its edges of chaos."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

import initium
from initium._cli.progress import working
from initium._plan import Recipe
from initium.errors import InputError

if TYPE_CHECKING:
    from initium._load import Loaded

__all__ = ["edges_of", "grid_of", "numbers"]


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Sizes as the command line gives them: numbers with commas between."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{option} is not a list such as 64,128,256 (got {text!r})")
    return tuple(map(int, parts))


def grid_of(
    model: str,
    start: Recipe | initium.Plan | None,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    inputs: str | None,
    loss: str | None,
    *,
    tiny: bool,
    seed: int,
    evaluation: bool,
    draws: int,
) -> initium.Grid:
    """The model that a text names, in every size."""
    from initium._load import load, loss_function

    assert not isinstance(start, initium.Plan)

    def build(width: int | None = None, depth: int | None = None) -> object:
        meta = start is not None
        loaded = load(
            model, tiny=tiny, seed=seed, meta=meta, inputs=inputs, width=width, depth=depth
        )
        if evaluation:
            loaded.model.eval()
        return loaded.model, loaded.inputs, loaded.targets

    with working(f"predicting {model}"), redirect_stdout(sys.stderr):
        grid = initium.predict_grid(
            build,
            start,
            widths=widths,
            depths=depths,
            loss_fn=None if loss is None else loss_function(loss),
            draws=draws,
            seed=seed,
        )
    return replace(grid, model=model)


def edges_of(
    loaded: Loaded, plan: initium.Plan | None, must: bool = True
) -> tuple[initium.Edge, ...]:
    """The edges of chaos of a model; none, if it need not have plain layers."""
    try:
        with working(f"inspecting {loaded.name}"), redirect_stdout(sys.stderr):
            return initium.model_edges(loaded.model, plan, loaded.inputs)
    except InputError:
        if must:
            raise
        return ()
