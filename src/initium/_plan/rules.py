"""Rules: which parameters, and what becomes of them.

A rule matches by role, by a glob or a regular expression over the canonical name, by module type,
by what the parameter does, by any predicate, or by several of these at once. It gives a spec, a
formula for one, what a recipe says, or what a function of the parameter and its model returns. The
names of its fields are those of the views, of the entries of a plan, and of a recipe's file.

Rules look at *logical* matrices: one for ``attn_v`` also decides the v block of a fused q, k, v,
unless a rule that matches the whole parameter stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from inspect import getdoc
from math import inf
from numbers import Real
from typing import TypeAlias, TypeVar

from initium._plan.formula import Formula
from initium._plan.layout import Matrix, Piece, per_matrix, pieces, put_together
from initium._plan.places import layers_of, variables
from initium._text import format_number
from initium._types import MATRIX_ROLES, ROLES, ModelView, ParameterView
from initium.errors import InitiumError, RecipeError, near
from initium.spec import Blocks, Keep, Orthogonal, Part, Spec, Value
from initium.spec.text import SPECS

__all__ = [
    "CONDITIONS",
    "Action",
    "Choice",
    "Rule",
    "Scheme",
    "check_rule",
    "decide",
    "formula",
    "read_rules",
]


@dataclass(frozen=True, slots=True)
class Choice:
    """A spec, one sentence that says why, and the learning rate's multiplier if it has one."""

    spec: Spec
    reason: str
    lr: float = 1.0


Scheme: TypeAlias = Callable[[ParameterView, ModelView], Choice | Spec]
_Given = TypeVar("_Given")
_Scheme = TypeVar("_Scheme", bound=Callable[..., "Choice | Spec"])
Action: TypeAlias = Spec | str | Scheme
CONDITIONS = ("role", "name", "regex", "module_type", "writes", "tied", "when")
"""The fields of a rule that say what it matches; ``when`` only in Python."""


