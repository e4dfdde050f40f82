"""Spectral muP: starts and learning rates from the fans of each matrix alone.

Covered: Adam and SGD. Not covered: a base shape; every number follows from the fans.
"""

from __future__ import annotations

import math

from initium._plan.layout import Matrix, matrices, per_matrix
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, FROZEN_POSITIONS, MATRICES
from initium.recipes.mup import TABLES, positive, rates
from initium.spec import Normal

__all__ = ["spectral_mup"]


def spectral_mup(base_width: int = 256, optimizer: str = "adam") -> Recipe:
    """Spectral muP: every matrix, and every update, has the spectral norm sqrt(fan_out / fan_in).

    Formula: matrices, head and router included, N(0, s^2) with
    s = 1/sqrt(fan_in) min(1, sqrt(fan_out / fan_in)); embeddings N(0, 1), positions and tokens
    N(0, 0.02^2); biases 0, norms 1. Learning rate of a matrix x base_width / fan_in for Adam,
    x fan_out / fan_in for SGD; x 1 for all else.

    Args:
        base_width: the fan-in at which Adam's learning rate is the tuned one.
        optimizer: ``adam`` or ``sgd``.

    When to use: as muP, and where shapes differ within the model: nothing is asked but the fans.

    Source: Yang et al. 2023, arXiv:2310.17813, parametrization 1; huggingface/nanotron,
    src/nanotron/scaling/parametrization.py

    Known divergences: nanotron takes the SGD learning rates, fan_out / fan_in, whatever the
    optimizer, and its fans see a fused qkv as one matrix. Fans here are those of one logical
    matrix; where the blocks of one tensor have different learning rates, the smallest counts.

    Example:
        >>> spectral_mup(optimizer="sgd").text
        "spectral_mup(optimizer='sgd')"
    """
    positive("spectral_mup", base_width=base_width)
    if optimizer not in ("adam", "sgd"):
        raise RecipeError(
            "is not an optimizer of spectral_mup",
            where="spectral_mup",
            value=optimizer,
            choices=("adam", "sgd"),
        )

    def std(matrix: Matrix) -> float:
        return min(1.0, math.sqrt(matrix.fan_out / matrix.fan_in)) / math.sqrt(matrix.fan_in)

    def rate(matrix: Matrix) -> float:
        return (base_width if optimizer == "adam" else matrix.fan_out) / matrix.fan_in

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """normal(min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in))."""
        return Choice(
            per_matrix(view, lambda one: Normal(std(one))),
            "Spectral muP: 1/sqrt(fan_in) x min(1, sqrt(fan_out / fan_in)).",
            min(rate(one) for one in matrices(view)),
        )

    def table(view: ParameterView, model: ModelView) -> Choice:
        """normal(1)."""
        return Choice(Normal(1.0), "Spectral muP: N(0, 1) for embeddings.")

    rules = (
        Rule(matrix, role=MATRICES),
        Rule(table, role="embedding"),
        FROZEN_POSITIONS,
        Rule("normal(0.02)", role=TABLES, reason="Spectral muP says nothing of it: N(0, 0.02^2)."),
        *BASICS,
    )
    text = recipe_text("spectral_mup", base_width=(base_width, 256), optimizer=(optimizer, "adam"))
    return Recipe(text, rules, (rates(optimizer, "Yang et al. 2023, arXiv:2310.17813"),))
