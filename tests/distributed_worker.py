"""What every process of a small world does: ``python distributed_worker.py FOLDER SIZE...``.

The processes are forked once everything is imported. Each runs all cases in the same order, and
writes to ``FOLDER/SIZE-RANK.json`` what it found in each, or its traceback; it stops at the first
that fails, as the others may be waiting.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from worlds import World, everywhere, join

import initium
from initium._check import ranks
from initium._model.sharding import gathered, local
from initium._report.records import Report
from initium.errors import InitiumError

WIDTH, VOCABULARY = 18, 50
CASES: list[Callable[[World], object]] = []


def case(run: Callable[[World], object]) -> Callable[[World], object]:
    """Every process runs it."""
    CASES.append(run)
    return run


class Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, hidden)
        self.down = nn.Linear(hidden, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return out


class Net(nn.Module):
    def __init__(self, hidden: int = 4 * WIDTH) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Block(hidden), Block(hidden)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("scale", torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) * self.scale
        for layer in self.layers:
            x = layer(x)
        out: torch.Tensor = self.head(self.norm(x))
        return out


def batch() -> torch.Tensor:
    return torch.randint(VOCABULARY, (8, 12), generator=torch.Generator().manual_seed(1))


def net(hidden: int = 4 * WIDTH, device: str = "cpu") -> Net:
    with torch.device(device):
        return Net(hidden)


def fsdp(model: Net, mesh: DeviceMesh, **options: object) -> Net:
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def parallel(model: Net, mesh: DeviceMesh) -> Net:
    for layer in model.layers:
        parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def both(model: Net, mesh: DeviceMesh) -> Net:
    return fsdp(parallel(model, mesh["tp"]), mesh["dp"])


@functools.cache
def plan(hidden: int = 4 * WIDTH) -> initium.Plan:
    return initium.plan(net(hidden), "auto", inputs=batch())


@functools.cache
def alone(hidden: int = 4 * WIDTH) -> tuple[Net, Report]:
    """The whole model, and its report."""
    model = net(hidden)
    plan(hidden).apply(model)
    return model, check(model, plan=plan(hidden))


def check(model: nn.Module, **options: object) -> Report:
    return initium.check(model, batch(), batch().roll(-1, 1), **options)


def told(report: Report) -> list[dict[str, object]]:
    """The findings as plain data."""
    return [asdict(finding) for finding in report.findings]


def shard(parameter: torch.Tensor) -> torch.Tensor:
    return local(parameter.detach())


# Healthy ----------------------------------------------------------------------------------------


def same(model: nn.Module, hidden: int = 4 * WIDTH, **options: object) -> object:
    """The report is that of the whole model, and the sharded one is as it was."""
    made, (_, expected) = plan(hidden), alone(hidden)
    made.apply(model, **options)
    before = {name: (id(p), shard(p).clone()) for name, p in model.named_parameters()}
    kinds = [type(module) for module in model.modules()]
    found = check(model, plan=made)
    assert found.model == "Net"
    assert found.notes[-1].startswith("the model is sharded: it was gathered, and measured whole")
    assert found.layers == expected.layers
    assert found.parameters == expected.parameters
    assert found.loss == expected.loss
    assert [f for f in told(found) if f["code"] != "IN710"] == told(expected)
    assert found.ok
    after = {name: (id(p), shard(p)) for name, p in model.named_parameters()}
    assert before.keys() == after.keys()
    assert all(before[n][0] == after[n][0] for n in after)
    assert all(torch.equal(before[n][1], after[n][1]) for n in after)
    assert kinds == [type(module) for module in model.modules()]
    model(batch()).sum().backward()  # the hooks are back: it trains
    assert all(parameter.grad is not None for parameter in model.parameters())
    return told(found)


@case
def healthy_fsdp2(world: World) -> object:
    return same(fsdp(net(), world.line))


@case
def healthy_uneven(world: World) -> object:
    return same(fsdp(net(hidden=5), world.line), hidden=5)


@case
def healthy_offloaded(world: World) -> object:
    policy = CPUOffloadPolicy(pin_memory=False)
    return same(fsdp(net(device="meta"), world.line, offload_policy=policy), device="cpu")


@case
def healthy_tensor_parallel(world: World) -> object:
    return same(parallel(net(), world.line))


@case
def healthy_replicas_and_shards(world: World) -> object:
    return same(fsdp(net(), world.grid))


@case
def healthy_both(world: World) -> object:
    return same(both(net(), world.grid))


@case
def healthy_between_passes(world: World) -> object:
    """After a pass forward, FSDP2 leaves the whole parameters of its root where they are."""
    model = fsdp(net(), world.line)
    plan().apply(model)
    model(batch())
    assert not isinstance(model.head.weight, DTensor)
    return told(check(model, plan=plan()))


@case
def gathered_whole(world: World) -> object:
    """Uneven cuts of one axis by two meshes, too."""
    hidden = 7 if world.size == 2 else 10
    model = both(net(hidden), world.grid)
    plan(hidden).apply(model)
    model(batch())
    with gathered(model):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, alone(hidden)[0].get_parameter(name)), name
    return []


@case
def healthy_data_parallel(world: World) -> object:
    model = DistributedDataParallel(net())
    quiet = check(model)
    assert quiet.notes == (
        "the replicas of other processes were not compared: call this on every process, with "
        "group=torch.distributed.group.WORLD",
    )
    assert check(model, group=dist.group.WORLD).notes == ()
    return told(check(model, group=dist.group.WORLD))


class Upwards(nn.Module):
    """A transposed convolution as torch starts it, and a pixel shuffle whose kernels repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 16, 4, stride=2, padding=1)
        self.shuffled = nn.Conv2d(16, 16, 3, padding=1)
        kernels = nn.init.kaiming_normal_(torch.empty(4, 16, 3, 3))
        self.shuffled.weight.data.copy_(kernels.repeat_interleave(4, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.up(torch.relu(self.first(x))))
        return torch.pixel_shuffle(self.shuffled(x), 2)


@case
def healthy_upwards(world: World) -> object:
    images = torch.randn(4, 3, 8, 8), torch.randn(4, 4, 32, 32)
    found = initium.check(fully_shard(Upwards(), mesh=world.line), *images, nn.functional.mse_loss)
    return [one for one in told(found) if one["code"][:3] in ("IN9", "IN1")]


@case
def healthy_rows_that_repeat(world: World) -> object:
    """Rows that were added to a vocabulary and have the mean of all; padded rows that are zero."""
    model = net()
    plan().apply(model)
    with torch.no_grad():
        model.embed.weight[20:] = model.embed.weight[:20].mean(0)
        model.head.weight[20:] = 0.0
    return [one for one in told(check(fsdp(model, world.line))) if one["code"] == "IN902"]


@case
def healthy_padded(world: World) -> object:
    model = net()
    plan().apply(model)
    with torch.no_grad():
        model.embed.weight[20:] = 0.0
    return [one for one in told(check(fsdp(model, world.line))) if one["code"] == "IN904"]


@case
def healthy_statistics(world: World) -> object:
    """Statistics of batches and buffers that are not saved are each process's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    model.register_buffer("cache", torch.rand(4) * world.rank, persistent=False)
    torch.manual_seed(world.rank)
    model(torch.randn(16, 16))
    found = initium.check(model, torch.randn(16, 16), torch.arange(16) % 4, group=dist.group.WORLD)
    return told(found)


@case
def hooks_of_others(world: World) -> object:
    """A user's hook is part of the model, whatever its module is called."""
    model = net()
    plan().apply(model)

    def louder(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
        return out * 1000.0

    louder.__module__ = "train_fsdp"
    model.norm.register_forward_hook(louder)
    expected = check(model).loss
    found = check(fsdp(model, world.line)).loss
    assert found == expected
    return str(found)


@case
def one_process_alone(world: World) -> object:
    """Without group= nothing is sent, so that one process may ask."""
    return told(check(net())) if world.rank == 0 else []


# Broken -----------------------------------------------------------------------------------------


@case
def replicas_drawn_apart(world: World) -> object:
    """Tensor parallelism with a seed for every process: what is not sharded differs."""
    torch.manual_seed(world.rank)
    model = net()
    torch.manual_seed(7)
    for layer in model.layers:
        nn.init.ones_(layer.norm.weight)
    return told(check(parallel(model, world.line)))


@case
def one_replica_of_a_shard(world: World) -> object:
    """HSDP: one process writes to its shard."""
    model = fsdp(net(), world.grid)
    plan().apply(model)
    if world.rank == world.size - 1:
        shard(model.head.weight)[0, 0] += 1e-6
    return told(check(model))


@case
def buffers_that_differ(world: World) -> object:
    model = net()
    plan().apply(model)
    model.scale += 1e-3 * world.rank
    return told(check(model, group=dist.group.WORLD))


@case
def data_parallel_seeded_apart(world: World) -> object:
    model = DistributedDataParallel(net())
    torch.manual_seed(world.rank)
    nn.init.normal_(model.module.head.weight, std=0.02)
    return told(check(model, group=dist.group.WORLD))


@case
def shards_seeded_alike(world: World) -> object:
    """Every process draws its shard from the same numbers."""
    model = fsdp(net(), world.line)
    plan().apply(model)
    torch.manual_seed(0)
    nn.init.normal_(model.layers[0].up.weight, std=WIDTH**-0.5)  # on a CPU, DTensor sees to nothing
    return told(check(model))


@case
def shards_seeded_alike_by_tensor_parallelism(world: World) -> object:
    """With fans of uneven shards the numbers agree up to a factor."""
    model = parallel(net(hidden=73), world.line)
    plan(73).apply(model)
    torch.manual_seed(0)
    nn.init.xavier_normal_(shard(model.layers[1].down.weight))
    return told(check(model))


@case
def fans_of_a_shard(world: World) -> object:
    model = parallel(net(hidden=32 * WIDTH), world.line)
    plan(32 * WIDTH).apply(model)
    torch.manual_seed(world.rank)
    for layer in model.layers:
        nn.init.xavier_uniform_(shard(layer.up.weight))
    return told(check(model))


@case
def drawn_by_the_first_alone(world: World) -> object:
    model = fsdp(net(), world.line)
    plan().apply(model)
    if world.rank:
        shard(model.embed.weight).zero_()
    return told(check(model))


# Refused ----------------------------------------------------------------------------------------


def refused(model: nn.Module, **options: object) -> object:
    try:
        check(model, **options)
    except InitiumError as error:
        return str(error)
    return "nothing was refused"


@case
def on_meta_somewhere(world: World) -> object:
    return refused(fsdp(net(device="cpu" if world.rank else "meta"), world.line))


@case
def elements_missing(world: World) -> object:
    model = net()
    part = DTensor.from_local(
        torch.zeros(3, WIDTH),
        world.line,
        [Shard(0)],
        run_check=False,
        shape=torch.Size((VOCABULARY, WIDTH)),
        stride=(WIDTH, 1),
    )
    model.head.weight = nn.Parameter(part)
    return refused(model)


@case
def other_models(world: World) -> object:
    return refused(net(hidden=8 + world.rank), group=dist.group.WORLD)


@case
def partial_sums(world: World) -> object:
    model = net()
    held = DTensor.from_local(torch.ones(WIDTH), world.line, [Partial()], run_check=False)
    model.norm.weight = nn.Parameter(held)
    return refused(model)


@case
def overlapping_meshes(world: World) -> object:
    """Process 1 belongs to both; the last one to none, and is not asked."""
    model = net()
    for name, members in (("head", [0, 1]), ("embed", [1, 2])):
        mesh = DeviceMesh("cpu", members)
        held = DTensor.from_local(
            torch.randn(VOCABULARY // 2, WIDTH),
            mesh,
            [Shard(0)],
            run_check=False,
            shape=torch.Size((VOCABULARY, WIDTH)),
            stride=(WIDTH, 1),
        )
        model.get_submodule(name).weight = nn.Parameter(held)
    return refused(model)


@case
def on_meta_alone(world: World) -> object:
    """A mesh of one process sends nothing."""
    mesh = init_device_mesh("cpu", (world.size, 1), mesh_dim_names=("dp", "one"))["one"]
    return refused(fsdp(net(device="meta"), mesh))


@case
def read_by_some_alone(world: World) -> object:
    """What fails on one process is told to all."""
    read = ranks._row

    def failing(tensor: torch.Tensor) -> tuple[object, ...]:
        raise RuntimeError("no memory")

    ranks._row = failing if world.rank == 1 else read
    try:
        return refused(net(), group=dist.group.WORLD)[:60]
    finally:
        ranks._row = read


@case
def synchronised_norms(world: World) -> object:
    return refused(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4))))


