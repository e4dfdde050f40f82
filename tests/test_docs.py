"""The Python blocks of the README and of the pages: each runs, in order, as a reader would run it.

Names that a page takes as given (``model``, ``batch``, ...) are set beforehand. Left out: what
needs a cluster or a trainer (their own tests and the scripts under ``examples`` run that), and
``findings.md``, whose examples are lines to recognise. Of ``predict.md``, what it prints too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initium

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = (
    "transformers.Trainer",
    "fully_shard(",
    "DistributedDataParallel(",
    "deepspeed.",
    "apply(stage",
)
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("audit", "calibrate", "choosing", "deep")),
    *(f"docs/{name}.md" for name in ("distributed", "init", "repair", "report")),
]


class Gated(nn.Module):
    """A model with a gate, which an example names."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(64, width), nn.Linear(64, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(x) * torch.sigmoid(self.gate(x)))


def build(width: int) -> nn.Module:
    """muP by hand: variance 2/fan_in, and 1/fan_in^2 in the readout."""
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 4, bias=False))
    for name, weight in model.named_parameters():
        head = name == "4.weight"
        std = 8 / width if head else (2 / weight.shape[-1]) ** 0.5
        nn.init.normal_(weight, std=std) if weight.dim() > 1 else nn.init.zeros_(weight)
    return model


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Learning rates of 1/width for what reads the width."""
    return [
        {"params": [weight], "lr": 1e-3 * 64 / weight.shape[1] if weight.dim() > 1 else 1e-3}
        for weight in model.parameters()
    ]


def given() -> dict[str, Any]:
    """What pages take as given."""
    outer = nn.Sequential()
    outer.add_module("inner", Gated())
    generator = torch.Generator().manual_seed(0)
    batch, targets = torch.randn(32, 64, generator=generator), torch.arange(32) % 4
    plan = initium.initialize(outer, "auto", inputs=batch)

    return {
        "model": outer,
        "batch": batch,
        "targets": targets,
        "plan": plan,
        "report": initium.check(outer, batch, targets, plan=plan),
        "build": build,
        "groups": groups,
        "make": lambda model: torch.optim.Adam(groups(model)),
        "layer": nn.Linear(8, 8),
        "head": nn.Linear(8, 4),
        "generator": generator,
        "initium": initium,
        "torch": torch,
    }


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in initium.init.__all__:  # a page replaces them
        monkeypatch.setattr(torch.nn.init, name, getattr(torch.nn.init, name))
    text = (ROOT / page).read_text()
    names = {} if page == "README.md" else given()
    if "report" in names:
        names["report"].to_json("before.json")
    torch.manual_seed(0)
    for block in BLOCK.finditer(text):
        if not any(word in block[1] for word in ELSEWHERE):
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[1], str(ROOT / page), "exec"), names)


def test_what_the_page_of_predictions_shows_is_what_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, names = (ROOT / "docs/predict.md").read_text(), dict[str, Any]()
    torch.manual_seed(0)
    for block in BLOCK.finditer(text):
        exec(block[1], names)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = re.findall(r"^```\n(.*?)^```$", BLOCK.sub("", text), re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    for line in "".join(shown).splitlines():
        words = line.split()
        assert (
            words in ([], ["..."])
            or words[0][0] == "─"
            or any(_alike(words, other) for other in printed)
        ), line


def _alike(words: list[str], others: list[str]) -> bool:
    """Whether they are the same, numbers of few draws within a factor of five."""
    return len(words) == len(others) and all(
        one == other or _near(one, other) for one, other in zip(words, others, strict=True)
    )


def _near(one: str, other: str) -> bool:
    try:
        return 0.2 < float(one.rstrip(":,")) / float(other.rstrip(":,")) < 5
    except ValueError:
        return False