@dataclass(frozen=True)
class Rule:
    """One rule; the conditions that are given must all hold, and without any it matches everything.

    Attributes:
        spec: a spec, its text or a formula for it (``"normal(0.02 / sqrt(2 * layers))"``, in the
            variables of :data:`~initium._plan.places.VARIABLES`, for each logical matrix), the text
            of a recipe (``"he"``), or a function ``(parameter, model) -> Choice | Spec``, whose
            docstring begins with its formula or a sentence. A name that is both, such as
            ``"orthogonal"``, is the distribution.
        role: one role or several.
        name: a glob over the whole canonical name, such as ``"*.attn.c_proj.weight"``.
        regex: a regular expression that must match the whole canonical name.
        module_type: a glob over the type of the module that holds it, such as ``"Conv*"``.
        writes: whether it writes to a residual stream.
        tied: whether the tensor has other names too, or is a table that is used again.
        when: any predicate on the parameter.
        lr: multiplier of the learning rate, a number or a formula.
        reason: why, as one sentence; recorded in the plan.
        optional: among one's own rules, whether it may decide nothing; otherwise that is an error.
        place: the file and line that it was read from, for messages.

    Raises:
        RecipeError: an unknown role, a regular expression that cannot be read, or a spec that is
            none of the above.

    Example:
        >>> Rule("zeros", role="head", reason="start from uniform predictions").role
        ('head',)
    """

    spec: Action
    role: str | tuple[str, ...] = ()
    name: str | None = None
    regex: str | None = None
    module_type: str | None = None
    writes: bool | None = None
    tied: bool | None = None
    when: Callable[[ParameterView], bool] | None = None
    lr: float | str = 1.0
    reason: str = ""
    optional: bool = False
    place: str = field(default="", compare=False)

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
        for name in ("writes", "tied"):
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise RecipeError(
                    "is neither True nor False", where=f"rule: {name}", value=getattr(self, name)
                )
        if isinstance(self.lr, str):
            Formula(self.lr, is_number=True)
        elif isinstance(self.lr, bool) or not isinstance(self.lr, Real) or not 0 <= self.lr < inf:
            raise RecipeError(
                "is not a number of 0 or more, nor a formula", where="rule: lr", value=self.lr
            )
        if not isinstance(self.spec, (Spec, str)) and not callable(self.spec):
            raise RecipeError(
                "the spec of a rule must be a spec, the text of a spec or recipe, or a function",
                where="rule",
                value=self.spec,
            )

    def matches(self, view: ParameterView) -> bool:
        """Whether every condition holds for this parameter."""
        return (
            (not self.role or view.role in self.role)
            and (self.name is None or fnmatchcase(view.name, self.name))
            and (self.regex is None or re.fullmatch(self.regex, view.name) is not None)
            and (self.module_type is None or fnmatchcase(view.module_type, self.module_type))
            and (self.writes is None or view.writes_residual is self.writes)
            and (self.tied is None or view.is_tied is self.tied)
            and (self.when is None or bool(_called(self.when, self, view)))
        )

    @property
    def condition(self) -> str:
        """What it matches, as text."""
        roles = "a matrix" if {*self.role, "lora_a", "lora_b"} >= MATRIX_ROLES else None
        told = [f"role={roles or '|'.join(self.role)}"] if self.role else []
        for key in CONDITIONS[1:-1]:
            if (value := getattr(self, key)) is not None:
                told.append(f"{key}={value}")
        if self.when is not None:
            told.append(f"when={_name(self.when)}")
        return ", ".join(told) or "every parameter"

    @property
    def start(self) -> str:
        """What it gives, as text; of a function the first paragraph of its docstring.

        Example:
            >>> Rule("normal(0.02 / sqrt(2 * layers))").start
            'normal(0.02 / sqrt(2 * layers))'
        """
        if isinstance(self.spec, (str, Spec)):
            return str(self.spec)
        told = (getdoc(self.spec) or "").partition("\n\n")[0]
        return " ".join(told.split()).rstrip(".") or f"{_name(self.spec)}(parameter, model)"

    def __str__(self) -> str:
        return f"rule({self.condition}{f'; {self.place}' if self.place else ''})"


def formula(text: str) -> Callable[[_Scheme], _Scheme]:
    """Tell what a function calculates, where that depends on the arguments of its recipe.

    Example:
        >>> Rule(formula("constant(3)")(lambda view, model: Constant(3.0))).start
        'constant(3)'
    """

    def named(scheme: _Scheme) -> _Scheme:
        scheme.__doc__ = text
        return scheme

    return named


def _name(function: object) -> str:
    return getattr(function, "__name__", "function").strip("<_>")


def read_rules(rules: Iterable[object] | Mapping[str, Action] | None) -> tuple[Rule, ...]:
    """Rules as given, or from a mapping of patterns to specs, formulas or recipes.

    A pattern is a glob over the canonical name, ``role:NAME``, ``type:GLOB`` or ``re:REGEX``.

    Raises:
        RecipeError: something that is not a rule, or a spec that cannot be read.

    Example:
        >>> [str(rule) for rule in read_rules({"role:head": "zeros", "*.bias": "zeros"})]
        ['rule(role=head)', 'rule(name=*.bias)']
    """
    if rules is None:
        return ()
    if isinstance(rules, Mapping):
        rules = [_from_pattern(pattern, spec) for pattern, spec in rules.items()]
    found = []
    for rule in rules:
        if not isinstance(rule, Rule):
            raise RecipeError(
                "is not a rule",
                where="rules",
                value=rule,
                fix='pass Rule(spec, role=...) or a mapping such as {"*.bias": "zeros"}',
            )
        check_rule(rule)
        found.append(rule)
    return tuple(found)


def check_rule(rule: Rule) -> None:
    """Raise RecipeError if the text of a rule's spec cannot be read, before there is any model."""
    if isinstance(rule.spec, str):
        read = _read(rule.spec, rule)
        if isinstance(read, Formula) and not read.variables:
            read.spec({})


