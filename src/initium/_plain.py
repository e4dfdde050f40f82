"""Records as plain data, the way JSON knows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType

from initium._files import write_text

__all__ = ["as_json", "plain", "saved_json"]

_NUMBERS = re.compile(r"\[\n\s*((?:[-+.\deE]+|null)(?:,\n\s*(?:[-+.\deE]+|null))*)\n\s*\]")
"""A list of numbers, which gets one line."""


def plain(value: object, as_text: tuple[type, ...] = ()) -> object:
    """Records as mappings, numbers that are not finite as null, ``as_text`` types as their text.

    Example:
        >>> from initium.spec import Normal
        >>> plain({"spec": Normal(0.02), "std": math.inf, "shape": (2, 3)}, as_text=(Normal,))
        {'spec': 'normal(0.02)', 'std': None, 'shape': [2, 3]}
    """
    if isinstance(value, as_text):
        return str(value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name), as_text) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, as_text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, as_text) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(value: object, head: Mapping[str, object] = MappingProxyType({})) -> str:
    """:func:`plain` data as strict JSON text; the ``head`` stands before the fields of a record.

    Example:
        >>> print(as_json({"std": math.nan, "shape": (2, 3)}, {"initium": "note"}))
        {
          "initium": "note",
          "std": null,
          "shape": [2, 3]
        }
    """
    data = plain(value)
    if head:
        assert isinstance(data, dict)
        data = {**head, **data}
    text = json.dumps(data, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def saved_json(value: object, path: str | Path | None) -> str:
    """:func:`as_json`, also written to ``path`` where there is one, at once or not at all.

    Raises:
        OutputError: nothing can be written there.
    """
    text = as_json(value)
    if path is not None:
        write_text(path, text + "\n")
    return text
