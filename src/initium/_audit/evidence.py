"""What the runs of the init code say of every tensor, before any verdict.

The first run is recorded and its values kept. The second has the other filling and the same seed:
what differs and is not filling was computed from what was there, or cannot be reproduced; a third
run tells which. The last has another seed: random numbers that stay the same ignore it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from initium._audit import poison
from initium._audit.records import TensorAudit
from initium._audit.runs import InitFunction, Run, held_values, run
from initium._audit.tape import Draw, Event, storage_key
from initium._model.moments import Moments
from initium._model.names import Slot, named_modules, slots, unwrapped
from initium._model.sharding import bare_class, local

__all__ = ["Evidence", "TensorEvidence", "compare", "constants", "gather"]


@dataclass(slots=True)
class TensorEvidence:
    """One parameter or buffer.

    Attributes:
        names: its canonical name, then those it is tied under.
        material: it was on meta, or the code made it: nothing was there before.
        constant: it was real, and held one value throughout before the code ran.
        unwritten, dependent, restless: elements never written; that follow from what was there
            before; that differ from run to run.
        seedless: its random numbers are the same under another seed.
        replaced: another tensor object stood in its place before.
        assigned: its memory was put in its place by assigning to ``.data``.
        outside: its memory holds something that no operator of torch wrote.
        wanted: for a shard without elements, the shape of the whole.
    """

    names: tuple[str, ...]
    is_buffer: bool
    shape: tuple[int, ...]
    dtype: str
    events: tuple[Event, ...]
    draws: frozenset[Draw]
    elements: int
    material: bool
    constant: bool = False
    loaded: bool = False
    unwritten: int = 0
    dependent: int = 0
    restless: int = 0
    seedless: bool = False
    replaced: bool = False
    assigned: bool = False
    outside: bool = False
    wanted: tuple[int, ...] | None = None
    mean: float | None = None
    std: float | None = None

    @property
    def name(self) -> str:
        """The owner's name."""
        return self.names[0]

    def whole(self, event: Event) -> bool:
        """Whether a write replaced all of it."""
        return event.fresh and event.elements == self.elements and self.elements > 0

    @property
    def is_drawn(self) -> bool:
        """Whether it holds random numbers that no later writes to parts may have replaced."""
        last = next((event for event in reversed(self.events) if event.fresh), None)
        return bool(self.draws) and (last is None or last.kind == "draw" or self.whole(last))

    def record(self) -> TensorAudit:
        """As it is reported."""
        return TensorAudit(
            name=self.name,
            kind="buffer" if self.is_buffer else "parameter",
            shape=self.shape,
            dtype=self.dtype,
            unwritten=self.unwritten,
            writes=tuple(event.record() for event in self.events),
            mean=None if self.unwritten else self.mean,
            std=None if self.unwritten else self.std,
        )


@dataclass(slots=True)
class Evidence:
    """All tensors by name, and what is no tensor's own.

    ``lost``: writes to weights that a parametrization computes, by name. ``reseeded``: the code
    seeded torch's global generator itself, also where it puts the generator back. ``ties``: pairs
    of names that shared a tensor before, and no longer do. ``uneven``: tensors that are not there,
    or not alike, in every run.
    """

    model: str
    reseeded: bool
    tensors: dict[str, TensorEvidence]
    values: dict[str, torch.Tensor]
    lost: list[tuple[str, Event]]
    ties: tuple[tuple[str, str], ...]
    runs: int = 1
    uneven: set[str] = field(default_factory=set)


def constants(model: nn.Module | None) -> frozenset[str]:
    """The tensors of a model that hold one value throughout."""
    found = set()
    for name, slot in slots(model).items() if model is not None else ():
        value = local(slot.tensor)
        if value.numel() and not value.is_meta and poison.is_plain(value):
            same = poison.bits(value).flatten()
            if bool((same == same[0]).all()):
                found.add(name)
    return frozenset(found)


