"""Sharded models: which part a process holds, the same bits in every world, and what is refused.

The worlds are real processes on gloo (``placement_worker.py``); the arithmetic is compared with
torch's own, process by process, in worlds that are only pretended.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, debug, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from views import of_module

import initium
from initium._fill.placement import Cut, boxes, check_placement, held
from initium._model.sharding import bare_class, local
from initium._plan import Entry, Plan, plan_model
from initium.errors import ModelError, PlanError
from initium.spec import Normal

SIZES = (1, 2, 3, 4)


def test_the_same_bits_in_every_world(tmp_path):
    """Every case of the worker in worlds of one to four processes, and every example."""
    worker = Path(__file__).with_name("placement_worker.py")
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, str(worker), str(tmp_path), *map(str, SIZES)]
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = {
        f"{result.parent.name}/{result.stem}": json.loads(result.read_text())
        for result in sorted(tmp_path.glob("*/*.json"))
    }
    wrong = [
        f"process {place}, {case}: {result}"
        for place, cases in found.items()
        for case, result in cases.items()
        if isinstance(result, str)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(found) == sum(SIZES) + 4 * 2 + 4, sorted(found)
    assert min(len(found[f"{size}/0"]) for size in SIZES) >= 18


# The arithmetic ---------------------------------------------------------------------------------


@contextmanager
def pretended(mesh: Sequence[int], rank: int) -> Iterator[DeviceMesh]:
    """This process is one of a world that does not exist."""
    size = math.prod(mesh)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield init_device_mesh("cpu", tuple(mesh), mesh_dim_names=("a", "b", "c")[: len(mesh)])
    finally:
        dist.destroy_process_group()
        debug._clear_sharding_prop_cache()  # or an equal mesh goes on being that of this process
        debug._clear_fast_path_sharding_prop_cache()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, list[Placement]]:
    """A shape, a mesh, one of its processes, and placements: also empty parts and many cuts."""
    shape = tuple(draw(st.lists(st.integers(0, 13), min_size=1, max_size=3)))
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axes = st.integers(0, len(shape) - 1)
    strided = st.builds(
        lambda axis, n: _StridedShard(axis, split_factor=n), axes, st.integers(2, 5)
    )
    kinds = st.just(Replicate()) | axes.map(Shard) | strided
    return shape, mesh, draw(st.integers(0, math.prod(mesh) - 1)), [draw(kinds) for _ in mesh]


@settings(max_examples=150)
@given(layouts())
def test_a_process_holds_what_torch_gives_it(layout):
    shape, mesh, rank, placements = layout
    whole = torch.arange(math.prod(shape)).reshape(shape)
    with pretended(mesh, rank) as made:
        tensor = distribute_tensor(whole, made, placements, src_data_rank=None)
        try:
            check_placement("w", tensor)
        except PlanError as error:
            assert "is cut unevenly by two mesh dimensions" in str(error)  # noqa: PT017
            return
        filled = torch.full_like(local(tensor), -1)
        for box in boxes(tensor):
            filled[box.where] = whole[box.index]
        assert torch.equal(filled, local(tensor))


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=3))
def test_every_position_is_held_once(size, cuts):
    """All processes together hold the axis, each in few ranges of rising positions."""
    axis = []
    for place in itertools.product(*(range(count) for count, _ in cuts)):
        ranges = held(size, [Cut(at, *cut) for at, cut in zip(place, cuts, strict=True)])
        assert all(a.stop < b.start for a, b in itertools.pairwise(ranges)), ranges
        assert all(ranges)
        axis += [position for part in ranges for position in part]
    assert sorted(axis) == list(range(size))


def over_tensor_parallel(rows: int, rank: int) -> tuple[list[float], str]:
    """The rows that FSDP2 over tensor parallelism on a 4 x 2 mesh leaves a process, and the error
    that a plan raises."""
    with pretended((4, 2), rank) as mesh:
        model = nn.Sequential(nn.Linear(2, rows, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(torch.arange(rows)[:, None].expand(rows, 2))
        parallelize_module(model, mesh["b"], {"0": ColwiseParallel()}, src_data_rank=None)
        fully_shard(model, mesh=mesh["a"])
        before = model[0].weight.to_local().clone()
        plan = Plan({"0.weight": Entry(Normal(1.0), (rows, 2), "float32", "linear", "Test.")})
        error = ""
        try:
            plan.apply(model)
        except PlanError as caught:
            error = str(caught)
            assert torch.equal(model[0].weight.to_local(), before)
        else:
            expected = plan.tensor("0.weight")[before[:, 0].long()]
            assert torch.equal(model[0].weight.to_local(), expected)
        return before[:, 0].tolist(), error


@pytest.mark.parametrize("rows", [16, 14, 10, 9])
def test_fsdp2_over_tensor_parallel_is_filled_or_refused_by_all(rows):
    """Nine rows: torch gives the last row to another process than its placements say."""
    found = [over_tensor_parallel(rows, rank) for rank in range(8)]
    assert sorted(row for rows, _ in found for row in rows) == list(range(rows))
    errors = {error for _, error in found}
    if rows == 9:
        (error,) = errors
        assert re.match(
            r"0\.weight: its axis 0 of length 9 is cut unevenly by two mesh dimensions, and torch "
            r"holds other parts .* Fix: pad the axis to a multiple of both, or shard another",
            error,
        )
    else:
        assert errors == {""}


# Refusals, names, parts -------------------------------------------------------------------------


class Odd(Placement):
    """A placement of somebody else's."""

    def is_partial(self, reduce_op: str | None = None) -> bool:
        return False

    def is_replicate(self) -> bool:
        return False


