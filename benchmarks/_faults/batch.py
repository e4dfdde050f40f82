"""Faults of ``faults.py`` in batch, loss and forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from _faults.models import Names, Subject

LEAKING = 5
"""The feature that holds the label."""
NEW_ROWS = 8
"""Rows that a table has grown by."""
SPARE = "spare"
"""The layer that is never called."""

# Batch and loss -------------------------------------------------------------------------------


def floats(s: Subject) -> tuple[str | None, torch.Tensor | None]:
    """The batch's floating-point tensor and its key."""
    if isinstance(s.inputs, torch.Tensor) and s.inputs.is_floating_point():
        return None, s.inputs
    if isinstance(s.inputs, dict):
        for key in ("pixel_values", "input_values", "input_features"):
            if key in s.inputs:
                return key, s.inputs[key]
    return None, None


def put(s: Subject, key: str | None, value: torch.Tensor) -> None:
    s.inputs = value if key is None else {**s.inputs, key: value}


def raw_pixels(s: Subject) -> Names:
    """Bytes instead of normalised inputs, where no norm takes their scale out at once."""
    key, images = floats(s)
    readers = [one for one in s.matrices() if one.source == "input"]
    if images is None or not readers or any(one.norm_after for one in readers):
        return []
    put(s, key, 255.0 * images.sigmoid())
    return ["inputs"]


def labels_of(s: Subject) -> torch.Tensor | None:
    if isinstance(s.targets, torch.Tensor) and s.targets.dim() == 1 and len(s.targets) >= 16:
        return s.targets
    return None


def classes(s: Subject) -> int:
    """How many the model tells apart."""
    with torch.no_grad():
        return int(s.forward().shape[-1])


def one_class(s: Subject) -> Names:
    labels = labels_of(s)
    if labels is None:
        return []
    s.targets = torch.full_like(labels, int(labels[0]))
    return ["targets"]


def leak(s: Subject) -> Names:
    """The label in one feature of every sample."""
    labels, (key, features) = labels_of(s), floats(s)
    if labels is None or features is None:
        return []
    features = features.clone()
    features.flatten(1)[:, LEAKING] = labels.to(features) / float(labels.max())
    put(s, key, features)
    return ["inputs"]


def with_loss(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[Subject], Names]:
    """A loss of the user's own on logits and labels."""

    def inject(s: Subject) -> Names:
        if not isinstance(s.targets, torch.Tensor) or s.targets.dim() != 1:
            return []

        def loss_fn(output: Any, targets: torch.Tensor) -> torch.Tensor:
            return loss(output.flatten(0, -2), targets.flatten())

        s.loss_fn = loss_fn
        return ["loss_fn", "loss", *(one.name for one in s.find("head"))]

    return inject


def half_without_scaling(s: Subject) -> Names:
    """Float16, and a loss so small that its gradients are no normal numbers of that format."""
    key, features = floats(s)
    if features is None or not isinstance(s.targets, torch.Tensor) or s.targets.dim() != 1:
        return []

    def loss_fn(output: Any, targets: torch.Tensor) -> torch.Tensor:
        return 1e-4 * nn.functional.cross_entropy(output.float(), targets)

    s.model.half()
    put(s, key, features.half())
    s.loss_fn, s.view = loss_fn, None
    try:
        s.forward()
    except RuntimeError as error:
        if "not implemented for 'Half'" not in str(error):
            raise
        return []
    return ["loss_fn", *(name for name, _ in s.model.named_parameters())]


def frozen(s: Subject) -> Names:
    s.model.requires_grad_(False)
    s.view = None
    return [name for name, _ in s.model.named_parameters()]


def spare_layer(s: Subject) -> Names:
    if isinstance(s.model, nn.Sequential):
        return []
    s.model.add_module(SPARE, nn.Linear(8, 8))
    s.view = None
    return [f"{SPARE}.weight", f"{SPARE}.bias"]


# The forward pass -----------------------------------------------------------------------------


def blocks(s: Subject) -> list[str]:
    """The blocks of the longest list of modules of one class."""
    lists = [
        (path, module)
        for path, module in s.model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module) > 2
        and len({type(one) for one in module}) <= 2
    ]
    if not lists:
        return []
    path, longest = max(lists, key=lambda item: len(item[1]))
    return [f"{path}.{leaf}" if path else leaf for leaf, _ in longest.named_children()]


def hook(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Code behind a module."""

    def behind(module: nn.Module, args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output) if isinstance(output, torch.Tensor) else output

    behind.is_fault = True  # type: ignore[attr-defined]
    module.register_forward_hook(behind)


def unhook(module: nn.Module) -> bool:
    """Take such code away; whether there was any."""
    held = module._forward_hooks
    ours = [key for key, one in held.items() if getattr(one, "is_fault", False)]
    for key in ours:
        del held[key]
    return bool(ours)


def hooked(
    change: Callable[[torch.Tensor], torch.Tensor], every: bool = False
) -> Callable[[Subject], Names]:
    """Code behind one block, or behind all of them."""

    def inject(s: Subject) -> Names:
        names = [name for name in blocks(s) if _is_called(s.model.get_submodule(name))]
        if len(names) < 3:
            return []
        names = names if every else [names[len(names) // 2]]
        for name in names:
            hook(s.model.get_submodule(name), change)
        return names

    return inject


def averaged(s: Subject) -> Names:
    """Behind every block of attention all tokens are nearly their mean."""

    def mean(x: torch.Tensor) -> torch.Tensor:
        middle = x.mean(1, keepdim=True)
        return middle + 0.01 * (x - middle)

    return hooked(mean, every=True)(s) if s.find("attn_q", "attn_qkv") else []


def _is_called(module: nn.Module) -> bool:
    """Whether it is a layer with weights, and not a list of layers."""
    return not isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())


class Backward(torch.autograd.Function):
    """The identity, with another factor on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


def backward(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Code whose gradient is wrong by a factor."""
    return lambda x: Backward.apply(x, factor)


def root_of_zero(x: torch.Tensor) -> torch.Tensor:
    """Nothing is added, and its slope is infinite."""
    return x + (0 * x).square().sum(-1, True).sqrt()


def guarded_root(x: torch.Tensor) -> torch.Tensor:
    """With an epsilon under the root."""
    return x + (0 * x).square().sum(-1, True).add(1e-12).sqrt()


def logarithm(x: torch.Tensor) -> torch.Tensor:
    """Nothing is added where x is positive, and NaN elsewhere."""
    return x + 0 * x.log()


def guarded_logarithm(x: torch.Tensor) -> torch.Tensor:
    """Of clamped numbers."""
    return x + 0 * x.clamp(min=1e-3).log()
