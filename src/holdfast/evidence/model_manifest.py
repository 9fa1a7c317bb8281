"""The signed content list of a stored model (manifest v2): every file, every tensor in it, and two identities.

``model_id`` names exactly these files under these names; ``content_id`` names the tensors alone, so that a re-sharded
or re-saved copy of the same weights is recognised. Bytes are specified in ``docs/formats/model-manifest.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from blake3 import blake3

from holdfast.errors import SignatureInvalid, UnsupportedVersion
from holdfast.evidence.beside import is_canonical
from holdfast.evidence.statement import Statement, Subject

PREDICATE_TYPE = "https://holdfast.dev/model-manifest/v2"
MODEL_ID, CONTENT_ID = "holdfastModelId", "holdfastContentId"  # names of digests in statements
_MODEL, _CONTENT = "holdfast 2026 model id v2", "holdfast 2026 content id v2"
_MOST = 2**53  # sizes, offsets, sides and versions stay below: what JSON numbers hold exactly
_MOST_SIDES = 64
_HEX = re.compile(r"[0-9a-f]{64}")
_DTYPE = re.compile(r"[a-z0-9_]{1,32}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: POSIX path relative to the model, size in bytes, and both digests (lower-case hex).

    ``sha256`` is empty where it was not computed.
    """

    name: str
    size: int
    sha256: str
    blake3: str
    outboard: str = ""  # root (hex) of the file's outboard, where it has one: docs/formats/outboard.md


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
    ignore: tuple[str, ...] = ()  # paths that the signer chose to leave unsigned, sorted

    @classmethod
    def of(
        cls,
        name: str,
        files: Iterable[FileEntry],
        tensors: Iterable[TensorEntry] = (),
        *,
        version: int = 0,
        base: str = "",
        ignore: Iterable[str] = (),
    ) -> ModelManifest:
        """Sort the entries into a manifest.

        Raises:
            SignatureInvalid: it would not be well-formed, see :meth:`from_statement`.
        """
        ordered = tuple(sorted(files, key=lambda item: item.name))
        manifest = cls(name, ordered, tuple(sorted(tensors, key=_place)), version, base, tuple(sorted(set(ignore))))
        _require_well_formed(manifest)
        return manifest

    @cached_property
    def model_id(self) -> str:
        """BLAKE3 (hex) over length-prefixed (name, size, digest) of every file."""
        return _identity(_MODEL, ((item.name.encode(), _u64(item.size), _raw(item.blake3)) for item in self.files))

    @cached_property
    def content_id(self) -> str:
        """BLAKE3 (hex) over length-prefixed (name, dtype, shape, digest) of every tensor, sorted by name.

        Without tensors it names nothing, and statements leave it out.
        """
        ordered = sorted(self.tensors, key=lambda item: (item.name, item.blake3, item.dtype, item.shape))
        fields = ((i.name.encode(), i.dtype.encode(), b"".join(map(_u64, i.shape)), _raw(i.blake3)) for i in ordered)
        return _identity(_CONTENT, fields)

    @property
    def digests(self) -> dict[str, str]:
        """The identities by the names they have in statements."""
        return {MODEL_ID: self.model_id} | ({CONTENT_ID: self.content_id} if self.tensors else {})

    def to_statement(self) -> Statement:
        """Return the statement to sign; equal manifests give equal bytes.

        Raises:
            SignatureInvalid: the manifest is not well-formed, see :meth:`from_statement`.
        """
        _require_well_formed(self)
        predicate = {
            "name": self.name,
            "version": self.version,
            "base": self.base,
            "ignore": list(self.ignore),
            "files": [_file_json(item) for item in self.files],
            "tensors": [_tensor_json(item) for item in self.tensors],
        }
        return Statement((Subject(self.name, self.digests),), PREDICATE_TYPE, predicate)

    @classmethod
    def from_statement(cls, statement: Statement) -> ModelManifest:
        """Read a manifest strictly; every well-formed one has exactly one statement.

        Raises:
            UnsupportedVersion: the statement is about something else.
            SignatureInvalid: keys, types, order, names, bounds or identities are not those a writer makes.
        """
        if statement.predicate_type != PREDICATE_TYPE:
            raise UnsupportedVersion(f"{statement.predicate_type!r} is no manifest", hint=f"expected {PREDICATE_TYPE}")
        value = _object(statement.predicate, _PREDICATE)
        files = tuple(_file(item) for item in _list(value["files"]))
        tensors = tuple(_tensor(item) for item in _list(value["tensors"]))
        ignore = tuple(_list(value["ignore"]))
        manifest = cls(value["name"], files, tensors, value["version"], value["base"], ignore)
        _require_well_formed(manifest)
        if statement.subjects != (Subject(manifest.name, manifest.digests),):
            raise _malformed("its subject is not what it lists")
        return manifest


