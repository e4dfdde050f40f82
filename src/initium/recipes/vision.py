"""The recipes of vision transformers: ViT, MAE, DiT.

Covered: what their code draws for each role, and their frozen positions on square grids. Not
covered: fine-tuning heads and hybrid stems.
"""

from __future__ import annotations

import math
from functools import lru_cache
from math import prod

from initium._plan.layout import matrices
from initium._plan.recipe import Recipe, Suits, recipe_text
from initium._plan.rules import Choice, Rule
from initium._scheme import schemes
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, FROZEN_POSITIONS, MATRICES, UNSAID
from initium.recipes._suits import lacks, lacks_attention, made_for
from initium.spec import Constant, Normal, SinCos, TruncatedNormal

__all__ = ["dit", "mae", "vit"]

VARIANTS = ("timm", "jax", "jax_nlhb", "moco")
XAVIER = "sqrt(6 / (fan_in + fan_out))"
TINY = 1e-6


def _for_images(recipe: str) -> Suits:
    return made_for(
        recipe, "vision transformers", lacks("patch embedding", "patch"), lacks_attention
    )


def vit(variant: str = "timm", fix_init: bool = False) -> Recipe:
    """ViT as timm has it, in the variants of its ``weight_init``.

    Formula, by role:

    - ``timm``: matrices and head N(0, 0.02^2), biases 0; a convolution (the patch embedding) stays
      at torch's default, weight and bias U(+-1/sqrt(fan_in)).
    - ``jax``: matrices xavier uniform; head 0; biases of the feed-forward N(0, 1e-6^2), others 0;
      convolutions truncated N(0, 1/fan_in) at two sigmas, compensated, bias 0.
    - ``jax_nlhb``: as ``jax``, and the bias of the head -ln C for C classes.
    - ``moco``: matrices and head xavier uniform, q, k and v each by itself; convolutions as torch.
    - all: positions N(0, 0.02^2); class and register tokens N(0, 1e-6^2); norms 1 and 0.
    - ``fix_init``: what closes the branches of block l (from 0) is divided by sqrt(2 (l + 1)).

    Args:
        variant: ``timm``, ``jax``, ``jax_nlhb`` or ``moco``.
        fix_init: scale the residual writers with their block, as in BEiT.

    When to use: image transformers; ``moco`` where q, k and v should not depend on being fused.

    Source: huggingface/pytorch-image-models, timm/models/vision_transformer.py (init_weights,
    init_weights_vit_timm, _jax, _moco, fix_init_weight) and timm/layers/weight_init.py;
    google-research/vision_transformer, vit_jax/models_vit.py; facebookresearch/moco-v3, vits.py

    Known divergences: timm's truncation at +-2 is absolute, 100 sigmas here, and left out. Its
    ``jax`` sees a fused qkv as one matrix, std 0.71 of that of each by itself, and so does this
    recipe; the Flax code draws q, k and v each with their own fans, and starts the class token at
    zero. moco-v3 itself also freezes sine-cosine positions and draws the patch embedding xavier
    uniform over its flattened view; timm leaves both out.

    Example:
        >>> vit("jax", fix_init=True).text
        "vit(variant='jax', fix_init=True)"
    """
    if variant not in VARIANTS:
        raise RecipeError("is not a variant of vit", where="vit", value=variant, choices=VARIANTS)
    text = recipe_text("vit", variant=(variant, "timm"), fix_init=(fix_init, False))
    jax = variant.startswith("jax")

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """normal(0.02); xavier uniform in Flax."""
        if jax:
            return _xavier_as_one(view, model)
        return Choice(Normal(0.02), "timm: N(0, 0.02^2); its cut at +-2 is 100 sigmas away.")

    def bias(view: ParameterView, model: ModelView) -> Choice:
        """constant(0); beside convolutions as their variant has it."""
        with_it = model.parameters.get(view.partner or "")
        if with_it is not None and _has_taps(with_it) and not jax:
            return _torch_default(with_it, model)
        if with_it is not None and with_it.role == "head" and variant == "jax_nlhb":
            classes = view.numel
            return Choice(Constant(-math.log(classes)), f"timm's jax_nlhb: -ln({classes}).")
        if with_it is not None and with_it.role.startswith("mlp_") and jax:
            return Choice(Normal(TINY), "Flax's ViT: N(0, 1e-6^2) for biases of the feed-forward.")
        return Choice(Constant(0.0), "ViT: biases start at zero.")

    reading = Rule(_lecun if jax else _torch_default, when=_has_taps)
    head = Rule("constant(0)", role="head", reason="Flax's ViT: the head starts at zero.")
    each = Rule(f"uniform(-{XAVIER}, {XAVIER})", role=MATRICES, reason="moco-v3: xavier uniform")
    rules = (
        *((head,) if jax else ()),
        *((_fixed(variant),) if fix_init else ()),
        reading,
        each if variant == "moco" else Rule(matrix, role=MATRICES),
        Rule(bias, role="bias"),
        FROZEN_POSITIONS,
        Rule("normal(0.02)", role="position", reason="ViT: N(0, 0.02^2) for learned positions."),
        Rule(f"normal({TINY})", role="token", reason="timm: N(0, 1e-6^2) for its tokens."),
        *BASICS,
        *UNSAID,
    )
    return Recipe(text, rules, suits=_for_images("vit"))


