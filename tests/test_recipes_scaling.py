"""Recipes that scale with depth and width: against numbers from the papers and the released code.

Every expected number is computed here from the source's formula with plain numbers.
"""

from __future__ import annotations

import functools
import math
import re

import pytest
import torch
from torch import nn
from views import model as handmade
from views import parameter, tiny_gpt

import initium
from initium._inspect import inspect
from initium._load.optional import import_optional
from initium._plan import Plan, plan_model
from initium._plan.recipe import parse_recipe
from initium._types import Axes, Block, ModelView
from initium.errors import RecipeError
from initium.recipes import RECIPES
from initium.recipes._stacks import (
    Stack,
    first_matrix,
    is_cross_attention,
    stack_of,
    stacks,
    trunk_branches,
)
from initium.spec import Constant, Keep, TruncatedNormal

transformers = import_optional("transformers")
D, H = 32, 64
MINE = (
    *("vit", "mae", "dit", "resnet", "convnext", "fixup"),
    *("t_fixup", "deepnorm", "subln", "mup", "completep", "spectral_mup"),
)

# Models -----------------------------------------------------------------------------------------


@functools.cache
def t5() -> ModelView:
    """An encoder of two blocks, a decoder of three, one shared table; pre-norm."""
    config = transformers.T5Config(
        d_model=D, d_kv=8, d_ff=H, num_layers=2, num_decoder_layers=3, num_heads=4, vocab_size=50
    )
    return inspect(transformers.T5ForConditionalGeneration(config))


@functools.cache
def bart() -> ModelView:
    """The same sizes, post-norm, with biases."""
    config = transformers.BartConfig(
        d_model=D,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=H,
        decoder_ffn_dim=H,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=16,
    )
    return inspect(transformers.BartForConditionalGeneration(config))


@functools.cache
def torch_transformer() -> ModelView:
    """The same sizes, post-norm, with one packed weight for queries, keys and values."""
    model = nn.Transformer(D, 4, 2, 3, H, batch_first=True)
    return inspect(model, (torch.zeros(2, 5, D), torch.zeros(2, 6, D)))


@functools.cache
def gpt(width: int = 64, layers: int = 3) -> ModelView:
    """GPT-2 without weights: tied head, fused qkv, pre-norm."""
    with torch.device("meta"):
        model = gpt_model(width, layers)
    return inspect(model)


def gpt_model(width: int, layers: int) -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=4, vocab_size=50, n_positions=16
    )
    return transformers.GPT2LMHeadModel(config)


FAMILIES = {"t5": t5, "bart": bart, "torch": torch_transformer}
PLACES = {
    "t5": (
        r"encoder\.block\.\d\.layer\.0\.\w+\.{}\.weight",
        r"decoder\.block\.\d\.layer\.0\.\w+\.{}\.weight",
        r"decoder\.block\.\d\.layer\.1\.\w+\.{}\.weight",
        r"{}\.block\.\d\.layer\.[12]\.DenseReluDense\.w[io]\.weight",
    ),
    "bart": (
        r"model\.encoder\.layers\.\d\.self_attn\.{}\w*\.weight",
        r"model\.decoder\.layers\.\d\.self_attn\.{}\w*\.weight",
        r"model\.decoder\.layers\.\d\.encoder_attn\.{}\w*\.weight",
        r"model\.{}\.layers\.\d\.fc[12]\.weight",
    ),
}
NAMES = {
    "t5": {"q": "q", "k": "k", "v": "v", "o": "o"},
    "bart": {"q": "q", "k": "k", "v": "v", "o": "out"},
}


def stds(plan: Plan, pattern: str) -> set[float]:
    """The stds of the parameters whose whole names match, which there must be."""
    found = {
        round(entry.std, 9) for name, entry in plan.entries.items() if re.fullmatch(pattern, name)
    }
    assert found, pattern
    return found


def same(found: set[float], std: float) -> None:
    assert max(found) == pytest.approx(min(found), rel=1e-6)
    assert max(found) == pytest.approx(std, rel=1e-6)


# Encoder and decoder ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_and_decoder_are_told_apart(family):
    view = FAMILIES[family]()
    assert set(stacks(view)) == {Stack("encoder", 2, 3), Stack("decoder", 3, 2)}
    assert trunk_branches(view) == 2 * 2 + 3 * 3
    for name, seen in view.parameters.items():
        if seen.is_matrix and seen.role != "head" and seen.tied_to is None:
            assert stack_of(seen, view).kind == ("encoder" if "encoder." in name else "decoder")
        crossing = any(part in name for part in ("EncDecAttention", "encoder_attn.", "multihead"))
        if seen.is_matrix:
            assert is_cross_attention(seen, view) is crossing, name


