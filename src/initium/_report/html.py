"""A report as one HTML file that opens without a network.

Everything is in the file: style, script, curves. The curves are SVG paths that this package draws
itself (:mod:`charts`), not Plotly's: 4.5 MB of script would be forty times the rest of the report,
would keep it out of mails and notebooks, and would leave nothing to see where scripts are off. What
that gives up is zooming; pointing at the chart or stepping through it with the arrow keys reads out
every layer, and the tables hold every number.

Names come from the model and are not trusted: Jinja2 escapes all of them, data for the script is
JSON, and a content security policy lets only this package's own script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from initium._report import words
from initium._report.charts import HEIGHT, WIDTH, Scale, area, curve, dots, marks, scale, sideways
from initium._report.depth import Path, through
from initium._report.records import (
    SEVERITIES,
    Finding,
    LayerRecord,
    ParameterRecord,
    Report,
)

if TYPE_CHECKING:
    import initium._predict.records

__all__ = ["Page", "page", "render_html", "render_notebook", "render_template"]

_PINS = 400
_TEMPLATES = FilePath(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Series:
    """One measure in one chart: its name, its style, its curve, its other points, a band."""

    label: str
    style: str
    curve: str
    dots: str
    broken: tuple[float, ...]
    band: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: what it shows, which way to read it, its scale and its series."""

    title: str
    reading: str
    scale: Scale
    series: tuple[Series, ...]
    zero: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A name, and where on the page it leads (``None``: nowhere)."""

    name: str
    target: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A report with what its templates need: links, charts, scales."""

    report: Report
    prefix: str
    layers: tuple[LayerRecord, ...]
    parameters: tuple[ParameterRecord, ...]
    charts: tuple[Chart, ...]
    points: tuple[dict[str, object], ...]
    spine: str
    forward: Scale
    backward: Scale
    links: dict[str, str]
    flags: dict[str, tuple[tuple[int, Finding], ...]]
    pins: tuple[tuple[float, str], ...]

    def flagged(self, *names: str | None) -> tuple[tuple[int, Finding], ...]:
        """The findings that name one of ``names``, with their places in the report."""
        found = {item[0]: item for name in names if name for item in self.flags.get(name, ())}
        return tuple(found[number] for number in sorted(found))

    def where(self, finding: Finding) -> tuple[Link, ...]:
        """The places of a finding, as links to their rows."""
        return tuple(Link(name, self.links.get(name)) for name in finding.where)


def page(
    report: Report,
    prefix: str = "",
    forward: Scale | None = None,
    backward: Scale | None = None,
) -> Page:
    """Prepare a report for a template; ``prefix`` keeps several reports on one page apart."""
    layers = tuple(sorted(report.layers.values(), key=lambda layer: layer.order))
    parameters = tuple(report.parameters.values())
    links = {layer.name: f"{prefix}layer-{index}" for index, layer in enumerate(layers)}
    links |= {item.name: f"{prefix}parameter-{i}" for i, item in enumerate(parameters)}
    flags: dict[str, tuple[tuple[int, Finding], ...]] = {}
    for number, finding in enumerate(report.findings):
        for name in finding.where:
            flags[name] = (*flags.get(name, ()), (number, finding))
    path = through(report.layers)
    forward = forward or forward_scale([report])
    backward = backward or backward_scale([report])
    return Page(
        report=report,
        prefix=prefix,
        layers=layers,
        parameters=parameters,
        charts=_charts(path, forward, backward, report.prediction),
        points=_points(path, links),
        spine="the outputs of the repeated blocks" if path.blocks else "layers with a matrix",
        forward=forward,
        backward=backward,
        links=links,
        flags=flags,
        pins=_pins(path, flags),
    )


def forward_scale(reports: Sequence[Report]) -> Scale:
    """One scale for the signals of several reports."""
    return scale(
        value
        for report in reports
        for layer in report.layers.values()
        for value in (layer.second_moment, layer.signal, 1.0)
    )


def backward_scale(reports: Sequence[Report]) -> Scale:
    """One scale for the gradients of several reports."""
    return scale(layer.grad_second_moment for report in reports for layer in report.layers.values())


