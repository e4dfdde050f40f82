"""Published results, from the prediction and from random weights: Glorot & Bengio 2010, He et al.
2015, Schoenholz et al. 2017, GPT-2 (Radford et al. 2019) and Noci et al. 2022.

    python benchmarks/published.py                    # writes docs/published.md, a few minutes
    python benchmarks/published.py --only noci --out out/published.json

Every section compares what the paper says with what initium predicts and with a simulation.
Covered: what holds at initialisation. Not covered: the papers' training runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

import initium
from initium import init
from initium._load.optional import import_optional
from initium._scheme.meanfield import correlation_depth, kernel, trajectory

TABLE = Path(__file__).parents[1] / "docs" / "published.md"


class Row(NamedTuple):
    """One published figure beside ours; an empty text where there is none."""

    what: str
    paper: str
    predicted: str
    measured: str


class Section(NamedTuple):
    """What a paper is about, where its figures were read, how it was done again, the figures."""

    title: str
    source: str
    checked: str
    how: str
    rows: list[Row]


def _rate(values: Sequence[float]) -> float:
    """The factor per step of a sequence that grows or decays geometrically."""
    count = len(values)
    logs, middle = [math.log(value) for value in values], (count - 1) / 2
    spread = sum((step - middle) ** 2 for step in range(count))
    return math.exp(sum((step - middle) * log for step, log in enumerate(logs)) / spread)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(_mean([math.log(value) for value in values]))


# Glorot & Bengio 2010 -------------------------------------------------------------------------

WIDTH = 1000
QUARTER_CIRCLE = 8 / (3 * math.pi)
"""The mean singular value of a square random matrix whose entries have variance 1/n."""


def _standard_(weight: torch.Tensor) -> None:
    bound = weight.shape[1] ** -0.5
    init.uniform_(weight, -bound, bound)


def _through(
    fill: Callable[[torch.Tensor], object],
    phi: Callable[[torch.Tensor], torch.Tensor],
    size: float = 1.0,
) -> tuple[list[float], list[float], list[float]]:
    """Second moments of five layers' z and of their gradients; mean singular values between."""
    h, zs, weights = size * torch.randn(64, WIDTH), [], []
    for _ in range(5):
        weight = torch.empty(WIDTH, WIDTH)
        fill(weight)
        z = (h @ weight.T).requires_grad_()
        z.retain_grad()
        zs.append(z)
        weights.append(weight)
        h = phi(z)
    h.backward(torch.randn_like(h))
    singular = []
    for z, weight in zip(zs, weights[1:], strict=False):
        point = z[0].detach().requires_grad_()
        (slopes,) = torch.autograd.grad(phi(point).sum(), point)
        singular.append(torch.linalg.svdvals(weight * slopes).mean().item())
    return _second(zs), _second([z.grad for z in zs]), singular


def glorot() -> Section:
    """Variance per layer, and the mean singular value of a layer's Jacobian."""
    rows = []
    fills: dict[str, tuple[Callable[[torch.Tensor], object], float, str]] = {
        "standard": (_standard_, 1 / 3, "0.5"),
        "normalised": (init.xavier_uniform_, 1.0, "0.8"),
    }
    for name, (fill, factor, paper) in fills.items():
        forward, backward, _ = _through(fill, lambda z: z)
        law = f"n Var[W] = {factor:.3g}"
        predicted = f"{factor:.4f}"
        rows += [
            Row(f"{name}: variance per layer, forward", law, predicted, f"{_rate(forward):.4f}"),
            Row(f"{name}: variance per layer, back", law, predicted, f"{1 / _rate(backward):.4f}"),
        ]
        for size in (1.0, 0.3):
            _, _, singular = _through(fill, torch.tanh, size)
            layers = trajectory("tanh", factor, 0.0, factor * size**2, 0.0, 4)
            mean = QUARTER_CIRCLE * _mean([math.sqrt(layer.chi) for layer in layers])
            rows.append(
                Row(
                    f"{name}: mean singular value between tanh layers, inputs of std {size:g}",
                    f"about {paper}",
                    f"{mean:.3f}",
                    f"{_mean(singular):.3f}",
                )
            )
    return Section(
        "Glorot & Bengio 2010: the standard start loses two thirds of the variance per layer",
        "Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, "
        "sections 4.2.1 and 4.2.2",
        "The 0.8 and 0.5 were read in a transcription of the paper, at its equation 17; the factor "
        "1/3 in none, but it follows from the two distributions.",
        "Five layers of 1,000 units without biases: linear for the variances, which the paper "
        "derives in the linear regime, tanh for the Jacobians. *Standard* is "
        "U(-1/sqrt(n), 1/sqrt(n)), *normalised* U(-sqrt(3/n), sqrt(3/n)), both from "
        "`initium.init`. The paper's inputs are images, ours normal of two sizes. Predicted: the "
        "mean of the quarter-circle law, 8/(3 pi), times sqrt(n Var[W] E[tanh'(z)^2]).",
        rows,
    )


