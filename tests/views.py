"""Model views made by hand, and views of torch modules without the inspection."""

from __future__ import annotations

from math import prod

from torch import nn

from initium._model.names import slots
from initium._model.sharding import torch_type
from initium._types import Axes, Block, BufferView, Evidence, ModelView, ParameterView

MATRIX = Axes(inputs=(1,), outputs=(0,))
CONV = Axes(inputs=(1,), outputs=(0,), field=(2, 3))


def parameter(name: str, shape: tuple[int, ...], role: str = "linear", **known) -> ParameterView:
    """A parameter's view with the fans of a plain matrix or convolution unless told otherwise."""
    if len(shape) >= 2:
        taps = prod(shape[2:])
        known.setdefault("axes", MATRIX if len(shape) == 2 else CONV)
        known.setdefault("fan_in", shape[1] * taps)
        known.setdefault("fan_out", shape[0] * taps)
    known.setdefault("dtype", "float32")
    known.setdefault("evidence", {"role": Evidence("declared", "made by hand")})
    return ParameterView(name=name, shape=shape, role=role, **known)


def model(*views: ParameterView, buffers: tuple[BufferView, ...] = ()) -> ModelView:
    """A model's view from those of its parameters and buffers."""
    return ModelView(
        model="Handmade",
        parameters={view.name: view for view in views},
        buffers={view.name: view for view in buffers},
    )


def tiny_gpt(layers: int = 3, width: int = 16, *, tied: bool = True) -> ModelView:
    """A GPT-like view: tied embedding, fused qkv, gated MLP, two writers per block."""
    made = [
        parameter(
            "wte.weight",
            (50, width),
            "embedding",
            axes=None,
            fan_in=None,
            fan_out=None,
            aliases=("head.weight",) if tied else (),
        ),
        parameter("wpe.weight", (8, width), "position", axes=None, fan_in=None, fan_out=None),
    ]
    for layer in range(layers):
        at = f"h.{layer}"
        first, second = (branch(2 * layer + i, 2 * layers) for i in range(2))
        thirds = tuple(Block(label, 0, width * i, width) for i, label in enumerate("qkv"))
        halves = (
            Block("gate", 0, 0, 4 * width, activation="silu", gain=2.8108),
            Block("up", 0, 4 * width, 4 * width),
        )
        made += [
            parameter(f"{at}.ln.weight", (width,), "norm_scale", neutral=1.0, constant=1.0),
            parameter(f"{at}.ln.bias", (width,), "norm_bias"),
            parameter(
                f"{at}.qkv.weight", (3 * width, width), "attn_qkv", fan_out=width, blocks=thirds
            ),
            parameter(f"{at}.proj.weight", (width, width), "attn_out", **first),
            parameter(
                f"{at}.up.weight",
                (8 * width, width),
                "mlp_gate_up",
                fan_out=4 * width,
                blocks=halves,
            ),
            parameter(f"{at}.down.weight", (width, 4 * width), "mlp_down", **second),
        ]
    owner = "wte.weight" if tied else None
    made.append(parameter("head.weight", (50, width), "head", tied_to=owner))
    return model(*made)


def branch(depth: int, branches: int) -> dict[str, object]:
    """The place of a writer on the one stream of a trunk."""
    return {
        "writes_residual": True,
        "stream": 0,
        "branches": branches,
        "depth": depth,
        "trunk": 0,
        "trunk_depth": depth,
    }


def of_module(module: nn.Module, roles: dict[str, str] | None = None) -> ModelView:
    """Names, shapes, types and ties of a real module; roles only where given."""
    types = {name: type(child).__name__ for name, child in module.named_modules()}
    parameters, buffers = {}, {}
    for slot in slots(module).values():
        dtype = str(slot.tensor.dtype).removeprefix("torch.")
        shape = tuple(slot.tensor.shape)
        if slot.is_buffer:
            buffers[slot.name] = BufferView(
                name=slot.name,
                shape=shape,
                dtype=dtype,
                rule={"running_mean": "constant(0)", "running_var": "constant(1)"}.get(slot.leaf),
            )
            continue
        padding = getattr(slot.owner, "padding_idx", None)
        for name in (slot.name, *slot.aliases):
            parameters[name] = ParameterView(
                name=name,
                shape=shape,
                dtype=dtype,
                module=slot.module,
                module_type=types[slot.module],
                torch_type=torch_type(slot.owner, slot.leaf),
                role=(roles or {}).get(slot.leaf, "unknown"),
                padding_row=padding,
                aliases=tuple(slot.aliases) if name == slot.name else (),
                tied_to=None if name == slot.name else slot.name,
            )
    return ModelView(model=type(module).__name__, parameters=parameters, buffers=buffers)
