"""Signing and verifying a model on disk: the one place where its signature and the evidence beside it come together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.beside import default_signature
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement
from holdfast.signing.bundle import Verified, add_signature, sign_statement, verify_envelope
from holdfast.signing.envelope import PUBLIC_KEY, Envelope, read_envelope
from holdfast.signing.oms import legacy as old
from holdfast.signing.oms.comparison import require_contents
from holdfast.signing.oms.scope import left_out, require_own, signing_skip
from holdfast.signing.oms.serialization import MODEL_SIGNING, Serialization, digests
from holdfast.signing.oms.statement import Listing, read_statement, write_statement
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trusts import Threshold, TrustSources, require_threshold

LIMIT = 64 << 20  # bytes of a bundle
Extra = Literal["refuse", "allow"]
_PLAIN = Serialization()


@dataclass(frozen=True, slots=True)
class VerifiedListing(Verified):
    """Proof that ``signers`` signed a list of digests; nothing was compared with it yet.

    Attributes:
        listing: the signed files or shards and their digests.
        notes: what a careful reader wants to know of the signature.
    """

    listing: Listing = field(kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class VerifiedArtifact(VerifiedListing):
    """Proof that a model on disk is what ``signers`` signed.

    Attributes:
        unsigned: files that are there and that no signature covers: those the signer left out, and extra ones if the
            caller allowed any. Git's own names, the signature and evidence that is verified by itself are not named.
    """

    unsigned: tuple[str, ...] = field(default=(), kw_only=True)


def list_artifact(
    model: Path | str, how: Serialization = _PLAIN, *, signature: Path | None = None, git: bool = True
) -> tuple[str, Listing]:
    """Return a model's name and what a signature of it would list.

    Args:
        model: folder or file.
        how: method, hash, links, and what the signer leaves out.
        signature: where the signature lies, which cannot sign itself.
        git: leave out git's own names, too.

    Raises:
        UnreadableArtifact: no file, a link or a device in it, or a stray file among evidence.
        InvalidConfig: ``how`` ignores what is no path inside the model.
    """
    model = Path(model)
    ignored = left_out(model, signature or default_signature(model), how.ignore, git=git)
    how, name = dataclasses.replace(how, ignore=ignored), model.resolve().name if model.is_dir() else model.name
    alone = "." if how.dialect == MODEL_SIGNING else name
    found = Listing(how, digests(model, how, signing_skip(model, ignored), alone=alone).digests)
    if model.is_dir():
        require_own(found.files, ignored)
    return name, found


def sign_artifact(
    model: Path | str,
    signer: Signer,
    *more: KeyHolder,
    out: Path | str | None = None,
    how: Serialization = _PLAIN,
    git: bool = True,
) -> Path:
    """Sign every file of ``model`` as an OpenSSF model signature, write the bundle, and return its path.

    Args:
        model: folder or file.
        signer: whose verification material the bundle carries.
        more: further signers, named by their keys.
        out: where to write; ``MODEL/model.sig`` or ``MODEL.sig`` by default.
        how: files or shards, by which hash, with links or not, and what is left out.
        git: leave out git's own names at the top of the model, too.

    Raises:
        UnreadableArtifact: no file, a link or a device in it, or too much for one statement.
        InvalidConfig: nothing to sign, or ``how`` ignores what is no path inside the model.
    """
    signature = Path(out) if out is not None else default_signature(Path(model))
    name, listing = list_artifact(model, how, signature=signature, git=git)
    bundle = sign_statement(write_statement(name, listing), signer, *more)
    if len(bundle) > LIMIT:
        raise InvalidConfig(f"the signature would be {len(bundle)} bytes long", hint="larger shards make it smaller")
    write_atomic(signature, bundle)
    return signature


def cosign_artifact(
    model: Path | str,
    *signers: KeyHolder,
    signature: Path | str | None = None,
    ignore: Iterable[str] = (),
    rehash: bool = True,
) -> Path:
    """Add the signatures of ``signers`` to an existing one, over the same statement; return the bundle's path.

    What is signed is first compared with the model, unless ``rehash`` is off: then the signers vouch for a list of
    digests that they did not see computed.

    Raises:
        VerificationError: the model is not what the statement says.
        UnsupportedVersion: no OpenSSF model signature of version 1.0.
    """
    path = Path(signature) if signature is not None else default_signature(Path(model))
    data = _read(path)
    envelope = old.as_signed(read_envelope(data), legacy=False)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise UnsupportedVersion(f"unknown payload type {envelope.payload_type!r}")
    listing = read_statement(Statement.from_bytes(envelope.payload))
    if rehash:
        require_contents(Path(model), path, listing, ignore)
    write_atomic(path, add_signature(data, *signers))
    return path


def verify_artifact(
    model: Path | str,
    trust: TrustSources | Threshold,
    *,
    signature: Path | str | None = None,
    ignore: Iterable[str] = (),
    extra: Extra = "refuse",
    allow_symlinks: bool | None = None,
    legacy: bool = False,
) -> VerifiedArtifact:
    """Return the proof if ``trust`` signed exactly the files that ``model`` holds.

    Args:
        model: folder or file.
        trust: who must have signed.
        signature: bundle; by default beside or inside the model.
        ignore: relative paths the caller agrees to leave unsigned, besides git's own files and the signature.
        extra: ``allow`` lets files through that nobody signed; the proof names them.
        allow_symlinks: follow links to files inside the model or its Hugging Face cache; as signed by default.
        legacy: also read the formats of ``model-signing`` before 1.1.

    Raises:
        SignatureInvalid, SignerUntrusted: see :func:`verify_bundle`; or the statement contradicts itself.
        DigestMismatch: files are missing, new or changed; the first are named.
        UnreadableArtifact: a link or device in the model, or no signature.
        UnsupportedVersion: an unknown format, or a legacy one without ``legacy``.
    """
    if not Path(model).exists():
        raise UnreadableArtifact(f"no file or folder at {model}")
    path = Path(signature) if signature is not None else default_signature(Path(model))
    if extra not in ("refuse", "allow"):
        raise InvalidConfig(f"extra files can be refused or allowed, not {extra!r}")
    proof = verify_listing(_read(path), trust, legacy=legacy)
    unsigned = require_contents(Path(model), path, proof.listing, ignore, extra=extra == "allow", links=allow_symlinks)
    return VerifiedArtifact(proof.statement, proof.signers, listing=proof.listing, notes=proof.notes, unsigned=unsigned)


def _read(signature: Path) -> bytes:
    if not signature.is_file():  # a pipe in its place would keep us waiting for ever
        raise UnreadableArtifact(f"no signature at {signature}", hint="--signature says where it is")
    return read_bytes(signature, "signature", limit=LIMIT)


def verify_listing(data: bytes, trust: TrustSources | Threshold, *, legacy: bool = False) -> VerifiedListing:
    """Return what ``trust`` signed of a model, from the bytes of a bundle and without looking at any file.

    Raises:
        VerificationError, UnreadableArtifact, UnsupportedVersion: see :func:`verify_artifact`.
    """
    envelope = old.as_signed(read_envelope(data), legacy=legacy)
    proof = verify_envelope(envelope, trust if isinstance(trust, Threshold) else require_threshold(trust))
    listing = _listing(proof.statement, envelope)
    return VerifiedListing(proof.statement, proof.signers, listing=listing, notes=tuple(_notes(envelope)))


def _listing(statement: Statement, envelope: Envelope) -> Listing:
    if isinstance(envelope, old.LegacyEnvelope):
        return old.read_legacy(statement, envelope.payload)
    return read_statement(statement)


def _notes(envelope: Envelope) -> Iterable[str]:
    if isinstance(envelope, old.LegacyEnvelope):
        yield "signed by model-signing 0.2 over an encoding of its own; have it signed again"
    if envelope.material.kind == PUBLIC_KEY and not envelope.named(0):
        yield "the bundle does not say whose key signed it"
