"""One of two tensor-parallel ranks: half the rows of every tensor of a gibibyte, verified by groups of 256 KiB.

The peer takes the same rows with ``safe_open`` and ``get_slice``, copied into memory of its own and not verified.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors import safe_open

from benchmarks import _harness
from benchmarks._signed_weights import ROWS, SIZE, signed_weights
from holdfast.signing.keys import PublicKey
from holdfast.signing.opened import open_verified


def measure() -> _harness.Result:
    """Time both on the same file, already in the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        path, public = signed_weights(Path(folder))
        share = _ours(path, public) / path.stat().st_size
        pairs = _harness.paired(lambda: _ours(path, public), lambda: _unverified(path), repeats=7)
    return _harness.summarise(
        f"half the rows of {SIZE >> 20} MiB, verified by reading {share:.1%} of the file",
        pairs,
        peer_name="safetensors get_slice, then clone (unverified)",
    )


def _ours(path: Path, public: PublicKey) -> int:
    """Return how many bytes of the file were read."""
    with open_verified(path, public) as model:
        rows = {name: model.get_slice(name)[: ROWS // 2] for name in model.keys()}  # noqa: SIM118 - no mapping
        return model.memory.bytes_read if rows else 0


def _unverified(path: Path) -> int:
    with safe_open(path, "pt") as file:
        rows = {name: file.get_slice(name)[: ROWS // 2].clone() for name in file.keys()}  # noqa: SIM118
    return len(rows)


if __name__ == "__main__":
    _harness.main(measure)
