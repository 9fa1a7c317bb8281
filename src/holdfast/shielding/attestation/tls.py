"""Attested TLS: a session whose other end has proved, for this very session, what it runs.

TLS 1.3 first, with a key the world made for itself and a certificate that proves nothing. Then the client sends a
nonce, the world answers with evidence over nonce and exporter (RFC 8446, section 7.5), and the client verifies it
against its policy before it sends a byte of its own. Somebody in the middle has one session with each side and so two
different exporters: evidence that he passes on does not verify. Evidence in a certificate, made before the session,
can be passed on in that way.

::

    client -> world   u32 length | nonce, 32 bytes
    world -> client   u32 length | evidence (holdfast.attestation-evidence/v1)        lengths big-endian
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from datetime import datetime

from holdfast.errors import IntegrityError
from holdfast.shielding.attestation.binding import bound
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import MAX_FILE, Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.tls_channel import Channel
from holdfast.shielding.attestation.tls_context import Certified
from holdfast.shielding.attestation.verify import verify

NONCE = 32  # bytes


def connect(
    stream: socket.socket, policy: Policy, *, at: datetime, timeout: float = 30.0, tls: Certified | None = None
) -> tuple[Channel, Claims]:
    """Open a session with a world and return it once the world has proved that it meets ``policy``.

    Args:
        stream: connected socket.
        policy: what the world must be.
        at: the time to verify its evidence for.
        timeout: seconds of silence after which the session ends.
        tls: who we are, for worlds that ask.

    Raises:
        PolicyError, SignatureInvalid, SignerUntrusted, UnreadableArtifact: as :func:`verify` does; in particular
            evidence of another session, which somebody in the middle passes on, is a :class:`PolicyError`.
        Unavailable: no TLS session comes about.
    """
    channel = Channel(stream, server=False, timeout=timeout, tls=tls)
    try:
        nonce = secrets.token_bytes(NONCE)
        channel.send(nonce)
        evidence = Evidence.from_bytes(channel.receive(limit=2 * MAX_FILE))
        claims = verify(evidence, policy, nonce=bound(nonce, channel.exporter), at=at)
    except BaseException:
        channel.close()
        raise
    return channel, claims


def accept(
    stream: socket.socket,
    quote: Callable[[bytes, bytes], Evidence],
    *,
    timeout: float = 30.0,
    tls: Certified | None = None,
) -> Channel:
    """Answer a client from within a world, prove it to him, and return the session.

    Args:
        stream: accepted socket.
        quote: of the world, such as ``World.quote``: takes nonce and binding.
        timeout: seconds for the client's part of opening the session; then of silence after which it ends.
        tls: whom to let in; None lets everybody in.

    Raises:
        IntegrityError: what the client sends is no challenge.
        Unavailable: no TLS session comes about.
    """
    channel = Channel(stream, server=True, timeout=timeout, tls=tls)
    try:
        with channel.within(timeout):
            nonce = channel.receive(limit=NONCE)
        if len(nonce) != NONCE:
            raise IntegrityError(f"the client's challenge has {len(nonce)} bytes, not {NONCE}")
        channel.send(quote(nonce, channel.exporter).to_bytes())
    except BaseException:
        channel.close()
        raise
    return channel
