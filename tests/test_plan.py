"""Rules, plans, their files, tables and differences; views are made by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from views import model, parameter, tiny_gpt

from initium._plan import Choice, Entry, Plan, Recipe, Rule, explain, parse_recipe, plan_model
from initium._plan.formula import FUNCTIONS
from initium._plan.layout import per_matrix
from initium._plan.places import VARIABLES
from initium._plan.recipe import recipe_text
from initium._plan.recipe_file import NEED_KEYS, RULE_KEYS
from initium._plan.reference import reference
from initium._plan.rules import read_rules
from initium._plan.table import plan_table, spec_text
from initium._tables import fold, view_table
from initium._types import ROLES, Axes, Block, BufferView
from initium.errors import OutputError, PlanError, PlanFileError, RecipeError
from initium.recipes import RECIPES
from initium.spec import (
    Blocks,
    Constant,
    Keep,
    Normal,
    Orthogonal,
    Part,
    TruncatedNormal,
    Uniform,
    Value,
    parse,
)
from initium.spec.text import SPECS

DOCS = Path(__file__).parents[1] / "docs"

# Rules ------------------------------------------------------------------------------------------

VIEW = parameter("h.0.attn.c_proj.weight", (4, 4), "attn_out", module_type="Conv1D")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, True),
        ({"role": "attn_out"}, True),
        ({"role": ("head", "attn_out")}, True),
        ({"role": "head"}, False),
        ({"name": "*.c_proj.weight"}, True),
        ({"name": "*.c_proj"}, False),
        ({"name": "H.*"}, False),
        ({"regex": r"h\.\d+\..*"}, True),
        ({"regex": r"h\.\d+"}, False),
        ({"module_type": "Conv*"}, True),
        ({"module_type": "Linear"}, False),
        ({"when": lambda view: view.fan_in == 4}, True),
        ({"role": "attn_out", "name": "*.bias"}, False),
    ],
)
def test_all_conditions_of_a_rule_must_hold(conditions, expected):
    assert Rule("zeros", **conditions).matches(VIEW) is expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("zeros", role="haed"), "rule: is not a role .got 'haed'.; did you mean head"),
        (lambda: Rule("zeros", regex="("), "regular expression cannot be read"),
        (
            lambda: plan_model(model(VIEW), "he", rules={"*": "gauss(1)"}),
            "neither a distribution nor a rec",
        ),
        (
            lambda: plan_model(model(VIEW), "he", rules={"*.weigth": "zeros"}),
            "matches no parameter",
        ),
        (
            lambda: plan_model(model(VIEW), "he", rules={"role:conv": "zeros"}),
            r"these roles .got 'conv'.; choose from attn_out",
        ),
        (lambda: plan_model(model(VIEW), "he", rules={"type:Lin": "zeros"}), "choose from Conv1D"),
        (lambda: read_rules(["zeros"]), "rules: is not a rule .got 'zeros'.*Fix: pass Rule"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("zeros", name="*.porj.weight"), r"did you mean \*\.proj\.weight"),
        (Rule("zeros", name="h.*.qvk.weight"), r"did you mean \*\.qkv\.weight"),
        (
            Rule("zeros", name="*.proj.weight", role="head"),
            r"name alone matches h\.0\.proj\.weight, .*which has these roles",
        ),
        (
            Rule("zeros", name="*.proj.weight", writes=False),
            r"name alone matches h\.0\.proj.weight, .*Fix: leave one of its conditions out",
        ),
        (Rule("zeros", role="bias", name="h.*"), "name alone matches 18, such as h.0.ln.weight"),
    ],
)
def test_a_condition_that_matches_nothing_is_told_from_those_that_do(rule, message):
    with pytest.raises(RecipeError, match=message):
        plan_model(tiny_gpt(), rules=[rule])


def test_a_rule_that_misses_names_its_neighbours():
    with pytest.raises(RecipeError, match=r"did you mean wte\.weight"):
        plan_model(tiny_gpt(), rules={"wte.weigth": "zeros"})
    with pytest.raises(
        RecipeError,
        match=r"tied to wte\.weight, under which it is planned.*write the rule for wte\.weight",
    ):
        plan_model(tiny_gpt(), rules={"head.weight": "zeros"})


def test_the_first_rule_that_matches_decides():
    rules = {"h.0.*": "normal(0.5)", "re:h.*": "zeros", "role:embedding": "orthogonal"}
    plan = plan_model(tiny_gpt(), "gpt2", rules=rules)
    assert plan.entries["h.0.proj.weight"].spec == Normal(0.5)
    assert plan.entries["h.1.proj.weight"].spec == Constant(0.0)
    assert plan.entries["wte.weight"].spec == Orthogonal()
    assert plan.entries["wpe.weight"].spec == Normal(0.01)


def test_a_function_of_a_rule_gives_spec_and_reason():
    rules = [
        Rule(lambda view, model: Choice(Normal(1 / view.fan_in), "By hand."), role="attn_out"),
        Rule(lambda view, model: Constant(len(model.parameters)), role="mlp_down", reason="Count."),
    ]
    entries = plan_model(tiny_gpt(1), rules=rules).entries
    assert (entries["h.0.proj.weight"].std, entries["h.0.proj.weight"].reason) == (
        1 / 16,
        "By hand.",
    )
    assert (entries["h.0.down.weight"].mean, entries["h.0.down.weight"].reason) == (9.0, "Count.")


# Recipes as text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("auto", lambda: RECIPES["auto"]()),
        ("he", lambda: RECIPES["he"]()),
        ("he(fan_out)", lambda: RECIPES["he"]("fan_out")),
        ("he(mode='fan_out')", lambda: RECIPES["he"]("fan_out")),
        ("he(nonlinearity=leaky_relu(0.2))", lambda: RECIPES["he"](nonlinearity="leaky_relu(0.2)")),
        ("normal(0.02)", lambda: RECIPES["normal"](0.02)),
        ("xavier(2, normal)", lambda: RECIPES["xavier"](2.0, "normal")),
        ("orthogonal(gain=2)", lambda: RECIPES["orthogonal"](2.0)),
    ],
)
def test_text_and_function_are_the_same_recipe(text, made):
    view = tiny_gpt(1)
    assert parse_recipe(text).text == made().text
    assert plan_model(view, text).entries == plan_model(view, made()).entries
    assert parse_recipe(parse_recipe(text).text).text == made().text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hee", "recipe: is not a known recipe .got 'hee'.; did you mean he"),
        ("qqqq", "not a known recipe .got 'qqqq'.. Fix: see initium recipes"),
        ("he('fan_in', 'normal', 'relu', 4)", "the recipe does not take these arguments"),
        ("he(mode='fan')", "mode: is not a fan mode .got 'fan'.; choose from fan_in"),
        ("he(nonlinearity=softmax)", "softmax has no gain"),
        ("normal(-1)", "the recipe does not take these arguments: .*below 0"),
        ("he + 1", "is not the text of a recipe .*write name or name"),
        ("__import__('os')", "is not a known recipe"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


def test_recipe_text_leaves_defaults_out():
    assert recipe_text("x", a=(1.0, 1.0), b=(2.0, 1.0), c=("w", None)) == "x(b=2, c='w')"


# Cover or fail ----------------------------------------------------------------------------------


def test_a_parameter_without_a_rule_is_named():
    only_heads = Recipe("mine", (Rule("zeros", role="head"),))
    with pytest.raises(
        PlanError, match=r"wte\.weight: no rule .* of role embedding, nor 19 more\. Fix: add a rule"
    ):
        plan_model(tiny_gpt(), only_heads)


def test_a_spec_that_does_not_fit_is_named():
    with pytest.raises(PlanError, match=r"h\.0\.ln\.bias: the spec does not fit the shape \(16,\)"):
        plan_model(tiny_gpt(), rules=[Rule(Orthogonal(), role="norm_bias")])


@given(role=st.sampled_from(sorted(RECIPES)), shape=st.lists(st.integers(0, 3), max_size=4))
@settings(max_examples=40)
def test_every_recipe_covers_every_role_and_shape(role, shape):
    views = []
    for number, kind in enumerate(ROLES):
        fans = {"axes": None, "fan_in": None, "fan_out": None}
        views.append(parameter(f"p.{number}", tuple(shape), kind, **fans))
    recipe = "normal(0.1)" if role == "normal" else role
    if len(shape) < 2:  # matrices and tables have two dimensions
        views = [view for view in views if not (view.is_matrix or view.role == "embedding")]
        assume(role in ("auto", "torch", "xavier", "he", "lecun", "zeros", "normal"))
    plan = plan_model(model(*views), recipe)
    assert list(plan.entries) == [view.name for view in views]
    assert all(entry.reason.endswith((".", "says")) for entry in plan.entries.values())


def buffer(**known):
    return BufferView(**{"name": "b", "shape": (2,), "dtype": "float32", **known})


@pytest.mark.parametrize(
    ("view", "spec"),
    [
        (buffer(rule="constant(1)", on_meta=True), Constant(1.0)),
        (buffer(value="constant(3)"), Constant(3.0)),
        (buffer(rule="constant(1)", value="constant(3)"), Constant(1.0)),
        (buffer(), Keep()),
    ],
)
def test_buffers_are_planned_too(view, spec):
    entry = plan_model(model(buffers=(view,))).entries["b"]
    assert (entry.spec, entry.role) == (spec, "buffer")


def test_a_meta_buffer_that_nobody_can_rebuild_fails():
    with pytest.raises(
        PlanError, match=r"b: this buffer is on the meta device.*Fix: build the model"
    ):
        plan_model(model(buffers=(buffer(on_meta=True),)))


def test_a_tied_tensor_has_one_entry_under_its_owner():
    plan = plan_model(tiny_gpt(), seed=7)
    assert "head.weight" not in plan.entries
    assert plan.ties == {"wte.weight": ("head.weight",)}
    assert (plan.seed, plan.recipe, plan.model, plan.stream) == (7, "auto", "Handmade", 1)


def test_a_plan_is_immutable():
    plan = plan_model(tiny_gpt())
    with pytest.raises(TypeError):
        plan.entries["x"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.seed = 1


# Fused, stacked and grouped weights -------------------------------------------------------------


def test_equal_elementwise_blocks_collapse():
    view = tiny_gpt(1).parameters["h.0.qkv.weight"]
    assert per_matrix(view, lambda matrix: Normal(matrix.fan_in**-0.5)) == Normal(0.25)


def test_matrices_of_a_fused_weight_are_orthogonal_each():
    view = tiny_gpt(1).parameters["h.0.qkv.weight"]
    expected = Blocks(tuple(Part(0, 16 * i, 16, Orthogonal()) for i in range(3)))
    assert per_matrix(view, lambda matrix: Orthogonal(1.0, matrix.outputs)) == expected


def test_blocks_of_different_sizes_have_their_own_fan_out():
    blocks = (Block("q", 0, 0, 8), Block("k", 0, 8, 2), Block("v", 0, 10, 2))
    view = parameter("w", (12, 8), "attn_qkv", blocks=blocks)
    spec = per_matrix(view, lambda matrix: Constant(matrix.fan_out))
    assert [part.spec.value for part in spec.parts] == [8.0, 2.0, 2.0]


def test_interleaved_blocks_keep_their_runs():
    blocks = tuple(Block(label, 0, 4 * i, 4, count=2, stride=12) for i, label in enumerate("qkv"))
    view = parameter("w", (24, 8), "attn_qkv", blocks=blocks)
    spec = per_matrix(view, lambda matrix: Orthogonal(matrix.fan_out))
    spec.check((24, 8))
    assert [part.runs() for part in spec.parts][1] == [(4, 8), (16, 20)]
    assert {part.spec.gain for part in spec.parts} == {8.0}


def test_stacked_experts_are_matrices_of_their_own():
    axes = Axes(inputs=(1,), outputs=(2,), batch=(0,))
    stack = (Block("expert", 0, 0, 1, count=4, stride=1, stacked=True),)
    view = parameter("w", (4, 8, 6), "mlp_up", axes=axes, fan_in=8, fan_out=6, blocks=stack)
    made = per_matrix(view, lambda matrix: Orthogonal(1.0, matrix.outputs, matrix.batch))
    assert made == Orthogonal(1.0, (2,), (0,))


def test_groups_of_a_convolution_are_matrices_of_their_own():
    def orthogonal(matrix):
        return Orthogonal(1.0, matrix.outputs, matrix.batch)

    grouped = parameter("w", (8, 3, 2, 2), "conv", groups=2, fan_in=12, fan_out=16)
    made = per_matrix(grouped, orthogonal)
    assert made == Blocks((Part(0, 0, 4, Orthogonal(), 2, 4, stacked=True),))
    depthwise = parameter("w", (8, 1, 3, 3), "conv_depthwise", groups=8, fan_in=9, fan_out=9)
    assert per_matrix(depthwise, orthogonal).moments((8, 1, 3, 3)).std == pytest.approx(1 / 3)


def test_a_transposed_convolution_adds_up_a_share_of_its_taps():
    axes = Axes(inputs=(0,), outputs=(1,), field=(2, 3))
    view = parameter("w", (8, 4, 4, 4), "conv_transpose", axes=axes, fan_in=128, stride=4)
    assert per_matrix(view, lambda matrix: Constant(matrix.fan_in)) == Constant(32.0)
    assert "taps / stride" in plan_model(model(view), "lecun").entries["w"].reason


# Files ------------------------------------------------------------------------------------------

numbers = st.floats(0, 1e6, allow_nan=False, width=32)
specs = st.one_of(
    numbers.map(Normal),
    numbers.map(Constant),
    numbers.map(lambda bound: Uniform(-bound, bound)),
    st.tuples(numbers, st.floats(0.5, 5)).map(lambda pair: TruncatedNormal(pair[0], cut=pair[1])),
    st.just(Keep()),
    st.just(Blocks((Part(0, 0, 1, Normal(1.0)), Part(0, 1, 2, Constant(0.0))))),
)
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t"), max_size=30
)
names = st.text(st.sampled_from(string.ascii_letters + string.digits + "._- :#'é"), min_size=1)


@st.composite
def plans(draw):
    entries = {}
    for name in draw(st.lists(names, max_size=5, unique=True)):
        entries[name] = Entry(
            spec=draw(specs),
            shape=(3, *draw(st.lists(st.integers(1, 99), max_size=3))),
            dtype=draw(st.sampled_from(["float32", "bfloat16"])),
            role=draw(st.sampled_from(["head", "buffer", "unknown"])),
            reason=draw(texts),
            evidence=draw(texts),
            aliases=tuple(draw(st.lists(names, max_size=2))),
        )
    return Plan(entries, draw(texts), draw(st.integers(0, 2**64 - 1)), draw(texts))


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype does
@given(plan=plans(), suffix=st.sampled_from([".yaml", ".json"]))
@settings(max_examples=60, deadline=None)
def test_a_file_gives_the_same_plan_back(tmp_path_factory, plan, suffix):
    path = tmp_path_factory.getbasetemp() / f"plan{suffix}"
    assert plan.save(path) == path
    loaded = Plan.load(path)
    assert loaded == plan
    assert list(loaded.entries) == list(plan.entries)


YAML = """\
initium: plan
version: 1
stream: 1
model: Net
recipe: he
seed: 0
entries:
  fc.weight:
    spec: normal(0.5)
    shape: [4, 2]
    dtype: float32
    role: linear
    reason: why not
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("initium: plan", "initium: report", "is not a plan of initium"),
        (
            "version: 1\nstream",
            "version: 2\nstream",
            r"line 2, version: is a version .*got 2.*Fix: use",
        ),
        ("stream: 1", "stream: 9", r"line 3, stream: .*random stream.*got 9.*Fix: set it to 1"),
        ("seed: 0", "seed: many", r"line 6, seed: must be an integer .got 'many'"),
        ("seed: 0", "seed: true", r"line 6, seed: must be an integer .got True"),
        ("seed: 0\n", "", "the plan lacks the key 'seed'"),
        ("seed: 0", "seed: 0\nseed: 1", r"line 7: .*duplicate key \"seed\".*remove one"),
        ("seed: 0", "seed: 0\ncolour: red", r"line 7: the plan has an unknown key .got 'colour'"),
        (
            "normal(0.5)",
            "normal(-0.5)",
            r"line 9, fc\.weight\.spec: .*below 0.*got 'normal\(-0.5\)'",
        ),
        ("normal(0.5)", "normall(0.5)", r"line 9, fc\.weight\.spec: .*did you mean normal"),
        ("normal(0.5)", "blocks([part(0, 0, 3, normal(1))])", r"fc\.weight\.spec: .*length 3"),
        ("normal(0.5)", "[1, 2]", r"fc\.weight\.spec: must be a string .got \[1, 2\]"),
        ("[4, 2]", "[4, -2]", r"line 10, fc\.weight\.shape: must hold sizes .got \[4, -2\]"),
        ("[4, 2]", "4", r"line 10, fc\.weight\.shape: must be a list .got 4"),
        ("role: linear", "role: liner", r"line 12, fc\.weight\.role: .*write one of linear"),
        ("    reason: why not\n", "", r"fc\.weight lacks the key 'reason'"),
        ("reason: why not", "reason: 'why", r"line \d+: is not YAML"),
        ("fc.weight:", "7:", r"line 8, 7: a parameter name must be a string"),
        ("\n  fc.weight:", " 3\n  fc.weight:", r"is not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, old, new, message):
    path = tmp_path / "plan.yaml"
    path.write_text(YAML)
    assert Plan.load(path).entries["fc.weight"].std == 0.5
    assert old in YAML
    path.write_text(YAML.replace(old, new, 1))
    with pytest.raises(PlanFileError, match=message) as caught:
        Plan.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: is not JSON"),
        ('{"initium": "plan", "initium": "plan"}', "duplicate key 'initium'"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
        ("[]", "is not a plan of initium"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_said(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanFileError, match=message):
        Plan.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(PlanFileError, match="cannot be read: No such file"):
        Plan.load(tmp_path / "none.yaml")
    with pytest.raises(OutputError, match=r"does not exist.*Fix: create it first"):
        plan_model(tiny_gpt()).save(tmp_path / "no" / "plan.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanFileError, match="is not UTF-8"):
        Plan.load(tmp_path / "bytes.yaml")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "plan.yaml"
    plan_model(tiny_gpt(), "he").save(path)
    before = path.read_bytes()

    def fails(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OutputError, match="No space left"):
        plan_model(tiny_gpt(), "zeros").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["plan.yaml"]


def test_json_is_plain_json(tmp_path):
    plan = plan_model(tiny_gpt(1))
    data = json.loads(plan.save(tmp_path / "plan.json").read_text())
    assert data["entries"]["wte.weight"]["spec"] == "normal(0.05)"
    assert data["entries"]["wte.weight"]["aliases"] == ["head.weight"]


# Printing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_plan_prints_folded_within_the_width(width):
    text = plan_table(plan_model(tiny_gpt(12)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("proj.weight") == 1
    for told in ("h.{0..11}.proj", "attn_out", "1/sqrt(24)", "head.weight is tied to wte.weight"):
        assert told in text.replace("\n", " ")
    assert "\x1b" not in text


def test_str_of_a_plan_is_its_table_and_repr_is_short():
    plan = plan_model(tiny_gpt(1), "zeros", seed=3)
    assert "recipe zeros, seed 3" in str(plan)
    assert repr(plan) == "Plan(8 entries, recipe='zeros', seed=3, model='Handmade')"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("normal(0.0255155181539914)", "normal(0.02552)"),
        ("blocks([part(0, 0, 1, normal(1)), part(0, 1, 1, normal(1))])", "2 x normal(1)"),
        (
            "blocks([part(0, 1, 7, constant(0)), part(0, 0, 1, normal(1))])",
            "[0:1] normal(1), [1:8] constant(0)",
        ),
        (
            "blocks([part(1, 0, 4, normal(1)), part(1, 4, 4, normal(1)), part(1, 8, 4, dirac)])",
            "[:, 0:8] 2 x normal(1), [:, 8:12] dirac()",
        ),
        (
            "blocks([part(0, 0, 4, normal(1), 2, 8), part(0, 4, 4, constant(0), 2, 8)])",
            "[0:4, 8:12, ...] normal(1), [4:8, 12:16, ...] constant(0)",
        ),
        ("blocks([part(0, 0, 2, orthogonal, 4, 2, stacked=True)])", "4 x orthogonal()"),
    ],
)
def test_specs_in_tables_are_short(text, told):
    assert spec_text(parse(text)) == told


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["a.0.w", "a.1.w", "a.2.w"], ["a.{0..2}.w"]),
        (["a.0.w", "a.2.w", "a.4.w"], ["a.{0..4..2}.w"]),
        (["a.0.w", "a.1.w", "a.5.w"], ["a.{0..1,5}.w"]),
        (["a.0.0.w", "a.0.1.w", "a.1.0.w", "a.1.1.w"], ["a.{0..1}.{0..1}.w"]),
        (["a.0.0.w", "a.0.1.w", "a.1.0.w"], ["a.0.{0..1}.w", "a.1.0.w"]),
        (["w", "v", "l1.w", "l2.w", "a.01.w"], ["w", "v", "l1.w", "l2.w", "a.01.w"]),
    ],
)
def test_fold_stands_for_exactly_its_names(names, patterns):
    folds = fold((name, 0) for name in names)
    assert [group.pattern for group in folds] == patterns
    assert [name for group in folds for name in group.names] == names


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)), unique=True))
def test_fold_loses_no_name(numbers):
    items = [(f"a.{i}.b.{j}.w", key) for i, j, key in numbers]
    items = list(dict(items).items())
    folds = fold(items)
    assert sorted(name for group in folds for name in group.names) == sorted(dict(items))
    for group in folds:
        assert len({dict(items)[name] for name in group.names}) == 1
        assert len(group.names) == 1 or len(group.names) == len(
            {(i, j) for i in group.values[0] for j in group.values[1]}
        )


