"""A hash chain of checkpoints: each link names one file's content and the link before, so none can be swapped alone.

Bytes: one canonical JSON object per line. The first is ``{"start", "type"}``, where ``start`` is the digest of what the
checkpoints belong to; every other line is a link. Specified in ``docs/formats/lineage.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical

CHAIN_TYPE = "https://holdfast.dev/checkpoint-chain/v1"
_START, _LINK = "holdfast 2026 checkpoint chain start v1", "holdfast 2026 checkpoint chain link v1"
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_LINKS = 1 << 20


@dataclass(frozen=True, slots=True)
class Link:
    """One checkpoint: its file name, the BLAKE3 (hex) of its bytes, where it stands, and the link before."""

    name: str
    content: str
    step: int
    previous: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": self.name, "content": self.content, "step": self.step, "previous": self.previous}

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) over the canonical form: what the next link names."""
        return blake3(canonical.dumps(self.to_json()), derive_key_context=_LINK).hexdigest()


@dataclass(frozen=True, slots=True)
class Chain:
    """All checkpoints of one training, oldest first; ``start`` binds them to what is trained."""

    start: str
    links: tuple[Link, ...] = ()

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Chain:
        """Return the empty chain of the training that ``about`` (JSON) describes."""
        return cls(blake3(canonical.dumps(about), derive_key_context=_START).hexdigest())

    @property
    def head(self) -> str:
        """The digest (hex) that fixes the whole chain: of the last link, or ``start``."""
        return self.links[-1].digest if self.links else self.start

    def add(self, name: str, content: str, step: int) -> Chain:
        """Return the chain with one more checkpoint."""
        return replace(self, links=(*self.links, Link(name, content, step, self.head)))

    def upto(self, name: str, content: str) -> Chain:
        """Return the chain that ends with checkpoint ``name``.

        Raises:
            DigestMismatch: no link names it, or its content is not what the last link of that name says.
        """
        places = [place for place, link in enumerate(self.links) if link.name == name]
        if not places:
            raise DigestMismatch(f"{name} is no checkpoint of this training", hint=_HINT)
        if self.links[places[-1]].content != content:
            raise DigestMismatch(f"{name} is not the checkpoint that was written", hint=_HINT)
        return replace(self, links=self.links[: places[-1] + 1])

    def to_bytes(self) -> bytes:
        """Return the lines of the file."""
        values = [{"type": CHAIN_TYPE, "start": self.start}, *(link.to_json() for link in self.links)]
        return b"".join(canonical.dumps(value) + b"\n" for value in values)

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str = "checkpoint chain") -> Chain:
        """Read a chain back.

        Raises:
            UnsupportedVersion: another type.
            UnreadableArtifact: malformed lines.
            DigestMismatch: a link does not name the one before it.
        """
        lines = [canonical.loads(line, what=what) for line in data.splitlines()[: _MAX_LINKS + 2]]
        if not lines or not isinstance(lines[0], dict) or lines[0].get("type") != CHAIN_TYPE:
            raise UnsupportedVersion(f"{what} is not a {CHAIN_TYPE}")
        if set(lines[0]) != {"type", "start"} or not _is_hex(lines[0]["start"]) or len(lines) > _MAX_LINKS:
            raise UnreadableArtifact(f"{what} is malformed")
        chain = cls(lines[0]["start"], tuple(_link(line, what) for line in lines[1:]))
        expected = chain.start
        for number, link in enumerate(chain.links):
            if link.previous != expected:
                raise DigestMismatch(f"link {number} of the {what} does not follow the one before it", hint=_HINT)
            expected = link.digest
        return chain


_HINT = "somebody changed the folder; start over, or restore it"


def _link(value: object, what: str) -> Link:
    if not isinstance(value, dict) or set(value) != {"name", "content", "step", "previous"}:
        raise UnreadableArtifact(f"a link of the {what} needs exactly name, content, step and previous")
    texts = isinstance(value["name"], str) and _is_hex(value["content"]) and _is_hex(value["previous"])
    if not texts or type(value["step"]) is not int:
        raise UnreadableArtifact(f"a link of the {what} is malformed")
    return Link(**value)


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None
