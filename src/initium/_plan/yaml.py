"""YAML 1.2 with line numbers, for plans and recipes: read without code, written in order."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from initium.errors import InitiumError

__all__ = ["make_yaml", "parse_yaml", "place"]


def make_yaml(kind: str) -> YAML:
    """A reader and writer: ``rt`` keeps line numbers, ``safe`` writes plain data."""
    yaml = YAML(typ=kind, pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 1_000_000_000
    yaml.allow_unicode = True
    return yaml


def parse_yaml(text: str, path: Path, error_type: type[InitiumError], fix: str = "") -> object:
    """The data of a YAML text; what is wrong with it is raised as ``error_type``."""
    advice = {"fix": fix} if fix else {}
    try:
        return make_yaml("rt").load(text)
    except DuplicateKeyError as error:
        line = f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else str(path)
        found = str(error.problem or "").split(" with value")[0]
        raise error_type(
            found or "has a duplicate key", where=line, fix="remove one of the two"
        ) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise error_type(f"is not YAML: {error.problem}", where=line, **advice) from error
    except (YAMLError, ValueError) as error:
        raise error_type(f"is not YAML: {error}", where=str(path), **advice) from error
    except RecursionError as error:
        raise error_type("is nested too deeply", where=str(path), **advice) from error


def place(path: Path, data: object, key: object) -> str:
    """The file, and the line of a key in it where that is known."""
    marks = getattr(data, "lc", None)
    if marks is None:
        return str(path)
    known = (marks.data or {}).get(key)
    line = known[0] if known else marks.line
    return f"{path}, line {line + 1}"
