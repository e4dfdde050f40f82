"""What ``auto`` promises, measured over seeds on a covering design of networks.

Plain, residual without norms, pre-norm and post-norm nets, dense and convolutional, every
activation, 10 to 1,000 layers. Every net is filled from its plan under several seeds, and the
second moments at every block and the summed gradients are compared with what the plan predicts:

- the mean of log q at every block within 0.2 + 3 sqrt(v / seeds) of its prediction, v being the
  variance of log q over seeds that the finite width makes;
- where v <= 0.25, the mean of q within [0.8, 1.25] of its aim;
- 95% of the seeds inside the prediction +- (0.1 + 2 sqrt(v));
- the gradient, end to end: within [0.5, 2] for isometric starts, and within a factor 2 of its law
  elsewhere;
- ``calibrate`` brings every weight within [0.9, 1.1] of its target on the batch.

A mean over few seeds strays by itself: there are as many, up to 64, as bring its error to a
twentieth, and as 20 seconds of the processor allow, at least 4.

    python benchmarks/auto.py --out out/auto.json           # nets of up to 2^28 parameters
    python benchmarks/auto.py --out out/auto.json --quick   # up to 2^20, fewer conv nets
    both write docs/auto-measured.md

Outcomes are kept after every net with a key of the planned specs, of what is predicted and of
torch's version, so that a later run goes on from there and measures anew what does not fit. Quick
nets of up to 30 layers have up to 2^23 parameters.

Not covered: attention (docs/moments.md), training.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import initium
from initium._scheme.points import at
from initium._types import ModelView
from initium.recipes._chains import Chain, chains, spread
from initium.recipes._signal import post_norm_trunks, signals

PAGE = Path(__file__).parents[1] / "docs" / "auto-measured.md"
LARGEST = 1 << 28
CALIBRATED = 1 << 24
"""Weights up to which a net is calibrated as well."""
ERROR, FEWEST, PATIENCE = 0.05, 4, 20.0
"""The error of the mean of log q that is wanted, the fewest seeds, and the seconds for more."""
INPUTS, CLASSES, BATCH, SIDE = 64, 10, 8, 6
DEPTHS = (10, 30, 100, 300, 1000)
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CHANNELS = (16, 32, 64, 128, 256, 512)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu(0.2)": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "celu(0.5)": lambda: nn.CELU(0.5),
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "softsign": nn.Softsign,
    "sigmoid": nn.Sigmoid,
}


class Plain(nn.Module):
    """Layers and activations in turn, and a head on the mean over positions."""

    def __init__(self, make: Callable[[], nn.Module], depth: int, width: int, conv: bool) -> None:
        super().__init__()
        sizes = [3 if conv else INPUTS] + [width] * (depth - 1)
        self.blocks = nn.ModuleList(
            _layer(fan_in, fan_out, conv) for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.phi = nn.ModuleList(make() for _ in self.blocks)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, phi in zip(self.blocks, self.phi, strict=True):
            x = phi(layer(x))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


class Block(nn.Module):
    """x + f(x), x + f(norm(x)) or norm(x + f(x)), with f of two layers."""

    def __init__(self, make: Callable[[], nn.Module], width: int, conv: bool, norm: str) -> None:
        super().__init__()
        self.up, self.down = _layer(width, width, conv), _layer(width, width, conv)
        self.phi, self.place = make(), norm
        self.norm = nn.GroupNorm(1, width) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.norm(x) if self.place == "pre" else x
        x = x + self.down(self.phi(self.up(read)))
        return self.norm(x) if self.place == "post" else x


class Residual(nn.Module):
    """A stem, residual blocks, and a head."""

    def __init__(
        self, make: Callable[[], nn.Module], depth: int, width: int, conv: bool, norm: str
    ) -> None:
        super().__init__()
        self.stem = _layer(3 if conv else INPUTS, width, conv)
        self.blocks = nn.ModuleList(Block(make, width, conv, norm) for _ in range(depth // 2))
        self.norm = nn.GroupNorm(1, width) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


def _layer(fan_in: int, fan_out: int, conv: bool) -> nn.Module:
    return nn.Conv2d(fan_in, fan_out, 3, padding=1) if conv else nn.Linear(fan_in, fan_out)


FAMILIES = ("plain", "norm-free residual", "pre-norm", "post-norm")
NORMS = {"norm-free residual": "", "pre-norm": "pre", "post-norm": "post"}


@dataclass(frozen=True)
class Case:
    """One network of the design."""

    family: str
    conv: bool
    phi: str
    depth: int
    width: int

    @property
    def parameters(self) -> int:
        return self.depth * self.width**2 * (9 if self.conv else 1)

    def build(self) -> nn.Module:
        make = ACTIVATIONS[self.phi]
        if self.family == "plain":
            return Plain(make, self.depth, self.width, self.conv)
        return Residual(make, self.depth, self.width, self.conv, NORMS[self.family])


@dataclass(frozen=True)
class Row:
    """What was measured of a case, against its prediction and what is allowed."""

    case: Case
    seeds: int
    start: str
    spread: float
    off: float
    allowed: float
    ratio: tuple[float, float]
    inside: float
    gradient: float
    law: float
    told: str
    calibrated: bool
    key: str
    seconds: float = 0.0

    @classmethod
    def read(cls, held: dict[str, Any]) -> Row:
        """A row from its outcome, as ``dataclasses.asdict`` gives it."""
        low, high = held["ratio"]
        return cls(**held | {"case": Case(**held["case"]), "ratio": (low, high)})

    @property
    def error(self) -> float:
        """The standard error of the mean of log q."""
        return math.sqrt(self.spread / self.seeds)

    @property
    def failures(self) -> list[str]:
        found = []
        if self.off > self.allowed:
            found.append("log q")
        if self.spread <= 0.25 and not (self.ratio[0] >= 0.8 and self.ratio[1] <= 1.25):
            found.append("mean q")
        if self.inside < 0.95:
            found.append("band")
        isometric = self.start in ("mirrored", "orthogonal") or self.case.family == FAMILIES[1]
        low, high = (0.5, 2.0) if isometric else (self.law / 2, self.law * 2)
        if not low <= self.gradient <= high:
            found.append("gradient")
        if not self.calibrated:
            found.append("calibrate")
        return found


def design(quick: bool) -> Iterator[Case]:
    """Every family with every activation; depths and widths in turn, as large as is allowed."""
    yield from (Case("plain", False, phi, 600, 128) for phi in ("relu", "gelu", "silu"))
    count = 0
    for conv in (False, True):
        for family in FAMILIES:
            for phi in ACTIVATIONS:
                count += 1
                if quick and conv and count % 3:
                    continue
                widths = CHANNELS if conv else WIDTHS
                depth = DEPTHS[(count - 1) % len(DEPTHS)]
                largest = LARGEST if not quick else 1 << (23 if depth <= 30 else 20)
                case = Case(family, conv, phi, depth, widths[count * 3 % len(widths)])
                smaller = [Case(family, conv, phi, depth, width) for width in reversed(widths)]
                fitting = [item for item in smaller if item.parameters <= largest]
                yield case if case.parameters <= largest else (fitting or smaller[-1:])[0]


@dataclass(frozen=True)
class Made:
    """A network with its batch, and what is predicted of it: second moments and v at every block,
    the start, the gradient's law, the plan's warning."""

    model: nn.Module
    inputs: torch.Tensor
    view: ModelView
    aims: list[float]
    spreads: list[float]
    start: str
    law: float
    told: str

    @property
    def key(self) -> str:
        """What a measurement of it rests on."""
        entries = initium.plan(self.view, "auto").entries
        specs = [f"{name} {entry.spec}" for name, entry in sorted(entries.items())]
        numbers = [f"{one:.5g}" for one in (*self.aims, *self.spreads, self.law)]
        text = "\n".join([torch.__version__, self.start, *specs, *numbers])
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def make(case: Case) -> Made:
    """The network, its batch and its predictions."""
    torch.manual_seed(0)
    model = case.build()
    shape = (BATCH, 3, SIDE, SIDE) if case.conv else (BATCH, INPUTS)
    inputs = torch.randn(shape)
    inputs = inputs / inputs.square().mean(tuple(range(1, inputs.dim())), keepdim=True).sqrt()
    view = initium.inspect(model, inputs)
    return Made(model, inputs, view, *predicted(case, view))


def measure(case: Case, made: Made) -> Row:
    """Fill one network under several seeds, and compare it with its prediction."""
    model, inputs, view, spreads = made.model, made.inputs, made.view, made.spreads
    logs, gradients = list[list[float]](), list[float]()
    wanted, began = min(max(math.ceil(max(spreads) / ERROR**2), FEWEST), 64), time.process_time()
    while len(logs) < FEWEST or (len(logs) < wanted and time.process_time() - began < PATIENCE):
        initium.plan(view, "auto", seed=len(logs)).apply(model)
        moments, gradient = passes(model, inputs)
        logs.append(moments)
        gradients.append(gradient)
    seeds = len(logs)
    calibrated = case.parameters > CALIBRATED or initium.calibrate(model, inputs, view=view).reached
    log_q = torch.tensor(logs, dtype=torch.float64)
    expected = torch.tensor(made.aims, dtype=torch.float64).log()
    v = torch.tensor(spreads, dtype=torch.float64)
    off = (log_q.mean(0) - (expected - v / 2)).abs()
    allowed = 0.2 + 3 * (v / seeds).sqrt()
    worst = int((off - allowed).argmax())
    ratio = log_q.exp().mean(0) / expected.exp()
    band = ((log_q - (expected - v / 2)).abs() <= 0.1 + 2 * v.sqrt()).double().mean()
    return Row(
        case,
        seeds,
        made.start,
        float(v.max()),
        float(off[worst]),
        float(allowed[worst]),
        (float(ratio.min()), float(ratio.max())),
        float(band),
        math.exp(sum(gradients) / seeds),
        made.law,
        made.told,
        calibrated,
        made.key,
    )


def passes(model: nn.Module, inputs: torch.Tensor) -> tuple[list[float], float]:
    """log q at every block, and log of the summed gradient at the first over that at the last."""
    held: list[torch.Tensor] = []

    def keep(module: nn.Module, args: object, output: torch.Tensor) -> None:
        output.retain_grad()
        held.append(output)

    hooks = [
        block.register_forward_hook(keep) for block in model.get_submodule("blocks").children()
    ]
    output = model(inputs)
    torch.manual_seed(1)
    output.backward(torch.randn_like(output))
    for hook in hooks:
        hook.remove()
    moments = [math.log(max(float(value.detach().square().mean()), 1e-300)) for value in held]
    ends = [value.grad for value in (held[0], held[-1])]
    first, last = (float(end.double().square().sum()) for end in ends if end is not None)
    model.zero_grad()
    return moments, math.log(max(first, 1e-300) / max(last, 1e-300))


def predicted(case: Case, view: ModelView) -> tuple[list[float], list[float], str, float, str]:
    """Second moments and v at every block, the start, the gradient's law, the plan's warning."""
    held = signals(view)
    if case.family == "plain":
        (chain,) = chains(view)
        return _plain(case, chain)
    blocks = range(case.depth // 2)
    branch = held["blocks.0.down.weight"].after
    if case.family == "post-norm":
        (trunk,) = post_norm_trunks(view)
        aims, spreads = [1.0 for _ in blocks], [0.0 for _ in blocks]
        law = trunk.gradient ** ((len(blocks) - 1) / len(blocks))
        return aims, spreads, "gaussian", law, ""
    aims = [1 + branch * (block + 1) for block in blocks]
    spreads = [2 / case.width for _ in blocks]
    chi = held["blocks.0.up.weight"].backward * held["blocks.0.down.weight"].backward
    law = 1.0
    for block in range(1, len(blocks)):
        law *= 1 + chi / (aims[block - 1] if case.family == "pre-norm" else 1.0)
    return aims, spreads, "gaussian", law, ""


def _plain(case: Case, chain: Chain) -> tuple[list[float], list[float], str, float, str]:
    links = list(chain.links.values())[:-1]
    start = links[1].kind
    aims = [link.aim for link in links]
    phis = [case.phi for _ in links]
    weights = "normal" if start == "gaussian" else "orthogonal"
    first = 2 / case.width
    if start == "mirrored":
        spreads = [2 * first for _ in links]
        return aims, spreads, start, 1.0, chain.warning
    spreads, law = [], 1.0
    for place, aim in enumerate(aims):
        point = at(case.phi, aim)
        before = at(case.phi, aims[place - 1])
        assert point is not None
        assert before is not None
        if spreads:
            excess = before.excess - (2 * before.growth**2 if weights == "orthogonal" else 0.0)
            spreads.append(before.growth**2 * spreads[-1] + excess / case.width)
            law *= aim / before.second * before.slope
        else:
            spreads.append(first)
    if weights == "normal":
        known = spread(phis[:-1], aims[:-1], [case.width] * len(phis))
        assert math.isclose(spreads[-1], known, rel_tol=0.5, abs_tol=2 * first)
    return aims, spreads, start, law, chain.warning


def table(rows: list[Row], quick: bool) -> str:
    """The page."""
    checked = [row for row in rows if not row.told]
    largest = max(row.case.parameters for row in rows)
    left = sum(1 for _ in design(quick)) - len(rows)
    lines = [
        "# `auto`, measured",
        "",
        f"Written by `python benchmarks/auto.py{' --quick' if quick else ''}`: {len(rows)} "
        f"networks of up to {largest / 1e6:.1f} million weights, 4 to 64 seeds each, in "
        f"{sum(row.seconds for row in rows) / 60:.0f} minutes on one core, "
        f"torch {torch.__version__.split('+')[0]}. "
        f"{f'The run was cut short: {left} networks of the design are missing. ' if left else ''}"
        "The goals are in that file. *Warned*: the plan itself says that no start of weights alone "
        "repairs the net; these rows are shown and not counted.",
        "",
        f"Networks without a warning: {len(checked)}, of which "
        f"{sum(not row.failures for row in checked)} hold every goal. "
        f"Warned of: {len(rows) - len(checked)}.",
        "",
        "| net | activation | layers | width | seeds | start | v | log q off / allowed | "
        "mean q / aim | in band | gradient first / last | law | missed |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        case = row.case
        missed = "warned" if row.told else ", ".join(row.failures)
        lines.append(
            f"| {case.family}{', conv' if case.conv else ''} | {case.phi} | {case.depth} | "
            f"{case.width} | {row.seeds} | {row.start} | {row.spread:.2g} | "
            f"{row.off:.2f} / {row.allowed:.2f} | {row.ratio[0]:.2f} to {row.ratio[1]:.2f} | "
            f"{row.inside:.0%} | {row.gradient:.2g} | {row.law:.2g} | {missed} |"
        )
    lines += ["", "What the plan says of those warned of:", ""]
    lines += [
        f"- {row.case.family}{', conv' if row.case.conv else ''}, {row.case.phi}, width "
        f"{row.case.width}: {row.told}"
        for row in rows
        if row.told
    ]
    streams = [row.ratio[1] for row in rows if row.case.family == "pre-norm" and row.case.conv]
    if streams:
        lines += [
            "",
            f"Pre-norm convolutions end up to {max(streams):.2f} times their aim: zero padding "
            "joins the middle of an image more often than its border (auto.md, Padding).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="outcomes, to go on from")
    parser.add_argument("--quick", action="store_true", help="smaller nets, fewer convolutions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = json.loads(options.out.read_text()) if options.out.exists() else {}
    done = {row.case: row for row in map(Row.read, held.get("rows", []))}
    for case in design(options.quick):
        made, row, began = make(case), done.get(case), time.perf_counter()
        if row is None or row.key != made.key:
            row = measure(case, made)
            done[case] = dataclasses.replace(row, seconds=time.perf_counter() - began)
        else:
            done[case] = dataclasses.replace(row, told=made.told)
        print(done[case], flush=True)
        rows = [dataclasses.asdict(row) for row in done.values()]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"rows": rows}))
        rows_here = [done[one] for one in design(options.quick) if one in done]
        PAGE.write_text(table(rows_here, options.quick))


if __name__ == "__main__":
    main()
