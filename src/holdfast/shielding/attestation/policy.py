"""What verified claims must be like before anything is entrusted to a world.

A policy is a TOML file or this dataclass. What it leaves out is strict: no debugging, only the patch level that the
vendor calls up to date, a nonce, and at least one measurement by name. A demand about something that the evidence
does not state is not met.
"""

from __future__ import annotations

import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, PolicyError, UnreadableArtifact
from holdfast.shielding.attestation.claims import Claims

MAX_POLICY = 1 << 18  # bytes
_LONGEST = 1e10  # seconds; three centuries, beyond which times overflow
MIN_NONCE = 16  # bytes; fewer can be guessed or met again
_HEX = re.compile(r"([0-9a-f]{2})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Demands on one kind of evidence. All must be met.

    Attributes:
        kind: the only kind of evidence that is accepted.
        measurements: allowed values (hex) by name; each name must be stated with one of its values.
        any_code: accept any code at all; without it at least one measurement must be named.
        minimum: lowest accepted security versions by name.
        tcb: words for the platform's patch level that are accepted, where the vendor states one.
        refuse_advisories: security advisories that must not apply.
        debug: accept worlds whose memory the operator can read and change.
        unfresh: accept evidence without a nonce, which may be a replay.
        max_age: seconds after which evidence that states a time is too old; at most that much clock skew either way.
        roots: PEM certificates to trust instead of the vendor's own root.
        keys: names of the attestation keys to trust, for kinds without a vendor's root (TPM 2.0).
        revocation: refuse evidence that was not held against a current revocation list; some kinds have none.

    Raises:
        InvalidConfig: a demand that cannot be meant.
    """

    kind: str
    measurements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    any_code: bool = False
    minimum: Mapping[str, int] = field(default_factory=dict)
    tcb: tuple[str, ...] = ("UpToDate",)
    refuse_advisories: tuple[str, ...] = ()
    debug: bool = False
    unfresh: bool = False
    max_age: float = 300.0
    roots: tuple[bytes, ...] = ()
    keys: tuple[str, ...] = ()
    revocation: bool = False

    def __post_init__(self) -> None:
        if not self.kind:
            raise InvalidConfig("an attestation policy names the kind of evidence", hint='kind = "sev-snp"')
        if not self.measurements and not self.any_code:
            hint = "name a measurement under [measurements], or say any_code = true"
            raise InvalidConfig("a policy without measurements would accept any code", hint=hint)
        if not 0 < self.max_age <= _LONGEST:
            raise InvalidConfig(f"max_age is {self.max_age}, not a positive number of seconds up to {_LONGEST:g}")
        for name, values in self.measurements.items():
            if not values or not all(_HEX.fullmatch(value) for value in values):
                raise InvalidConfig(f"measurement {name!r} has no value, or one that is not lower-case hex")

    def judge(self, claims: Claims, *, nonce: bytes | None, at: datetime) -> None:
        """Return if ``claims`` meet every demand.

        Args:
            claims: of verified evidence.
            nonce: what this verifier had asked to be signed; None only where the policy is ``unfresh``.
            at: the time for which the question is asked.

        Raises:
            PolicyError: the first demand that is not met, by name.
        """
        if claims.kind != self.kind:
            raise PolicyError(f"the evidence is of kind {claims.kind!r}, the policy demands {self.kind!r}")
        self._judge_freshness(claims, nonce, at)
        if claims.debug and not self.debug:
            raise PolicyError("the world can be debugged: its operator reads and changes its memory")
        if self.revocation and not claims.unrevoked:
            raise PolicyError(f"the policy demands a revocation list, and evidence of kind {claims.kind!r} brings none")
        self._judge_platform(claims)
        self._judge_measurements(claims)

    def _judge_freshness(self, claims: Claims, nonce: bytes | None, at: datetime) -> None:
        if nonce is None and not self.unfresh:
            raise InvalidConfig("evidence without a nonce may be a replay", hint="give the nonce, or unfresh = true")
        if nonce is not None and not hmac.compare_digest(claims.report_data, _expected(nonce, claims)):
            raise PolicyError("the evidence answers another nonce: it is a replay, or of another session")
        if claims.issued is not None and abs(at - claims.issued) > timedelta(seconds=self.max_age):
            raise PolicyError(
                f"the evidence is of {claims.issued:%F %T} UTC, not within {self.max_age:g} s of {at:%F %T}"
            )

    def _judge_platform(self, claims: Claims) -> None:
        if claims.tcb and claims.tcb not in self.tcb:
            known = f" ({', '.join(claims.advisories)})" if claims.advisories else ""
            raise PolicyError(f"the platform's patch level is {claims.tcb}{known}, accepted is {', '.join(self.tcb)}")
        if bad := sorted(set(self.refuse_advisories) & set(claims.advisories)):
            raise PolicyError(f"the security advisory {bad[0]} applies to the platform")
        for name, lowest in self.minimum.items():
            if name not in claims.versions:
                stated = ", ".join(claims.versions) or "none"
                raise PolicyError(f"the evidence states no version {name!r}", hint=f"it states {stated}")
            if claims.versions[name] < lowest:
                raise PolicyError(f"version {name} is {claims.versions[name]}, demanded is at least {lowest}")

    def _judge_measurements(self, claims: Claims) -> None:
        for name, allowed in self.measurements.items():
            if name not in claims.measurements:
                stated = ", ".join(claims.measurements) or "none"
                raise PolicyError(f"the evidence states no measurement {name!r}", hint=f"it states {stated}")
            if claims.measurements[name] not in allowed:
                raise PolicyError(f"measurement {name} is {claims.measurements[name]}, which the policy does not allow")


def _expected(nonce: bytes, claims: Claims) -> bytes:
    """Return what the report must carry to answer ``nonce``; what is too long for its field equals nothing."""
    if len(nonce) < MIN_NONCE:
        raise InvalidConfig(f"the nonce has {len(nonce)} bytes, fewer than {MIN_NONCE}", hint="secrets.token_bytes(32)")
    return nonce.ljust(len(claims.report_data), b"\0") if claims.filled else nonce


def read_policy(path: Path | str) -> Policy:
    """Read a policy from TOML; ``roots`` are PEM files beside it.

    Raises:
        UnreadableArtifact, InvalidConfig: no TOML, an unknown key, or a value of the wrong kind.
    """
    data = read_bytes(path, "attestation policy", limit=MAX_POLICY)
    try:
        values = tomllib.loads(data.decode())
    except ValueError as error:
        raise UnreadableArtifact(f"{path} is not TOML: {error}") from error
    known = {item.name for item in fields(Policy)}
    if unknown := sorted(set(values) - known):
        raise InvalidConfig(
            f"the attestation policy has no key {unknown[0]!r}", hint=f"known: {', '.join(sorted(known))}"
        )
    return Policy(**{name: _value(name, value, Path(path).parent) for name, value in values.items()})


def _value(name: str, value: Any, folder: Path) -> Any:
    if name == "measurements":
        return {key: _texts(f"measurements.{key}", item) for key, item in _table(name, value).items()}
    if name == "minimum":
        return {key: _of(int, f"minimum.{key}", item) for key, item in _table(name, value).items()}
    if name == "roots":
        return tuple(read_bytes(folder / item, "trusted root", limit=MAX_POLICY) for item in _texts(name, value))
    if name in ("tcb", "refuse_advisories", "keys"):
        return _texts(name, value)
    if name == "max_age":
        return float(_of((int, float), name, value))
    return _of(str if name == "kind" else bool, name, value)


def _table(name: str, value: Any) -> dict[str, Any]:
    """Return a table with its nested keys joined by dots, as TOML reads ``pcr.12`` without quotes."""
    table = _of(dict, name, value)
    flat: dict[str, Any] = {}
    for key, item in table.items():
        inner = _table(f"{name}.{key}", item) if isinstance(item, dict) else None
        flat |= {key: item} if inner is None else {f"{key}.{below}": deep for below, deep in inner.items()}
    return flat


def _texts(name: str, value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_of(str, name, item) for item in items)


def _of(kind: Any, name: str, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidConfig(f"{name} of the attestation policy is {value!r}, which is of the wrong kind")
    return value