# He et al. 2015 -------------------------------------------------------------------------------

VGG_B = (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)
POOLED = (1, 3, 5, 7, 9)


def _vgg(std: Callable[[int], float]) -> float:
    """Std of the gradient before conv2 over that at conv10's, for model B's convolutions."""
    x = torch.randn(4, 3, 64, 64)
    channels, zs = 3, []
    for layer, width in enumerate(VGG_B):
        weight = torch.empty(width, channels, 3, 3)
        init.normal_(weight, std=std(9 * width) if layer else (2 / 27) ** 0.5)
        z = F.conv2d(x, weight, padding=1).requires_grad_()
        z.retain_grad()
        zs.append(z)
        x = F.relu(z)
        x = F.max_pool2d(x, 2) if layer in POOLED else x
        channels = width
    x.backward(torch.randn_like(x))
    first, last = zs[0].grad, zs[9].grad
    assert first is not None and last is not None
    return (first.square().mean() / last.square().mean()).sqrt().item()


def he() -> Section:
    """Variance per ReLU layer, and VGG model B with a fixed std."""
    rows, depth, seeds = [], 30, 24
    layers = [nn.Linear(512, 512, bias=False) if n % 2 == 0 else nn.ReLU() for n in range(60)]
    net = nn.Sequential(*layers)
    for name, recipe, factor in (("Xavier", f"normal({512**-0.5})", 0.5), ("He", "he", 1.0)):
        plan = initium.plan(net, recipe, torch.ones(1, 512))
        starts = [_relu_moments(net, plan, seed) for seed in range(seeds)]
        forward = [_geometric([one[0][layer] for one in starts]) for layer in range(depth)]
        backward = [_geometric([one[1][layer] for one in starts]) for layer in range(depth)]
        law = trajectory("relu", 2 * factor, 0.0, 1.0, 0.0, depth)
        chi = _geometric([layer.chi for layer in law])
        what = f"{name}: variance per ReLU layer"
        paper = f"n Var[W] / 2 = {factor:g}"
        rows += [
            Row(f"{what}, forward", paper, f"{_rate([one.q for one in law]):.4f}",
                f"{_rate(forward):.4f}"),
            Row(f"{what}, backward", paper, f"{chi:.4f}", f"{1 / _rate(backward):.4f}"),
        ]  # fmt: skip
    expected = math.prod((2 / (9 * width)) ** 0.5 / 0.01 for width in VGG_B[1:])
    pairs = [_vgg(lambda n: (2 / n) ** 0.5) / _vgg(lambda n: 0.01) for _ in range(8)]
    rows.append(
        Row(
            "VGG-B with std 0.01 instead of sqrt(2 / (9 d)): std of the gradient that gets from "
            "conv10 to conv2",
            "1 / (5.9 x 4.2^2 x 2.9^2 x 2.1^4) = 1 / 1.7e4",
            f"1 / {expected:.3g}",
            f"1 / {_geometric(pairs):.3g}",
        )
    )
    return Section(
        "He et al. 2015: a ReLU halves the variance, and depth makes that exponential",
        "Delving Deep into Rectifiers, arXiv:1502.01852, section 2.2",
        "The product and its value, with the four stds behind it, were read in two summaries of "
        "the paper that agree, not in the paper; the factors of variance follow from its "
        "initialisers.",
        "Thirty ReLU layers of 512 units, geometric mean over 24 seeds (which lies below the mean "
        "by half the variance of the logarithm); the ten convolutions of VGG's model B with their "
        "pooling on 64 x 64 noise, eight pairs of seeds.",
        rows,
    )


