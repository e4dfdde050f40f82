"""``initium.plan`` and ``initium.initialize``: inspection, planning and filling put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from initium._inspect import inspect
from initium._plan import Plan, Recipe, Rule, parse_recipe, plan_model
from initium._plan.rules import Action, read_rules
from initium._types import ModelView

__all__ = ["initialize", "plan"]


def plan(
    model: nn.Module | ModelView,
    recipe: str | Recipe = "auto",
    inputs: object = None,
    seed: int = 0,
    rules: Iterable[Rule] | Mapping[str, Action] | None = None,
) -> Plan:
    """How every parameter and buffer of a model is to start, as data: nothing is written yet.

    Args:
        model: a module, or the view that :func:`initium.inspect` gave of it.
        recipe: a recipe, or its text such as ``"auto"``, ``"he"`` or ``"normal(0.02)"``.
        inputs: one batch, as for :func:`initium.inspect`; not used with a view.
        seed: chooses the random numbers; the same seed gives the same bits on every machine.
        rules: rules that stand before the recipe's own; the first match wins. Also a mapping from
            patterns, such as ``{"role:head": "zeros", "*.bias": "constant(0.1)"}``.

    Raises:
        RecipeError: an unknown recipe or a wrong argument of one.
        PlanError: a parameter that no rule matches.

    Example:
        >>> import torch, initium
        >>> made = initium.plan(torch.nn.Linear(4, 4), "zeros")
        >>> made.entries["weight"].std
        0.0
    """
    chosen, own = parse_recipe(recipe), read_rules(rules)
    view = model if isinstance(model, ModelView) else inspect(model, inputs)
    return plan_model(view, chosen, seed=seed, rules=own)


def initialize(
    model: nn.Module,
    recipe: str | Recipe = "auto",
    inputs: object = None,
    seed: int = 0,
    rules: Iterable[Rule] | Mapping[str, Action] | None = None,
) -> Plan:
    """Plan and apply in one step: fills ``model`` in place and returns the plan.

    Args, errors: as for :func:`plan`. Either everything is written or nothing.

    Example:
        >>> import torch, initium
        >>> model = torch.nn.Linear(4, 2)
        >>> plan = initium.initialize(model, "zeros")
        >>> model.weight.abs().sum().item()
        0.0
    """
    made = plan(model, recipe, inputs=inputs, seed=seed, rules=rules)
    made.apply(model)
    return made
