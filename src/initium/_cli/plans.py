"""``initium inspect``, ``plan`` and ``diff``: what a model is, how it would start, what changes."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

import initium
from initium._cli.models import base_of, load_model, must_be_a_plan, must_be_apart, plan_of
from initium._cli.options import Debug, Inputs, Json, Model, RecipeOption, Seed, Tiny
from initium._cli.output import echo
from initium._cli.progress import working
from initium._cli.reports import diff_reports
from initium._plan import parse_recipe
from initium._report.reading import is_report

__all__ = ["diff", "inspect", "plan"]


def inspect(
    model: Model,
    inputs: Inputs = None,
    tiny: Tiny = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show modules as a tree, repeated blocks folded.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What every parameter of MODEL is, and how that is known.

    Role, fans, the activation that follows, the depth in its residual stream; with the evidence.
    """
    if tree and as_json:
        raise typer.BadParameter("--tree and --json exclude each other: JSON holds all of the tree")
    loaded = load_model(model, inputs, tiny=tiny, seed=0, meta=True)
    with working("tracing the model"), redirect_stdout(sys.stderr):
        view = initium.inspect(loaded.model, loaded.inputs)
    if as_json:
        typer.echo(view.to_json())
    else:
        typer.echo(view.tree() if tree else str(view))


def plan(
    model: Model,
    recipe: RecipeOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Save as .yaml or .json.")
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff",
            metavar="FILE_OR_RECIPE",
            help="Show what changes from that plan to this one.",
        ),
    ] = None,
    inputs: Inputs = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How every parameter of MODEL would start, and why.

    The recipe is auto unless --recipe is given. Nothing is filled: a plan is data. --out saves it.
    --diff is "initium diff" from another plan, saved or of another recipe, to this one: it exits
    with 1 if anything changes.
    """
    must_be_a_plan(out)
    must_be_apart({"--out": out}, {"--diff": Path(diff) if diff is not None else None})
    start, base = parse_recipe(recipe or "auto"), base_of(diff) if diff is not None else None
    loaded = load_model(model, inputs, tiny=tiny, seed=seed, meta=True)
    made = plan_of(loaded, start, seed)
    changes = plan_of(loaded, base, seed).diff(made) if base is not None else None
    if out is not None:
        made.save(out)
    if changes is not None:
        echo(changes, as_json)
    elif out is None or as_json:
        echo(made, as_json)
    if out is not None:
        typer.echo(f"plan: {out} ({len(made.entries)} entries)", err=as_json)
    raise typer.Exit(1 if changes else 0)


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A saved plan, or a report.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one of the same kind.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Of two reports: one page.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What changes from plan A to plan B, or from report A to report B.

    A report is what "initium check MODEL --json" printed. Exits with 0 if nothing changes and with
    1 if anything does.
    """
    if is_report(before) or is_report(after):
        changed = diff_reports(before, after, html, as_json)
        raise typer.Exit(1 if changed else 0)
    if html is not None:
        raise typer.BadParameter("--html shows two reports; plans have no page")
    changes = initium.Plan.load(before).diff(initium.Plan.load(after))
    echo(changes, as_json)
    raise typer.Exit(1 if changes else 0)
