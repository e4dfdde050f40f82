"""The commands: each one loads, calls the library, and prints.

Nothing is computed here, and torch is imported by the command that needs it, so that ``--help`` is
quick. Long options only where a short one would be guesswork.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from enum import StrEnum
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from warnings import catch_warnings, simplefilter

import typer

import initium
from initium._cli.progress import counting, working
from initium._cli.sizes import edges_of, grid_of, numbers
from initium._plain import plain
from initium._plan import Recipe, parse_recipe
from initium.errors import InputError, OutputError, TraceWarning

if TYPE_CHECKING:
    from initium._load import Loaded

__all__ = ["app"]

app = typer.Typer(
    help="Plan, fill, verify and explain the starting weights of a PyTorch model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


@app.callback(invoke_without_command=True)
def version_only(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"initium {initium.__version__}")
        raise typer.Exit()


@app.command()
def check(
    model: Model,
    recipe: RecipeOption = None,
    plan_file: PlanFile = None,
    inputs: Inputs = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="FILE.py:CALLABLE",
            help="The loss, called with the model's output and the targets.",
        ),
    ] = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Measure in evaluation mode instead of training mode.")
    ] = False,
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
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit with 1 from this severity on.")
    ] = FailOn.error,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Is MODEL fit to train from its starting weights?

    If not: where, why, and what to change. With --recipe or --plan the model is initialised first;
    without, what its own code did is judged.
    """
    start = _start(recipe, plan_file)
    _must_be_writable(html)
    loaded = _load(model, inputs, tiny=tiny, seed=seed)
    if loss is not None:
        loaded = _with_loss(loaded, loss)
    if evaluation:
        loaded.model.eval()
    plan = _plan(loaded, start, seed) if start is not None else None
    if plan is not None:
        with working("filling the weights"):
            plan.apply(loaded.model)
    report = _check(loaded, plan, deep, predicted)
    if html is not None:
        report.to_html(html)
    typer.echo(report.to_json() if as_json else _for_terminal(report))
    if html is not None:
        typer.echo(f"report: {html}", err=as_json)
    raise typer.Exit(1 if _fails(report, fail_on) else 0)


@app.command()
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
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit with 1 from this severity on.")
    ] = FailOn.error,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What init code writes to MODEL: what never, what twice, what from the same random numbers.

    The code runs several times on memory with known contents. Whether the weights are good is for
    "initium check"; whether all are written, once and as meant, is for this.
    """
    from initium._load import init_function, load

    function = init_function(init) if init is not None else None
    loaded = _load(model, inputs, tiny=tiny, seed=seed)

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


@app.command()
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
    loaded = _load(model, inputs, tiny=tiny, seed=0, meta=True)
    with working("tracing the model"), redirect_stdout(sys.stderr):
        view = initium.inspect(loaded.model, loaded.inputs)
    if as_json:
        typer.echo(view.to_json())
    else:
        typer.echo(view.tree() if tree else str(view))


@app.command()
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
    _must_be_writable(out)
    start, base = parse_recipe(recipe or "auto"), _base(diff) if diff is not None else None
    loaded = _load(model, inputs, tiny=tiny, seed=seed, meta=True)
    made = _plan(loaded, start, seed)
    changes = _plan(loaded, base, seed).diff(made) if base is not None else None
    if out is not None:
        made.save(out)
    if changes is not None:
        _echo(changes, as_json)
    elif out is None or as_json:
        _echo(made, as_json)
    if out is not None:
        typer.echo(f"plan: {out} ({len(made.entries)} entries)", err=as_json)
    raise typer.Exit(1 if changes else 0)


@app.command()
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
    tiny: Tiny = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How strong the signal of MODEL would be at every layer, forward and back, before training.

    With --recipe or --plan weights are never made, so that a model of any size can be asked about:
    products with them are drawn from their exact laws. Without, the weights that MODEL's own code
    made are measured, matrix by matrix. --widths and --depths build MODEL in other sizes and show
    where a start breaks and how it scales.
    """
    sizes = numbers("--widths", widths), numbers("--depths", depths)
    if any(sizes) and (plan_file or edge or html):
        raise typer.BadParameter(
            "--widths and --depths exclude --plan, --edge and --html: a plan and a page are about "
            "one size"
        )
    if draws != 0 and draws < 3:
        raise typer.BadParameter(f"--draws has to be 3 or more, or 0 (got {draws})")
    start = _start(recipe, plan_file)
    _must_be_writable(html)
    if any(sizes):
        grid = grid_of(model, start, *sizes, inputs, tiny=tiny, seed=seed, draws=draws)
        typer.echo(grid.to_json() if as_json else str(grid))
        return
    loaded = _load(model, inputs, tiny=tiny, seed=seed, meta=start is not None)
    made = _plan(loaded, start, seed) if start is not None else None
    if edge and html is None:
        edges = edges_of(loaded, made)
        if as_json:
            _echo_json([json.loads(one.to_json()) for one in edges])
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


