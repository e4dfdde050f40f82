"""Draw the picture of the README: the signal through depth under four starts of one network.

    python docs/make_picture.py [docs/picture.svg]

The numbers come from real checks of ``demo:mlp-relu-50``; the drawing needs no library. Its
colours are of middle lightness and its ground is transparent: legible on light and dark pages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from initium._files import write_text
from initium._report.charts import HEIGHT, WIDTH, Scale, curve, scale, sideways
from initium._report.depth import through
from initium._report.records import Report
from initium._report.words import verdict

MODEL = "demo:mlp-relu-50"
STARTS = {"zeros": "zeros", "normal(0.1)": "normal(0.1)", "Xavier": "xavier", "He": "he"}
COLOURS = ("#7f858f", "#d9534f", "#c98a1b", "#1f9d6b")

LEFT, TOP, ACROSS, DOWN = 64, 66, 640, 270
SIZE = (LEFT + ACROSS + 176, TOP + DOWN + 54)
LINE = 17


@dataclass(frozen=True)
class Line:
    """One start: its name, the second moments of its matrices' outputs, and the verdict."""

    name: str
    values: tuple[float, ...]
    ok: bool


def line(name: str, report: Report) -> Line:
    """The curve of one report."""
    path = through(report.layers)
    values = tuple(path.layers[index].second_moment for index in path.spine)
    return Line(name, values, verdict(report).startswith("fit"))


def picture(reports: Mapping[str, Report]) -> str:
    """The picture as SVG text."""
    lines = [line(name, report) for name, report in reports.items()]
    on = scale([1.0, *(value for item in lines for value in item.values)])
    parts = [_axes(on, len(lines[0].values))]
    heights = [on.at(item.values[-1]) or 0.0 for item in lines]
    for item, colour, label in zip(lines, COLOURS, _apart(heights), strict=True):
        parts.append(_curve(item, colour, on, label))
    names = ", ".join(reports)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" '
        f'aria-label="{escape(f"Signal through depth under {names}")}" fill="#7a818c" '
        'font-family="system-ui,-apple-system,Segoe UI,Roboto,Helvetica,sans-serif" '
        f'font-size="13">\n{"".join(parts)}</svg>\n'
    )


def _axes(on: Scale, depth: int) -> str:
    parts = [
        _text(
            LEFT, 24, "The same deep ReLU network, four starts", 'font-size="17" font-weight="600"'
        ),
        _text(LEFT, 46, "second moment of the signal at each layer, logarithmic"),
        _text(LEFT, TOP + DOWN + 34, "input"),
        _text(LEFT + ACROSS, TOP + DOWN + 34, f"layer {depth}", 'text-anchor="end"'),
    ]
    for tick in on.ticks():
        y = TOP + (1 - tick.at) * DOWN
        parts.append(
            f'<path d="M{LEFT} {y:.1f}h{ACROSS}" stroke="#7a818c" stroke-opacity=".28"/>\n'
        )
        if tick.at > 0.06:
            parts.append(_text(LEFT - 12, y + 4, tick.label, 'text-anchor="end"'))
    parts.append(_text(LEFT - 12, TOP + DOWN + 4, "0", 'text-anchor="end"'))
    return "".join(parts)


def _curve(item: Line, colour: str, on: Scale, label: float) -> str:
    path = curve(item.values, on, range(len(item.values)))
    end = LEFT + sideways(len(item.values) - 1, len(item.values)) * ACROSS
    judged = "fit to train" if item.ok else "not fit to train"
    return (
        f'<g transform="translate({LEFT} {TOP}) scale({ACROSS / WIDTH} {DOWN / HEIGHT})">'
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="3" stroke-linejoin="round" '
        'stroke-linecap="round" vector-effect="non-scaling-stroke"/></g>\n'
        f'<g fill="{colour}">{_text(end + 16, label, item.name, _BOLD)}'
        f"{_text(end + 16, label + LINE, judged)}</g>\n"
    )


_BOLD = 'font-size="15" font-weight="600"'


def _apart(heights: list[float]) -> list[float]:
    """Where to write the labels so that each stands by its curve and none on another."""
    wanted = [TOP + (1 - height) * DOWN for height in heights]
    placed = [0.0] * len(wanted)
    lowest = float(TOP + DOWN + LINE)
    for index in sorted(range(len(wanted)), key=lambda index: -wanted[index]):
        placed[index] = min(wanted[index] + 2, lowest - LINE)
        lowest = placed[index] - LINE - 4
    return placed


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>\n'


def reports() -> dict[str, Report]:
    """A real check of the model under each start."""
    import initium
    from initium._load import load

    found = {}
    for name, recipe in STARTS.items():
        loaded = load(MODEL, seed=0)
        plan = initium.initialize(loaded.model, recipe, inputs=loaded.inputs, seed=0)
        found[name] = initium.check(
            loaded.model, loaded.inputs, targets=loaded.targets, loss_fn=loaded.loss_fn, plan=plan
        )
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "picture.svg"
    print(write_text(target, picture(reports())))
