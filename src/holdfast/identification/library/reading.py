"""The body of a library as records: every field has its kind, and every name is one that a terminal can be shown.

A library comes from elsewhere, and its digest only says that its author finished writing it. A label with a line feed
in it would print a verdict of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.identification.library.records import Entry, Machine, Skipped, Subject

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}")


def require_label(name: object) -> str:
    """Return the name of a platform.

    Raises:
        InvalidConfig: another kind of value, or other characters than letters, digits and ``. _ - = +``.
    """
    if not isinstance(name, str) or not _LABEL.fullmatch(name):
        raise InvalidConfig(
            f"{name!r:.200} is no name of a platform", hint="letters, digits and . _ - = +, as in onednn-avx2"
        )
    return name


def require_line(value: object, what: str) -> str:
    """Return text without control characters.

    Raises:
        InvalidConfig: another kind of value, or characters that do not print.
    """
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidConfig(f"{what} is {value!r:.200}, not one line of text that prints")
    return value


def require_machine(machine: Machine) -> Machine:
    """Return a machine all of whose words print; raises :class:`InvalidConfig` like :func:`require_line`."""
    require_line(machine.processor, "the processor of a machine")
    require_line(machine.system, "the system of a machine")
    for feature in machine.features:
        require_line(feature, "a feature of a machine")
    for package, version in machine.versions.items():
        require_line(package, "a package of a machine")
        require_line(version, f"the version of {package}")
    return machine


def subject_from(value: object) -> Subject:
    """Return a subject from its JSON form; raises :class:`InvalidConfig`, as all of these do."""
    found = _object(value, "a subject", ("name", "model", "probes"))
    name, model, probes = (require_line(found[key], f"{key} of a subject") for key in ("name", "model", "probes"))
    return Subject(name, model, probes)


def machine_from(value: object) -> Machine:
    """Return a machine from its JSON form."""
    found = _object(value, "a machine", ("processor", "features", "system", "versions"))
    if not isinstance(found["features"], list):
        raise InvalidConfig(f"features of a machine is {found['features']!r:.200}, not a list")
    versions = _object(found["versions"], "versions of a machine")
    return require_machine(Machine(found["processor"], tuple(found["features"]), found["system"], versions))


def entry_from(value: object) -> Entry:
    """Return what a platform answered from its JSON form."""
    found = _object(value, "an entry", ("platform", "machine", "described", "outputs"))
    platform = require_label(found["platform"])
    outputs = _object(found["outputs"], f"outputs of {platform}")
    for name, digest in outputs.items():
        require_line(digest, f"the output of {platform} on {require_line(name, 'a subject')}")
    described = _object(found["described"], f"described of {platform}")
    return Entry(platform, require_line(found["machine"], f"machine of {platform}"), described, outputs)


def skipped_from(value: object) -> Skipped:
    """Return what did not run from its JSON form."""
    found = _object(value, "a skipped platform", ("platform", "machine", "reason", "subject"))
    platform = require_label(found["platform"])
    machine, reason, subject = (
        require_line(found[key], f"{key} of {platform}") for key in ("machine", "reason", "subject")
    )
    return Skipped(platform, machine, reason, subject)


def fields(body: Mapping[str, Any]) -> tuple[list[object], list[object], list[object], list[object]]:
    """Return subjects, machines, entries and skipped platforms, each still as JSON."""
    machines = _object(body.get("machines"), "machines")
    subjects, entries, skipped = (_list(body.get(key), key) for key in ("subjects", "entries", "skipped"))
    return subjects, list(machines.values()), entries, skipped


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise InvalidConfig(f"{what} is {value!r:.200}, not a list")
    return value


def _object(value: object, what: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return a JSON object, with exactly these keys where they are given."""
    if not isinstance(value, dict):
        raise InvalidConfig(f"{what} is {value!r:.200}, not an object")
    if keys is not None and set(value) != set(keys):
        lacks, more = sorted(set(keys) - set(value)), sorted(set(value) - set(keys))
        raise InvalidConfig(f"{what} lacks {lacks[0]}" if lacks else f"{what} has {more[0]!r:.200}, which is no field")
    return value