def gather(done: Run, seed: int, before: frozenset[str]) -> Evidence:
    """What the recorded run says; its values are copied where the model is put back afterwards.

    Args:
        done: the run, still open.
        seed: what it was seeded with.
        before: the tensors that held one value throughout before it.
    """
    built = not done.before
    held = held_values(done)
    earlier = {
        name: slot.tensor for slot in done.before.values() for name in (slot.name, *slot.aliases)
    }
    tensors = {
        name: _one(slot, held[name], earlier.get(name, slot.tensor), done)
        for name, slot in done.slots.items()
    }
    for name in before & tensors.keys():
        tensors[name].constant = True
    modules = {id(module): name for name, module in named_modules(done.model)}
    lost = []
    for module, leaf, event in done.tape.lost:
        owner = modules.get(id(module), "")
        lost.append((f"{owner}.{leaf}" if owner else leaf, event))
    return Evidence(
        model=bare_class(unwrapped(done.model)).__name__,
        reseeded=bool({torch.initial_seed(), *done.tape.seeds} - {seed}),
        tensors=tensors,
        values=held if built else {name: value.clone() for name, value in held.items()},
        lost=lost,
        ties=tuple(_broken(done)),
    )


def _one(slot: Slot, value: torch.Tensor, before: torch.Tensor, done: Run) -> TensorEvidence:
    built = not done.before
    history, key = done.tape.of(slot.tensor), storage_key(slot.tensor)
    events = tuple(history.events) if history is not None else ()
    one = TensorEvidence(
        names=(slot.name, *slot.aliases),
        is_buffer=slot.is_buffer,
        shape=tuple(slot.tensor.shape),
        dtype=str(slot.tensor.dtype).removeprefix("torch."),
        events=events,
        draws=history.draws if history is not None and value.numel() else frozenset(),
        elements=value.numel(),
        material=built or slot.name in done.material,
        loaded=history is not None and history.outside and value.numel() > 1,
        replaced=before is not slot.tensor,
        assigned=done.tape.registered(slot.tensor, key) != key,
        wanted=getattr(slot.tensor, "ds_shape", None),
    )
    untouched = not (events or one.assigned or one.replaced)
    one.outside = untouched and one.elements > 0 and not built and not slot.is_buffer
    if value.is_floating_point() and value.numel() and value.layout is torch.strided:
        moments = Moments.of(value.float() if value.element_size() == 1 else value)
        one.mean = moments.per_element(moments.total)
        second = moments.per_element(moments.squares)
        one.std = max(0.0, second - one.mean * one.mean) ** 0.5
    return one


def compare(evidence: Evidence, init_fn: InitFunction, model: nn.Module | None, seed: int) -> None:
    """Run the code again, with the other filling and with another seed, and note what changes."""
    values, tensors = evidence.values, evidence.tensors
    odd: list[str] = []
    with run(init_fn, model, which=1, seed=seed) as done:
        evidence.runs += 1
        for name, other in _matching(evidence, done).items():
            empty = poison.holds(values[name], 0) & poison.holds(other, 1)
            differs = _differs(values[name], other) & ~empty
            tensors[name].unwritten = int(empty.sum())
            tensors[name].dependent = int(differs.sum())
            if tensors[name].dependent:
                odd.append(name)
            if tensors[name].unwritten == tensors[name].elements:
                tensors[name].outside = False
    if odd:
        with run(init_fn, model, which=0, seed=seed) as done:
            evidence.runs += 1
            for name, other in _matching(evidence, done).items():
                if name in odd and (count := int(_differs(values[name], other).sum())):
                    tensors[name].restless, tensors[name].dependent = count, 0
    drawn = [name for name, one in tensors.items() if one.is_drawn]
    if drawn:
        other_seed = (seed + 1) % 2**64
        with run(init_fn, model, which=0, seed=other_seed) as done:
            evidence.runs += 1
            seeds = {torch.initial_seed(), *done.tape.seeds}
            evidence.reseeded |= bool(seeds - {other_seed})
            for name, other in _matching(evidence, done).items():
                if name in drawn:
                    tensors[name].seedless = not bool(_differs(values[name], other).any())


def _matching(evidence: Evidence, done: Run) -> dict[str, torch.Tensor]:
    """The tensors that both runs have, with equal shape and type; others are noted."""
    first, second = evidence.values, held_values(done)
    for name in first.keys() ^ second.keys():
        evidence.uneven.add(name)
    found = {}
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            evidence.uneven.add(name)
        elif poison.is_plain(one):
            found[name] = other
    return found


def _differs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    unequal = poison.bits(first) != poison.bits(second)
    return unequal.any(-1) if first.is_complex() else unequal


def _broken(done: Run) -> list[tuple[str, str]]:
    """Pairs of names that were one tensor before the code ran, and are two after it."""
    owner = {alias: slot.name for slot in done.slots.values() for alias in slot.aliases}
    return [
        (slot.name, alias)
        for slot in done.before.values()
        for alias in slot.aliases
        if owner.get(alias, alias) != owner.get(slot.name, slot.name)
    ]
