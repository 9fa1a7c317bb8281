"""Who a certificate must be for. A chain to a root says that somebody vouches; only a name says for whom."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.signing.x509.certificates import describe, extension, issuer_of, name_of

MAX_NAME = 1024  # characters of a name that a pattern is tried on
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")  # no colon, so that none reads as a URI
_HOST = re.compile(r"[A-Za-z0-9*_.-]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


@dataclass(frozen=True, kw_only=True)
class NameRule:
    """What a leaf certificate must be called. All that is given must hold; at least one of the first four must be.

    Attributes:
        identity: an alternative name (email address, URI or host name), exactly, case included.
        domain: the alternative name is an email address at exactly this domain.
        pattern: a regular expression that matches an alternative name from end to end.
        subject: the whole subject, as RFC 4514 writes it.
        issuer: the subject of whoever issued the leaf, as RFC 4514 writes it.
        policy: object identifier of a certificate policy that the leaf must carry.

    Raises:
        InvalidConfig: no name is asked for, more than one kind of alternative name, or one that cannot be read.
    """

    identity: str = ""
    domain: str = ""
    pattern: str = ""
    subject: str = ""
    issuer: str = ""
    policy: str = ""

    def __post_init__(self) -> None:
        names = sum(map(bool, (self.identity, self.domain, self.pattern)))
        if names > 1:
            raise InvalidConfig("give one of identity, domain and identity-regex")
        if not names and not self.subject:
            hint = "identity=, domain=, identity-regex= or subject="
            raise InvalidConfig("trust in certificates needs a name that the signer must have", hint=hint)
        if "*" in self.identity:
            raise InvalidConfig("identity= is exact and takes no star", hint="domain=example.org is *@example.org")
        if self.domain and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", self.domain):
            raise InvalidConfig(f"{self.domain!r} is not a domain", hint="domain=example.org")
        _compile(self.pattern)
        for name in (self.subject, self.issuer):
            _normal(name)

    def match(self, leaf: x509.Certificate) -> str:
        """Return the name of ``leaf`` that this rule asks for.

        Raises:
            SignerUntrusted: it has none such; the message lists those it has.
        """
        self._require_rest(leaf)
        if not (self.identity or self.domain or self.pattern):
            return name_of(leaf)
        names = alternative_names(leaf)
        for name in names:
            if self._matches(name):
                return name
        seen = ", ".join(map(repr, names)) or "nobody"
        raise SignerUntrusted(f"the signer is {seen}, trusted is {self.identity or self.domain or self.pattern!r}")

    def _matches(self, name: str) -> bool:
        if self.identity:
            return name == self.identity
        if self.domain:
            return _EMAIL.fullmatch(name) is not None and name.rpartition("@")[2].lower() == self.domain.lower()
        return len(name) <= MAX_NAME and _compile(self.pattern).fullmatch(name) is not None

    def _require_rest(self, leaf: x509.Certificate) -> None:
        if self.subject and name_of(leaf) != _normal(self.subject):
            raise SignerUntrusted(f"the signer's subject is {name_of(leaf)!r}, trusted is {self.subject!r}")
        if self.issuer and issuer_of(leaf) != _normal(self.issuer):
            raise SignerUntrusted(f"{describe(leaf)} is issued by {issuer_of(leaf)!r}, trusted is {self.issuer!r}")
        policies = extension(leaf, x509.CertificatePolicies) or ()
        if self.policy and self.policy not in {item.policy_identifier.dotted_string for item in policies}:
            raise SignerUntrusted(f"{describe(leaf)} is not issued under the policy {self.policy}")


def alternative_names(leaf: x509.Certificate) -> tuple[str, ...]:
    """Return the email addresses, URIs and host names of ``leaf``.

    A name that does not look like what its type says is left out: a host name never passes for an address, and no
    name with a NUL, a space or a second ``@`` is compared at all.
    """
    found = extension(leaf, x509.SubjectAlternativeName)
    if found is None:
        return ()
    shapes = ((x509.RFC822Name, _EMAIL), (x509.UniformResourceIdentifier, _URI), (x509.DNSName, _HOST))
    return tuple(
        item.value for item in found for kind, shape in shapes if isinstance(item, kind) and _plain(item.value, shape)
    )


def _plain(name: str, shape: re.Pattern[str]) -> bool:
    return name.isascii() and name.isprintable() and shape.fullmatch(name) is not None


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidConfig(f"identity-regex {pattern!r} is not a regular expression: {error}") from error


def _normal(name: str) -> str:
    try:
        return x509.Name.from_rfc4514_string(name).rfc4514_string() if name else ""
    except ValueError as error:
        raise InvalidConfig(f"{name!r} is not a name", hint="as RFC 4514 writes it: CN=builder,O=Example") from error
