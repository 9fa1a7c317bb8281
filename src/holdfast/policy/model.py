"""A policy: a list of requirements, each on one measure of one kind of record."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig

BOUNDS = ("high_below", "low_above", "value_below", "value_above", "n_at_least")


@dataclass(frozen=True, slots=True)
class Requirement:
    """``kind``'s ``measure`` must satisfy every given bound, on its value or on an end of its interval.

    ``high_below`` demands that even the upper end of the interval is below the bound; ``low_above`` the reverse.
    Without a measure the record must merely be there.
    """

    kind: str
    measure: str | None = None
    high_below: float | None = None
    low_above: float | None = None
    value_below: float | None = None
    value_above: float | None = None
    n_at_least: int | None = None
    signer: str | None = None  # PEM file of the key that must have signed, relative to the policy

    def bounds(self) -> dict[str, float]:
        """Return the bounds that are set, by field name."""
        values = {name: getattr(self, name) for name in BOUNDS}
        return {name: float(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Policy:
    """All requirements; ``folder`` is what signer paths are relative to."""

    require: tuple[Requirement, ...]
    folder: Path
    signer: str | None = None  # of the passport as a whole


def read_policy(path: Path | str) -> Policy:
    """Read a policy.

    Raises:
        InvalidConfig: not TOML, an unknown key (the nearest is named), a wrong type, or no requirement at all.
        UnreadableArtifact: the file is missing.
    """
    try:
        value = tomllib.loads(read_bytes(path, "policy", limit=1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    _known_keys(value, ("require", "passport"), str(path))
    passport = value.get("passport", {})
    _known_keys(passport, ("signer",), "[passport]")
    items = value.get("require", [])
    if not isinstance(items, list) or not items:
        raise InvalidConfig(f"{path} requires nothing", hint="add a [[require]] table")
    return Policy(tuple(_requirement(item) for item in items), Path(path).parent, passport.get("signer"))


def _requirement(item: Mapping[str, Any]) -> Requirement:
    _known_keys(item, tuple(field.name for field in dataclasses.fields(Requirement)), "[[require]]")
    if "kind" not in item:
        raise InvalidConfig("a requirement needs a kind of record", hint='kind = "fault-campaign"')
    for name, value in item.items():
        _check_type(name, value)
    result = Requirement(**item)
    if (result.measure is None) != (not result.bounds()):
        raise InvalidConfig(f"a measure and a bound go together in the requirement on {result.kind}")
    return result


def _check_type(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number if name in BOUNDS else isinstance(value, str)):
        raise InvalidConfig(f"{name} = {value!r} in a requirement is not {'a number' if name in BOUNDS else 'text'}")


def _known_keys(value: object, known: tuple[str, ...], where: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{where} is not a table")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidConfig(f"{where} has no key {key!r}", hint=hint)