def _charts(
    path: Path,
    forward: Scale,
    backward: Scale,
    prediction: initium._predict.records.Prediction | None,
) -> tuple[Chart, ...]:
    layers = path.layers
    known = prediction.layers if prediction is not None else {}
    expected = [known.get(layer.name) for layer in layers]
    bands = [None if one is None else one.band for one in expected]
    grad_bands = [None if one is None else one.grad_band for one in expected]
    said = ", predicted band" if any(bands) else ""
    moments = [layer.second_moment for layer in layers]
    signals = [layer.signal for layer in layers]
    gradients = [layer.grad_second_moment for layer in layers]
    signal = _series("signal between samples", "signal", signals, forward, path)
    moment = _series(f"second moment E[x²]{said}", "moment", moments, forward, path, bands)
    label = f"second moment of the gradient E[g²]{said}"
    gradient = _series(label, "gradient", gradients, backward, path, grad_bands)
    return (
        Chart(
            title="Signal",
            reading="read from left to right: input → output",
            scale=forward,
            series=(moment, signal) if any(s is not None for s in signals) else (moment,),
            zero=0.0 in moments,
        ),
        Chart(
            title="Gradient",
            reading="read from right to left: input ← loss",
            scale=backward,
            series=(gradient,),
            zero=0.0 in gradients,
        ),
    )


def _series(
    label: str,
    style: str,
    values: Sequence[float | None],
    on: Scale,
    path: Path,
    bands: Sequence[initium._predict.records.Band | None] = (),
) -> Series:
    spine = set(path.spine)
    beside = [index for index in range(len(values)) if index not in spine]
    if len(spine) <= 60:
        beside = list(range(len(values)))
    return Series(
        label=label,
        style=style,
        curve=curve(values, on, path.spine),
        dots=dots(values, on, beside if style != "signal" else ()),
        broken=tuple(sideways(i, len(values)) for i in marks(values, range(len(values)))),
        band=area(
            [None if band is None else band.low for band in bands],
            [None if band is None else band.high for band in bands],
            on,
            path.spine if bands else (),
        ),
    )


def _points(path: Path, links: dict[str, str]) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "name": layer.name or "(model)",
            "type": layer.module_type,
            "row": links[layer.name],
            "moment": words.number(layer.second_moment),
            "signal": words.number(layer.signal),
            "gradient": words.number(layer.grad_second_moment),
        }
        for layer in path.layers
    )


def _pins(
    path: Path, flags: dict[str, tuple[tuple[int, Finding], ...]]
) -> tuple[tuple[float, str], ...]:
    """Where along the charts the findings point (a few places each), the gravest on top."""
    pins = [
        (sideways(index, len(path.layers)), finding.severity)
        for index, layer in enumerate(path.layers)
        for name in dict.fromkeys((layer.name, layer.weight))
        for _, finding in flags.get(name or "", ())
        if name in finding.where[:_PINS]
    ]
    return tuple(sorted(pins, key=lambda pin: SEVERITIES.index(pin[1]), reverse=True))


def render_html(report: Report) -> str:
    """The report as one self-contained HTML page."""
    return render_template("report.html.j2", page=page(report))


def render_notebook(report: Report) -> str:
    """The report as a frame for a notebook, so that its style stays its own."""
    return (
        f'<iframe title="initium report" srcdoc="{html.escape(render_html(report))}" '
        'style="width:100%;height:720px;border:0;border-radius:8px"></iframe>'
    )


def render_template(name: str, **context: object) -> str:
    """Fill one of the templates, with style and script embedded and only that script allowed."""
    script = _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(_read("report.css")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            width=WIDTH,
            height=HEIGHT,
            sideways=sideways,
            words=words,
            **context,
        )
    )


@cache
def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8").strip()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": words.number, "shape": words.shape, "percent": _percent}
    return environment


def _percent(fraction: float | None) -> str:
    """A fraction as a percentage for a style, or as text in a table.

    Example:
        >>> _percent(0.5), _percent(0.0123), _percent(None)
        ('50%', '1.23%', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.3g}%"
