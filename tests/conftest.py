"""What every test may ask for: one computing thread, and the real data where a machine has it."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two workers on two cores
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which others do too

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets and pretrained weights; tests that need it skip where it is absent."""
    base = Path(os.environ.get("HOLDFAST_SHARED", ROOT.parent / "shared"))
    if not (base / "data").is_dir():
        pytest.skip(f"no real data at {base / 'data'}; point HOLDFAST_SHARED at the folder that holds data/")
    return base / "data"
