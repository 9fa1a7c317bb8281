"""What a world has signed: the verifier's nonce, bound to the one session it was asked in.

A quote that answers a nonce alone can be relayed: an attacker passes the nonce on to a genuine world and the answer
back, and keeps the session for himself. So the signed bytes depend on a secret of the session that differs on both
sides of such an attacker, the TLS exporter (RFC 9266 shows the idea; RFC 8446, section 7.5, defines the value).
"""

from __future__ import annotations

import hashlib

from holdfast.errors import InvalidConfig
from holdfast.shielding.attestation.policy import MIN_NONCE

_DOMAIN = b"holdfast attestation v1"
MAX_BINDING = 1 << 16  # bytes


def bound(nonce: bytes, binding: bytes = b"") -> bytes:
    """Return the 32 bytes to be signed for ``nonce`` within the session that ``binding`` names.

    Args:
        nonce: the verifier's random bytes, at least 16.
        binding: what only the two ends of the session know alike; empty where there is no session.

    Raises:
        InvalidConfig: the nonce is too short, or one of both too long.
    """
    if not MIN_NONCE <= len(nonce) <= MAX_BINDING or len(binding) > MAX_BINDING:
        raise InvalidConfig(f"a nonce has at least {MIN_NONCE} bytes", hint="secrets.token_bytes(32)")
    lengths = len(nonce).to_bytes(4, "big") + len(binding).to_bytes(4, "big")  # so that no byte can change sides
    return hashlib.sha256(_DOMAIN + lengths + nonce + binding).digest()
