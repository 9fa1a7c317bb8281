"""How revocation lists and policies name things: from the thing itself, or from the digest as it stands."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.policy.identity import identify, model_ids
from holdfast.signing.keys import load_public
from holdfast.signing.revocation import KINDS, bundle_names
from holdfast.signing.x509.certificates import certificate_name

_LIMIT = 64 << 20


def names_of(kind: str, value: str) -> tuple[str, ...]:
    """Return all names under which to revoke a thing of ``kind``: as :func:`name_of`, and for a model one more id.

    That is the id over only the files that its signature lists, where it leaves some out: those may change.
    """
    if kind == "model" and Path(value).exists():
        return model_ids(Path(value))
    return (name_of(kind, value),)


def name_of(kind: str, value: str) -> str:
    """Return the name of a thing of ``kind``: of the file or folder ``value``, or ``value`` itself.

    Args:
        kind: ``key`` (PEM), ``certificate`` (PEM or DER), ``bundle``, ``model`` (folder or file) or ``dataset``.
        value: a path, or what :class:`holdfast.signing.revocation.Revocation` calls its ``id``.

    Raises:
        InvalidConfig: an unknown kind.
        UnreadableArtifact: the file is not what it should be.
    """
    if kind not in KINDS:
        raise InvalidConfig(f"nothing of kind {kind!r} can be revoked", hint=f"one of {', '.join(KINDS)}")
    path = Path(value)
    if kind == "dataset" or not path.exists():
        return value
    if kind == "key":
        return load_public(path).fingerprint
    if kind == "model":
        return identify(path).model_id
    data = read_bytes(path, kind, limit=_LIMIT)
    return bundle_names(data)[0] if kind == "bundle" else certificate_name(_certificate(data, value))


def _certificate(data: bytes, name: str) -> x509.Certificate:
    try:
        if data.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise UnreadableArtifact(f"{name} is no certificate: {error}") from error