def test_a_single_stack_stands_alone():
    assert stacks(gpt()) == (Stack("alone", 3),)


def test_names_count_the_blocks_where_nothing_was_traced():
    view = handmade(*(parameter(f"h.{n}.out.weight", (8, 8), "attn_out") for n in range(5)))
    assert stacks(view) == (Stack("alone", 5),)


def test_the_first_matrix_is_the_one_that_data_meets():
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert first_matrix(inspect(mlp, torch.zeros(2, 3))) == "0.weight"
    assert first_matrix(gpt()) is None
    assert first_matrix(torch_transformer()) is None
    assert first_matrix(handmade()) is None


# T-Fixup, DeepNorm, SubLN -------------------------------------------------------------------------

XAVIER = {"attention": math.sqrt(2 / (D + D)), "feed_forward": math.sqrt(2 / (D + H))}
TORCH = {"attention": 1.0, "feed_forward": 1 / math.sqrt(3 * D)}
ENCODER = 0.87 * (2**4 * 3) ** (-1 / 16)
SCALED = {
    # recipe: factors of an encoder of 2, a decoder of 3 and its cross attention
    "t_fixup": (0.67 * 2**-0.25, (9 * 3) ** -0.25, (9 * 3) ** -0.25),
    "deepnorm": (ENCODER, (12 * 3) ** -0.25, (12 * 3) ** -0.25),
    "subln": (
        math.sqrt(math.log(3 * 3) * math.log(2 * 2) / 3),
        math.sqrt(math.log(3 * 3)),
        1.0,
    ),
}


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("recipe", SCALED)
def test_values_outputs_and_feed_forwards_are_scaled(recipe, family):
    plan, names = plan_model(FAMILIES[family](), recipe), NAMES[family]
    encoder, decoder, crossing = SCALED[recipe]
    *attentions, feed_forward = PLACES[family]
    for place, factor in zip(attentions, (encoder, decoder, crossing), strict=True):
        for part in "vo":
            same(stds(plan, place.format(names[part])), factor * XAVIER["attention"])
        for part in "qk":
            same(stds(plan, place.format(names[part])), XAVIER["attention"])
    same(stds(plan, feed_forward.format("encoder")), encoder * XAVIER["feed_forward"])
    same(stds(plan, feed_forward.format("decoder")), decoder * XAVIER["feed_forward"])


@pytest.mark.parametrize("recipe", SCALED)
def test_only_the_values_of_a_packed_weight_are_scaled(recipe):
    plan = plan_model(torch_transformer(), recipe)
    places = ("encoder.layers.0.self_attn", "decoder.layers.1.self_attn")
    for place, factor in zip(places, SCALED[recipe], strict=False):
        parts = plan.entries[f"{place}.in_proj_weight"].spec.parts
        found = [part.spec.moments((D, D)).std for part in parts]
        expected = XAVIER["attention"]
        assert found == pytest.approx([expected, expected, factor * expected])
    crossing = plan.entries["decoder.layers.1.multihead_attn.out_proj.weight"].std
    assert crossing == pytest.approx(SCALED[recipe][2] * XAVIER["attention"])


def test_t_fixup_draws_the_shared_table_for_its_encoder():
    plan = plan_model(t5(), "t_fixup")
    same(stds(plan, r"shared\.weight"), (9 * 2) ** -0.25 * D**-0.5)
    assert [need.value for need in plan.needs] == ["none", "none", "sqrt(width)"]


def test_t_fixup_released_halves_the_variance_of_queries_and_keys_alone():
    plan = plan_model(bart(), "t_fixup(released)")
    same(stds(plan, r".*self_attn\.[qk]_proj\.weight"), math.sqrt(0.5) * XAVIER["attention"])
    factor = 0.67 * 2**-0.25
    same(stds(plan, r".*encoder\..*self_attn\.v_proj\.weight"), factor * XAVIER["attention"])


