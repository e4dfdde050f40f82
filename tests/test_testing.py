"""``assert_healthy``: passes quietly, fails with what was found and what to do."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import initium
from initium.errors import InputError
from initium.testing import assert_coord_check, assert_healthy, assert_variance_preserved


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


def test_a_deep_check_finds_what_one_pass_cannot() -> None:
    class Closed(nn.Module):
        """Two zero scales in a row: neither ever gets a gradient."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
            self.inner = nn.Parameter(torch.zeros(32))
            self.outer = nn.Parameter(torch.zeros(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(x + self.outer * self.inner * x.tanh())

    with pytest.raises(AssertionError, match="error IN801, no gradient after real steps, at inner"):
        assert_healthy(Closed(), BATCH, LABELS, deep=True)


# ---------------------------------------------------------------- variance


def orthogonal(gain: float = 1.0, depth: int = 8) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(depth)))
    for layer in model:
        nn.init.orthogonal_(layer.weight, gain)
    return model


def test_variance_is_preserved_by_isometries() -> None:
    assert assert_variance_preserved(orthogonal(), BATCH, factor=1.001).ok


@pytest.mark.parametrize(("gain", "backward", "fails"), [(1.5, True, True), (1.05, False, False)])
def test_variance_that_grows(gain: float, backward: bool, fails: bool) -> None:
    model = orthogonal(gain)
    if not fails:
        assert_variance_preserved(model, BATCH, backward=backward)
        return
    with pytest.raises(AssertionError) as caught:
        assert_variance_preserved(model, BATCH, backward=backward)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Sequential does not keep its variance within a factor of 4:"
    # 2.25 per layer: the seventh holds 2.25^6 times the first one's, the last is the readout.
    assert lines[1].startswith("  forward, E[x²] of 6: ")
    assert f"{1.5**12:.3g} times that of 0" in lines[1]
    assert any(line.startswith("  backward, E|g|² of 0: ") for line in lines)


def test_variance_of_chosen_modules() -> None:
    model = orthogonal(1.5)
    assert_variance_preserved(model, BATCH, modules=("2", "3"))
    with pytest.raises(InputError, match=r"modules: no such module ran .* choose from 0, 1"):
        assert_variance_preserved(model, BATCH, modules=("2", "nine"))
    with pytest.raises(InputError, match="two layers or more are needed"):
        assert_variance_preserved(model, BATCH, modules=("2",))
    with pytest.raises(InputError, match="factor: must be above 1"):
        assert_variance_preserved(model, BATCH, factor=0.5)


# ---------------------------------------------------------------- coordinates


def narrow(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def test_coordinates_that_grow_are_named_with_slope_interval_and_fix() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_coord_check(narrow, BATCH, LABELS, widths=(32, 64, 128), seeds=3, steps=1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Sequential does not keep its coordinates' size over width:"
    assert lines[1].startswith("  2 grows: its change at step 2 goes as width^")
    assert "healthy is -0.2 to 0.2; sizes " in lines[1]
    assert any("parameter_groups" in line for line in lines)


def test_coordinates_that_stay_give_the_check() -> None:
    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    found = assert_coord_check(
        lambda width: nn.Sequential(nn.Linear(64, width)),
        BATCH,
        widths=(32, 64, 128),
        optimizer=adam,
        seeds=3,
        steps=1,
    )
    assert found.ok
