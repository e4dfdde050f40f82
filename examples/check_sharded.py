"""Is a sharded model fit to train? And what a check finds when every process uses one seed.

torchrun --nproc-per-node 2 examples/check_sharded.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import initium


def build() -> nn.Sequential:
    layers = [nn.TransformerEncoderLayer(48, 4, 192, dropout=0.0) for _ in range(2)]
    return nn.Sequential(nn.Embedding(101, 48), *layers, nn.Linear(48, 101, bias=False))


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" for GPUs
    with torch.device("meta"):
        model = build()
    tokens = torch.randint(101, (8, 16), generator=torch.Generator().manual_seed(0))
    plan = initium.plan(model, "auto", inputs=tokens, seed=0)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    plan.apply(model)

    report = initium.check(model, tokens, tokens.roll(-1, 1), plan=plan)  # on every process
    assert report.ok, report

    torch.manual_seed(0)  # on every process: each draws the same numbers into its shard
    nn.init.normal_(model[-1].weight.to_local(), std=0.02)
    report = initium.check(model, tokens, tokens.roll(-1, 1))
    found = next(finding for finding in report.findings if finding.code == "IN902")
    if dist.get_rank() == 0:
        print(found.message)
    assert found.where == ("3.weight",)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
