"""A model as a tree by block: modules that are alike as one, and what each parameter does."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from initium import _types
from initium._tables import braces, render, shape_text

__all__ = ["view_tree"]

INLINE = 2
"""Parameters up to which a module without children is written into its parent's lines."""


@dataclass(slots=True)
class _Module:
    """A module's own parameters as lines, its children by name, and its elements in all."""

    lines: dict[str, str] = field(default_factory=dict)
    children: dict[str, _Module] = field(default_factory=dict)
    elements: int = 0

    def alike(self, other: _Module) -> bool:
        """Whether the two are shown in the same way."""
        return (
            self.lines == other.lines
            and self.children.keys() == other.children.keys()
            and all(child.alike(other.children[name]) for name, child in self.children.items())
        )


def view_tree(view: _types.ModelView, width: int | None = None) -> str:
    """The model's modules as a tree, those that are alike as one."""
    root = _Module()
    for one in view.owners:
        *modules, leaf = one.name.split(".")
        here = root
        here.elements += one.numel
        for part in modules:
            here = here.children.setdefault(part, _Module())
            here.elements += one.numel
        here.lines[leaf] = _line(one)
    tree = Tree(Text(f"{view.model}  {_count(root.elements)}"))
    _grow(tree, root)
    return render(tree, *(["", *view.notes] if view.notes else []), width=width)


def _grow(tree: Tree, module: _Module) -> None:
    for leaf, line in module.lines.items():
        tree.add(Text(f"{leaf}  {line}"))
    for names, child in _folded(module.children):
        path, count = [_named(names)], len(names)
        while not child.lines and len(inner := _folded(child.children)) == 1:
            [(names, child)] = inner
            path.append(_named(names))
            count *= len(names)
        name = ".".join(path)
        if count == 1 and not child.children and len(child.lines) <= INLINE:
            for leaf, line in child.lines.items():
                tree.add(Text(f"{name}.{leaf}  {line}"))
            continue
        each = _count(child.elements)
        _grow(
            tree.add(Text(f"{name}  {count} x {each}" if count > 1 else f"{name}  {each}")), child
        )


def _named(names: list[str]) -> str:
    return braces(tuple(map(int, names))) if len(names) > 1 else names[0]


def _folded(children: dict[str, _Module]) -> list[tuple[list[str], _Module]]:
    """Children in order; numbered ones that are alike stand together at the first of them."""
    groups: list[tuple[list[str], _Module]] = []
    for name, child in children.items():
        same = next(
            (
                names
                for names, first in groups
                if name.isdecimal() and names[0].isdecimal() and first.alike(child)
            ),
            None,
        )
        if same is None:
            groups.append(([name], child))
        else:
            same.append(name)
    return groups


def _line(one: _types.ParameterView) -> str:
    told = [shape_text(one.shape), one.role]
    if one.fan_in is not None:
        told.append(f"{one.fan_in} -> {one.fan_out}")
    if one.blocks:
        told.append(f"[{', '.join(_block(block) for block in one.blocks)}]")
    if one.activation:
        told.append(f"then {one.activation}")
    if one.writes_residual:
        told.append(f"writes to stream {one.stream}")
    if one.aliases:
        told.append(f"tied to {', '.join(one.aliases)}")
    return "  ".join(told)


def _block(block: _types.Block) -> str:
    return f"{block.count} x {block.label}" if block.stacked else block.label


def _count(elements: int) -> str:
    """A number of elements for people: ``7.09 M``.

    Example:
        >>> _count(7087872), _count(12)
        ('7.09 M', '12')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if elements >= size:
            return f"{elements / size:.3g} {unit}"
    return str(elements)
