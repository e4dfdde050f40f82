"""Distributions as data: what a tensor is filled with, with exact moments and a text form."""

from initium.spec.base import Moments, Spec
from initium.spec.composite import Blocks, Keep, Part, Value
from initium.spec.elementwise import Constant, Normal, TruncatedNormal, Uniform
from initium.spec.matrix import DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse
from initium.spec.text import parse

__all__ = [
    "Blocks",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "Identity",
    "Keep",
    "Moments",
    "Normal",
    "Orthogonal",
    "Part",
    "Sparse",
    "Spec",
    "TruncatedNormal",
    "Uniform",
    "Value",
    "parse",
]
