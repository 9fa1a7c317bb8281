"""Signed NPZ archives as numpy arrays; arrays of objects, which are pickles, are refused before anything opens them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.evidence.containers import npz
from holdfast.signing.opened.locate import open_containing
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    import numpy as np


def load_npz(
    path: str | os.PathLike[str], *, trust: TrustSources | Threshold, signature: bytes | Path | str | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays of a signed ``.npz`` file by name, compressed ones too.

    The whole file is read once into private memory, verified there, and parsed from that same memory.

    Raises:
        DigestMismatch: other bytes than the signed ones.
        UnsafeArtifact: an array of Python objects.
    """
    import numpy as np

    with open_containing(Path(path), trust, signature) as (model, file):
        data = bytes(model.file(file))
    npz.index(lambda offset, length: data[offset : offset + length], len(data))  # refuses what is no plain archive
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