def test_deepnorm_as_torchscale_releases_it():
    plan = plan_model(bart(), "deepnorm(torchscale)")
    encoder, decoder = 1.15 * (2**4 * 3) ** (-1 / 16), (12 * 3) ** -0.25
    for stack, factor in (("encoder", encoder), ("decoder", decoder)):
        at = rf"model\.{stack}\.layers\.\d\."
        same(stds(plan, rf"{at}self_attn\.[qk]_proj\.weight"), math.sqrt(0.5 * 2 / (2 * D)))
        same(stds(plan, rf"{at}self_attn\.v_proj\.weight"), factor * math.sqrt(0.5 / D))
        same(stds(plan, rf"{at}self_attn\.out_proj\.weight"), factor * math.sqrt(1 / D))
        same(stds(plan, rf"{at}fc1\.weight"), factor / math.sqrt(3 * D))
        same(stds(plan, rf"{at}fc2\.weight"), factor / math.sqrt(3 * H))


def test_deepnorm_needs_its_alphas():
    both = [need.value for need in plan_model(bart(), "deepnorm").needs]
    assert both[:2] == pytest.approx([0.81 * (2**4 * 3) ** (1 / 16), (3 * 3) ** 0.25])
    alone = plan_model(gpt(), "deepnorm")
    assert alone.needs[0].value == pytest.approx((2 * 3) ** 0.25)
    assert alone.needs[0].who == "model code"
    same(stds(alone, r".*mlp\.c_proj\.weight"), (8 * 3) ** -0.25 * math.sqrt(2 / (64 + 256)))


def test_subln_of_one_stack():
    plan = plan_model(gpt(), "subln")
    same(stds(plan, r".*attn\.c_proj\.weight"), math.sqrt(math.log(6)) * math.sqrt(2 / 128))


# Fixup ------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Convolutions with scalar biases and a multiplier, as Fixup's own blocks have them."""

    def __init__(self, inputs: int, inner: int, outputs: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        widths = (inputs, *(inner for _ in kernels[1:]), outputs)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, padding=k // 2, bias=False)
            for a, b, k in zip(widths, widths[1:], kernels, strict=False)
        )
        self.before = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in kernels)
        self.after = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in kernels)
        self.scale = nn.Parameter(torch.ones(1))
        self.down = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i, conv in enumerate(self.convs):
            y = torch.relu(y) if i else y
            y = conv(y + self.before[i])
            y = (y * self.scale if i == len(self.convs) - 1 else y) + self.after[i]
        skip = x if self.down is None else self.down(x + self.before[0])
        return torch.relu(skip + y)


class Fixed(nn.Module):
    """A stem, four residual blocks, a head."""

    def __init__(self, kernels: tuple[int, ...], stem: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        widths = ((stem, 8), (8, 8), (8, 16), (16, 16))
        self.blocks = nn.Sequential(*(Residual(a, 12, b, kernels) for a, b in widths))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("kernels", "power", "stem"),
    [((3, 3), 1 / 2, 8), ((1, 3, 1), 1 / 4, 8), ((1, 3, 1), 1 / 4, 6)],
    ids=["basic", "bottleneck", "shortcut first"],
)
def test_fixup_is_what_its_code_draws(kernels, power, stem):
    plan = plan_model(inspect(Fixed(kernels, stem), torch.zeros(2, 3, 16, 16)), "fixup")
    last = len(kernels) - 1
    same(stds(plan, rf"blocks\.\d\.convs\.{last}\.weight|fc\.weight|fc\.bias"), 0.0)
    for index, kernel in enumerate(kernels[:-1]):
        usual = math.sqrt(2 / (12 * kernel**2))
        same(stds(plan, rf"blocks\.\d\.convs\.{index}\.weight"), usual * 4**-power)
    same(stds(plan, r"blocks\.2\.down\.weight"), math.sqrt(2 / 16))
    same(stds(plan, r"stem\.weight"), 1 / math.sqrt(3 * 3 * 49))
    for name, value in (("scale", 1.0), ("before.0", 0.0)):
        entry = plan.entries[f"blocks.0.{name}"]
        assert (entry.spec, entry.lr) == (Constant(value), 0.1)
    assert {need.what for need in plan.needs} == {
        *("normalisation", "scalar biases and multipliers", "learning rates"),
    }


def test_fixup_counts_queries_keys_and_values_as_three():
    for view, packed in ((bart(), False), (torch_transformer(), True)):
        plan = plan_model(view, "fixup")
        name = r".*in_proj_weight" if packed else r".*[qkv]_proj\.weight"
        same(stds(plan, name), 13 ** (-1 / 6) * XAVIER["attention"])
        up = r".*linear1\.weight" if packed else r".*fc1\.weight"
        same(stds(plan, up), 13 ** (-1 / 2) * XAVIER["feed_forward"])
        down = r".*(linear2|fc2|out_proj)\.weight"
        same(stds(plan, down), 0.0)


