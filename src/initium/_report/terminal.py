"""A report as text for a terminal: the verdict first, then why, then the numbers.

The text is plain unless ``color`` is asked for, so that ``str(report)`` can go into a log or a
file. It fits 80 columns; it uses what a wider terminal offers, up to 120.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from initium._report.charts import Scale, scale
from initium._report.depth import Gap, fold, through
from initium._report.records import Finding, LayerRecord, Report
from initium._report.sentences import labelled
from initium._report.words import (
    count,
    listed,
    loss,
    loss_sentence,
    number,
    plain,
    summary,
    verdict,
)

if TYPE_CHECKING:
    import initium._predict.records

__all__ = ["render_report", "terminal_width"]

_LIMIT = 32
_BAR, _NARROW = 10, 6
"""Columns of a bar, and of one beside what was predicted."""
_PREDICTED = "predicted: by the prediction that was passed"
_NUMBERS = 50
"""Columns that the numbers and bars of the layer table take."""
_TYPE = 13
_STYLE = {"error": "bold red", "warning": "yellow", "info": "blue"}
_EIGHTHS = " ▏▎▍▌▋▊▉"


def render_report(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """The report as text.

    Args:
        report: what a check returned.
        width: columns; by default those of the terminal, at most 120, and 80 where there is none.
        color: whether to write colour codes.
    """
    width = width or terminal_width()
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in _parts(report, width):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def terminal_width() -> int:
    """Columns of the terminal, at most 120; 80 where there is none."""
    return min(shutil.get_terminal_size((80, 24)).columns, 120) if sys.stdout.isatty() else 80


def _parts(report: Report, width: int) -> Iterable[RenderableType]:
    yield _headline(report)
    yield _facts(report)
    for finding in report.findings:
        yield ""
        yield _finding(finding)
    yield ""
    yield _labelled("loss", loss_sentence(report.loss))
    if report.prediction is not None:
        yield _labelled("predict", _predicted(report.prediction))
    for label, text in labelled(report):
        yield _labelled(label, text)
    for label, text in report.deep.lines() if report.deep is not None else ():
        yield _labelled(label, text)
    for note in report.notes:
        yield _labelled("note", note)
    if report.layers:
        yield ""
        yield _layers(report, width)


def _headline(report: Report) -> Text:
    text = Text()
    text.append(plain(report.model), "bold")
    text.append(": ")
    text.append(plain(verdict(report)), "bold green" if report.ok else "bold red")
    return text


def _facts(report: Report) -> Text:
    facts = [
        summary(report),
        f"plan {report.plan}" if report.plan else "",
        report.batch,
        f"{report.mode} mode",
        count(len(report.layers), "layer"),
        count(len(report.parameters), "parameter"),
        f"{report.seconds:.1f} s" if report.seconds else "",
    ]
    return Text(plain(" · ".join(fact for fact in facts if fact)), "dim")


def _finding(finding: Finding) -> RenderableType:
    head = Text()
    head.append(f"{finding.severity} {finding.code}", _STYLE[finding.severity])
    head.append(f"  {plain(finding.title)}", "bold")
    parts: list[RenderableType] = [head]
    if finding.where:
        parts.append(_labelled("where", listed([name or "(model)" for name in finding.where])))
    parts.append(_labelled("what", finding.message))
    if finding.fix:
        parts.append(_labelled("fix", finding.fix))
    return Group(*parts)


def _labelled(label: str, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=7, justify="right", style="dim")
    grid.add_column(overflow="fold", ratio=1)
    grid.add_row(label, Text(plain(text), overflow="fold"))
    return grid


def _layers(report: Report, width: int) -> RenderableType:
    path = through(report.layers)
    named = {name for finding in report.findings for name in finding.where}
    keep = named | {layer.name for layer in path.layers if layer.weight in named}
    rows, said = fold(path, _LIMIT, keep)
    forward = scale(layer.second_moment for layer in path.layers)
    backward = scale(layer.grad_second_moment for layer in path.layers)

    known = report.prediction.layers if report.prediction is not None else None
    bar = _BAR if known is None else _NARROW
    longest = max(len(plain(row.name)) for row in rows if isinstance(row, LayerRecord))
    typed = longest + _TYPE + 1 + _NUMBERS <= width

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("layer", no_wrap=True)
    if typed:
        table.add_column("type", no_wrap=True, overflow="ellipsis", max_width=_TYPE, style="dim")
    table.add_column(Text("E[x²]"), justify="right", no_wrap=True, min_width=7)
    if known is None:
        table.add_column("forward →", no_wrap=True, min_width=bar, style="cyan")
        table.add_column("signal", justify="right", no_wrap=True, min_width=7)
    else:
        table.add_column("predicted", justify="right", no_wrap=True)
        table.add_column("→", no_wrap=True, min_width=bar, style="cyan")
    table.add_column(Text("E[g²]"), justify="right", no_wrap=True, min_width=7)
    if known is not None:
        table.add_column("predicted", justify="right", no_wrap=True)
    table.add_column("← backward" if known is None else "←", no_wrap=True, min_width=bar,
                     style="magenta")  # fmt: skip
    for row in rows:
        if isinstance(row, Gap):
            table.add_row(Text(f"⋮ {row.layers:,} more", "dim"))
            continue
        name = Text(_middle(plain(row.name) or "(model)", max(width - _NUMBERS, 12)))
        kind = [Text(plain(row.module_type))] if typed else []
        if known is None:
            table.add_row(name, *kind, *_numbers(row, forward, backward))
        else:
            table.add_row(name, *kind, *_beside(row, known.get(row.name), forward, backward))
    caption = (
        f"bars: powers of ten, {_span(forward)} forward and {_span(backward)} backward; "
        f"{'signal: the variance between samples' if known is None else _PREDICTED}"
    )
    return Group(table, Text(f"{said}; {caption}" if said else caption, "dim"))


def _numbers(layer: LayerRecord, forward: Scale, backward: Scale) -> tuple[Text, ...]:
    return (
        Text(number(layer.second_moment)),
        Text(_bar(layer.second_moment, forward)),
        Text(number(layer.signal)),
        Text(number(layer.grad_second_moment)),
        Text(_bar(layer.grad_second_moment, backward)),
    )


def _beside(
    layer: LayerRecord,
    expected: initium._predict.records.LayerPrediction | None,
    forward: Scale,
    backward: Scale,
) -> tuple[Text, ...]:
    """What was measured, and beside it what was predicted."""
    return (
        Text(number(layer.second_moment)),
        Text(number(expected.second_moment if expected else None)),
        Text(_bar(layer.second_moment, forward, _NARROW)),
        Text(number(layer.grad_second_moment)),
        Text(number(expected.grad_second_moment if expected else None)),
        Text(_bar(layer.grad_second_moment, backward, _NARROW)),
    )


def _predicted(prediction: initium._predict.records.Prediction) -> str:
    """The first loss that was predicted, and what was not."""
    made = count(prediction.draws, "lazy draw") if prediction.draws else "closed forms"
    line, band = f"From {made}", prediction.loss_band
    if prediction.loss is not None:
        line += f": first loss {loss(prediction.loss)}"
    if band is not None:
        line += f", in 95% of starts {loss(band.low)} to {loss(band.high)}"
    return f"{line}. {prediction.problem and f'Not all: {prediction.problem}'}".strip()


def _middle(name: str, width: int) -> str:
    """The name with its middle left out where it is longer than ``width``."""
    if len(name) <= width:
        return name
    tail = width * 2 // 3
    return f"{name[: width - tail - 1]}…{name[-tail:]}"


def _bar(value: float | None, on: Scale, width: int = _BAR) -> str:
    if value is not None and not math.isfinite(value):
        return "!" * width
    eighths = round((on.at(value) or 0.0) * width * 8)
    if value and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _span(on: Scale) -> str:
    return f"1e{on.low} to 1e{on.high}"
