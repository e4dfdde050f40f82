"""What every process of a small world does: ``python placement_worker.py FOLDER SIZE...``.

The processes are forked once everything is imported. Each runs all cases, in the same order, then
the examples, and writes to ``FOLDER/SIZE/RANK.json`` how long each took, or its traceback. Cases
compare with what one process fills alone, and with what torch cuts out of it.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import itertools
import json
import logging
import os
import runpy
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Partial, Placement, _StridedShard
from torch.nn.parallel import DistributedDataParallel
from worlds import World, everywhere, join

import initium
from initium import Plan, stream
from initium._fill import tensor as filling
from initium._model import names, sharding
from initium._plan import Entry
from initium.errors import InitiumError, ModelError, PlanError
from initium.spec import (
    Arange,
    Blocks,
    Complements,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    Joint,
    Logarithm,
    LogUniform,
    Mirrored,
    NearIdentity,
    Normal,
    Orthogonal,
    Part,
    Power,
    SinCos,
    Sparse,
    Spec,
    TruncatedNormal,
    Uniform,
    Value,
)

MATRIX, KERNEL = (7, 6), (6, 4, 3)
HALVES = Blocks((Part(0, 0, 4, Normal(1.0)), Part(0, 4, 5, Orthogonal(), stacked=True)))
SPECS: tuple[tuple[Spec, tuple[int, ...], str], ...] = (
    (Constant(0.5), MATRIX, "float32"),
    (Normal(0.5), MATRIX, "float32"),
    (Normal(0.5, 1.0), (5, 3, 4), "bfloat16"),
    (Normal(1.0), (11,), "float64"),
    (Normal(0.5), MATRIX, "complex64"),
    (Uniform(-1, 2), MATRIX, "float16"),
    (TruncatedNormal(0.02), MATRIX, "float32"),
    (Orthogonal(), MATRIX, "float32"),
    (Orthogonal(2.0, outputs=(1,), batch=(0,)), (5, 4, 6), "bfloat16"),
    (DeltaOrthogonal(), KERNEL, "float32"),
    (Dirac(), KERNEL, "float32"),
    (Identity(2.0), MATRIX, "bfloat16"),
    (Hadamard(), MATRIX, "float32"),
    (Sparse(0.5, 1.0), MATRIX, "float32"),
    (Mirrored(Orthogonal(2.0)), (6, 4), "float32"),
    (Joint(Complements(0.5), 1, "a"), (6, 5), "float32"),
    (Joint(NearIdentity(0.5, -0.4, heads=2), 0, "b"), (6, 6), "float32"),
    (SinCos((2, 3), prefix=1), (7, 8), "float32"),
    (Power(Arange(0, 0.1, axis=0), 0.5, 2.0), MATRIX, "float32"),
    (Logarithm(Arange(1, 1, axis=1)), MATRIX, "float32"),
    (InverseSoftplus(LogUniform(0.001, 0.1)), (7,), "float32"),
    (HALVES, (9, 6), "float32"),
    (Value.of(np.arange(10).reshape(5, 2)), (5, 2), "int64"),
    (Normal(1.0), (0, 4), "float32"),
    (Normal(1.0), (), "float32"),
)
EXAMPLES = Path(__file__).parent.parent / "examples"
CASES: list[Callable[[World], None]] = []


def case(run: Callable[[World], None]) -> Callable[[World], None]:
    """Every process runs it."""
    CASES.append(run)
    return run


# Single tensors ---------------------------------------------------------------------------------


class Tensors(nn.Module):
    """Parameters with given placements."""

    def __init__(self, mesh: DeviceMesh, laid: Mapping[str, tuple[Entry, Sequence[Placement]]]):
        super().__init__()
        for name, (entry, placements) in laid.items():
            empty = torch.zeros(entry.shape, dtype=getattr(torch, entry.dtype))
            made = distribute_tensor(empty, mesh, placements, src_data_rank=None)
            self.register_parameter(name, nn.Parameter(made, requires_grad=False))


def lay(mesh: DeviceMesh, placements_of: Callable[[int], Iterable[Sequence[Placement]]]) -> None:
    """Every spec in every placement has the bits that torch cuts out of the whole."""
    laid = {}
    for spec, shape, dtype in SPECS:
        for placements in placements_of(len(shape)):
            laid[f"p{len(laid)}"] = Entry(spec, shape, dtype, "linear", "Test."), placements
    plan = Plan({name: entry for name, (entry, _) in laid.items()}, seed=3)
    model = Tensors(mesh, laid)
    plan.apply(model)
    for name, (entry, placements) in laid.items():
        expected = distribute_tensor(plan.tensor(name), mesh, placements, src_data_rank=None)
        found = model.get_parameter(name)
        assert torch.equal(found.to_local(), expected.to_local()), (entry, placements)


@case
def every_placement_on_a_line(world: World) -> None:
    lay(world.line, lambda axes: [[Replicate()], *([Shard(axis)] for axis in range(axes))])


@case
def every_placement_on_a_grid(world: World) -> None:
    if world.size != 4:  # it has nothing that a line does not have
        return

    def pairs(axes: int) -> Iterable[Sequence[Placement]]:
        yield from itertools.combinations([Replicate(), *map(Shard, range(axes))], 2)
        for axis in range(axes):
            yield [_StridedShard(axis, split_factor=world.grid.size(1)), Shard(axis)]
            yield [Shard(axis), Shard(axis)]
            yield [Shard(axis), _StridedShard(axis, split_factor=2)]

    lay(world.grid, pairs)


@case
def a_process_draws_only_what_it_holds(world: World) -> None:
    shape, drawn = (64 * world.size, 32), []
    plan = Plan({"w": Entry(Normal(1.0), shape, "float32", "linear", "Test.")})
    model = Tensors(world.line, {"w": (plan.entries["w"], [Shard(0)])})
    with mock.patch.object(filling.stream, "fill_into", side_effect=stream.fill_into) as fill:
        plan.apply(model)
    drawn = [call.kwargs["out"].size for call in fill.call_args_list]
    assert drawn == [64 * 32], drawn


# Models -----------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width + 1)
        self.down = nn.Linear(3 * width + 1, width)
        self.register_buffer("scale", torch.arange(width, dtype=torch.float32) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x)))) * self.scale


class Net(nn.Module):
    """Residual blocks between an embedding and a head, with sizes that nothing divides."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.layers = nn.ModuleDict({str(number): Block(6) for number in range(3)})
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(6, 13, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers.values():
            x = layer(x)
        return self.head(self.norm(x))


IDS = torch.arange(20).reshape(4, 5) % 13
ROWWISE = RowwiseParallel(input_layouts=Replicate())
TENSOR_PARALLEL = {
    "embed": ROWWISE,
    "layers.0.norm": SequenceParallel(),
    **{f"layers.{number}.up": ColwiseParallel() for number in range(3)},
    **{f"layers.{number}.down": RowwiseParallel() for number in range(3)},
    "head": ColwiseParallel(output_layouts=Replicate()),
}
RULES = {"layers.1.up.weight": "orthogonal(1.5)", "layers.2.down.weight": "sparse(0.5, 0.1)"}


def net(tied: bool = False, device: str = "cpu") -> Net:
    with torch.device(device):
        return Net(tied)


def planned(model: nn.Module) -> Plan:
    return initium.plan(model, "gpt2", IDS, seed=11, rules=RULES)


def fsdp(model: nn.Module, mesh: DeviceMesh, **options: object) -> nn.Module:
    for layer in model.layers.values():
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(model, mesh, TENSOR_PARALLEL, src_data_rank=None)


def both(model: nn.Module, grid: DeviceMesh) -> nn.Module:
    return fsdp(parallel(model, grid["tp"]), grid["dp"])


@functools.lru_cache
def plan_of(tied: bool = False) -> Plan:
    """The plan of the bare model."""
    return planned(net(tied))


@functools.lru_cache
def filled(tied: bool = False) -> Net:
    """The bare model, filled by one process."""
    alone = net(tied)
    plan_of(tied).apply(alone)
    return alone


def compare(model: nn.Module, tied: bool = False) -> Net:
    """The model holds what one process fills alone; a copy of that."""
    alone = filled(tied)
    expected = dict(alone.named_parameters()) | dict(alone.named_buffers())
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    assert len(found) == len(expected)
    for name, tensor in found.items():
        name = names.canonical(name, model)
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        assert torch.equal(whole, expected[name]), name
    return copy.deepcopy(alone)


def fill(model: nn.Module, tied: bool = False, **options: object) -> None:
    """Fill by the plan of the bare model, without a word to the others."""
    sharding.reshard(model)
    before = {name: tensor for name, tensor in model.named_parameters() if not tensor.is_meta}
    with CommDebugMode() as talk:
        plan_of(tied).apply(model, **options)
    assert talk.get_total_counts() == 0, talk.get_comm_counts()
    assert all(before.get(name, now) is now for name, now in model.named_parameters())


def train(model: nn.Module, alone: nn.Module) -> None:
    """It computes what the model alone does, and learns."""
    output, expected = model(IDS), alone(IDS)
    torch.testing.assert_close(output, expected)
    output.square().mean().backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()
    assert not torch.equal(model(IDS), output)


@case
def fsdp2(world: World) -> None:
    model = fsdp(net(), world.line)
    fill(model)
    train(model, compare(model))
    assert not isinstance(model.head.weight, DTensor)  # gathered, and still there
    plan_of().apply(model)
    model.reshard()
    compare(model)


@case
def fsdp2_on_meta(world: World) -> None:
    model = fsdp(net(device="meta"), world.line)
    fill(model)
    train(model, compare(model))


@case
def fsdp2_emptied(world: World) -> None:
    model = fsdp(net(device="meta"), world.line).to_empty(device="cpu")
    fill(model)
    train(model, compare(model))


@case
def fsdp2_of_tied_parameters(world: World) -> None:
    for device in ("cpu", "meta"):
        model = fsdp(net(tied=True, device=device), world.line)
        fill(model, tied=True)
        assert model.head.weight is model.embed.weight
        train(model, compare(model, tied=True))


@case
def fsdp2_of_another_axis(world: World) -> None:
    def place(parameter: nn.Parameter) -> Shard | None:
        fits = parameter.dim() == 2 and parameter.shape[1] % world.size == 0
        return Shard(1) if fits else None

    model = fsdp(net(), world.line, shard_placement_fn=place)
    fill(model)
    train(model, compare(model))


@case
def fsdp2_with_replicas(world: World) -> None:
    model = fsdp(net(), world.grid)
    fill(model)
    compare(model)


@case
def fsdp2_with_offload(world: World) -> None:
    model = fsdp(net(device="meta"), world.line, offload_policy=CPUOffloadPolicy(pin_memory=False))
    fill(model, device="cpu")
    train(model, compare(model))


@case
def tensor_parallel(world: World) -> None:
    for device in ("cpu", "meta"):
        model = parallel(net(device=device), world.line)
        fill(model)
        compare(model)


@case
def tensor_parallel_and_fsdp2(world: World) -> None:
    for device in ("cpu", "meta"):
        model = both(net(device=device), world.grid)
        fill(model)
        compare(model)


@case
def data_parallel_and_wrapped(world: World) -> None:
    model = net()
    model.layers["1"] = checkpoint_wrapper(model.layers["1"])
    wrapped = DistributedDataParallel(model)
    if world.size == 1:  # it takes seconds to import
        wrapped = torch.compile(wrapped)
    fill(wrapped)
    compare(model)


@case
def planned_as_it_is_sharded(world: World) -> None:
    if world.size != 4:  # what others hold does not matter
        return
    expected = plan_of()
    for model in (
        fsdp(net(), world.line),
        both(net(), world.grid),
        DistributedDataParallel(net()),
    ):
        before = [parameter.to_local().clone() for parameter in model.parameters()
                  if isinstance(parameter, DTensor)]  # fmt: skip
        with CommDebugMode() as talk:
            made = planned(model)
        assert talk.get_total_counts() == 0, talk.get_comm_counts()
        assert not expected.diff(made), str(expected.diff(made))
        after = [p.to_local() for p in model.parameters() if isinstance(p, DTensor)]
        assert all(map(torch.equal, before, after))


# Stages, files, refusals ------------------------------------------------------------------------


@case
def pipeline_stages(world: World) -> None:
    plan, alone = plan_of(tied=True), filled(tied=True)
    same = net()
    del same.embed, same.layers["0"], same.layers["1"], same.norm
    plan.apply(fsdp(same, world.line), names={})
    torch.testing.assert_close(same.head.weight.full_tensor(), alone.head.weight, rtol=0, atol=0)
    renamed = fully_shard(nn.Sequential(Block(6), Block(6)), mesh=world.line)
    plan.apply(renamed, names={"0": "layers.1", "1": "layers.2"})
    for number in ("0", "1"):
        expected = alone.layers[str(int(number) + 1)].state_dict()
        for name, tensor in renamed.get_submodule(number).state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            assert torch.equal(whole, expected[name]), name


@case
def saved_and_loaded(world: World) -> None:
    """What FSDP2 saves, tensor parallelism loads, and so does one process alone."""
    model = fsdp(net(device="meta"), world.line)
    fill(model)
    dcp.save(get_model_state_dict(model), checkpoint_id=world.folder / "saved")
    other = both(net(), world.grid)
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=world.folder / "saved")
    other.load_state_dict(state)
    compare(other)


