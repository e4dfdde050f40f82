"""Random matrices that are never made: every product is drawn given all earlier ones.

``W`` maps side 0 (its columns) to side 1 (its rows). With orthonormal bases of what was seen on
either side, ``W R^T = Y`` and ``L W = Z`` (bases as rows), a Gaussian matrix is, given all of that,
``known + (I - L^T L) G (I - R^T R)`` with a fresh Gaussian G, so that a new direction needs one new
vector of normal numbers. A Haar matrix maps the span of one basis isometrically onto that of the
other and is again Haar between the complements.

Source: Lu 2021, Householder Dice (arXiv:2101.07464); Anderson 2003, An Introduction to
Multivariate Statistical Analysis, section 2.5 (conditional normal distributions).

Not covered: matrices whose elements are neither Gaussian nor Haar; what becomes of them, says
:mod:`initium._predict.lazy.source`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["NARROW", "Gaussian", "Haar", "Law", "lengths"]

NARROW = 32
"""Elements below which those of a vector of given length are far from normal."""
RESOLUTION = {torch.float32: 1e-5, torch.float64: 1e-12}
"""A remainder smaller than this, relative to its vector, is rounding: nothing new was seen."""
SOUND = 1e-3
"""Ratio of eigenvalues of a Gram matrix from which on its rounding does not matter."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of ``mix raw``, or of ``raw``, so that a change of basis costs no pass over them."""

    raw: torch.Tensor
    mix: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.raw if self.mix is None else self.mix)

    def dot(self, x: torch.Tensor) -> torch.Tensor:
        """``x rows^T``."""
        found = x @ self.raw.T
        return found if self.mix is None else found @ self.mix.T

    def across(self, other: Rows) -> torch.Tensor:
        """``other rows^T``."""
        found = self.dot(other.raw)
        return found if other.mix is None else other.mix @ found

    def sum(self, weights: torch.Tensor, to: torch.Tensor | None = None) -> torch.Tensor:
        """``weights rows``, or that added to ``to`` in place."""
        mixed = weights if self.mix is None else weights @ self.mix
        return mixed @ self.raw if to is None else to.addmm_(mixed, self.raw)

    def solid(self) -> torch.Tensor:
        """The rows themselves."""
        return self.raw if self.mix is None else self.mix @ self.raw

    def with_rows(self, more: Rows) -> Rows:
        """These and more."""
        return Rows(torch.cat([self.solid(), more.solid()])) if len(self) else more


