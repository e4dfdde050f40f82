"""The recipes: which scheme each role of parameter gets, under one name.

``initium.plan(model, "he")`` is ``initium.plan(model, initium.recipes.he())``. A recipe covers
every role, so that a plan never lacks a parameter; where a published scheme says nothing of one,
the reason in the plan says so. Each recipe works on the *logical* matrices of a parameter: the
blocks of a fused weight, the experts of a stack, the groups of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from initium._plan.recipe import Recipe
from initium.recipes.derived import auto
from initium.recipes.general import he, lecun, normal, orthogonal, torch, xavier, zeros
from initium.recipes.gpt import gpt2

__all__ = [
    "RECIPES",
    "auto",
    "gpt2",
    "he",
    "lecun",
    "normal",
    "orthogonal",
    "torch",
    "xavier",
    "zeros",
]

RECIPES: Mapping[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(auto, torch, xavier, he, lecun, orthogonal, zeros, normal),
        *(gpt2,),
    )
}
"""The recipes by name, for their text form."""
