"""What a world says about itself, with what is needed to check it, before anybody has believed a word of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical

TYPE = "holdfast.attestation-evidence/v1"
MAX_FILE = 1 << 20  # bytes; the largest real evidence (a TDX quote with its collateral) has 25 thousand
MAX_COLLATERAL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One quote, report or document, of a stated kind, with its collateral.

    Attributes:
        kind: what made it: ``tpm2``, ``sgx``, ``tdx``, ``sev-snp``, ``nitro`` or ``nvidia-gpu``.
        body: its bytes as the device gave them.
        collateral: certificates, lists and logs by the name that the kind's verifier knows them by.
    """

    kind: str
    body: bytes
    collateral: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kind or len(self.collateral) > MAX_COLLATERAL:
            raise InvalidConfig(f"evidence has a kind and at most {MAX_COLLATERAL} pieces of collateral")
        if len(self.body) + sum(map(len, self.collateral.values())) > MAX_FILE:
            raise UnreadableArtifact(f"the evidence is longer than {MAX_FILE} bytes")

    def part(self, name: str) -> bytes:
        """Return one piece of collateral.

        Raises:
            UnreadableArtifact: it is not there.
        """
        if name not in self.collateral:
            raise UnreadableArtifact(
                f"evidence of kind {self.kind} comes without its {name}", hint=f"--collateral {name}=FILE"
            )
        return self.collateral[name]

    def to_bytes(self) -> bytes:
        """Return the evidence as canonical JSON."""
        parts = {name: _text(value) for name, value in self.collateral.items()}
        return canonical.dumps({"body": _text(self.body), "collateral": parts, "kind": self.kind, "type": TYPE})

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            UnreadableArtifact, UnsupportedVersion: anything else.
        """
        value = canonical.loads(data, what="the evidence", max_bytes=2 * MAX_FILE)
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise UnreadableArtifact("this is no attestation evidence")
        if value["type"] != TYPE:
            raise UnsupportedVersion(f"the evidence is of type {value['type']!r}, known is {TYPE!r}")
        parts = value.get("collateral")
        if set(value) != {"body", "collateral", "kind", "type"} or not isinstance(parts, dict):
            raise UnreadableArtifact("the evidence lacks a field, or has one too many")
        if not isinstance(value["kind"], str) or not value["kind"] or len(parts) > MAX_COLLATERAL:
            raise UnreadableArtifact("the evidence has no kind, or too much collateral")
        return cls(
            kind=value["kind"],
            body=bytes_of(value["body"], what="evidence"),
            collateral={name: bytes_of(part, what="evidence") for name, part in parts.items()},
        )

    def save(self, path: Path | str) -> None:
        """Write the evidence to a file."""
        write_atomic(path, self.to_bytes())


def read_evidence(
    path: Path | str, *, kind: str | None = None, collateral: Mapping[str, Path | str] | None = None
) -> Evidence:
    """Read evidence: a file that :meth:`Evidence.save` wrote, or a device's own bytes when ``kind`` is given.

    Args:
        path: the file.
        kind: of a raw file; for ours it must agree.
        collateral: further files by name, which win over those in the file.

    Raises:
        UnreadableArtifact, InvalidConfig: no such file, a raw one without a kind, or another kind than asked for.
    """
    data = read_bytes(path, "evidence", limit=2 * MAX_FILE, stream=True)
    extra = {name: read_bytes(file, name, limit=MAX_FILE) for name, file in (collateral or {}).items()}
    if not (data.startswith(b"{") and TYPE.partition("/")[0].encode() in data):
        if kind is None:
            raise InvalidConfig(f"{path} does not say of what kind it is", hint="--kind sev-snp, for example")
        return Evidence(kind=kind, body=data, collateral=extra)
    found = Evidence.from_bytes(data)
    if kind is not None and kind != found.kind:
        raise InvalidConfig(f"{path} holds evidence of kind {found.kind!r}, not {kind!r}")
    return Evidence(kind=found.kind, body=found.body, collateral=dict(found.collateral) | extra)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def bytes_of(value: Any, *, what: str) -> bytes:
    """Return the bytes that base64 text stands for, in its one form: bits of the last letter that mean nothing are 0.

    Raises:
        UnreadableArtifact: anything else.
    """
    try:
        data = base64.b64decode(value.encode(), validate=True)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise UnreadableArtifact(f"a part of the {what} is missing, or not base64") from error
    if base64.b64encode(data).decode() != value:
        raise UnreadableArtifact(f"a part of the {what} is not base64 in its one form")
    return data
