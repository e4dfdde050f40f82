"""Checks of sharded and replicated models, in worlds of two and four processes on gloo.

The worlds are those of ``distributed_worker.py``. Every process has to come to the same findings,
and they are held against the messages a user reads.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import initium
from initium._check.distributed import find_between_ranks
from initium._check.ranks import ROW, VARIED, Ranks, Shared, _row, listed_ranks, survey
from initium._inspect import inspect
from initium._report.codes import codes

Told = dict[str, object]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, dict[str, list[object]]]:
    """By size and case, what every process found."""
    folder = tmp_path_factory.mktemp("worlds")
    worker = Path(__file__).with_name("distributed_worker.py")
    path = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        [sys.executable, str(worker), str(folder), "2", "4"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[int, dict[str, list[object]]] = {}
    for size in (2, 4):
        every = [json.loads((folder / f"{size}-{rank}.json").read_text()) for rank in range(size)]
        failed = [
            one[case]["failed"] for one in every for case in one if isinstance(one[case], dict)
        ]
        assert not failed, "\n".join(failed)
        found[size] = {case: [one[case] for one in every] for case in every[0]}
    return found


def of(worlds: dict[int, dict[str, list[object]]], case: str, size: int = 4) -> list[Told]:
    """What all processes found alike."""
    first, *others = worlds[size][case]
    assert all(other == first for other in others), f"{case}: the processes do not agree"
    return first


@pytest.mark.parametrize("size", [2, 4])
def test_nothing_is_found_in_healthy_models(worlds, size):
    """And reports are those of the whole model, to the last digit (the worker compares them)."""
    for case in worlds[size]:
        if case.startswith(("healthy", "gathered")):
            found = of(worlds, case, size)
            assert all(one["severity"] == "info" for one in found), (case, found)


def test_empty_shards_are_told(worlds):
    (found,) = of(worlds, "healthy_uneven")
    assert (found["code"], found["severity"]) == ("IN710", "info")
    assert found["where"][0] == "layers.0.up.weight"
    assert found["message"].startswith("rank 3 holds no element of layers.0.up.weight (5, 18)")


def test_one_process_may_ask_alone(worlds):
    """A replica without ``group=`` sends nothing: the others did not make the call."""
    assert worlds[4]["one_process_alone"][1:] == [[], [], []]


BROKEN = {
    "replicas_drawn_apart": (
        "IN901",
        "error",
        ["embed.weight", "head.weight"],
        r"^embed\.weight \(50, 18\) differs on each of ranks 0-3, which hold copies: the processes "
        r"train different models.*; 2 parameters in all: embed\.weight, head\.weight$",
    ),
    "one_replica_of_a_shard": (
        "IN901",
        "error",
        ["head.weight"],
        r"^head\.weight \(50, 18\) differs between rank 1 and rank 3, which hold the same part of",
    ),
    "buffers_that_differ": (
        "IN901",
        "warning",
        ["scale"],
        r"^scale \(18,\) differs on each of ranks 0-3, which hold copies: what follows depends on",
    ),
    "data_parallel_seeded_apart": (
        "IN901",
        "error",
        ["head.weight"],
        r"^head\.weight .* ranks 0-3",
    ),
    "shards_seeded_alike": (
        "IN902",
        "error",
        ["layers.0.up.weight"],
        r"^ranks 0-3 hold the same numbers in their parts of layers\.0\.up\.weight \(72, 18\), of "
        r"which each should have its own: it is one shard of shape \(18, 18\) over and over$",
    ),
    "shards_seeded_alike_by_tensor_parallelism": (
        "IN902",
        "error",
        ["layers.1.down.weight"],
        r"^ranks 0-3 start with the same numbers, up to a factor, in their parts of layers\.1",
    ),
    "fans_of_a_shard": (
        "IN903",
        "warning",
        ["layers.0.up.weight", "layers.1.up.weight"],
        r"^layers\.0\.up\.weight has std 0\.11\d*, which is that of xavier, .* with fans "
        r"\(18, 144\); it has fans \(18, 576\), for which the same formula gives 0\.058.*; "
        r"\(144, 18\) is the shape of a shard$",
    ),
    "drawn_by_the_first_alone": (
        "IN904",
        "warning",
        ["embed.weight"],
        r"^the part of embed\.weight on ranks 1-3 holds one value throughout, while other parts",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_found(worlds, case):
    code, severity, where, message = BROKEN[case]
    (found,) = of(worlds, case)
    assert (found["code"], found["severity"], found["where"]) == (code, severity, where)
    assert re.search(message, found["message"]), found["message"]
    assert found["fix"]
    assert code in codes()


def test_two_processes_find_the_same(worlds):
    (replicas,) = of(worlds, "replicas_drawn_apart", 2)
    assert "differs between rank 0 and rank 1, which hold copies" in replicas["message"]
    (shards,) = of(worlds, "shards_seeded_alike", 2)
    assert shards["message"].startswith("ranks 0, 1 hold the same numbers")


REFUSED = {
    "on_meta_somewhere": r"^embed\.weight: is on the meta device and holds no values on rank 0\. "
    r"Fix: fill the model first, on every process",
    "elements_missing": r"^head\.weight: the processes hold 216 of its 900 elements together .*Fix:"
    r" make it with distribute_tensor",
    "other_models": r"^ranks 1-3 and rank 0 hold models with other parameters, shapes, dtypes or "
    r"shards\.",
    "partial_sums": r"^norm\.weight: is a partial sum, of which no process holds an element \(got "
    r"Partial\(sum\)\)\. Fix: redistribute",
    "on_meta_alone": r"^embed\.weight: is on the meta device and holds no values\. Fix: fill",
    "read_by_some_alone": r"^the values of the model cannot be read on rank 1",
    "synchronised_norms": r"^0: is a SyncBatchNorm in training mode, whose passes wait for",
    "repaired": r"^embed\.weight: is sharded, and every trial .*Fix: repair the model before it is "
    r"sharded, save Repair\.plan, and apply that",
    "fsdp1": r"FSDP1 has flattened its parameters.*Fix: use fully_shard \(FSDP2\)",
    "put_back_after_an_error": r"^loss_fn: raised ValueError: no loss\.",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_checked_is_refused_on_every_process(worlds, case):
    """In one line, the same everywhere: nobody is left waiting."""
    message = of(worlds, case)
    assert re.search(REFUSED[case], message), message
    assert "\n" not in message


def test_meshes_that_overlap_are_refused(worlds):
    """On all that hear of them; the process outside of both is told that it is outside."""
    *inside, outside = worlds[4]["overlapping_meshes"]
    for message in inside:
        assert message.startswith("the meshes of the model overlap, and its processes do not all")
    assert outside.startswith("embed.weight: is sharded over other processes than this one")


def test_hooks_of_others_stay(worlds):
    """The worker compares the loss with that of the whole model; here: that the hook is in it."""
    assert "value=4" in of(worlds, "hooks_of_others")


def test_every_process_audits_what_it_holds(worlds):
    """A process without elements of a weight draws nothing for it, and is told so."""
    *full, last = worlds[4]["audited"]
    for found in full:
        assert [(one["code"], one["where"]) for one in found] == [("IN701", ["head.weight"])]
    assert [(one["code"], one["severity"]) for one in last] == [
        ("IN701", "warning"),
        ("IN710", "info"),
    ]
    assert last[1]["message"].startswith(
        "layers.0.up.weight has no elements here, while the whole has shape (3, 18): writing to it"
    )


# Without processes ------------------------------------------------------------------------------


def world_of(shape, shard, parts, rows):
    """One sharded weight, a few rows, and a view in which it is the first of two matrices."""
    model = nn.Sequential(
        nn.Linear(shape[1], shape[0], bias=False), nn.ReLU(), nn.Linear(shape[0], 4)
    )
    view = inspect(model, torch.zeros(2, shape[1]))
    ranks = Ranks(
        (Shared("0.weight", shape, False, shard, parts),),
        {rank: np.array([row], dtype=ROW) for rank, row in enumerate(rows)},
    )
    return [(one.code, one.severity) for one in find_between_ranks(ranks, {}, view)]


def row(digest, head, part, state=VARIED, elements=32):
    return (digest, 0), head, elements, part, state


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(1, 5, 0), row(2, 6, 1)], []),
        ([row(1, 5, 0), row(1, 5, 1)], [("IN902", "error")]),
        ([row(1, 5, 0), row(2, 5, 1)], [("IN902", "error")]),
        ([row(1, 0, 0), row(1, 0, 1)], []),  # neither looks random
        ([row(1, 0, 0, elements=9), row(1, 0, 1, elements=9)], [("IN902", "error")]),
        ([row(1, 0, 0, elements=4), row(1, 0, 1, elements=4)], []),  # too few to tell
        ([row(1, 0, 0, state=1), row(1, 0, 1, state=1)], []),  # all zero by design
        ([row(1, 0, 0, state=1), row(2, 5, 1)], [("IN904", "warning")]),
        ([row(1, 5, 0), row(2, 6, 1), row(1, 5, 0), row(3, 6, 1)], [("IN901", "error")]),
        ([row(1, 5, 0), row(2, 6, 1), row(1, 5, -1)], []),  # a process outside the mesh
        ([row(1, 5, 0), row(0, 0, 1, elements=0)], [("IN710", "info")]),
    ],
)
def test_rows_and_findings(rows, expected):
    assert world_of((8, 8), (4, 8), 2, rows) == expected


def table_of(padding_row, filled, ranks):
    """The findings on a table of 8 rows of which some are drawn, cut evenly."""
    model = nn.Sequential(nn.Embedding(8, 16, padding_idx=padding_row), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))
        model[0].weight[[row for row in range(8) if row not in filled]] = 0.0
    values = dict(model.named_parameters())
    rows = 8 // ranks
    shared = Shared("0.weight", (8, 16), False, (rows, 16), ranks)
    held = {
        rank: np.array([_row(part)], dtype=ROW)
        for rank, part in enumerate(values["0.weight"].detach().split(rows))
    }
    for rank in held:
        held[rank]["part"] = rank
    view = inspect(model, torch.arange(8)[None])
    return [one.code for one in find_between_ranks(Ranks((shared,), held), values, view)]


@pytest.mark.parametrize(
    ("padding_row", "filled", "ranks", "expected"),
    [
        (None, range(8), 4, []),
        (0, range(1, 8), 8, []),  # a shard is the padding row
        (None, range(1, 8), 8, ["IN904"]),
        (None, range(3), 4, []),  # zeros from within a shard on
        (None, range(2), 4, ["IN904"]),  # drawn by the first alone
        (None, [0, 1, 4, 5, 6, 7], 4, ["IN904"]),
    ],
)
def test_rows_that_are_zero_by_design(padding_row, filled, ranks, expected):
    assert table_of(padding_row, filled, ranks) == expected


def heads(*parts: torch.Tensor) -> list[int]:
    return [int(_row(part)[1]) for part in parts]


def test_what_looks_random():
    """Random numbers and their multiples have one direction; waves, ramps and constants none."""
    drawn = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    first, scaled, longer, other = heads(drawn, 0.3 * drawn, torch.cat([drawn, drawn]), drawn.T)
    assert first == scaled == longer != other
    assert 0 not in (first, other)
    ramp = torch.arange(32.0)
    assert heads(torch.full((16,), torch.inf), drawn * torch.inf) == [0, 0]
    assert heads(ramp, ramp.sin().abs(), torch.zeros(32), torch.eye(8), drawn[0]) == [0] * 5


def test_rows_hold_every_bit():
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64):
        value = torch.arange(12.0).reshape(3, 4).to(dtype)
        changed = value.clone()
        changed.view(torch.uint8)[2, -1] ^= 1
        assert _row(value) == _row(value.t().contiguous().t())
        assert _row(value)[0] != _row(changed)[0], dtype


def test_a_process_alone_sends_nothing():
    assert survey(nn.Linear(2, 2)) is None
    assert find_between_ranks(None, {}, inspect(nn.Linear(2, 2))) == []
    assert initium.check(nn.Linear(4, 4), torch.randn(8, 4)).notes == ()


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([3], "rank 3"),
        ([1, 0], "ranks 0, 1"),
        (range(512), "ranks 0-511"),
        ([0, 1, 2, 5, 7, 8], "ranks 0-2, 5, 7, 8"),
    ],
)
def test_ranks_in_words(ranks, expected):
    assert listed_ranks(ranks) == expected
