"""The recipes of convolutional networks: ResNet, ConvNeXt, and Fixup for those without norms.

Covered: what their code draws for each role; a model of another family gets the rest from its own
modules' defaults or from what the recipe says of matrices. Not covered: squeeze-and-excitation and
other blocks that the three do not have.
"""

from __future__ import annotations

import math
from functools import lru_cache
from math import prod

from initium._plan.layout import per_matrix
from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._plan.torch_defaults import TORCH_RULES
from initium._scheme import schemes
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.recipes._shared import BASICS, MATRICES, UNSAID, basics
from initium.recipes._stacks import branch_sizes, first_matrix, trunk_branches
from initium.recipes._suits import has_norms, lacks_branches, lacks_convolutions, made_for
from initium.spec import Constant, Normal, Spec

__all__ = ["convnext", "fixup", "resnet"]

CONVOLUTIONS = ("conv", "conv_depthwise", "patch")
LINEAR = tuple(rule for rule in TORCH_RULES if rule.condition == "when=nn.Linear")
UNTOLD = (
    Rule("normal(1 / sqrt(fan_in))", role=MATRICES, reason="ResNet says nothing of this matrix"),
)


def _fan_out(view: ParameterView) -> int:
    """The fan of torch's ``fan_out``: every output channel times the taps, groups left out."""
    return view.shape[0] * prod(view.shape[2:])


def _he_fan_out(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(2 / fan_out)), with every output channel whatever the groups."""
    fan = _fan_out(view)
    return Choice(Normal(math.sqrt(2 / fan)), f"He for ReLU, torch's fan_out {fan}.")


def _is_convolution(view: ParameterView) -> bool:
    return view.role in CONVOLUTIONS and len(view.shape) >= 3


def resnet(zero_gamma: bool = False) -> Recipe:
    """ResNet as torchvision has it: He on the fan-out, for every convolution.

    Formula: convolutions N(0, 2 / (out k^2)), with every output channel whatever the groups; norms
    1 and 0; the fully connected layer at torch's default, weight and bias U(+-1/sqrt(fan_in)). With
    ``zero_gamma`` the norm that closes a residual branch starts at 0, and every block as the
    identity.

    Args:
        zero_gamma: start every residual branch at zero.

    When to use: convolutional networks with batch norm; ``zero_gamma`` for large batches.

    Source: pytorch/vision, torchvision/models/resnet.py; Goyal et al. 2017, arXiv:1706.02677,
    section 5.1, for zero_gamma

    Known divergences: torchvision leaves zero_gamma (zero_init_residual) off, timm
    (timm/models/resnet.py, zero_init_last) on. torch's fan_out counts all output channels, so in a
    grouped convolution it is larger than what one input reaches by the number of groups.

    Example:
        >>> resnet(zero_gamma=True).text
        'resnet(zero_gamma=True)'
    """

    def norm(view: ParameterView, model: ModelView) -> Choice:
        """constant(1); with zero_gamma 0 where it closes a residual branch."""
        if zero_gamma and view.name in _closing_norms(model):
            return Choice(Constant(0.0), "It closes a residual branch, which starts at zero.")
        value = 1.0 if view.neutral is None else view.neutral
        return Choice(Constant(value), "A normalisation starts without scaling.")

    rules = (
        Rule(_he_fan_out, when=_is_convolution),
        *LINEAR,
        Rule(norm, role="norm_scale"),
        *UNTOLD,
        *BASICS,
        *UNSAID,
    )
    suits = made_for("resnet", "convolutional networks", lacks_convolutions)
    return Recipe(recipe_text("resnet", zero_gamma=(zero_gamma, False)), rules, suits=suits)


@lru_cache(maxsize=4)
def _closing_norms(model: ModelView) -> frozenset[str]:
    """The scales of the norms that stand right behind the last matrix of a residual branch."""
    norms = sorted(
        (view.order, view.name)
        for view in model.owners
        if view.role == "norm_scale" and view.order is not None
    )
    found: set[str] = set()
    for view in model.owners:
        if view.writes_residual and view.norm_after and view.order is not None:
            behind = next((name for order, name in norms if order > view.order), None)
            found.update((behind,) if behind else ())
    return frozenset(found)


def convnext(head_init_scale: float = 1.0, layer_scale: float = 1e-6) -> Recipe:
    """ConvNeXt: N(0, 0.02^2) everywhere, and branches that start at a millionth.

    Formula: convolutions and matrices N(0, 0.02^2), biases 0; the head times ``head_init_scale``;
    layer scales at their architecture's constant, or ``layer_scale`` where the model has no values
    yet; norms 1 and 0.

    Args:
        head_init_scale: factor of the head; the fine-tuning scripts use 0.001.
        layer_scale: the constant of layer scales on the meta device.

    When to use: ConvNeXt and other convolutional networks with layer scale or layer norm.

    Source: facebookresearch/ConvNeXt, models/convnext.py (_init_weights); timm/models/convnext.py

    Known divergences: the code truncates at +-2 absolute, 100 sigmas, left out here. ConvNeXt V2
    has no layer scale and starts its response normalisation at 0.

    Example:
        >>> convnext(head_init_scale=0.001).text
        'convnext(head_init_scale=0.001)'
    """

    def scale(view: ParameterView, model: ModelView) -> Choice:
        """Its architecture's constant; layer_scale where it has none yet."""
        if view.constant is not None:
            return Choice(Constant(view.constant), "A scale keeps its architecture's constant.")
        return Choice(Constant(layer_scale), f"Layer scale: {format_number(layer_scale)}.")

    text = recipe_text(
        "convnext", head_init_scale=(head_init_scale, 1.0), layer_scale=(layer_scale, 1e-6)
    )
    rules = (
        Rule(
            Normal(0.02 * head_init_scale),
            role="head",
            reason=f"ConvNeXt: 0.02 x head_init_scale {format_number(head_init_scale)}.",
        ),
        Rule("normal(0.02)", role=MATRICES, reason="ConvNeXt: N(0, 0.02^2), biases 0."),
        Rule(scale, role="scale", when=_has_no_values),
        *BASICS,
        *UNSAID,
    )
    return Recipe(
        text, rules, suits=made_for("convnext", "convolutional networks", lacks_convolutions)
    )


