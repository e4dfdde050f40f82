"""Recipes of one's own, as YAML: an ordered list of rules, and what stands behind them.

.. code-block:: yaml

    recipe: mine
    summary: Small residual branches, everything else derived.
    rules:
      - {role: attn_out, spec: "normal(0.02 / sqrt(2 * layers))", reason: As in GPT-2.}
      - {name: "*.score.weight", spec: zeros, optional: true}
    base: auto
    needs:
      - {what: residual multiplier, value: 0.5, where: every branch, who: model code}

The keys of a rule are fields of :class:`initium.Rule`. The first that matches decides. One that
decides nothing is an error unless it is ``optional``. Without ``base`` a parameter that no rule
matches is an error. Reading runs no code. Not covered: predicates and functions, which need a
recipe in Python.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, parse_recipe
from initium._plan.rules import Rule, check_rule
from initium._plan.yaml import parse_yaml, place
from initium._types import ModelView
from initium.errors import InitiumError, RecipeError, near

__all__ = ["KEYS", "NEED_KEYS", "RULE_KEYS", "read_recipe"]

KEYS = ("recipe", "summary", "rules", "base", "needs")
RULE_KEYS: Mapping[str, tuple[type, ...]] = {
    "role": (str, list),
    "name": (str,),
    "regex": (str,),
    "module_type": (str,),
    "writes": (bool,),
    "tied": (bool,),
    "spec": (str,),
    "lr": (int, float, str),
    "reason": (str,),
    "optional": (bool,),
}
"""What each key of a rule may hold; the keys are fields of :class:`Rule`."""
KINDS = {str: "text", list: "a list", bool: "true or false", int: "a number"}
NEED_KEYS: Mapping[str, tuple[type, ...]] = {
    "what": (str,),
    "value": (str, int, float),
    "where": (str,),
    "who": (str,),
}
SAME = {"type": "module_type", "why": "reason", "action": "spec"}
"""Words that are near in meaning and not in letters, for the message."""


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a YAML file.

    Raises:
        RecipeError: the file is missing or damaged, or a rule cannot be read; the message has the
            line, the value found, and what is known.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"cannot be read: {told}",
            where=str(path),
            fix="give the name of a recipe, or the path of a recipe file",
        ) from error
    data = parse_yaml(text, path, RecipeError)
    if not isinstance(data, Mapping) or "rules" not in data:
        raise RecipeError(
            "is not a recipe",
            where=str(path),
            fix='write "rules:" and a list such as [{role: head, spec: zeros}]; '
            "a saved plan is given to initium check, predict or write as --plan",
        )
    _known(data, KEYS, path, "the recipe")
    items = data["rules"]
    if not isinstance(items, list) or not items:
        raise RecipeError(
            "must be a list of rules",
            where=place(path, data, "rules"),
            fix='write "- {role: head, spec: zeros}" below it',
        )
    rules = tuple(_rule(item, path, data) for item in items)
    base = _base(data, path) if "base" in data else Recipe("", ())
    needs = data.get("needs", [])
    if not isinstance(needs, list):
        raise RecipeError("must be a list", where=place(path, data, "needs"), value=needs)
    own = tuple(_need(item, path, data) for item in needs)

    def needed(model: ModelView) -> tuple[Need, ...]:
        return (*own, *base.needed(model))

    return Recipe(
        str(path),
        (*rules, *base.rules),
        needed if base.needs else own,
        suits=base.suits,
        own=len(rules),
    )


def _base(data: Mapping[Any, Any], path: Path) -> Recipe:
    """The recipe that stands behind the rules."""
    text = _text(data, "base", path)
    if Path(text).resolve() == path.resolve():
        raise RecipeError("is this file itself", where=place(path, data, "base"), value=text)
    try:
        return parse_recipe(text)
    except RecipeError as error:
        raise RecipeError(str(error), where=place(path, data, "base")) from error


def _rule(data: object, path: Path, whole: Mapping[Any, Any]) -> Rule:
    if not isinstance(data, Mapping):
        raise RecipeError("a rule must be a mapping", where=place(path, whole, "rules"), value=data)
    _known(data, RULE_KEYS, path, "the rule")
    if "spec" not in data:
        raise RecipeError(
            "a rule needs the key spec",
            where=place(path, data, None),
            fix='write spec: "normal(0.02)"',
        )
    given = {key: _value(data, key, kinds, path) for key, kinds in RULE_KEYS.items() if key in data}
    where = place(path, data, None)
    try:
        rule = Rule(**given)  # type: ignore[arg-type]
        check_rule(rule)
    except InitiumError as error:
        if str(error).startswith(str(path)):
            raise
        raise RecipeError(str(error), where=where) from error
    return replace(rule, place=where)


def _value(data: Mapping[Any, Any], key: str, kinds: tuple[type, ...], path: Path) -> object:
    """What a key holds, without the types that the YAML reader adds."""
    value = data[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        told = " or ".join(KINDS[kind] for kind in kinds if kind in KINDS)
        quotes = "put it in quotes" if kinds == (str,) else None
        raise RecipeError(
            f"{key} must be {told}", where=place(path, data, key), value=value, fix=quotes
        )
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    if isinstance(value, (bool, int, float)):
        return value if isinstance(value, bool) else float(value)
    return str(value)


def _need(data: object, path: Path, whole: Mapping[Any, Any]) -> Need:
    if not isinstance(data, Mapping):
        raise RecipeError("a need must be a mapping", where=place(path, whole, "needs"), value=data)
    _known(data, (*NEED_KEYS, "source"), path, "the need")
    for key, kinds in NEED_KEYS.items():
        if not isinstance(data.get(key), kinds):
            raise RecipeError(
                f"a need has the keys {', '.join(NEED_KEYS)}",
                where=place(path, data, key),
                value=data.get(key),
            )
    value = data["value"]
    return Need(
        str(data["what"]),
        str(value) if isinstance(value, str) else float(value),
        str(data["where"]),
        str(data["who"]),
        str(data.get("source", "")),
    )


def _text(data: Mapping[Any, Any], key: str, path: Path) -> str:
    if not isinstance(data[key], str):
        raise RecipeError(
            "must be text", where=place(path, data, key), value=data[key], fix="put it in quotes"
        )
    return str(data[key])


def _known(data: Mapping[Any, Any], known: Collection[str], path: Path, of: str) -> None:
    for key in data:
        if key not in known:
            if str(key).count(")") > str(key).count("("):
                raise RecipeError(
                    "a comma in plain text ends it here",
                    where=place(path, data, key),
                    value=key,
                    fix='put the whole of it in quotes, as in spec: "uniform(-0.1, 0.1)"',
                )
            alike = SAME.get(str(key), str(key))
            raise RecipeError(
                f"{of} has an unknown key",
                where=place(path, data, key),
                value=key,
                choices=near(alike, known, 1) or known,
            )
