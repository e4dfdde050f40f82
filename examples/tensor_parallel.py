"""Tensor parallelism under FSDP2: a weight is cut twice and has the bits of the whole.

torchrun --nproc-per-node 4 examples/tensor_parallel.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import initium


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" for GPUs
    size = dist.get_world_size()
    data = 2 if size % 2 == 0 else 1
    mesh = init_device_mesh("cpu", (data, size // data), mesh_dim_names=("data", "tensor"))

    with torch.device("meta"):
        model = nn.Sequential(*(Block(32) for _ in range(4)), nn.Linear(32, 8))
    x = torch.randn(4, 32)
    plan = initium.plan(model, "auto", inputs=x, seed=0)

    for block in model[:-1]:
        parallelize_module(
            block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()}
        )
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    plan.apply(model)

    weight = model[0].up.weight
    mine, whole = weight.to_local(), weight.full_tensor()
    print(f"process {dist.get_rank()} fills {tuple(mine.shape)} of {weight.placements}")
    assert torch.equal(whole, plan.tensor("0.up.weight"))

    model(x).square().mean().backward()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