def _relu_moments(
    net: nn.Sequential, plan: initium.Plan, seed: int
) -> tuple[list[float], list[float]]:
    """Second moments of every pre-activation and of its gradient."""
    dataclasses.replace(plan, seed=seed).apply(net)
    x, zs = torch.randn(16, 512), []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            x.retain_grad()
            zs.append(x)
    x.backward(torch.randn_like(x))
    return _second(zs), _second([z.grad for z in zs])


def _second(tensors: Sequence[torch.Tensor | None]) -> list[float]:
    return [one.detach().square().mean().item() for one in tensors if one is not None]


# Schoenholz et al. 2017 -----------------------------------------------------------------------


def _fixed_point(weight: float, bias: float) -> float:
    """q*, where tanh layers keep the second moment."""
    q = 1.0
    for _ in range(2000):
        after = weight * kernel("tanh").second(q) + bias
        if abs(after - q) < 1e-12:
            break
        q = after
    return q


def _boundary(bias: float) -> float:
    """The variance of weights at which chi at q* is one."""
    return brentq(
        lambda weight: weight * kernel("tanh").slope(_fixed_point(weight, bias)) - 1, 1.0, 4.0
    )


@torch.no_grad()
def _correlations(
    weight: float, bias: float, starts: Sequence[float], width: int, depth: int, seeds: int
) -> tuple[torch.Tensor, float]:
    """Mean correlation of pairs at every layer [depth, pairs], and the gradient's factor per layer.

    The factor is |D W^T u|^2 / |u|^2 for a random u, geometric mean over the later half.
    """
    found, factors = torch.zeros(depth, len(starts), dtype=torch.float64), []
    q = _fixed_point(weight, bias)
    for _ in range(seeds):
        first, other = torch.randn(2, len(starts), width)
        c = torch.tensor(starts)[:, None]
        x = math.sqrt(q) * torch.stack([first, c * first + (1 - c * c).sqrt() * other])
        for layer in range(depth):
            a, b = x.double()
            found[layer] += F.cosine_similarity(a, b, dim=-1)
            w = torch.randn(width, width) * math.sqrt(weight / width)
            if layer >= depth // 2:
                u = torch.randn(width, 8)
                back = (w.T @ u) * (1 - torch.tanh(x[0, 0]) ** 2)[:, None]
                factors.append((back.square().sum() / u.square().sum()).item())
            x = torch.tanh(x) @ w.T + math.sqrt(bias) * torch.randn(width)
    return found / seeds, _geometric(factors)


