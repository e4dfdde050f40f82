"""The whole path on models that no one here wrote: inspect, plan, apply, check."""

from __future__ import annotations

import pytest
import torch
from corpus import TIMM, TRANSFORMERS

import initium
from initium._load import load

SOURCES = [f"hf:{name}" for name in TRANSFORMERS] + [f"timm:{name}" for name in TIMM]
IMAGES = 4
"""Batch of the image models, for speed."""


@pytest.mark.parametrize("source", SOURCES)
def test_from_a_foreign_model_to_a_proved_start(source):
    loaded = load(source, tiny=True)
    model, inputs, targets = loaded.model, loaded.inputs, loaded.targets
    if isinstance(inputs, torch.Tensor) and isinstance(targets, torch.Tensor):
        inputs, targets = inputs[:IMAGES], targets[:IMAGES]
    view = initium.inspect(model, inputs)
    assert view.problem is None

    unknown = [p.name for p in view.owners if p.role == "unknown" and len(p.shape) > 1]
    assert not unknown

    plan = initium.plan(view, "auto", seed=3)
    named = {name for name, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    assert set(plan.entries) == named

    plan.apply(model)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    for name in list(plan.entries)[:6]:
        planned = plan.tensor(name) if str(plan.entries[name].spec) != "keep()" else None
        if planned is not None:
            assert torch.equal(planned, model.state_dict(keep_vars=True)[name].detach()), name

    report = initium.check(model, inputs, targets, loaded.loss_fn, plan=plan)
    assert report.ok, str(report)
