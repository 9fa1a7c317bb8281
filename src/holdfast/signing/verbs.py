"""The public verbs ``sign``, ``verify`` and ``load``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.beside import PASSPORT, default_manifest
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.artifact import Extra, sign_artifact, verify_artifact
from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.oms.comparison import signed_files
from holdfast.signing.oms.serialization import FILES, Serialization
from holdfast.signing.pair import sign_model, verify_model
from holdfast.signing.signers import Signer, load_signer, require_key
from holdfast.signing.trusts import Threshold, TrustSources, require_threshold

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset
    from holdfast.signing.opened import VerifiedModel

MODEL_TYPE = "https://holdfast.dev/model/v1"
Trust = TrustSources | Threshold


def sign(
    subject: nn.Module | Path | str,
    *,
    key: str | Signer | list[str | Signer],
    about: Iterable[Dataset] = (),
    out: Path | str | None = None,
    password: bytes | None = None,
    how: Serialization | None = None,
) -> bytes:
    """Sign a model in memory or on disk and return the bundle.

    A path gives an OpenSSF model signature over its files, written beside or inside it, and, unless ``out`` says where,
    a signed manifest beside that. A module gives a statement over its manifest (tensors, architecture, formats, lineage
    and guards) and over the datasets named in ``about``.

    Args:
        subject: the model.
        key: ``file:KEY.pem`` or a signer; or several, who all sign.
        about: datasets the statement also names, by digest (modules only).
        out: where to write the bundle; a module's is only returned when this is None.
        password: of an encrypted key, and of all of several.
        how: files or shards, by which hash, with links or not, and what to leave out (paths only).
    """
    first, *others = (load_signer(item, password=password) for item in (key if isinstance(key, list) else [key]))
    more = [require_key(item) for item in others]
    if isinstance(subject, Path | str):
        if list(about):
            raise InvalidConfig("a file signature names files only", hint="sign the loaded model to name datasets")
        if out is not None:
            return sign_artifact(subject, first, *more, out=out, how=how or Serialization()).read_bytes()
        return sign_model(subject, first, *more, how=how or Serialization())[0].read_bytes()
    if how is not None:
        raise InvalidConfig("a model in memory has no files to list", hint="leave out how")
    bundle = sign_statement(_model_statement(subject, about), first, *more)
    if out is not None:
        write_atomic(out, bundle)
    return bundle


def _model_statement(model: nn.Module, about: Iterable[Dataset]) -> Statement:
    from holdfast.models import model_subject

    data = (Subject(f"dataset:{item.name}", {"blake3": item.digest}) for item in about)
    return Statement((model_subject(model), *data), MODEL_TYPE, {})


def verify(
    subject: nn.Module | Path | str,
    bundle: bytes | Path | str | None = None,
    *,
    trust: Trust | None = None,
    ignore: Iterable[str] = (),
    extra: Extra = "refuse",
    allow_symlinks: bool | None = None,
    legacy: bool = False,
) -> Verified:
    """Return the verified statement about ``subject``, or raise; there is no third way.

    Args:
        subject: a module, a signed model on disk, or an assessment folder with a passport.
        bundle: bytes or path; by default the signature that lies beside or inside the subject.
        trust: who must have signed: a public key (PEM file or bytes), a specification such as ``key:PATH``, several of
            these, who must then all have signed, or a :class:`Threshold`. Only a passport can be verified without:
            then its own key shows that nothing changed, and the proof says ``self_signed``.
        ignore: files the caller agrees to leave unsigned.
        extra: ``allow`` lets files through that nobody signed; the proof names them.
        allow_symlinks: follow links to files inside the model or its Hugging Face cache; as signed by default.
        legacy: also read the formats of ``model-signing`` before 1.1.

    Raises:
        VerificationError: the evidence contradicts the claim; the message names what differs first.
    """
    key = None if trust is None else _threshold(trust)
    if isinstance(subject, Path | str) and bundle is None and (Path(subject) / PASSPORT).is_file():
        from holdfast.signing.passport import verify_passport  # it reads records, which other models do without

        return verify_passport(subject, key)
    if key is None:
        raise InvalidConfig("verification needs the key to trust", hint="--trust KEY.pub")
    if isinstance(subject, Path | str):
        if bundle is None and not legacy and default_manifest(subject).is_file():
            return verify_model(subject, key, ignore=ignore, extra=extra, allow_symlinks=allow_symlinks)
        with _on_disk(bundle) as signature:
            return verify_artifact(
                subject,
                key,
                signature=signature,
                ignore=ignore,
                extra=extra,
                allow_symlinks=allow_symlinks,
                legacy=legacy,
            )
    return _verify_module(subject, bundle, key)


def _threshold(trust: Trust) -> Threshold:
    return trust if isinstance(trust, Threshold) else require_threshold(trust)


@contextmanager
def _on_disk(bundle: bytes | Path | str | None) -> Iterator[Path | str | None]:
    """Give a bundle in memory a file name for the length of a block."""
    if not isinstance(bundle, bytes):
        yield bundle
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.sig"
        path.write_bytes(bundle)
        yield path


def _verify_module(model: nn.Module, bundle: bytes | Path | str | None, trust: Threshold) -> Verified:
    from holdfast.models import model_subject

    if bundle is None:
        raise InvalidConfig("a model in memory has no signature beside it", hint="pass the bundle")
    proof = verify_bundle(bundle if isinstance(bundle, bytes) else read_bytes(bundle, "bundle"), trust)
    if proof.statement.predicate_type != MODEL_TYPE:
        raise UnsupportedVersion(f"the bundle is about {proof.statement.predicate_type}, not a model in memory")
    if dict(proof.statement.subjects[0].digest) != dict(model_subject(model).digest):
        raise DigestMismatch("the model differs from the signed one", hint="compare manifests to see the first leaf")
    return proof


def load(path: Path | str, *, arch: str | None = None, trust: Trust | None = None) -> nn.Module:
    """Load a model in evaluation mode; with ``trust``, only if its signature holds for the very bytes that are used.

    The signature is verified first; then each file is read once into private memory, compared with its signed digest,
    and parsed from that same memory, so a file that changes in between is refused. A signed manifest (``model.sig2``)
    is preferred: then only the files that are used are read, and hashed with BLAKE3.

    Args:
        path: artifact folder, ``.safetensors``, or state dict.
        arch: architecture when the file does not name one.
        trust: who must have signed ``model.sig2`` or ``model.sig``, as for :func:`verify`; None loads without a
            claim of authenticity.

    Raises:
        VerificationError: see :func:`verify`.
        ArtifactError: see :func:`holdfast.models.load`.
    """
    from holdfast.models import load as read_model
    from holdfast.signing.opened import open_verified

    if trust is None:
        return read_model(path, arch=arch)
    proof = None if default_manifest(path).is_file() else verify_artifact(path, _threshold(trust))
    if proof is None or (proof.listing.how.method, proof.listing.how.hash) != (FILES, "sha256"):
        with open_verified(path, _threshold(trust)) as opened:
            return read_model(path, arch=arch, expected=lambda file: _signed_bytes(opened, file))
    files = signed_files(proof.statement)
    expected = {Path(path).name: files.get(".", next(iter(files.values())))} if Path(path).is_file() else files
    return read_model(path, arch=arch, expected=expected)


def _signed_bytes(opened: VerifiedModel, file: Path) -> bytes:
    if file.name in opened.content.files:
        return bytes(opened.file(file.name))
    if file.exists():
        raise DigestMismatch(f"{file.name} was not signed")
    hint = "holdfast loads folders that it saved; of others, name the weights file and its --arch"
    raise UnreadableArtifact(f"{file.parent} holds no {file.name}, which would describe the model", hint=hint)
