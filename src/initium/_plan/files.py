"""Plan files: YAML 1.2 or JSON, written at once or not at all, and read with suspicion.

The file holds what the plan holds and nothing that follows from it (std and mean come from the
spec). Reading runs no code: a spec is text of the form ``name(value, key=value)``.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initium import stream
from initium._files import write_text
from initium._plan.needs import Need
from initium._plan.plan import Entry, Plan
from initium._plan.yaml import make_yaml, parse_yaml, place
from initium._types import ROLES
from initium.errors import PlanFileError, SpecError, near
from initium.spec import parse

__all__ = ["VERSION", "load", "save"]

VERSION = 1
BUFFER = "buffer"
HEADER = ("initium", "version", "stream", "model", "recipe", "seed", "entries")
REQUIRED = ("spec", "shape", "dtype", "role", "reason")
OPTIONAL = ("evidence", "aliases", "lr", "persistent")
NEEDS = ("what", "value", "where", "who", "source")
AGAIN = "save the plan again, or correct this place by hand"


def save(plan: Plan, path: str | Path) -> Path:
    """Write a plan, at once or not at all; returns the path.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    data = _to_data(plan)
    if path.suffix == ".json":
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        out = io.StringIO()
        make_yaml("safe").dump(data, out)
        text = out.getvalue()
    return write_text(path, text)


