"""What :meth:`initium.Plan.write` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Written", "bytes_text"]


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk, and what one call did for it.

    Attributes:
        directory: where the checkpoint is.
        files: the names of all its files of tensors.
        written: those that were written now; the others were there.
        size: the bytes of all files.
        complete: whether all of them are there, and so the index too.
    """

    directory: Path
    files: tuple[str, ...]
    written: tuple[str, ...]
    size: int
    complete: bool

    def __str__(self) -> str:
        there = len(self.files) - len(self.written)
        files = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        lines = [f"{self.directory}: {files}, {bytes_text(self.size)}"]
        if there:
            lines.append(f"{len(self.written)} of them written now")
        if not self.complete:
            lines.append("the index follows when all are there")
        return "; ".join(lines)


def bytes_text(count: int) -> str:
    """A number of bytes for people.

    Example:
        >>> bytes_text(16_060_000_000), bytes_text(17)
        ('16.1 GB', '17 bytes')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
