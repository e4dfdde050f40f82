"""What a model is: one forward pass without weights, and what it says of every parameter."""

from __future__ import annotations

from initium._inspect.api import inspect

__all__ = ["inspect"]