# muP --------------------------------------------------------------------------------------------

ATTENTION = r"transformer\.h\.\d\.attn\.{}\.weight"
FEED_FORWARD = r"transformer\.h\.\d\.mlp\.{}\.weight"


def rate(plan: Plan, pattern: str) -> float:
    """The one learning-rate multiplier of the parameters whose whole names match."""
    found = {
        round(entry.lr, 12) for name, entry in plan.entries.items() if re.fullmatch(pattern, name)
    }
    assert len(found) == 1, (pattern, found)
    return found.pop()


@pytest.mark.parametrize("width", [64, 256])
def test_mup_of_the_paper(width):
    """Table 8: hidden variance 1/fan_in and Adam's rate 1/width; the rest fixed in the width."""
    plan, m = plan_model(gpt(width), "mup(64)"), width / 64
    same(stds(plan, ATTENTION.format(r"c_(attn|proj)")), width**-0.5)
    same(stds(plan, FEED_FORWARD.format("c_fc")), width**-0.5)
    same(stds(plan, FEED_FORWARD.format("c_proj")), (4 * width) ** -0.5)
    same(stds(plan, r"transformer\.wte\.weight"), 64**-0.5)
    assert rate(plan, r".*\.c_\w+\.weight") == 1 / m
    assert rate(plan, r".*(wte\.weight|wpe\.weight|bias|ln_.*)") == 1.0
    needs = {need.what: need for need in plan.needs}
    assert needs["logit multiplier"].value == 1 / m
    assert needs["attention scale"].who == "model code"


@pytest.mark.parametrize("variant", ["nanogpt", "cerebras"])
@pytest.mark.parametrize("width", [64, 256])
def test_mup_as_released(variant, width):
    plan, m = plan_model(gpt(width), f"mup(64, variant={variant})"), width / 64
    std, kept = {"nanogpt": (0.02, 1.0), "cerebras": (0.08, 0.8796256610342398)}[variant]
    inner = rf"{ATTENTION.format('c_attn')}|{FEED_FORWARD.format('c_fc')}"
    same(stds(plan, inner), kept * std / math.sqrt(m))
    same(stds(plan, r".*c_proj\.weight"), kept * std / math.sqrt(2 * 3 * m))
    same(stds(plan, r".*w[tp]e\.weight"), kept * std)
    assert rate(plan, r".*c_\w+\.weight") == 1 / m
    spec = plan.entries["transformer.wte.weight"].spec
    assert isinstance(spec, TruncatedNormal) is (variant == "cerebras")
    multipliers = [need.value for need in plan.needs if need.what == "embedding multiplier"]
    assert multipliers == ([10.0] if variant == "cerebras" else [])


def test_at_the_base_width_mup_is_the_standard_parametrisation():
    plan = plan_model(gpt(256), "mup(256, std=0.02)")
    assert {entry.lr for entry in plan.entries.values()} == {1.0}
    same(stds(plan, r".*(c_attn|c_fc|c_proj|wte|wpe)\.weight"), 0.02)
    assert plan.needs[0].value == 1.0


def stack(width: int, classes: int = 10, experts: int = 4) -> ModelView:
    """Untied: table, hidden matrix, router, depthwise convolution, head."""
    taps = Axes(inputs=(1,), outputs=(0,), field=(2,))
    return handmade(
        parameter("emb", (50, width), "embedding", axes=None, fan_in=None, fan_out=None, order=0),
        parameter("dw", (width, 1, 4), "conv_depthwise", axes=taps, groups=width, order=1),
        parameter("mid", (4 * width, width), "mlp_up", order=2),
        parameter("router", (experts, width), "router", order=3),
        parameter("head", (classes, width), "head", order=4),
        parameter("bias", (width,), "bias"),
        parameter("lora", (4, width), "lora_a", order=5),
    )


def test_coordinates_keep_their_size_under_mup():
    """Per layer: fan_in x std^2 for what sums over independent terms at the start, and
    fan_in x lr, the sum that an Adam step of aligned signs adds; both are fixed in the width."""
    plans = {width: plan_model(stack(width), "mup(64)").entries for width in (64, 256, 1024)}
    for width, entries in plans.items():
        m = width / 64
        assert entries["mid"].std ** 2 * width == pytest.approx(1.0)
        assert entries["mid"].lr * m == pytest.approx(1.0)
        head = entries["head"]
        assert (head.std / m) ** 2 * width == pytest.approx(1 / m)  # logits at the start fade
        assert head.lr / m * width == pytest.approx(64.0)  # and move as at the base width
        router = entries["router"]
        assert router.std == pytest.approx(head.std / m)
        assert router.lr * width == pytest.approx(64.0)
        assert (entries["emb"].std, entries["emb"].lr) == (1.0, 1.0)
        assert (entries["dw"].std, entries["dw"].lr) == (0.5, 1.0)
        assert entries["bias"].lr == 1.0
    assert plans[64]["router"].std == plans[64]["head"].std == 1 / 8


