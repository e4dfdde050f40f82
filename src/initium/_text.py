"""The text form of specs and recipes: ``name`` or ``name(value, key=value)``, without ``eval``.

Covered: numbers, strings, booleans, None, lists, tuples, and nested calls. Not covered, on purpose:
names, attributes, operators other than a sign, and anything else that Python would execute.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field

__all__ = ["Call", "format_number", "parse_call"]

_SPECIAL = {"inf": math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Call:
    """A parsed ``name(*args, **kwargs)``; arguments are plain values, lists or further calls."""

    name: str
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)


def parse_call(text: str) -> Call:
    """Read ``name`` or ``name(...)``.

    Raises:
        ValueError: the text is not of that form; the message says where.

    Example:
        >>> parse_call("normal(0.02, mean=-1)")
        Call(name='normal', args=(0.02,), kwargs={'mean': -1})
    """
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is not of the form name or name(value, key=value)") from error
    result = _value(body, text, outermost=True)
    if not isinstance(result, Call):
        raise ValueError(f"{text!r} is not of the form name or name(value, key=value)")
    return result


def _value(node: ast.expr, text: str, outermost: bool = False) -> object:
    if isinstance(node, ast.Constant) and isinstance(
        node.value, (bool, int, float, str, type(None))
    ):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _value(node.operand, text)
        if isinstance(operand, (int, float)) and not isinstance(operand, bool):
            return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.List):
        return [_value(item, text) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, text) for item in node.elts)
    if isinstance(node, ast.Name):
        name = node.id.replace("-", "_")
        if not outermost and name in _SPECIAL:
            return _SPECIAL[name]
        return Call(name)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        kwargs: dict[str, object] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError(f"{text!r}: ** is not allowed here")
            kwargs[keyword.arg] = _value(keyword.value, text)
        return Call(node.func.id, tuple(_value(item, text) for item in node.args), kwargs)
    part = ast.get_source_segment(text.strip(), node) or text
    raise ValueError(f"{text!r}: {part!r} is not a number, string, list or name(...)")


def format_number(value: float) -> str:
    """The shortest text that reads back as the same number, without a trailing ``.0``.

    Example:
        >>> format_number(2.0), format_number(0.02)
        ('2', '0.02')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)
