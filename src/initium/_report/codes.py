"""What every finding means, by its code: the text of ``codes.toml``, for terminal and docs."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from initium.errors import InputError, near

__all__ = ["Code", "codes", "explain_code", "is_code", "page"]

FAMILIES = {
    "1": "Numbers",
    "2": "The signal forward",
    "3": "Gradients",
    "4": "Units and attention",
    "5": "Loss and batch",
    "6": "The plan",
    "7": "The init code and its values",
    "8": "Deeper, and during the first steps",
    "9": "Between processes",
}
"""By the first digit of the code."""

HEAD = """\
# Findings

What `initium check`, `initium audit` and the watch of the first steps can find, by code. A code is
stable; its thresholds are not. `initium explain IN201` prints one of these in a terminal. Every
finding names its root first, and what it affects after it.
"""


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding: what is seen, why, the smallest example, the repair, the sources."""

    code: str
    title: str
    symptom: str
    cause: str
    example: str
    fix: str
    sources: tuple[str, ...]


@cache
def codes() -> Mapping[str, Code]:
    """Every code with its meaning, in order.

    Example:
        >>> codes()["IN201"].title
        'vanishing signal'
    """
    data = tomllib.loads(files("initium._report").joinpath("codes.toml").read_text("utf-8"))
    found = {
        code: Code(code=code, **{**entry, "sources": tuple(entry["sources"])})
        for code, entry in sorted(data.items())
    }
    return MappingProxyType(found)


def is_code(text: str) -> bool:
    """Whether ``text`` has the form of a code, in either case."""
    return re.fullmatch(r"in\d{3}", text.strip(), re.IGNORECASE) is not None


def explain_code(text: str, width: int = 80) -> str:
    """One code as text of at most ``width`` columns.

    Raises:
        InputError: there is no such code.

    Example:
        >>> print(explain_code("in305").split("\\n")[0])
        IN305: nothing to train
    """
    name = text.strip().upper()
    code = codes().get(name)
    if code is None:
        raise InputError(
            "is not the code of a finding",
            where="explain",
            value=text,
            choices=near(name, list(codes())) or tuple(codes()),
        )
    parts = [f"{code.code}: {code.title}"]
    said = (("Symptom", code.symptom), ("Cause", code.cause), ("Fix", code.fix))
    for heading, sentence in said:
        parts.append(_filled(f"{heading}: {sentence}", width))
    parts.insert(3, f"Example:\n\n{textwrap.indent(code.example, '    ')}")
    if code.sources:
        listed = "\n".join(f"  - {source}" for source in code.sources)
        parts.append(f"Sources:\n{listed}")
    return "\n\n".join(parts)


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """All codes as one page of Markdown."""
    lines = [HEAD, "| code | what it says |", "|---|---|"]
    lines += [f"| [{one.code}](#{one.code.lower()}) | {one.title} |" for one in codes().values()]
    family = ""
    for one in codes().values():
        if one.code[2] != family:
            family = one.code[2]
            lines += ["", f"## {FAMILIES[family]}"]
        lines += ["", f'### <a id="{one.code.lower()}"></a>{one.code}: {one.title}', ""]
        lines += [f"**Symptom.** {one.symptom}", "", f"**Cause.** {one.cause}", ""]
        lines += ["```python", one.example, "```", "", f"**Fix.** {one.fix}"]
        if one.sources:
            lines += ["", "**Sources.** " + "; ".join(map(_linked, one.sources)) + "."]
    return "\n".join(lines) + "\n"


def _linked(source: str) -> str:
    linked = re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
    return f"<{source}>" if source.startswith("https://") else linked
