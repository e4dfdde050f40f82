"""What modules and names declare, for parameters that no trace reached.

Three weaker rungs: by analogy with a traced parameter in the same place of a module of the same
class; by the type of the module that owns it; by its name. A name is only ever a guess, and the
evidence says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from initium._model.names import Slot
from initium._model.sharding import bare_class
from initium._types import Axes, Block, Evidence, ParameterView, Role

__all__ = ["Declared", "analogies", "declared", "named"]


@dataclass(frozen=True, slots=True)
class Declared:
    """A role with the evidence for it, and the axes that go with it."""

    role: Role
    evidence: Evidence
    axes: Axes | None = None
    groups: int = 1
    stride: int = 1
    blocks: tuple[Block, ...] = ()
    partner: str | None = None
    magnitude_of: str | None = None


def declared(slot: Slot) -> Declared | None:
    """By the type of the owning module; ``None`` for a type that is not known."""
    owner, leaf = slot.owner, slot.leaf
    kind = bare_class(owner).__name__
    evidence = Evidence("declared", f"{leaf} of {kind}")
    rank = slot.tensor.dim()
    prefix = f"{slot.module}." if slot.module else ""

    def found(role: Role, axes: Axes | None = None, **more: object) -> Declared:
        return Declared(role, evidence, axes, **more)  # type: ignore[arg-type]

    if isinstance(owner, nn.Linear) and leaf == "weight":
        return found("linear", Axes((1,), (0,)))
    if isinstance(owner, nn.modules.conv._ConvNd) and leaf == "weight":
        return found(*_convolution(owner), groups=owner.groups, stride=_product(owner.stride))
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) and leaf == "weight":
        return found("embedding")
    if isinstance(owner, nn.MultiheadAttention):
        return _multihead(owner, leaf, found)
    if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)) and rank == 2:
        role: Role = "recurrent_input" if "_ih" in leaf else "recurrent_hidden"
        return found(role, Axes((1,), (0,)), blocks=_gates(owner, slot))
    if isinstance(owner, nn.Bilinear) and leaf == "weight":
        return found("linear", Axes((1, 2), (0,)))
    if isinstance(owner, nn.PReLU):
        return found("scale")
    if kind == "Conv1D" and leaf == "weight" and rank == 2:
        return found("linear", Axes((0,), (1,)))
    if "Norm" in kind and rank <= 1:
        return found("norm_bias" if leaf == "bias" else "norm_scale")
    if leaf in ("weight_g", "original0"):
        return Declared(
            "scale", Evidence("declared", "the magnitude of a weight norm"),
            magnitude_of=prefix + ("weight_v" if leaf == "weight_g" else "original1"),
        )  # fmt: skip
    if leaf == "bias" or leaf.startswith("bias_"):
        weight = getattr(owner, "weight", None)
        return found("bias", partner=f"{prefix}weight" if weight is not None else None)
    return None


def _convolution(owner: nn.modules.conv._ConvNd) -> tuple[Role, Axes]:
    field = tuple(range(2, owner.weight.dim()))
    if owner.transposed:
        return "conv_transpose", Axes((0,), (1,), (), field)
    depthwise = owner.groups > 1 and owner.groups == owner.in_channels
    return "conv_depthwise" if depthwise else "conv", Axes((1,), (0,), (), field)


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _multihead(
    owner: nn.MultiheadAttention, leaf: str, found: Callable[..., Declared]
) -> Declared | None:
    size = owner.embed_dim
    if leaf == "in_proj_weight":
        blocks = tuple(Block(label, 0, i * size, size) for i, label in enumerate("qkv"))
        return found("attn_qkv", Axes((1,), (0,)), blocks=blocks)
    roles: dict[str, Role] = {
        "q_proj_weight": "attn_q",
        "k_proj_weight": "attn_k",
        "v_proj_weight": "attn_v",
    }
    if leaf in roles:
        return found(roles[leaf], Axes((1,), (0,)))
    if leaf in ("bias_k", "bias_v"):
        return found("token")
    return found("bias") if leaf == "in_proj_bias" else None


def _gates(owner: nn.Module, slot: Slot) -> tuple[Block, ...]:
    mode = bare_class(owner).__name__.removesuffix("Cell").lower()
    labels = {
        "lstm": ("input", "forget", "cell", "output"),
        "gru": ("reset", "update", "new"),
    }.get(mode, ())
    if not labels:
        return ()
    each = slot.tensor.shape[0] // len(labels)
    return tuple(Block(label, 0, i * each, each) for i, label in enumerate(labels))


_MATRIX = Axes((1,), (0,))
_NAMES: tuple[tuple[str, Role, Axes | None], ...] = (
    (r"a_log$", "ssm_a", None),
    (r"(^|\.)d$", "ssm_d", None),
    (r"dt_bias$|dt_proj\.bias$", "ssm_dt", None),
    (r"lora_a", "lora_a", _MATRIX),
    (r"lora_b", "lora_b", _MATRIX),
    (
        r"(pos|position)_?(al)?_?(embed|emb|enc|bias)|rel(ative)?_(pos|attention_bias)",
        "position",
        None,
    ),
    (r"(cls|class|mask|reg|register|dist|query|sep)_?(token|embed|emb$|tokens)", "token", None),
    (
        r"(^|[._])(probe|latents?|queries|prompts?|\w*pointer|\w*extensor|\w*token(_input)?)(_\dd)?$",
        "token",
        None,
    ),
    (r"(layer_?scale|gamma|_ls\d?$|logit_scale|temperature|\balpha$)", "scale", None),
    (r"(qkv|in_proj|c_attn|query_key_value)[^.]*$", "attn_qkv", _MATRIX),
    (r"(q_proj|query|to_q|wq|q_lin)[^.]*(\.weight)?$", "attn_q", _MATRIX),
    (r"(k_proj|key|to_k|wk|k_lin)[^.]*(\.weight)?$", "attn_k", _MATRIX),
    (r"(v_proj|value|to_v|wv|v_lin)[^.]*(\.weight)?$", "attn_v", _MATRIX),
    (r"(o_proj|out_proj|to_out|wo)[^.]*(\.weight)?$", "attn_out", _MATRIX),
    (r"gate_up[^.]*(\.weight)?$", "mlp_gate_up", _MATRIX),
    (r"(gate_proj|w1)[^.]*(\.weight)?$", "mlp_gate", _MATRIX),
    (r"(up_proj|fc1|w3)[^.]*(\.weight)?$", "mlp_up", _MATRIX),
    (r"(down_proj|fc2|w2)[^.]*(\.weight)?$", "mlp_down", _MATRIX),
    (r"(router|(^|\.)gate)\.weight$", "router", _MATRIX),
    (r"(lm_head|classifier|head)(\.\w+)?\.weight$", "head", _MATRIX),
    (r"embed[^.]*(\.weight)?$", "embedding", None),
    (r"_projection(_weight)?$", "linear", Axes((0,), (1,))),
)


def named(name: str, shape: tuple[int, ...]) -> Declared | None:
    """By the name alone; ``None`` where it says nothing."""
    lower = name.lower()
    for pattern, role, axes in _NAMES:
        if axes is not None and len(shape) < 2:
            continue
        if re.search(pattern, lower):
            batch = tuple(range(len(shape) - 2)) if axes and len(shape) > 2 else ()
            shifted = axes
            if axes is not None and batch:
                shifted = Axes((len(shape) - 1,), (len(shape) - 2,), batch)
            return Declared(role, Evidence("named", f"called {name!r}"), shifted)
    if lower.endswith("bias"):
        return Declared("bias", Evidence("named", f"called {name!r}"))
    return None


def analogies(
    modules: Mapping[str, nn.Module], traced: Mapping[str, ParameterView]
) -> dict[tuple[str, str], ParameterView]:
    """(class of an enclosing module, path inside it) -> a traced parameter found there."""
    index: dict[tuple[str, str], ParameterView] = {}
    for name, view in traced.items():
        for ancestor, rest in enclosing(name):
            module = modules.get(ancestor)
            if module is not None and not isinstance(module, (nn.ModuleList, nn.Sequential)):
                index.setdefault((bare_class(module).__qualname__, rest), view)
    return index


def enclosing(name: str) -> list[tuple[str, str]]:
    """(module, path inside it) for the modules around a parameter, the widest first; its own
    module and the model as a whole left out."""
    parts = name.split(".")
    return [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts) - 1)]
