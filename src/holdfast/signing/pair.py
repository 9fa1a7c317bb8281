"""The two signatures of a stored model, from one read pass and checked as one.

``model.sig`` is the OpenSSF signature that other tools read; ``model.sig2`` is our manifest, by which verification
needs BLAKE3 alone. Where both are there, both must be the trusted signer's and say the same of the same files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, SignatureInvalid
from holdfast.evidence.beside import SIGNATURE, default_manifest, default_signature, is_evidence
from holdfast.evidence.digest import Hashed, Wanted, hash_tree
from holdfast.evidence.hashing import ALGORITHMS, windows
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.evidence.statement import Statement
from holdfast.evidence.tree import Links
from holdfast.signing.artifact import LIMIT, Extra, VerifiedArtifact, cosign_artifact, verify_listing
from holdfast.signing.bundle import add_signature, sign_statement
from holdfast.signing.envelope import read_envelope
from holdfast.signing.manifests import (
    compare_files,
    manifest_of,
    next_version,
    read_manifest,
    sign_manifest,
)
from holdfast.signing.oms.names import shard_name
from holdfast.signing.oms.scope import left_out, require_own, signing_skip, verifying_skip, wishes_of
from holdfast.signing.oms.serialization import MODEL_SIGNING, Serialization, require_count
from holdfast.signing.oms.statement import Listing, write_statement
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trusts import Threshold, TrustSources

_PLAIN = Serialization()


@dataclass(frozen=True, slots=True)
class VerifiedModel(VerifiedArtifact):
    """Proof that a model on disk is what ``signers`` signed; ``manifest`` also lists its tensors."""

    manifest: ModelManifest = field(kw_only=True)


class Signed(NamedTuple):
    """Where both signatures were written (a keyless signer writes one), and what the signer should know."""

    signature: Path
    manifest: Path | None
    notes: tuple[str, ...] = ()


def sign_model(
    model: Path | str,
    signer: Signer,
    *more: KeyHolder,
    how: Serialization = _PLAIN,
    git: bool = True,
    version: int | None = None,
    base: ModelManifest | None = None,
    tensors: bool = True,
    outboards: bool = False,
    threads: int | None = None,
) -> Signed:
    """Read every file of ``model`` once and write both signatures.

    Args:
        model: folder or file.
        signer: whose verification material the bundles carry.
        more: further signers, named by their keys.
        how: how the OpenSSF signature lists files, and what both leave out.
        git: leave out git's own names at the top of the model, too.
        version: of the model; if its manifest there is of the same signer and differs, one more than that, else 0.
        base: the verified manifest of the model that this one completes, as an adapter does.
        tensors: also list the tensors of safetensors, GGUF and NPZ files.
        outboards: also write outboards of large files, which are read once more, so that ranges can be verified.
        threads: how many to use; as many as there are cores by default.

    Raises:
        UnreadableArtifact: no file, a link or a device, or a file that changes meanwhile.
        InvalidConfig: nothing to sign, ``how`` ignores what is no path inside the model, or outboards without manifest.
    """
    if outboards and _is_keyless(signer):
        raise InvalidConfig("a keyless signer writes no manifest, which would hold the roots of outboards")
    model = Path(model)
    signature, path = default_signature(model), default_manifest(model)
    how = dataclasses.replace(how, ignore=left_out(model, signature, how.ignore, git=git))
    found = hash_tree(
        model,
        _wanted(how, tensors),
        exclude=signing_skip(model, how.ignore),
        links=Links.INSIDE if how.allow_symlinks else Links.REFUSE,
        threads=threads,
    )
    name = model.resolve().name if model.is_dir() else model.name
    listing = listing_of(how, found, "." if how.dialect == MODEL_SIGNING else name)
    if model.is_dir():
        require_own(listing.files, how.ignore)
    openssf = sign_statement(write_statement(name, listing), signer, *more)
    notes = tuple(f"{key}: no tensors listed: {i.note}" for key, i in found.items() if i.note)
    if _is_keyless(signer):  # whose service knows statements with SHA-2 subjects only
        write_atomic(signature, openssf)
        return Signed(signature, None, (*notes, "a keyless signer writes no manifest, only the OpenSSF signature"))
    manifest = manifest_of(model, found, base=base, ignore=_wishes(how.ignore, signature))
    manifest = _with_outboards(model, manifest) if outboards else manifest
    write_atomic(signature, openssf)
    write_atomic(path, sign_manifest(_versioned(manifest, model, signer, version), signer, *more))
    return Signed(signature, path, notes)


def _is_keyless(signer: Signer) -> bool:
    if isinstance(signer, KeyHolder):
        return False
    from holdfast.signing.signers.sigstore import KeylessSigner  # a start-up that signers with keys do without

    return isinstance(signer, KeylessSigner)


def _with_outboards(model: Path, manifest: ModelManifest) -> ModelManifest:
    from holdfast.signing.outboards import write_outboards  # as well

    return write_outboards(model, manifest)


def _wanted(how: Serialization, tensors: bool) -> Wanted:
    if how.shard_size is not None:
        return Wanted(algorithms=("blake3",), tensors=tensors, strict=False, shards=(how.hash, how.shard_size))
    return Wanted(algorithms=tuple(sorted({how.hash, "blake3"})), tensors=tensors, strict=False)


def _wishes(ignored: Iterable[str], signature: Path) -> list[str]:
    """Return what a manifest says to be left out: neither evidence nor the signature beside it."""
    return sorted(wishes_of(ignored) - {signature.name})


def listing_of(how: Serialization, found: Mapping[str, Hashed], alone: str) -> Listing:
    """Return the OpenSSF listing of hashed files; a model of one file is called ``alone``.

    Raises:
        UnreadableArtifact: more entries than a signature may list.
    """
    digests: dict[str, str] = {}
    for key, item in found.items():
        name = alone if key == "." else key
        if how.shard_size is None:
            digests[name] = item.digests[how.hash]
            continue
        spans = list(windows(item.size, how.shard_size)) or [(0, 0)]
        values = item.shards or (ALGORITHMS[how.hash]().hexdigest(),)
        pairs = zip(spans, values, strict=True)
        digests |= {shard_name(name, start, start + length): digest for (start, length), digest in pairs}
    require_count(len(digests))
    return Listing(how, digests)


def _versioned(manifest: ModelManifest, model: Path, signer: Signer, version: int | None) -> ModelManifest:
    """Return the manifest with its version: a signer's own counts up when it changes, and signing twice is the same."""
    if version is not None:
        return dataclasses.replace(manifest, version=next_version(version, None))
    before = _own_manifest(model, signer)
    if before is None or dataclasses.replace(manifest, version=before.version) == before:
        return dataclasses.replace(manifest, version=before.version if before else 0)
    return dataclasses.replace(manifest, version=next_version(None, before))


