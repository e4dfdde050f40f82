"""Frozen plans of the demo models: a change of any planned number shows up here as a diff.

To accept an intended change: ``python tests/test_golden.py`` writes the files anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import initium
from initium import demo

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    (name, recipe)
    for name in ("mlp-relu-50", "mlp-tanh-6", "convnet", "resnet", "vit", "gpt")
    for recipe in ("auto", "torch")
] + [("mlp-relu-50", "he"), ("gpt", "gpt2"), ("gpt", "xavier"), ("vit", "orthogonal")]


def made(name: str, recipe: str) -> initium.Plan:
    model, inputs, _, _ = demo.build(name)
    return initium.plan(model, recipe, inputs=inputs, seed=0)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_the_plan_is_the_frozen_one(name, recipe):
    frozen = initium.Plan.load(GOLDEN / f"{name}.{recipe}.yaml")
    difference = frozen.diff(made(name, recipe))
    assert not difference, str(difference)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        made(*case).save(GOLDEN / f"{case[0]}.{case[1]}.yaml")