def _from_pattern(pattern: str, spec: Action) -> Rule:
    kind, colon, rest = pattern.partition(":")
    if colon and kind == "role":
        return Rule(spec, role=rest)
    if colon and kind == "type":
        return Rule(spec, module_type=rest)
    if colon and kind == "re":
        return Rule(spec, regex=rest)
    return Rule(spec, name=pattern)


def decide(
    rules: Sequence[Rule], view: ParameterView, model: ModelView
) -> tuple[Choice | None, tuple[Rule, ...]]:
    """What the first rules that match make of a parameter, and which rules those were.

    Each block of a fused matrix is decided by itself, as the matrix that it is.

    Raises:
        RecipeError: a text that is neither a spec, a formula nor a recipe.
    """
    parts = pieces(view)
    first = [_first(rules, view, piece) for piece in parts] or [_first(rules, view)]
    used = tuple(dict.fromkeys(rule for rule in first if rule is not None))
    if any(rule is None for rule in first):
        return None, used
    if len(used) == 1 and used[0].matches(view):
        return _act(used[0], view, model), used
    made = [
        (piece, _act(rule, piece.view, model))
        for piece, rule in zip(parts, first, strict=True)
        if rule is not None
    ]
    if any(choice is None for _, choice in made):
        return None, used
    return _together(view, [(piece, choice) for piece, choice in made if choice]), used


def _first(rules: Sequence[Rule], view: ParameterView, piece: Piece | None = None) -> Rule | None:
    views = (view, piece.view) if piece else (view,)
    return next((rule for rule in rules if any(map(rule.matches, views))), None)


def _together(view: ParameterView, made: Sequence[tuple[Piece, Choice]]) -> Choice:
    labels: dict[str, list[str]] = {}
    for piece, choice in made:
        labels.setdefault(choice.reason, []).append(piece.label)
    if len(labels) == 1:
        reason = made[0][1].reason
    else:
        reason = " ".join(f"{', '.join(names)}: {told}" for told, names in labels.items())
    rates = {choice.lr for _, choice in made}
    if len(rates) > 1:
        raise RecipeError(
            "blocks of one tensor cannot have different learning rates",
            where=view.name,
            value=sorted(rates),
            fix="write one rule for the whole of it",
        )
    spec = put_together([(piece, choice.spec) for piece, choice in made])
    return Choice(spec, reason, rates.pop())


def _act(rule: Rule, view: ParameterView, model: ModelView) -> Choice | None:
    spec = _read(rule.spec, rule) if isinstance(rule.spec, str) else rule.spec
    if isinstance(spec, tuple):
        found, _ = decide(spec, view, model)
        if found is None:
            return None
        rate = found.lr if rule.lr == 1.0 else _rate(rule, view, model)
        return Choice(found.spec, rule.reason or found.reason, rate)
    if isinstance(spec, Formula):
        return _calculated(spec, rule, view, model)
    result = _whole(spec, view) if isinstance(spec, Spec) else _called(spec, rule, view, model)
    if isinstance(result, Spec):
        result = Choice(result, rule.reason or f"as {rule} says")
    if not isinstance(result, Choice):
        raise RecipeError(
            f"the function of {rule} must return a Choice or a spec", where=view.name, value=result
        )
    rate = result.lr if rule.lr == 1.0 else _rate(rule, view, model)
    return Choice(result.spec, rule.reason or result.reason, rate)


def _called(
    function: Callable[..., _Given], rule: Rule, *given: ParameterView | ModelView
) -> _Given:
    try:
        return function(*given)
    except InitiumError:
        raise
    except Exception as error:
        told = f"{_name(function)} of {rule} failed: {type(error).__name__}: {error}"
        where = getattr(given[0], "name", None)
        raise RecipeError(told, where=where, fix="correct this function") from error


def _whole(spec: Spec, view: ParameterView) -> Spec:
    """A spec for each logical matrix of a parameter, unless it is one of a whole tensor."""
    if isinstance(spec, (Blocks, Value, Keep)):
        return spec
    return per_matrix(view, lambda matrix: _laid(spec, matrix, view))


