"""A large file written in the background, past the page cache, and there whole or not at all.

While one buffer is written by a second thread, the next is filled. Linux writes straight from the
buffers to the disk (``O_DIRECT``) where the file system allows that; elsewhere through the cache.
Not covered: systems that are not POSIX.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from initium.errors import OutputError

__all__ = ["BUFFER", "buffers", "temporary_of", "write_file"]

BUFFER = 32 << 20
"""Bytes that are filled and written at a time."""
BLOCK = 4096
DIRECT = getattr(os, "O_DIRECT", 0)
HELD = (errno.EWOULDBLOCK, errno.EACCES)


def buffers() -> tuple[np.ndarray, np.ndarray]:
    """Two buffers of :data:`BUFFER` bytes, aligned to pages, for one file after another."""
    first, second = (np.frombuffer(mmap.mmap(-1, BUFFER), np.uint8) for _ in range(2))
    return first, second


def temporary_of(path: Path) -> Path:
    """Where a file is written before it gets its name: the same place every time, so that a later
    write takes over what a killed one has left."""
    return path.with_name(f".{path.name}.tmp")


def write_file(
    path: Path,
    size: int,
    fill: Callable[[np.ndarray, int], None],
    memory: tuple[np.ndarray, np.ndarray],
    progress: Callable[[int], None],
) -> None:
    """Write ``size`` bytes to ``path``.

    Args:
        path: a file that is there is replaced.
        size: of the file.
        fill: called with a piece of memory and the offset of its first byte in the file, in turn.
        memory: two buffers from :func:`buffers`.
        progress: called with the number of bytes of each piece.

    Raises:
        OSError: from the system. The temporary file is gone then.
        OutputError: another process writes the same file.
    """
    temporary = temporary_of(path)
    with _alone(temporary) as file:
        try:
            _write(file, size, fill, memory, progress)
            os.ftruncate(file, size)
            os.fsync(file)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_names(path.parent)


def _write(
    file: int,
    size: int,
    fill: Callable[[np.ndarray, int], None],
    memory: tuple[np.ndarray, np.ndarray],
    progress: Callable[[int], None],
) -> None:
    with ThreadPoolExecutor(1) as writer:
        under_way: list[Future[None] | None] = [None, None]
        for number, offset in enumerate(range(0, size, BUFFER)):
            before = under_way[number % 2]
            if before is not None:
                before.result()
            buffer = memory[number % 2]
            length = min(BUFFER, size - offset)
            fill(buffer[:length], offset)
            whole_blocks = buffer[: length + -length % BLOCK]
            under_way[number % 2] = writer.submit(_put, file, whole_blocks)
            progress(length)
        for last in under_way:
            if last is not None:
                last.result()


def _put(file: int, buffer: np.ndarray) -> None:
    """Append the buffer; through the cache if the file system refuses to do without."""
    rest = buffer.data
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except OSError as error:
            flags = fcntl.fcntl(file, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & DIRECT:
                raise
            fcntl.fcntl(file, fcntl.F_SETFL, flags & ~DIRECT)


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """An empty file that no other process has open for the same purpose."""
    file = _open(path)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = path.exists() and os.path.samestat(os.fstat(file), path.stat())
        except OSError as error:
            alone = error.errno not in HELD  # a file system without locks
        if not alone:
            raise OutputError(
                "is being written by another process",
                where=str(path),
                fix="wait for it, or give every process its own part=(i, n)",
            )
        os.ftruncate(file, 0)
        yield file
    finally:
        os.close(file)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(path, flags | DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)


def _sync_names(directory: Path) -> None:
    """Make the names of a directory last, where the file system can do that."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
