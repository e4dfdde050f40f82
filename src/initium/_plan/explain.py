"""A scheme or recipe in plain words, from its docstring."""

from __future__ import annotations

import inspect
import re
import textwrap

from rich.console import RenderableType

from initium._plan.recipe import ALIASES, Recipe, parse_recipe
from initium._plan.reference import plain_text, reference
from initium._scheme.schemes import SCHEMES
from initium._tables import legend, render, table, width_of
from initium.errors import RecipeError, near

__all__ = ["explain"]


def explain(text: str) -> str:
    """Formula, when to use it, source, known divergences and rules of a recipe or scheme.

    Args:
        text: the name of a recipe or scheme, with or without arguments, or a recipe file; ``rules``
            for all that a rule may say.

    Raises:
        RecipeError: neither a recipe nor a scheme; the message names those most like it.

    Example:
        >>> "arXiv:1502.01852" in explain("he")
        True
    """
    from initium.recipes import RECIPES

    if text.strip() == "rules":
        lines = reference().rstrip("\n").split("\n")
        return "\n".join(line if line.startswith("    ") else _filled(line) for line in lines)
    if text.endswith((".yaml", ".yml")):
        return _rules(parse_recipe(text))
    name, bracket, arguments = text.partition("(")
    name = name.strip().lower()
    name = ALIASES.get(name, name)
    known = [*RECIPES, *(scheme for scheme in SCHEMES if scheme not in RECIPES)]
    if name not in known:
        raise RecipeError(
            "is neither a recipe nor a scheme",
            where="explain",
            value=text,
            choices=near(name, [*known, *ALIASES, "rules"]) or tuple(known),
        )
    parts = []
    if name in RECIPES:
        recipe = parse_recipe(name + bracket + arguments)
        given = f"Here: {recipe}\n\n" if arguments.strip(" )") else ""
        parts += [f"recipe {_told(name, RECIPES[name])}", given + _rules(recipe)]
    if name in SCHEMES:
        parts.append(f"scheme {_told(name, SCHEMES[name])}")
    return "\n\n".join(parts)


def _told(name: str, function: object) -> str:
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    arguments = ", ".join(
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in inspect.signature(function).parameters.values()
    )
    call = textwrap.fill(f"{name}({arguments})", width_of() - 7, subsequent_indent="    ")
    return f"{call}\n\n{_refilled(plain_text(inspect.getdoc(function) or ''))}"


ITEM = re.compile(r"\s*- |\s+\w+(, \w+)*: ")
AS_IT_IS = re.compile(r"\s*$|\s*[A-Z]\w*:$")
"""Blank lines, and headings such as ``Args:``."""


def _refilled(text: str) -> str:
    """Paragraphs and items filled to the width of the terminal; the example as it is."""
    prose, heading, example = text.partition("\nExample:\n")
    example, gap, rest = example.partition("\n\n")
    lines: list[str] = []
    for line in (*prose.split("\n"), *(["", *rest.split("\n")] if gap else [])):
        before = lines[-1] if lines else ""
        deeper = _indent(line) - _indent(before)
        goes_on = deeper > 0 if ITEM.match(before) else deeper == 0
        if goes_on and not (ITEM.match(line) or AS_IT_IS.match(line) or AS_IT_IS.match(before)):
            lines[-1] = f"{before} {line.strip()}"
        else:
            lines.append(line)
    told = "\n".join(_filled(line) for line in lines)
    return f"{told}{heading}{example}" if heading else told


def _filled(line: str) -> str:
    if AS_IT_IS.match(line):
        return line
    hanging = " " * (_indent(line) + (2 if ITEM.match(line) else 0))
    wrapped = textwrap.wrap(
        line, width_of(), subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapped)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _rules(recipe: Recipe) -> str:
    """The rules in order, and what the recipe needs besides."""
    rows = [(rule.condition.replace("|", " "), rule.start, rule.reason) for rule in recipe.rules]
    parts: list[RenderableType] = [
        f"Rules of {recipe}, in order; the first that matches decides:",
        "",
        table(("parameters", "start", "why"), rows),
    ]
    if callable(recipe.needs):
        parts += ["", "Outside the weights it needs settings that a plan for a model names."]
    elif recipe.needs:
        parts += ["", "Outside the weights it needs:"]
        parts.append(legend((("-", str(need)) for need in recipe.needs), justify="left"))
    return render(*parts)
