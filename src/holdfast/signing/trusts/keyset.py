"""Trust in a key set: in any of its keys, for what that key may sign and while it may sign it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from cryptography import x509

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, SignerUntrusted, UnreadableArtifact, VerificationError
from holdfast.evidence.statement import Statement
from holdfast.signing.envelope import Envelope
from holdfast.signing.rotation import KeySet, SetKey, follow
from holdfast.signing.times import now, read_time, write_time
from holdfast.signing.trust import Identity
from holdfast.signing.trusts.key import KeyTrust
from holdfast.signing.trusts.threshold import Threshold

_LIMIT = 16 << 20


@dataclass(frozen=True)
class KeySetTrust:
    """Accepts what a key in ``keys`` signed, about what it may sign and within its time.

    The time of a signature is the proven one, where a timestamp or a log proves it; else it is ``at``, the time of
    verification (None: now). So a bare signature stops counting when its key's time is over.
    """

    keys: KeySet
    at: datetime | None = None
    tsa_roots: tuple[x509.Certificate, ...] = ()  # of the timestamp authorities whose times are believed

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether the signature says to be by a key of the set."""
        return any(KeyTrust(item.key).claims(envelope, index) for item in self.keys.keys)

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return the key's identity if it made the signature and was allowed to."""
        claimed = [item for item in self.keys.keys if KeyTrust(item.key).claims(envelope, index)]
        if not claimed:
            raise SignerUntrusted(f"{envelope.named(index)[:20]} is not in the key set {self.keys.name!r}")
        item, identity = _first_that_verifies(claimed, envelope, index)
        identity = dataclasses.replace(identity, time=self._stamped(envelope, index))
        _require_time(item, identity.time or self.at or now())
        _require_scope(item, Statement.from_bytes(envelope.payload))
        return identity

    def _stamped(self, envelope: Envelope, index: int) -> datetime | None:
        if not self.tsa_roots or not envelope.material.timestamps:
            return None
        from holdfast.signing.timestamps import signing_time  # an extra of its own: only where roots are given

        return signing_time(envelope, index, self.tsa_roots, now=self.at or now())


def _first_that_verifies(items: list[SetKey], envelope: Envelope, index: int) -> tuple[SetKey, Identity]:
    """Return the key that made the signature; without a name on it, every key of the set may have."""
    for item in items[:-1]:
        try:
            return item, KeyTrust(item.key).accept(envelope, index)
        except VerificationError:
            continue
    return items[-1], KeyTrust(items[-1].key).accept(envelope, index)


def _require_time(item: SetKey, time: datetime) -> None:
    if not item.not_before <= time <= item.not_after:
        span = f"{write_time(item.not_before)} to {write_time(item.not_after)}"
        raise SignerUntrusted(f"the key {item.key.fingerprint[:16]} may sign from {span} only")


def _require_scope(item: SetKey, statement: Statement) -> None:
    if statement.predicate_type not in item.predicate_types:
        raise SignerUntrusted(
            f"the key {item.key.fingerprint[:16]} may sign {', '.join(item.roles)}, not a {statement.predicate_type}"
        )
    for subject in statement.subjects:
        if not any(fnmatchcase(subject.name, pattern) for pattern in item.names):
            names = ", ".join(item.names)
            raise SignerUntrusted(f"the key {item.key.fingerprint[:16]} may sign {names}, not {subject.name!r}")


def read_key_set_trust(
    path: Path | str,
    roots: Threshold,
    *,
    at: datetime | None = None,
    tsa_roots: tuple[x509.Certificate, ...] = (),
    limited: Callable[[Threshold], Threshold] | None = None,
) -> KeySetTrust:
    """Return the trust of the key set at ``path``: one bundle, or a folder of all editions ``1.bundle.json`` and on.

    ``limited`` takes what is revoked from the trust in the roots of every edition.

    Raises:
        UnreadableArtifact: no such file, or a folder without editions.
        VerificationError: see :func:`holdfast.signing.rotation.follow`.
    """
    place = Path(path)
    more = {} if limited is None else {"limited": limited}
    return KeySetTrust(follow(read_editions(place), roots, at=at, **more), at, tsa_roots)


def read_stampers(files: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates in PEM files joined by ``+``; none for none."""
    from holdfast.signing.x509 import read_files

    return read_files(files) if files else ()


def read_editions(place: Path) -> Iterator[bytes]:
    """Yield the editions of a key set, oldest first: of a bundle itself, or of a folder ``1.bundle.json`` and on.

    Raises:
        UnreadableArtifact: no such file, or a gap in the numbers, so that no step is skipped unseen.
    """
    if not place.is_dir():
        yield read_bytes(place, "key set", limit=_LIMIT)
        return
    folder = place
    stems = [path.name.removesuffix(".bundle.json") for path in folder.glob("*.bundle.json")]
    numbers = sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise UnreadableArtifact(f"{folder} does not hold the editions 1.bundle.json, 2.bundle.json and on without gap")
    for number in numbers:
        yield read_bytes(folder / f"{number}.bundle.json", "key set", limit=_LIMIT)


def keyset_trust(path: str, root: str, at: str = "", threshold: int = 0, tsa_roots: str = "") -> KeySetTrust:
    """Trust the key set at ``path`` that starts from the pinned PEM files ``root`` (several joined by ``+``).

    Args:
        path: bundle, or folder of all editions.
        root: public keys that must have signed the first edition there.
        at: judge as of this time, ``2026-01-31T12:00:00Z``; now by default.
        threshold: how many of the pinned roots must have signed; all by default.
        tsa_roots: PEM files of the roots of timestamp authorities, whose timestamps are the times of signing.
    """
    from holdfast.signing.trusts import require_threshold

    if threshold < 0:
        raise InvalidConfig(f"a threshold of {threshold} makes no sense")
    roots = require_threshold([Path(item) for item in root.split("+")], threshold or None)
    time = read_time(at, "at") if at else None
    return read_key_set_trust(path, roots, at=time, tsa_roots=read_stampers(tsa_roots))
