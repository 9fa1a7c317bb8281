"""The identity of a model, in memory or on disk, without a framework for the latter.

A Holdfast model is named by the digest of its manifest, the same in memory and for the folder it was saved to: it can
be computed from ``model.safetensors`` and ``model.json`` alone. Files as such are named by manifest v2's model id.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.containers.safetensors import index
from holdfast.evidence.containers.slot import Slot
from holdfast.evidence.digest import Wanted, digest_file, digest_tensor, hash_tree
from holdfast.evidence.lineage import Step
from holdfast.evidence.manifest import Leaf, Manifest, fact
from holdfast.evidence.provenance import MODEL_ID
from holdfast.evidence.statement import Subject
from holdfast.signing.manifests import manifest_of, unsigned_names

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, DESCRIPTION, MODEL_TYPE = "model.safetensors", "model.json", "holdfast.model/v1"
# the container's word for an element -> torch's, which the digest of a tensor binds
_DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64", "bool": "bool",
    "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "c64": "complex64",
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
        with path.open("rb") as file:

            def read(start: int, length: int) -> bytes:
                file.seek(start)
                return file.read(length)

            slots = index(read, path.stat().st_size)
            return [Leaf("tensor", slot.name, _digest(slot, read(slot.offset, slot.length), path)) for slot in slots]
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {path}: {error.strerror or error}") from error


def _digest(slot: Slot, data: bytes, path: Path) -> str:
    if slot.dtype not in _DTYPES:
        raise UnreadableArtifact(f"{slot.name} in {path} is of type {slot.dtype}, which no model of ours has")
    return digest_tensor(slot.name, _DTYPES[slot.dtype], slot.shape, data)
