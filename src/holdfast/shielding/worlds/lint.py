"""A linter for Gramine manifests: what makes an enclave's measurement say less than it seems to.

The first seven findings are those of a template that was published with a paper on shielded inference, where together
they let the host run any Python under the attested measurement.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from holdfast.errors import UnreadableArtifact

MAX_MANIFEST = 1 << 24  # characters
_WIDE = frozenset(
    {"/", "/usr", "/lib", "/lib64", "/bin", "/etc", "/usr/lib", "/usr/bin", "/usr/local", "/opt", "/usr/lib64"}
)
_HOMES = ("/home/", "/root/", "/Users/")
_BLOCK = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.S)
_SLOT = re.compile(r"\{\{.*?\}\}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One hole: ``rule`` in kebab-case, ``key`` of the manifest, and why it matters."""

    rule: str
    key: str
    why: str


def lint(text: str) -> tuple[Finding, ...]:
    """Return what is wrong with a manifest, rendered or still a template.

    Raises:
        UnreadableArtifact: not TOML, even with the template's parts taken out.
    """
    values = _parsed(text)
    sgx = _table(values, "sgx")
    rules = (_arguments(values), _both(sgx), _attestation(sgx), _wide(sgx), _homes(values), _sealed(values))
    rest = (_version(sgx), _debug(sgx), _allowed(sgx), _insecure(values, ""), _policy(sgx), _log(values))
    return tuple(finding for rule in (*rules, *rest) for finding in rule)


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_MANIFEST:
        raise UnreadableArtifact("the manifest is too long")
    lines = [_filled(line) for line in _BLOCK.sub("", text).splitlines()]
    try:
        return tomllib.loads("\n".join(lines))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UnreadableArtifact(f"the manifest is not TOML: {error}") from error


def _filled(line: str) -> str:
    """Put a word in place of each slot, quoted where the slot is not inside a string already."""

    def word(found: re.Match[str]) -> str:
        inside = line[: found.start()].count('"') % 2
        return "TEMPLATE" if inside else '"TEMPLATE"'

    return _SLOT.sub(word, line)


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _uris(sgx: Mapping[str, Any], key: str) -> list[str]:
    items = sgx.get(key, [])
    found = items.values() if isinstance(items, Mapping) else items if isinstance(items, list) else []
    uris = [item.get("uri", "") if isinstance(item, Mapping) else item for item in found]
    return [uri.removeprefix("file:") for uri in uris if isinstance(uri, str)]


def _arguments(values: Mapping[str, Any]) -> Iterator[Finding]:
    if _table(values, "loader").get("insecure__use_cmdline_argv"):
        why = "the host chooses the command line under the same measurement, and an interpreter runs what it is told"
        yield Finding("host-arguments", "loader.insecure__use_cmdline_argv", why)


def _both(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    trusted = [PurePosixPath(uri) for uri in _uris(sgx, "trusted_files")]
    for uri in _uris(sgx, "allowed_files"):
        place = PurePosixPath(uri)
        if any(place == other or other in place.parents for other in trusted):
            why = "a file that is both is passed through unmeasured: allowed is looked at first"
            yield Finding("allowed-and-trusted", f"sgx.allowed_files: {uri}", why)


def _attestation(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    if sgx.get("remote_attestation") not in ("dcap", "TEMPLATE"):
        yield Finding(
            "no-attestation", "sgx.remote_attestation", "nobody can tell the enclave from a program that lies"
        )


def _wide(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    for uri in _uris(sgx, "trusted_files"):
        if uri.startswith("/") and (uri.rstrip("/") or "/") in _WIDE:
            why = "everything that is installed there is trusted, and each update changes the measurement"
            yield Finding("wide-trust", f"sgx.trusted_files: {uri}", why)


def _homes(values: Mapping[str, Any]) -> Iterator[Finding]:
    for text in sorted({text for text in _texts(values) if text.removeprefix("file:").startswith(_HOMES)}):
        yield Finding("home-path", text, "a path of one person's machine: nobody else gets the same measurement")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _sealed(values: Mapping[str, Any]) -> Iterator[Finding]:
    fs = _table(values, "fs")
    mounts = fs.get("mounts", fs.get("mount", []))
    kinds = [item.get("type") for item in mounts if isinstance(item, Mapping)] if isinstance(mounts, list) else []
    if "encrypted" not in kinds:
        yield Finding("nothing-sealed", "fs.mounts", "no encrypted files: the model lies on the host in the clear")


def _version(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("isvprodid", "isvsvn"):
        if not sgx.get(key):
            yield Finding(
                "no-version", f"sgx.{key}", "a policy cannot tell a mended enclave from the broken one before it"
            )


def _debug(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    if sgx.get("debug"):
        yield Finding("debug", "sgx.debug", "the host reads and writes the enclave's memory")


def _allowed(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    for uri in _uris(sgx, "allowed_files"):
        yield Finding("allowed-file", f"sgx.allowed_files: {uri}", "the host writes what the code reads there")


def _insecure(value: Any, prefix: str) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        if key.startswith("insecure__") and item and key != "insecure__use_cmdline_argv":
            yield Finding("insecure-option", f"{prefix}{key}", "Gramine itself calls it insecure")
        yield from _insecure(item, f"{prefix}{key}.")
    if value.get("passthrough") is True:
        yield Finding("host-environment", prefix.rstrip("."), "the host chooses the value")


def _policy(sgx: Mapping[str, Any]) -> Iterator[Finding]:
    if sgx.get("file_check_policy", "strict") not in ("strict", "TEMPLATE"):
        yield Finding("unchecked-files", "sgx.file_check_policy", "files that nobody named are let through")


def _log(values: Mapping[str, Any]) -> Iterator[Finding]:
    level = _table(values, "loader").get("log_level", "error")
    if level not in ("none", "error", "TEMPLATE"):
        yield Finding("talkative", "loader.log_level", "logs beyond errors show what is computed")
