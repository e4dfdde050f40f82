"""Recipes of one's own in YAML: what they can say, and what is said when they are wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from views import tiny_gpt

import initium
from initium._plan import Need, parse_recipe, plan_model
from initium.errors import RecipeError
from initium.spec import Constant, Normal

GOOD = """\
recipe: mine
summary: Small residual branches, everything else derived.
rules:
  - role: [attn_out, mlp_down]
    writes: true
    spec: "normal(0.02 / sqrt(2 * layers))"
    reason: Small.
  - {regex: 'h\\.0\\..*bias', spec: constant(0.5)}
  - {name: "*.no_such_thing", spec: zeros, optional: true}
  - {name: wpe.weight, spec: normal(0.3), lr: 0.5}
base: he
needs:
  - {what: residual multiplier, value: 0.5, where: every branch, who: model code}
"""


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_is_a_recipe(tmp_path):
    path = written(tmp_path, GOOD)
    plan = plan_model(tiny_gpt(layers=2), path)
    assert plan.recipe == path
    assert plan.entries["h.1.down.weight"].std == pytest.approx(0.01)
    assert plan.entries["h.0.ln.bias"].spec == Constant(0.5)
    assert plan.entries["h.1.ln.bias"].spec == Constant(0.0)
    assert (plan.entries["wpe.weight"].spec, plan.entries["wpe.weight"].lr) == (Normal(0.3), 0.5)
    assert plan.needs == (Need("residual multiplier", 0.5, "every branch", "model code"),)


def test_it_goes_wherever_a_recipe_goes(tmp_path):
    net = nn.Linear(3, 2)
    path = written(tmp_path, "rules:\n  - {module_type: Linear, spec: normal(0.5)}\n")
    assert initium.plan(net, path, torch.zeros(1, 3)).entries["weight"].std == 0.5
    rule = initium.Rule(path, name="bias")
    assert initium.plan(net, "he", rules=[rule]).entries["bias"].std == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: mine\n", 'is not a recipe. Fix: write "rules:"'),
        ("rules: 3\n", "line 1: must be a list of rules"),
        ("rules:\n  - zeros\n", "a rule must be a mapping"),
        ("rules:\n  - {role: head}\n", "line 2: a rule needs the key spec"),
        (
            "rules:\n  - {roel: head, spec: zeros}\n",
            "line 2: .*got 'roel'.; did you mean role",
        ),
        (
            "rules:\n  - {type: Linear, spec: zeros}\n",
            "line 2: the rule has an unknown key .got 'type'.; did you mean module_type",
        ),
        ("rules:\n  - {spec: zeros, why: So.}\n", "got 'why'.; did you mean reason"),
        ("rules:\n  - {action: zeros}\n", "got 'action'.; did you mean spec"),
        (
            "rules:\n  - {spec: he}\n  - {spec: gauss(1)}\n",
            "line 3: .*the spec of rule.* is neither a distribution nor a recipe",
        ),
        ("rules:\n  - {spec: normal(0.02 / 0)}\n", "line 2: .*cannot be calculated"),
        ("rules:\n  - {spec: 'normal(0.02, men=1)'}\n", "line 2: .*is not a spec: .*men"),
        (
            "rules:\n  - {spec: normal(1 / sqrt(widht))}\n",
            "line 2: .*got 'widht'.; did you mean width",
        ),
        (
            "rules:\n  - {role: haed, spec: zeros}\n",
            "line 2: .*got 'haed'.; did you mean head",
        ),
        (
            "rules:\n  - {role: head, spec: 0}\n",
            "line 2: spec must be text .got 0",
        ),
        (
            "rules:\n  - {writes: 'yes', spec: zeros}\n",
            "line 2: writes must be true or false .got 'yes'",
        ),
        ("rules:\n  - {regex: '(', spec: zeros}\n", "regular expression cannot be read"),
        ("rules:\n  - {spec: zeros, lr: [1]}\n", "line 2: lr must be a number or text"),
        ("rules:\n  - {spec: zeros}\n  - {spec: zeros\n", "is not YAML"),
        ("rules:\n  - {spec: uniform(-0.1, 0.1)}\n", "a comma in plain text ends it here.*quotes"),
        ("rules:\n  - {spec: zeros, lr: fast}\n", "line 2: .*is not a variable of a formula"),
        ("rules:\n  - {spec: zeros, optional: 'no'}\n", "optional must be true or false"),
        ("rules:\n  - {spec: zeros}\nbase: mine.yaml\n", "line 3: .*cannot be read|itself"),
        ("rules:\n  - {spec: zeros}\nrules: []\n", "duplicate key"),
        ("rules:\n  - {spec: zeros}\nneeds:\n  - {what: x}\n", "a need has the keys what, value"),
        (
            "rules:\n  - {spec: zeros}\nbase: auot\n",
            "got 'auot'.; did you mean auto",
        ),
        (
            "rules:\n  - {name: 'h.*', spec: !!python/object/apply:os.getcwd []}\n",
            "must be text",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(written(tmp_path, text))


def test_a_missing_file_is_said():
    with pytest.raises(RecipeError, match=r"nowhere.yaml: cannot be read: No such file.*Fix"):
        parse_recipe("nowhere.yaml")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "- {name: wpe.wieght, spec: zeros}\n  - {spec: he}",
            "did you mean wpe.weight",
        ),
        ("- {role: conv, spec: zeros}\n  - {spec: normal(1)}", "matches no parameter.*these roles"),
        ("- {spec: normal(1)}\n  - {role: embedding, spec: zeros}", "decides nothing"),
        ("- {role: embedding, spec: zeros}", "no rule of the recipe matches this parameter"),
    ],
)
def test_a_rule_too_many_and_one_too_few_are_errors(tmp_path, rules, message):
    path = written(tmp_path, f"rules:\n  {rules}\n")
    with pytest.raises(initium.InitiumError, match=message):
        plan_model(tiny_gpt(), path)


@pytest.mark.parametrize("rule", ["spec: normal(1 / block)", "spec: zeros, lr: 1 / block"])
def test_a_formula_that_does_not_fit_a_parameter_names_file_and_line(tmp_path, rule):
    path = written(tmp_path, f"rules:\n  - {{role: head, spec: zeros}}\n  - {{{rule}}}\nbase: he\n")
    with pytest.raises(RecipeError, match=r"wte\.weight: rule\(.*mine\.yaml, line 3\): formula"):
        plan_model(tiny_gpt(tied=False), path)


def test_without_a_base_the_error_says_so(tmp_path):
    path = written(tmp_path, "rules:\n  - {role: embedding, spec: zeros}\n")
    with pytest.raises(initium.InitiumError, match=r'wpe\.weight: .* nor 18 more.*"base: auto" in'):
        plan_model(tiny_gpt(), path)


def test_the_kind_of_the_base_is_noted(tmp_path):
    path = written(tmp_path, "rules:\n  - {role: embedding, spec: zeros}\nbase: deepnorm\n")
    assert plan_model(tiny_gpt(), path).notes == plan_model(tiny_gpt(), "deepnorm").notes != ()


def test_the_depth_of_a_formula_is_that_of_the_model(tmp_path):
    path = written(tmp_path, GOOD)
    for layers in (1, 2, 8):
        std = plan_model(tiny_gpt(layers=layers), path).entries["h.0.proj.weight"].std
        assert std == pytest.approx(0.02 / math.sqrt(2 * layers))


def test_a_file_is_explained(tmp_path):
    told = initium.explain(written(tmp_path, GOOD))
    assert "mlp_down" in told
    assert "normal(0.3)" in told
    assert "residual multiplier 0.5: every branch (model code)" in told


def test_what_the_base_needs_is_needed(tmp_path):
    path = written(tmp_path, "rules:\n  - {role: mlp_down, spec: zeros}\nbase: deepnorm\n")
    assert plan_model(tiny_gpt(), path).needs == plan_model(tiny_gpt(), "deepnorm").needs != ()