@app.command()
def write(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The directory of the checkpoint.")
    ],
    recipe: RecipeOption = None,
    plan_file: PlanFile = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of all floating weights, such as bfloat16.")
    ] = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="The most bytes of one file.")
    ] = "5GB",
    part: Annotated[
        str, typer.Option("--part", metavar="I/N", help="Write as process I of N, from 0.")
    ] = "0/1",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove another checkpoint from DIR first.")
    ] = False,
    inputs: Inputs = None,
    tiny: Tiny = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The starting weights of MODEL as a checkpoint: sharded safetensors, without building it.

    The recipe is auto unless --recipe or --plan is given. A write that was interrupted goes on. An
    hf: model gets its config.json, so that from_pretrained(DIR) loads it.
    """
    from initium._files import write_text
    from initium._fill.apply import validate
    from initium._fill.layout import lay_out
    from initium._model.names import slots

    start = _start(recipe, plan_file) or parse_recipe("auto")
    lay_out(initium.Plan({}), dtype, shard_size)  # refuses both before anything is built
    rank, slash, count = part.partition("/")
    if not (slash and rank.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--part is not I/N, such as 0/4 (got {part!r})")
    loaded = _load(model, inputs, tiny=tiny, seed=seed, meta=True)
    made = _plan(loaded, start, seed)
    if plan_file is not None:
        validate(made, slots(loaded.model))
    beside = _beside(loaded, out, dtype, overwrite)
    with counting(f"writing {out}") as progress, _flags():
        done = made.write(
            out,
            dtype,
            shard_size,
            overwrite=overwrite,
            part=(int(rank), int(count)),
            progress=progress,
        )
    for name, text in beside.items():
        write_text(out / name, text)
    if as_json:
        _echo_json(plain(done, as_text=(Path,)))
    else:
        typer.echo(str(done))


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A saved plan.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another saved plan.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What changes from plan A to plan B.

    Exits with 0 if nothing does and with 1 if anything does.
    """
    changes = initium.Plan.load(before).diff(initium.Plan.load(after))
    _echo(changes, as_json)
    raise typer.Exit(1 if changes else 0)


@app.command()
def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A scheme, a recipe, a recipe's file, a finding's code, or: rules.",
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A scheme, a recipe or a finding in plain words.

    Its formula, when to use it, its source, and known divergences; of a finding such as IN201 what
    is seen, why, and the repair. "initium explain rules" tells all that a rule may say.
    """
    text = initium.explain(name)
    if as_json:
        _echo_json({"name": name, "text": text})
    else:
        typer.echo(text)


@app.command()
def recipes(as_json: Json = False, debug: Debug = False) -> None:
    """The recipes that can be named, one line each."""
    from initium._plan.reference import plain_text
    from initium._tables import legend, render
    from initium.recipes import RECIPES

    lines = {
        name: plain_text((getdoc(recipe) or "").partition("\n")[0])
        for name, recipe in RECIPES.items()
    }
    if as_json:
        _echo_json(lines)
    else:
        typer.echo(render(legend(lines.items(), justify="left")))


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the page is written.")
    ] = Path("out"),
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Networks that differ only in their start, on one page.

    A deep ReLU network under four recipes, and a small GPT with and without residual scaling.
    """
    from initium._cli.demo import run_demo

    run_demo(out, seed=seed, as_json=as_json)


