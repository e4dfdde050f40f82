"""Truth tables: what every parameter of a model is, written by hand from the model's source.

``load`` reads the cases of ``tests/truth/*.yaml``; ``examine`` builds one model, inspects it and
compares, and does so again after :mod:`scramble` has renamed everything. A case maps patterns of
names, where ``*`` is one run of digits, to
``role [fan_in fan_out] [writes] [label=fan_out ...] [experts=N]``:

    attn_out 64 64 writes          a matrix that writes to a residual stream
    attn_qkv 64 q=64 k=32 v=32     a fused weight: its fan_in, and each block's fan_out, in order
    modulation 64 6x64             six blocks whose labels do not matter
    mlp_up 64 96 experts=4         four stacked matrices
    head|linear 64 10              the design leaves open which of the two it is

Covered: roles, residual writers, fans, stacked experts. Not covered: activations, depths, axes.
"""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from scramble import scramble
from torch import nn

from initium import inspect
from initium._load.optional import import_optional
from initium._load.weightless import weightless
from initium._model.inputs import example_inputs
from initium._model.names import slots
from initium._types import MATRIX_ROLES, ROLES, ModelView, ParameterView

FOLDER = Path(__file__).parent / "truth"
SEEN = ("traced", "invented", "analogy")
"""Rungs that rest on the data flow: the only ones that count once the names are scrambled."""


class TruthError(Exception):
    """A case that contradicts itself or does not fit its model."""


