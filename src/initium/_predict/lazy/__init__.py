"""Lazy draws: the model's own code without its weights, each product drawn when it is asked for."""

from initium._predict.lazy.api import draw

__all__ = ["draw"]
