"""How a plan lies on disk: sharded safetensors, every byte known before the first is written.

A file is eight bytes with the length of its header, the header as JSON, and the tensors without
gaps. The header is padded with spaces to a multiple of :data:`BLOCK`, and the widest elements come
first, so that every element is aligned. Its metadata hold a digest of the plan: files of the same
digest and layout have the same bytes, which is how a resumed write knows what is done.

Source: the format as https://github.com/huggingface/safetensors defines it, and the names and the
index of shards as transformers reads them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from initium._fill.tensor import check_fillable
from initium._plan.plan import Entry, Plan
from initium.errors import PlanError
from initium.stream.round import CASTS

__all__ = ["BLOCK", "INDEX", "Shard", "Stored", "index_text", "lay_out", "read_size"]

BLOCK = 4096
"""Headers are padded to it, and files are written in multiples of it."""
VERSION = 1
"""Of the layout: it goes into the digest."""
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

TYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "complex64": ("C64", 8),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
"""The format's name of a dtype, and the bytes of one element."""
UNITS = {
    "": 1,
    **{f"{prefix}B": 10 ** (3 * power) for power, prefix in enumerate(["", "K", "M", "G", "T"])},
    **{f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)},
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: what it holds, in which dtype, and where its bytes lie."""

    name: str
    entry: Entry
    dtype: str
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return TYPES[self.dtype][1]


@dataclass(frozen=True)
class Shard:
    """One file: its name, its header with the length in front, and its tensors as they lie."""

    file: str
    header: bytes
    tensors: tuple[Stored, ...]
    size: int

    def is_in(self, directory: Path) -> bool:
        """Whether the directory holds this file, whole: a file gets its name when it is."""
        path = directory / self.file
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return file.read(len(self.header)) == self.header


def lay_out(plan: Plan, dtype: object = None, shard_size: int | str = "5GB") -> tuple[Shard, ...]:
    """The files of a checkpoint, in the order of the plan; nothing is drawn.

    Raises:
        PlanError: a wrong dtype or size, an entry without values, or one that cannot be stored.
    """
    wanted, limit = _dtype(dtype), read_size(shard_size)
    held = {name: entry for name, entry in plan.entries.items() if entry.persistent}
    _check_names(plan)
    _check_values(held)
    sized = []
    for name, entry in held.items():
        kind = wanted if wanted is not None and entry.dtype in CASTS else entry.dtype
        check_fillable(name, entry, kind)
        if kind not in TYPES:
            raise PlanError("cannot be stored as safetensors", where=name, value=kind,
                            choices=TYPES)  # fmt: skip
        sized.append(Stored(name, entry, kind, 0, math.prod(entry.shape) * TYPES[kind][1]))
    groups = _group(sized, limit)
    digest = _digest(plan, groups)
    files = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        files = [SINGLE]
    return tuple(_shard(file, group, digest) for file, group in zip(files, groups, strict=True))


def index_text(shards: tuple[Shard, ...]) -> str:
    """The index: which file holds which tensor."""
    stored = [(item, shard.file) for shard in shards for item in shard.tensors]
    total = sum(item.stop - item.start for item, _ in stored)
    found = {
        "metadata": {"total_size": total},
        "weight_map": {item.name: file for item, file in stored},
    }
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _group(tensors: list[Stored], limit: int) -> list[list[Stored]]:
    """As many tensors in turn as fit; one that is larger than the limit stands alone."""
    groups: list[list[Stored]] = [[]]
    taken = 0
    for item in tensors:
        if groups[-1] and taken + item.stop > limit:
            groups.append([])
            taken = 0
        groups[-1].append(item)
        taken += item.stop
    return groups


def _shard(file: str, group: list[Stored], digest: str) -> Shard:
    placed, offset = [], 0
    for item in sorted(group, key=lambda item: -item.width):
        size = item.stop
        placed.append(Stored(item.name, item.entry, item.dtype, offset, offset + size))
        offset += size
    told: dict[str, object] = {"__metadata__": {"format": "pt", "initium": digest}}
    for item in placed:
        told[item.name] = {
            "dtype": TYPES[item.dtype][0],
            "shape": list(item.entry.shape),
            "data_offsets": [item.start, item.stop],
        }
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % BLOCK)
    header = len(text).to_bytes(8, "little") + text
    return Shard(file, header, tuple(placed), len(header) + offset)


def _digest(plan: Plan, groups: list[list[Stored]]) -> str:
    """Of all that decides the bytes: stream, seed, and each tensor's name, spec, shape, dtype and
    file."""
    told = [
        [(item.name, str(item.entry.spec), item.entry.shape, item.dtype) for item in group]
        for group in groups
    ]
    text = json.dumps([VERSION, plan.stream, plan.seed, told])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _check_names(plan: Plan) -> None:
    owner_of: dict[str, str] = {"__metadata__": "the format itself"}
    for name, entry in plan.entries.items():
        for each in (name, *entry.aliases):
            if each in owner_of:
                raise PlanError(
                    f"is the name of two tensors: {owner_of[each]} and {name}",
                    where=each,
                    fix="rename one of them in the model, and plan it again",
                )
            owner_of[each] = name


def _check_values(held: dict[str, Entry]) -> None:
    kept = [name for name, entry in held.items() if entry.kept]
    if kept:
        more = f" and {len(kept) - 5} more" if len(kept) > 5 else ""
        raise PlanError(
            "kept as the model has them, so that the plan knows no values to write",
            where=", ".join(kept[:5]) + more,
            fix="give them a spec by rules=, or apply the plan to the model and save that",
        )


def _dtype(dtype: object) -> str | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in CASTS:
        raise PlanError(
            "is not a floating type that weights can be written in",
            where="dtype",
            value=str(dtype),
            choices=CASTS,
        )
    return name


def read_size(size: int | str) -> int:
    """A number of bytes, or a text such as ``"5GB"`` (10^9) or ``"5GiB"`` (2^30)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    if isinstance(size, bool) or found is None or found[2].lower() not in units:
        raise PlanError(
            "is not a size",
            where="shard_size",
            value=size,
            fix='write a number of bytes, or a text such as "500MB", "5GB" or "4GiB"',
        )
    count = int(float(found[1]) * units[found[2].lower()])
    if count < 1:
        raise PlanError("must be one byte or more", where="shard_size", value=size)
    return count