def schoenholz() -> Section:
    """The order-to-chaos boundary of tanh, and the depth scale of correlations beside it."""
    rows = []
    for bias in (0.01, 0.05, 0.1, 0.2):
        exact = _boundary(bias)
        grid = [0.9 * exact, exact, 1.1 * exact]
        factors = [_correlations(one, bias, [0.9], 1000, 40, 6)[1] for one in grid]
        slope = (math.log(factors[2]) - math.log(factors[0])) / (grid[2] - grid[0])
        middle = _mean([math.log(one) for one in factors])
        rows.append(
            Row(
                f"boundary at sigma_b^2 = {bias:g}: sigma_w^2 where chi = 1",
                "chi = sigma_w^2 E[tanh'(sqrt(q*) z)^2] = 1",
                f"{exact:.4f}",
                f"{_mean(grid) - middle / slope:.4f}",
            )
        )
    for weight in (0.8, 1.2, 1.5, 2.0, 2.5, 3.5):
        bias = 0.05
        limit = trajectory("tanh", weight, bias, _fixed_point(weight, bias), 0.5, 400)[-1]
        scale = correlation_depth("tanh", weight, bias)
        depth = max(12, min(60, math.ceil(5 * scale)))
        starts = [0.2, 0.4, 0.7, 0.95]
        measured, _ = _correlations(weight, bias, starts, 1000, depth, 12)
        law = torch.tensor(
            [
                [layer.correlation for layer in
                 trajectory("tanh", weight, bias, _fixed_point(weight, bias), start, depth)]
                for start in starts
            ]
        ).T.double()  # fmt: skip
        rows.append(
            Row(
                f"sigma_w^2 = {weight:g}, sigma_b^2 = 0.05: depth scale xi_c; correlation at layer "
                f"{depth}",
                "xi_c = -1 / ln(sigma_w^2 E[tanh'(z1) tanh'(z2)])",
                f"{scale:.2f} ({_scale(law, limit.correlation):.2f} by the fit); "
                f"{law[-1].mean():.3f}",
                f"{_scale(measured, limit.correlation):.2f}; {measured[-1].mean():.3f}",
            )
        )
    return Section(
        "Schoenholz et al. 2017: order, chaos and the depth scale between them, tanh",
        "Deep Information Propagation, arXiv:1611.01232, sections 3 and 4",
        "That one depth scale diverges at the boundary, between vanishing and exploding gradients, "
        "was read in the abstract; that chi is the derivative of the map of correlations, is one "
        "at the boundary and shrinks c - c* by chi(c*) per layer, in its authors' notebook "
        "(google/neural-tangents, notebooks/phase_diagram.ipynb). The formulas below are that "
        "derivative and xi_c = -1 / ln chi(c*). The sections are not verified.",
        "Random tanh nets of width 1,000 (boundary: six seeds, 40 layers, the gradient's factor "
        "per layer at three sigma_w^2 around the predicted boundary, and where a line through "
        "them crosses one; depth scale: twelve seeds, four pairs of inputs, a line through "
        "log |c - c*| between 0.25 and 0.03, also for the predicted correlations). Below the "
        "boundary c* = 1 (order), above "
        "it c* < 1 (chaos), and xi_c diverges between. Their trained nets are not repeated.",
        rows,
    )


def _scale(correlations: torch.Tensor, limit: float) -> float:
    """xi by least squares on log |c - c*|, over the layers where that is between 0.03 and 0.25."""
    rates = []
    for pair in (correlations - limit).abs().T:
        kept = [one for one in pair.tolist() if one < 0.25]
        end = next((n for n, one in enumerate(kept) if one < 0.03), len(kept))
        if end >= 3:
            rates.append(-math.log(_rate(kept[:end])))
    return 1 / _mean(rates) if rates else math.nan


# Noci et al. 2022 -----------------------------------------------------------------------------


class _Stack(nn.Module):
    """Post-norm attention: RMS norm of x + alpha softmax(q k^T / sqrt d) v, or without the skip."""

    def __init__(self, width: int, depth: int, alpha: float, skip: bool) -> None:
        super().__init__()
        self.alpha, self.skip, self.width = alpha, skip, width
        names = ("query", "key", "value")
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})
            for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        streams = [x]
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            scores = layer["query"](x) @ layer["key"](x).transpose(1, 2) / math.sqrt(self.width)
            mixed = scores.softmax(-1) @ layer["value"](x)
            x = F.rms_norm(x + self.alpha * mixed if self.skip else mixed, x.shape[-1:])
            streams.append(x)
        return streams


def _cosine(x: torch.Tensor) -> float:
    """Mean cosine of the angle between different tokens of a sample."""
    unit = F.normalize(x.detach(), dim=-1)
    count = x.shape[1]
    total = (unit @ unit.transpose(1, 2)).sum((1, 2)) - count
    return (total / (count * (count - 1))).mean().item()


