"""A scheme or recipe in plain words, from its docstring."""

from __future__ import annotations

import inspect

from initium._scheme.schemes import SCHEMES
from initium.errors import RecipeError, near

__all__ = ["explain"]

ALIASES = {
    "kaiming": "he",
    "glorot": "xavier",
    "kaiming_normal": "he",
    "xavier_uniform": "xavier",
    "xavier_normal": "xavier",
    "glorot_uniform": "xavier",
    "glorot_normal": "xavier",
    "he_normal": "he",
    "he_uniform": "he",
}


def explain(text: str) -> str:
    """Formula, when to use it, source and known divergences of a recipe or scheme.

    Args:
        text: the name of a recipe or scheme, with or without arguments.

    Raises:
        RecipeError: neither a recipe nor a scheme; the message names those most like it.

    Example:
        >>> "arXiv:1502.01852" in explain("he")
        True
    """
    from initium.recipes import RECIPES

    name = text.split("(", 1)[0].strip().lower()
    name = ALIASES.get(name, name)
    known = [*RECIPES, *(scheme for scheme in SCHEMES if scheme not in RECIPES)]
    if name not in known:
        raise RecipeError(
            "is neither a recipe nor a scheme",
            where="explain",
            value=text,
            choices=near(name, [*known, *ALIASES]) or tuple(known),
        )
    parts = []
    if name in RECIPES:
        parts.append(f"recipe {_told(name, RECIPES[name])}")
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
    return f"{name}({arguments})\n\n{inspect.getdoc(function)}"
