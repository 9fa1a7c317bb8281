"""From a leaf to a root that somebody chose: every path, every check of it by name (RFC 5280, section 6.1).

The library's own path builder serves web servers: it wants a host name or a client-authentication purpose. Paths of
signers are short and explicit, so they are walked here; each signature in them is verified by the library. What is not
understood is refused: an unknown critical extension, and name constraints altogether.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from holdfast.errors import SignerUntrusted
from holdfast.signing.x509.certificates import MALFORMED, describe
from holdfast.signing.x509.checks import Purpose, require_authority, require_leaf, require_strong

MAX_DEPTH = 6  # certificates from the leaf to the root, both counted
MAX_ATTEMPTS = 64  # signatures looked at: a hostile set of intermediates cannot make it more

Path = tuple[x509.Certificate, ...]


@dataclass(frozen=True, kw_only=True)
class PathRules:
    """What a path must satisfy.

    Attributes:
        roots: where a path may end; nothing else is believed.
        time: when every certificate of the path must be valid.
        purpose: what the leaf must be for.
        allow_ca_leaf: whether a leaf may say that it is an authority too.
    """

    roots: Path
    time: datetime
    purpose: Purpose
    allow_ca_leaf: bool = False


@dataclass
class _Search:
    """One search; ``refusals`` keeps why each candidate failed, ``attempts`` bounds the work."""

    rules: PathRules
    intermediates: Path
    attempts: int = 0
    refusals: list[SignerUntrusted] = field(default_factory=list)

    def run(self, path: Path) -> Path | None:
        for issuer in self._issuers(path):
            longer = (*path, issuer)
            if issuer in self.rules.roots and self._holds(longer):
                return longer
            if issuer not in self.rules.roots and len(longer) < MAX_DEPTH and (found := self.run(longer)):
                return found
        return None

    def _issuers(self, path: Path) -> Iterator[x509.Certificate]:
        """Yield whose key verifiably signed the last certificate, roots first."""
        for candidate in (*self.rules.roots, *self.intermediates):
            if candidate in path or candidate.subject != path[-1].issuer:
                continue
            self.attempts += 1
            if self.attempts > MAX_ATTEMPTS:
                raise SignerUntrusted(f"the chain of {describe(path[0])} is not found in {MAX_ATTEMPTS} attempts")
            if self._signed(path[-1], candidate):
                yield candidate

    def _signed(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        try:
            require_strong(certificate, issuer)
            certificate.verify_directly_issued_by(issuer)
        except SignerUntrusted as error:
            self.refusals.append(error)
            return False
        except (InvalidSignature, *MALFORMED):
            words = f"{describe(certificate)} is not signed by the key of {describe(issuer)}, whose name it gives"
            self.refusals.append(SignerUntrusted(words))
            return False
        return True

    def _holds(self, path: Path) -> bool:
        try:
            require_path(path, self.rules)
        except SignerUntrusted as error:
            self.refusals.append(error)
            return False
        return True


def find_path(leaf: x509.Certificate, intermediates: Path, rules: PathRules) -> Path:
    """Return a path from ``leaf`` to one of the roots that satisfies all rules.

    Raises:
        SignerUntrusted: there is none; the message is the first reason why the nearest candidate failed.
    """
    if leaf in rules.roots:
        raise SignerUntrusted(f"{describe(leaf)} is a trusted root itself and signs no models")
    search = _Search(rules, intermediates)
    if found := search.run((leaf,)):
        return found
    if search.refusals:
        raise search.refusals[0]
    raise SignerUntrusted(
        f"{describe(leaf)} does not lead to a trusted root", hint="give the root, and what is between, as PEM files"
    )


def require_path(path: Path, rules: PathRules) -> None:
    """Check every certificate of a path whose signatures and names were followed; leaf first, root last."""
    require_leaf(path[0], rules.purpose, rules.time, allow_ca=rules.allow_ca_leaf)
    below = 0  # authorities under this one that are not the same one with a new key (RFC 5280, 6.1.4 l)
    for authority in path[1:]:
        require_authority(authority, rules.purpose, rules.time, below)
        below += authority.subject != authority.issuer
