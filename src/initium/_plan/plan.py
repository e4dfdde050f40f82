"""The plan: for every parameter and buffer a spec, with the reason and the evidence.

A plan is pure, immutable data. The methods that need torch (apply, tensor, write, to_torch) are
one-line delegates that import the code that does the work when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from initium import stream
from initium._plan.needs import Need
from initium._plan.written import Written
from initium.spec import Keep, Moments, Spec

if TYPE_CHECKING:
    import torch
    import torch.nn

    import initium._plan.diff

__all__ = ["Entry", "Plan"]


@dataclass(frozen=True)
class Entry:
    """What one parameter or buffer starts from, and why.

    Attributes:
        spec: the distribution; :class:`~initium.spec.Keep` if it is left as it is.
        shape: the shape of the whole, unsharded tensor.
        dtype: its dtype by name, such as ``"float32"``.
        role: the role of the parameter, or ``"buffer"``.
        reason: one sentence on why this spec.
        evidence: how the role is known.
        aliases: the other names under which a tied tensor is held.
        lr: multiplier of the learning rate that the recipe asks for.
        persistent: whether a state dict holds it; only buffers may say no.
    """

    spec: Spec
    shape: tuple[int, ...]
    dtype: str
    role: str
    reason: str
    evidence: str = ""
    aliases: tuple[str, ...] = ()
    lr: float = 1.0
    persistent: bool = True

    @cached_property
    def _moments(self) -> Moments:
        return self.spec.moments(self.shape)

    @property
    def std(self) -> float | None:
        """The exact standard deviation over all elements; ``None`` where nothing is drawn."""
        return self._moments.std

    @property
    def mean(self) -> float | None:
        """The exact mean over all elements; ``None`` where nothing is drawn."""
        return self._moments.mean

    @property
    def kept(self) -> bool:
        """Whether the tensor is explicitly left as it is."""
        return isinstance(self.spec, Keep)


@dataclass(frozen=True)
class Plan:
    """How a model starts: immutable, printable, comparable, a file beside the model's code.

    Attributes:
        entries: every parameter and buffer by canonical name, tied ones under their owner, in the
            order of the model.
        recipe: the text of the recipe, as for :func:`initium.plan`.
        seed: chooses the random numbers.
        model: the class name of the model.
        stream: the version of the random stream.
        needs: what the recipe needs outside the weights.
        notes: what a reader has to know, such as that the recipe is for another kind of model.

    Example:
        >>> import torch, initium
        >>> plan = initium.plan(torch.nn.Linear(3, 2), "normal(0.5)")
        >>> plan.entries["weight"].std
        0.5
    """

    entries: Mapping[str, Entry]
    recipe: str = ""
    seed: int = 0
    model: str = ""
    stream: int = field(default=stream.VERSION)
    needs: tuple[Need, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """The other names of each tied tensor, by its owner's name."""
        return {name: entry.aliases for name, entry in self.entries.items() if entry.aliases}

    def apply(
        self,
        model: torch.nn.Module,
        device: str | torch.device | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """Fill ``model`` in place; everything is validated before anything is written.

        Of tensors sharded by FSDP2 or tensor parallelism every process fills what it holds, with
        the bits that the whole would have there, and without communication.

        Args:
            model: the planned model, also wrapped, compiled, sharded or on the meta device.
            device: where parameters of the meta device are made; by default that of the mesh of a
                sharded model, else the CPU.
            names: says that ``model`` is a part of the planned one, such as a pipeline stage: from
                its names, or leading parts of them such as ``"layers.0"``, to those in the plan;
                ``{}`` if they are the same.

        Raises:
            PlanError: the model's names, shapes, dtypes or ties differ from the plan's, or a
                placement is not supported; the message names both sides.
            ModelError: FSDP1 or DeepSpeed ZeRO-3 has flattened or emptied the parameters.

        Example:
            >>> import torch, initium
            >>> model = torch.nn.Linear(3, 2)
            >>> initium.plan(model, "zeros").apply(model)
            >>> bool(model.weight.any())
            False
        """
        from initium._fill.apply import apply

        apply(self, model, device, names)

    def tensor(self, name: str, index: object = None) -> torch.Tensor:
        """One planned tensor, or any slice of it on its own, on the CPU in the planned dtype.

        Args:
            name: a canonical name, or an alias of a tied tensor.
            index: an int, a slice or a tuple of them into the whole tensor; steps must be 1.

        Raises:
            PlanError: an unknown name, or an entry that is kept as it is.

        Example:
            >>> import torch, initium
            >>> plan = initium.plan(torch.nn.Linear(3, 2), "he")
            >>> whole, row = plan.tensor("weight"), plan.tensor("weight", index=1)
            >>> bool((whole[1] == row).all())
            True
        """
        from initium._fill.tensor import tensor

        return tensor(self, name, index)

    def write(
        self,
        directory: str | Path,
        dtype: str | torch.dtype | None = None,
        shard_size: int | str = "5GB",
        *,
        overwrite: bool = False,
        part: tuple[int, int] = (0, 1),
        progress: Callable[[int, int], object] | None = None,
    ) -> Written:
        """Write a checkpoint as sharded safetensors, without a model and in bounded memory.

        The files are ``model.safetensors``, or ``model-00001-of-00003.safetensors`` ... and
        ``model.safetensors.index.json``, as transformers reads them: what a state dict holds, tied
        tensors once, under their owner's name; the bits are those of :meth:`apply`. Each file has
        a temporary name until it is whole. A write that was interrupted is called again, keeps what
        is finished and ends in the same bytes.

        Args:
            directory: made if it does not exist.
            dtype: of everything that is floating, instead of the planned dtypes.
            shard_size: the most tensor bytes of one file, as a number or a text such as ``"500MB"``
                (10^6) or ``"4GiB"`` (2^30); a tensor that is larger has a file of its own.
            overwrite: remove another checkpoint from the directory first.
            part: ``(i, n)``: of n processes this is number i, from 0, and writes every n-th file;
                the last one to finish writes the index.
            progress: called with the bytes written so far and in all, after each block.

        Raises:
            PlanError: an entry that is kept as the model has it, or cannot be stored; a wrong
                dtype, size or part. Nothing has been written then.
            OutputError: another checkpoint is there, too little space, a file that cannot be
                written. Finished files stay, and the message says how to go on.

        Example:
            >>> import tempfile, torch, initium
            >>> plan = initium.plan(torch.nn.Linear(3, 2), "he")
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     plan.write(directory, dtype="bfloat16").files
            ('model.safetensors',)
        """
        from initium._fill.write import write

        return write(self, directory, dtype, shard_size, overwrite=overwrite, part=part,
                     progress=progress)  # fmt: skip

    def parameter_groups(
        self,
        model: torch.nn.Module,
        lr: float,
        weight_decay: float | None = None,
        names: Mapping[str, str] | None = None,
    ) -> list[dict[str, object]]:
        """Groups for a torch optimizer, with the learning rates that the recipe asks for.

        Args:
            model: the planned model.
            lr: the base learning rate; each group's is ``lr`` times its entries' multiplier.
            weight_decay: of every weight with two or more dimensions; divided by the multiplier, so
                that the decay of a step, lr x weight_decay, is the same in all groups. ``None``
                leaves it to the optimizer.
            names: as for :meth:`apply`, if ``model`` is a part of the planned one.

        Raises:
            PlanError: the model's names differ from the plan's.

        Example:
            >>> import torch, initium
            >>> model = torch.nn.Linear(3, 2)
            >>> groups = initium.plan(model, "he").parameter_groups(model, lr=0.1)
            >>> [(group["lr"], len(group["params"])) for group in groups]
            [(0.1, 2)]
        """
        from initium._fill.groups import parameter_groups

        return parameter_groups(self, model, lr, weight_decay, names)

    def to_torch(self) -> str:
        """The plan as plain torch code: the same distributions, other bits, no initium inside.

        Example:
            >>> import torch, initium
            >>> code = initium.plan(torch.nn.Linear(3, 2), "zeros").to_torch()
            >>> "import initium" in code
            False
        """
        from initium._fill.to_torch import to_torch

        return to_torch(self)

    def save(self, path: str | Path) -> Path:
        """Write the plan as YAML, or as JSON if the suffix is ``.json``; at once or not at all.

        Raises:
            PlanFileError: the file cannot be written.
        """
        from initium._plan.files import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that :meth:`save` wrote; every value is checked.

        Raises:
            PlanFileError: a missing or damaged file, with the line or key and the fix.
        """
        from initium._plan.files import load

        return load(path)

    def diff(self, other: Plan) -> initium._plan.diff.PlanDiff:
        """What changes from this plan to ``other``, as a table; false if nothing does."""
        from initium._plan.diff import diff

        return diff(self, other)

    def __str__(self) -> str:
        from initium._plan.table import plan_table

        return plan_table(self)

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.entries)} entries, recipe={self.recipe!r}, seed={self.seed}, "
            f"model={self.model!r})"
        )
