"""Scaling a transformers configuration down without knowing its architecture.

All widths are divided by one common factor, so that every relation between them survives (width =
heads x head size, one tower's projection = the other's width, groups that divide channels); the
number of heads stays. Layers are cut to few, keeping one of every kind; vocabularies and experts
are cut, and special token ids moved inside. Not covered: architectures with sizes that are fixed
in their code; for those the ladder of ever gentler rungs ends with the widths untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LADDER", "Rung", "is_width", "shrink"]

VOCABULARY = 1000
LAYERS = 2
EXPERTS = 8


@dataclass(frozen=True, slots=True)
class Rung:
    """How far to shrink: the divisor of all widths, and what else is cut."""

    divisor: int
    experts: bool = True
    vocabulary: bool = True
    depth: bool = True

    def __str__(self) -> str:
        if not self.depth:
            return "nothing could be cut"
        widths = f"widths divided by {self.divisor}" if self.divisor > 1 else "widths as they are"
        return f"{LAYERS} layers or one of each kind, {widths}"


LADDER = (
    Rung(16),
    Rung(8),
    Rung(4),
    Rung(2),
    Rung(1),
    Rung(1, vocabulary=False, experts=False),
    Rung(1, vocabulary=False, experts=False, depth=False),
)
"""From everything shrunk, over the depth alone, to nothing at all (for what is small anyway)."""

_WIDTH = re.compile(
    r"hidden|embd|embed|inter|inner|ffn|d_ff|d_kv|d_model|mlp|proj|dim|rank|channels|width|filters"
    r"|rotary|head_size|mrope_section|d_head|lru|bottleneck|units|in_features"
)
_NOT_WIDTH = re.compile(
    r"^(num|n)_(?!embd|inner|filters)|vocab|image|patch|window|kernel|stride|position|ratio|factor"
    r"|layer|token|groups?$|dropout|prob|heads$|depth|size_divisor|temporal|index|cardinality"
    r"|codebook_(size|num)|act|num_channels|base|theta|time|buckets|experts|feature_size"
)
_DEPTH = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|depth|(num_)?(encoder|decoder)_layers"
    r"|num_block_layers|\w+_(num_)?hidden_layers|\w*(encoder|decoder|attention|fusion)_layers"
    r"|(num_)?(encoder|decoder)_blocks)$"
)
_STAGE_DEPTHS = re.compile(r"^(depths|encoder_depths|decoder_depths|layers|stage_(num_)?blocks)$")
_EXPERTS = re.compile(r"^(num|n)_(local_|routed_)?experts$|^moe_num_experts$")
_CHOSEN = re.compile(r"experts_per_tok(en)?$|^moe_(top_?)k$|^top_k_experts$|^moe_top_k$")
_TOKEN = re.compile(r"token_(id|index)$|token_ids$")


def shrink(settings: Mapping[str, Any], rung: Rung) -> dict[str, Any]:
    """A configuration's dictionary, scaled down as ``rung`` says, nested ones included.

    Example:
        >>> small = shrink({"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12,
        ...                 "vocab_size": 50257, "eos_token_id": 50256}, Rung(8))
        >>> small["hidden_size"], small["num_attention_heads"], small["num_hidden_layers"]
        (96, 12, 2)
        >>> small["vocab_size"], small["eos_token_id"]
        (1000, 999)
    """
    return _Shrinker(rung).shrink(settings)


@dataclass(slots=True)
class _Shrinker:
    rung: Rung
    moved: dict[int, int] = field(default_factory=dict)

    def shrink(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        small = {key: self._value(key, value) for key, value in settings.items()}
        if not self.rung.depth:
            return small
        depths = {
            key: value
            for key, value in settings.items()
            if _DEPTH.match(key) and isinstance(value, int) and not isinstance(value, bool)
        }
        for key, depth in depths.items():
            small |= self._cut(settings, key, depth)
        return small

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self.shrink(value) if all(isinstance(key, str) for key in value) else value
        if isinstance(value, (list, tuple)):
            stages = self.rung.depth and _STAGE_DEPTHS.match(key)
            if stages and all(isinstance(item, int) for item in value):
                return [min(item, LAYERS) for item in value]
            return [self._value(key, item) for item in value]
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        if _TOKEN.search(key):
            return self._token(value)
        if key.endswith("vocab_size") and self.rung.vocabulary and key != "type_vocab_size":
            return min(value, VOCABULARY)
        if self.rung.experts and _EXPERTS.search(key):
            return min(value, EXPERTS)
        if self.rung.experts and _CHOSEN.search(key):
            return min(value, 2)
        if self.rung.experts and key in ("n_group", "topk_group"):
            return 1
        if is_width(key):
            return self._width(value)
        return value

    def _width(self, value: int) -> int:
        return value // self.rung.divisor if value % self.rung.divisor == 0 else value

    def _token(self, value: int) -> int:
        if not self.rung.vocabulary or value < VOCABULARY - 100:
            return value
        return self.moved.setdefault(value, VOCABULARY - 1 - len(self.moved))

    def _cut(self, settings: Mapping[str, Any], key: str, depth: int) -> dict[str, Any]:
        """What follows from fewer layers ``key``: their number, and everything said per layer."""
        per_layer = {
            name: value
            for name, value in settings.items()
            if isinstance(value, (list, tuple, str))
            and len(value) == depth > LAYERS
            and not is_width(name)
        }
        kinds = list(zip(*(map(str, value) for value in per_layer.values()), strict=True))
        kept = _representatives(kinds or [()] * depth, self._fewest(settings))
        cut: dict[str, Any] = {key: len(kept)}
        for name, value in per_layer.items():
            chosen = [value[layer] for layer in kept]
            cut[name] = "".join(chosen) if isinstance(value, str) else chosen
        for name, value in settings.items():
            if name in ("first_k_dense_replace", "max_window_layers") and value:
                cut[name] = min(value, len(kept) - 1)
            elif name == "per_layer_config" and value:
                cut[name] = {
                    place: value[layer] for place, layer in enumerate(kept) if layer in value
                }
            elif re.search(r"(layer_ids|layers_idx|indexes|layer_indices)$", name) and value:
                cut[name] = sorted({min(item, len(kept) - 1) for item in value})
        stages = settings.get("stage_names")
        if stages and len(stages) == depth + 1:
            count = len(settings.get("out_features") or [0])
            last = range(len(kept) - count + 1, len(kept) + 1)
            cut["stage_names"] = stages[: len(kept) + 1]
            cut["out_indices"] = list(last)
            cut["out_features"] = [stages[stage] for stage in last]
        return cut

    def _fewest(self, settings: Mapping[str, Any]) -> int:
        """How many layers hold one period of whatever repeats, and every stage that is read."""
        periods = [
            value
            for name, value in settings.items()
            if re.search(r"_(period|interval)$", name) and isinstance(value, int)
        ]
        lists = [
            len(settings[name])
            for name in ("block_types", "out_features")
            if isinstance(settings.get(name), (list, tuple))
        ]
        return max(LAYERS, *periods, *lists, 0)


def is_width(key: str) -> bool:
    """Whether a setting of this name is a width, which scales with all the others."""
    return bool(_WIDTH.search(key)) and not _NOT_WIDTH.search(key)


def _representatives(kinds: list[tuple[str, ...]], fewest: int) -> list[int]:
    """The indices of the first layer of every kind, at least ``fewest`` of them if there are."""
    first = {kind: layer for layer, kind in reversed(list(enumerate(kinds)))}
    kept = set(first.values())
    for layer in range(len(kinds)):
        if len(kept) >= fewest:
            break
        kept.add(layer)
    return sorted(kept)
