"""``initium check`` and ``initium audit``: is a model fit to train, and is its init code sound?"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import initium
from initium._cli.models import (
    load_model,
    must_be_a_plan,
    must_be_apart,
    must_be_writable,
    plan_of,
    start_of,
    with_loss,
)
from initium._cli.options import (
    Debug,
    Evaluation,
    FailOn,
    FailOnOption,
    Inputs,
    Json,
    Loss,
    Model,
    PlanFile,
    RecipeOption,
    Seed,
    Tiny,
)
from initium._cli.output import announce, echo_json
from initium._cli.progress import working

if TYPE_CHECKING:
    from initium._load import Loaded

__all__ = ["audit", "check"]


def check(
    model: Model,
    recipe: RecipeOption = None,
    plan_file: PlanFile = None,
    inputs: Inputs = None,
    loss: Loss = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    evaluation: Evaluation = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Measure what takes more passes too, such as real optimizer steps; tells the "
            "cost first.",
        ),
    ] = False,
    predicted: Annotated[
        bool,
        typer.Option(
            "--predict", help="Predict the plan as well, and say where the measurement departs."
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="FILE",
            help="Write a plan (.yaml or .json) that changes what the findings name and keeps all "
            "else.",
        ),
    ] = None,
    fail_on: FailOnOption = FailOn.error,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Is MODEL fit to train from its starting weights?

    If not: where, why, and what to change. With --recipe or --plan the model is initialised first;
    without, what its own code did is judged. --fix repairs it: the plan that it writes is for
    "initium check MODEL --plan FILE". The exit code is that of MODEL as it is.
    """
    start = start_of(recipe, plan_file)
    must_be_writable(html)
    must_be_a_plan(fix)
    must_be_apart({"--html": html, "--fix": fix}, {"--plan": plan_file})
    loaded = load_model(model, inputs, tiny=tiny, seed=seed)
    if loss is not None:
        loaded = with_loss(loaded, loss)
    if evaluation:
        loaded.model.eval()
    plan = plan_of(loaded, start, seed) if start is not None else None
    if plan is not None:
        with working("filling the weights"):
            plan.apply(loaded.model)
    report = _check(loaded, plan, deep, predicted)
    if html is not None:
        report.to_html(html)
    made = _repaired(loaded, plan, report, seed) if fix is not None else None
    if made is not None and fix is not None:
        made.plan.save(fix)
    if as_json and made is not None:
        echo_json({**json.loads(report.to_json()), "repair": made.to_dict()})
    else:
        typer.echo(report.to_json() if as_json else _for_terminal(report))
    if made is not None and not as_json:
        typer.echo(f"\n{made}")
    if html is not None:
        typer.echo(f"report: {html}", err=as_json)
    if fix is not None:
        given = {"--plan": fix, "--inputs": inputs, "--loss": loss, "--seed": seed or None}
        flags = {"--tiny": tiny, "--eval": evaluation, "--deep": deep}
        typer.echo(f"plan: {fix}; try it: {_again(model, given, flags)}", err=as_json)
    raise typer.Exit(1 if _fails(report, fail_on) else 0)


def audit(
    model: Model,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="FILE.py:CALLABLE",
            help="Code that initialises MODEL, called with it; without, what building it does.",
        ),
    ] = None,
    inputs: Inputs = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    fail_on: FailOnOption = FailOn.error,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What init code writes to MODEL: what never, what twice, what from the same random numbers.

    The code runs several times on memory with known contents. Whether the weights are good is for
    "initium check"; whether all are written, once and as meant, is for this.
    """
    from initium._load import init_function, load

    function = init_function(init) if init is not None else None
    loaded = load_model(model, inputs, tiny=tiny, seed=seed)

    def build() -> object:
        import torch

        return load(model, tiny=tiny, seed=torch.initial_seed()).model

    with working(f"auditing {loaded.name}"), redirect_stdout(sys.stderr):
        if function is None:
            found = initium.audit(build, inputs=loaded.inputs, seed=seed)
        else:
            found = initium.audit(function, loaded.model, loaded.inputs, seed=seed)
    found = replace(found, model=loaded.name)
    typer.echo(found.to_json() if as_json else str(found))
    raise typer.Exit(1 if _fails(found, fail_on) else 0)


def _check(
    loaded: Loaded, plan: initium.Plan | None, deep: bool = False, predicted: bool = False
) -> initium.Report:
    prediction = None
    if predicted:
        with working(f"predicting {loaded.name}"), redirect_stdout(sys.stderr):
            prediction = initium.predict(
                loaded.model, plan, loaded.inputs, targets=loaded.targets, loss_fn=loaded.loss_fn
            )
    with working(f"checking {loaded.name}"), redirect_stdout(sys.stderr):
        report = initium.check(
            loaded.model,
            loaded.inputs,
            loaded.targets,
            loaded.loss_fn,
            plan,
            inferred=loaded.inferred,
            deep=deep,
            announce=announce,
            prediction=prediction,
        )
    return replace(report, model=loaded.name)


def _repaired(
    loaded: Loaded, plan: initium.Plan | None, report: initium.Report, seed: int
) -> initium.Repair:
    with working(f"repairing {loaded.name}"), redirect_stdout(sys.stderr):
        return initium.repair(
            loaded.model,
            loaded.inputs,
            loaded.targets,
            loaded.loss_fn,
            plan,
            report=report,
            seed=seed,
            inferred=loaded.inferred,
        )


def _again(model: str, given: Mapping[str, object], flags: Mapping[str, bool]) -> str:
    """The command that checks a model again."""
    parts = ["initium", "check", model]
    for name, value in given.items():
        parts += [name, str(value)] if value is not None else []
    parts += [name for name, is_set in flags.items() if is_set]
    return shlex.join(parts)


def _fails(report: initium.Report | initium.Audit, fail_on: FailOn) -> bool:
    from initium._report.records import SEVERITIES

    limit = SEVERITIES.index(fail_on.value)
    return any(SEVERITIES.index(finding.severity) <= limit for finding in report.findings)


def _for_terminal(report: initium.Report) -> str:
    from initium._report.terminal import render_report

    return render_report(report, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
