"""MosaicML's LLM Foundry: one generic initialiser, seven named schemes, one divisor."""

from __future__ import annotations

from initium._plan.formula import Formula
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Scheme, formula
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._language import one_of, std_text, transformer
from initium.spec import Spec

__all__ = ["llm_foundry"]

SCHEMES = (
    "kaiming_normal",
    "kaiming_uniform",
    "baseline",
    "small_init",
    "neox_init",
    "xavier_normal",
    "xavier_uniform",
)


def llm_foundry(
    scheme: str = "kaiming_normal",
    std: float = 0.02,
    div: bool | float = True,
    gain: float = 1.0,
    embedding_std: float | None = None,
) -> Recipe:
    """LLM Foundry (MPT): a scheme per unfused slice; residual writers divided by sqrt(2 L).

    Formula, for width d and L blocks: ``kaiming_*`` sqrt(2 / fan_in); ``baseline`` std;
    ``small_init`` and ``neox_init`` sqrt(2 / (5 d)); ``xavier_*`` gain sqrt(2 / (fan_in +
    fan_out)). Matrices that write to the residual stream are divided by sqrt(2 L), in ``neox_init``
    by L/sqrt(10). Tables are drawn as matrices (fan_in d, fan_out rows). Biases 0; norms 1 and 0.

    Args:
        scheme: ``param_init_fn.name`` without its last underscore.
        std: ``init_std`` of ``baseline``, which has no default there.
        div: ``init_div_is_residual``: True for sqrt(2 L), False for none, or a number.
        gain: ``init_gain`` of ``xavier_*``.
        embedding_std: ``emb_init_std``: tables N(0, embedding_std^2) in place of the scheme.

    When to use: to reproduce MPT, or a Kaiming decoder with depth scaling.

    Source: https://github.com/mosaicml/llm-foundry/blob/8c8dd48/llmfoundry/models/utils/
    param_init_fns.py#L291-L345, #L535-L590, #L797-L994; config_defaults.py#L43-L52

    Known divergences: its ``init_gain`` defaults to 0, which makes every xavier weight 0 (pass
    ``gain=0`` for that) and is the leaky slope 0 for Kaiming. The outputs of its own mixture of
    experts (``GLU``, ``MLP`` of dmoe.py) are not divided there; here every writer is.

    Example:
        >>> llm_foundry("neox_init").text
        "llm_foundry(scheme='neox_init')"
    """
    one_of("llm_foundry", "scheme", scheme, SCHEMES)
    if not isinstance(div, bool) and not div > 0:
        raise RecipeError("is not above 0", where="div", value=div)
    text = recipe_text(
        "llm_foundry",
        scheme=(scheme, "kaiming_normal"),
        std=(std, 0.02),
        div=(div, True),
        gain=(gain, 1.0),
        embedding_std=(embedding_std, None),
    )
    spread = {
        "kaiming": "sqrt(2 / {fan_in})",
        "baseline": std_text(std),
        "small": "sqrt(2 / (5 * {width}))",
        "neox": "sqrt(2 / (5 * {width}))",
        "xavier": f"{std_text(gain)} * sqrt(2 / ({{fan_in}} + {{fan_out}}))",
    }[scheme.split("_")[0]]
    shape = _uniform if scheme.endswith("uniform") else "normal({})".format
    names = {"fan_in": "fan_in", "fan_out": "fan_out", "width": "width"}
    divisor = _divisor(scheme, div)
    inputs = spread.format(**names)
    table = f"normal({std_text(embedding_std)})" if embedding_std is not None else None
    return transformer(
        text,
        "LLM Foundry",
        inputs=shape(inputs),
        out=shape(f"{inputs} / {divisor}" if divisor else inputs),
        embedding=table or _table(shape(spread)),
        others=shape(spread.format(**{**names, "width": "fan_in"})),
    )


def _divisor(scheme: str, div: bool | float) -> str | None:
    if scheme == "neox_init":
        return "(layers / sqrt(10))"
    if div is True:
        return "sqrt(2 * layers)"
    return format_number(div) if div else None


def _uniform(std: str) -> str:
    return f"uniform(-sqrt(3) * {std}, sqrt(3) * {std})"


def _table(text: str) -> Scheme:
    """A table drawn as the matrix that it is stored as: fan_in its width, fan_out its rows."""

    @formula(text.format(fan_in="width", fan_out="rows", width="width"))
    def scheme(view: ParameterView, model: ModelView) -> Spec:
        rows, width = view.shape[0], view.shape[-1]
        return Formula(text.format(fan_in=width, fan_out=rows, width=width)).spec({})

    return scheme