def _place(item: TensorEntry) -> tuple[str, str]:
    return (item.file, item.name)


_FILE = {"name", "size", "blake3"}
_FILE_OPTIONAL = {"sha256", "outboard"}
_TENSOR = {"file", "name", "dtype", "shape", "offset", "length", "blake3"}
_PREDICATE = {"name", "version", "base", "ignore", "files", "tensors"}


def _file_json(item: FileEntry) -> dict[str, Any]:
    optional = {key: getattr(item, key) for key in sorted(_FILE_OPTIONAL) if getattr(item, key)}
    return {"name": item.name, "size": item.size, "blake3": item.blake3} | optional


def _tensor_json(item: TensorEntry) -> dict[str, Any]:
    return {key: getattr(item, key) for key in sorted(_TENSOR)} | {"shape": list(item.shape)}


def _file(value: Any) -> FileEntry:
    fields = _object(value, _FILE, _FILE_OPTIONAL)
    further = {key: fields[key] for key in _FILE_OPTIONAL if key in fields}
    _require(all(map(_is_hex, further.values())), "a further digest of a file")  # absent, never empty
    return FileEntry(**{"sha256": "", **fields})


def _tensor(value: Any) -> TensorEntry:
    fields = _object(value, _TENSOR)
    return TensorEntry(**{**fields, "shape": tuple(_list(fields["shape"]))})


def _object(value: Any, needed: set[str], optional: Iterable[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not needed <= value.keys() <= needed | set(optional):
        raise _malformed(f"it holds something else than {', '.join(sorted(needed))}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed("a list is missing")
    return value


def _malformed(why: str) -> SignatureInvalid:
    return SignatureInvalid(f"the signed manifest is malformed: {why}")


def _require_well_formed(manifest: ModelManifest) -> None:
    """Raise :class:`SignatureInvalid` unless types, names, order and bounds are those of a real model."""
    _require(_is_text(manifest.name) and _is_natural(manifest.version), "name or version")
    _require(manifest.base == "" or _is_hex(manifest.base), "the base is no model id")
    _require(bool(manifest.files), "it lists no files")
    for item in manifest.files:
        _require_file(item)
    names = [item.name for item in manifest.files]
    _require(all(before < after for before, after in pairwise(names)), "files out of order, or one twice")
    folders = {name[:place] for name in names for place in range(len(name)) if name[place] == "/"}
    _require(not folders & set(names), "a file lies below a file")
    _require_tensors(manifest)
    _require(all(map(is_canonical, manifest.ignore)), "an ignored path")
    _require(all(before < after for before, after in pairwise(manifest.ignore)), "ignored paths out of order")
    _require(not set(manifest.ignore) & (folders | set(names)), "a path is signed and ignored")


def _require_file(item: FileEntry) -> None:
    _require(is_canonical(item.name), f"the file name {item.name!r}")
    _require(_is_natural(item.size) and _is_hex(item.blake3), f"size or digest of {item.name}")
    optional = all(value == "" or _is_hex(value) for value in (item.sha256, item.outboard))
    _require(optional, f"a further digest of {item.name}")


def _require_tensors(manifest: ModelManifest) -> None:
    sizes = {item.name: item.size for item in manifest.files}
    for item in manifest.tensors:
        _require(isinstance(item.file, str) and item.file in sizes, f"a tensor of the file {item.file!r}")
        _require(_is_text(item.name) and isinstance(item.dtype, str) and bool(_DTYPE.fullmatch(item.dtype)), "a tensor")
        shape = len(item.shape) <= _MOST_SIDES and all(map(_is_natural, item.shape))
        bounds = _is_natural(item.offset) and _is_natural(item.length)
        _require(shape and bounds and _is_hex(item.blake3), f"shape, place or digest of {item.name}")
        _require(item.offset + item.length <= sizes[item.file], f"{item.name} leaves its file")
    places = [_place(item) for item in manifest.tensors]
    _require(all(before < after for before, after in pairwise(places)), "tensors out of order, or one twice")
    spans = sorted((item.file, item.offset, item.offset + item.length) for item in manifest.tensors if item.length)
    apart = all(before[0] != after[0] or before[2] <= after[1] for before, after in pairwise(spans))
    _require(apart, "two tensors share a byte")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _malformed(what)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which a JSON escape can spell
        return False
    return True


def _is_natural(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST  # a bool is an int to Python, not here


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


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
