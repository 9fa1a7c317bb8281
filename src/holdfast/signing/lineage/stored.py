"""The identity of a model, in memory or on disk, without a framework for the latter.

A Holdfast model is named by the digest of its manifest, the same in memory and for the folder it was saved to: it can
be computed from ``model.safetensors`` and ``model.json`` alone. Files as such are named by manifest v2's model id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import Wanted, digest_file, digest_tensor, hash_tree
from holdfast.evidence.lineage import Step
from holdfast.evidence.manifest import Leaf, Manifest, fact
from holdfast.evidence.provenance import MODEL_ID
from holdfast.evidence.statement import Subject
from holdfast.signing.manifests import manifest_of, unsigned_names

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, DESCRIPTION, MODEL_TYPE = "model.safetensors", "model.json", "holdfast.model/v1"
_LENGTH = 8  # bytes that say how long the header is
_MAX_HEADER = 100 << 20
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1),
    "U16": ("uint16", 2), "U32": ("uint32", 4), "U64": ("uint64", 8), "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "C64": ("complex64", 8),
}  # fmt: skip


def identify(model: nn.Module | Path | str, name: str | None = None) -> Subject:
    """Return the subject that statements about ``model`` name.

    Args:
        model: a module; an artifact folder (``blake3`` is the digest of the manifest); any other folder (its model id);
            or a file (``blake3`` and ``sha256`` of its bytes).
        name: shown to people; the file's or folder's own by default.

    Raises:
        UnreadableArtifact, UnsupportedVersion: nothing there, or a malformed artifact.
    """
    if not isinstance(model, Path | str):
        from holdfast.models import model_subject

        return model_subject(model, name or "model")
    path = Path(model)
    shown = name or path.resolve().name
    if not path.is_dir():
        digest = digest_file(path)
        return Subject(shown, {"blake3": digest.blake3, "sha256": digest.sha256})
    found = {MODEL_ID: _model_id(path)}
    if (path / DESCRIPTION).is_file():
        found["blake3"] = stored_manifest(path).digest
    return Subject(shown, found)


def _model_id(folder: Path) -> str:
    found = hash_tree(folder, Wanted(algorithms=("blake3",), tensors=False), exclude=unsigned_names(folder))
    return manifest_of(folder, found).model_id


def stored_steps(folder: Path | str) -> tuple[Step, ...]:
    """Return the lineage that an artifact's ``model.json`` tells."""
    return tuple(Step.from_json(item) for item in _description(Path(folder))["lineage"])


def stored_manifest(folder: Path | str) -> Manifest:
    """Return the manifest that the loaded model would have.

    Raises:
        UnreadableArtifact: a file is missing or malformed.
        UnsupportedVersion: another type of description.
    """
    folder = Path(folder)
    facts = [fact(name, value) for name, value in _description(folder).items()]
    return Manifest.of([*facts, *_tensors(folder / WEIGHTS)])


def _description(folder: Path) -> dict[str, Any]:
    value = canonical.loads(read_bytes(folder / DESCRIPTION, "model description"), what=str(folder / DESCRIPTION))
    if not isinstance(value, dict) or value.get("type") != MODEL_TYPE:
        raise UnsupportedVersion(f"{folder / DESCRIPTION} is not a {MODEL_TYPE} description")
    if not isinstance(value.get("lineage"), list):
        raise UnreadableArtifact(f"{folder / DESCRIPTION} has no lineage")
    return value


def _tensors(path: Path) -> list[Leaf]:
    """Digest the tensors of a safetensors file one by one."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - _LENGTH):
                raise UnreadableArtifact(f"{path} is not a whole safetensors file")
            header = canonical.loads(file.read(length), what=str(path), max_bytes=_MAX_HEADER)
            start = _LENGTH + length
            leaves = []
            for name, dtype, shape, begin, end in _slots(header, size - start, path):
                file.seek(start + begin)
                leaves.append(Leaf("tensor", name, digest_tensor(name, dtype, shape, file.read(end - begin))))
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {path}: {error.strerror or error}") from error
    return leaves


def _slots(header: object, room: int, path: Path) -> list[tuple[str, str, list[int], int, int]]:
    """Return (name, dtype, shape, begin, end) of every tensor in file order, which leave no byte between them."""
    if not isinstance(header, dict):
        raise UnreadableArtifact(f"{path} is not a whole safetensors file")
    found = [_slot(name, item, path) for name, item in header.items() if name != "__metadata__"]
    found.sort(key=lambda slot: (slot[3], slot[4], slot[0]))
    position = 0
    for name, _, _, begin, end in found:
        if begin != position:
            raise UnreadableArtifact(f"{name} in {path} overlaps another tensor or leaves a hole before it")
        position = end
    if position != room:
        raise UnreadableArtifact(f"{path} holds {room} bytes for {position} bytes of tensors")
    return found


def _slot(name: str, item: Mapping[str, Any], path: Path) -> tuple[str, str, list[int], int, int]:
    problem = UnreadableArtifact(f"{name} in {path} is malformed")
    if not isinstance(item, dict) or item.get("dtype") not in _DTYPES:
        raise problem
    shape, offsets = item.get("shape"), item.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise problem
    dtype, width = _DTYPES[item["dtype"]]
    if offsets[1] - offsets[0] != width * math.prod(shape):
        raise problem
    return name, dtype, shape, offsets[0], offsets[1]


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    # of bounded length, because the product of millions of sides would take hours to work out
    return isinstance(value, list) and len(value) <= 64 and all(type(item) is int and item >= 0 for item in value)
