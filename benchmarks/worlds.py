"""Sharded fills against what one process fills, bit by bit: ``python benchmarks/worlds.py``.

Every world of processes (on gloo, on this machine) builds a small decoder on the meta device,
shards it, fills it by the plan of the bare model, and compares every element that it holds with the
fill of one process. The table goes into ``docs/worlds.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import initium

SIZES = (1, 2, 3, 4, 8)
WIDTH, LAYERS, TOKENS = 96, 6, 515
RULES = {
    "layers.1.up.weight": "orthogonal(1.5)",
    "layers.2.up.weight": "truncated_normal(0.02)",
    "layers.3.up.weight": "sparse(0.5, 0.1)",
    "layers.4.up.weight": "uniform(-0.1, 0.1)",
}
OUTPUT = Path(__file__).parents[1] / "docs" / "worlds.md"
HEAD = """# The same bits in every world

`benchmarks/worlds.py` writes this page. Worlds of processes on gloo build a decoder of {parameters}
parameters on the meta device, shard it and fill it by one plan. Every element that a process holds
is compared with the fill of one process; replicas count as often as they are held. *communication*
is the number of collectives during the fill, *largest share* the most elements that one process
holds. Which specs are in it: normal, uniform, truncated normal, orthogonal, sparse, constants.

torch {torch}, {threads} processors, {date}.

| processes | layout | mesh | elements compared | differing bits | communication | largest share |
|---|---|---|---|---|---|---|
"""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width + 3)
        self.down = nn.Linear(4 * width + 3, width)
        self.register_buffer("slopes", torch.linspace(0, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x)))) * self.slopes


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(Block(WIDTH) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def fsdp2(model: Decoder, size: int) -> str:
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return str(size)


def tensor_parallel(model: Decoder, size: int) -> str:
    cut(model, init_device_mesh("cpu", (size,)))
    return str(size)


def both(model: Decoder, size: int) -> str:
    data = 2 if size % 2 == 0 else 1
    mesh = init_device_mesh("cpu", (data, size // data), mesh_dim_names=("data", "tensor"))
    cut(model, mesh["tensor"])
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return f"{data} x {size // data}"


def cut(model: Decoder, mesh: DeviceMesh) -> None:
    styles = {
        "embed": RowwiseParallel(input_layouts=Replicate()),
        "layers.*.up": ColwiseParallel(),
        "layers.*.down": RowwiseParallel(),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, styles, src_data_rank=None)


LAYOUTS: dict[str, Callable[[Decoder, int], str]] = {
    "FSDP2": fsdp2,
    "tensor parallel": tensor_parallel,
    "both": both,
}


def fill_and_compare(
    plan: initium.Plan, alone: nn.Module, layout: str, size: int
) -> dict[str, object]:
    """What this process holds, in numbers."""
    with torch.device("meta"):
        model = Decoder()
    mesh = LAYOUTS[layout](model, size)
    with CommDebugMode() as talk:
        plan.apply(model)
    compared = differing = 0
    expected = {**dict(alone.named_parameters()), **dict(alone.named_buffers())}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        whole = expected[name].detach()
        if isinstance(tensor, DTensor):
            mesh_of, placements = tensor.device_mesh, tensor.placements
            part = distribute_tensor(whole, mesh_of, placements, src_data_rank=None)
            whole, tensor = part.to_local(), tensor.to_local()
        different = whole.view(torch.int32) ^ tensor.detach().view(torch.int32)
        compared += different.numel()
        differing += sum(int((different >> bit & 1).sum()) for bit in range(32))
    return {
        "mesh": mesh,
        "compared": compared,
        "differing": differing,
        "talk": talk.get_total_counts(),
    }


def run(plan: initium.Plan, alone: nn.Module, rank: int, size: int, folder: Path) -> None:
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/{size}", rank=rank, world_size=size
        )
        found = {layout: fill_and_compare(plan, alone, layout, size) for layout in LAYOUTS}
        (folder / f"{size}-{rank}.json").write_text(json.dumps(found))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    alone = Decoder()
    plan = initium.plan(alone, "gpt2", torch.zeros(2, 5, dtype=torch.long), rules=RULES)
    plan.apply(alone)
    lines = [
        HEAD.format(
            parameters=f"{sum(parameter.numel() for parameter in alone.parameters()):,}",
            torch=torch.__version__,
            threads=os.cpu_count(),
            date=time.strftime("%Y-%m-%d"),
        ).rstrip("\n")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in SIZES:
            children = []
            for rank in range(size):
                child = os.fork()
                if child == 0:
                    run(plan, alone, rank, size, folder)
                children.append(child)
            for child in children:
                os.waitpid(child, 0)
            found = [
                json.loads((folder / f"{size}-{rank}.json").read_text()) for rank in range(size)
            ]
            for layout in LAYOUTS:
                each = [one[layout] for one in found]
                compared, differing, talk = (
                    sum(one[key] for one in each) for key in ("compared", "differing", "talk")
                )
                largest = max(one["compared"] for one in each)
                cells = (size, layout, each[0]["mesh"], f"{compared:,}", differing, talk)
                lines.append(f"| {' | '.join(map(str, cells))} | {largest:,} |")
                print(lines[-1])
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
