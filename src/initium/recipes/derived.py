"""``auto``: every parameter's start derived from its place in the data flow.

What is predicted is in :mod:`initium.recipes._signal`, what plain nets need in
:mod:`initium.recipes._chains`; here it becomes specs with their reasons. ``docs/auto.md`` derives
the rules.
"""

from __future__ import annotations

import math

from initium._plan.layout import HELD, Matrix, per_matrix
from initium._plan.recipe import Recipe
from initium._plan.rules import Choice, Rule
from initium._scheme import schemes
from initium._scheme.points import second, unit_point
from initium._types import ModelView, ParameterView
from initium.recipes._chains import Link, chain_of, fills
from initium.recipes._notes import notes, pooled_ends
from initium.recipes._shared import (
    BASICS,
    FROZEN_POSITIONS,
    MATRICES,
    SMALL,
    basics,
    branches,
    fan_text,
)
from initium.recipes._signal import (
    LOGIT_STD,
    Signal,
    covered,
    logit_factor,
    post_norm_trunks,
    signals,
)
from initium.recipes._streams import branch_of, carriers, room, share_of
from initium.spec import Constant, DeltaOrthogonal, Mirrored, Normal, Orthogonal, Spec

__all__ = ["auto"]


def auto() -> Recipe:
    """What the model itself asks for, from its roles, fans, activations and residual streams.

    Formula, by role:

    - matrices: N(0, K / (fan_in q)), where q is the second moment of what the matrix reads and K
      that of its outputs at which E[phi(z)^2] = 1 behind the activation that follows: 2 for ReLU,
      2.16 for GELU, and 1 where phi is bounded or there is none. What a sigmoid gate takes, the
      matrix that it multiplies makes up for.
    - the last matrix of a residual branch: / sqrt(branches on its stream); of a branch without
      norms, with L branches and m matrices in sequence: / sqrt(L), the others
      x L^(-1 / (2m - 2)); of deep post-norm blocks: so small that the gradient keeps its size.
    - queries and keys: x (head_dim scale^2)^(-1/4) where their logits would exceed variance one;
      matrices whose product is itself the scores of a softmax: / scale.
    - plain nets whose log q would spread over seeds by a variance above 0.25, or whose gradient
      would change by more than 1.6 end to end: mirrored orthogonal (looks linear) where
      phi(x) - phi(-x) is a straight line, else small and orthogonal.
    - head and router: std 0.2 / sqrt(fan_in q), so that the logits have std 0.2 and the first loss
      exceeds ln C by about 0.02.
    - embedding: N(0, 1), as a lookup has fan_in 1; one that is tied or used again, as a head is:
      std 0.2 / sqrt(width) where a normalisation follows, sqrt(0.2) / width^(1/4) where none does.
    - position: half the std of the tokens or patches that it is added to (the ratio of GPT-2,
      0.01 to 0.02); token (class, mask, register): theirs; N(0, 0.02^2) where there are none.
    - recurrent: input xavier and hidden orthogonal per gate; modulation N(0, 0.02^2).
    - normalisation 1 and 0, biases 0 (of gates that are linear or carry their own constant),
      scales their architecture's constant, LoRA A uniform and B 0.
    - state-space parameters keep their constructor's values.

    When to use: a new architecture trained from scratch.

    Source: He et al. 2015, arXiv:1502.01852, with the exact moments; Radford et al. 2019 (GPT-2)
    for 1/sqrt(branches); Zhang et al. 2019, arXiv:1901.09321 (Fixup); Balduzzi et al. 2017,
    arXiv:1702.08591 (looks linear); Hanin & Rolnick 2018, arXiv:1803.01719 (the spread).

    Known divergences: Fixup has zeros in the last matrix; here it is small, so that every matrix
    learns from the first step. Behind attention q is taken as 1, and neighbours as half alike in
    front of pooling; batch statistics are not solved for.

    Example:
        >>> auto().text
        'auto'
    """
    rules = (
        Rule(_auto_head, role=("head", "router")),
        Rule(_auto_embedding, role="embedding"),
        FROZEN_POSITIONS,
        Rule(_auto_position, role="position"),
        Rule(_auto_token, role="token"),
        Rule(_recurrent_hidden, role="recurrent_hidden"),
        Rule(_recurrent_input, role="recurrent_input"),
        Rule(
            f"normal({SMALL})",
            role="modulation",
            reason="A modulation starts near neutral, with gradient from the first step.",
        ),
        Rule(_auto_matrix, role=MATRICES),
        Rule(_auto_bias, role="bias"),
    )
    return Recipe("auto", (*rules, *BASICS), suits=notes)


