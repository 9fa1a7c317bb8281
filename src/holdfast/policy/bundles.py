"""Bundles of evidence as they lie beside a model: read, and not believed yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import HoldfastError
from holdfast.evidence.statement import Statement
from holdfast.signing.envelope import read_envelope

BUNDLES = ("*.bundle.json", "*.sigstore.json", "*.sigstore", "*.intoto.json")
LIMIT = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle beside the model: its bytes, and what it says to be, of which nothing is believed yet."""

    path: Path
    data: bytes
    claimed: Statement


def bundles_in(folders: Sequence[Path]) -> tuple[Bundle, ...]:
    """Return all bundles in ``folders``, each a folder or a bundle itself, in the order of their names.

    Raises:
        UnreadableArtifact: one cannot be read; it is named.
    """
    return tuple(_read(path) for path in _found(folders))


def _found(folders: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for folder in folders:
        if folder.is_file():
            found[folder] = None
        for pattern in BUNDLES:
            found |= dict.fromkeys(sorted(folder.glob(pattern)))
    return sorted(found)


def _read(path: Path) -> Bundle:
    data = read_bytes(path, "evidence", limit=LIMIT)
    try:
        return Bundle(path, data, Statement.from_bytes(read_envelope(data).payload))
    except HoldfastError as error:
        raise type(error)(f"{path.name}: {error}", hint=error.hint) from error
