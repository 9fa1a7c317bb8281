"""Bit errors of simulated chips in device memory, dense and sparse, against a copy of the same bytes there."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import _gpu
from holdfast.faults.bit_errors import xor_chip_
from holdfast.faults.on_device import xor_chip_on_device_
from holdfast.seeds import derive

SIZE = 1 << 30  # bytes
CHECKED = 1 << 22
RATES = (1e-9, 1e-6, 1e-4, 1e-3, 0.1, 0.01)


def measure(
    device: torch.device, size: int = SIZE, checked: int = CHECKED, rates: tuple[float, ...] = RATES
) -> _gpu.DeviceResult:
    """Time every rate; the last one is the claim. Each is first compared with the reference on the first bytes."""
    memory = torch.zeros(size, dtype=torch.uint8, device=device)
    limit, cases, ours = _gpu.copying(memory), [], [0.0]
    for rate in rates:
        _require_equal(device, rate, checked)
        seed = derive(0, "gpu-bit-errors")
        ours = _gpu.milliseconds(lambda rate=rate, seed=seed: xor_chip_on_device_(memory, rate, seed))
        cases.append(_gpu.row(f"p = {rate:g}", ours, limit, count=size))
    return _gpu.summarise(f"bit errors at p = {rates[-1]:g} in {size} bytes of device memory", ours, limit, cases)


def _require_equal(device: torch.device, rate: float, size: int) -> None:
    expected, seed = np.zeros(size, np.uint8), derive(1, "gpu-bit-errors")
    found = torch.zeros(size, dtype=torch.uint8, device=device)
    counts = xor_chip_(expected, rate, seed), xor_chip_on_device_(found, rate, seed)
    if counts[0] != counts[1] or not np.array_equal(found.cpu().numpy(), expected):
        raise SystemExit(f"the errors at rate {rate} are not the reference's: nothing to time")


if __name__ == "__main__":
    _gpu.main(measure)
