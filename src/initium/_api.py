"""The public functions: what users call, put together from the parts that do the work.

Covered: inspect, plan, initialize, check, explain. Not here: any work of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from initium._types import ModelView

if TYPE_CHECKING:
    from torch import nn

    from initium._plan import Plan, Recipe, Rule
    from initium._plan.rules import Action
    from initium._report.records import Report

__all__ = ["check", "explain", "initialize", "inspect", "plan"]


def inspect(model: nn.Module, inputs: object = None) -> ModelView:
    """What the model is: role, axes, fans and residual depth of every parameter, with evidence.

    Args:
        model: any module; it may live on the meta device.
        inputs: one batch. A mapping is passed as ``**``, a tuple as ``*``, anything else as the one
            argument. ``None``: the model's own dummy inputs where it has them, otherwise the
            structure alone, which is weaker evidence.

    Raises:
        InputError: the batch does not fit the model.

    Example:
        >>> import torch, initium
        >>> view = initium.inspect(torch.nn.Linear(3, 5), inputs=torch.ones(2, 3))
        >>> view.parameters["weight"].fan_in
        3
    """
    from initium._inspect import inspect as run

    return run(model, inputs)


def plan(
    model: nn.Module | ModelView,
    recipe: str | Recipe = "auto",
    *,
    inputs: object = None,
    seed: int = 0,
    rules: Iterable[Rule] | Mapping[str, Action] | None = None,
) -> Plan:
    """How every parameter and buffer of a model is to start, as data: nothing is written yet.

    Args:
        model: a module, or the view that :func:`inspect` gave of it.
        recipe: a recipe, or its text such as ``"auto"``, ``"he"`` or ``"normal(0.02)"``.
        inputs: one batch, as for :func:`inspect`; not used with a view.
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
    from initium._plan import plan_model

    view = model if isinstance(model, ModelView) else inspect(model, inputs)
    return plan_model(view, recipe, seed=seed, rules=rules)


def initialize(
    model: nn.Module,
    recipe: str | Recipe = "auto",
    *,
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


def check(
    model: nn.Module,
    inputs: object = None,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    plan: Plan | None = None,
) -> Report:
    """Whether the model is fit to train from the weights it has, where not, why, and what to do.

    Runs one forward and one backward pass; weights, buffers, gradients, mode, random state and
    hooks are afterwards as before.

    Args:
        model: the model, in the mode in which it is to be measured.
        inputs: one batch, as for :func:`inspect`.
        targets: what the loss compares with.
        loss_fn: ``loss_fn(output, targets)``. Without it: the model's own loss if it returns one,
            cross-entropy if the targets are class indices, otherwise a random cotangent; the
            report says which.
        plan: the plan that the weights should follow, to be compared with what is there.

    Raises:
        InputError: the batch, the targets or the loss do not fit the model.
        ModelError: the model cannot be run.

    Example:
        >>> import torch, initium
        >>> initium.check(torch.nn.Linear(8, 8), inputs=torch.randn(16, 8)).ok
        True
    """
    from initium._check import check as run

    return run(model, inputs=inputs, targets=targets, loss_fn=loss_fn, plan=plan)


def explain(name: str) -> str:
    """A scheme or recipe in plain words: formula, when to use it, source, known divergences.

    Raises:
        RecipeError: there is no scheme or recipe of that name.

    Example:
        >>> import initium
        >>> "He" in initium.explain("he")
        True
    """
    from initium._plan import explain as run

    return run(name)
