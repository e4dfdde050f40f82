"""Records as plain data, the way JSON knows it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType

__all__ = ["as_json", "plain"]


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
        >>> as_json({"std": math.nan}, {"initium": "note"}).split()
        ['{', '"initium":', '"note",', '"std":', 'null', '}']
    """
    data = plain(value)
    if head:
        assert isinstance(data, dict)
        data = {**head, **data}
    return json.dumps(data, indent=2, allow_nan=False)
