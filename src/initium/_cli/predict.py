"""``initium predict``: the signal of a model before its weights exist."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import initium
from initium._cli.models import (
    load_model,
    must_be_apart,
    must_be_writable,
    plan_of,
    start_of,
    with_loss,
)
from initium._cli.options import (
    Debug,
    Evaluation,
    Inputs,
    Json,
    Loss,
    Model,
    PlanFile,
    RecipeOption,
    Seed,
    Tiny,
)
from initium._cli.output import echo_json
from initium._cli.progress import working
from initium._cli.sizes import edges_of, grid_of, numbers
from initium.errors import ModelError

__all__ = ["predict"]


def predict(
    model: Model,
    recipe: RecipeOption = None,
    plan_file: PlanFile = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            help="Samples of the whole model, each one pass: 3 or more; 0 for closed forms alone.",
        ),
    ] = 4,
    widths: Annotated[
        str | None,
        typer.Option("--widths", metavar="64,128,...", help="A grid over these widths of MODEL."),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option("--depths", metavar="2,8,...", help="A grid over these numbers of layers."),
    ] = None,
    edge: Annotated[
        bool,
        typer.Option("--edge", help="Show plain layers beside the edge of chaos of what they do."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the curves as one page.")
    ] = None,
    inputs: Inputs = None,
    loss: Loss = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    evaluation: Evaluation = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How strong the signal of MODEL would be at every layer, forward and back, before training.

    With --recipe or --plan weights are never made, so that a model of any size can be asked about:
    products with them are drawn from their exact laws. Without, the weights that MODEL's own code
    made are measured, matrix by matrix. --widths and --depths build MODEL in other sizes and show
    where a start breaks and how it scales. Where a part of MODEL cannot be predicted, the rest is
    shown, and the exit code is 2.
    """
    sizes = numbers("--widths", widths), numbers("--depths", depths)
    if any(sizes) and (plan_file or edge or html):
        raise typer.BadParameter(
            "--widths and --depths exclude --plan, --edge and --html: a plan and a page are about "
            "one size"
        )
    if draws != 0 and draws < 3:
        raise typer.BadParameter(f"--draws has to be 3 or more, or 0 (got {draws})")
    start = start_of(recipe, plan_file)
    must_be_writable(html)
    must_be_apart({"--html": html}, {"--plan": plan_file})
    if any(sizes):
        grid = grid_of(
            model, start, *sizes, inputs, loss, tiny=tiny, seed=seed, evaluation=evaluation,
            draws=draws,
        )  # fmt: skip
        typer.echo(grid.to_json() if as_json else str(grid))
        return
    loaded = load_model(model, inputs, tiny=tiny, seed=seed, meta=start is not None)
    if loss is not None:
        loaded = with_loss(loaded, loss)
    if evaluation:
        loaded.model.eval()
    made = plan_of(loaded, start, seed) if start is not None else None
    if edge and html is None:
        edges = edges_of(loaded, made)
        if as_json:
            echo_json([json.loads(one.to_json()) for one in edges])
        else:
            typer.echo("\n\n".join(map(str, edges)))
        return
    with working(f"predicting {loaded.name}"), redirect_stdout(sys.stderr):
        found = initium.predict(
            loaded.model,
            made,
            loaded.inputs,
            targets=loaded.targets,
            loss_fn=loaded.loss_fn,
            draws=draws,
            seed=seed,
        )
    found = replace(found, model=loaded.name)
    if html is not None:
        from initium._files import write_text
        from initium._report.prediction import render_prediction

        write_text(html, render_prediction(found, edges_of(loaded, made, must=edge)))
    typer.echo(found.to_json() if as_json else str(found))
    if html is not None:
        typer.echo(f"page: {html}", err=as_json)
    if found.problem:
        raise ModelError(f"not all could be predicted: {found.problem}")
