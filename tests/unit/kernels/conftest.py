"""Kernels are tested on a CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined, so before any is imported


@pytest.fixture
def device() -> torch.device:
    """Where kernels run here."""
    pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")
    if torch.cuda.is_available():
        return torch.device("cuda")
    from holdfast._kernels.compiling import interpreted

    if not interpreted():
        pytest.skip("without a CUDA device kernels need TRITON_INTERPRET=1, set before Triton is imported")
    return torch.device("cpu")
