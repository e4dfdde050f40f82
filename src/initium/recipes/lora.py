"""The recipes of low-rank adapters that leave the base weights alone.

Covered: LoRA's default, its Gaussian variant and the orthogonal one, as peft has them. Everything
else is kept: an adapter goes onto a trained model. Not covered: starts that rewrite the base
weights (PiSSA, OLoRA, LoftQ) or need data (EVA, CorDA, LoRA-GA).
"""

from __future__ import annotations

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._suits import made_for
from initium.spec import Complements, Joint

__all__ = ["lora", "lora_gaussian", "lora_orthogonal"]

SCALING = Need(
    "scaling of the update",
    "alpha / rank, or alpha / sqrt(rank) with rslora",
    "x W^T + scaling x A^T B^T of every adapted layer",
    "adapter's code",
    "Hu et al. 2021, arXiv:2106.09685, section 4.1; rslora: arXiv:2312.03732",
)
TABLES = (
    Rule("constant(0)", name="*lora_embedding_A*", reason="The A of an embedding starts at zero."),
    Rule("normal(1)", name="*lora_embedding_B*", reason="As torch's Embedding; its A is zero."),
)
UP = Rule("constant(0)", role="lora_b", reason="B = 0: the update starts at zero.")
BASE = Rule("keep", reason="An adapter leaves the weights of the base model as they are.")


def _lacks_adapters(model: ModelView) -> str | None:
    found = any(view.role == "lora_a" or "lora" in view.name for view in model.owners)
    return None if found else "has no adapters, and nothing of it would change"


ADAPTED = made_for("lora", "models with low-rank adapters", _lacks_adapters)


def lora() -> Recipe:
    """LoRA's default: A uniform within 1/sqrt(fan_in), B zero; the base model is kept.

    Formula: A U(+-1/sqrt(fan_in)), which is kaiming_uniform with a = sqrt 5; B 0; of an adapted
    embedding A 0 and B N(0, 1); everything else kept.

    When to use: fine-tuning; the model's function does not change at the start.

    Source: microsoft/LoRA, loralib/layers.py; huggingface/peft, src/peft/tuners/lora/layer.py,
    ``init_lora_weights=True``

    Known divergences: the paper (Hu et al. 2021, arXiv:2106.09685) says a random Gaussian for A;
    the released code is uniform.

    Example:
        >>> lora().text
        'lora'
    """
    down = Rule(
        "uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))",
        role="lora_a",
        reason="LoRA: kaiming_uniform with a = sqrt 5",
    )
    return Recipe("lora", (*TABLES, down, UP, BASE), (SCALING,), ADAPTED)


def lora_gaussian() -> Recipe:
    """LoRA with a Gaussian A, N(0, 1 / rank^2), and B zero; the base model is kept.

    Formula: A N(0, 1 / r^2) with the rank r; the rest as :func:`lora`.

    When to use: as ``init_lora_weights="gaussian"`` in peft and diffusers.

    Source: huggingface/peft, src/peft/tuners/lora/layer.py, ``reset_lora_parameters``

    Known divergences: the std is 1 / rank, not 1 / sqrt(rank), so that A shrinks with the rank.

    Example:
        >>> lora_gaussian().text
        'lora_gaussian'
    """
    down = Rule("normal(1 / fan_out)", role="lora_a", reason="LoRA: std 1 / rank")
    return Recipe("lora_gaussian", (*TABLES, down, UP, BASE), (SCALING,), ADAPTED)


def lora_orthogonal(std: float = 0.1) -> Recipe:
    """LoRA whose A and B are both random, and yet B A = 0; the base model is kept.

    Formula: of one random orthogonal matrix of order r, the odd rows Q1 and the even rows Q2; A =
    (G1 Q1)^T and B = G2 Q2 with G1, G2 of independent N(0, std^2); an element has std / sqrt 2.

    Args:
        std: of the elements of G1 and G2.

    When to use: as ``init_lora_weights="orthogonal"`` in peft: both factors have gradients from the
    first step. The rank must be even, and the adapted layers linear.

    Source: https://datta0.github.io/posts/rethink-lora-init/; huggingface/peft,
    src/peft/tuners/lora/layer.py, ``orthogonal_init``

    Known divergences: peft takes Q from a QR decomposition without a sign convention, so it is not
    quite Haar-random; here it is. A and B of one adapter agree by a shared key, the name of A.

    Example:
        >>> lora_orthogonal(0.05).text
        'lora_orthogonal(std=0.05)'
    """
    law = Complements(std)

    def down(view: ParameterView, model: ModelView) -> Choice:
        """The odd rows of an orthogonal matrix."""
        axis = view.axes.outputs[0] if view.axes else 0
        return Choice(Joint(law, 0, view.name, axis), "LoRA: odd rows of a shared orthogonal Q.")

    def up(view: ParameterView, model: ModelView) -> Choice:
        """The even rows of the same orthogonal matrix."""
        read = [name for name in view.reads if model.parameters[name].role == "lora_a"]
        if len(read) != 1:
            raise RecipeError(
                "must read exactly one A, with which it is drawn",
                where=f"lora_orthogonal: {view.name}",
                value=read,
                fix="use lora, or trace the model with example inputs",
            )
        axis = view.axes.inputs[0] if view.axes else 1
        return Choice(Joint(law, 1, read[0], axis), "LoRA: even rows of a shared orthogonal Q.")

    rules = (*TABLES, Rule(down, role="lora_a"), Rule(up, role="lora_b"), BASE)
    return Recipe(recipe_text("lora_orthogonal", std=(std, 0.1)), rules, (SCALING,), ADAPTED)