class Law:
    """A random ``rows x columns`` matrix, known by its products so far."""

    def __init__(
        self, rows: int, columns: int, generator: torch.Generator, dtype: torch.dtype
    ) -> None:
        self.sizes = (columns, rows)
        self.generator = generator
        self.dtype = dtype
        self.forget()

    @property
    def variance(self) -> float:
        """Of an element."""
        raise NotImplementedError

    def forget(self) -> None:
        """Free what is known; the next product is that of a new matrix."""
        raise NotImplementedError

    @property
    def seen(self) -> int:
        """How many directions are known, on both sides together."""
        raise NotImplementedError

    def product(
        self, x: torch.Tensor, side: int, keep: bool = True, length: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``x W^T`` for vectors of side 0, ``x W`` for those of side 1.

        Args:
            x: ``[k, columns]`` or ``[k, rows]``, finite.
            side: of the vectors.
            keep: whether the product may be asked for again.
            length: their :func:`lengths`, where they are known.

        Returns:
            ``[k, rows]`` or ``[k, columns]``.
        """
        raise NotImplementedError

    def whole(self) -> torch.Tensor:
        """All of it, ``[rows, columns]``, drawn given what is known."""
        raise NotImplementedError

    def _normal(self, count: int, size: int) -> torch.Tensor:
        return torch.randn(count, size, generator=self.generator, dtype=self.dtype)


class Gaussian(Law):
    """Independent standard normal elements.

    Args:
        even: a new direction is mapped to a vector of exactly the expected length, orthogonal to
            those of the directions that are new with it: products have the lengths and angles of
            infinite width, as far as there is room for them and they are not narrow.
        free: the angles are those of random vectors all the same, and there is always room.

    Example:
        >>> law = Gaussian(5, 3, torch.Generator().manual_seed(0), torch.float64)
        >>> x, u = torch.ones(1, 3).double(), torch.ones(1, 5).double()
        >>> bool(torch.isclose((law.product(x, 0) * u).sum(), (law.product(u, 1) * x).sum()))
        True
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        generator: torch.Generator,
        dtype: torch.dtype,
        even: bool = False,
        free: bool = False,
    ) -> None:
        self.even = even
        self.free = free
        super().__init__(rows, columns, generator, dtype)

    def forget(self) -> None:
        self.bases = [Rows(torch.empty(0, size, dtype=self.dtype)) for size in self.sizes]
        self.images = [Rows(torch.empty(0, size, dtype=self.dtype)) for size in self.sizes[::-1]]

    @property
    def seen(self) -> int:
        return sum(map(len, self.bases))

    @property
    def variance(self) -> float:
        return 1.0

    def product(
        self, x: torch.Tensor, side: int, keep: bool = True, length: torch.Tensor | None = None
    ) -> torch.Tensor:
        old, fresh, new = split(x, self.bases[side], length)
        known = self.images[side]
        if not len(fresh):
            return known.sum(old)
        basis, size = self.bases[1 - side], self.sizes[1 - side]
        drawn = self._normal(len(fresh), size)
        room = size - len(basis)
        fits = size >= NARROW and len(fresh) + len(known) <= room
        even = self.even and room > 0 and (self.free or fits)
        if len(known) or 8 * (len(fresh) + len(basis)) > size:
            image = Rows(self._image(fresh, drawn, side, room if even else 0))
            y = image.sum(new, known.sum(old))
        else:
            inside = basis.dot(drawn)
            root = None
            if even:
                gram = drawn @ drawn.T - inside @ inside.T
                root = gram.diagonal().rsqrt().diag() if self.free else _root(gram)
                root *= room**0.5
            within = self.images[1 - side].across(fresh)
            within -= inside if root is None else root @ inside
            y = (new if root is None else new @ root) @ drawn
            image = Rows(drawn, root)
            if len(basis):
                basis.sum(new @ within, y)
                image = Rows(basis.sum(within, image.solid())) if keep else image
        if keep:
            self.bases[side] = self.bases[side].with_rows(fresh)
            self.images[side] = known.with_rows(image)
        return y

    def _image(self, fresh: Rows, drawn: torch.Tensor, side: int, room: int) -> torch.Tensor:
        """Where new directions go, given everything; with ``room``, as a frame."""
        basis, image = self.bases[1 - side].solid(), self.images[1 - side]
        if len(basis):
            drawn -= (drawn @ basis.T) @ basis
        if room and self.free:
            drawn *= room**0.5 / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        elif room:
            others = self.images[side].solid()
            others = others - (others @ basis.T) @ basis if len(basis) else others
            drawn = _frame(_without(drawn, others)) * room**0.5
        if len(basis):
            drawn += image.across(fresh) @ basis
        return drawn

    def whole(self) -> torch.Tensor:
        right, left = (basis.solid() for basis in self.bases)
        forward, backward = (image.solid() for image in self.images)
        drawn = self._normal(self.sizes[1], self.sizes[0])
        drawn += (forward.T - drawn @ right.T) @ right
        return drawn + left.T @ (backward - left @ drawn)


class Haar(Law):
    """Semi-orthogonal and uniform: the corner of a Haar orthogonal matrix of the larger size.

    Example:
        >>> law = Haar(3, 5, torch.Generator().manual_seed(0), torch.float64)
        >>> u = torch.ones(1, 3).double()
        >>> float(law.product(u, 1).square().sum().round(decimals=9))
        3.0
    """

    def forget(self) -> None:
        self.bases = [Rows(torch.empty(0, max(self.sizes), dtype=self.dtype)) for _ in self.sizes]

    @property
    def seen(self) -> int:
        return len(self.bases[0])

    @property
    def variance(self) -> float:
        return 1 / max(self.sizes)

    def product(
        self, x: torch.Tensor, side: int, keep: bool = True, length: torch.Tensor | None = None
    ) -> torch.Tensor:
        order = max(self.sizes)
        padded = torch.nn.functional.pad(x, (0, order - x.shape[1]))
        old, fresh, new = split(padded, self.bases[side], length)
        image = self.bases[1 - side]
        y = image.sum(old)
        if len(fresh):
            drawn = Rows(self._frame(len(fresh), image.solid()))
            drawn.sum(new, y)
            if keep:
                self.bases[side] = self.bases[side].with_rows(fresh)
                self.bases[1 - side] = image.with_rows(drawn)
        return y[:, : self.sizes[1 - side]]

    def whole(self) -> torch.Tensor:
        columns, rows = self.sizes
        before, after = (basis.solid() for basis in self.bases)
        rest = max(self.sizes) - len(before)
        onto, onwards = self._frame(rest, after), self._frame(rest, before)
        return after[:, :rows].T @ before[:, :columns] + onto[:, :rows].T @ onwards[:, :columns]

    def _frame(self, count: int, basis: torch.Tensor) -> torch.Tensor:
        """Orthonormal rows, uniform among those that are orthogonal to ``basis``."""
        drawn = self._normal(count, max(self.sizes))
        for _ in range(2 if len(basis) else 0):
            drawn -= (drawn @ basis.T) @ basis
        frame, triangle = torch.linalg.qr(drawn.T)
        return (frame * triangle.diagonal().sign()).T


