"""The outcome of an audit, as data: what the init code did to every tensor, and the findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from initium._plain import plain, saved_json
from initium._report.records import SEVERITIES, Finding
from initium._types import Severity

__all__ = ["Audit", "Kind", "TensorAudit", "Write"]

SCHEMA = 1
Kind = Literal["draw", "constant", "copy", "change"]
"""Random numbers; one value; values from another tensor; a function of what was there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write to the memory of a parameter or buffer.

    Attributes:
        by: the function that a reader of the code would look for, such as ``"kaiming_uniform_"``.
        kind: what was written; everything but ``"change"`` replaces what was there.
        where: the first line outside torch that led to it, as ``file:line in function``.
        elements: how many elements it covers.
        value: of a constant.
        default: made by the constructor of one of torch's own modules.
        loaded: the values came from outside, such as a checkpoint.
        bypass: autograd was not told: the version counter of the tensor did not move.
    """

    by: str
    kind: Kind
    where: str
    elements: int
    value: float | None = None
    default: bool = False
    loaded: bool = False
    bypass: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorAudit:
    """What happened to one parameter or buffer: ``unwritten`` counts elements never written."""

    name: str
    kind: Literal["parameter", "buffer"]
    shape: tuple[int, ...]
    dtype: str
    unwritten: int
    writes: tuple[Write, ...]
    mean: float | None
    std: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What init code did, tensor by tensor, with what is wrong about it.

    ``ok`` means that there is no finding of severity ``error``. ``print(audit)`` shows it for a
    terminal, :meth:`to_json` for everything else.

    Attributes:
        model: class name of the model.
        findings: gravest first.
        tensors: every parameter and buffer by canonical name.
        runs: how often the init code was run.
        notes: what could not be looked at, and why.
    """

    model: str
    findings: tuple[Finding, ...]
    tensors: Mapping[str, TensorAudit]
    runs: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def worst(self) -> Severity | None:
        """The gravest severity found, or ``None`` if there is no finding."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    def to_dict(self) -> dict[str, object]:
        """The whole audit as plain data; numbers that are not finite are ``None``."""
        data = plain(self)
        assert isinstance(data, dict)
        return {"initium": "audit", "schema": SCHEMA, "ok": self.ok, **data}

    def to_json(self, path: str | Path | None = None) -> str:
        """The audit as strict JSON text; also written to ``path``, at once or not at all."""
        return saved_json(self.to_dict(), path)

    def __str__(self) -> str:
        from initium._audit.table import audit_table

        return audit_table(self)
