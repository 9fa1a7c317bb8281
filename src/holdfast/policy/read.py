"""Reading a policy from TOML, strictly: what is not understood is refused, for it may be a demand."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig
from holdfast.policy.contents import FORMATS
from holdfast.policy.model import (
    BaseRule,
    DatasetsRule,
    FilesRule,
    KeysRule,
    LineageRule,
    ModelRule,
    PassportRule,
    Policy,
    ProvenanceRule,
    Requirement,
    RevocationRule,
    RollbackRule,
)
from holdfast.signing.times import read_span

T = TypeVar("T")
SINGLE: dict[str, type[Any]] = {
    "passport": PassportRule,
    "rollback": RollbackRule,
    "files": FilesRule,
    "provenance": ProvenanceRule,
    "datasets": DatasetsRule,
    "base": BaseRule,
    "lineage": LineageRule,
    "revocation": RevocationRule,
    "keys": KeysRule,
}
REPEATED: dict[str, type[Any]] = {"require": Requirement, "model": ModelRule}
_HEX = frozenset("0123456789abcdef")


def read_policy(path: Path | str) -> Policy:
    """Read a policy.

    Raises:
        InvalidConfig: not TOML, an unknown table, key or format (the nearest is named), a wrong type, a demand that
            makes no sense, or no demand at all.
        UnreadableArtifact: the file is missing.
    """
    data = read_bytes(path, "policy", limit=1 << 20)
    try:
        value = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    _known_keys(value, (*SINGLE, *REPEATED), str(path))
    if not any(value.values()):
        raise InvalidConfig(f"{path} requires nothing", hint="add a [[require]] or [[model]] table")
    given = [name for name in SINGLE if name in value]
    single: dict[str, Any] = {name: read_table(SINGLE[name], value[name], f"[{name}]") for name in given}
    several: dict[str, Any] = {name: _tables(REPEATED[name], value[name], name) for name in REPEATED if name in value}
    digest = hashlib.sha256(data).hexdigest()
    policy = Policy(
        folder=Path(path).parent, name=Path(path).name, digest=digest, tables=tuple(value), **single, **several
    )
    _require_sense(policy)
    return policy


def _tables(kind: type[T], value: object, name: str) -> tuple[T, ...]:
    """Read an array of tables; a single table is an array of one."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InvalidConfig(f"{name} is empty", hint=f"add a [[{name}]] table, or leave it out")
    return tuple(read_table(kind, item, f"[[{name}]]") for item in items)


def read_table(kind: type[T], value: object, where: str) -> T:
    """Return the frozen dataclass ``kind`` of a TOML table; raise :class:`InvalidConfig` for what does not fit it."""
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    _known_keys(value, tuple(fields), where)
    given = typing.cast(Mapping[str, object], value)
    needed = [name for name, item in fields.items() if item.default is item.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in given]
    if missing:
        raise InvalidConfig(f"{where} needs {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(item, hints[name], f"{name} in {where}") for name, item in given.items()})


def _value(value: object, wanted: Any, what: str) -> Any:
    """Return ``value`` as the field's type; a number is no text, and a truth value no number."""
    if isinstance(wanted, types.UnionType):
        wanted = next(item for item in typing.get_args(wanted) if item is not type(None))
    if wanted is timedelta:
        return read_span(value, what)
    if typing.get_origin(wanted) is tuple:
        return _list_of_text(value, what)
    if typing.get_origin(wanted) is Mapping:
        return _levels(value, what) if typing.get_args(wanted)[1] is int else _parameters(value, what)
    numbers = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, numbers) or (isinstance(value, bool) and wanted is not bool):
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise InvalidConfig(f"{what} is {value!r}, not {names[wanted]}")
    return value