def test_a_model_view_prints():
    text = view_table(tiny_gpt(4), 100)
    assert "h.{0..3}.proj.weight" in text
    assert "residual, 1 of 8" in text
    assert "head.weight is tied to wte.weight" in text


# Differences ------------------------------------------------------------------------------------


LONG = "backbone.encoder.layers.{}.self_attention_with_relative_positions.output_projection.weight"


@pytest.mark.parametrize("width", [80, 100, 120, 180])
@pytest.mark.parametrize("name", [LONG, "a" * 70 + ".{}.weight", "layers.{}.w"])
def test_names_break_at_dots_and_nowhere_else(width, name):
    views = [parameter(name.format(i), (1024, 4096), "mlp_gate_up") for i in range(24)]
    for text in (view_table(model(*views), width), plan_table(plan_model(model(*views)), width)):
        assert max(map(len, text.splitlines())) <= width
        parts = name.replace("{}", "{0..23}").split(".")
        for part in parts:
            assert part in text or ("…" in text and part[:8] in text and part[-8:] in text)
        first = [line.split(" ")[0] for line in text.splitlines() if "mlp_gate_up" in line]
        assert first[0].endswith((".", "weight", ".w")) or "…" in first[0]


def test_equal_plans_do_not_differ():
    diff = plan_model(tiny_gpt()).diff(plan_model(tiny_gpt()))
    assert not diff
    assert str(diff) == "no difference"


