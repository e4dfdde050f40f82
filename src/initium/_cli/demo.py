"""``initium demo``: what the weights at the start decide, told with networks that differ in nothing
else, as a table and one HTML page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

import initium
from initium._cli.progress import working
from initium._report.records import Report
from initium.errors import InputError

__all__ = ["run_demo"]

MLP = "demo:mlp-relu-50"
GPT = "demo:gpt-24"
PAGE = "initium-demo.html"
TITLE = "What the first weights decide"
LEAD = (
    "Two networks on real data: 50 layers of ReLU on handwritten digits, and a character-level GPT "
    "of 24 blocks on a novel. Between the panels of a group only the weights at the start differ. "
    "The upper curve of each is the signal on its way forward, layer by layer, the lower one the "
    "gradient on its way back; flat is healthy."
)


@dataclass(frozen=True)
class Start:
    """One way to start one of the networks, and what to see in it."""

    model: str
    recipe: str
    group: str
    title: str
    explanation: str


DEEP = "A deep plain network: 50 layers of 512 ReLU units"
STREAM = "A small GPT: 24 blocks that add to one stream"

STORY = (
    Start(
        MLP,
        "zeros",
        DEEP,
        "All zeros",
        "Every unit of a layer computes the same, so every unit receives the same gradient: none. "
        "Whatever the optimiser does, they stay equal. The loss is exactly that of a guess, which "
        "is why a look at the loss alone does not show it.",
    ),
    Start(
        MLP,
        "normal(0.1)",
        DEEP,
        "One std for everything: normal(0.1)",
        "It looks small, but each output adds up 512 products: every layer multiplies the signal's "
        "power by 512 × 0.01 / 2 = 2.6. Fifty layers make that 10²⁰. The first loss is "
        "astronomical and the first step throws the weights away.",
    ),
    Start(
        MLP,
        "xavier",
        DEEP,
        "Xavier",
        "The right idea for a symmetric activation: variance 2 / (fan_in + fan_out). But ReLU "
        "drops half of the signal, and nothing makes up for it: it halves at every layer, and "
        "after fifty 10⁻¹⁵ of its power is left. The output no longer depends on the input.",
    ),
    Start(
        MLP,
        "he",
        DEEP,
        "He",
        "Variance 2 / fan_in: the factor 2 is exactly what ReLU takes away. Signal and gradient "
        "arrive at the far end with the power they started with.",
    ),
    Start(
        GPT,
        "lecun",
        STREAM,
        "Without residual scaling",
        "Each branch on its own is sound: variance 1 / fan_in. But 48 of them add to the same "
        "stream, and it grows with each one: the later a block, the less of the sum is its doing.",
    ),
    Start(
        GPT,
        "auto",
        STREAM,
        "With residual scaling",
        "The matrices that write to the stream are divided by the square root of the number of "
        "branches. All 48 together now add about as much as one did: the stream stays O(1).",
    ),
)


def run_demo(out: Path, *, seed: int = 0, as_json: bool = False) -> Path:
    """Check every start of the story, print a table of each network, write the page, name it."""
    from initium._files import write_text
    from initium._report.story import Panel, render_story

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder cannot be made: {error.strerror or error}", where=str(out)
        ) from error
    panels = [
        Panel(start.title, start.explanation, _measure(start, seed), start.group) for start in STORY
    ]
    reports = [panel.report for panel in panels]
    page = write_text(out / PAGE, render_story(panels, title=TITLE, lead=LEAD))
    if as_json:
        told = [json.loads(report.to_json()) for report in reports]
        typer.echo(json.dumps({"page": str(page), "reports": told}, indent=2))
    else:
        typer.echo(_tables(reports))
        typer.echo(f"\nreport: {page}")
    return page


def _measure(start: Start, seed: int) -> Report:
    from initium._load import load

    with working(f"{start.model} with {start.recipe}"):
        loaded = load(start.model, seed=seed)
        plan = initium.initialize(loaded.model, start.recipe, inputs=loaded.inputs, seed=seed)
        return initium.check(loaded.model, loaded.inputs, loaded.targets, loaded.loss_fn, plan)


def _tables(reports: list[Report]) -> str:
    """A table for each of the networks; 80 columns wide."""
    from initium._tables import number, render, table

    groups: dict[str, list[tuple[str, ...]]] = {}
    for start, report in zip(STORY, reports, strict=True):
        layers = sorted(report.layers.values(), key=lambda layer: layer.order)
        groups.setdefault(f"{start.group} ({start.model})", []).append(
            (
                start.recipe,
                number(layers[0].second_moment, 2),
                number(layers[-1].second_moment, 2),
                number(max(layer.second_moment for layer in layers), 2),
                number(report.loss.value),
                "healthy" if report.ok else report.findings[0].title,
            )
        )
    columns = ("recipe", "E[x²] first", "last", "largest", "first loss", "verdict")
    parts = [
        part
        for title, rows in groups.items()
        for part in (title, "", table(columns, rows, right=columns[1:5], whole=columns), "")
    ]
    return render(*parts)
