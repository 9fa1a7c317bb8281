"""A gibibyte of weights loaded into memory of our own: every tensor verified, against safetensors without verification.

Both sides end with private copies of all tensors, as a model needs that must not change under it: the peer by
``load_file`` and ``clone``, ours by :func:`holdfast.signing.opened.open_verified`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks import _harness
from benchmarks._signed_weights import SIZE, signed_weights
from holdfast.signing.keys import PublicKey
from holdfast.signing.opened import open_verified


def measure() -> _harness.Result:
    """Time both on the same file, already in the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        path, public = signed_weights(Path(folder))
        pairs = _harness.paired(lambda: _ours(path, public), lambda: _materialised(path), repeats=7)
    return _harness.summarise(
        f"all of {SIZE >> 20} MiB verified while it is loaded into private memory, for at most a quarter more CPU time",
        pairs,
        peer_name="safetensors load_file, then clone (unverified)",
    )


def _ours(path: Path, public: PublicKey) -> int:
    with open_verified(path, public) as model:
        tensors = model.get_tensors()
    return len(tensors)


def _materialised(path: Path) -> int:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    return len(tensors)


if __name__ == "__main__":
    _harness.main(measure)