def test_a_difference_names_what_changed():
    before, after = plan_model(tiny_gpt(4), "he"), plan_model(tiny_gpt(5), "gpt2", seed=1)
    diff = before.diff(after)
    assert diff.settings == {"recipe": ("he", "gpt2"), "seed": (0, 1)}
    assert set(diff.added) == {name for name in after.entries if name.startswith("h.4.")}
    assert not diff.removed
    assert "h.0.ln.weight" not in diff.changed
    before_after = diff.changed["h.0.proj.weight"]
    assert [entry.std for entry in before_after] == pytest.approx([0.25, 0.02 / 10**0.5])
    text = str(diff)
    assert "recipe: he -> gpt2" in text
    assert "h.{0..3}.proj.weight" in text
    assert "normal(0.25) -> normal(0.006325)" in " ".join(text.split())


def test_shapes_dtypes_and_ties_count_as_changes():
    old = plan_model(tiny_gpt(1), "he")
    entry = old.entries["wte.weight"]
    for change in ({"shape": (51, 16)}, {"dtype": "bfloat16"}, {"aliases": ()}):
        entries = {**old.entries, "wte.weight": dataclasses.replace(entry, **change)}
        assert list(old.diff(dataclasses.replace(old, entries=entries)).changed) == ["wte.weight"]


