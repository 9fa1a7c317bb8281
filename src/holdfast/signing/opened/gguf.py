"""Signed GGUF files: verified metadata, and tensors one by one; block formats stay packed, as rows of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.evidence.containers.gguf import Value, read_header
from holdfast.evidence.model_manifest import TensorEntry
from holdfast.signing.opened.locate import open_containing
from holdfast.signing.opened.model import VerifiedModel
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class VerifiedGguf:
    """One signed GGUF file, open; ``tensors`` says what each tensor is, without reading it."""

    model: VerifiedModel
    file: str

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Name -> signed type (``q4_k``), shape (slowest side first) and place."""
        return self.model.entries(self.file)

    @cached_property
    def metadata(self) -> Mapping[str, Value]:
        """The key-value pairs, verified by the outboard, or by reading all of the file."""
        size = self.model.size(self.file)
        front = self.model.range(self.file, 0, min((e.offset for e in self.tensors.values()), default=size))
        return read_header(lambda offset, length: front[offset : offset + length], size).metadata

    def get_array(self, name: str) -> np.ndarray[Any, Any]:
        """Return one verified tensor; that of a block format as uint8 with the bytes of a row on the last side."""
        return self.model.get_array(name, file=self.file)


@contextmanager
def open_gguf(
    path: str | os.PathLike[str], *, trust: TrustSources | Threshold, signature: bytes | Path | str | None = None
) -> Iterator[VerifiedGguf]:
    """Open a signed ``.gguf`` file for reading tensor by tensor.

    Raises:
        VerificationError: see :func:`holdfast.signing.opened.open_verified`.
    """
    with open_containing(Path(path), trust, signature) as (model, file):
        yield VerifiedGguf(model, file)