def _auto_matrix(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(K / (fan_in q))); / sqrt(branches) where it writes to a residual stream."""
    signal = signals(model)[view.name]
    spec, told = _drawn(view, model, signal)
    chain = chain_of(view, model)
    straight = chain is not None and chain.links[view.name].kind == "mirrored"
    reasons = [
        f"{told}: {_moments(view, signal, straight, pooled_ends(view, model))}",
        *_shares(view, model),
    ]
    return Choice(spec, f"{'; '.join(reasons)}.")


def _auto_head(view: ParameterView, model: ModelView) -> Choice:
    """normal(0.2 / sqrt(fan_in q)); a head that is tied as its embedding."""
    if view.role == "head" and view.aliases:
        return _tied(view)
    signal = signals(model)[view.name]
    spec, _ = _drawn(view, model, signal)
    what = "routing stays undecided" if view.role == "router" else "the first loss is near ln C"
    return Choice(
        spec,
        f"Logits of std {LOGIT_STD}, fan_in {fan_text(view)}: "
        f"{'' if signal.followed else 'taken as '}{_number(signal.before)} before, "
        f"{_number(LOGIT_STD**2)} after, so {what}.",
    )


# Matrices ----------------------------------------------------------------------------------------


def _drawn(view: ParameterView, model: ModelView, signal: Signal) -> tuple[Spec, str]:
    """The spec of a matrix, and what it does in words."""
    chain = chain_of(view, model)
    if chain is not None and chain.links[view.name].kind != "gaussian":
        link = chain.links[view.name]
        names = list(chain.links)
        place = names.index(view.name)
        read = (
            chain.links[names[place - 1]].aim * link.slope**2 / view.kept
            if link.inputs
            else signal.before
        )
        aim = LOGIT_STD**2 if view.role == "head" else link.aim
        return _orthogonal(view, link, aim / (read * covered(view, model))), _told(
            link, chain.spread, chain.layers
        )
    variances = iter(_own(view, model, signal))

    def gaussian(matrix: Matrix) -> Spec:
        return schemes.variance_scaling(next(variances), matrix.fan_in)

    return per_matrix(view, gaussian), f"Keeps the signal, fan_in {fan_text(view)}"


def _own(view: ParameterView, model: ModelView, signal: Signal) -> tuple[float, ...]:
    """The variances of a matrix; of one block of a fused matrix that stands alone, that one."""
    whole = model.parameters[view.name]
    if whole.role == view.role:
        return signal.variances
    labels = [block.label for block in whole.blocks if not block.stacked]
    return tuple(
        value
        for label, value in zip(labels, signal.variances, strict=True)
        if HELD.get(label) == view.role
    )


def _orthogonal(view: ParameterView, link: Link, factor: float) -> Spec:
    """An orthogonal spec that multiplies the second moment of what it reads by ``factor``."""
    taps = math.prod(view.shape[2:])
    whole = fills(view)
    rows = view.shape[0] // (1 + link.outputs)
    columns = view.shape[1] // (1 + link.inputs) * (taps if whole else 1)
    gain = math.sqrt(factor * max(rows, columns) / columns)
    spec: Spec = Orthogonal(gain) if whole else DeltaOrthogonal(gain)
    axes = (0,) * link.outputs + (1,) * link.inputs
    return Mirrored(spec, axes) if axes else spec


def _told(link: Link, spread: float, layers: int) -> str:
    why = (
        f"{layers} plain layers, where Gaussian ones would spread log q by {math.sqrt(spread):.2g}"
    )
    if link.kind == "mirrored":
        return f"Looks linear, orthogonal in mirrored pairs, as one of {why}"
    return f"Orthogonal, as one of {why}"


def _moments(view: ParameterView, signal: Signal, straight: bool, ends: tuple[float, float]) -> str:
    """The second moments before and after, and what becomes of the gradient: nothing where mirrored
    units make a chain straight. ``ends``: what pooling in front leaves of values that are alike and
    of independent ones, relative to what is counted."""
    named = view.activation or next((b.activation for b in view.blocks if b.activation), None)
    after = f" the norm and the {named}" if view.norm_after and named else f" the {named}"
    before = _number(signal.before) if signal.followed else f"taken as {_number(signal.before)}"
    if max(abs(math.log(end)) for end in ends) > math.log(1.1):
        told = " to ".join(_number(signal.before * end) for end in ends)
        before += f" ({told}, as {view.pooling} pooling joins alike or independent values)"
    text = f"{before} before, {_number(signal.after)} after{after if named else ''}"
    if math.isnan(signal.backward) or view.norm_after:
        return text
    return f"{text}; backward x{_number(1.0 if straight else signal.backward)}"


def _shares(view: ParameterView, model: ModelView) -> list[str]:
    """What scales a matrix besides its own signal."""
    told = []
    branch = branch_of(view, model)
    if view.standardised:
        told.append("the model standardises it before use, which undoes its scale")
    if view.kept < 1:
        told.append(f"dropout in front leaves {_number(view.kept)}, counted while it trains")
    count = branches(view)
    share = share_of(view, post_norm_trunks(model))
    if share < 1:
        trunk = next(one for one in post_norm_trunks(model) if view.name in one.writers)
        told.append(
            f"x {_number(share**0.5)}, as one of {trunk.branches} post-norm branches, which would "
            f"otherwise not keep the gradient (x{_number(trunk.unscaled)} end to end)"
        )
    if branch is not None:
        power = "1/2" if branch.writer else f"1/{2 * branch.matrices - 2}"
        told.append(
            f"x {branch.total}^(-{power}), as one of {branch.matrices} on a branch without norms"
        )
    elif room(view, model):
        told.append(_beside(view, room(view, model)))
    elif view.name in carriers(model):
        told.append("small, as the gate that carries: it starts near its constant")
    elif count > 1:
        told.append(f"1/sqrt({count}) as one of {count} branches that write to its stream")
    if view.role == "linear" and logit_factor(view) != 1:
        times = _number(logit_factor(view) ** 0.5)
        why = "as its product, scaled by the inverse, is the scores of a softmax"
        told.append(f"x {times}, {why}")
    elif logit_factor(view) < 1 and (view.role != "attn_qkv" or view.blocks):
        what = "attention that does not divide its logits enough"
        told.append(f"queries and keys x {_number(logit_factor(view) ** 0.5)}, for {what}")
    return told


def _beside(view: ParameterView, wanted: float) -> str:
    """What a branch that stands beside a shrunken stream adds to it."""
    phi = view.activation
    reached = second(phi, unit_point(phi, wanted), view.gain)
    if reached < 0.99 * wanted:
        return f"its stream fades, as {phi} does not reach the {_number(wanted)} that would keep it"
    keeps = "the factors of its sum keep" if view.carrier is None else "the gate of its sum keeps"
    return f"{_number(wanted)} after it, at which {keeps} the stream: 1.00 before, 1.00 after"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.005 <= value < 1000 else f"{value:.2g}"


# Tables ------------------------------------------------------------------------------------------


def _auto_embedding(view: ParameterView, model: ModelView) -> Choice:
    """normal(1); normal(0.2 / sqrt(width)) if it is tied or used again."""
    if view.is_tied:
        return _tied(view)
    tied = next((other for other in _tables(view, model) if other.is_tied), None)
    if tied is not None:
        spec = Normal(_tied_std(tied))
        return Choice(spec, "The std of the tied table, to which it may be added.")
    return Choice(
        Normal(1.0), "A lookup adds up one row, so unit rows start the stream: 1.00 after."
    )


def _tied(view: ParameterView) -> Choice:
    """One std for both uses: the logits decide, and what follows the lookup makes up for it."""
    std, width = _tied_std(view), view.shape[-1]
    if _is_normed(view):
        told = f"{LOGIT_STD}/sqrt(width {width}), for small logits from it as a head; the first "
        told += f"norm makes up for rows of {_number(std**2)}"
    else:
        told = f"sqrt({LOGIT_STD})/(width {width})^(1/4), for small logits of rows that no norm "
        told += f"rescales: {_number(std**2)} after it as a table"
    return Choice(Normal(std), f"Tied or used again: {told}, {_number(LOGIT_STD**2)} as a head.")


def _tied_std(view: ParameterView) -> float:
    """std^2 width q = 0.2^2, with q = 1 behind a norm and q = std^2 where there is none."""
    width = view.shape[-1]
    if _is_normed(view):
        return LOGIT_STD / math.sqrt(width)
    return math.sqrt(LOGIT_STD) / width**0.25


def _is_normed(view: ParameterView) -> bool:
    """Whether it reads a norm as a head; where that was not seen, it is assumed."""
    return view.source in ("norm", "")


def _tables(view: ParameterView, model: ModelView) -> list[ParameterView]:
    """The embeddings as wide as ``view``: those that may be added to it."""
    return [
        other
        for other in model.owners
        if other.role == "embedding" and other.shape[-1:] == view.shape[-1:]
    ]


def _rows(view: ParameterView, model: ModelView) -> float | None:
    """The std of the rows that it is added to or joins: of tables, else of what brings the input to
    the width of the blocks; ``None`` where neither was seen."""
    stds = [_tied_std(other) if other.is_tied else 1.0 for other in _tables(view, model)]
    placed = [one for one in model.owners if one.is_matrix and one.order is not None]
    blocks = min((one.order or 0 for one in placed if one.trunk is not None), default=0)
    enters = any(
        one.trunk is None and (one.order or 0) < blocks and _outputs(one) == view.shape[-1]
        for one in placed
    )
    return min(stds) if stds else 1.0 if enters else None


def _outputs(view: ParameterView) -> int:
    return math.prod(view.shape[axis] for axis in view.axes.outputs) if view.axes else 0


def _auto_position(view: ParameterView, model: ModelView) -> Choice:
    """Half the std of tokens or patches; normal(0.02) beside scores."""
    std = _rows(view, model)
    if std is None:
        return Choice(Normal(SMALL), "Positions start small beside scores and features.")
    return Choice(Normal(std / 2), "Half the std of the tokens that it is added to, as in GPT-2.")


def _auto_token(view: ParameterView, model: ModelView) -> Choice:
    """The std of the tokens or patches that it joins; normal(0.02) without them."""
    std = _rows(view, model)
    if std is None:
        return Choice(Normal(SMALL), "Learned tokens start small.")
    return Choice(
        Normal(std),
        "The std of the tokens that it joins: a norm would enlarge a small row's gradient.",
    )


def _auto_bias(view: ParameterView, model: ModelView) -> Choice:
    """constant(0); of a gate that is linear or carries, its constructor's constant."""
    gate = model.parameters.get(view.partner or "")
    if gate is not None and view.constant and "carries" in gate.evidence:
        told = "The bias of a gate that carries keeps its constructor's constant: what it lets by."
        return Choice(Constant(view.constant), told)
    if gate is not None and view.constant and gate.gated and gate.activation is None:
        told = (
            "The bias of a gate without an activation keeps its constructor's constant: it is open."
        )
        return Choice(Constant(view.constant), told)
    return basics(view, model)


# Recurrent ---------------------------------------------------------------------------------------


def _recurrent_hidden(view: ParameterView, model: ModelView) -> Choice:
    """orthogonal for each gate."""
    spec = per_matrix(view, lambda matrix: schemes.orthogonal(1.0, matrix.outputs, matrix.batch))
    return Choice(spec, "Orthogonal per gate: the state neither grows nor fades over time.")


def _recurrent_input(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(2 / (fan_in + fan_out))) for each gate."""
    spec = per_matrix(
        view, lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, distribution="normal")
    )
    return Choice(spec, f"Xavier per gate: fan_in {fan_text(view)}.")
