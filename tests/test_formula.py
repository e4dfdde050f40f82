"""Formulas, the numbers they are written in, and rules that see logical matrices."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from views import model, parameter, tiny_gpt

import initium
from initium._plan import Need, Recipe, Rule, plan_model
from initium._plan.formula import Formula
from initium._plan.places import VARIABLES, variables
from initium._types import Axes, Block
from initium.errors import PlanError, RecipeError, TraceWarning
from initium.spec import Blocks, Constant, Normal, Orthogonal, TruncatedNormal, Uniform

PLACE = {"fan_in": 400.0, "fan_out": 100.0, "layers": 8.0, "width": 64.0, "gain": 2.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal(0.02 / sqrt(2 * layers))", Normal(0.005)),
        ("normal(fan_in ** -0.5)", Normal(0.05)),
        ("uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))", Uniform(-0.05, 0.05)),
        (
            "truncated_normal(sqrt(2 / (fan_in + fan_out)), cut=3)",
            TruncatedNormal(0.004**0.5, cut=3),
        ),
        ("truncated_normal(0.02, cut=2 / 0.02)", TruncatedNormal(0.02, cut=100)),
        ("truncated_normal(1, cut=(-layers / 4, inf))", TruncatedNormal(1, cut=(-2, math.inf))),
        ("normal(min(0.1, max(fan_out, fan_in) * -1 + 400.5))", Normal(0.1)),
        ("constant(-log(width))", Constant(-math.log(64))),
        ("normal(sqrt(gain / fan_in))", Normal(math.sqrt(2 / 400))),
        ("zeros", None),
        ("keep", None),
    ],
)
def test_a_formula_is_calculated(text, expected):
    if expected is None:
        assert Formula(text).variables == ()
    else:
        assert Formula(text).spec(PLACE) == expected


@given(
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.sampled_from(["+", "-", "*", "/", "**"]),
    st.booleans(),
)
def test_arithmetic_is_pythons(left, right, sign, inside):
    text = f"{left!r} {sign} ({right!r})"
    value = Formula(f"sqrt(({text}) ** 2)" if inside else text).number({})
    expected = eval(text)
    assert value == pytest.approx(abs(expected) if inside else expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normal(fan_inn)", "is not a variable of a formula .got 'fan_inn'.; did you mean fan_in"),
        ("normal(1 / (layers - 8))", "cannot be calculated: float division by zero"),
        ("normal((0 - 8) ** 0.5)", "cannot be calculated: a root of a negative number"),
        ("normal(sqrt(-1 * width))", "cannot be calculated"),
        ("normal(block)", "needs block .l, its block on that trunk, from 0., which this parameter"),
        ("gauss(width)", "is not a spec.*gauss"),
        ("normal(0.02", "is not of the form"),
        ("normal(sqr(width))", "is not a function of a formula .got 'sqr'.; did you mean sqrt"),
        ("normal(open('x'))", "is not a function of a formula"),
        ("normal(width.real)", "is not a spec"),
        ("normal(__import__('os'))", "is not a function of a formula"),
        ("normal(9 ** 9 ** 9)", "cannot be calculated"),
    ],
)
def test_what_is_wrong_with_a_formula_is_said(text, message):
    with pytest.raises(RecipeError, match=message):
        Formula(text).spec(PLACE)


def test_the_reason_shows_the_calculation():
    plan = plan_model(
        tiny_gpt(layers=4),
        Recipe("mine", (Rule("normal(0.02 / sqrt(2 * layers))", writes=True, reason="Small."),
                        Rule("normal(0.1)"))),
    )  # fmt: skip
    entry = plan.entries["h.1.down.weight"]
    assert entry.std == pytest.approx(0.02 / math.sqrt(8))
    assert entry.reason == "Small: normal(0.02 / sqrt(2 * layers)), layers 4."


# Places -------------------------------------------------------------------------------------------


class Block_(nn.Module):
    """Attention and an MLP around one stream, before (pre) or after (post) their norms."""

    def __init__(self, width: int, post: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.post = post

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post:
            x = self.first(x + self.attention(x, x, x)[0])
            return self.second(x + self.down(torch.relu(self.up(x))))
        y = self.first(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.down(torch.relu(self.up(self.second(x))))


@pytest.mark.parametrize("post", [False, True], ids=["pre-norm", "post-norm"])
def test_blocks_are_counted_whatever_the_norms_do(post):
    net = nn.Sequential(nn.Linear(5, 8), *(Block_(8, post) for _ in range(3)), nn.Linear(8, 4))
    view = initium.inspect(net, torch.zeros(2, 6, 5))
    for block in range(3):
        for leaf in (
            "attention.in_proj_weight",
            "attention.out_proj.weight",
            "up.weight",
            "down.weight",
        ):
            place = variables(view.parameters[f"{block + 1}.{leaf}"], view)
            assert (place["layers"], place["block"], place["width"]) == (3, block, 8), leaf


class Pyramid(nn.Module):
    """Two stages of plain residual blocks, with a strided shortcut between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.down1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(16, 16, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 16, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = (x + outer(inner(x).relu())).relu()
        return self.shortcut(x) + self.down2(self.down1(x).relu())


def test_a_trunk_runs_through_stages_and_counts_what_is_inside_a_branch():
    view = initium.inspect(Pyramid(), torch.zeros(1, 3, 8, 8))
    found = {
        name: (variables(one, view)["layers"], variables(one, view)["block"])
        for name, one in view.parameters.items()
        if one.trunk is not None and one.is_matrix and name != "shortcut.weight"
    }
    assert found == {
        "inner.0.weight": (3, 0),
        "outer.0.weight": (3, 0),
        "inner.1.weight": (3, 1),
        "outer.1.weight": (3, 1),
        "down1.weight": (3, 2),
        "down2.weight": (3, 2),
    }


def test_an_encoder_and_a_decoder_are_two_trunks():
    net = nn.Transformer(8, 2, 3, 2, 16, batch_first=True)
    view = initium.inspect(net, (torch.zeros(2, 4, 8), torch.zeros(2, 5, 8)))
    layers = {
        name: variables(view.parameters[name], view)["layers"]
        for name in ("encoder.layers.2.linear2.weight", "decoder.layers.1.linear2.weight")
    }
    assert list(layers.values()) == [3, 2]


def test_names_that_repeat_stand_in_for_a_trunk():
    views = [parameter(f"blocks.{i}.fc.weight", (4, 4), "mlp_down") for i in range(3)]
    found = [variables(view, model(*views)) for view in views]
    assert [(place["layers"], place["block"]) for place in found] == [(3, 0), (3, 1), (3, 2)]


def test_every_variable_is_found_somewhere():
    held = dict.fromkeys(("fan_in", "fan_out", "gain"))
    view = model(
        parameter("e", (50, 8), "embedding", axes=None),
        parameter("r", (4, 8), "router"),
        *(
            parameter(f"{i}.o", (8, 8), "attn_out", writes_residual=True, head_dim=2, **at)
            for i in range(2)
            for at in [{"stream": 0, "trunk": 0, "depth": i, "trunk_depth": i, "branches": 2}]
        ),
    )
    place = variables(view.parameters["1.o"], view)
    assert {**held, **place}.keys() == VARIABLES.keys()
    assert place == {
        "layers": 2,
        "block": 1,
        "width": 8,
        "branches": 2,
        "depth": 1,
        "head_dim": 2,
        "vocab": 50,
        "experts": 4,
    }


def test_experts_are_those_of_the_router_on_the_same_branch():
    def at(depth):
        return {"stream": 0, "trunk": 0, "depth": depth, "trunk_depth": depth, "branches": 2}

    views = []
    for layer, count in enumerate((4, 16)):
        views += [
            parameter(f"{layer}.router", (count, 8), "router", **at(layer)),
            parameter(f"{layer}.up", (8, 8), "mlp_up", **at(layer)),
            parameter(f"{layer}.down", (8, 8), "mlp_down", writes_residual=True, **at(layer)),
        ]
    view = model(*views, parameter("head", (50, 8), "head"))
    plan = plan_model(view, "he", rules=[Rule("constant(experts)")])
    found = {name: entry.mean for name, entry in plan.entries.items()}
    assert [found[f"{i}.{n}"] for i in (0, 1) for n in ("router", "up", "down")] == [4] * 3 + [
        16
    ] * 3
    assert found["head"] == 16, "the largest, where no branch is known"


# Logical matrices ---------------------------------------------------------------------------------

THIRDS = tuple(Block(label, 0, 4 * i, 4) for i, label in enumerate("qkv"))
FUSED = parameter("qkv", (12, 4), "attn_qkv", blocks=THIRDS, fan_out=4)


def planned(*rules: Rule, view=FUSED):
    return plan_model(model(view), Recipe("mine", rules)).entries[view.name]


def test_a_rule_for_values_takes_the_v_block():
    entry = planned(Rule("normal(0.5)", role="attn_v"), Rule("normal(0.1)"))
    assert isinstance(entry.spec, Blocks)
    assert [part.spec for part in entry.spec.parts] == [Normal(0.1), Normal(0.1), Normal(0.5)]


def test_the_first_rule_decides_a_block_too():
    entry = planned(Rule("normal(0.1)", role="attn_qkv"), Rule("normal(0.5)", role="attn_v"))
    assert entry.spec == Normal(0.1)


def test_equal_blocks_collapse():
    rules = (Rule("normal(0.1)", role=("attn_q", "attn_k")), Rule("normal(0.1)", role="attn_v"))
    assert planned(*rules).spec == Normal(0.1)


def test_a_formula_sees_the_fans_of_its_block():
    sizes = (("q", 0, 8), ("k", 8, 2), ("v", 10, 2))
    blocks = tuple(Block(label, 0, start, size) for label, start, size in sizes)
    view = parameter("qkv", (12, 4), "attn_qkv", blocks=blocks, fan_out=8)
    entry = planned(Rule("normal(1 / fan_out)"), view=view)
    assert [part.spec for part in entry.spec.parts] == [Normal(1 / 8), Normal(0.5), Normal(0.5)]


def test_reasons_name_the_blocks_they_are_for():
    entry = planned(
        Rule("normal(0.5)", role="attn_v", reason="Louder."), Rule("normal(0.1)", reason="Plain.")
    )
    assert entry.reason == "q, k: Plain. v: Louder."


def test_a_block_without_a_rule_is_an_error():
    with pytest.raises(initium.InitiumError, match="no rule of the recipe matches"):
        planned(Rule("normal(0.5)", role="attn_v"))


def test_blocks_cannot_learn_at_different_rates():
    with pytest.raises(RecipeError, match="blocks of one tensor cannot have different learning"):
        planned(Rule("normal(0.5)", role="attn_v", lr=0.5), Rule("normal(0.1)"))


# Conditions, learning rates, needs ----------------------------------------------------------------


def test_rules_match_by_what_a_parameter_does():
    view = tiny_gpt(layers=2)
    writes = [one.name for one in view.owners if Rule("zeros", writes=True).matches(one)]
    assert writes == [f"h.{i}.{leaf}" for i in range(2) for leaf in ("proj.weight", "down.weight")]
    assert [one.name for one in view.owners if Rule("zeros", tied=True).matches(one)] == [
        "wte.weight"
    ]


def test_learning_rates_become_groups(tmp_path):
    net = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 2))
    rules = [
        Rule("normal(0.1)", name="0.weight", lr="256 / fan_in"),
        Rule("zeros", name="2.*", lr=4),
    ]
    plan = initium.plan(net, "he", torch.zeros(1, 512), rules=rules)
    groups = plan.parameter_groups(net, lr=0.1, weight_decay=0.01)
    told = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert told == {(0.05, 0.02): 1, (0.1, 0.0): 1, (0.4, 0.0025): 1, (0.4, 0.0): 1}
    torch.optim.AdamW(groups)
    assert not plan.diff(initium.Plan.load(plan.save(tmp_path / "plan.yaml")))
    with pytest.raises(initium.InitiumError, match=r"1.weight: is in the model and not"):
        plan.parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), lr=1.0)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_needs_are_printed_saved_and_compared(tmp_path, suffix):
    need = Need("residual multiplier", 1.5, "x of every x + f(x)", "model code", "arXiv:2203.00555")
    word = Need("scale", "1/d", "attention logits", "model code")
    recipe = Recipe("mine", (Rule("normal(0.1)"),), lambda view: (need, word))
    plan = plan_model(tiny_gpt(), recipe)
    assert "residual multiplier 1.5: x of every x + f(x) (model code)" in str(plan)
    again = initium.Plan.load(plan.save(tmp_path / f"plan.{suffix}"))
    assert again.needs == (need, word)
    assert "needs" in plan.diff(plan_model(tiny_gpt(), Recipe("mine", recipe.rules))).settings


