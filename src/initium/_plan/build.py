"""From a model view and a recipe to a plan: cover or fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from initium._plan.layout import pieces, with_padding_row
from initium._plan.plan import Entry, Plan
from initium._plan.recipe import Recipe, parse_recipe
from initium._plan.rules import Action, Choice, Rule, decide, read_rules
from initium._types import BufferView, ModelView, ParameterView
from initium.errors import PlanError, RecipeError, SpecError, near
from initium.spec import Constant, Keep, Normal, Spec, TruncatedNormal, Uniform, Value, parse

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
    unmatched = []
    for parameter in view.owners:
        entry, deciders[parameter.name] = _parameter(parameter, view, order)
        if entry is None:
            unmatched.append(parameter)
        else:
            entries[parameter.name] = entry
    if unmatched:
        raise _without_a_rule(unmatched, chosen)
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
    return Plan(
        entries,
        recipe=chosen.text,
        seed=seed,
        model=view.model,
        needs=chosen.needed(view),
        notes=(*chosen.noted(view), *_frozen(view, entries)),
    )


def _frozen(view: ModelView, entries: Mapping[str, Entry]) -> tuple[str, ...]:
    names = [one.name for one in view.owners if not one.trainable and not entries[one.name].kept]
    if not names:
        return ()
    told = "1 frozen parameter is" if len(names) == 1 else f"{len(names)} frozen parameters are"
    return (f"{told} planned too, such as {names[0]}; a rule with the spec keep leaves them.",)


def _matches(rule: Rule, parameter: ParameterView) -> bool:
    return rule.matches(parameter) or any(rule.matches(piece.view) for piece in pieces(parameter))


def _parameter(
    parameter: ParameterView, view: ModelView, rules: tuple[Rule, ...]
) -> tuple[Entry | None, tuple[Rule, ...]]:
    used: tuple[Rule, ...] = ()
    choice: Choice | None = Choice(Constant(0.0), "It holds no elements.")
    if parameter.numel:
        choice, used = decide(rules, parameter, view)
    if choice is None:
        return None, used
    spec = with_padding_row(parameter, choice.spec)
    try:
        spec.check(parameter.shape)
    except SpecError as error:
        raise PlanError(
            f"the spec does not fit the shape {parameter.shape}: {error}",
            where=parameter.name,
            value=str(spec),
        ) from error
    if parameter.dtype.startswith("complex") and not _has_halves(spec):
        raise PlanError(
            f"this spec has no meaning for numbers of {parameter.dtype}",
            where=parameter.name,
            value=str(spec),
            choices=("constant", "normal", "truncated_normal", "uniform", "keep"),
            fix=f'add a rule such as Rule("normal(1 / sqrt(fan_in))", name="{parameter.name}"): '
            "its real and imaginary parts then have half of the variance each",
        )
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


def _without_a_rule(unmatched: Sequence[ParameterView], recipe: Recipe) -> PlanError:
    first, others = unmatched[0], len(unmatched) - 1
    more = f", nor {others} more" if others else ""
    rest = ', or "base: auto" in the file' if recipe.own else ""
    return PlanError(
        f"no rule of the recipe matches this parameter of role {first.role}{more}",
        where=first.name,
        fix='add a rule for it, such as Rule("normal(0.02)", name="'
        f'{first.name}"), or Rule("keep", ...) to leave it as it is{rest}',
    )


def _has_halves(spec: Spec) -> bool:
    """Whether it can be drawn as a real and an imaginary part, or is not drawn at all."""
    if isinstance(spec, Uniform):
        return spec.low == -spec.high
    if isinstance(spec, (Normal, TruncatedNormal)):
        return spec.mean == 0
    return isinstance(spec, (Constant, Keep, Value))


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
    if (tied := _tied(rule, view)) is not None:
        return tied
    told = f"{rule} matches no parameter of {view.model}"
    for key in ("name", "regex", "module_type", "role"):
        value = getattr(rule, key)
        if not value:
            continue
        alone = Rule("keep", **{key: value})
        matched = [one for one in view.owners if _matches(alone, one)]
        if not matched:
            roles = ", which has these roles" if key == "role" else ""
            text = value if isinstance(value, str) else ", ".join(value)
            return RecipeError(
                f"{told}{roles}", where="rules", value=text, choices=_near(key, text, view)
            )
        if len(matched) < 4:
            told += f"; {key} alone matches {', '.join(one.name for one in matched)}"
        else:
            told += f"; {key} alone matches {len(matched)}, such as {matched[0].name}"
    return RecipeError(told, where="rules", fix="leave one of its conditions out")


def _tied(rule: Rule, view: ModelView) -> RecipeError | None:
    """A rule for another name of a tensor, or for the role that it has under that name."""
    names = (rule.name, rule.regex)
    for one in view.parameters.values():
        by_role = one.role in rule.role and names == (None, None)
        if one.tied_to is not None and (by_role or one.name in names):
            return RecipeError(
                f"{rule} matches no tensor of its own: {one.name} is tied to {one.tied_to}, "
                "under which it is planned",
                where="rules",
                fix=f"write the rule for {one.tied_to}, or untie the two",
            )
    return None


def _near(key: str, text: str, view: ModelView) -> Sequence[str]:
    """What a condition that matches nothing may have meant."""
    if key == "module_type":
        types = sorted({one.module_type for one in view.owners})
        return near(text, types) or types
    if key == "role":
        return sorted({one.role for one in view.owners})
    names = [one.name for one in view.owners]
    if "*" not in text:
        return near(text, names) or names[:3]
    parts = len(text.rpartition("*")[2].lstrip(".").split("."))
    ends = ["*." + ".".join(name.split(".")[-parts:]) for name in names if name.count(".") >= parts]
    return near(text, ends) or near(text, names) or names[:3]