def test_the_first_matrix_of_a_plain_network_is_an_input():
    mlp = nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 2))
    plan = plan_model(inspect(mlp, torch.zeros(2, 3)), "mup(128)")
    assert [plan.entries[f"{i}.weight"].lr for i in (0, 2, 3)] == [1.0, 0.25, 1.0]
    found = [plan.entries[f"{i}.weight"].std for i in (0, 2, 3)]
    assert found == pytest.approx([3**-0.5, 512**-0.5, 128**-0.5])


def test_without_stream_table_or_head_the_last_matrix_says_the_width():
    taps = Axes(inputs=(1,), outputs=(0,), field=(2,))
    view = handmade(
        parameter("in", (64, 3), order=0),
        parameter("mid", (64, 64), order=1),
        parameter("out", (8, 64, 5), "conv", axes=taps, order=2),
    )
    entries = plan_model(view, "mup(16)").entries
    assert [entries[name].lr for name in ("in", "mid", "out")] == [1.0, 0.25, 0.25]


def test_mup_gives_the_optimizer_its_groups():
    model = gpt_model(64, 1)
    plan = initium.plan(model, "mup(16)")
    groups = plan.parameter_groups(model, lr=0.1, weight_decay=0.2)
    decayed = {(round(g["lr"], 9), round(g["weight_decay"], 9)) for g in groups}
    assert decayed == {(0.1, 0.2), (0.1, 0.0), (0.025, 0.8)}
    hidden = next(group for group in groups if group["lr"] < 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(member)].rsplit(".", 2)[-2] for member in hidden["params"]} == {
        *("c_attn", "c_proj", "c_fc"),
    }


# CompleteP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_completep(alpha):
    """Width 256 from 64, depth 3 from 2; numbers of arXiv:2505.01618, table 1."""
    plan = plan_model(gpt(256), f"completep(base_width=64, base_depth=2, alpha={alpha})")
    m, k = 4.0, 1.5
    same(stds(plan, r".*c_(attn|fc|proj)\.weight"), 0.02 / math.sqrt(m))
    same(stds(plan, r".*w[tp]e\.weight"), 0.02)
    assert rate(plan, r".*c_\w+\.weight") == pytest.approx(k ** (alpha - 1) / m)
    inside = r"transformer\.h\..*(bias|ln_\d\.weight)"
    assert rate(plan, inside) == pytest.approx(k ** (alpha - 1))
    assert rate(plan, r"transformer\.(w[tp]e\.weight|ln_f\..*)") == 1.0
    needs = {need.what: need.value for need in plan.needs}
    assert needs["branch multiplier"] == pytest.approx(k**-alpha)
    assert needs["logit multiplier"] == 1 / m
    assert needs["Adam's epsilon"] == pytest.approx(k**-alpha / m)


def test_completep_slows_the_norms_that_stand_in_a_block_and_in_no_branch():
    """A post-norm transformer's norms are behind the sum; those outside the blocks stay at 1."""
    net = nn.Sequential(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
        ),
        nn.LayerNorm(16),
        nn.Linear(16, 4),
    )
    plan = initium.plan(net, "completep(base_depth=1, alpha=0.5)", torch.randn(2, 5, 16))
    inside = r"0\.layers\.\d\.(norm\d\.(weight|bias)|linear\d\.bias|.*proj.bias)"
    assert rate(plan, inside) == pytest.approx(3**-0.5)
    assert rate(plan, r"1\..*|2\.bias") == 1.0


def test_completep_counts_the_blocks_of_each_trunk():
    plan = plan_model(t5(), "completep(base_width=32, base_depth=1, alpha=0.5)")
    multipliers = [need.value for need in plan.needs if need.what == "branch multiplier"]
    assert multipliers == pytest.approx([2**-0.5, 3**-0.5])
    assert rate(plan, r"encoder.*SelfAttention\.q\.weight") == pytest.approx(2**-0.5)
    assert rate(plan, r"decoder.*Attention\.\w\.weight") == pytest.approx(3**-0.5)


