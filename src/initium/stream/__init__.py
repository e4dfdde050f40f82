"""The normative random stream: element i of parameter ``name`` under ``seed``, in NumPy.

``docs/stream.md`` specifies it; a faster implementation must give the same bits.
"""

from initium.stream.drawing import draw
from initium.stream.into import fill_into
from initium.stream.philox import VERSION
from initium.stream.round import cast

__all__ = ["VERSION", "cast", "draw", "fill_into"]