class Stranger(nn.Parameter):
    """A parameter that says it has a placement nobody knows."""

    placements = (Odd(),)
    device_mesh = None


def test_a_placement_that_nobody_knows_is_refused():
    model = nn.Module()
    model.w = Stranger(torch.zeros(4))
    plan = Plan({"w": Entry(Normal(1.0), (4,), "float32", "linear", "Test.")})
    with pytest.raises(
        PlanError, match=r"w: has a placement that is not known .*; choose from Rep"
    ):
        plan.apply(model)
    assert not model.w.any()


def test_what_zero3_has_emptied_is_refused():
    model = nn.Sequential(nn.Linear(4, 3))
    plan = initium.plan(model, "he")
    weight = model[0].weight
    weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    for attempt in (lambda: plan.apply(model), lambda: initium.plan(model, "he")):
        with pytest.raises(
            ModelError,
            match=r"0\.weight: DeepSpeed ZeRO-3 holds .* \(3, 4\) .*zero\.GatheredParameters",
        ):
            attempt()
    weight.data = torch.zeros(3, 4)  # as inside GatheredParameters
    plan.apply(model)
    assert torch.equal(weight, plan.tensor("0.weight"))


def test_a_sharded_model_has_the_classes_of_the_bare_one():
    with pretended((2,), 1) as mesh:
        model = fully_shard(nn.Sequential(fully_shard(nn.Linear(4, 3), mesh=mesh)), mesh=mesh)
        assert isinstance(model[0], FSDPModule)
        assert (bare_class(model), bare_class(model[0])) == (nn.Sequential, nn.Linear)
        plan = initium.plan(model, "he")
    bare = initium.plan(nn.Sequential(nn.Linear(4, 3)), "he")
    assert (plan.model, plan.entries) == ("Sequential", bare.entries)


def test_a_process_outside_the_mesh_holds_nothing():
    with pretended((4,), 3):
        mesh = DeviceMesh("cpu", [0, 1])
        model = nn.Module()
        model.w = nn.Parameter(distribute_tensor(torch.zeros(4, 2), mesh, [Shard(0)]))
        assert isinstance(model.w, DTensor)
        Plan({"w": Entry(Normal(1.0), (4, 2), "float32", "linear", "Test.")}).apply(model)
        assert model.w.to_local().numel() == 0


