"""What the deep check says of healthy models and costs, and slopes of the coordinate check.

python benchmarks/deep.py [docs/deep-measured.md]
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

import initium
from initium._load import load

MODELS = (
    ("demo:mlp-relu-10-128", "he"),
    ("demo:mlp-relu-50-128", "he"),
    ("demo:mlp-gelu-10-128", "auto"),
    ("demo:mlp-tanh-20-128", "xavier"),
    ("demo:convnet", "he"),
    ("demo:resnet", "auto"),
    ("demo:vit", "auto"),
    ("demo:gpt-4", "auto"),
    *((f"hf:{kind}", None) for kind in
      ("gpt2", "llama", "bert", "t5", "vit", "mixtral", "mamba", "qwen2", "gpt_neox", "opt",
       "roberta", "gemma2", "falcon", "bloom", "convnext", "resnet", "phi", "electra")),
)  # fmt: skip
WIDTHS = (64, 128, 256, 512)


class Readout(nn.Linear):
    """Logits times ``factor``, as in muP."""

    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.factor


class MLP(nn.Module):
    """Three layers; ``base`` is the width at which the readout has no factor."""

    def __init__(self, width: int, base: int | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, width), nn.Linear(width, width)
        self.readout = Readout(width, 10)
        self.readout.factor = base / width if base else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.second(self.first(x).relu()).relu())


def coordinates() -> Iterator[tuple[str, initium.CoordinateCheck]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 16, generator=generator)
    y = torch.randint(0, 10, (32,), generator=generator)

    def planned(recipe: str, base: int | None = None) -> Callable[[int], nn.Module]:
        def factory(width: int) -> nn.Module:
            model = MLP(width, base)
            seed = int(torch.randint(2**31, ()))
            initium.initialize(model, recipe, inputs=x, seed=seed)
            return model

        return factory

    def groups(model: nn.Module) -> torch.optim.Optimizer:
        plan = initium.plan(model, "mup(base_width=64)", inputs=x)
        return torch.optim.Adam(plan.parameter_groups(model, lr=1e-2))

    yield "torch's default, Adam", initium.coordinate_check(MLP, x, y, widths=WIDTHS)
    yield "he, Adam", initium.coordinate_check(planned("he"), x, y, widths=WIDTHS)
    yield (
        "he, SGD 0.1",
        initium.coordinate_check(
            planned("he"),
            x,
            y,
            optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1),
            widths=WIDTHS,
        ),
    )
    yield (
        "mup(base_width=64), Adam in its groups",
        initium.coordinate_check(
            planned("mup(base_width=64)", 64), x, y, optimizer=groups, widths=WIDTHS
        ),
    )


def slopes() -> Iterator[str]:
    yield "| start and optimizer | module | size at 1 | change at 2 | change at 4 | verdict |"
    yield "|---|---|---|---|---|---|"
    for title, found in coordinates():
        by = {(one.name, one.step): one for one in found.slopes}
        for name in ("first", "second", "readout"):
            cells = [by[name, step] for step in (1, 2, 4)]
            text = [f"{c.slope:+.2f} ({c.low:+.2f} .. {c.high:+.2f})" for c in cells]
            worst = next((c.verdict for c in cells if c.verdict != "ok"), "ok")
            yield f"| {title} | `{name}` | {' | '.join(text)} | {worst} |"


def healthy() -> Iterator[str]:
    yield "| model | start | findings of the deep part | told | took |"
    yield "|---|---|---|---|---|"
    for name, recipe in MODELS:
        loaded = load(name, tiny=name.startswith("hf:"), seed=0)
        inputs = loaded.inputs
        plan = initium.initialize(loaded.model, recipe, inputs=inputs) if recipe else None
        told: list[str] = []
        began = time.perf_counter()
        report = initium.check(
            loaded.model,
            inputs,
            loaded.targets,
            loaded.loss_fn,
            plan,
            inferred=loaded.inferred,
            deep=True,
            announce=told.append,
        )
        whole = time.perf_counter() - began
        found = [f"{f.severity} {f.code}" for f in report.findings if f.code.startswith("IN8")]
        estimate = re.search(r"and ([\d.]+) s", told[0]) if told else None
        took = report.deep.seconds if report.deep else 0.0
        yield (
            f"| `{name}` | {recipe or 'its own'} | {', '.join(found) or 'none'} | "
            f"{estimate[1] if estimate else '-'} s | {took:.1f} s |"
        )
        print(name, found, f"{whole:.1f} s", file=sys.stderr)


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/deep-measured.md")
    lines = [
        "# The deep check, measured",
        "",
        "Written by `benchmarks/deep.py`; how to read it: [deep.md](deep.md).",
        "",
        "## Slopes of the coordinate check",
        "",
        f"Widths {', '.join(map(str, WIDTHS))}, an MLP of three layers, four seeds; 95% intervals.",
        "",
        *slopes(),
        "",
        "## Findings on models that start well, and the cost",
        "",
        "Models of Transformers are scaled down, with their own starts. One thread of a CPU; "
        "`told` is the estimate before it starts.",
        "",
        *healthy(),
    ]
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
