"""What a signature says a model holds: files and tensors, from a manifest (v2) or a plain OpenSSF signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import RecordMissing, SignatureInvalid, UnsupportedVersion
from holdfast.evidence.beside import default_manifest, default_signature, is_canonical
from holdfast.evidence.model_manifest import PREDICATE_TYPE, ModelManifest, TensorEntry
from holdfast.signing.bundle import Verified, verify_bundle
from holdfast.signing.oms import read_statement
from holdfast.signing.oms.serialization import FILES, HEX_DIGITS
from holdfast.signing.trusts import Threshold, TrustSources

_LIMIT = 64 << 20  # bytes of a signature


@dataclass(frozen=True, slots=True)
class Listed:
    """One signed file: its digest (hex) under ``algorithm``, and its size and outboard root where they are signed."""

    name: str
    algorithm: str
    digest: str
    size: int | None = None
    outboard: str = ""


@dataclass(frozen=True)
class Content:
    """Everything signed about one model; the bytes have yet to be compared.

    Attributes:
        proof: the statement, and who signed it.
        files: by name.
        tensors: file -> name -> entry, for the files whose tensors are signed one by one.
        manifest: the manifest, or None for a plain OpenSSF signature, which knows files only.
    """

    proof: Verified
    files: Mapping[str, Listed]
    tensors: Mapping[str, Mapping[str, TensorEntry]] = field(default_factory=dict)
    manifest: ModelManifest | None = None


def signatures_beside(model: Path) -> tuple[Path, Path]:
    """Return where the signed manifest and the OpenSSF signature of a folder or file lie by default."""
    return default_manifest(model), default_signature(model)


def read_content(model: Path, trust: TrustSources | Threshold, signature: bytes | Path | str | None = None) -> Content:
    """Return what ``trust`` signed about ``model``; the manifest if there is one, otherwise the OpenSSF signature.

    Raises:
        RecordMissing: there is no signature.
        SignatureInvalid, SignerUntrusted: see :func:`verify_bundle`; or the statement contradicts itself.
        UnsupportedVersion: an OpenSSF signature over shards, of which no file can be verified by itself.
    """
    proof = verify_bundle(_bundle(model, signature), trust)
    if proof.statement.predicate_type != PREDICATE_TYPE:
        listing = read_statement(proof.statement)
        if listing.how.method != FILES:
            kind = f"{listing.how.method}/{listing.how.hash}"
            raise UnsupportedVersion(f"a {kind} signature has no digest of a whole file", hint="verify it instead")
        single = next(iter(listing.files)) if len(listing.files) == 1 and model.is_file() else ""
        pairs = ((model.name if n == single else n, digest) for n, digest in listing.digests.items())
        return Content(proof, _by_name(Listed(n, listing.how.hash, digest) for n, digest in pairs))
    manifest = ModelManifest.from_statement(proof.statement)
    return content_of(proof, manifest, alone=model.name if model.is_file() and len(manifest.files) == 1 else "")


def content_of(proof: Verified, manifest: ModelManifest, *, alone: str = "") -> Content:
    """Return the content of a verified manifest, after checking that its tensors lie inside its files.

    Args:
        proof: that of the manifest.
        manifest: what was signed.
        alone: what a model of one file is called here; it may have been renamed.

    Raises:
        SignatureInvalid: a name is unsafe or occurs twice, or a tensor leaves its file.
    """
    listed = (Listed(alone or item.name, "blake3", item.blake3, item.size, item.outboard) for item in manifest.files)
    files, tensors = _by_name(listed), dict[str, dict[str, TensorEntry]]()
    for entry in (replace(item, file=alone or item.file) for item in manifest.tensors):
        size = files[entry.file].size if entry.file in files else None
        sound = min(entry.shape, default=0) >= 0
        if size is None or not sound or not 0 <= entry.offset <= entry.offset + entry.length <= size:
            raise SignatureInvalid(f"the signed tensor {entry.name} lies outside the file {entry.file}")
        if tensors.setdefault(entry.file, {}).setdefault(entry.name, entry) is not entry:
            raise SignatureInvalid(f"the signed manifest names {entry.name} of {entry.file} twice")
    return Content(proof, files, tensors, manifest)


def _bundle(model: Path, signature: bytes | Path | str | None) -> bytes:
    if isinstance(signature, bytes):
        return signature
    if signature is not None:
        return read_bytes(signature, "signature", limit=_LIMIT)
    for path in signatures_beside(model):
        if path.is_file():
            return read_bytes(path, "signature", limit=_LIMIT)
    raise RecordMissing(f"{model} has no signature beside it", hint="holdfast sign MODEL --key file:KEY.pem")


def _by_name(files: Iterable[Listed]) -> dict[str, Listed]:
    result: dict[str, Listed] = {}
    for item in files:
        if not is_canonical(item.name) or len(item.digest) != HEX_DIGITS[item.algorithm]:
            raise SignatureInvalid(f"the signed statement holds the file {item.name!r}")
        if result.setdefault(item.name, item) is not item:
            raise SignatureInvalid(f"the signed statement names {item.name} twice")
    return result
