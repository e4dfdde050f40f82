"""Specs as text, read back: the inverse of ``str(spec)``, without ``eval``."""

from __future__ import annotations

import dataclasses
import inspect

from initium._text import Call, parse_call
from initium.errors import SpecError, near
from initium.spec.base import Spec
from initium.spec.composite import Blocks, Keep, Part, Value
from initium.spec.elementwise import Constant, Normal, TruncatedNormal, Uniform
from initium.spec.joint import Complements, Joint, NearIdentity
from initium.spec.matrix import (
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    Mirrored,
    Orthogonal,
    Sparse,
)
from initium.spec.tables import SinCos
from initium.spec.views import Arange, InverseSoftplus, Logarithm, LogUniform, Power

__all__ = ["SPECS", "parse"]

SPECS: dict[str, type[Spec]] = {
    spec.name: spec
    for spec in (
        *(Constant, Normal, Uniform, TruncatedNormal),
        *(Orthogonal, DeltaOrthogonal, Dirac, Identity, Hadamard, Mirrored, Sparse),
        *(Arange, LogUniform, Logarithm, InverseSoftplus, Power, SinCos),
        *(Blocks, Joint, Value, Keep),
    )
}
"""Every spec by the name that its text begins with."""
KINDS: dict[str, type] = {
    **SPECS,
    "part": Part,
    NearIdentity.name: NearIdentity,
    Complements.name: Complements,
}
"""Specs, and what stands only inside one."""


def parse(text: str) -> Spec:
    """Read a spec from its text.

    Raises:
        SpecError: an unknown name, a wrong argument, or text of another form.

    Example:
        >>> parse("truncated_normal(0.02, cut=3)")
        TruncatedNormal(std=0.02, mean=0.0, cut=3.0, compensated=True)
    """
    try:
        call = parse_call(text)
    except ValueError as error:
        raise SpecError(
            str(error), where="spec", fix="write a distribution such as normal(0.02)"
        ) from None
    spec = _build(call)
    if not isinstance(spec, Spec):
        raise SpecError("is not a distribution", where="spec", value=call.name, choices=SPECS)
    return spec


def _build(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_build(item) for item in value)
    if not isinstance(value, Call):
        return value
    kind = KINDS.get(value.name)
    if kind is None:
        raise SpecError(
            "is not a known distribution",
            where="spec",
            value=value.name,
            choices=near(value.name, SPECS) or SPECS,
        )
    arguments = [_build(item) for item in value.args]
    keywords = {name: _build(item) for name, item in value.kwargs.items()}
    try:
        inspect.signature(kind).bind(*arguments, **keywords)
    except TypeError as error:
        raise SpecError(
            str(error),
            where=value.name,
            choices=[field.name for field in dataclasses.fields(kind)],
        ) from None
    return kind(*arguments, **keywords)
