"""A prediction beside a measurement: silence where they agree, the place where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initium
from initium._report.html import render_html


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(96, 96) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


BATCH = torch.randn(16, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def predicted() -> tuple[initium.Plan, initium.Prediction]:
    plan = initium.plan(Net(), "he", BATCH)
    return plan, initium.predict(Net(), plan, BATCH, draws=6)


def test_what_was_predicted_is_no_finding(
    predicted: tuple[initium.Plan, initium.Prediction],
) -> None:
    plan, prediction = predicted
    model = Net()
    plan.apply(model)
    report = initium.check(model, BATCH, plan=plan, prediction=prediction)
    assert not [f for f in report.findings if f.code == "IN602"]
    page = render_html(report)
    assert "predicted band" in page
    assert 'class="band moment"' in page
    assert report.to_dict()["prediction"] is not None


def test_the_layer_that_departs_is_named_with_its_weight(
    predicted: tuple[initium.Plan, initium.Prediction],
) -> None:
    plan, prediction = predicted
    model = Net()
    plan.apply(model)
    with torch.no_grad():
        model.layers[3].weight.mul_(3)
    report = initium.check(model, BATCH, plan=plan, prediction=prediction)
    (found,) = [f for f in report.findings if f.code == "IN602"]
    assert found.where[0] == "layers.3"
    assert found.where == ("layers.3", "layers.4", "layers.5", "")
    assert found.numbers["factor"] == pytest.approx(9, rel=0.5)
    assert "its weight layers.3.weight has std" in found.message
    assert "predicted band" not in render_html(initium.check(model, BATCH))


def test_a_gradient_that_departs_alone(
    predicted: tuple[initium.Plan, initium.Prediction],
) -> None:
    plan, prediction = predicted
    model = Net()
    plan.apply(model)
    model.layers[2].register_full_backward_hook(lambda module, before, after: (before[0] * 30,))
    report = initium.check(model, BATCH, plan=plan, prediction=prediction)
    (found,) = [f for f in report.findings if f.code == "IN602"]
    assert found.where[0] == "layers.1"
    assert found.title == "gradient departs from its prediction"
    assert "its weight is as planned" in found.message
