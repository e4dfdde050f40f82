"""One forward and backward pass, measured, and what follows from the measurements."""

from initium._check.api import check

__all__ = ["check"]
