"""Formulas in the text of a spec: ``normal(0.02 / sqrt(2 * layers))``, read without ``eval``.

Covered: ``+ - * / **``, ``sqrt``, ``log``, ``min``, ``max``, numbers, and the variables of
:data:`initium._plan.places.VARIABLES`. A formula is evaluated for each logical matrix.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from initium._plan.places import VARIABLES
from initium.errors import RecipeError, SpecError, near
from initium.spec import Spec, parse
from initium.spec.text import SPECS

__all__ = ["Formula"]

OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "min": min,
    "max": max,
}
LITERALS = frozenset({"inf", "nan", "True", "False", "None"})


@dataclass(frozen=True)
class Formula:
    """The text of a spec, or of a number if ``is_number``, with arithmetic in it.

    Raises:
        RecipeError: text of another form, or an unknown variable.

    Example:
        >>> Formula("normal(0.02 / sqrt(2 * layers))").spec({"layers": 8})
        Normal(std=0.005, mean=0.0)
        >>> Formula("256 / fan_in", is_number=True).number({"fan_in": 1024})
        0.25
    """

    text: str
    is_number: bool = False

    def __post_init__(self) -> None:
        self._tree()
        for name in self.variables:
            if name not in VARIABLES:
                raise RecipeError(
                    "is not a variable of a formula",
                    where=f"formula {self.text!r}",
                    value=name,
                    choices=near(name, VARIABLES) or tuple(VARIABLES),
                )

        for name in self._called():
            if name not in (*FUNCTIONS, *SPECS, "part"):
                raise RecipeError(
                    "is not a function of a formula",
                    where=f"formula {self.text!r}",
                    value=name,
                    choices=near(name, FUNCTIONS) or tuple(FUNCTIONS),
                )

    def _called(self) -> tuple[str, ...]:
        """The functions that it calls, the outermost left out where that is the spec."""
        body = self._tree().body
        return tuple(
            node.func.id
            for node in ast.walk(body)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if self.is_number or node is not body
        )

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that it is written in, in their order."""
        body = self._tree().body
        nodes = list(ast.walk(body))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        if isinstance(body, ast.Name) and body.id not in VARIABLES and not self.is_number:
            called.add(id(body))
        names = (
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in LITERALS
        )
        return tuple(dict.fromkeys(names))

    @property
    def calculates(self) -> bool:
        """Whether there is anything to calculate: a variable, a function or an operator."""
        nodes = list(ast.walk(self._tree()))
        called = {
            n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        return bool(
            self.variables
            or called & FUNCTIONS.keys()
            or any(isinstance(node, ast.BinOp) for node in nodes)
        )

    def spec(self, values: Mapping[str, float]) -> Spec:
        """The spec with every number calculated.

        Raises:
            RecipeError: a variable without a value, an impossible operation, or no spec.
        """
        body = _Calculated(self, values).visit(self._tree().body)
        try:
            return parse(ast.unparse(body))
        except SpecError as error:
            raise RecipeError(f"is not a spec: {error}", where="formula", value=self.text) from None

    def number(self, values: Mapping[str, float]) -> float:
        """The value of a formula that is a number.

        Raises:
            RecipeError: as for :meth:`spec`.
        """
        return self.calculate(self._tree().body, values)

    def calculate(self, node: ast.expr, values: Mapping[str, float]) -> float:
        """The number that a part of the formula stands for."""
        try:
            if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
                return float(node.value)
            if isinstance(node, ast.Name) and node.id in values:
                return values[node.id]
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                return -self.calculate(node.operand, values)
            if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                left, right = (self.calculate(side, values) for side in (node.left, node.right))
                value = OPERATORS[type(node.op)](left, right)
                if isinstance(value, complex):
                    raise ValueError("a root of a negative number")
                return value
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                function = FUNCTIONS.get(node.func.id)
                if function is not None and not node.keywords:
                    return function(*(self.calculate(item, values) for item in node.args))
        except RecipeError:
            raise
        except (ArithmeticError, ValueError, TypeError) as error:
            raise RecipeError(
                f"cannot be calculated: {error}", where="formula", value=self.text
            ) from None
        if isinstance(node, ast.Name) and node.id in VARIABLES:
            raise RecipeError(
                f"needs {node.id} ({VARIABLES[node.id]}), which this parameter does not have",
                where="formula",
                value=self.text,
                fix="match fewer parameters, or write the number",
            )
        raise RecipeError(
            f"{ast.unparse(node)!r} is not a number", where="formula", value=self.text
        )

    def _tree(self) -> ast.Expression:
        return _parsed(self.text)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.Expression:
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RecipeError(
            "is not of the form name(value, key=value)",
            where="formula",
            value=text,
            fix='write it as "normal(0.02 / sqrt(2 * layers))"',
        ) from None


class _Calculated(ast.NodeVisitor):
    """Arithmetic replaced by its value; everything else is left to the parser of specs."""

    def __init__(self, formula: Formula, values: Mapping[str, float]) -> None:
        self.formula = formula
        self.values = values

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        return self._value(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return node if isinstance(node.operand, ast.Constant) else self._value(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._value(node) if node.id in VARIABLES else node

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.Tuple([self.visit(item) for item in node.elts], ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            return self._value(node)
        return ast.Call(
            node.func,
            [self.visit(item) for item in node.args],
            [ast.keyword(item.arg, self.visit(item.value)) for item in node.keywords],
        )

    def _value(self, node: ast.expr) -> ast.expr:
        return ast.Constant(float(self.formula.calculate(node, self.values)))
