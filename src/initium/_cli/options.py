"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Debug",
    "FailOn",
    "FailOnOption",
    "Inputs",
    "Json",
    "Loss",
    "Model",
    "PlanFile",
    "RecipeOption",
    "Seed",
    "Tiny",
]


class FailOn(StrEnum):
    """The least severity that makes ``check`` exit with code 1."""

    error = "error"
    warning = "warning"
    info = "info"


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:callable, path/file.py:callable, hf:<model type or config.json>, "
        "timm:<name> or demo:<name>.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", metavar="RECIPE", help="auto, he, normal(0.02), ..., or a .yaml file."
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="A saved plan, instead of a recipe."),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Scale an hf: model down.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=2**64 - 1, help="Of the weights, and of what the model's code draws."
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="FILE.py:CALLABLE",
        help="Gives the batch, or a tuple (batch, targets).",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="FILE.py:CALLABLE",
        help="The loss, called with the model's output and the targets.",
    ),
]
Evaluation = Annotated[
    bool, typer.Option("--eval", help="In evaluation mode instead of training mode.")
]
FailOnOption = Annotated[
    FailOn, typer.Option("--fail-on", help="Exit with 1 from this severity on.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
