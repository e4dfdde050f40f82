"""Small worlds of processes on this machine, for the workers that tests start."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

__all__ = ["World", "everywhere", "join"]


@dataclass(frozen=True)
class World:
    """This process's place among the others, its meshes, and where results go."""

    rank: int
    size: int
    line: DeviceMesh
    grid: DeviceMesh
    folder: Path


def join(rank: int, size: int, meet: Path, rows: int) -> World:
    """The process group of all that name the same file ``meet``; the grid has so many rows."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meet}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=40),
    )
    line = init_device_mesh("cpu", (size,))
    grid = init_device_mesh("cpu", (rows, size // rows), mesh_dim_names=("dp", "tp"))
    return World(rank, size, line, grid, meet.parent)


def everywhere(size: int, run: Callable[[int], NoReturn]) -> None:
    """Run it with every rank, each in a process forked from this one; wait for all."""
    for child in [os.fork() or run(rank) for rank in range(size)]:
        os.waitpid(child, 0)
