"""Unblinding vectors on disk, sealed: each file opens once, as its own number, under a key of this process.

Every spill has a folder of its own inside the one it is given, so sessions may be given the same one. It goes with the
session; what a killed process leaves is worthless and may be removed.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast import _files
from holdfast.errors import IntegrityError, InvalidConfig, StorageError
from holdfast.seeds import Entropy
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.sealing.aead import KEY_BYTES, Sealer


class Spill:
    """A private folder of sealed vectors; what it holds is worthless to anybody else, and to the next process.

    Args:
        folder: where to make it; made itself if need be.
        limit: most bytes to hold.

    Attributes:
        close: removes it, and so does the end of this object or of the program.

    Raises:
        StorageError: the disk refuses.
        InvalidConfig: a limit below one byte.
    """

    def __init__(self, folder: Path | str, *, limit: int) -> None:
        if limit < 1:
            raise InvalidConfig(f"a spill folder of {limit} bytes holds nothing")
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="pads-", dir=_files.make_folder(folder)))  # 0700
        except OSError as error:
            raise StorageError(f"cannot spill to {folder}: {error.strerror or error}") from error
        self._limit, self._used, self._next = limit, 0, 0
        self._sealer = Sealer(Entropy().bytes(KEY_BYTES))
        self.close = OwnProcess("a spill folder").finalize(self, shutil.rmtree, self._folder, True)

    @property
    def left(self) -> int:
        """Bytes that still fit."""
        return self._limit - self._used

    def put(self, shift: Tensor) -> int:
        """Seal an int32 vector; return the number to :meth:`take` it by.

        Raises:
            StorageError: the folder is full, or the disk is.
        """
        raw = shift.cpu().contiguous().numpy().astype("<i4", copy=False).tobytes()
        if len(raw) > self.left:
            raise StorageError(f"the spill folder {self._folder} is full at {self._limit} bytes")
        number, self._next = self._next, self._next + 1
        try:
            self._path(number).write_bytes(self._sealer.seal(raw, self._what(number)))
        except OSError as error:
            raise StorageError(f"cannot spill to {self._folder}: {error.strerror or error}") from error
        self._used += len(raw)
        return number

    def take(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """Return vector ``number`` and remove it.

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