def _uniform_law(cosine: float, tokens: int, depth: int, alpha: float) -> float:
    """The cosine after layers of uniform attention: the tokens' mean grows by 1 + alpha^2."""
    q, c = 1.0, cosine
    for _ in range(depth):
        mean = (q + (tokens - 1) * c) / tokens
        q, c = q + alpha**2 * mean, c + alpha**2 * mean
    return c / q


def noci() -> Section:
    """Cosine between tokens and the queries' gradient against depth, with and without 1/sqrt(L)."""
    rows, width, tokens = [], 128, 16
    x = torch.randn(8, tokens, width)
    for name, skip, scaled in (
        ("no skip", False, False), ("skip, alpha = 1", True, False),
        ("skip, alpha = 1/sqrt(L)", True, True),
    ):  # fmt: skip
        for depth in (4, 16, 64):
            alpha = depth**-0.5 if scaled else 1.0
            cosines, shares = [], []
            for seed in range(4):
                net = _Stack(width, depth, alpha, skip)
                rules = {"*.query.weight": f"normal({0.1 * width**-0.5})"}
                initium.plan(net, f"normal({width**-0.5})", seed=seed, rules=rules).apply(net)
                end = net(x)[-1]
                cosines.append(_cosine(end))
                end.backward(torch.randn_like(end))
                last = net.layers[-1]
                query, value = (last.get_parameter(f"{n}.weight").grad for n in ("query", "value"))
                squares = _second([query, value])
                shares.append(squares[0] / squares[1])
            law = _uniform_law(_cosine(x), tokens, depth, alpha) if skip else 1.0
            paper = "bounded away from 1 for all L" if scaled else "to 1 with depth"
            gradient = f"; {_geometric(shares):.1e}" if all(shares) else "; 0"
            rows.append(
                Row(f"{name}, L = {depth}: cosine between tokens; gradient of queries over that "
                    "of values, last layer", paper + ("" if scaled else "; to 0"),
                    f"{law:.3f}", f"{_mean(cosines):.3f}{gradient}")
            )  # fmt: skip
    return Section(
        "Noci et al. 2022: tokens collapse onto one direction, unless branches shrink with depth",
        "Signal Propagation in Transformers, arXiv:2206.03126, sections 3.1 to 3.3",
        "That gradients of queries and keys vanish as tokens collapse, and that scaling the "
        "branches by depth prevents it, was read in the abstract. The scale 1/sqrt(L), the "
        "uniform attention and the sections are not verified.",
        "Post-norm attention layers of width 128 with one head and no MLP, 16 random tokens, 4 "
        "seeds; values at variance 1/d, queries a tenth of that std so that attention is nearly "
        "uniform, as the paper assumes. Predicted: the closed recursion under uniform attention, "
        "in which the mean of the tokens grows by 1 + alpha^2 a layer and their differences do "
        "not; for alpha^2 = 1/L the growth is at most e. Gradients are second moments per weight.",
        rows,
    )


# GPT-2 ----------------------------------------------------------------------------------------


