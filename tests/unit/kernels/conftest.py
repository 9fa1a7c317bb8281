"""Kernels are tested on a CUDA device where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from holdfast._kernels import device as devices
from holdfast._kernels import dispatch
from holdfast.models import identity

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


@pytest.fixture
def resident(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device of the kernels, which dispatch takes for a CUDA device even where it is the interpreter's."""
    from holdfast._kernels import chips

    monkeypatch.setattr(devices, "KINDS", [device.type])
    caches = devices.device_obstacle, dispatch._mistrust
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(devices, "_refused", {})
    if device.type == "cpu":  # the interpreter takes as long for a few lanes as for many; tests of chips take both
        monkeypatch.setattr(chips, "_COUNTERS", 256)
    yield device
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def digested_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are digested on the CPU, which takes the interpreter of kernels minutes."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(identity, "digests", lambda tensors, *_, **__: [None] * len(tensors))


@pytest.fixture
def trusted(resident: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The same, having passed the first test already, which takes the interpreter seconds."""
    monkeypatch.setattr(dispatch, "_mistrust", lambda device: None)
    return resident
