"""From a model view and a recipe to a plan: cover or fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from initium._plan.layout import pieces, with_padding_row
from initium._plan.plan import Entry, Plan
from initium._plan.recipe import Recipe, parse_recipe
from initium._plan.rules import Action, Choice, Rule, decide, read_rules
from initium._types import BufferView, ModelView, ParameterView
from initium.errors import PlanError, RecipeError, SpecError, near
from initium.spec import Constant, Keep, Normal, parse

__all__ = ["plan_model"]


def plan_model(
    view: ModelView,
    recipe: str | Recipe = "auto",
    seed: int = 0,
    rules: Iterable[Rule] | Mapping[str, Action] | None = None,
) -> Plan:
    """Give every parameter and buffer of a model exactly one spec.

    Args:
        view: what the model is.
        recipe: a recipe or its text.
        seed: chooses the random numbers.
        rules: rules that stand before the recipe's own, or a mapping of patterns to actions.

    Raises:
        RecipeError: an unknown recipe, or a rule that matches nothing in this model.
        PlanError: a parameter that no rule matches, a spec that does not fit its shape, or a buffer
            on the meta device that nobody can rebuild.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise PlanError(
            "is not an integer in [0, 2^64)", where="seed", value=seed, fix="pass one such as 0"
        )
    chosen = parse_recipe(recipe)
    own = read_rules(rules)
    order = (*own, *chosen.rules)
    must = [rule for rule in order[: len(own) + chosen.own] if not rule.optional]
    for rule in must:
        if not any(_matches(rule, parameter) for parameter in view.owners):
            raise _matches_nothing(rule, view)
    entries: dict[str, Entry] = {}
    deciders: dict[str, tuple[Rule, ...]] = {}
    for parameter in view.owners:
        entries[parameter.name], deciders[parameter.name] = _parameter(parameter, view, order)
    deciding = {id(rule) for used in deciders.values() for rule in used}
    for rule in must:
        if id(rule) not in deciding:
            raise _decides_nothing(rule, view, deciders)
    for parameter in view.owners:
        direction = entries.get(parameter.magnitude_of or "")
        if direction is not None and not any(rule in own for rule in deciders[parameter.name]):
            if direction.std == 0:
                entries[parameter.magnitude_of or ""] = _drawn(direction)
            entries[parameter.name] = _magnitude(entries[parameter.name], direction)
    for buffer in view.buffers.values():
        if buffer.tied_to is None:
            entries[buffer.name] = _buffer(buffer, view)
    return Plan(entries, recipe=chosen.text, seed=seed, model=view.model, needs=chosen.needed(view))


def _matches(rule: Rule, parameter: ParameterView) -> bool:
    return rule.matches(parameter) or any(rule.matches(piece.view) for piece in pieces(parameter))


def _parameter(
    parameter: ParameterView, view: ModelView, rules: tuple[Rule, ...]
) -> tuple[Entry, tuple[Rule, ...]]:
    used: tuple[Rule, ...] = ()
    choice: Choice | None = Choice(Constant(0.0), "It holds no elements.")
    if parameter.numel:
        choice, used = decide(rules, parameter, view)
    if choice is None:
        raise PlanError(
            f"no rule of the recipe matches this parameter of role {parameter.role}",
            where=parameter.name,
            fix='add a rule for it, such as Rule("normal(0.02)", name="'
            f'{parameter.name}"), or Rule("keep", ...) to leave it as it is',
        )
    spec = with_padding_row(parameter, choice.spec)
    try:
        spec.check(parameter.shape)
    except SpecError as error:
        raise PlanError(
            f"the spec does not fit the shape {parameter.shape}: {error}",
            where=parameter.name,
            value=str(spec),
        ) from error
    role = parameter.evidence.get("role")
    entry = Entry(
        spec=spec,
        shape=parameter.shape,
        dtype=parameter.dtype,
        role=parameter.role,
        reason=choice.reason,
        evidence=str(role) if role else "",
        aliases=parameter.aliases,
        lr=choice.lr,
    )
    return entry, used


def _drawn(direction: Entry) -> Entry:
    """The direction of a weight norm that is planned as zero: a direction has no zero."""
    return replace(
        direction,
        spec=Normal(1.0),
        reason=f"{direction.reason} The direction of a weight norm is drawn, its length is zero.",
    )


def _magnitude(entry: Entry, direction: Entry) -> Entry:
    """The length of a weight norm, so that w = g v / |v| has the std that v was planned with."""
    if direction.std is None:
        return entry
    per_length = math.prod(direction.shape) / max(math.prod(entry.shape), 1)
    return replace(
        entry,
        spec=Constant(direction.std * math.sqrt(per_length)),
        reason="The length of a weight norm: std of the planned direction times sqrt(elements).",
    )


def _buffer(buffer: BufferView, view: ModelView) -> Entry:
    text = buffer.rule or buffer.value
    if text is not None:
        spec = parse(text)
        reason = "Its owner's rule." if buffer.rule else "The value that its constructor computed."
    elif buffer.on_meta:
        raise PlanError(
            "this buffer is on the meta device, and nothing says how to rebuild its value",
            where=buffer.name,
            fix="build the model on the CPU, or plan it from a real copy",
        )
    else:
        spec, reason = Keep(), "A buffer without a known rule keeps its constructor's value."
    return Entry(
        spec=spec,
        shape=buffer.shape,
        dtype=buffer.dtype,
        role="buffer",
        reason=reason,
        evidence=str(buffer.evidence),
        aliases=tuple(
            other.name for other in view.buffers.values() if other.tied_to == buffer.name
        ),
        persistent=buffer.persistent,
    )


def _decides_nothing(
    rule: Rule, view: ModelView, deciders: Mapping[str, tuple[Rule, ...]]
) -> RecipeError:
    taken = next(p for p in view.owners if p.numel and _matches(rule, p))
    return RecipeError(
        f"{rule} decides nothing: all that it matches is taken by rules before it, "
        f"such as {taken.name} by {deciders[taken.name][0]}",
        where="rules",
        fix="move it up, or remove it",
    )


def _matches_nothing(rule: Rule, view: ModelView) -> RecipeError:
    names = [parameter.name for parameter in view.owners]
    if rule.name is not None or rule.regex is not None:
        pattern = rule.name or rule.regex or ""
        tied = [p for p in view.parameters.values() if p.tied_to and p.name == pattern]
        if tied:
            return RecipeError(
                f"is another name of a tied parameter, which is planned as {tied[0].tied_to}",
                where="rules",
                value=pattern,
                fix=f"write the rule for {tied[0].tied_to}",
            )
        return RecipeError(
            f"{rule} matches no parameter of {view.model}",
            where="rules",
            value=pattern,
            choices=near(pattern, names) or tuple(names[:3]),
        )
    if rule.module_type is not None:
        types = sorted({parameter.module_type for parameter in view.owners})
        return RecipeError(
            f"{rule} matches no parameter of {view.model}",
            where="rules",
            value=rule.module_type,
            choices=near(rule.module_type, types) or tuple(types),
        )
    tied = [p for p in view.parameters.values() if p.tied_to and p.role in rule.role]
    if tied:
        return RecipeError(
            f"{rule} matches no tensor of its own: {tied[0].name} is tied to {tied[0].tied_to}, "
            "under which it is planned",
            where="rules",
            fix=f"write the rule for {tied[0].tied_to}, or untie the two",
        )
    roles = sorted({parameter.role for parameter in view.owners})
    return RecipeError(
        f"{rule} matches no parameter of {view.model}, which has these roles",
        where="rules",
        choices=roles,
    )
