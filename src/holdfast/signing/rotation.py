"""Key sets: signed lists of who may sign what and when, handed on from one edition to the next.

The rules are those of TUF's root role (The Update Framework, specification 1.0, section 5.3): an edition is signed by
a threshold of its own root keys, and, unless it is the first, by a threshold of the root keys of the edition before.
So a verifier who pins the first roots can follow every later change, and whoever steals the newest keys alone cannot
rewrite the past. Bytes are specified in ``docs/formats/revocation.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from holdfast.errors import (
    HoldfastError,
    InvalidConfig,
    PolicyError,
    SignatureInvalid,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.evidence import canonical
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import sign_statement, verify_bundle
from holdfast.signing.editions import FIELDS, Edition
from holdfast.signing.keys import PublicKey, load_public
from holdfast.signing.marks import Mark
from holdfast.signing.signers.protocol import KeyHolder
from holdfast.signing.times import read_time, write_time
from holdfast.signing.trusts import KeyTrust, Threshold

PREDICATE_TYPE = "https://holdfast.dev/key-set/v1"
ROLES = {
    "model": (
        "https://model_signing/signature/v1.0",
        "https://holdfast.dev/model-manifest/v2",
        "https://holdfast.dev/model/v1",
    ),
    "passport": ("https://holdfast.dev/passport/v1",),
    "revocation": ("https://holdfast.dev/revocations/v1",),
    "summary": ("https://slsa.dev/verification_summary/v1",),
    "provenance": ("https://slsa.dev/provenance/v1",),
}
_KEY_FIELDS = {"pem", "roles", "names", "not_before", "not_after"}
_FIELDS = {"name", "previous", "roots", "threshold", "keys", *FIELDS}
_MAX_EDITIONS = 1024


@dataclass(frozen=True, slots=True)
class SetKey:
    """A key that may sign statements of ``roles`` about subjects whose name fits one of ``names``, for some time.

    Attributes:
        key: the public key.
        roles: names in :data:`ROLES`, or whole predicate types.
        names: shell patterns for the signed name of the model, dataset or other subject.
        not_before, not_after: when it may sign; both ends count.
    """

    key: PublicKey
    roles: tuple[str, ...]
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if not self.roles or not self.names:
            raise InvalidConfig("a key in a set needs roles and names", hint='roles = ("model",), names = ("*",)')
        for role in self.roles:
            if role not in ROLES and "://" not in role:
                raise InvalidConfig(f"unknown role {role!r}", hint=f"one of {', '.join(ROLES)}, or a predicate type")
        if self.not_after <= self.not_before:
            raise InvalidConfig("a key's time ends before it begins")

    @property
    def predicate_types(self) -> frozenset[str]:
        """All predicate types that the roles stand for."""
        return frozenset(kind for role in self.roles for kind in ROLES.get(role, (role,)))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "pem": self.key.pem.decode(),
            "roles": list(self.roles),
            "names": list(self.names),
            "not_before": write_time(self.not_before),
            "not_after": write_time(self.not_after),
        }

    @classmethod
    def from_json(cls, value: Any) -> SetKey:
        """Read a key back; raise :class:`UnreadableArtifact` for anything not known exactly."""
        if not isinstance(value, dict) or set(value) != _KEY_FIELDS:
            raise UnreadableArtifact(f"a key in a set needs exactly {', '.join(sorted(_KEY_FIELDS))}")
        times = (read_time(value[name], f"{name} of a key") for name in ("not_before", "not_after"))
        roles, names = (_texts(value[name], name) for name in ("roles", "names"))
        return cls(_pem(value["pem"]), roles, names, *times)


@dataclass(frozen=True)
class KeySet:
    """One edition of the key set called ``name``; ``previous`` is the digest of the one before, or empty."""

    name: str
    edition: Edition
    roots: tuple[PublicKey, ...]
    threshold: int
    keys: tuple[SetKey, ...]
    previous: str = ""

    def __post_init__(self) -> None:
        prints = [item.key.fingerprint for item in self.keys]
        if len(set(prints)) != len(prints):
            raise InvalidConfig("the key set names a key twice")
        if (self.edition.version == 1) != (not self.previous):
            raise InvalidConfig("every edition but the first names the one before it")
        self.root_trust  # noqa: B018  refuses a threshold that cannot be reached, and a root named twice

    @cached_property
    def root_trust(self) -> Threshold:
        """What the next edition must satisfy."""
        return Threshold(tuple(KeyTrust(root) for root in self.roots), self.threshold)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical predicate."""
        return hashlib.sha256(canonical.dumps(self.to_json())).hexdigest()

    @property
    def mark(self) -> tuple[str, Mark]:
        """What to remember of it: see :class:`holdfast.signing.marks.Marks`."""
        return f"key-set:{self.name}", Mark(self.edition.version, self.digest)

    def to_json(self) -> dict[str, Any]:
        """Return the predicate."""
        return {
            "name": self.name,
            **self.edition.to_json(),
            "previous": self.previous,
            "roots": [root.pem.decode() for root in self.roots],
            "threshold": self.threshold,
            "keys": [item.to_json() for item in self.keys],
        }