def gpt2() -> Section:
    """Growth of the residual stream, predicted on meta at the four released sizes."""
    transformers = import_optional("transformers")
    rows = []
    ids = torch.randint(50257, (2, 16), generator=torch.Generator().manual_seed(0))
    for name, layers, width, heads in (
        ("small", 12, 768, 12), ("medium", 24, 1024, 16), ("large", 36, 1280, 20),
        ("XL", 48, 1600, 25),
    ):  # fmt: skip
        config = transformers.GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, use_cache=False
        )
        with torch.device("meta"):
            net = transformers.GPT2Model(config)
        growth = {}
        for recipe in ("gpt2", "hf"):
            plan = initium.plan(net, recipe, {"input_ids": ids})
            found = initium.predict(net, plan, {"input_ids": ids}, draws=3)
            start = found.layers["drop"].second_moment
            growth[recipe] = found.layers[f"h.{layers - 1}"].second_moment - start
        measured = {"gpt2": math.nan, "hf": math.nan}
        if name == "small":
            real = transformers.GPT2Model(config)
            for recipe in measured:
                measured[recipe] = _mean([_stream(real, recipe, ids, seed) for seed in range(2)])
        for recipe, how in (("hf", "without 1/sqrt(2L)"), ("gpt2", "with 1/sqrt(2L)")):
            rows.append(
                Row(
                    f"{name} (L = {layers}, d = {width}), {how}: second moment that the blocks "
                    "add to the stream",
                    "grows with L" if recipe == "hf" else "1/(2L) of it",
                    f"{growth[recipe]:.4f}"
                    + (
                        f" ({growth['hf'] / growth['gpt2']:.1f} times less; 2L = {2 * layers})"
                        if recipe == "gpt2"
                        else ""
                    ),
                    f"{measured[recipe]:.4f}" if name == "small" else "",
                )
            )
    return Section(
        "GPT-2: the residual stream grows with depth unless its writers shrink",
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3: "
        "residual layers scaled at initialisation by 1/sqrt(N)",
        "The sentence on 1/sqrt(N), N the number of residual layers, was read in several "
        "quotations.",
        "The four released sizes without weights by `initium.predict` (3 lazy draws, 2 x 16 random "
        "tokens), the smallest also with real weights (2 seeds). The paper gives the rule and no "
        "figures. Every branch reads a normalised stream, so that what it adds does not depend on "
        "what is there, and writers of 1/(2L) of the variance add about 1/(2L) of it in all.",
        rows,
    )


@torch.no_grad()
def _stream(net: nn.Module, recipe: str, ids: torch.Tensor, seed: int) -> float:
    initium.plan(net, recipe, {"input_ids": ids}, seed=seed).apply(net)
    net.eval()
    found: list[torch.Tensor] = []
    blocks = net.get_submodule("h")
    hooks = [
        blocks[0].register_forward_pre_hook(lambda module, args: found.append(args[0])),  # type: ignore[index]
        blocks[-1].register_forward_hook(lambda module, args, out: found.append(  # type: ignore[index]
            out[0] if isinstance(out, tuple) else out)),
    ]  # fmt: skip
    net(input_ids=ids)
    for hook in hooks:
        hook.remove()
    before, after = _second(found)
    return after - before


SECTIONS: dict[str, Callable[[], Section]] = {
    "glorot": glorot,
    "he": he,
    "schoenholz": schoenholz,
    "noci": noci,
    "gpt2": gpt2,
}


def markdown(sections: Sequence[Section], seconds: float) -> str:
    """All sections as one page."""
    lines = [
        "# Published results, reproduced",
        "",
        f"Written by `benchmarks/published.py` in {seconds / 60:.1f} minutes of one core. *Paper*:",
        "what the source says; *checked*: where that was read. *Predicted*: by initium's",
        "prediction or the closed form named. *Measured*: random weights.",
    ]
    for section in sections:
        lines += ["", f"## {section.title}", "", f"Source: {section.source}."]
        lines += [f"Checked: {section.checked}", "", section.how, ""]
        lines += ["| what | paper | predicted | measured |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |"
                  for row in section.rows]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=SECTIONS, help="one section; writes no table")
    parser.add_argument("--out", type=Path, help="JSON of finished sections, to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = options.out is not None and options.out.exists()
    done = json.loads(options.out.read_text()) if kept else {}
    for name in [options.only] if options.only else SECTIONS:
        if name in done:
            continue
        torch.manual_seed(0)
        began = time.perf_counter()
        section = SECTIONS[name]()
        done[name] = {"section": section, "seconds": time.perf_counter() - began}
        print(f"{name}: {done[name]['seconds']:.0f} s", flush=True)
        for row in section.rows:
            print("   ", *row, sep=" | ", flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(done, indent=1))
    if not options.only:
        sections = []
        for name in SECTIONS:
            title, source, checked, how, rows = done[name]["section"]
            sections.append(Section(title, source, checked, how, [Row(*row) for row in rows]))
        TABLE.write_text(markdown(sections, sum(one["seconds"] for one in done.values())))


if __name__ == "__main__":
    main()