def _fixed(variant: str) -> Rule:
    shrunk = "sqrt(3 / (fan_in + fan_out) / (block + 1))"
    return Rule(
        "normal(0.02 / sqrt(2 * (block + 1)))"
        if variant == "timm"
        else f"uniform(-{shrunk}, {shrunk})",
        role=("attn_out", "mlp_down"),
        writes=True,
        reason="fix_init: divided by sqrt(2 (l + 1))",
    )


def mae() -> Recipe:
    """The masked autoencoder's start: xavier uniform with q, k, v as one matrix.

    Formula: matrices xavier uniform over the whole weight, so a fused qkv has fan_out 3d; the patch
    embedding xavier uniform over its flattened view, +-sqrt(6 / (c p^2 + d)); class and mask tokens
    N(0, 0.02^2); biases 0, but the patch embedding's U(+-1/sqrt(fan_in)); norms 1 and 0; positions
    are frozen sines and cosines.

    When to use: masked image modelling; the encoder with the decoder.

    Source: facebookresearch/mae, models_mae.py (initialize_weights, _init_weights)

    Known divergences: the code resets the weight of the patch embedding and not its bias, which
    stays at torch's default. Heads belong to other files there: main_finetune.py draws N(0,
    2e-5^2), main_linprobe.py N(0, 0.01^2). The port in transformers (ViTMAE, 5.23) draws
    every matrix N(0, 0.02^2), and its frozen positions are zero in a fresh model. Frozen positions
    that are no square grid are kept as they are; positions that are trained start at
    N(0, 0.02^2).

    Example:
        >>> mae().text
        'mae'
    """

    def bias(view: ParameterView, model: ModelView) -> Choice:
        """constant(0); torch's default beside convolutions."""
        with_it = model.parameters.get(view.partner or "")
        if with_it is not None and _has_taps(with_it):
            return _torch_default(with_it, model)
        return Choice(Constant(0.0), "MAE: biases start at zero.")

    rules = (
        Rule(_xavier_flattened, when=_has_taps),
        Rule(_xavier_as_one, role=MATRICES),
        Rule(bias, role="bias"),
        FROZEN_GRID,
        Rule("normal(0.02)", role="token", reason="MAE: N(0, 0.02^2) for class and mask tokens."),
        *BASICS,
        *UNSAID,
    )
    return Recipe("mae", rules, suits=_for_images("mae"))


def dit() -> Recipe:
    """DiT with adaLN-zero: every block starts as the identity, the output as zero.

    Formula: matrices xavier uniform over the whole weight (fused qkv as one); the patch embedding
    xavier uniform over its flattened view; the label table and the timestep's two matrices
    N(0, 0.02^2); modulations (adaLN) 0, weight and bias; the last layer 0; biases 0; positions are
    frozen sines and cosines.

    When to use: diffusion transformers whose blocks are gated by their condition.

    Source: facebookresearch/DiT, models.py (initialize_weights)

    Known divergences: the timestep's matrices are those that the modulations read from; an extra
    embedder (text, pooled) that joins them there counts as one too. Without a trace they cannot be
    told, and get xavier like the rest.

    Example:
        >>> dit().text
        'dit'
    """

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """normal(0.02) for what feeds the modulations, else xavier uniform."""
        if view.name in _conditioning(model):
            return Choice(Normal(0.02), "DiT: N(0, 0.02^2) for what feeds the modulations.")
        return _xavier_as_one(view, model)

    def table(view: ParameterView, model: ModelView) -> Choice:
        """normal(0.02)."""
        spec = Normal(0.02)
        return Choice(spec, "DiT: N(0, 0.02^2) for the label embedding.")

    zero = "constant(0)"
    rules = (
        Rule(zero, role="modulation", reason="adaLN-zero: every block starts as the identity."),
        Rule(zero, role="head", reason="DiT: the output layer starts at zero."),
        Rule(_xavier_flattened, when=_has_taps),
        Rule(matrix, role=MATRICES),
        FROZEN_GRID,
        FROZEN_POSITIONS,
        Rule(table, role=("embedding", "position", "token")),
        *BASICS,
    )
    kind = "transformers with adaptive norms"
    return Recipe("dit", rules, suits=made_for("dit", kind, lacks("modulation", "modulation")))