def _own_manifest(model: Path, signer: Signer) -> ModelManifest | None:
    """Return the manifest that lies there if this very signer signed it; what others said does not count here."""
    if not isinstance(signer, KeyHolder) or not default_manifest(model).is_file():
        return None
    try:
        return read_manifest(model, signer.public)[0]
    except HoldfastError:
        return None


def renew_openssf(model: Path | str, manifest: ModelManifest, signer: Signer, *more: KeyHolder) -> Path | None:
    """Sign what a manifest says also as an OpenSSF signature, if one lies there; return its path.

    It lists files by SHA-256 where the manifest has that, and by BLAKE3 otherwise; nothing is read.
    """
    model = Path(model)
    signature = default_signature(model)
    if not signature.is_file():
        return None
    algorithm = "sha256" if all(item.sha256 for item in manifest.files) else "blake3"
    how = Serialization(hash=algorithm, ignore=left_out(model, signature, manifest.ignore, git=False))
    listing = Listing(how, {item.name: getattr(item, algorithm) for item in manifest.files})
    write_atomic(signature, sign_statement(write_statement(manifest.name, listing), signer, *more))
    return signature


def cosign_model(
    model: Path | str, *signers: KeyHolder, ignore: Iterable[str] = (), rehash: bool = True
) -> tuple[Path, Path | None]:
    """Add the signatures of ``signers`` to both signatures of a model, or to the one that is there.

    Raises:
        VerificationError: the model is not what the signatures say, or they contradict each other.
    """
    model, ignore = Path(model), tuple(ignore)
    path = default_manifest(model)
    data = read_bytes(path, "signed manifest", limit=LIMIT) if path.is_file() else None
    if data is not None and rehash:
        manifest = ModelManifest.from_statement(Statement.from_bytes(read_envelope(data).payload))
        _compare(model, manifest, ignore, "refuse", links=None)
    signature = cosign_artifact(model, *signers, ignore=ignore, rehash=rehash)
    if data is None:
        return signature, None
    write_atomic(path, add_signature(data, *signers))
    return signature, path


