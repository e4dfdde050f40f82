"""Pipeline parallelism: every stage is filled on its own, by the plan of the whole model.

torchrun --nproc-per-node 2 examples/pipeline.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

import initium

LAYERS = 8


def block() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True)


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" for GPUs
    rank, size = dist.get_rank(), dist.get_world_size()

    with torch.device("meta"):
        whole = nn.Sequential(*(block() for _ in range(LAYERS)))
        mine = range(rank * LAYERS // size, (rank + 1) * LAYERS // size)
        stage = nn.Sequential(*(block() for _ in mine))

    x = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
    plan = initium.plan(whole, "gpt2", inputs=x, seed=0)  # knows the depth of all layers
    # The first layer of this stage is called 0, and in the plan by its number in the whole.
    plan.apply(stage, names={str(place): str(number) for place, number in enumerate(mine)})

    name = f"{mine[0]}.linear1.weight"
    print(f"process {rank} fills layers {mine[0]} to {mine[-1]}")
    assert torch.equal(stage[0].linear1.weight, plan.tensor(name))

    device = torch.device("cpu")
    schedule = ScheduleGPipe(PipelineStage(stage, rank, size, device), n_microbatches=2)
    output = schedule.step(x) if rank == 0 else schedule.step()

    if rank == size - 1:
        alone = nn.Sequential(*(block() for _ in range(LAYERS)))
        plan.apply(alone)
        torch.testing.assert_close(output, alone(x))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
