"""Writes catalogue.md: every recipe with its formula, source and traps, from the code's own words.

Run `python docs/make_catalogue.py` after a recipe has changed; a test holds the page to the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from initium.recipes import RECIPES

PAGE = Path(__file__).parent / "catalogue.md"
HEAD = """\
# The catalogue

Every recipe by name, in the words of the code (`initium explain NAME` adds its rules). A recipe is
used by its name, with arguments where it has some: `initium plan MODEL --recipe "olmo(mitchell)"`,
`initium.plan(model, "he(mode=fan_out)")`. L is the number of blocks of the residual trunk that a
weight stands on, l the block from 0, d the width. What a recipe needs outside the weights (a
residual multiplier, learning rates) is listed by the plan, which cannot apply it.
"""


def page() -> str:
    """The whole page as Markdown."""
    groups = [
        (_heading(module), list(members))
        for module, members in groupby(RECIPES.values(), key=lambda recipe: recipe.__module__)
    ]
    lines = [HEAD, "| recipe | what it is |", "|---|---|"]
    for _, members in groups:
        lines += [f"| [`{one.__name__}`](#{one.__name__}) | {_summary(one)} |" for one in members]
    for heading, members in groups:
        lines += ["", f"## {heading}"]
        for one in members:
            lines += ["", *_section(one)]
    return "\n".join(lines) + "\n"


def _heading(module: str) -> str:
    found = inspect.getmodule(
        RECIPES[next(n for n, r in RECIPES.items() if r.__module__ == module)]
    )
    return (inspect.getdoc(found) or "").partition("\n")[0].rstrip(".")


def _summary(recipe: Callable[..., object]) -> str:
    return (inspect.getdoc(recipe) or "").partition("\n")[0].replace("|", "\\|")


def _section(recipe: Callable[..., object]) -> list[str]:
    """One recipe: its call, and its docstring without the example."""
    arguments = ", ".join(
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in inspect.signature(recipe).parameters.values()
    )
    body = re.split(r"\n+Example:\n", inspect.getdoc(recipe) or "")[0]
    lines = [f"### {recipe.__name__}", "", f"`{recipe.__name__}({arguments})`", ""]
    for line in body.split("\n"):
        item = re.fullmatch(r"    (\w+): (.*)", line)
        line = f"- `{item[1]}`: {item[2]}" if item else re.sub(r"^ {8}", "  ", line)
        lines.append(f"{line}\n" if line == "Args:" else line)
    return lines


if __name__ == "__main__":
    PAGE.write_text(page())
