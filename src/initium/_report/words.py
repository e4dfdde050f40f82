"""The verdict, the loss and the numbers of a report in plain words, shared by all its views."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Sequence

from initium._report.records import Finding, LossRecord, Report
from initium._types import Severity

__all__ = [
    "caution",
    "count",
    "listed",
    "loss",
    "loss_sentence",
    "number",
    "percent",
    "plain",
    "sentence",
    "shape",
    "spec",
    "summary",
    "verdict",
]


def number(value: float | None) -> str:
    """A measurement with three digits; ``–`` for what was not measured.

    Example:
        >>> number(0.12345), number(1.5e-12), number(0.0), number(None), number(float("nan"))
        ('0.123', '1.5e-12', '0', '–', 'nan')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(float(value))
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with three digits; ``–`` for what was not measured.

    Example:
        >>> percent(0.5), percent(0.0123), percent(1e-7), percent(None)
        ('50%', '1.23%', '1e-05%', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.3g}%"


def count(items: int, noun: str) -> str:
    """A number of things, with thousands apart.

    Example:
        >>> count(1, "error"), count(1200, "layer"), count(2, "pass"), count(3, "matrix")
        ('1 error', '1,200 layers', '2 passes', '3 matrices')
    """
    if items != 1:
        noun = re.sub("ix$", "ice", noun) + ("es" if noun.endswith(("ch", "ss")) else "s")
    return f"{items:,} {noun}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names of several, and how many there are besides.

    Example:
        >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"], most=2)
        ('a, b', 'a, b and 3 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shape(sizes: Iterable[int]) -> str:
    """A shape such as ``768 × 3072``; ``scalar`` for none."""
    return " × ".join(str(size) for size in sizes) or "scalar"


def spec(text: str, most: int = 60) -> str:
    """A spec with its numbers at four digits, cut where it is longer than a cell.

    Example:
        >>> spec("normal(0.017677669529663688)")
        'normal(0.01768)'
    """
    short = re.sub(r"\d+\.\d{4,}(e[+-]?\d+)?", lambda found: f"{float(found[0]):.4g}", text[:2000])
    return plain(short if len(short) <= most else f"{short[: most - 1]}…")


def plain(text: str) -> str:
    """The text with everything that would steer a terminal written as an escape.

    Example:
        >>> print(plain("fc\\x1b[31m.weight"))
        fc\\x1b[31m.weight
    """
    return "".join(
        char if char.isprintable() or char in "\n\u200d" else _escape(char) for char in text
    )


def sentence(text: str, names: Container[str] = ()) -> str:
    """The text with a capital first letter, unless it starts with a name such as ``fc.weight``.

    ``names``: others that a model has, such as ``mix``.

    Example:
        >>> sentence("all are zero"), sentence("fc.weight is"), sentence("mix is", ["mix"])
        ('All are zero', 'fc.weight is', 'mix is')
    """
    first = text.split(maxsplit=1)[:1]
    word = first[0].rstrip(",;:") if first else ""
    return plain(text[:1].upper() + text[1:] if word.isalpha() and word not in names else text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def verdict(report: Report) -> str:
    """The answer to "can I train from these weights?" in a few words.

    ``fit to train``, or ``not fit to train: `` and the errors, each where it starts.
    """
    if report.ok:
        return "fit to train"
    return f"not fit to train: {_said(report, 'error')}"


def caution(report: Report) -> str:
    """The warnings of a model that is fit to train, each where it starts; empty without any."""
    return _said(report, "warning") if report.ok else ""


def _said(report: Report, severity: Severity) -> str:
    """The first two distinct findings of a severity, and how many more there are."""
    first: dict[str, Finding] = {}
    for finding in report.findings:
        if finding.severity == severity:
            first.setdefault(finding.title, finding)
    named = "; ".join(_named(finding, report) for finding in list(first.values())[:2])
    return f"{named}; and {len(first) - 2} more" if len(first) > 2 else named


def _named(finding: Finding, report: Report) -> str:
    known = (name for name in finding.where if name in report.layers or name in report.parameters)
    place = next(known, "")
    return f"{finding.title} at {place}" if place else finding.title


def summary(report: Report) -> str:
    """How many findings there are of each severity, in words."""
    nouns: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
    found = {
        severity: sum(finding.severity == severity for finding in report.findings)
        for severity in nouns
    }
    parts = [count(found[severity], noun) for severity, noun in nouns.items() if found[severity]]
    return ", ".join(parts) or "no findings"


def loss_sentence(record: LossRecord) -> str:
    """The first loss against the loss that a healthy start would give, as sentences."""
    source = _SOURCES.get(record.source, record.source)
    if record.value is None:
        return f"There is no loss: the backward pass started from a {source}."
    if not math.isfinite(record.value):
        return f"The first loss ({source}) is not a finite number: {record.value}."
    sentences = [f"The first loss is {loss(record.value)} ({source})."]
    if record.expected is not None:
        guess = (
            f"Guessing evenly among {record.classes:,} classes gives ln {record.classes} = "
            if record.classes
            else "A start that knows nothing gives "
        )
        sentences.append(
            f"{guess}{loss(record.expected)}: {_against(record.value, record.expected)}."
        )
    if record.logit_std is not None:
        sentences.append(f"The outputs spread by {number(record.logit_std)} (standard deviation).")
    return " ".join(sentences)


_SOURCES = {
    "loss_fn": "given by loss_fn",
    "model": "the model's own",
    "random cotangent": "random gradient at the output",
}


def loss(value: float) -> str:
    """A loss with three decimals.

    Example:
        >>> loss(2.302585), loss(3.1e14)
        ('2.303', '3.1e14')
    """
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e4 else number(value)


def _against(value: float, expected: float) -> str:
    excess = value - expected
    if abs(excess) <= max(0.1 * abs(expected), 0.05):
        return "that is the loss of a guess, as it should be"
    if excess < 0:
        return "the loss is lower than a guess, as if the answer were already known"
    if expected > 0 and value > 2 * expected:
        times = number(value / expected)
        return f"the loss is {times} times that, and the first steps are spent on undoing it"
    return f"the loss is {number(excess)} above it"