class Largest(TorchDispatchMode):
    """The most elements of a real tensor that any operator has made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if type(tensor) is torch.Tensor and not tensor.is_meta:
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_process_makes_a_whole_tensor():
    with pretended((16, 4), 37) as mesh:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(256, 512, bias=False))
        plan = initium.plan(model, "normal(0.02)")
        parallelize_module(model, mesh["b"], {"0": ColwiseParallel()}, src_data_rank=None)
        fully_shard(model, mesh=mesh["a"])
        with Largest() as largest:
            plan.apply(model)
        weight = model[0].weight
        assert weight.to_local().shape == (8, 256)
        assert largest.elements == 8 * 256
        rows = plan.tensor("0.weight", slice(128 + 9 * 8, 128 + 10 * 8))  # 37 = 9 * 4 + 1
        assert torch.equal(weight.to_local(), rows)


def test_the_storage_of_a_filled_tensor_can_still_be_resized():
    layer = nn.Linear(3, 2)
    initium.initialize(layer, "he")
    assert layer.weight.untyped_storage().resizable()


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(11))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


WHOLE = plan_model(of_module(Whole()), "normal(1)", seed=1)


@pytest.mark.parametrize(
    ("part", "names", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 4)), {"0": "layers.5", "0.weight": "layers.7.weight"},
         {"0.weight": "layers.7.weight"}),
        (nn.Sequential(nn.Linear(4, 4)), {"0": "layers.1"}, {"0.weight": "layers.1.weight"}),
        (nn.ModuleDict({"1": nn.Linear(4, 4), "10": nn.Linear(4, 4)}),
         {"": "layers", "1": "layers.2"},
         {"1.weight": "layers.2.weight", "10.weight": "layers.10.weight"}),
        (nn.ModuleDict({"net": nn.ModuleDict({"head": nn.Linear(4, 5, bias=False)})}), {"net": ""},
         {"net.head.weight": "embed.weight"}),
        (nn.ModuleDict({"embed": nn.Embedding(5, 4)}), {}, {"embed.weight": "embed.weight"}),
    ],
)  # fmt: skip
def test_a_part_has_the_weights_of_the_whole(part, names, expected):
    WHOLE.apply(part, names=names)
    found = dict(part.named_parameters())
    for name, planned in expected.items():
        assert torch.equal(found[name], WHOLE.tensor(planned)), name
    groups = WHOLE.parameter_groups(part, lr=0.1, names=names)
    assert sum(len(group["params"]) for group in groups) == len(found)


@pytest.mark.parametrize(
    ("part", "names", "message"),
    [
        (nn.ModuleDict({"embed": nn.Embedding(5, 4)}), None,
         r"embed\.weight: is tied to nothing in the model .* pass names=\{\} if it is a part"),
        (nn.Sequential(nn.Linear(4, 4)), None, r"not in the model.* pass names=\{\} if it is a"),
        (nn.Sequential(nn.Linear(4, 4)), {}, r"0\.weight: is in the model and not in the plan"),
        (nn.Sequential(nn.Linear(4, 4)), {"1": "layers.1"}, "^1: is in names and not in the mod"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), {"0": "layers.1", "1": "layers.1"},
         r"layers\.1\.weight: 0\.weight and 1\.weight of the model are both this tensor"),
        (nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)}), {},
         r"embed\.weight: embed\.weight and head\.weight of the model are both .* Fix: tie them"),
        (nn.Sequential(nn.Linear(4, 5)), {"0": "layers.1"}, r"1\.weight: has shape \(5, 4\) in"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_fit_is_refused(part, names, message):
    before = [parameter.clone() for parameter in part.parameters()]
    with pytest.raises(PlanError, match=message) as caught:
        WHOLE.apply(part, names=names)
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, part.parameters()))
