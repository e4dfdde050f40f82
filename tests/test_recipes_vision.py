"""The recipes of vision models: against timm's own inits, and against numbers from the sources."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import initium
from initium._inspect import inspect
from initium._load.optional import import_optional
from initium._plan import plan_model
from initium._plan.recipe import parse_recipe
from initium._types import ModelView
from initium.errors import RecipeError
from initium.spec import Constant, Keep, Normal, Uniform

import_optional("timm")
from timm.models.convnext import ConvNeXt  # noqa: E402
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402


def vit(**options: object) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "num_heads": 3, "depth": 3}
    return VisionTransformer(**sizes, num_classes=40, reg_tokens=2, **options)


def resnet(block: type[nn.Module] = Bottleneck, **options: object) -> nn.Module:
    return ResNet(block, (2, 1, 1, 1), num_classes=20, channels=(8, 16, 24, 32), **options)


def convnext(**options: object) -> nn.Module:
    return ConvNeXt(depths=(1, 1, 2, 1), dims=(16, 24, 32, 48), num_classes=20, **options)


# The libraries' own inits ------------------------------------------------------------------------


@functools.cache
def seen(build: Callable[[], nn.Module]) -> ModelView:
    return inspect(build(), torch.zeros(1, 3, 32, 32))


def basic() -> nn.Module:
    return resnet(BasicBlock)


def grouped(**options: object) -> nn.Module:
    return resnet(cardinality=4, base_width=16, **options)


def scaled() -> nn.Module:
    return convnext(ls_init_value=0.1, conv_mlp=True)


LIBRARIES = {
    "vit": (vit, {}),
    "vit(fix_init=True)": (vit, {"fix_init": True}),
    "vit(jax)": (vit, {"weight_init": "jax"}),
    "vit(jax, fix_init=True)": (vit, {"weight_init": "jax", "fix_init": True}),
    "vit(jax_nlhb)": (vit, {"weight_init": "jax_nlhb"}),
    "vit(moco)": (vit, {"weight_init": "moco"}),
    "resnet": (resnet, {"zero_init_last": False}),
    "resnet(zero_gamma=True)": (resnet, {}),
    "resnet(True)": (basic, {}),
    "resnet(zero_gamma=False)": (grouped, {"zero_init_last": False}),
    "convnext": (convnext, {}),
    "convnext(0.001)": (convnext, {"head_init_scale": 0.001}),
    "convnext(layer_scale=0.5)": (scaled, {}),
}


@pytest.mark.parametrize("recipe", LIBRARIES)
def test_it_plans_what_timm_draws(recipe):
    """Mean, std and bounds of timm's own values, up to five standard errors of each."""
    torch.manual_seed(0)
    build, options = LIBRARIES[recipe]
    plan = plan_model(seen(build), recipe)
    model, *others = (build(**options) for _ in range(3))
    again = [dict(other.named_parameters()) for other in others]
    for name, parameter in model.named_parameters():
        drawn = torch.stack([parameter.detach(), *(other[name].detach() for other in again)])
        values, moments = drawn.double(), plan.entries[name].spec.moments(tuple(parameter.shape))
        noise = moments.std / math.sqrt(values.numel())
        assert values.mean().item() == pytest.approx(moments.mean, abs=5 * noise, rel=1e-6), name
        kurtosis = moments.kurtosis or 1.0
        error = 2.5 * moments.std * math.sqrt(max(kurtosis - 1, 0) / values.numel())
        assert values.std(correction=0).item() == pytest.approx(moments.std, abs=error + 1e-9), name
        spec = plan.entries[name].spec
        if isinstance(spec, Uniform):
            assert 0.9 < values.abs().max().item() / spec.high < 1 + 1e-6, name


def test_convnext_on_meta_starts_its_scales_as_told():
    with torch.device("meta"):
        model = convnext()
    view = inspect(model, torch.zeros(1, 3, 32, 32))
    for recipe, value in (("convnext", 1e-6), ("convnext(layer_scale=0.1)", 0.1)):
        plan = plan_model(view, recipe)
        scales = {e.spec for e in plan.entries.values() if e.role == "scale"}
        assert scales == {Constant(value)}


# Numbers from the sources ------------------------------------------------------------------------


class Block(nn.Module):
    """A transformer block whose two branches are shifted, scaled and gated by a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        a, b, c, d, e, f = self.ada(condition)[:, None].chunk(6, -1)
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x) * (1 + a) + b).chunk(3, -1)
        )
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + c * self.proj(heads.transpose(1, 2).flatten(2))
        hidden = nn.functional.gelu(self.fc1(self.norm2(x) * (1 + d) + e))
        return x + f * self.fc2(hidden)


class Diffusion(nn.Module):
    """A small diffusion transformer: patches, a timestep, a label."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, width, 2, 2)
        self.pos = nn.Parameter(torch.zeros(1, 16, width), requires_grad=False)
        self.t = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width))
        self.y = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        angles = t[:, None] * torch.arange(1, 5)
        condition = self.t(torch.cat([angles.cos(), angles.sin()], -1)) + self.y(y)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.ada(condition)[:, None].chunk(2, -1)
        return self.out(self.norm(x) * (1 + scale) + shift)


