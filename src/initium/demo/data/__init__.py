"""The embedded data of the demo: real handwritten digits and the start of a real book.

Covered: loading both from the package, verified by checksum, as fixed and seeded torch batches.
Not covered: splits, augmentation, anything that a training script would need. Licences and sources
are in ``LICENSES.md`` beside the files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from functools import cache
from importlib import resources

import numpy as np
import torch

from initium.errors import InputError

__all__ = ["ALPHABET", "digits", "text", "text_batch", "verified"]

CHECKSUMS = {
    "digits.npz": "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e",
    "alice.txt.gz": "1aef375eb7203c2d46e6f9c54f7b7eae9ce425b5597b9d4375e7c2047671e333",
}
"""SHA-256 of the bytes of each data file."""

ALPHABET = "\n !\"'()*,-.:;?ABCDEFGHIJKLMNOPQRSTUVWYZ_`abcdefghijklmnopqrstuvwxyz"
"""The 67 characters of the text, in the order of their ids."""


def verified(name: str, data: bytes) -> bytes:
    """``data`` if it is what this version of initium ships as ``name``.

    Raises:
        InputError: the bytes have another checksum.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != CHECKSUMS[name]:
        raise InputError(
            "the embedded data file is damaged: its SHA-256 is not the one that was shipped",
            where=f"initium/demo/data/{name}",
            value=found[:12],
            choices=[CHECKSUMS[name][:12]],
            fix="install initium again",
        )
    return data


def _read(name: str) -> bytes:
    file = resources.files(__package__).joinpath(name)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(
            "the embedded data file cannot be read",
            where=f"initium/demo/data/{name}",
            value=str(error),
            fix="install initium again",
        ) from error
    return verified(name, data)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(io.BytesIO(_read("digits.npz")), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


@cache
def text() -> str:
    """Chapters I to VI of *Alice's Adventures in Wonderland*, 73,531 characters."""
    return gzip.decompress(_read("alice.txt.gz")).decode("ascii")


def digits(count: int = 128, *, flat: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``count`` handwritten digits, standardised over the whole data set.

    Args:
        count: at most 1797.
        flat: one row of pixels per image.

    Returns:
        Images, float32 ``[count, 1, 8, 8]`` or ``[count, 64]``, and labels, int64 ``[count]``.

    Example:
        >>> images, labels = digits(4)
        >>> tuple(images.shape), labels.tolist()
        ((4, 1, 8, 8), [0, 1, 2, 3])
    """
    images, labels = _digits()
    if not 1 <= count <= len(labels):
        raise InputError(f"there are 1 to {len(labels)} digits", where="count", value=count)
    scaled = (images - images.mean()) / images.std()
    batch = torch.from_numpy(scaled[:count].astype(np.float32))
    shape = (count, 64) if flat else (count, 1, 8, 8)
    return batch.reshape(shape), torch.from_numpy(labels[:count].astype(np.int64))


def text_batch(count: int = 16, length: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` pieces of the text, evenly spaced, as character ids with next-character targets.

    Returns:
        Ids and targets, both int64 ``[count, length]``; ``targets[n, t]`` follows ``ids[n, t]``.

    Example:
        >>> ids, targets = text_batch(2, 9)
        >>> "".join(ALPHABET[i] for i in ids[0]), "".join(ALPHABET[i] for i in targets[0])
        ('CHAPTER I', 'HAPTER I\\n')
    """
    book = text()
    if count < 1 or length < 1 or count * (length + 1) > len(book):
        raise InputError(
            f"the text has {len(book)} characters, too few for this batch",
            where="text_batch",
            value=(count, length),
            fix="ask for at least one and at most that many characters in all",
        )
    ids = torch.tensor([ALPHABET.index(character) for character in book])
    starts = torch.arange(count) * (len(book) // count)
    pieces = ids[starts[:, None] + torch.arange(length + 1)]
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()