# -- the tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What a parameter is.

    ``fan_out`` holds label and size of every block, one without a label for a plain matrix.
    """

    roles: tuple[str, ...]
    fan_in: int | None = None
    fan_out: tuple[tuple[str, int], ...] = ()
    writes: bool = False
    experts: int = 1

    @property
    def is_matrix(self) -> bool:
        return not MATRIX_ROLES.isdisjoint(self.roles)


@dataclass(frozen=True)
class Case:
    """One model: how to build it, what to feed it, and the truth by pattern of names."""

    model: str
    family: str
    truth: Mapping[str, Truth]
    cls: str = ""
    config: Mapping[str, Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    inputs: object = None
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.model} {self.cls}".strip()


def load(folder: Path = FOLDER) -> list[Case]:
    """Every case of every file, files by name.

    Raises:
        TruthError: an unknown key or role, a value that cannot be read, a name given twice.
    """
    cases: list[Case] = []
    for path in sorted(folder.glob("*.yaml")):
        for item in YAML(typ="safe").load(path.read_text(encoding="utf-8")) or ():
            try:
                cases.append(_case(**item))
            except (TypeError, TruthError) as error:
                raise TruthError(f"{path.name}: {item.get('model')}: {error}") from None
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TruthError(f"given twice: {', '.join(twice)}")
    return cases


def _case(*, truth: Mapping[str, str], **item: Any) -> Case:
    cls = item.pop("class", "")
    return Case(truth={pattern: read(text) for pattern, text in truth.items()}, cls=cls, **item)


def read(text: str) -> Truth:
    """``attn_qkv 64 q=64 k=32 v=32 writes`` as a :class:`Truth`."""
    first, *words = str(text).split()
    roles = tuple(first.split("|"))
    unknown = [role for role in roles if role not in ROLES]
    fans: list[int] = []
    blocks: list[tuple[str, int]] = []
    writes, experts = False, 1
    for word in words:
        label, equals, number = word.partition("=")
        alike = re.fullmatch(r"(\d+)x(\d+)", word)
        if word == "writes":
            writes = True
        elif word.isdigit():
            fans.append(int(word))
        elif alike:
            blocks += [("", int(alike[2]))] * int(alike[1])
        elif not (equals and number.isdigit()):
            raise TruthError(f"cannot read {word!r} in {text!r}")
        elif label == "experts":
            experts = int(number)
        else:
            blocks.append((label, int(number)))
    if unknown:
        raise TruthError(f"no such role: {', '.join(unknown)} in {text!r}")
    if len(fans) not in ((1,) if blocks else (0, 2)):
        raise TruthError(f"a plain matrix has two fans, a fused one a fan_in and blocks: {text!r}")
    outs = tuple(blocks) if blocks else tuple(("", fan) for fan in fans[1:])
    return Truth(roles, fans[0] if fans else None, outs, writes, experts)


def assign(truth: Mapping[str, Truth], names: Sequence[str]) -> dict[str, str]:
    """The one pattern of every name.

    Raises:
        TruthError: a name that no pattern or more than one matches, or a pattern without a name.
    """
    compiled = {pattern: re.compile(re.escape(pattern).replace(r"\*", r"\d+")) for pattern in truth}
    found: dict[str, str] = {}
    for name in names:
        matching = [pattern for pattern, regex in compiled.items() if regex.fullmatch(name)]
        if len(matching) != 1:
            raise TruthError(f"{name} is matched by {matching or 'no pattern'}")
        found[name] = matching[0]
    unused = [pattern for pattern in truth if pattern not in found.values()]
    if unused:
        raise TruthError(f"patterns that match nothing: {', '.join(unused)}")
    return found


# -- the models ------------------------------------------------------------------------------------


def build(case: Case) -> nn.Module:
    """The case's model, its matrices on meta.

    Raises:
        ModuleNotFoundError, DependencyError: a package that it needs is not installed.
    """
    source, _, rest = case.model.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "hf":
            cls = getattr(import_optional("transformers"), case.cls)
            config = cls.config_class(**(case.config or {}))
            with weightless():
                return cls(config)
        if source == "timm":
            timm = import_optional("timm")
            with weightless():
                return timm.create_model(rest, pretrained=False, **(case.kwargs or {}))
        module, _, path = rest.partition(":")
        import_optional("timm")
        maker = getattr(importlib.import_module(module), path)
        with weightless():
            return maker(**(case.kwargs or {}))


def inputs_of(case: Case, model: nn.Module) -> object:
    """What the case says, else what :func:`example_inputs` finds."""
    if case.inputs is None:
        return example_inputs(model)
    if isinstance(case.inputs, Mapping):
        return {name: _tensor(what) for name, what in case.inputs.items()}
    assert isinstance(case.inputs, Sequence)
    return tuple(_tensor(what) for what in case.inputs)


def _tensor(what: Sequence[int] | Mapping[str, Any]) -> torch.Tensor:
    """A list is the shape of ids; a mapping has a shape and a dtype."""
    spec = what if isinstance(what, Mapping) else {"shape": what, "dtype": "int64"}
    dtype = getattr(torch, spec["dtype"])
    if dtype.is_floating_point:
        return torch.randn(*spec["shape"], dtype=dtype)
    return (
        (torch.arange(torch.Size(spec["shape"]).numel()) % 5 + 1).reshape(spec["shape"]).to(dtype)
    )


# -- comparing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Miss:
    """One thing seen otherwise than it is, at every parameter of a pattern that has it."""

    model: str
    pattern: str
    what: str
    truth: str
    seen: str
    parameters: int = 1


@dataclass(frozen=True)
class Score:
    """Counts over one model, or over several: scores add up."""

    parameters: int = 0
    roles: int = 0
    patterns: int = 0
    pattern_roles: int = 0
    matrices: int = 0
    matrix_roles: int = 0
    found: int = 0
    missed: int = 0
    invented: int = 0
    fanned: int = 0
    fans: int = 0
    misses: tuple[Miss, ...] = ()

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, name) + getattr(other, name) for name in _COUNTS))

    @property
    def precision(self) -> float:
        return _share(self.found, self.found + self.invented)

    @property
    def recall(self) -> float:
        return _share(self.found, self.found + self.missed)

    @property
    def role_share(self) -> float:
        return _share(self.roles, self.parameters)

    @property
    def pattern_share(self) -> float:
        return _share(self.pattern_roles, self.patterns)

    @property
    def matrix_share(self) -> float:
        return _share(self.matrix_roles, self.matrices)

    @property
    def fan_share(self) -> float:
        return _share(self.fans, self.fanned)


_COUNTS = tuple(Score.__dataclass_fields__)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def compare(case: Case, view: ModelView, names: Mapping[str, str], *, blind: bool) -> Score:
    """What a view says against the truth; ``names`` maps a view's names to the case's.

    ``blind``: a role counts as seen only on a rung that rests on the data flow.
    """
    pattern_of = assign(case.truth, list(names.values()))
    total = Score(patterns=len(case.truth))
    misses: Counter[Miss] = Counter()
    if view.problem is not None:
        misses[Miss(case.name, "*", "trace", "traced", view.problem)] = len(names)
    wrong: set[str] = set()
    for seen_name, name in names.items():
        pattern = pattern_of[name]
        score, told = _one(case.truth[pattern], view.parameters[seen_name], blind)
        total += score
        misses.update(Miss(case.name, pattern, *item) for item in told)
        wrong |= {pattern for what, *_ in told if what == "role"}
    return replace(
        total,
        pattern_roles=len(case.truth) - len(wrong),
        misses=tuple(replace(miss, parameters=count) for miss, count in misses.items()),
    )


def _one(
    truth: Truth, view: ParameterView, blind: bool
) -> tuple[Score, list[tuple[str, str, str]]]:
    """The score of one parameter; and (what, truth, seen) of each miss."""
    role, seen, writes = _role(view, blind), _fans(view), view.writes_residual
    fanned = truth.fan_in is not None
    agree = _agree(truth, seen)
    score = Score(
        parameters=1,
        roles=role in truth.roles,
        matrices=truth.is_matrix,
        matrix_roles=truth.is_matrix and role in truth.roles,
        found=truth.writes and writes,
        missed=truth.writes and not writes,
        invented=writes and not truth.writes and truth.is_matrix,
        fanned=fanned,
        fans=fanned and agree,
    )
    told = []
    if role not in truth.roles:
        told.append(("role", "|".join(truth.roles), role))
    if truth.is_matrix and truth.writes != writes:
        told.append(("writes", str(truth.writes), str(writes)))
    if fanned and not agree:
        right = _told(truth.fan_in, truth.fan_out, truth.experts)
        told.append(("fans", right, _told(*seen)))
    return score, told


def _role(view: ParameterView, blind: bool) -> str:
    evidence = view.evidence.get("role")
    rung = evidence.rung if evidence is not None else "assumed"
    if blind and rung not in SEEN and view.role != "unknown":
        return f"{view.role} ({rung})"
    return view.role


Fans = tuple[int | None, tuple[tuple[str, int | None], ...], int]
"""fan_in; label and fan_out of every block, or one without a label; how many experts."""


def _fans(view: ParameterView) -> Fans:
    experts = 1
    for block in view.blocks:
        experts *= block.count if block.stacked else 1
    in_order = sorted(view.blocks, key=lambda block: block.start)
    fused = tuple((block.label, block.total) for block in in_order if not block.stacked)
    return view.fan_in, fused or (("", view.fan_out),), experts


def _agree(truth: Truth, seen: Fans) -> bool:
    """A block without a label in the truth may have any in the view."""
    fan_in, blocks, experts = seen
    return (
        (truth.fan_in, truth.experts) == (fan_in, experts)
        and [size for _, size in truth.fan_out] == [size for _, size in blocks]
        and all(
            ours in ("", theirs)
            for (ours, _), (theirs, _) in zip(truth.fan_out, blocks, strict=True)
        )
    )


def _told(fan_in: int | None, blocks: Sequence[tuple[str, int | None]], experts: int) -> str:
    outs = []
    for (label, size), run in itertools.groupby(blocks):
        count = len(list(run))
        outs.append(f"{label}={size}" if label else f"{count}x{size}" if count > 1 else str(size))
    return " ".join([str(fan_in), *outs, *([f"experts={experts}"] if experts > 1 else [])])


def examine(case: Case, *, plain: bool = True, blind: bool = True) -> tuple[Score, Score]:
    """The score of one case as it is, and with everything renamed; empty where not asked for.

    Raises:
        TruthError: the model's parameters do not fit the patterns.
    """
    model = build(case)
    batch = inputs_of(case, model)
    names = [name for name, slot in slots(model).items() if not slot.is_buffer]
    scores = [Score(), Score()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if plain:
            scores[0] = compare(
                case, inspect(model, batch), {name: name for name in names}, blind=False
            )
        if blind:
            scramble(model)
            new = [name for name, slot in slots(model).items() if not slot.is_buffer]
            view = inspect(model, batch)
            scores[1] = compare(case, view, dict(zip(new, names, strict=True)), blind=True)
    return scores[0], scores[1]
