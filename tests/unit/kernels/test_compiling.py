"""Every kernel compiles to machine code for the GPUs it is meant for, which the interpreter says nothing about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_kernels_compile_without_a_gpu(architecture: str, tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernels.compiled", architecture],
        env=kept | {"TRITON_CACHE_DIR": str(tmp_path)}, cwd=repository, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _, _ in lines} >= {"chunk_nodes", "merge_tiles"}
    assert all(int(size) > 1000 for _, _, size in lines)
