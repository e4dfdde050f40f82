"""Distributions as data: what a tensor is filled with, with exact moments and a text form."""

from initium.spec.base import Moments, Spec
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
from initium.spec.text import parse
from initium.spec.views import Arange, InverseSoftplus, Logarithm, LogUniform, Power

__all__ = [
    "Arange",
    "Blocks",
    "Complements",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "Hadamard",
    "Identity",
    "InverseSoftplus",
    "Joint",
    "Keep",
    "LogUniform",
    "Logarithm",
    "Mirrored",
    "Moments",
    "NearIdentity",
    "Normal",
    "Orthogonal",
    "Part",
    "Power",
    "SinCos",
    "Sparse",
    "Spec",
    "TruncatedNormal",
    "Uniform",
    "Value",
    "parse",
]
