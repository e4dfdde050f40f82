"""DDP: every process fills the whole model by itself, so that there is nothing to send.

torchrun --nproc-per-node 2 examples/ddp.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import initium


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" for GPUs
    torch.manual_seed(dist.get_rank())  # the seed of torch does not matter
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(16, 8)

    initium.initialize(model, "auto", inputs=x, seed=0)
    mine = model[0].weight.detach().clone()
    first = mine.clone()
    dist.broadcast(first, src=0)
    assert torch.equal(mine, first)

    # init_sync=False: DDP need not send the weights of process 0 to the others.
    wrapped = DistributedDataParallel(model, init_sync=False)
    initium.plan(wrapped, "auto", inputs=x, seed=0).apply(wrapped)  # a wrapper changes no name
    assert torch.equal(model[0].weight, mine)

    wrapped(x).square().mean().backward()
    print(f"process {dist.get_rank()} has the weights of process 0")
    del wrapped  # before the group: as its last owner, DDP may hang when it goes
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