def _load(spec: str, inputs: str | None, *, tiny: bool, seed: int, meta: bool = False) -> Loaded:
    from initium._load import load

    with working(f"building {spec}"), redirect_stdout(sys.stderr):
        return load(spec, tiny=tiny, seed=seed, meta=meta, inputs=inputs)


def _with_loss(loaded: Loaded, source: str) -> Loaded:
    from initium._load import loss_function

    return replace(loaded, loss_fn=loss_function(source))


def _start(recipe: str | None, file: Path | None) -> Recipe | initium.Plan | None:
    """What the weights start from, read before the model is built, which may take long."""
    if recipe is not None and file is not None:
        raise typer.BadParameter("--recipe and --plan exclude each other; give one of them")
    if file is not None:
        return initium.Plan.load(file)
    return parse_recipe(recipe) if recipe is not None else None


def _base(text: str) -> Recipe | initium.Plan:
    """The other plan of a comparison: a file, or what a recipe makes of the same model."""
    return initium.Plan.load(text) if _is_plan(text) else parse_recipe(text)


def _plan(loaded: Loaded, start: Recipe | initium.Plan, seed: int) -> initium.Plan:
    if isinstance(start, initium.Plan):
        return start
    with (
        working(f"planning {loaded.name} with {start}"),
        redirect_stdout(sys.stderr),
        catch_warnings(record=True) as told,
    ):
        simplefilter("always", TraceWarning)
        made = initium.plan(loaded.model, start, inputs=loaded.inputs, seed=seed)
    for warning in (one for one in told if issubclass(one.category, TraceWarning)):
        typer.echo(f"warning: {warning.message}", err=True)
    return made


@contextmanager
def _flags() -> Iterator[None]:
    """Where the library's advice is an argument, the command line's is its flag."""
    try:
        yield
    except OutputError as error:
        fix = (error.fix or "").replace("pass overwrite=True", "add --overwrite")
        raise OutputError(error.what, where=error.where, value=error.value, fix=fix) from error


def _is_plan(text: str) -> bool:
    """Whether a text is the path of a saved plan, and not a recipe or a recipe's file."""
    path = Path(text)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        return False
    try:
        return path.suffix == ".json" or "initium: plan" in path.read_text(encoding="utf-8")[:1000]
    except (OSError, UnicodeDecodeError):
        return True


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
            announce=_announce,
            prediction=prediction,
        )
    return replace(report, model=loaded.name)


def _announce(text: str) -> None:
    typer.echo(text, err=True)


def _fails(report: initium.Report | initium.Audit, fail_on: FailOn) -> bool:
    from initium._report.records import SEVERITIES

    limit = SEVERITIES.index(fail_on.value)
    return any(SEVERITIES.index(finding.severity) <= limit for finding in report.findings)


def _beside(loaded: Loaded, out: Path, dtype: str | None, overwrite: bool) -> dict[str, str]:
    """The files that an hf: model needs beside its weights; others there are not replaced."""
    if not loaded.name.startswith("hf:"):
        return {}
    from initium._load.hf import config_files

    files = config_files(loaded.model, (dtype or "float32").removeprefix("torch."))
    for name, text in files.items():
        if not overwrite and (out / name).is_file() and (out / name).read_text("utf-8") != text:
            raise InputError(
                "is there already and differs from that of the model",
                where=str(out / name),
                fix="choose another directory, or add --overwrite",
            )
    return files


def _must_be_writable(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError("the folder does not exist", where=str(path), fix="create it first")


def _for_terminal(report: initium.Report) -> str:
    from initium._report.terminal import render_report

    return render_report(report, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def _echo(value: object, as_json: bool) -> None:
    if as_json:
        from initium.spec import Spec

        _echo_json(plain(value, as_text=(Spec,)))
    else:
        typer.echo(str(value))


def _echo_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))
