"""Trust in whoever holds a certificate for a given name, issued under roots that were chosen for this."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.signing.envelope import CHAIN, Envelope
from holdfast.signing.trust import Identity
from holdfast.signing.x509 import (
    CODE_SIGNING,
    NameRule,
    PathRules,
    certificate_name,
    find_path,
    issuer_of,
    leaf_key,
    read_chain,
    read_files,
    read_lists,
    require_unrevoked,
)


@dataclass(frozen=True, kw_only=True)
class CertificateTrust:
    """Accepts the first signature of a bundle that brings a certificate chain along.

    Attributes:
        roots: the authorities at which a chain may end. There is no default: web roots vouch for web sites.
        name: what the signer must be called.
        intermediates: further authorities that a chain may lead through, beside those in the bundle.
        at: the time of the verification; now, if None.
        tsa_roots: roots of timestamp authorities; a timestamp under one of them is the time of signing.
        lists: revocation lists, DER; none means that revocation is not checked.
        allow_ca_leaf: whether the signer's certificate may be an authority's too.

    Raises:
        InvalidConfig: no roots, or a time without a zone.
    """

    roots: tuple[x509.Certificate, ...]
    name: NameRule
    intermediates: tuple[x509.Certificate, ...] = ()
    at: datetime | None = None
    tsa_roots: tuple[x509.Certificate, ...] = ()
    lists: tuple[bytes, ...] = ()
    allow_ca_leaf: bool = False

    def __post_init__(self) -> None:
        if not self.roots:
            raise InvalidConfig("trust in certificates needs roots", hint="roots=ca.pem; there are no default ones")
        if self.at is not None and self.at.tzinfo is None:
            raise InvalidConfig("the time of a verification needs a zone", hint="at=2026-01-31T12:00:00Z")

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether signature ``index`` is the one that a chain in the bundle speaks for."""
        return index == 0 and envelope.material.kind == CHAIN

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return who signed: the name that was asked for, and the time if a trusted timestamp proves it.

        Raises:
            SignatureInvalid: the signature, or a timestamp, does not verify.
            SignerUntrusted: the chain does not hold at the time of signing, or is for somebody else.
            UnreadableArtifact: a certificate or timestamp is malformed.
        """
        if not self.claims(envelope, index):
            raise SignerUntrusted(f"signed by {envelope.named(index)[:20] or 'nobody'}, not by a certificate")
        chain = read_chain(envelope.material)
        key = leaf_key(chain[0])
        envelope.check(index, key)
        now = self.at or datetime.now(UTC)
        stamped = self._stamped(envelope, index, now)
        path = tuple(map(certificate_name, self._require_path(chain, stamped or now, now)))
        name = self.name.match(chain[0])
        return Identity("certificate", name, key.fingerprint, issuer=issuer_of(chain[0]), time=stamped, path=path)

    def _stamped(self, envelope: Envelope, index: int, now: datetime) -> datetime | None:
        from holdfast.signing.timestamps import signing_time  # an extra of its own: only where roots are given

        if not self.tsa_roots or not envelope.material.timestamps:
            return None
        return signing_time(envelope, index, self.tsa_roots, now=now)

    def _require_path(
        self, chain: tuple[x509.Certificate, ...], time: datetime, now: datetime
    ) -> tuple[x509.Certificate, ...]:
        rules = PathRules(roots=self.roots, time=time, purpose=CODE_SIGNING, allow_ca_leaf=self.allow_ca_leaf)
        path = find_path(chain[0], (*chain[1:], *self.intermediates), rules)
        require_unrevoked(path, self.lists, now)
        return path


def build_certificate_trust(options: dict[str, str], *, allow_ca_leaf: bool) -> CertificateTrust:
    """Return the trust that the options of ``certificate:`` describe; files are read now."""
    return CertificateTrust(
        roots=read_files(options["roots"]),
        name=NameRule(
            **{key: options[key] for key in ("identity", "domain", "pattern", "subject", "issuer", "policy")}
        ),
        intermediates=read_files(options["intermediates"]),
        at=parse_time(options["at"]),
        tsa_roots=read_files(options["tsa_roots"]),
        lists=read_lists(options["crls"]),
        allow_ca_leaf=allow_ca_leaf,
    )


def parse_time(text: str) -> datetime | None:
    """Return the time that ISO 8601 ``text`` says, None for none; raise :class:`InvalidConfig` if it says none."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is not a time", hint="at=2026-01-31T12:00:00Z") from error
