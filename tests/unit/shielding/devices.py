"""A processor that is taken for a CUDA device: what runs there runs here, its kernels in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from holdfast._kernels import device as devices
from holdfast.shielding import kernels, ways


@contextmanager
def taken_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, dispatch takes the processor for a CUDA device; skips where there is a real one, or no Triton."""
    pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")
    if torch.cuda.is_available():
        pytest.skip("here the real device is tested instead")
    from holdfast._kernels.compiling import interpreted

    if not interpreted():
        pytest.skip("without a CUDA device kernels need TRITON_INTERPRET=1, set before Triton is imported")
    monkeypatch.setattr(devices, "KINDS", ["cpu"])
    monkeypatch.setattr(devices, "_refused", {})
    caches = devices.device_obstacle, ways.exact_ways, kernels.kernel
    for cache in caches:
        cache.cache_clear()
    try:
        yield
    finally:
        for cache in caches:
            cache.cache_clear()
