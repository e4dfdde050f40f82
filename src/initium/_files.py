"""Writing a text file at once or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from initium.errors import OutputError

__all__ = ["write_text"]


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8, at once or not at all; returns the path.

    The text goes to a temporary file in the same directory, is flushed to the disk, and is then
    renamed over ``path``: a reader sees the old file or the new one, never half of one. A link is
    followed; a pipe or a device such as ``/dev/stdout`` is written to as it stands.

    Raises:
        OutputError: the directory is missing, ``path`` is a directory, or nothing can be written
            there. A file that was there before is left as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     write_text(Path(directory) / "report.json", "{}").read_text()
        '{}'
    """
    path = Path(path)
    if not os.path.isdir(path.parent):
        raise OutputError(
            f"the directory {str(path.parent)!r} does not exist",
            where=str(path),
            fix="create it first, or choose another path",
        )
    if os.path.isdir(path):
        raise OutputError("this is a directory", where=str(path), fix="add the name of a file")
    data = text.encode("utf-8", "backslashreplace")
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot be written: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            fix="check the path, the permissions and the free space of its directory",
        ) from error
    return path


def _replace(target: Path, data: bytes) -> None:
    temporary = target.parent / f".initium-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