def _laid(spec: Spec, matrix: Matrix, view: ParameterView) -> Spec:
    """An orthogonal spec that names no axes gets those of the matrix."""
    if view.axes is None or not isinstance(spec, Orthogonal) or spec != Orthogonal(spec.gain):
        return spec
    return replace(spec, outputs=matrix.outputs, batch=matrix.batch)


def _calculated(formula: Formula, rule: Rule, view: ParameterView, model: ModelView) -> Choice:
    """The spec of a formula for each logical matrix, and a reason that shows the calculation."""
    try:
        place = variables(view, model) if formula.variables else {}
        spec = _in_layers(formula, rule, view, model)
        each = spec is not None
        spec = spec or _evaluated(formula, view, place)
    except RecipeError as error:
        raise RecipeError(f"{rule}: {error}", where=view.name) from None
    told = ", ".join(
        f"{name} of each layer"
        if each and name in ("block", "depth")
        else f"{name} {format_number(place[name])}"
        for name in formula.variables
        if name in place
    )
    reason = rule.reason or f"as {rule} says"
    if formula.variables:
        reason = f"{reason.rstrip('.')}: {formula.text}{f', {told}' if told else ''}."
    return Choice(spec, reason, _rate(rule, view, model))


def _evaluated(formula: Formula, view: ParameterView, place: Mapping[str, float]) -> Spec:
    def of(matrix: Matrix) -> Spec:
        fans = {"fan_in": matrix.fan_in, "fan_out": matrix.fan_out, "gain": matrix.gain}
        return _laid(formula.spec({**place, **fans}), matrix, view)

    return per_matrix(view, of)


def _in_layers(formula: Formula, rule: Rule, view: ParameterView, model: ModelView) -> Spec | None:
    """Of a stack of layers one spec for each, where the formula asks for the layer."""
    rate = Formula(rule.lr, is_number=True).variables if isinstance(rule.lr, str) else ()
    if not {"block", "depth"} & {*formula.variables, *rate}:
        return None
    if not (stack := layers_of(view, model)):
        return None
    axis, layers = stack
    made = [_evaluated(formula, view, variables(layer, model)) for layer in layers]
    if {"block", "depth"} & {*rate} or any(isinstance(one, (Blocks, Orthogonal)) for one in made):
        raise RecipeError(
            "one tensor holds all layers: no layer in it can have a learning rate or a whole or "
            "fused matrix of its own",
            fix="write a rule without block and depth for it",
        )
    return Blocks(tuple(Part(axis, place, 1, spec) for place, spec in enumerate(made)))


def _rate(rule: Rule, view: ParameterView, model: ModelView) -> float:
    """The rule's multiplier of the learning rate; fans are those of the whole parameter."""
    if not isinstance(rule.lr, str):
        return float(rule.lr)
    fans = {"fan_in": float(view.fan_in or 1), "fan_out": float(view.fan_out or 1)}
    values = {**variables(view, model), **fans, "gain": view.gain}
    try:
        rate = Formula(rule.lr, is_number=True).number(values)
    except RecipeError as error:
        raise RecipeError(f"{rule}: {error}", where=view.name) from None
    if not 0 <= rate < inf:
        raise RecipeError(
            "is not a learning rate of 0 or more", where=view.name, value=f"{rule.lr} = {rate}"
        )
    return rate


def _read(text: str, rule: Rule) -> Formula | tuple[Rule, ...]:
    """The formula of the distribution that a text names, else the rules of the recipe."""
    from initium._plan.recipe import meant, parse_recipe
    from initium.recipes import RECIPES

    name = text.split("(", 1)[0].strip()
    if name in SPECS:
        return Formula(text)
    if name in RECIPES or text.endswith((".yaml", ".yml")):
        return parse_recipe(text).rules
    known = (*SPECS, *RECIPES)
    raise RecipeError(
        f"the spec of {rule} is neither a distribution nor a recipe",
        where="rule",
        value=text,
        choices=meant(name, known) or known,
    )