def load(path: str | Path) -> Plan:
    """Read a plan and check every value.

    Raises:
        PlanFileError: the file is missing, damaged, or of another version; the message has the line
            or the key, the value found, and the fix.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PlanFileError("is not UTF-8 text", where=str(path), fix=AGAIN) from error
    except OSError as error:
        raise PlanFileError(
            f"cannot be read: {error.strerror or error}",
            where=str(path),
            fix="give the path of a file that plan.save() wrote",
        ) from error
    data = (
        _parse_json(text, path)
        if path.suffix == ".json"
        else parse_yaml(text, path, PlanFileError, AGAIN)
    )
    return _Reader(path).plan(data)


def _to_data(plan: Plan) -> dict[str, Any]:
    entries = {}
    for name, entry in plan.entries.items():
        told: dict[str, Any] = {
            "spec": str(entry.spec),
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "role": entry.role,
            "reason": entry.reason,
        }
        if entry.evidence:
            told["evidence"] = entry.evidence
        if entry.aliases:
            told["aliases"] = list(entry.aliases)
        if entry.lr != 1.0:
            told["lr"] = entry.lr
        if not entry.persistent:
            told["persistent"] = False
        entries[name] = told
    needs = [{key: getattr(need, key) for key in NEEDS} for need in plan.needs]
    return {
        "initium": "plan",
        "version": VERSION,
        "stream": plan.stream,
        "model": plan.model,
        "recipe": plan.recipe,
        "seed": plan.seed,
        **({"needs": needs} if needs else {}),
        **({"notes": list(plan.notes)} if plan.notes else {}),
        "entries": entries,
    }


def _parse_json(text: str, path: Path) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise PlanFileError(
                    f"has a duplicate key {key!r}", where=str(path), fix="remove one of the two"
                )
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise PlanFileError(
            f"is not JSON: {error.msg}", where=f"{path}, line {error.lineno}", fix=AGAIN
        ) from error
    except RecursionError as error:
        raise PlanFileError("is nested too deeply", where=str(path), fix=AGAIN) from error


class _Reader:
    """Turns parsed data into a plan; knows the file for its messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self, data: object) -> Plan:
        """The plan that the parsed file describes."""
        if not isinstance(data, Mapping) or data.get("initium") != "plan":
            raise PlanFileError(
                "is not a plan of initium",
                where=str(self.path),
                fix="give the path of a file that plan.save() wrote",
            )
        version = data.get("version")
        if version != VERSION or isinstance(version, bool):
            raise self.error(
                data,
                "version",
                "is a version of plan files that this initium does not know",
                version,
                f"use a file of version {VERSION}, or the initium that wrote this one",
            )
        self.keys(data, HEADER, (*HEADER, "needs", "notes"), "the plan")
        if self.integer(data, "stream") != stream.VERSION:
            raise self.error(
                data,
                "stream",
                "is a version of the random stream that this initium does not draw",
                data["stream"],
                f"set it to {stream.VERSION} for other random numbers of the same distributions",
            )
        found = data["entries"]
        if not isinstance(found, Mapping):
            raise self.error(data, "entries", "must be a mapping of names", found, AGAIN)
        return Plan(
            entries={str(name): self.entry(found, name) for name in found},
            recipe=self.string(data, "recipe"),
            seed=self.integer(data, "seed"),
            model=self.string(data, "model"),
            stream=int(data["stream"]),
            needs=self.needs(data) if "needs" in data else (),
            notes=self.strings(data, "notes", "") if "notes" in data else (),
        )

    def needs(self, data: Mapping[Any, Any]) -> tuple[Need, ...]:
        """What the recipe needs outside the weights."""
        found = []
        for item in self.sequence(data, "needs", ""):
            if not isinstance(item, Mapping):
                raise self.error(data, "needs", "must hold mappings", item, AGAIN)
            self.keys(item, NEEDS, NEEDS, "a need")
            value = item["value"]
            if not isinstance(value, str):
                value = self.number(item, "value")
            what, where, who, source = (self.string(item, k) for k in NEEDS if k != "value")
            found.append(Need(what, str(value) if isinstance(value, str) else value, where, who,
                              source))  # fmt: skip
        return tuple(found)

    def entry(self, entries: Mapping[Any, Any], name: object) -> Entry:
        """One entry of the plan."""
        data = entries[name]
        if not isinstance(name, str):
            raise self.error(entries, name, "a parameter name must be a string", name, AGAIN)
        if not isinstance(data, Mapping):
            raise self.error(entries, name, "an entry must be a mapping", data, AGAIN)
        self.keys(data, REQUIRED, (*REQUIRED, *OPTIONAL), name)
        shape = self.sequence(data, "shape", name)
        for size in shape:
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise self.error(data, "shape", "must hold sizes", list(shape), AGAIN, name)
        aliases = self.strings(data, "aliases", name) if "aliases" in data else ()
        role = self.string(data, "role", name)
        if role not in (*ROLES, BUFFER):
            choices = near(role, (*ROLES, BUFFER))
            fix = f"write one of {', '.join(choices)}" if choices else AGAIN
            raise self.error(data, "role", "is not a role", role, fix, name)
        sizes = tuple(int(size) for size in shape)
        text = self.string(data, "spec", name)
        try:
            spec = parse(text)
            spec.check(sizes)
        except SpecError as error:
            raise self.error(data, "spec", str(error), text, AGAIN, name) from error
        return Entry(
            spec=spec,
            shape=sizes,
            dtype=self.string(data, "dtype", name),
            role=role,
            reason=self.string(data, "reason", name),
            evidence=self.string(data, "evidence", name) if "evidence" in data else "",
            aliases=aliases,
            lr=self.number(data, "lr", name) if "lr" in data else 1.0,
            persistent=self.boolean(data, "persistent", name) if "persistent" in data else True,
        )

    def keys(
        self, data: Mapping[Any, Any], required: tuple[str, ...], known: tuple[str, ...], of: str
    ) -> None:
        """All required keys are there and no unknown one."""
        for key in required:
            if key not in data:
                raise PlanFileError(
                    f"{of} lacks the key {key!r}", where=self.place(data, None), fix=AGAIN
                )
        for key in data:
            if key not in known:
                raise PlanFileError(
                    f"{of} has an unknown key",
                    where=self.place(data, key),
                    value=key if isinstance(key, str) else repr(key),
                    choices=known,
                )

    def string(self, data: Mapping[Any, Any], key: str, of: str = "") -> str:
        """A string, as a plain ``str``."""
        if not isinstance(data[key], str):
            raise self.error(data, key, "must be a string", data[key], "put it in quotes", of)
        return str(data[key])

    def integer(self, data: Mapping[Any, Any], key: str) -> int:
        """An integer that is not a boolean."""
        value = data[key]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(data, key, "must be an integer", value, AGAIN)
        return int(value)

    def number(self, data: Mapping[Any, Any], key: str, of: str = "") -> float:
        """A finite number, as a float."""
        value = data[key]
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits or not math.isfinite(value):
            raise self.error(data, key, "must be a finite number", value, AGAIN, of)
        return float(value)

    def boolean(self, data: Mapping[Any, Any], key: str, of: str) -> bool:
        """True or false."""
        if not isinstance(data[key], bool):
            raise self.error(data, key, "must be true or false", data[key], AGAIN, of)
        return bool(data[key])

    def sequence(self, data: Mapping[Any, Any], key: str, of: str) -> tuple[Any, ...]:
        """A list, as a tuple."""
        if not isinstance(data[key], list):
            raise self.error(data, key, "must be a list", data[key], AGAIN, of)
        return tuple(data[key])

    def strings(self, data: Mapping[Any, Any], key: str, of: str) -> tuple[str, ...]:
        """A list of strings, as a tuple."""
        found = self.sequence(data, key, of)
        if not all(isinstance(item, str) for item in found):
            raise self.error(data, key, "must hold text", list(found), AGAIN, of)
        return tuple(str(item) for item in found)

    def error(
        self, data: object, key: object, what: str, value: object, fix: str, of: str = ""
    ) -> PlanFileError:
        """An error at a key, with the line where the file has lines."""
        told = f"{of}.{key}" if of else str(key)
        return PlanFileError(
            what, where=f"{self.place(data, key)}, {told}", value=_bare(value), fix=fix
        )

    def place(self, data: object, key: object) -> str:
        """The file, and the line of a key in it where that is known."""
        return place(self.path, data, key)


def _bare(value: object) -> object:
    """A value without the types that the YAML reader adds."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_bare(key): _bare(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    return value
