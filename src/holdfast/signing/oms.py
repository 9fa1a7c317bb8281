"""OpenSSF model signatures (OMS v1.0): a statement over every file of a model, readable by ``model-signing`` too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, SignatureInvalid, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.digest import FileDigest, digest_tree
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.signers.protocol import Signer
from holdfast.signing.trusts import Threshold, TrustSource

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
GIT_NAMES = (".git", ".gitattributes", ".github", ".gitignore")
_HEX = re.compile(r"[0-9a-f]{64}")
_LIMIT = 64 << 20


def default_signature(model: Path) -> Path:
    """Return where the signature of a folder or file lies by default."""
    return model / "model.sig" if model.is_dir() else model.with_name(f"{model.name}.sig")


def sign_artifact(model: Path | str, signer: Signer, *, out: Path | str | None = None) -> Path:
    """Sign every file of ``model`` and write the bundle; return its path.

    Raises:
        UnreadableArtifact: no file, a link or a device in it, or nothing to sign.
    """
    model = Path(model)
    signature = Path(out) if out is not None else default_signature(model)
    ignored = _ignored(model, signature, ())
    files = _files(model, ignored)
    if not files:
        raise UnreadableArtifact(f"{model} holds no file to sign")
    write_atomic(signature, sign_statement(statement_of(model, files, ignored), signer))
    return signature


def statement_of(model: Path, files: Mapping[str, FileDigest], ignored: Iterable[str]) -> Statement:
    """Return the OMS v1.0 statement over ``files``, in code-point order of their names."""
    names = {(model.name if name == "." else name): item.sha256 for name, item in files.items()}
    resources = [{"name": name, "algorithm": "sha256", "digest": names[name]} for name in sorted(names)]
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": sorted(ignored),
        },
        "resources": resources,
    }
    subject = Subject(model.resolve().name, {"sha256": _root(item["digest"] for item in resources)})
    return Statement((subject,), PREDICATE_TYPE, predicate)


def verify_artifact(
    model: Path | str,
    trust: TrustSource | Threshold,
    *,
    signature: Path | str | None = None,
    ignore: Iterable[str] = (),
) -> Verified:
    """Return the statement if ``trust`` signed exactly the files that ``model`` holds.

    Args:
        model: folder or file.
        trust: who must have signed.
        signature: bundle; by default beside or inside the model.
        ignore: relative paths the caller agrees to leave unsigned, besides git's own files and the signature.

    Raises:
        SignatureInvalid, SignerUntrusted: see :func:`verify_bundle`; or the statement contradicts itself.
        DigestMismatch: files are missing, new or changed; the first are named.
    """
    model = Path(model)
    path = Path(signature) if signature is not None else default_signature(model)
    proof = verify_bundle(read_bytes(path, "signature", limit=_LIMIT), trust)
    signed = signed_files(proof.statement)
    allowed = _ignored(model, path, ignore)
    _refuse_hiding(model, proof.statement, allowed)
    actual = {name: item.sha256 for name, item in _files(model, allowed).items()}
    if set(actual) == {"."} and set(signed) == {model.name}:
        actual = {model.name: actual["."]}
    require_same(signed, actual)
    return proof


def signed_files(statement: Statement) -> dict[str, str]:
    """Return name -> SHA-256 of an OMS statement, after checking that it is consistent with itself."""
    if statement.predicate_type != PREDICATE_TYPE:
        raise UnsupportedVersion(f"unknown predicate {statement.predicate_type!r}", hint=f"expected {PREDICATE_TYPE}")
    serialization, resources = statement.predicate.get("serialization"), statement.predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list) or not resources:
        raise SignatureInvalid("the signed statement lists no files")
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        kind = f"{serialization.get('method')}/{serialization.get('hash_type')}"
        raise UnsupportedVersion(f"cannot verify {kind} signatures", hint="this version reads files/sha256")
    names = [_resource_name(item) for item in resources]
    if len(set(names)) != len(names):
        raise SignatureInvalid(f"the signed statement names {_first_repeated(names)} twice")
    if len(statement.subjects) != 1 or statement.subjects[0].digest.get("sha256") != _root(
        i["digest"] for i in resources
    ):
        raise SignatureInvalid("the signed root digest does not fit the signed files")
    return {name: item["digest"] for name, item in zip(names, resources, strict=True)}


def _resource_name(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or (name != "." and not _is_canonical(name)):
        raise SignatureInvalid(f"the signed statement holds the file name {name!r}")
    if item.get("algorithm") != "sha256" or not _HEX.fullmatch(str(item.get("digest"))):
        raise SignatureInvalid(f"the signed digest of {name} is malformed")
    return name


def _is_canonical(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == "/".join(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _first_repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def require_same(signed: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise :class:`DigestMismatch` naming missing, new and changed files; key sets are compared first."""
    problems = [f"{name} is missing" for name in sorted(signed.keys() - actual.keys())]
    problems += [f"{name} was not signed" for name in sorted(actual.keys() - signed.keys())]
    problems += [f"{name} changed" for name in sorted(signed.keys() & actual.keys()) if signed[name] != actual[name]]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DigestMismatch("; ".join(problems[:3]) + more)


def _root(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _ignored(model: Path, signature: Path, extra: Iterable[str]) -> set[str]:
    ignored = {*GIT_NAMES, *extra}
    if signature.resolve().is_relative_to(model.resolve()):
        ignored.add(signature.resolve().relative_to(model.resolve()).as_posix())
    return ignored


def _files(model: Path, ignored: set[str]) -> dict[str, FileDigest]:
    if not model.is_dir():
        return digest_tree(model)
    return digest_tree(model, exclude=ignored)


def _refuse_hiding(model: Path, statement: Statement, allowed: set[str]) -> None:
    """Refuse a signature that asks to ignore a file which is there and which the caller did not agree to ignore."""
    asked = statement.predicate["serialization"].get("ignore_paths") or []
    for name in asked:
        if not isinstance(name, str) or (name not in allowed and (model / name).exists()):
            raise SignatureInvalid(f"the signature leaves {name} unsigned", hint="allow it with ignore, if you mean to")
