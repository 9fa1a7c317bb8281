"""Where a worker computes: one logical core, or one accelerator, so that a wrong result has an address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from holdfast._device import device_named
from holdfast.errors import InvalidConfig, MissingDevice

_NAME = re.compile(r"(cpu|cuda):(\d+)")


@dataclass(frozen=True, slots=True)
class Device:
    """``kind`` is ``cpu`` or ``cuda``; ``index`` is the logical core as the system counts, or the accelerator."""

    kind: str
    index: int

    @property
    def name(self) -> str:
        """Return it as file names have it: ``cpu0``."""
        return f"{self.kind}{self.index}"

    @property
    def torch(self) -> torch.device:
        """Return what tensors move to."""
        return torch.device("cpu") if self.kind == "cpu" else torch.device("cuda", self.index)

    def pin(self) -> None:
        """Keep this process on the core, with one thread; an accelerator's process may use any core."""
        torch.set_num_threads(1)
        if self.kind == "cpu" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self.index})


def usable_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read ``cpu`` (every usable core), ``2`` (the first two), or a list such as ``cpu:0,cpu:3,cuda:0``.

    Raises:
        InvalidConfig: none of these, or one named twice.
        MissingDevice: a core that this process may not use, or an accelerator that is not there.
    """
    cores = usable_cores()
    if text == "cpu":
        return tuple(Device("cpu", core) for core in cores)
    if text.isdigit() and int(text) > 0:
        if int(text) > len(cores):
            raise MissingDevice(f"there are {len(cores)} usable cores, not {text}")
        return tuple(Device("cpu", core) for core in cores[: int(text)])
    devices = tuple(_one(part.strip(), cores) for part in text.split(","))
    if len(set(devices)) != len(devices):
        raise InvalidConfig(f"{text!r} names a device twice")
    return devices


def _one(text: str, cores: tuple[int, ...]) -> Device:
    found = _NAME.fullmatch(text)
    if found is None:
        raise InvalidConfig(f"{text!r} is no device", hint="cpu, a number of cores, or cpu:0,cpu:1,cuda:0")
    device = Device(found[1], int(found[2]))
    if device.kind == "cpu" and device.index not in cores:
        raise MissingDevice(f"core {device.index} is not usable here", hint=f"usable are {cores}")
    if device.kind == "cuda":
        device_named(text)  # is not started here: no worker could be forked after that
    return device