BASE = Entry(Normal(0.5), (4, 4), "float32", "linear", "a test")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"spec": Constant(0.0)}, {"spec": Constant(1.0)}, "constant(0) -> constant(1)  0"),
        ({}, {"lr": 2.0}, "lr x1 -> x2  0.5"),
        ({}, {"dtype": "bfloat16"}, "float32 -> bfloat16  0.5"),
        ({}, {"shape": (4, 8)}, "4x4 -> 4x8  0.5"),
        ({}, {"aliases": ("b",)}, "not tied -> tied to b  0.5"),
        ({}, {"persistent": False}, "persistent -> not persistent  0.5"),
        ({}, {"spec": Normal(0.500001)}, "normal(0.5) -> normal(0.500001)  0.5"),
        ({}, {"spec": Normal(0.25)}, "normal(0.5) -> normal(0.25)  0.5 -> 0.25"),
        (
            {"spec": Value.of(np.zeros((4, 4), "float32"), "float32")},
            {"spec": Value.of(np.eye(4, dtype="float32"), "float32")},
            "value(4x4) -> other values  0 -> 0.433",
        ),
    ],
)
def test_a_difference_says_what_differs_and_nothing_else(before, after, told):
    old, new = (
        Plan({"a": dataclasses.replace(BASE, **change)}) for change in (before, {**before, **after})
    )
    assert str(old.diff(new)).splitlines()[-1] == f"~  a     {told}"


