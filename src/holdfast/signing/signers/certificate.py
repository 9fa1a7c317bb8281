"""A key with a certificate chain beside it, so that a verifier can ask for a name instead of a key."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from holdfast._registry import parse_spec
from holdfast.errors import HoldfastError, InvalidConfig
from holdfast.signing.envelope import CHAIN, Material
from holdfast.signing.keys import PublicKey
from holdfast.signing.signers.protocol import KeyHolder
from holdfast.signing.x509 import CODE_SIGNING, chain_value, leaf_key, name_of, require_leaf
from holdfast.signing.x509.certificates import MAX_CHAIN


@dataclass(frozen=True)
class CertificateSigner:
    """Signs with ``holder`` and brings ``chain`` along, leaf first; the root stays out, for nobody believes it there.

    Raises:
        InvalidConfig: the leaf is for another key, not for codeSigning or not valid now, or the chain is out of order.
    """

    holder: KeyHolder
    chain: tuple[x509.Certificate, ...]
    allow_ca_leaf: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.chain) <= MAX_CHAIN:
            raise InvalidConfig(f"a chain has 1 to {MAX_CHAIN} certificates, not {len(self.chain)}")
        self.require_usable()
        for lower, upper in itertools.pairwise(self.chain):
            if lower.issuer != upper.subject:
                words = f"{name_of(upper)!r} did not issue {name_of(lower)!r}, which stands before it"
                raise InvalidConfig(words, hint="the signer's certificate first, then who issued it, and so on")

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""
        return self.holder.public

    def require_usable(self) -> None:
        """Raise :class:`InvalidConfig` unless the leaf is this key's, for codeSigning, and valid now."""
        leaf = self.chain[0]
        try:
            if leaf_key(leaf) != self.holder.public:
                raise InvalidConfig(f"the certificate {name_of(leaf)!r} is for another key")
            require_leaf(leaf, CODE_SIGNING, datetime.now(UTC), allow_ca=self.allow_ca_leaf)
        except InvalidConfig:
            raise
        except HoldfastError as error:
            raise InvalidConfig(f"nobody would accept this signature: {error}", hint=error.hint) from error

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return a signature over the payload's encoding, and the chain as what verifies it."""
        self.require_usable()  # it may have expired since
        value, _ = self.holder.seal(payload_type, payload)
        kept = tuple(item for item in self.chain if item is self.chain[0] or item.subject != item.issuer)
        return value, Material(CHAIN, chain_value(kept))


def certificate_signer(rest: str, *, password: bytes | None = None) -> CertificateSigner:
    """Return the signer of ``key=KEY,chain=leaf.pem+between.pem``.

    ``KEY`` is a PEM file or another signer in parentheses, as in ``key=(pkcs11:token=...)``; ``password`` is that
    key's. ``allow-ca-leaf=true`` signs with an authority's certificate, which verifiers must allow too.

    Raises:
        InvalidConfig: an option is missing or unknown, or the chain does not suit the key.
    """
    from holdfast.signing.signers import load_signer, require_key, signers
    from holdfast.signing.x509 import read_files

    _, options = parse_spec(f"certificate:{rest}")
    if unknown := set(options) - {"key", "chain", "allow_ca_leaf"}:
        raise InvalidConfig(f"the signer 'certificate' has no option {min(unknown)!r}", hint="it takes key and chain")
    if not options.get("key") or not options.get("chain"):
        raise InvalidConfig("the signer 'certificate' needs key and chain", hint="key=K.pem,chain=leaf.pem+int.pem")
    key = options["key"]
    uri = key if key.partition(":")[0] in signers.names() else f"file:{key}"
    holder = require_key(load_signer(uri, password=password))
    allowed = options.get("allow_ca_leaf", "false").lower() in ("true", "yes", "1")
    return CertificateSigner(holder, read_files(options["chain"]), allowed)
