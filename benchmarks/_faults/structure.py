"""Faults of ``faults.py`` in what weights are for: copies, fans, gates, tables, adapters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

import initium
from _faults.batch import NEW_ROWS
from _faults.models import Names, Subject
from initium._types import ParameterView


def twin_layers(s: Subject) -> Names:
    """Every layer a copy of the first of its kind, as after deepcopy."""
    first: dict[object, str] = {}
    copied: list[str] = []
    for one in s.peers():
        source = first.setdefault((one.role, one.shape), one.name)
        if source != one.name:
            s.weight(one.name).copy_(s.weight(source))
            copied += [source, one.name]
    return dict.fromkeys(copied)


def one_seed(s: Subject) -> Names:
    names = [one.name for one in s.matrices()]
    for name in names:
        generator, weight = torch.Generator().manual_seed(1), s.weight(name)
        weight.normal_(0.0, float(weight.std()), generator=generator)
    return names


def fused_fans(s: Subject) -> Names:
    names = [
        one.name
        for one in s.matrices()
        if one.role == "attn_qkv" and len(one.blocks) > 2 and one.numel > 3000
        and one.shape[0] == 3 * one.shape[1]
    ]  # fmt: skip
    for name in names:
        nn.init.xavier_uniform_(s.weight(name))
    return names


def fan_out_of_groups(s: Subject) -> Names:
    names = [one.name for one in s.matrices() if one.groups > 1 and one.numel > 3000]
    for name in names:
        nn.init.kaiming_normal_(s.weight(name), mode="fan_out")
    return names


def swapped_fans(s: Subject) -> Names:
    names = [
        one.name
        for one in s.matrices()
        if one.role == "conv_transpose" and one.numel > 3000 and _are_far(one)
    ]
    for name in names:
        nn.init.kaiming_normal_(s.weight(name))
    return names


def _are_far(one: ParameterView) -> bool:
    """Whether fans the wrong way round change the std by 1.5 at least, and no norm hides that."""
    assert one.fan_in
    times = one.shape[1] * math.prod(one.shape[2:]) / (one.fan_in / one.stride)
    return max(times, 1 / times) > 1.5**2 and not one.norm_after


def experts_as_taps(s: Subject) -> Names:
    names = [one.name for one in s.matrices() if any(block.stacked for block in one.blocks)]
    for name in names:
        nn.init.kaiming_uniform_(s.weight(name))
    return names


def fused_orthogonal(s: Subject) -> Names:
    names = [
        one.name
        for one in s.matrices()
        if one.module_type in {"LSTM", "GRU"} and len(one.blocks) > 2
    ]
    for name in names:
        nn.init.orthogonal_(s.weight(name))
    return names


def doubled_forget(s: Subject) -> Names:
    names = [
        name
        for name, _ in s.model.named_parameters()
        if name.rpartition(".")[2].startswith("bias_")
        and isinstance(s.model.get_submodule(name.rpartition(".")[0]), nn.LSTM)
    ]
    for name in names:
        s.weight(name).chunk(4)[1].fill_(1.0)
    return names


def padding_row(s: Subject) -> Names:
    names = [one.name for one in s.find("embedding") if one.padding_row is not None]
    for name in names:
        s.weight(name).normal_(0.0, 0.02)
    return names


def with_padding(s: Subject) -> None:
    """Tables have a padding row, and the batch uses it."""
    for module in s.model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is None:
            module.padding_idx = 0
            module.weight[0].zero_()
    ids = s.inputs.get("input_ids") if isinstance(s.inputs, dict) else s.inputs
    if isinstance(ids, torch.Tensor) and not ids.is_floating_point():
        ids[:, -2:] = 0


def grown_vocabulary(s: Subject) -> Names:
    name = s.pick(one for one in s.find("embedding") if len(one.shape) == 2 and one.shape[0] > 50)
    if name:
        table = s.weight(name)
        table[-NEW_ROWS:] = table[:-NEW_ROWS].mean(0)
    return [name]


def outliers(s: Subject) -> Names:
    name = s.pick(one for one in s.matrices() if one.numel > 3000)
    if name:
        weight = s.weight(name)
        weight.view(-1)[7] = 30.0 * weight.std()
    return [name]


class Adapter(nn.Module):
    """A frozen linear layer plus ``b(a(x))``."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    @property
    def weight(self) -> torch.Tensor:
        """Some models look at the dtype of their layers' weights."""
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """And some call the layer's function themselves."""
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.lora_b(self.lora_a(x))
        return out


def with_adapters(s: Subject) -> None:
    plain = {one.module for one in s.peers() if one.module_type == "Linear" and not one.aliases}
    for path in sorted(plain):
        parent, _, leaf = path.rpartition(".")
        layer = s.model.get_submodule(path)
        if (
            type(layer) is nn.Linear
            and type(s.model.get_submodule(parent)) is not nn.MultiheadAttention
        ):
            setattr(s.model.get_submodule(parent), leaf, Adapter(layer))


def adapters(first: bool, second: bool) -> Callable[[Subject], Names]:
    """Which factors of all adapters are drawn."""

    def inject(s: Subject) -> Names:
        names = []
        for path, module in s.model.named_modules():
            if isinstance(module, Adapter):
                names += [f"{path}.lora_a.weight", f"{path}.lora_b.weight"]
                for drawn, factor in ((first, module.lora_a), (second, module.lora_b)):
                    nn.init.normal_(factor.weight, std=0.1 if drawn else 0.0)
        return names

    return inject


def against_the_plan(s: Subject) -> Names:
    plan = s.plan = initium.plan(s.known, "auto")
    plan.apply(s.model)
    name = s.pick(one for one in s.matrices() if plan.entries[one.name].std)
    if name:
        s.weight(name).mul_(1.5)
    return [name]