def test_a_rule_that_never_decides_is_an_error():
    rules = [Rule("zeros", role="mlp_down"), Rule("he", name="h.*.down.weight")]
    with pytest.raises(RecipeError, match="decides nothing: all that it matches is taken by rules"):
        plan_model(tiny_gpt(), "auto", rules=rules)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"lr": "nope"}, "is not a variable of a formula .got 'nope'"),
        ({"lr": -1.0}, "rule: lr: is not a number of 0 or more"),
        ({"lr": math.nan}, "rule: lr: is not a number of 0 or more"),
        ({"writes": "yes"}, "rule: writes: is neither True nor False .got 'yes'"),
        ({"tied": 1}, "rule: tied: is neither True nor False"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_wrong_with_a_condition_is_said_when_the_rule_is_made(made, message):
    script = f"import initium, math; nan = math.nan; initium.Rule('zeros', **{made!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert re.search(message, done.stderr.splitlines()[-1])


def test_a_rate_below_zero_is_refused_where_it_is_calculated():
    with pytest.raises(RecipeError, match="is not a learning rate of 0 or more"):
        plan_model(tiny_gpt(), "he", rules=[Rule("normal(1)", role="mlp_down", lr="fan_in - 99")])


def test_the_optimizer_keeps_its_own_decay():
    net = nn.Linear(3, 2)
    groups = initium.plan(net, "he").parameter_groups(net, lr=0.1)
    assert "weight_decay" not in groups[0]


def test_a_rule_may_be_optional():
    rules = [Rule("zeros", name="nowhere", optional=True)]
    assert not plan_model(tiny_gpt(), "he").diff(plan_model(tiny_gpt(), "he", rules=rules))


def test_the_same_rule_twice_decides_nothing_the_second_time():
    with pytest.raises(RecipeError, match="decides nothing"):
        plan_model(
            tiny_gpt(),
            "he",
            rules=[Rule("zeros", role="mlp_down")] * 1 + [Rule("zeros", role="mlp_down")],
        )


def test_a_spec_is_one_for_each_matrix_as_its_text_is():
    view = parameter("qkv", (12, 4), "attn_qkv", blocks=THIRDS, fan_out=4)
    text, spec = (planned(Rule(action), view=view).spec for action in ("orthogonal", Orthogonal()))
    assert isinstance(spec, Blocks)
    assert len(spec.parts) == len(text.parts) == 3


def test_a_spec_with_the_name_of_a_recipe_may_be_calculated():
    assert planned(Rule("orthogonal(gain=1 / sqrt(fan_in))")).spec.parts[0].spec == Orthogonal(0.5)


def test_the_rule_for_a_tied_head_says_where_it_is_planned():
    with pytest.raises(RecipeError, match=r"head.weight is tied to wte.weight, under which"):
        plan_model(tiny_gpt(), "he", rules={"role:head": "zeros"})


@pytest.mark.parametrize("seed", [1.5, "3", True, -1, 2**64])
def test_a_seed_is_an_integer(seed):
    script = f"import initium, torch; initium.plan(torch.nn.Linear(2, 2), 'he', seed={seed!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "seed: is not an integer in [0, 2^64)" in done.stderr.splitlines()[-1]


# Stacks of layers, functions that fail, texts that name two things -------------------------------


class Stack(nn.Module):
    def __init__(self, layers: int = 3, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.up = nn.Parameter(torch.randn(layers, width, 4 * width))
        self.down = nn.Parameter(torch.randn(layers, 4 * width, width))

    def forward(self, x):
        x = self.first(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + (x @ up).relu() @ down
        return x


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_stack_of_layers_has_a_spec_for_each(name):
    made = initium.plan(
        Stack(), "he", torch.zeros(2, 5), rules={name: "normal(1 / (block + 1))"}
    ).entries[name]
    assert [part.spec.std for part in made.spec.parts] == pytest.approx([1, 1 / 2, 1 / 3])
    assert "block of each layer" in made.reason


@pytest.mark.parametrize(
    "rule",
    [
        Rule("orthogonal(1 / (block + 1))", name="up"),
        Rule("normal(0.1)", name="up", lr="1 / (block + 1)"),
    ],
)
def test_what_a_stack_of_layers_cannot_have_is_refused(rule):
    with pytest.raises(RecipeError, match=r"up: .*one tensor holds all layers"):
        initium.plan(Stack(), "he", torch.zeros(2, 5), rules=[rule])


@pytest.mark.parametrize("conditions", [{"spec": lambda view: 1}, {"spec": "zeros", "when": len}])
def test_a_function_that_fails_is_named_with_its_rule(conditions):
    with pytest.raises(RecipeError, match=r"qkv: \w+ of rule\(.* failed: TypeError"):
        planned(Rule(**{"name": "qkv", **conditions}))


def test_a_text_that_names_both_is_the_distribution():
    view = parameter("w", (4, 6), role="mlp_up", activation="relu", gain=2.0)
    assert planned(Rule("orthogonal()"), view=view).spec == Orthogonal()
    stored = parameter("w", (2, 4, 6), axes=Axes(inputs=(1,), outputs=(2,), batch=(0,)))
    assert planned(Rule("orthogonal"), view=stored).spec == Orthogonal(outputs=(2,), batch=(0,))
    with pytest.raises(PlanError, match="does not fit"):
        planned(Rule("orthogonal()"), view=parameter("n", (4,), "norm_scale"))


@pytest.mark.parametrize("give", [initium.plan, initium.initialize])
def test_inputs_that_the_model_does_not_take_are_told(give):
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.warns(TraceWarning, match="forward pass was not seen on these inputs") as seen:
        made = give(net, "auto", inputs=torch.zeros(2, 3))
    assert len(seen) == 1
    assert made.notes[0].startswith("the model's own forward pass was not seen")
    assert "Note: the model's own forward" in str(made)
    assert give(net, "auto", inputs=torch.zeros(2, 8)).notes == ()
    assert "seen in a trace" not in str(initium.inspect(net, torch.zeros(2, 3)))
