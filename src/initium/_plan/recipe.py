"""A recipe: a name and an ordered set of rules; and its text form.

``he(mode="fan_out")`` as text is the same as ``initium.recipes.he(mode="fan_out")``: the text is
read without ``eval``, and a bare name as an argument (``he(fan_out)``) counts as its string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from initium._plan.needs import Need
from initium._plan.rules import Rule
from initium._text import Call, format_number, parse_call
from initium._types import ModelView
from initium.errors import RecipeError, SpecError, near

__all__ = ["ALIASES", "Needs", "Recipe", "Suits", "meant", "parse_recipe", "recipe_text"]


ALIASES = {
    "kaiming": "he",
    "glorot": "xavier",
    "kaiming_normal": "he",
    "kaiming_uniform": "he",
    "xavier_uniform": "xavier",
    "xavier_normal": "xavier",
    "glorot_uniform": "xavier",
    "glorot_normal": "xavier",
    "he_normal": "he",
    "he_uniform": "he",
}
"""Other names by which recipes are known, for explanations and suggestions."""
Needs: TypeAlias = tuple[Need, ...] | Callable[[ModelView], tuple[Need, ...]]
Suits: TypeAlias = Callable[[ModelView], str | None]


@dataclass(frozen=True)
class Recipe:
    """Ordered rules under a name; for each parameter the first rule that matches decides.

    Attributes:
        text: the text that gives this recipe back, such as ``"he"`` or ``"normal(0.02)"``.
        rules: the rules, most specific first.
        needs: what it needs outside the weights, or a function of the model that says so.
        suits: a function of the model that says in a sentence that it is not of the kind that the
            recipe was published for, or ``None``; the plan carries it as a note.
        own: how many of the first rules are a user's own: each must decide something.
    """

    text: str
    rules: tuple[Rule, ...]
    needs: Needs = ()
    suits: Suits | None = None
    own: int = 0

    def needed(self, model: ModelView) -> tuple[Need, ...]:
        """What this model needs outside its weights under this recipe."""
        return self.needs(model) if callable(self.needs) else self.needs

    def noted(self, model: ModelView) -> tuple[str, ...]:
        """What a reader of this model's plan has to know, as sentences."""
        told = self.suits(model) if self.suits is not None else None
        return (told,) if told else ()

    @property
    def name(self) -> str:
        """The text without its arguments."""
        return self.text.split("(", 1)[0]

    def __str__(self) -> str:
        return self.text


def parse_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe that a text names; a recipe is returned as it is.

    Raises:
        RecipeError: an unknown name, with those most like it, or arguments that do not fit.

    Example:
        >>> parse_recipe("normal(0.02)").text
        'normal(0.02)'
    """
    if isinstance(recipe, Recipe):
        return recipe
    from initium.recipes import RECIPES

    if not isinstance(recipe, str):
        raise RecipeError(
            "is not a recipe or its text",
            where="recipe",
            value=str(recipe),
            fix='name one, such as "auto", which is the default',
        )
    if recipe.endswith((".yaml", ".yml")):
        from initium._plan.recipe_file import read_recipe

        return read_recipe(recipe)
    try:
        call = parse_call(recipe)
    except ValueError as error:
        raise RecipeError(
            "is not the text of a recipe",
            where="recipe",
            value=recipe,
            fix='write name or name(value, key=value), such as "he" or "normal(0.02)"',
        ) from error
    if call.name not in RECIPES:
        raise RecipeError(
            "is not a known recipe",
            where="recipe",
            value=recipe,
            choices=meant(call.name, RECIPES),
            fix="see initium recipes for all of them",
        )
    args = [_plain(value) for value in call.args]
    kwargs = {key: _plain(value) for key, value in call.kwargs.items()}
    try:
        return RECIPES[call.name](*args, **kwargs)
    except (TypeError, SpecError) as error:
        raise RecipeError(
            f"the recipe does not take these arguments: {error}", where="recipe", value=recipe
        ) from error


def meant(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The recipe that is also known under a name, else the known names most like it."""
    also = ALIASES.get(name.lower())
    return near(also, (also,)) if also else near(name, known)


def recipe_text(name: str, **given: tuple[object, object]) -> str:
    """The text of a recipe from its arguments as ``key=(value, default)``; defaults are left out.

    Example:
        >>> recipe_text("he", mode=("fan_out", "fan_in"), gain=(1.0, 1.0))
        "he(mode='fan_out')"
    """
    told = [
        f"{key}={_literal(value)}" for key, (value, default) in given.items() if value != default
    ]
    return f"{name}({', '.join(told)})" if told else name


def _literal(value: object) -> str:
    return format_number(value) if type(value) is float else repr(value)


def _plain(value: object) -> object:
    """A name or a call as an argument counts as text: ``relu``, ``leaky_relu(0.2)``."""
    if not isinstance(value, Call):
        return value
    told = [_literal(_plain(item)) for item in value.args]
    told += [f"{key}={_literal(_plain(item))}" for key, item in value.kwargs.items()]
    return f"{value.name}({', '.join(told)})" if told else value.name
