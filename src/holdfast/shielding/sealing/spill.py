"""Unblinding vectors on disk, sealed: each file opens once, as its own number, under a key of this process."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast import _files
from holdfast.errors import IntegrityError, StorageError
from holdfast.seeds import Entropy
from holdfast.shielding.sealing.aead import KEY_BYTES, Sealer


class Spill:
    """A folder of sealed vectors; what it holds is worthless to anybody else, and to the next process.

    Args:
        folder: made if need be; files left by an earlier process are not read.
        limit: most bytes to hold.
    """

    def __init__(self, folder: Path | str, *, limit: int) -> None:
        self._folder, self._limit, self._used = _files.make_folder(folder), limit, 0
        self._sealer = Sealer(Entropy().bytes(KEY_BYTES))

    def fits(self, size: int) -> bool:
        """Say whether ``size`` more bytes fit."""
        return self._used + size <= self._limit

    def put(self, number: int, shift: Tensor) -> None:
        """Seal the int32 vector of mask ``number``.

        Raises:
            StorageError: the folder is full, or the disk is.
        """
        raw = shift.cpu().contiguous().numpy().astype("<i4", copy=False).tobytes()
        if not self.fits(len(raw)):
            raise StorageError(f"the spill folder {self._folder} is full at {self._limit} bytes")
        try:
            self._path(number).write_bytes(self._sealer.seal(raw, self._what(number)))
        except OSError as error:
            raise StorageError(f"cannot spill to {self._folder}: {error.strerror or error}") from error
        self._used += len(raw)

    def take(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """Return the vector of mask ``number`` and remove it.

        Raises:
            IntegrityError: it was changed, or put there by somebody else, or is gone.
        """
        path = self._path(number)
        try:
            sealed = path.read_bytes()
        except OSError as error:
            raise IntegrityError(f"unblinding vector {number} is gone from {self._folder}") from error
        raw = self._sealer.open(sealed, self._what(number), name=f"unblinding vector {number}")
        with suppress(OSError):
            path.unlink()
        if len(raw) != 4 * math.prod(shape):
            raise IntegrityError(f"unblinding vector {number} has {len(raw)} bytes")
        self._used -= len(raw)
        return torch.from_numpy(np.frombuffer(raw, dtype="<i4").astype(np.int32)).view(shape)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016x}.pad"

    def _what(self, number: int) -> bytes:
        return b"unblinding vector " + str(number).encode()
