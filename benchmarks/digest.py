"""Digest of a one-gibibyte file: ours (BLAKE3 and SHA-256 in one pass) against hashlib's SHA-256 alone."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from benchmarks import _harness
from holdfast.evidence.digest import digest_file

SIZE = 1 << 30
BLOCK = 1 << 20


def measure() -> _harness.Result:
    """Time both on the same file, already in the page cache; every block of it is different."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        _fill(path)
        pairs = _harness.paired(lambda: digest_file(path), lambda: _sha256(path), repeats=5)
    return _harness.summarise(
        "two digests (BLAKE3 and SHA-256) of 1 GiB for little more than the price of SHA-256 alone",
        pairs,
        peer_name="hashlib sha256, sequential",
    )


def _fill(path: Path) -> None:
    block = bytes(range(256)) * (BLOCK // 256)
    with path.open("wb") as out:
        for number in range(SIZE // BLOCK):
            out.write(number.to_bytes(8, "big") + block[8:])


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    _harness.main(measure)