def _has_no_values(view: ParameterView) -> bool:
    """Whether it holds one constant or nothing yet, so that none of its own values are lost."""
    return view.constant is not None or view.on_meta


def fixup() -> Recipe:
    """Fixup: residual networks without norms whose step does not depend on the depth.

    Formula: with L residual branches in the model, a branch of m matrices has its last one at 0 and
    the others at their usual std times L^(-1/(2m - 2)); the usual std is sqrt(2 / (out k^2)) for
    convolutions and xavier uniform for matrices; the head 0, weight and bias; shortcut convolutions
    sqrt(2 / (out k^2)); the first convolution at torch's default; biases 0 and multipliers 1, both
    at a tenth of the learning rate. The plan's needs say what the paper adds to the model.

    When to use: residual networks without normalisation.

    Source: Zhang et al. 2019, arXiv:1901.09321; hongyi-zhang/Fixup,
    imagenet/models/fixup_resnet_imagenet.py, imagenet/imagenet_train.py,
    fairseq/fairseq/models/transformer_zero.py

    Known divergences: m is 2 in basic blocks, L^(-1/2), and 3 in bottlenecks, L^(-1/4). For a
    transformer the code counts q, k, v and out, m = 4 and L^(-1/6), and 2 for the feed-forward, as
    here; it draws q, k, v as one matrix, and always takes 12 for L in cross attention.

    Example:
        >>> fixup().text
        'fixup'
    """
    rules = (
        Rule("constant(0)", role="head", reason="Fixup: the classifier starts at zero."),
        Rule("constant(0)", role=MATRICES, writes=True, reason="Fixup: a branch starts at zero."),
        Rule(_fixup_matrix, role=MATRICES),
        Rule(basics, role=("bias", "scale"), lr=0.1),
        *BASICS,
        *UNSAID,
    )
    suits = made_for("fixup", "residual networks without norms", lacks_branches, has_norms)
    return Recipe("fixup", rules, FIXUP_NEEDS, suits)


FIXUP = "Zhang et al. 2019, arXiv:1901.09321"
FIXUP_NEEDS = (
    Need("normalisation", "none", "the whole model", "model code", FIXUP),
    Need(
        "scalar biases and multipliers",
        "0 and 1",
        "a bias before every convolution, matrix and activation, a multiplier in every branch",
        "model code",
        FIXUP,
    ),
    Need(
        "learning rates",
        "a tenth for biases and multipliers",
        "plan.parameter_groups(model, lr=...)",
        "optimizer",
        "hongyi-zhang/Fixup, imagenet/imagenet_train.py",
    ),
)


def _fixup_matrix(view: ParameterView, model: ModelView) -> Choice:
    """he or xavier, x branches^(-1/(2m - 2)) in a branch of m matrices."""
    convolution = _is_convolution(view)
    if convolution and view.name == first_matrix(model):
        fan = prod(view.shape[1:])
        return Choice(
            schemes.kaiming_uniform(fan), "Fixup's code leaves the first convolution to torch."
        )
    spec: Spec
    if convolution:
        spec, told = Normal(math.sqrt(2 / _fan_out(view))), "He"
    else:
        spec = per_matrix(view, lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out))
        told = "Xavier"
    count, size = trunk_branches(model), branch_sizes(model).get(view.name, 0)
    if size < 2:
        return Choice(spec, f"Fixup: {told}, outside the residual branches.")
    exponent = 1 / (2 * size - 2)
    return Choice(
        spec.scaled(count**-exponent),
        f"Fixup: {told} x {count}^(-1/{2 * size - 2}), one of {size} matrices of a branch.",
    )
