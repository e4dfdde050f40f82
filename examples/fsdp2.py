"""FSDP2: the same weights on any number of processes, straight from the meta device.

torchrun --nproc-per-node 2 examples/fsdp2.py
"""

import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard

import initium


def build() -> nn.Sequential:
    layers = [nn.TransformerEncoderLayer(48, 4, 192, dropout=0.0) for _ in range(4)]
    return nn.Sequential(nn.Embedding(101, 48), *layers, nn.Linear(48, 101, bias=False))


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" for GPUs
    with torch.device("meta"):
        model = build()
    tokens = torch.randint(101, (2, 16))
    plan = initium.plan(model, "gpt2", inputs=tokens, seed=0)  # the same on every process

    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    plan.apply(model)  # every process makes and fills its own shards: device="cuda" for GPUs

    weight = model[-1].weight
    mine, whole = weight.to_local(), weight.full_tensor()
    print(f"process {dist.get_rank()} fills {tuple(mine.shape)} of {tuple(weight.shape)}")
    assert torch.equal(whole, plan.tensor(f"{len(model) - 1}.weight"))

    model(tokens).square().mean().backward()

    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    dcp.save(get_model_state_dict(model), checkpoint_id=folder[0])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
