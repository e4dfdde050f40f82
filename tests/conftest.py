"""What holds for every test: types are checked at run time, and nothing depends on luck."""

from __future__ import annotations

import os

import pytest
import torch
from beartype import BeartypeConf
from beartype.claw import beartype_package
from hypothesis import HealthCheck, settings

# Before any test module imports the package. An int is a float, as for every type checker. Left out
# are annotations that have no value at run time: those of a NamedTuple (initium.demo), and of the
# commands, which import what they need when they are called.
beartype_package(
    "initium",
    conf=BeartypeConf(
        is_pep484_tower=True,
        claw_skip_package_names=("initium.demo", "initium._cli", "initium._fill.triton_kernels"),
    ),
)
os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