# Spectral muP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_spectral_mup(optimizer):
    """sigma = fan_in^-1/2 min(1, (fan_out / fan_in)^1/2); Adam's rate 1/fan_in, SGD's the ratio."""
    plan = plan_model(gpt(64), f"spectral_mup(base_width=64, optimizer={optimizer})")
    shapes = {
        ATTENTION.format("c_attn"): (64, 64),
        ATTENTION.format("c_proj"): (64, 64),
        FEED_FORWARD.format("c_fc"): (64, 256),
        FEED_FORWARD.format("c_proj"): (256, 64),
    }
    for pattern, (fan_in, fan_out) in shapes.items():
        same(stds(plan, pattern), min(1.0, math.sqrt(fan_out / fan_in)) / math.sqrt(fan_in))
        expected = 64 / fan_in if optimizer == "adam" else fan_out / fan_in
        assert rate(plan, pattern) == expected
    same(stds(plan, r".*wte\.weight"), 1.0)


def test_spectral_mup_keeps_the_spectral_norm():
    """Of a Gaussian matrix it is near std (sqrt(fan_in) + sqrt(fan_out)): between once and twice
    sqrt(fan_out / fan_in), at every width and shape."""
    for fan_in, fan_out in ((64, 64), (64, 1024), (1024, 64), (4096, 10)):
        view = handmade(parameter("w", (fan_out, fan_in)))
        std = plan_model(view, "spectral_mup").entries["w"].std
        norm = std * (math.sqrt(fan_in) + math.sqrt(fan_out)) / math.sqrt(fan_out / fan_in)
        assert 1.0 <= norm <= 2.0 + 1e-9


def test_blocks_of_one_tensor_share_the_smallest_rate():
    blocks = (Block("q", 0, 0, 64), Block("k", 0, 64, 16), Block("v", 0, 80, 16))
    view = handmade(parameter("w", (96, 64), "attn_qkv", blocks=blocks, fan_out=64))
    entry = plan_model(view, "spectral_mup(optimizer=sgd)").entries["w"]
    assert entry.lr == 16 / 64
    assert [part.spec.std for part in entry.spec.parts] == pytest.approx([1 / 8, 1 / 16, 1 / 16])


# All of them ------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """An LSTM beside a transposed convolution and a shared scale."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12)
        self.up = nn.ConvTranspose1d(12, 6, 4, 2)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.lstm(x)[0].transpose(1, 2)) * self.scale


@pytest.mark.parametrize("recipe", MINE)
def test_every_recipe_plans_any_model(recipe):
    mixed = inspect(Mixed(), torch.zeros(5, 2, 8))
    bare = handmade(parameter("scale", (3,), "scale", constant=1.0))
    for view in (tiny_gpt(), tiny_gpt(tied=False), bart(), mixed, stack(16), bare):
        for name, entry in plan_model(view, recipe).entries.items():
            assert entry.reason
            assert "\n" not in entry.reason
            assert isinstance(entry.spec, Keep) or math.isfinite(entry.std), name


MESSAGES = [
    ("mup(variant=google)", "mup: is not a variant of mup (got 'google'); choose from paper"),
    ("mup(0)", "mup: base_width: must be positive (got 0)"),
    ("completep(base_depth=-1)", "completep: base_depth: must be positive (got -1)"),
    ("completep(alpha=2)", "completep: alpha: must lie in [0, 1] (got 2"),
    ("spectral_mup(optimizer=lion)", "spectral_mup: is not an optimizer of spectral_mup"),
    ("deepnorm(fairseq)", "deepnorm: is not a variant of deepnorm (got 'fairseq')"),
    ("subln(code)", "subln: is not a variant of subln (got 'code')"),
    ("t_fixup(code)", "t_fixup: is not a variant of t_fixup (got 'code')"),
]


@pytest.mark.parametrize(("recipe", "message"), MESSAGES, ids=[text for text, _ in MESSAGES])
def test_errors_are_one_clear_line(recipe, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe(recipe)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


TEXTS = [
    *MINE,
    "mup(base_width=128, std=0.05, variant='nanogpt')",
    "completep(base_width=128, base_depth=4, alpha=0.5, std=0.1)",
    "spectral_mup(base_width=128, optimizer='sgd')",
    "deepnorm(variant='torchscale')",
    "subln(variant='torchscale')",
    "t_fixup(variant='released')",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_gives_the_recipe_back(text):
    assert parse_recipe(text).text == text
    assert parse_recipe(text).name in RECIPES