@case
def refusals(world: World) -> None:
    line, entry = world.line, Entry(Normal(1.0), (6, 4), "float32", "linear", "Test.")
    plan = Plan({"w": entry})
    partial = nn.Module()
    summed = DTensor.from_local(torch.zeros(6, 4), line, [Partial()], run_check=False)
    partial.w = nn.Parameter(summed, requires_grad=False)
    refused(partial, plan, PlanError, r"^w: is a partial sum, .*Partial.* Fix: redistribute")
    wrong = nn.Module()
    odd = DTensor.from_local(torch.zeros(5, 4), line, [Shard(0)], run_check=False,
                             shape=torch.Size((6, 4)), stride=(4, 1))  # fmt: skip
    wrong.w = nn.Parameter(odd, requires_grad=False)
    refused(wrong, plan, PlanError, r"^w: this process holds a part of shape \(5, 4\), and its pl")
    short = Tensors(line, {"w": (dataclasses.replace(entry, shape=(5, 4)), [Shard(0)])})
    refused(short, plan, PlanError, r"^w: has shape \(5, 4\) in the model and \(6, 4\) in the plan")
    untied, tied = fsdp(net(), line), plan_of(tied=True)
    refused(untied, tied, PlanError, r"^embed\.weight: is tied to nothing in the model and to head")


