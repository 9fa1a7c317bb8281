"""Stand-ins for ``safetensors.torch.load_file`` and ``safetensors.safe_open`` that hand out signed bytes only.

from holdfast.signing.opened.safetensors import load_file
state = load_file("model/model.safetensors", trust="author.pub")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import InvalidConfig
from holdfast.evidence.containers.safetensors import read_header
from holdfast.signing.opened.locate import open_containing
from holdfast.signing.opened.model import VerifiedModel
from holdfast.signing.opened.slices import VerifiedSlice
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Name = str | os.PathLike[str]


def load_file(
    filename: Name,
    device: str | int | torch.device = "cpu",
    *,
    trust: TrustSources | Threshold,
    backend: str = "pread",
    signature: bytes | Path | str | None = None,
    threads: int = 1,
) -> dict[str, Tensor]:
    """Return all tensors of a signed file, each verified in the memory that is returned; all of them or none.

    Args:
        filename: a ``.safetensors`` file, signed by itself or as part of the folder around it.
        device: where the tensors go after they were verified on the CPU.
        trust: who must have signed.
        backend: ``"pread"`` alone; a mapped file may change after it was verified.
        signature: bundle; by default beside the file, else in the nearest folder above that is signed.
        threads: how many tensors are read at a time.

    Raises:
        VerificationError: see :func:`holdfast.signing.opened.open_verified`.
    """
    if backend != "pread":
        raise InvalidConfig(f"{backend!r} cannot be verified", hint='leave backend away: "pread" is the only one')
    with open_containing(Path(filename), trust, signature) as (model, file):
        tensors = model.get_tensors(file=file, threads=threads)
    return {name: _moved(tensor, device) for name, tensor in tensors.items()}


@contextmanager
def safe_open(
    filename: Name,
    framework: str = "pt",
    device: str | int | torch.device = "cpu",
    *,
    trust: TrustSources | Threshold,
    signature: bytes | Path | str | None = None,
) -> Iterator[VerifiedFile]:
    """Open a signed file for reading tensor by tensor, as ``safetensors.safe_open`` does.

    Args:
        filename: a ``.safetensors`` file, signed by itself or as part of the folder around it.
        framework: ``"pt"`` alone; :meth:`VerifiedModel.get_array` gives numpy arrays.
        device: where tensors go after they were verified on the CPU; slices stay there.
        trust: who must have signed.
        signature: bundle; by default beside the file, else in the nearest folder above that is signed.

    Raises:
        VerificationError: see :func:`holdfast.signing.opened.open_verified`.
    """
    if framework not in {"pt", "torch", "pytorch"}:
        raise InvalidConfig(f"framework {framework!r}", hint='"pt"; open_verified(...).get_array gives numpy arrays')
    with open_containing(Path(filename), trust, signature) as (model, file):
        yield VerifiedFile(model, file, device)


class VerifiedFile:
    """One signed safetensors file, with the methods of ``safe_open``."""

    def __init__(self, model: VerifiedModel, file: str, device: str | int | torch.device) -> None:
        self._model, self._file, self._device = model, file, device

    def keys(self) -> list[str]:
        """Return the names of the tensors, sorted."""
        return self._model.keys(self._file)

    def offset_keys(self) -> list[str]:
        """Return the names of the tensors in the order of their bytes."""
        entries = self._model.entries(self._file)
        return sorted(entries, key=lambda name: (entries[name].offset, name))

    def get_tensor(self, name: str) -> Tensor:
        """Return one verified tensor."""
        return _moved(self._model.get_tensor(name, file=self._file), self._device)

    def get_slice(self, name: str) -> VerifiedSlice:
        """Return one tensor to index; its parts are verified on the CPU and stay there."""
        return self._model.get_slice(name, file=self._file)

    def metadata(self) -> dict[str, str] | None:
        """Return the header's own ``__metadata__``, verified by the outboard, or by reading all of the file."""
        return dict(verified_metadata(self._model, self._file)) or None


def verified_metadata(model: VerifiedModel, file: str) -> Mapping[str, str]:
    """Return the ``__metadata__`` of a signed safetensors file.

    Raises:
        DigestMismatch: the header is not the signed one.
    """
    entries = model.entries(file).values()
    size = model.size(file)
    front = model.range(file, 0, min((entry.offset for entry in entries), default=size))
    return read_header(lambda offset, length: front[offset : offset + length], size).metadata


def _moved(tensor: Tensor, device: str | int | torch.device) -> Tensor:
    return tensor if device == "cpu" else tensor.to(device)
