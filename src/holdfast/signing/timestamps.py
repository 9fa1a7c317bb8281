"""When a signature was made: RFC 3161 tokens, verified under chosen roots and asked for only in so many words.

As in Sigstore's bundles, a token covers the bytes of the *signature*, so it proves that this signature existed by then.
The token's own signature is verified by ``rfc3161-client``; its certificate must besides lead to a root that was given
for this, at the token's time, by the same checks as a signer's, and be for timeStamping alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import HoldfastError, MissingExtra, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.signing.envelope import Envelope, read_envelope, write_envelope
from holdfast.signing.x509 import TIME_STAMPING, PathRules, find_path
from holdfast.signing.x509.certificates import MALFORMED, parse_certificate

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MAX_TOKENS = 8
MAX_BUNDLE = 1 << 28  # bytes
MAX_RESPONSE = 1 << 16  # bytes; real ones have two to eight thousand
SKEW = timedelta(minutes=5)  # how far an honest authority's clock may be ahead of ours
_HASHES = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}


def signing_time(envelope: Envelope, index: int, roots: tuple[x509.Certificate, ...], *, now: datetime) -> datetime:
    """Return the earliest time by which signature ``index`` existed, as a trusted authority says.

    Args:
        envelope: the bundle; tokens of authorities that lead to none of ``roots`` count for nothing.
        index: which signature.
        roots: the roots of timestamp authorities.
        now: the time of the verification: nothing is signed after it.

    Raises:
        SignatureInvalid: no token is for this signature and verifies.
        SignerUntrusted: those that do are of other authorities, or from the future.
        UnreadableArtifact: no token at all, too many, or a malformed one.
        MissingExtra: the extra ``timestamps`` is not installed.
    """
    tokens = envelope.material.timestamps
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise UnreadableArtifact(f"the bundle has {len(tokens)} timestamps, not 1 to {MAX_TOKENS}")
    times: list[datetime] = []
    refusals: list[HoldfastError] = []
    for token in tokens:
        try:
            times.append(verify_timestamp(token, envelope.signatures[index].value, roots, now=now))
        except (SignatureInvalid, SignerUntrusted) as error:
            refusals.append(error)
    if not times:
        raise refusals[0]
    return min(times)


def verify_timestamp(
    response: bytes, signature: bytes, roots: tuple[x509.Certificate, ...], *, now: datetime
) -> datetime:
    """Return when, says the authority that answered with ``response`` (DER), ``signature`` existed.

    Raises:
        SignatureInvalid: the token is for other bytes, or not signed by the certificate in it.
        SignerUntrusted: that certificate does not lead to ``roots``, or may not tell the time.
        UnreadableArtifact: not a granted timestamp response.
    """
    found = parse_response(response)
    require_imprint(found, signature)
    chain = _chain(found)
    time: datetime = found.tst_info.gen_time
    if time > now + SKEW:
        raise SignerUntrusted(f"the timestamp is from the future: {time:%Y-%m-%d %H:%M} UTC")
    path = find_path(chain[0], chain[1:], PathRules(roots=roots, time=time, purpose=TIME_STAMPING))
    require_signed(found, path, signature)
    return time


def parse_response(response: bytes) -> TimeStampResponse:
    """Return a parsed timestamp response that grants a token.

    Raises:
        UnreadableArtifact: malformed, too long, or a refusal.
        MissingExtra: the extra ``timestamps`` is not installed.
    """
    try:
        from rfc3161_client import decode_timestamp_response
    except ImportError as error:
        raise MissingExtra("timestamps need rfc3161-client", hint="pip install 'holdfast[timestamps]'") from error
    if len(response) > MAX_RESPONSE:
        raise UnreadableArtifact(f"a timestamp has {len(response)} bytes, more than {MAX_RESPONSE}")
    try:
        found: TimeStampResponse = decode_timestamp_response(response)
        if found.status != 0:
            raise UnreadableArtifact(
                f"the timestamp authority refused: {' '.join(found.status_string) or found.status}"
            )
        _require_readable(found)
    except (KeyError, *MALFORMED) as error:  # an unknown attribute in a name is a KeyError there
        raise UnreadableArtifact(f"a timestamp is malformed: {error}") from error
    return found


def _require_readable(found: TimeStampResponse) -> None:
    """Read whatever is looked at later: the library parses only on request."""
    _ = found.tst_info.gen_time, found.tst_info.nonce, found.tst_info.message_imprint.hash_algorithm
    for info in found.signed_data.signer_infos:
        _ = info.issuer.rfc4514_string(), info.serial_number
    _ = found.signed_data.digest_algorithms, found.signed_data.certificates, found.time_stamp_token()


def require_imprint(found: TimeStampResponse, signature: bytes) -> None:
    """Raise :class:`SignatureInvalid` unless the token is over a strong hash of exactly ``signature``."""
    weak = {item.dotted_string for item in found.signed_data.digest_algorithms} - set(_HASHES)
    if weak:
        raise SignatureInvalid(f"the timestamp is signed over the weak hash {min(weak)}")
    imprint = found.tst_info.message_imprint
    name = _HASHES.get(imprint.hash_algorithm.dotted_string)
    if name is None:
        raise SignatureInvalid(f"the timestamp is over the weak hash {imprint.hash_algorithm.dotted_string}")
    if hashlib.new(name, signature).digest() != imprint.message:
        raise SignatureInvalid("the timestamp is of another signature")


def _chain(found: TimeStampResponse) -> tuple[x509.Certificate, ...]:
    """Return the certificates in the token, that of its signer first."""
    infos = list(found.signed_data.signer_infos)
    certificates = [parse_certificate(item) for item in sorted(found.signed_data.certificates)]
    if len(infos) != 1:
        raise SignatureInvalid(f"the timestamp has {len(infos)} signers, not one")
    if len(certificates) > MAX_TOKENS:
        raise UnreadableArtifact(f"the timestamp brings {len(certificates)} certificates along")
    named = (infos[0].issuer, infos[0].serial_number)
    signers = [item for item in certificates if (item.issuer, item.serial_number) == named]
    if len(signers) != 1:
        raise SignatureInvalid("the timestamp does not bring its authority's certificate along")
    return (signers[0], *(item for item in certificates if item is not signers[0]))


def require_signed(found: TimeStampResponse, path: tuple[x509.Certificate, ...], signature: bytes) -> None:
    """Check the token's own signature; only ``path``, leaf first, may vouch for it.

    Raises:
        SignatureInvalid: it does not verify.
    """
    from rfc3161_client import VerificationError, VerifierBuilder

    verifier = VerifierBuilder(tsa_certificate=path[0], intermediates=list(path[1:-1]), roots=[path[-1]]).build()
    try:
        verifier.verify_message(found, signature)
    except (VerificationError, KeyError, *MALFORMED) as error:
        raise SignatureInvalid(f"the timestamp does not verify: {error}") from error


def add_timestamp(bundle: bytes, response: bytes) -> bytes:
    """Return ``bundle`` with the timestamp ``response`` over its first signature; nothing signed changes.

    Raises:
        SignatureInvalid: the token is over something else.
        UnreadableArtifact: not a granted timestamp response, or no bundle.
    """
    envelope = read_envelope(bundle)
    require_imprint(parse_response(response), envelope.signatures[0].value)
    material = dataclasses.replace(envelope.material, timestamps=(*envelope.material.timestamps, response))
    return write_envelope(dataclasses.replace(envelope, material=material))


def timestamp_bundle(bundle: bytes, url: str) -> bytes:
    """Return ``bundle`` with a timestamp of its first signature by the authority at ``url``, over the network.

    Raises:
        WorkerUnreachable: the authority does not answer, or not with a timestamp.
        SignatureInvalid: it answered for something else.
    """
    from holdfast.signing.timestamp_request import request_timestamp

    return add_timestamp(bundle, request_timestamp(read_envelope(bundle).signatures[0].value, url))


def timestamp_file(path: Path | str, url: str) -> datetime:
    """Add a timestamp by the authority at ``url`` to the bundle in a file, over the network; return the time it says.

    That time is not verified here, for the signer chose the authority; the file is untouched if anything fails.

    Raises:
        WorkerUnreachable: the authority does not answer, or not with a timestamp.
        SignatureInvalid: it answered for something else.
        UnreadableArtifact: no bundle at ``path``.
    """
    stamped = timestamp_bundle(read_bytes(path, "bundle", limit=MAX_BUNDLE), url)
    write_atomic(path, stamped)
    time: datetime = parse_response(read_envelope(stamped).material.timestamps[-1]).tst_info.gen_time
    return time