@case
def fsdp1(world: World) -> None:
    plan = plan_of()
    for keep in (False, True):
        model = FullyShardedDataParallel(net(), device_id=torch.device("cpu"), use_orig_params=keep)
        if not keep or world.size > 1:  # with one process, the original parameters are whole
            refused(model, plan, ModelError, "FSDP1 has flattened")
            with pytest.raises(ModelError, match=r"fully_shard \(FSDP2\)"):
                initium.plan(model)
        with FullyShardedDataParallel.summon_full_params(model):
            plan.apply(model)
        with FullyShardedDataParallel.summon_full_params(model):
            compare(model)


def refused(model: nn.Module, plan: Plan, kind: type[InitiumError], message: str) -> None:
    """It is refused in one line, and nothing is written."""
    before = [sharding.local(tensor).clone() for tensor in model.parameters()]
    with pytest.raises(kind, match=message) as caught:
        plan.apply(model)
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, map(sharding.local, model.parameters())))


# Processes --------------------------------------------------------------------------------------


def run(rank: int, size: int, folder: Path) -> NoReturn:
    """Run every case; stop at the first that fails, as the others may be waiting."""
    world = join(rank, size, folder / "meet", rows=2 if size == 4 else 1)
    results: dict[str, object] = {}
    for one in CASES:
        began = time.monotonic()
        try:
            torch.manual_seed(rank)
            one(world)
        except BaseException:  # pytest.fail is no Exception
            results[one.__name__] = traceback.format_exc()
            break
        finally:
            results.setdefault(one.__name__, time.monotonic() - began)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    if not any(isinstance(result, str) for result in results.values()):
        dist.barrier()
    os._exit(0)


def run_example(path: Path, rank: int, size: int, folder: Path) -> NoReturn:
    """Run a script as a process of torchrun."""
    began = time.monotonic()
    start = functools.partial(
        dist.init_process_group,
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=40),
    )
    result: object
    try:
        with mock.patch.object(dist, "init_process_group", start):
            runpy.run_path(str(path), run_name="__main__")
        result = time.monotonic() - began
    except BaseException:
        result = traceback.format_exc()
    (folder / f"{rank}.json").write_text(json.dumps({path.name: result}))
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    filled(False), filled(True)
    for size in map(int, sys.argv[2:]):
        folder = Path(sys.argv[1]) / str(size)
        folder.mkdir()
        everywhere(size, functools.partial(run, size=size, folder=folder))
    for path in sorted(EXAMPLES.glob("*.py")):
        folder = Path(sys.argv[1]) / path.stem
        folder.mkdir()
        size = 4 if path.stem == "tensor_parallel" else 2
        everywhere(size, functools.partial(run_example, path, size=size, folder=folder))


if __name__ == "__main__":
    main()