def sign_key_set(keys: KeySet, signer: KeyHolder, *more: KeyHolder) -> bytes:
    """Return the bundle over ``keys``: signed by enough of its roots, and of those of the edition before."""
    subject = Subject(f"key-set:{keys.name}", {"sha256": keys.digest})
    return sign_statement(Statement((subject,), PREDICATE_TYPE, keys.to_json()), signer, *more)


def _as_it_is(roots: Threshold) -> Threshold:
    return roots


def follow(
    editions: Iterable[bytes],
    roots: Threshold,
    *,
    at: datetime | None = None,
    limited: Callable[[Threshold], Threshold] = _as_it_is,
) -> KeySet:
    """Return the newest of ``editions``, bundles from the oldest to the newest, starting from the pinned ``roots``.

    Only the newest must be current: the older ones are steps on the way, as in TUF.

    Args:
        editions: bundles.
        roots: who must have signed the first.
        at: when the newest must be current.
        limited: returns a trust in roots, those of every edition, less what has been revoked.

    Raises:
        SignatureInvalid, SignerUntrusted: an edition lacks signatures of its own roots, or of those before it.
        PolicyError: a step is missing or out of order, or the newest edition is not current at ``at`` (now).
        UnreadableArtifact: an edition is malformed.
    """
    newest: KeySet | None = None
    for data in _bounded(editions):
        newest = _step(data, newest, roots, limited)
    if newest is None:
        raise PolicyError("there is no edition of the key set")
    newest.edition.require_current(at, f"key set {newest.name!r}")
    return newest


def _bounded(editions: Iterable[bytes]) -> Iterable[bytes]:
    for count, data in enumerate(editions):
        if count >= _MAX_EDITIONS:
            raise UnreadableArtifact(f"more than {_MAX_EDITIONS} editions of a key set")
        yield data


def _step(data: bytes, before: KeySet | None, pinned: Threshold, limited: Callable[[Threshold], Threshold]) -> KeySet:
    proof = verify_bundle(data, limited(pinned if before is None else before.root_trust))
    keys = parse_key_set(proof.statement)
    verify_bundle(data, limited(keys.root_trust))
    if before is None:
        return keys
    if keys.name != before.name:
        raise PolicyError(f"the key set {before.name!r} cannot become {keys.name!r}")
    if keys.edition.version != before.edition.version + 1 or keys.previous != before.digest:
        versions = f"{before.edition.version} to {keys.edition.version}"
        raise PolicyError(f"the key set goes from version {versions}, and not one step on from the very edition before")
    return keys


def parse_key_set(statement: Statement) -> KeySet:
    """Return the key set that ``statement`` holds, after checking that it is consistent; decides nothing of trust."""
    if statement.predicate_type != PREDICATE_TYPE:
        raise UnsupportedVersion(f"this is a {statement.predicate_type}, not a key set")
    try:
        keys = _from_predicate(dict(statement.predicate))
    except (InvalidConfig, TypeError) as error:
        hint = error.hint if isinstance(error, HoldfastError) else ""
        raise UnreadableArtifact(f"the key set is malformed: {error}", hint=hint) from error
    if statement.subjects != (Subject(f"key-set:{keys.name}", {"sha256": keys.digest}),):
        raise SignatureInvalid("the key set is not the one its statement names")
    return keys


def _from_predicate(value: dict[str, Any]) -> KeySet:
    if set(value) != _FIELDS:
        raise UnreadableArtifact(f"a key set needs exactly {', '.join(sorted(_FIELDS))}")
    for name, kind in (("name", str), ("previous", str), ("roots", list), ("keys", list), ("threshold", int)):
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise UnreadableArtifact(f"{name} of the key set is malformed")
    return KeySet(
        name=value["name"],
        edition=Edition.from_json(value, "key set"),
        roots=tuple(_pem(item) for item in value["roots"]),
        threshold=value["threshold"],
        keys=tuple(SetKey.from_json(item) for item in value["keys"]),
        previous=value["previous"],
    )


def _pem(value: Any) -> PublicKey:
    if not isinstance(value, str):
        raise UnreadableArtifact("a key of the key set is no PEM text")
    return load_public(value.encode())


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise UnreadableArtifact(f"the {what} of a key are no list of text")
    return tuple(value)