def expected(plan: initium.Plan, table: dict[str, float]) -> None:
    """Every pattern's std is met by every parameter it stands for."""
    for part, std in table.items():
        found = {name: e.std for name, e in plan.entries.items() if name.endswith(part)}
        assert found, part
        assert found == {name: pytest.approx(std, rel=1e-9, abs=1e-30) for name in found}


def test_dit_is_zero_where_its_code_says_and_xavier_over_the_fused_matrix():
    batch = (torch.zeros(2, 4, 8, 8), torch.ones(2), torch.tensor([0, 1]))
    plan = plan_model(inspect(Diffusion(), batch), "dit")
    expected(
        plan,
        {
            "patch.weight": math.sqrt(2 / (4 * 2 * 2 + 32)),
            "t.0.weight": 0.02,
            "t.2.weight": 0.02,
            "y.weight": 0.02,
            "qkv.weight": math.sqrt(2 / (32 + 96)),
            "proj.weight": math.sqrt(2 / 64),
            "fc1.weight": math.sqrt(2 / 160),
            "fc2.weight": math.sqrt(2 / 160),
            "ada.1.weight": 0.0,
            "out.weight": 0.0,
            "bias": 0.0,
        },
    )


def sines_and_cosines(side: int, width: int) -> np.ndarray:
    """Row y * side + x: sin(x w), cos(x w), sin(y w), cos(y w), w_i = 10000^(-i / (width / 4))."""
    rates = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    y, x = np.divmod(np.arange(side * side), side)
    angles = [position[:, None] * rates for position in (x, y)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)


@pytest.mark.parametrize(("recipe", "rows"), [("mae", 17), ("dit", 16)])
def test_frozen_positions_are_sines_and_cosines(recipe, rows):
    model = Diffusion()
    if rows == 17:
        model.pos = nn.Parameter(torch.zeros(1, 17, 32), requires_grad=False)
        model.patch = nn.Conv2d(4, 32, 2, (2, 1), bias=False)
        model.forward = lambda x: model.patch(x).flatten(2).transpose(1, 2)[:, :17] + model.pos
    batch = (torch.zeros(2, 4, 8, 8), torch.ones(2), torch.tensor([0, 1]))
    plan = initium.plan(model, recipe, batch if rows == 16 else batch[0])
    values = plan.tensor("pos")[0].numpy()
    np.testing.assert_allclose(values[rows - 16 :], sines_and_cosines(4, 32), atol=1e-6)
    assert not values[: rows - 16].any()


def test_a_frozen_code_that_is_no_square_grid_is_kept():
    model = Diffusion()
    model.pos = nn.Parameter(torch.zeros(1, 12, 32), requires_grad=False)
    batch = (torch.zeros(2, 4, 6, 8), torch.ones(2), torch.tensor([0, 1]))
    view = inspect(model, batch)
    for recipe in ("mae", "dit", "vit"):
        assert plan_model(view, recipe).entries["pos"].spec == Keep()


def test_mae_fuses_and_flattens():
    plan = plan_model(seen(vit), "mae")
    flat = math.sqrt(2 / (3 * 8 * 8 + 96))
    expected(
        plan,
        {
            "patch_embed.proj.weight": flat,
            "patch_embed.proj.bias": 1 / math.sqrt(3 * 192),
            "qkv.weight": math.sqrt(2 / (96 + 288)),
            "attn.proj.weight": math.sqrt(2 / 192),
            "fc1.weight": math.sqrt(2 / 480),
            "head.weight": math.sqrt(2 / 136),
            "cls_token": 0.02,
            "fc1.bias": 0.0,
        },
    )
    assert plan.entries["pos_embed"].spec == Normal(0.02)


def test_grouped_convolutions_count_every_output_channel():
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.Flatten(), nn.Linear(16, 3))
    plan = plan_model(inspect(model, torch.zeros(1, 8, 3, 3)), "resnet")
    assert plan.entries["0.weight"].std == pytest.approx(math.sqrt(2 / (16 * 9)))
    assert plan.entries["2.weight"].std == pytest.approx(1 / math.sqrt(3 * 16))
    assert plan.entries["2.bias"].std == pytest.approx(1 / math.sqrt(3 * 16))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("vit(keras)", "vit: is not a variant of vit (got 'keras'); choose from timm, jax"),
    ],
)
def test_errors_are_one_clear_line(recipe, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe(recipe)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["vit(variant='moco', fix_init=True)", "convnext(layer_scale=0.1)"]
)
def test_the_text_gives_the_recipe_back(text):
    assert parse_recipe(text).text == text
