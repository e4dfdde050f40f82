"""What a rule may say: its fields, the variables and functions of a formula, and a recipe's file.

Everything is taken from the code that reads it, so that the page cannot say something else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from initium._plan.formula import FUNCTIONS
from initium._plan.places import VARIABLES
from initium._plan.recipe_file import KEYS, NEED_KEYS, RULE_KEYS
from initium._plan.rules import CONDITIONS, Rule
from initium._types import ROLES
from initium.spec.text import SPECS

__all__ = ["plain_text", "reference"]

PYTHON_ONLY = "only in Python"
EXAMPLE = """\
    recipe: mine
    summary: Small residual branches, everything else derived.
    rules:
      - role: [attn_out, mlp_down]
        spec: "normal(0.02 / sqrt(2 * layers))"
        reason: As in GPT-2.
      - {name: "*.gate.weight", spec: normal(0.01), lr: 0.5, optional: true}
    base: auto
    needs:
      - what: residual multiplier
        value: 0.5
        where: every branch
        who: model code
"""


def reference() -> str:
    """The page on rules, as Markdown that reads well in a terminal too.

    Example:
        >>> print(reference().splitlines()[0])
        # Rules
    """
    fields = _fields()
    given = [name for name in fields if name not in (*CONDITIONS, "place")]
    parts = [
        "# Rules",
        "",
        "A rule says which parameters, and what they start from. The first that matches decides. "
        "Rules of your own stand before those of a recipe, and each must decide something. A rule "
        "for a matrix such as `attn_v` also decides its block of a fused one.",
        "",
        "## Which parameters",
        "",
        "All conditions that are given must hold; without any a rule matches everything.",
        "",
        *(_item(name, fields[name]) for name in CONDITIONS),
        "",
        "## What they start from",
        "",
        *(_item(name, fields[name]) for name in given),
        "",
        "## Formulas",
        "",
        "The text of a spec may calculate, as in `normal(0.02 / sqrt(2 * layers))`: for each "
        f"logical matrix, with `+ - * / **` and {_listed(FUNCTIONS)}, and these variables.",
        "",
        *(f"- `{name}`: {text}." for name, text in VARIABLES.items()),
        "",
        "Where one tensor holds a matrix for each layer, `block` and `depth` are those of each "
        "layer; whole or fused matrices and learning rates cannot differ by layer, and are refused "
        "then.",
        "",
        f"Specs by name: {_listed(SPECS)}.",
        "",
        f"Roles: {_listed(ROLES)}.",
        "",
        "## As a file",
        "",
        "`initium plan MODEL --recipe mine.yaml`; the keys of a rule are the names above:",
        "",
        EXAMPLE,
        f"- keys of the file: {_listed(KEYS)}. Without `base` each parameter needs a rule.",
        f"- keys of a rule: {_listed(RULE_KEYS)}.",
        f"- keys of a need: {_listed((*NEED_KEYS, 'source'))}.",
        "",
        "## In Python",
        "",
        '    shut = initium.Rule("normal(0.01)", name="*.gate.weight", reason="Shut.")',
        '    initium.plan(model, "he", rules=[shut])',
        '    initium.plan(model, "he", rules={"role:head": "zeros", "*.bias": "zeros"})',
        "",
        "The keys of a mapping are globs over names, or begin with `role:`, `type:` (of the "
        "module) or `re:`.",
    ]
    return "\n".join(parts) + "\n"


def _fields() -> dict[str, str]:
    """The fields of a rule with their documentation, as one line each."""
    text = inspect.getdoc(Rule) or ""
    told = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    items = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", told, re.MULTILINE)
    return {name: plain_text(" ".join(line.split())) for name, line in items}


def plain_text(text: str) -> str:
    """Without the roles and double quotes of reStructuredText."""
    text = re.sub(r" in the variables of :data:`[^`]*`,", "", text)
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text).replace("``", "`")


def _item(name: str, text: str) -> str:
    where = "" if name in RULE_KEYS else f" ({PYTHON_ONLY})"
    return f"- `{name}`{where}: {text}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
