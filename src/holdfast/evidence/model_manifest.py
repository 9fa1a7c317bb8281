"""The signed content list of a stored model (manifest v2): every file, every tensor in it, and two identities.

``model_id`` names exactly these files under these names; ``content_id`` names the tensors alone, so that a re-sharded
or re-saved copy of the same weights is recognised. Bytes are specified in ``docs/formats/model-manifest.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3

PREDICATE_TYPE = "https://holdfast.dev/model-manifest/v2"
_MODEL, _CONTENT = "holdfast 2026 model id v2", "holdfast 2026 content id v2"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: POSIX path relative to the model, size in bytes, and both digests (lower-case hex)."""

    name: str
    size: int
    sha256: str
    blake3: str


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: where its bytes lie, what they mean, and their plain BLAKE3 (hex).

    ``offset`` counts from the start of ``file`` and ``length`` is in bytes; ``dtype`` is the container's own word in
    lower case (``f32``, ``bf16``, ``q4_k``), ``shape`` is row-major.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    blake3: str


@dataclass(frozen=True)
class ModelManifest:
    """Files sorted by name, tensors by (file, name); ``version`` counts up, so that a policy can refuse older ones."""

    name: str
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...] = ()
    version: int = 0
    base: str = ""  # model id (hex) of the model that this one completes, as an adapter does

    @cached_property
    def model_id(self) -> str:
        """BLAKE3 (hex) over length-prefixed (name, size, digest) of every file."""
        return _identity(_MODEL, ((item.name.encode(), _u64(item.size), _raw(item.blake3)) for item in self.files))

    @cached_property
    def content_id(self) -> str:
        """BLAKE3 (hex) over length-prefixed (name, dtype, shape, digest) of every tensor, sorted by name."""
        ordered = sorted(self.tensors, key=lambda item: (item.name, item.blake3))
        fields = ((i.name.encode(), i.dtype.encode(), b"".join(map(_u64, i.shape)), _raw(i.blake3)) for i in ordered)
        return _identity(_CONTENT, fields)


def _identity(context: str, records: Iterable[tuple[bytes, ...]]) -> str:
    hasher = blake3(derive_key_context=context)
    for record in records:
        for field in record:
            hasher.update(_u64(len(field)))
            hasher.update(field)
    return hasher.hexdigest()


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest)
