"""The plan of a key set, as TOML: which roots hand on trust, and who may sign what from when until when."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig
from holdfast.policy.read import read_table
from holdfast.signing.editions import Edition
from holdfast.signing.keys import load_public
from holdfast.signing.rotation import KeySet, SetKey
from holdfast.signing.times import now, read_time


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """One key: its PEM file, relative to the plan, what it may sign, and its time."""

    pem: str
    roles: tuple[str, ...]
    names: tuple[str, ...]
    not_before: str
    not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPlan:
    """The set itself; ``roots`` are PEM files, and ``lifetime`` is how long an edition may be relied on."""

    name: str
    roots: tuple[str, ...]
    lifetime: timedelta
    threshold: int = 1


def next_edition(path: Path | str, before: KeySet | None) -> KeySet:
    """Return the edition that the plan in ``path`` describes, one after ``before``, or the first.

    Raises:
        InvalidConfig: the plan is not TOML, or not understood, or names a set that cannot be.
        UnreadableArtifact: a key is missing.
    """
    folder, (plan, keys) = Path(path).parent, _read(path)
    start = now()
    return KeySet(
        name=plan.name,
        edition=Edition(1 if before is None else before.edition.version + 1, start, start + plan.lifetime),
        roots=tuple(load_public(folder / item) for item in plan.roots),
        threshold=plan.threshold,
        keys=tuple(_key(folder, item) for item in keys),
        previous="" if before is None else before.digest,
    )


def _read(path: Path | str) -> tuple[SetPlan, list[KeyPlan]]:
    try:
        value: dict[str, Any] = tomllib.loads(read_bytes(path, "plan", limit=1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    items = value.pop("key", [])
    if not isinstance(items, list) or not items or not all(isinstance(item, Mapping) for item in items):
        raise InvalidConfig(f"{path} names no key", hint="add a [[key]] table")
    return read_table(SetPlan, value, str(path)), [read_table(KeyPlan, item, "[[key]]") for item in items]


def _key(folder: Path, plan: KeyPlan) -> SetKey:
    times = (read_time(plan.not_before, "not_before"), read_time(plan.not_after, "not_after"))
    return SetKey(load_public(folder / plan.pem), plan.roles, plan.names, *times)
