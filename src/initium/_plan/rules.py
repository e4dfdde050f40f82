"""Rules: which parameters, and what becomes of them.

A rule matches by role, by a glob or a regular expression over the canonical name, by module type,
by any predicate, or by several of these at once. Its action is a spec, the text of one, the text
of a recipe, or a function of the parameter and its model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from initium._types import ROLES, ModelView, ParameterView
from initium.errors import RecipeError, SpecError, near
from initium.spec import Spec, parse

__all__ = ["Action", "Choice", "Rule", "Scheme", "decide", "read_rules"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A spec and one sentence that says why."""

    spec: Spec
    reason: str


Scheme: TypeAlias = Callable[[ParameterView, ModelView], Choice | Spec]
Action: TypeAlias = Spec | str | Scheme


@dataclass(frozen=True)
class Rule:
    """One rule; the conditions that are given must all hold, and without any it matches everything.

    Attributes:
        action: a spec, its text (``"normal(0.02)"``), the text of a recipe (``"he"``), or a
            function ``(parameter, model) -> Choice | Spec``.
        role: one role or several.
        name: a glob over the whole canonical name, such as ``"*.attn.c_proj.weight"``.
        regex: a regular expression that must match the whole canonical name.
        module_type: a glob over the type of the module that holds it, such as ``"Conv*"``.
        when: any predicate on the parameter.
        reason: why, as one sentence; recorded in the plan.

    Raises:
        RecipeError: an unknown role, a regular expression that cannot be read, or an action that is
            none of the above.

    Example:
        >>> Rule("zeros", role="head", reason="start from uniform predictions").role
        ('head',)
    """

    action: Action
    role: str | tuple[str, ...] = ()
    name: str | None = None
    regex: str | None = None
    module_type: str | None = None
    when: Callable[[ParameterView], bool] | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        roles = (self.role,) if isinstance(self.role, str) else tuple(self.role)
        for role in roles:
            if role not in ROLES:
                raise RecipeError(
                    "is not a role", where="rule", value=role, choices=near(role, ROLES) or ROLES
                )
        object.__setattr__(self, "role", roles)
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise RecipeError(
                    f"the regular expression cannot be read: {error}",
                    where="rule",
                    value=self.regex,
                ) from error
        if not isinstance(self.action, (Spec, str)) and not callable(self.action):
            raise RecipeError(
                "the action of a rule must be a spec, the text of a spec or recipe, or a function",
                where="rule",
                value=self.action,
            )

    def matches(self, view: ParameterView) -> bool:
        """Whether every condition holds for this parameter."""
        return (
            (not self.role or view.role in self.role)
            and (self.name is None or fnmatchcase(view.name, self.name))
            and (self.regex is None or re.fullmatch(self.regex, view.name) is not None)
            and (self.module_type is None or fnmatchcase(view.module_type, self.module_type))
            and (self.when is None or bool(self.when(view)))
        )

    def __str__(self) -> str:
        told = [f"role={'|'.join(self.role)}"] if self.role else []
        for key in ("name", "regex", "module_type"):
            if (value := getattr(self, key)) is not None:
                told.append(f"{key}={value}")
        if self.when is not None:
            told.append(f"when={getattr(self.when, '__name__', 'predicate')}")
        return f"rule({', '.join(told) or 'every parameter'})"


def read_rules(rules: Iterable[object] | Mapping[str, Action] | None) -> tuple[Rule, ...]:
    """Rules as given, or from a mapping of patterns to actions.

    A pattern is a glob over the canonical name, ``role:NAME``, ``type:GLOB`` or ``re:REGEX``.

    Raises:
        RecipeError: something that is not a rule.

    Example:
        >>> [str(rule) for rule in read_rules({"role:head": "zeros", "*.bias": "zeros"})]
        ['rule(role=head)', 'rule(name=*.bias)']
    """
    if rules is None:
        return ()
    if isinstance(rules, Mapping):
        return tuple(_from_pattern(pattern, action) for pattern, action in rules.items())
    found = []
    for rule in rules:
        if not isinstance(rule, Rule):
            raise RecipeError(
                "is not a rule",
                where="rules",
                value=rule,
                fix='pass Rule(action, role=...) or a mapping such as {"*.bias": "zeros"}',
            )
        found.append(rule)
    return tuple(found)


def _from_pattern(pattern: str, action: Action) -> Rule:
    kind, colon, rest = pattern.partition(":")
    if colon and kind == "role":
        return Rule(action, role=rest)
    if colon and kind == "type":
        return Rule(action, module_type=rest)
    if colon and kind == "re":
        return Rule(action, regex=rest)
    return Rule(action, name=pattern)


def decide(rules: Sequence[Rule], view: ParameterView, model: ModelView) -> Choice | None:
    """What the first rule that matches makes of a parameter; ``None`` if none matches.

    Raises:
        RecipeError: the text of an action is neither a spec nor a recipe.
    """
    for rule in rules:
        if rule.matches(view):
            return _act(rule, view, model)
    return None


def _act(rule: Rule, view: ParameterView, model: ModelView) -> Choice | None:
    action = _read_action(rule.action, rule) if isinstance(rule.action, str) else rule.action
    if isinstance(action, tuple):
        found = decide(action, view, model)
        return found and Choice(found.spec, rule.reason or found.reason)
    result = action if isinstance(action, Spec) else action(view, model)
    if isinstance(result, Spec):
        return Choice(result, rule.reason or f"as {rule} says")
    if not isinstance(result, Choice):
        raise RecipeError(
            f"the function of {rule} must return a Choice or a spec", where=view.name, value=result
        )
    return Choice(result.spec, rule.reason or result.reason)


def _read_action(text: str, rule: Rule) -> Spec | tuple[Rule, ...]:
    """The spec that a text describes, else the rules of the recipe that it names."""
    from initium._plan.recipe import parse_recipe
    from initium.recipes import RECIPES

    name = text.split("(", 1)[0].strip()
    if name in RECIPES and name != "normal":  # normal(std) is a spec here, for any role
        return parse_recipe(text).rules
    try:
        return parse(text)
    except SpecError as error:
        raise RecipeError(
            f"the action of {rule} is neither a spec nor a recipe: {error}",
            where="rule",
            value=text,
        ) from error
