"""How a signed model lies in a registry (OCI image-spec 1.1, CNCF ModelPack model-spec): names and media types.

Every file is one uncompressed layer, titled by its path. What is said *about* the model (signatures, the content list,
lineage, outboards) are manifests of their own that refer to it by ``subject``, so it can be added later by others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from holdfast.errors import UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.evidence.beside import is_beside_any, is_canonical

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
OUTBOARD = "application/vnd.holdfast.outboard.v1"
TITLE, FILEPATH = "org.opencontainers.image.title", "org.cncf.model.filepath"
MANIFEST_LIMIT, BUNDLE_LIMIT = 4 << 20, 64 << 20  # bytes
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KINDS = {
    "weight": (".safetensors", ".gguf", ".npz", ".npy", ".onnx", ".bin", ".pt", ".pth"),
    "weight.config": (".json", ".toml", ".yaml", ".yml", ".model", ".jinja"),
    "code": (".py",),
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What OCI says of a blob: media type, SHA-256 digest, size in bytes, and notes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        value |= {"artifactType": self.artifact_type} if self.artifact_type else {}
        return value | ({"annotations": dict(self.annotations)} if self.annotations else {})

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Read a descriptor strictly; raise :class:`UnreadableArtifact` when a field is missing or malformed."""
        if not isinstance(value, dict):
            raise UnreadableArtifact("the registry describes a blob by something that is no object")
        kind, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        notes, artifact = value.get("annotations") or {}, value.get("artifactType") or ""
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise UnreadableArtifact(f"the registry names a blob {digest!r}, which is no SHA-256 digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise UnreadableArtifact(f"the blob {digest[:19]} has no size")
        if not isinstance(kind, str) or not isinstance(artifact, str) or not _texts(notes):
            raise UnreadableArtifact(f"the blob {digest[:19]} is described by malformed fields")
        return cls(kind, digest, size, notes, artifact)


def _texts(notes: object) -> bool:
    return isinstance(notes, dict) and all(isinstance(text, str) for text in notes.values())


def layer_type(name: str) -> str:
    """Return ModelPack's media type for the file ``name``: weights, their configuration, code, or else documents."""
    suffix = PurePosixPath(name).suffix.lower()
    kind = next((kind for kind, suffixes in _KINDS.items() if suffix in suffixes), "doc")
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def is_side_file(name: str) -> bool:
    """Return whether ``name`` says something about the model and is no part of it."""
    return is_beside_any(name)


def title_of(layer: Descriptor) -> str:
    """Return a layer's path if it is relative, canonical and leaves no folder; raise otherwise.

    Raises:
        UnreadableArtifact: no path, or one that could name a file outside the model.
    """
    name = layer.annotations.get(FILEPATH) or layer.annotations.get(TITLE) or ""
    if not is_canonical(name) or "\\" in name:  # which separates folders on another system
        raise UnreadableArtifact(f"the registry holds a file named {name!r}")
    return name


def model_manifest(config: Descriptor, layers: list[Descriptor]) -> bytes:
    """Return the bytes of a model's manifest."""
    return _manifest(MODEL, config, layers, {})


def attachment_manifest(kind: str, empty: Descriptor, layers: list[Descriptor], subject: Descriptor) -> bytes:
    """Return the bytes of a manifest of ``kind`` that says something about ``subject``."""
    about = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    return _manifest(kind, empty, layers, {"subject": about})


def _manifest(kind: str, config: Descriptor, layers: list[Descriptor], more: Mapping[str, Any]) -> bytes:
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config.to_json()}
    return canonical.dumps(value | {"layers": [layer.to_json() for layer in layers]} | dict(more))


def read_layers(data: bytes, kind: str) -> list[Descriptor]:
    """Return the layers of a manifest of ``kind``.

    Raises:
        UnreadableArtifact: no such manifest, or one without layers.
    """
    value = canonical.loads(data, what="manifest")
    if not isinstance(value, dict) or value.get("schemaVersion") != 2 or value.get("artifactType") != kind:
        raise UnreadableArtifact(f"the registry holds no {kind} there", hint="was it pushed by holdfast oci push?")
    if value.get("mediaType", MANIFEST) != MANIFEST or "manifests" in value:
        raise UnreadableArtifact("what the registry holds there reads as an index, too", hint="push it again")
    layers = value.get("layers")
    if not isinstance(layers, list) or not layers:
        raise UnreadableArtifact("the manifest in the registry lists no files")
    return [Descriptor.from_json(layer) for layer in layers]
