"""A transformers configuration of another width or depth.

All widths are multiplied by one factor, so that every relation between them survives. Where the
heads can be multiplied too, their size stays, as in families of models; otherwise their number
stays and their size follows. What is said layer by layer goes on in the same order. Not covered:
configurations of several parts (a text model in an image model) and models in stages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from initium._load.tiny import is_width
from initium.errors import ModelError

__all__ = ["DEPTH", "WIDTH", "resize"]

WIDTH, DEPTH = "hidden_size", "num_hidden_layers"
"""The names of both sizes in transformers; a configuration maps them to its own."""
_HEADS = re.compile(r"(^|_)(num|n)?_?(attention_|key_value_|kv_)?heads?(_kv)?$")
_HEAD_SIZE = re.compile(
    r"head_(dim|size)|^d_kv$|rotary|mrope_section|_rope_head_dim|^d_head$|kv_channels"
)
_DEPTHS = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|num_decoder_layers|(en|de)coder_layers)$"
)


def resize(
    settings: Mapping[str, Any],
    names: Mapping[str, str],
    width: int | None = None,
    depth: int | None = None,
) -> dict[str, Any]:
    """A configuration's dictionary at another ``width`` or ``depth``.

    Args:
        settings: as of ``config.to_dict()``.
        names: the configuration's ``attribute_map``.
        width, depth: its hidden size and number of layers; ``None``: as they are.

    Raises:
        ModelError: it says neither in one number.

    Example:
        >>> made = resize({"n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": 3072},
        ...               {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}, 256, 2)
        >>> made
        {'n_embd': 256, 'n_head': 4, 'n_layer': 2, 'n_inner': 1024}
    """
    found = dict(settings)
    if width is not None:
        found = _wider(found, Fraction(width, _size(settings, names, WIDTH)))
    if depth is not None:
        found = _deeper(found, _size(settings, names, DEPTH), depth)
    return found


def _size(settings: Mapping[str, Any], names: Mapping[str, str], what: str) -> int:
    value = settings.get(names.get(what, what))
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(
            f"its configuration has no number {what}, so that it cannot be made in another size",
            where=f"hf:{settings.get('model_type')}",
            value=value,
            fix="write a function with arguments width= and depth= that builds it",
        )
    return value


def _wider(settings: Mapping[str, Any], factor: Fraction) -> dict[str, Any]:
    heads = [value for key, value in settings.items() if _HEADS.search(key) and _is_int(value)]
    more = all((value * factor).denominator == 1 for value in heads)

    def scaled(key: str, value: Any) -> Any:
        if isinstance(value, list) and all(_is_int(item) for item in value):
            return [scaled(key, item) for item in value]
        if not _is_int(value):
            return value
        if _HEADS.search(key):
            return int(value * factor) if more else value
        if (more and _HEAD_SIZE.search(key)) or not is_width(key):
            return value
        return max(round(value * factor), 1)

    return {key: scaled(key, value) for key, value in settings.items()}


def _deeper(settings: Mapping[str, Any], before: int, depth: int) -> dict[str, Any]:
    found = dict(settings)
    for key, value in settings.items():
        if _DEPTHS.match(key) and _is_int(value):
            found[key] = depth
        elif isinstance(value, list) and len(value) == before > 1:
            found[key] = [value[layer % before] for layer in range(depth)]
    return found


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
