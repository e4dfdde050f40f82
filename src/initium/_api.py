"""``initium.plan``, ``initium.initialize`` and ``initium.explain``: the parts put together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from initium._inspect import inspect
from initium._plan import Plan, Recipe, Rule, parse_recipe, plan_model
from initium._plan.explain import explain as explain_start
from initium._plan.rules import Action, read_rules
from initium._report.codes import explain_code, is_code
from initium._tables import width_of
from initium._types import ModelView
from initium.errors import TraceWarning

__all__ = ["explain", "initialize", "plan"]


def explain(text: str) -> str:
    """Formula, when to use it, source, known divergences and rules of a recipe or scheme; or what
    a finding means.

    Args:
        text: the name of a recipe or scheme, with or without arguments, or a recipe file; ``rules``
            for all that a rule may say; the code of a finding, such as ``IN201``.

    Raises:
        RecipeError: neither a recipe nor a scheme; the message names those most like it.
        InputError: no such code.

    Example:
        >>> "arXiv:1502.01852" in explain("he")
        True
        >>> "torch's default" in explain("IN201")
        True
    """
    return explain_code(text, width_of()) if is_code(text) else explain_start(text)


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

    Warns:
        TraceWarning: ``inputs`` were given, and the model's own forward pass was not seen on them;
            the plan's notes say so too.

    Example:
        >>> import torch, initium
        >>> made = initium.plan(torch.nn.Linear(4, 4), "zeros")
        >>> made.entries["weight"].std
        0.0
    """
    return _planned(model, recipe, inputs, seed, rules)


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
    made = _planned(model, recipe, inputs, seed, rules)
    made.apply(model)
    return made


def _planned(
    model: nn.Module | ModelView,
    recipe: str | Recipe,
    inputs: object,
    seed: int,
    rules: Iterable[Rule] | Mapping[str, Action] | None,
) -> Plan:
    chosen, own = parse_recipe(recipe), read_rules(rules)
    if isinstance(model, ModelView):
        return plan_model(model, chosen, seed=seed, rules=own)
    view = inspect(model, inputs)
    made = plan_model(view, chosen, seed=seed, rules=own)
    if inputs is None or view.problem is None:
        return made
    source = "those of its parts that ran" if view.traced else "module types and names"
    note = (
        f"the model's own forward pass was not seen on these inputs: {view.problem}; the roles "
        f"come from {source}. Fix: pass inputs as the model takes them, such as a tuple or a dict"
    )
    warnings.warn(note, TraceWarning, stacklevel=3)
    return replace(made, notes=(f"{note}.", *made.notes))