def lengths(x: torch.Tensor) -> torch.Tensor:
    """Of the rows, ``[k, 1]``; in double precision where squares might overflow or vanish."""
    found = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    least, most = found.aminmax() if len(x) else (found.new_ones(()),) * 2
    if least.item() > 1e-12 and most.item() < 1e15:
        return found
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64).to(x.dtype)


def split(
    x: torch.Tensor, known: Rows, length: torch.Tensor | None = None
) -> tuple[torch.Tensor, Rows, torch.Tensor]:
    """``x = old known + new fresh``, with ``fresh`` orthonormal and orthogonal to ``known``."""
    least = RESOLUTION[x.dtype]
    length = lengths(x) if length is None else length
    rest = x / length.clamp_min(torch.finfo(x.dtype).tiny)
    old = torch.zeros(len(x), len(known), dtype=x.dtype)
    if not len(known):
        some = length.squeeze(1) > 0
        if some.all().item():
            fresh, part = _orthonormal(rest, least)
            return old, fresh, part.mul_(length)
        fresh, part = _orthonormal(rest[some], least)
        new = part.new_zeros(len(x), len(fresh))
        new[some] = part
        return old, fresh, new * length
    basis = known.solid()
    for _ in range(2):
        part = rest @ basis.T
        rest = rest - part @ basis
        old += part
    remaining = torch.linalg.vector_norm(rest, dim=1)
    chosen = (remaining > least).nonzero().squeeze(1)
    if not len(chosen):
        return old * length, Rows(x.new_empty(0, x.shape[1])), x.new_empty(len(x), 0)
    found = _orthonormal(rest[chosen] / remaining[chosen, None], least)[0].solid()
    found -= (found @ basis.T) @ basis
    found /= torch.linalg.vector_norm(found, dim=1, keepdim=True)
    new = torch.zeros(len(x), len(found), dtype=x.dtype)
    new[chosen] = rest[chosen] @ found.T
    return old * length, Rows(found), new * length


def _without(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """What is orthogonal to the others in the rows."""
    if not len(others):
        return rows
    wide = others.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    kept = values > 1e-9 * values[-1]
    unit = ((vectors[:, kept] / values[kept].sqrt()).T @ wide).to(rows.dtype)
    return rows - (rows @ unit.T) @ unit


def _frame(rows: torch.Tensor) -> torch.Tensor:
    """The orthonormal rows next to these: (D D^T)^(-1/2) D."""
    many = 8 * rows.shape[0] > rows.shape[1]  # and then some of them are nearly dependent
    wide = rows.double() if many else rows
    return (_root(wide @ wide.T) @ wide).to(rows.dtype)


def _root(gram: torch.Tensor) -> torch.Tensor:
    """Its power -1/2."""
    values, vectors = torch.linalg.eigh(gram.double())
    found = (vectors * values.clamp_min(1e-12 * values[-1]).rsqrt()) @ vectors.T
    return found.to(gram.dtype)


def _orthonormal(unit: torch.Tensor, least: float) -> tuple[Rows, torch.Tensor]:
    """An orthonormal basis of the span of unit vectors, and them in it."""
    if not len(unit):
        return Rows(unit), unit.new_empty(0, 0)
    many = unit.shape[0] > unit.shape[1]
    if not many:
        values, vectors = torch.linalg.eigh((unit @ unit.T).double())
        if bool(values[0] > SOUND * values[-1]):
            roots = values.sqrt()
            mix, back = (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T  # symmetric:
            # equal eigenvalues may have any vectors, and rounding then would choose them
            return Rows(unit, mix.to(unit.dtype)), back.to(unit.dtype)
    if unit.dtype == torch.float64:  # a Gram matrix would have half of its digits
        left, roots, right = torch.linalg.svd(unit, full_matrices=False)
        kept = roots > least
        return Rows(right[kept]), left[:, kept] * roots[kept]
    wide = unit.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide if many else wide @ wide.T)
    kept = values > least**2
    if many:
        basis = vectors[:, kept].T.to(unit.dtype)
        return Rows(basis), unit @ basis.T
    roots = values[kept].sqrt()
    basis = (vectors[:, kept] / roots).T @ wide
    return Rows(basis.to(unit.dtype)), (vectors[:, kept] * roots).to(unit.dtype)