def test_blocks_that_change_alike_are_one_row_whatever_their_shapes():
    entries = {f"h.{i}": dataclasses.replace(BASE, shape=(4, 4 + i)) for i in range(3)}
    zeros = {n: dataclasses.replace(e, spec=Constant(0.0)) for n, e in entries.items()}
    assert str(Plan(entries).diff(Plan(zeros))).splitlines()[-1].startswith("~  h.{0..2}  normal")


# Notes -----------------------------------------------------------------------------------------


def test_a_note_is_printed_and_saved(tmp_path):
    plan = plan_model(tiny_gpt(), "deepnorm")
    (note,) = plan.notes
    assert "published for post-norm transformers; this model is pre-norm" in note
    assert "Note: deepnorm was published" in str(plan)
    for suffix in (".yaml", ".json"):
        path = plan.save(tmp_path / f"plan{suffix}")
        assert Plan.load(path) == plan
    assert "notes" not in plan_model(tiny_gpt()).save(tmp_path / "auto.yaml").read_text()


# Explain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_explained(name):
    text = explain(name)
    for part in ("When to use:", "Source:", "Known divergences:"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("he(fan_out)", "arXiv:1502.01852"),
        ("kaiming", "arXiv:1502.01852"),
        ("wang_init", "GPT-NeoX"),
        ("Glorot", "glorot10a"),
    ],
)
def test_explain_takes_calls_schemes_and_other_names(text, told):
    assert told in explain(text)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_rule_that_is_a_function_says_its_formula_or_a_sentence(name):
    for rule in RECIPES[name]().rules:
        assert "when=lambda" not in rule.condition
        assert rule.start
        assert not rule.start.endswith("(parameter, model)"), rule.condition


def test_a_function_without_a_docstring_goes_by_its_name():
    def mine(view, model):
        return Normal(1.0)

    assert Rule(mine).start == "mine(parameter, model)"
    assert Rule("zeros", when=lambda view: True).condition == "when=lambda"


def test_the_page_on_rules_is_what_the_code_reads():
    assert (DOCS / "rules.md").read_text() == reference()
    told = explain("rules")
    assert max(map(len, told.splitlines())) <= 100
    known = {field.name for field in dataclasses.fields(Rule)}
    assert set(RULE_KEYS) == known - {"when", "place"}, "one set of names for Python and YAML"
    for word in (*known - {"place"}, *VARIABLES, *FUNCTIONS, *SPECS, *ROLES, *NEED_KEYS):
        assert f"`{word}`" in told


def test_suggestions_are_listed_once():
    with pytest.raises(RecipeError) as caught:
        explain("xavier_unifrm")
    found = str(caught.value).partition("did you mean ")[2].rstrip("?").split(", ")
    assert len(found) == len(set(found))
    assert "xavier_uniform" in found


def test_explain_names_what_is_near():
    with pytest.raises(RecipeError, match=r"neither a recipe nor a scheme .*did you mean .*xavier"):
        explain("xavierr")