@lru_cache(maxsize=4)
def _conditioning(model: ModelView) -> frozenset[str]:
    """The matrices that modulations read from, and those behind them."""
    behind = [name for view in model.owners if view.role == "modulation" for name in view.reads]
    found: set[str] = set()
    while behind:
        view = model.parameters.get(behind.pop())
        if view is None or view.name in found or view.role != "linear" or view.writes_residual:
            continue
        found.add(view.name)
        behind += view.reads
    return frozenset(found)


# What their code does with one weight ------------------------------------------------------------


def _has_taps(view: ParameterView) -> bool:
    """Whether a weight is a convolution's."""
    return bool(view.axes and view.axes.field)


def _is_frozen_grid(view: ParameterView) -> bool:
    frozen = view.role == "position" and not view.trainable
    return frozen and view.shape[-1] % 4 == 0 and _side(view) is not None


def _side(view: ParameterView) -> tuple[int, int] | None:
    """Side of the square grid of positions, and the rows in front of it: one or none."""
    rows = view.shape[-2] if len(view.shape) >= 2 else 0
    for prefix in (0, 1):
        side = math.isqrt(max(rows - prefix, 0))
        if side > 0 and side * side == rows - prefix:
            return side, prefix
    return None


def _sincos(view: ParameterView, model: ModelView) -> Choice:
    """Sines and cosines of the grid of patches."""
    side, prefix = _side(view) or (1, 0)
    return Choice(
        SinCos((side, side), prefix), f"Frozen sines and cosines of a {side} x {side} grid."
    )


FROZEN_GRID = Rule(_sincos, when=_is_frozen_grid)


def _torch_default(view: ParameterView, model: ModelView) -> Choice:
    """torch's uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), of the weight for its bias too."""
    fan = prod(view.shape[1:])
    return Choice(
        schemes.kaiming_uniform(fan), f"A convolution stays at torch's default, U(+-1/sqrt({fan}))."
    )


def _lecun(view: ParameterView, model: ModelView) -> Choice:
    """truncated_normal(1 / sqrt(fan_in))."""
    fan = prod(view.shape[1:])
    return Choice(
        TruncatedNormal(1 / math.sqrt(fan)),
        f"Flax's ViT: truncated N(0, 1/{fan}) for convolutions.",
    )


def _xavier_flattened(view: ParameterView, model: ModelView) -> Choice:
    """xavier uniform over the weight as a matrix."""
    fan_in, fan_out = prod(view.shape[1:]), view.shape[0]
    return Choice(
        schemes.xavier(fan_in, fan_out), f"Xavier over its flattened view, {fan_out} x {fan_in}."
    )


def _xavier_as_one(view: ParameterView, model: ModelView) -> Choice:
    """Xavier uniform with the blocks of a fused weight taken as one matrix."""
    held = matrices(view)
    fan_in, fan_out = held[0].fan_in, held[0].fan_out
    fused = next((block for block in view.blocks if not block.stacked), None)
    if fused is not None and view.axes is not None:
        if fused.axis in view.axes.outputs:
            fan_out = sum(matrix.fan_out for matrix in held)
        elif fused.axis in view.axes.inputs:
            fan_in = sum(matrix.fan_in for matrix in held)
    told = f"fan_in {format_number(fan_in)}, fan_out {format_number(fan_out)}"
    whole = " of the whole fused weight" if fused is not None else ""
    return Choice(schemes.xavier(fan_in, fan_out), f"Xavier uniform: {told}{whole}.")
