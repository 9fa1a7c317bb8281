"""RFC 3161 timestamps over a signature, by the timestamp authorities of a trusted root (extra ``sigstore``)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from holdfast.errors import SignatureInvalid, SignerUntrusted
from holdfast.signing.sigstore.trusted_root import Authority, TrustedRoot
from holdfast.signing.timestamps import parse_response, require_imprint, require_signed
from holdfast.signing.x509 import TIME_STAMPING, PathRules
from holdfast.signing.x509.path import require_path

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse


def verify_timestamp(token: bytes, message: bytes, root: TrustedRoot) -> datetime:
    """Return when, by one of the root's timestamp authorities, ``message`` existed.

    Args:
        token: an RFC 3161 response, DER.
        message: the bytes that were timestamped: the signature.
        root: who may say so.

    Raises:
        MissingExtra: the package ``rfc3161-client`` is not installed.
        UnreadableArtifact: no RFC 3161 response.
        SignerUntrusted: the root has no timestamp authority, or does not believe it at that time.
        SignatureInvalid: no authority of the root signed it for this message.
    """
    if not root.timestamp_authorities:
        raise SignerUntrusted("the trusted root has no timestamp authority, and the bundle has a timestamp")
    found = parse_response(token)
    require_imprint(found, message)
    time: datetime = found.tst_info.gen_time
    signers = [authority for authority in root.timestamp_authorities if _signed(found, message, authority)]
    if not signers:
        raise SignatureInvalid("the timestamp is not by an authority of the trusted root")
    if not any(_believed(authority, time) for authority in signers):
        raise SignerUntrusted(f"the timestamp's authority is not believed at {time:%F %T}")
    return time


def _believed(authority: Authority, time: datetime) -> bool:
    """Return whether the root vouches for an authority at ``time``, whose certificates are good for that, too."""
    if not authority.validity.holds(time):
        return False
    try:
        require_path(authority.chain, PathRules(roots=authority.chain[-1:], time=time, purpose=TIME_STAMPING))
    except SignerUntrusted:
        return False
    return True


def _signed(found: TimeStampResponse, message: bytes, authority: Authority) -> bool:
    if len(authority.chain) < 2:
        return False  # a timestamp authority stands below a root of its own
    try:
        require_signed(found, authority.chain, message)
    except SignatureInvalid:
        return False
    return True
