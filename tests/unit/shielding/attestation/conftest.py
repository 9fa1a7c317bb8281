"""Where the real evidence lies, for the tests of the verifiers."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors(shared_data: Path) -> Path:
    """The folder of evidence that real devices gave; tests that need it skip where it is absent."""
    folder = shared_data.parent / "vectors" / "attestation"
    if not folder.is_dir():
        pytest.skip(f"no real evidence at {folder}")
    return folder
