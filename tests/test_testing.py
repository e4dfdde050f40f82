"""``assert_healthy``: passes quietly, fails with what was found and what to do."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import initium
from initium.errors import InputError
from initium.testing import assert_healthy


def deep() -> nn.Module:
    layers = [part for _ in range(30) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


BATCH = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 10


def test_a_healthy_model_gives_its_report() -> None:
    model = deep()
    plan = initium.initialize(model, "he", inputs=BATCH)
    report = assert_healthy(model, BATCH, LABELS, plan=plan)
    assert isinstance(report, initium.Report)
    assert report.ok


def test_a_vanishing_signal_is_an_assertion_error_with_the_findings_and_the_fix() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_healthy(deep(), BATCH, LABELS)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Sequential is not fit to train from these weights:"
    assert lines[1].startswith("  error IN")
    assert any(line.startswith("    fix: ") for line in lines)


def test_fail_on_must_be_a_severity() -> None:
    as_users_have_it = inspect.unwrap(assert_healthy)  # without the run-time check of types
    with pytest.raises(
        InputError, match=r"fail_on: is not a severity .*choose from error, warning"
    ):
        as_users_have_it(deep(), BATCH, fail_on="fatal")
