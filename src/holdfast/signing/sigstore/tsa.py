"""RFC 3161 timestamps over a signature, by the timestamp authorities of a trusted root (extra ``sigstore``)."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from holdfast.errors import MissingExtra, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.signing.sigstore.trusted_root import Authority, TrustedRoot

_LIMIT = 1 << 16  # bytes of a response
# the library parses on request, and what it meets there comes out as one of these
_MALFORMED = (ValueError, KeyError, TypeError, x509.InvalidVersion)


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
    if len(token) > _LIMIT:
        raise UnreadableArtifact(f"the bundle's timestamp is longer than {_LIMIT} bytes")
    if not root.timestamp_authorities:
        raise SignerUntrusted("the trusted root has no timestamp authority, and the bundle has a timestamp")
    time = _time(token)
    signers = [authority for authority in root.timestamp_authorities if _signed(token, message, authority)]
    if not signers:
        raise SignatureInvalid("the timestamp is not for this signature, or by no authority of the trusted root")
    if not any(_believed(authority, time) for authority in signers):
        raise SignerUntrusted(f"the timestamp's authority is not believed at {time:%F %T}")
    return time


def _time(token: bytes) -> datetime:
    try:
        from rfc3161_client import decode_timestamp_response
    except ImportError as error:
        raise MissingExtra("timestamps need rfc3161-client", hint="pip install 'holdfast[sigstore]'") from error
    try:
        time: datetime = decode_timestamp_response(token).tst_info.gen_time
    except _MALFORMED as error:
        raise UnreadableArtifact("the bundle's timestamp is no RFC 3161 response") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _believed(authority: Authority, time: datetime) -> bool:
    windows = [(item.not_valid_before_utc, item.not_valid_after_utc) for item in authority.chain]
    return authority.validity.holds(time) and all(start <= time <= end for start, end in windows)


def _signed(token: bytes, message: bytes, authority: Authority) -> bool:
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    if len(authority.chain) < 2:
        return False  # a timestamp authority stands below a root of its own
    leaf, *between, top = authority.chain
    verifier = VerifierBuilder(tsa_certificate=leaf, intermediates=between, roots=[top]).build()
    try:
        holds: bool = verifier.verify_message(decode_timestamp_response(token), message)
    except (VerificationError, *_MALFORMED):
        return False
    return holds