@case
def repaired(world: World) -> object:
    """Batches may differ between processes, and so may trials."""
    try:
        initium.repair(fsdp(net(), world.line), batch())
    except InitiumError as error:
        return str(error)
    return "nothing was refused"


@case
def fsdp1(world: World) -> object:
    return refused(FullyShardedDataParallel(net(), device_id=torch.device("cpu")))


@case
def put_back_after_an_error(world: World) -> object:
    model = fsdp(net(), world.line)

    def loss_fn(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ValueError("no loss")

    message = refused(model, loss_fn=loss_fn)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert type(model).__name__ == "FSDPNet"
    return message


# Audit ------------------------------------------------------------------------------------------


@case
def audited(world: World) -> object:
    """Every process audits what it holds; an init that knows nothing of one weight is found."""
    model = fsdp(net(hidden=3), world.line)
    before = [shard(parameter).clone() for parameter in model.parameters()]

    def init(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name != "head.weight":
                nn.init.normal_(parameter)

    found = initium.audit(init, model).findings
    assert all(map(torch.equal, before, map(shard, model.parameters())))
    return [asdict(finding) for finding in found]


# Processes --------------------------------------------------------------------------------------


IN_PAIRS = (
    healthy_fsdp2,
    healthy_tensor_parallel,
    gathered_whole,
    healthy_data_parallel,
    replicas_drawn_apart,
    shards_seeded_alike,
    on_meta_somewhere,
)
"""What a world of two processes does, too."""


def run(rank: int, size: int, folder: Path) -> NoReturn:
    cases = CASES if size == 4 else IN_PAIRS
    world = join(rank, size, folder / f"meet-{size}", rows=2)
    results: dict[str, object] = {}
    for one in cases:
        try:
            torch.manual_seed(5)
            results[one.__name__] = one(world)
        except BaseException:
            results[one.__name__] = {"failed": traceback.format_exc()}
            break
    (folder / f"{size}-{rank}.json").write_text(json.dumps(results))
    if "failed" not in results[one.__name__]:
        dist.barrier()
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    alone(), alone(5), plan(10), plan(73), plan(32 * WIDTH)
    folder = Path(sys.argv[1])
    for size in map(int, sys.argv[2:]):
        everywhere(size, functools.partial(run, size=size, folder=folder))


if __name__ == "__main__":
    main()