def verify_model(
    model: Path | str,
    trust: TrustSources | Threshold,
    *,
    ignore: Iterable[str] = (),
    extra: Extra = "refuse",
    allow_symlinks: bool | None = None,
) -> VerifiedModel:
    """Return the proof if ``trust`` signed exactly the files that ``model`` holds, by its manifest.

    Only BLAKE3 is computed. An OpenSSF signature that is there as well must be ``trust``'s too, and agree.

    Args:
        model: folder or file.
        trust: who must have signed.
        ignore: relative paths the caller agrees to leave unsigned.
        extra: ``allow`` lets files through that nobody signed; the proof names them.
        allow_symlinks: follow links to files inside the model or its Hugging Face cache; as the OpenSSF signature
            says by default.

    Raises:
        RecordMissing: no signed manifest.
        SignatureInvalid, SignerUntrusted: see :func:`verify_bundle`; or a statement contradicts itself or the other.
        DigestMismatch: files are missing, new or changed; the first are named.
        UnreadableArtifact: a link or device in the model.
    """
    model = Path(model)
    manifest, proof = read_manifest(model, trust)
    notes: tuple[str, ...] = ()
    if default_signature(model).is_file():
        beside = verify_listing(read_bytes(default_signature(model), "signature", limit=LIMIT), trust)
        _require_agreement(model, manifest, beside.listing)
        notes = beside.notes
        allow_symlinks = beside.listing.how.allow_symlinks if allow_symlinks is None else allow_symlinks
    listing, unsigned = _compare(model, manifest, ignore, extra, links=allow_symlinks)
    return VerifiedModel(
        proof.statement, proof.signers, listing=listing, unsigned=unsigned, notes=notes, manifest=manifest
    )


def _compare(
    model: Path, manifest: ModelManifest, ignore: Iterable[str], extra: Extra, *, links: bool | None
) -> tuple[Listing, tuple[str, ...]]:
    """Compare a model with its manifest; return what was compared, and the files that are there unsigned."""
    how = Serialization(hash="blake3", ignore=frozenset(manifest.ignore), allow_symlinks=bool(links))
    listing = Listing(how, {item.name: item.blake3 for item in manifest.files})
    beside = [SIGNATURE] if model.is_dir() and (model / SIGNATURE).is_file() else []
    skip, hidden = verifying_skip(model, default_manifest(model), [*ignore, *beside], listing, links=bool(links))
    found = compare_files(model, manifest, skip, links=Links.INSIDE if links else Links.REFUSE, extra=extra == "allow")
    return listing, tuple(sorted({*hidden, *found}))


def _require_agreement(model: Path, manifest: ModelManifest, listing: Listing) -> None:
    """Refuse two signatures of one signer that say different things, as when one of them was put back."""
    how, alone = listing.how, manifest.files[0].name
    names = {alone if name == "." else name for name in listing.files if not is_evidence(name)}
    wishes = set(_wishes(how.ignore, default_signature(model)))
    if names != {item.name for item in manifest.files} or wishes != set(manifest.ignore):
        raise SignatureInvalid("the two signatures of the model list different files", hint="sign it again")
    if how.shard_size is not None or how.hash not in ("sha256", "blake3"):
        return  # not the manifest's digests; its own are what is compared with the files
    signed = {alone if name == "." else name: digest for name, digest in listing.digests.items()}
    for item in manifest.files:
        if (known := getattr(item, how.hash)) and known != signed[item.name]:
            raise DigestMismatch(f"{item.name} changed between the two signatures", hint="sign the model again")


__all__ = [
    "Signed",
    "VerifiedModel",
    "cosign_model",
    "listing_of",
    "renew_openssf",
    "sign_model",
    "verify_model",
]