def _list_of_text(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise InvalidConfig(f"{what} is {value!r}, not a list of text")
    if len(set(value)) != len(value):
        raise InvalidConfig(f"{what} names something twice")
    return tuple(value)


def _parameters(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        raise InvalidConfig(f"{what} is not a table of parameters", hint="parameters = {rate = 0.01, bits = 8}")
    if odd := [name for name, item in value.items() if not isinstance(item, str | int | float | bool)]:
        raise InvalidConfig(f"{what} gives {odd[0]} no text, number or truth value")
    return dict(value)


def _levels(value: object, what: str) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise InvalidConfig(f"{what} is not a table of levels", hint='builders = {"https://ci.example" = 2}')
    for name, level in value.items():
        if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 3:
            raise InvalidConfig(f"{what} gives {name} the level {level!r}, not 0 to 3")
    return dict(value)


def _known_keys(value: object, known: tuple[str, ...], where: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{where} is not a table")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidConfig(f"{where} has no key {key!r}", hint=hint)


def _require_sense(policy: Policy) -> None:
    """Refuse demands that can never be met, or that always are without looking."""
    for item in policy.require:
        if (item.measure is None) != (not item.bounds()):
            raise InvalidConfig(f"a measure and a bound go together in the requirement on {item.kind}")
        _require_bounds(item)
        _require_digests(item.data, f"data in [[require]] {item.kind}")
    for rule in policy.model:
        _require_threshold(rule.threshold, rule.trust, f"[[model]] {rule.match}")
    if policy.keys is not None:
        _require_threshold(policy.keys.threshold, policy.keys.root, "[keys]")
    if policy.rollback is not None:
        _require_versions(policy.rollback)
    if policy.files is not None:
        _require_formats(policy.files)
    if policy.datasets is not None:
        _require_digests(
            (*policy.datasets.require, *(policy.datasets.allow or ()), *policy.datasets.deny), "[datasets]"
        )
    if policy.lineage is not None:
        _require_threshold(None, policy.lineage.trust, "[lineage]")
        _require_digests(policy.lineage.leaves, "[lineage]")
    if policy.provenance is not None:
        _require_threshold(None, policy.provenance.trust, "[provenance]")
    if policy.base is not None:
        _require_digests(tuple(item for item in policy.base.allow if item != "none"), "[base]")
    _require_sources(policy)


def _require_bounds(item: Requirement) -> None:
    """Refuse bounds that every record keeps, such as infinity, and those that none does."""
    if odd := [name for name, limit in item.bounds().items() if not math.isfinite(limit)]:
        raise InvalidConfig(f"{odd[0]} of {item.kind} is {getattr(item, odd[0])}, which is no bound")
    if item.n_at_least is not None and item.n_at_least < 1:
        raise InvalidConfig(f"n_at_least of {item.kind} is {item.n_at_least}, which asks for nothing")


def _require_versions(rule: RollbackRule) -> None:
    if rule == RollbackRule():
        raise InvalidConfig("[rollback] asks for nothing", hint="give minimum_version or remember")
    if rule.minimum_version is not None and rule.minimum_version < 0:
        raise InvalidConfig(f"minimum_version in [rollback] is {rule.minimum_version}; versions count from 0")


def _require_sources(policy: Policy) -> None:
    """Refuse tables whose evidence no other table says whom to believe about."""
    about_model = [name for name in ("rollback", "provenance", "base", "lineage") if getattr(policy, name) is not None]
    if about_model and not policy.model and policy.keys is None:
        raise InvalidConfig(
            f"[{about_model[0]}] is about a signed model, and no table says who may sign it", hint="add [[model]]"
        )
    if policy.datasets is not None and policy.provenance is None and policy.lineage is None:
        raise InvalidConfig(
            "[datasets] is judged by provenance or lineage, and no table asks for either", hint="add [provenance]"
        )


def _require_threshold(threshold: int | None, members: tuple[str, ...], where: str) -> None:
    if not members:
        raise InvalidConfig(f"{where} trusts nobody")
    if threshold is not None and not 1 <= threshold <= len(members):
        raise InvalidConfig(f"{where}: {threshold} of {len(members)} signers can never sign")


def _require_formats(rule: FilesRule) -> None:
    if not rule.forbid:
        raise InvalidConfig("[files] forbids nothing")
    for item in rule.forbid:
        if item not in FORMATS and not set(item) & set("*?[./"):
            near = difflib.get_close_matches(item, FORMATS, n=1)
            known = f"known: {', '.join(FORMATS)}; a pattern of names holds one of * ? [ . /"
            raise InvalidConfig(f"unknown format {item!r}", hint=f"did you mean {near[0]}?" if near else known)


def _require_digests(digests: tuple[str, ...], where: str) -> None:
    for item in digests:
        if len(item) != 64 or not set(item) <= _HEX:
            raise InvalidConfig(f"{where} names {item!r}, not a digest in lower-case hex")
