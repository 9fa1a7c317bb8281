"""Whom a policy trusts at a moment, less what is revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from pathlib import Path

from holdfast._files import read_bytes
from holdfast._registry import parse_spec
from holdfast.errors import InvalidConfig, PolicyError, SignerUntrusted
from holdfast.policy.bundles import LIMIT
from holdfast.policy.model import Policy
from holdfast.signing import Threshold, load_trust
from holdfast.signing.marks import Mark, Marks
from holdfast.signing.revocation import RevocationList, bundle_names, verify_revocations
from holdfast.signing.trust import Trust
from holdfast.signing.trusts import require_threshold, trusts
from holdfast.signing.trusts.keyset import KeySetTrust, read_key_set_trust, read_stampers
from holdfast.signing.trusts.unrevoked import Unrevoked

_PATHS = ("path", "root", "roots", "intermediates", "tsa_roots", "crls")  # options of trusts that are files, or a+b
_INSTANCES = ("public-good", "staging")  # roots that are no files


class Trusted:
    """The part of a case that asks its policy whom to believe, and notes what was believed."""

    policy: Policy
    at: datetime
    used: set[tuple[str, str]]

    def note(self, path: Path, data: bytes) -> None:
        """Note that the evidence ``data`` in ``path`` was believed."""
        self.used.add((path.name, hashlib.sha256(data).hexdigest()))

    @cached_property
    def revocations(self) -> RevocationList | None:
        """The current revocation list, if the policy asks for one."""
        rule = self.policy.revocation
        if rule is None:
            return None
        data = read_bytes(self.policy.folder / rule.list, "revocation list", limit=LIMIT)
        signer = require_threshold([self.source(rule.signer)])
        found, _ = verify_revocations(data, signer, at=self.at, maximum_age=rule.maximum_age)
        self._require_no_other(*found.mark, wanted=rule.name)
        self.note(Path(rule.list), data)
        return found

    @cached_property
    def key_set(self) -> KeySetTrust:
        """The current key set that the policy asks for."""
        rule = self.policy.keys
        if rule is None:
            raise InvalidConfig("the policy names no key set")
        roots = require_threshold([self.source(item) for item in rule.root], rule.threshold)
        stamps = self._absolute("+".join(rule.tsa_roots)) if rule.tsa_roots else ""
        found = read_key_set_trust(
            self.policy.folder / rule.set,
            roots,
            at=self.at,
            tsa_roots=read_stampers(stamps),
            limited=self._checked,
        )
        self._require_no_other(*found.keys.mark, wanted=rule.name)
        return found

    def _require_no_other(self, name: str, mark: Mark, *, wanted: str | None) -> None:
        """Refuse a list or key set that is older than one seen here, or is another one of the same signers.

        Raises:
            PolicyError: it is; a list of another name would say nothing of what the right one names.
        """
        if wanted is not None and name.partition(":")[2] != wanted:
            raise PolicyError(f"{name} is not the one called {wanted!r} that the policy asks for")
        if self.marks is not None:
            self.marks.require_no_older(name, mark)
            if wanted is None:
                self.marks.require_same_name(name)

    @property
    def marks(self) -> Marks | None:
        """The local memory of versions, if the policy names one."""
        rule = self.policy.rollback
        return None if rule is None or rule.remember is None else Marks(self.policy.folder / rule.remember)

    def source(self, text: str) -> Trust:
        """Return the trust that the policy names, with paths relative to the policy's folder."""
        scheme, colon, rest = text.partition(":")
        if colon and "=" in rest:
            options = parse_spec(text)[1]
            given: dict[str, object] = {name: self._absolute(options[name]) for name in _PATHS if name in options}
            if "trust" in options:  # one kind of trust in another
                given["trust"] = self.source(options["trust"])
            return trusts.build(text, **given)
        if colon and scheme == "key":
            return load_trust(self.policy.folder / rest)
        if colon:
            raise InvalidConfig(f"the policy trusts {text!r}, which names no kind of trust", hint="key:FILE.pub")
        return load_trust(self.policy.folder / text)

    def _absolute(self, places: str) -> str:
        return (
            places if places in _INSTANCES else "+".join(str(self.policy.folder / item) for item in places.split("+"))
        )

    def trust(self, sources: tuple[str, ...], needed: int | None = None) -> Threshold:
        """Return the trust in several sources, less what is revoked."""
        return self._checked(require_threshold([self.source(item) for item in sources], needed))

    def _checked(self, threshold: Threshold) -> Threshold:
        if self.revocations is None:
            return threshold
        members = tuple(Unrevoked(item, self.revocations, self.at) for item in threshold.members)
        return Threshold(members, threshold.needed)

    def checked(self, trust: Trust | Threshold) -> Threshold:
        """Return one trust or several, less what is revoked."""
        return self._checked(trust if isinstance(trust, Threshold) else Threshold((trust,)))

    def require_unrevoked_bundle(self, data: bytes) -> None:
        """Raise :class:`SignerUntrusted` when these very bytes, or what they sign, are revoked."""
        self.require_unrevoked(("bundle", digest) for digest in bundle_names(data))

    def require_unrevoked(self, names: Iterable[tuple[str, str]]) -> None:
        """Raise :class:`SignerUntrusted` when one of these kinds and names is revoked."""
        if self.revocations is None:
            return
        for kind, name in names:
            if entry := self.revocations.against(kind, name, at=self.at):
                raise SignerUntrusted(f"the {kind} {name[:16]} is revoked ({entry.reason})")
