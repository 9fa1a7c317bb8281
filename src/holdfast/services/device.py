"""Making sure of a worker's device before anybody connects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from holdfast._device import device_named
from holdfast._kernels import device as devices
from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.shielding.kernels import kernel
from holdfast.shielding.transport.spawn import KERNEL_FOLDER, kernel_folder, remove_folder
from holdfast.shielding.ways import exact_ways

Handover = Callable[[], None]


@contextmanager
def prepared(name: str, *, memory: int | None = None, user: str | None = None) -> Iterator[Handover]:
    """Find out before anybody connects whether products can be exact on a device, and keep what it needs meanwhile.

    What it yields is to be called before the process becomes ``user``: it gives him what was compiled by then.

    Args:
        name: such as ``cpu`` or ``cuda:1``.
        memory: most bytes of the device that this process may take; None for all.
        user: who the worker is going to be, who must be able to store compiled kernels.

    Raises:
        MissingDevice: there is no such device, or nothing is exact there.
        InvalidConfig: ``name`` means nothing, or ``memory`` is for a device that is none of CUDA's.
    """
    device = device_named(name)
    with _own_kernels(user if device.type in devices.KINDS else None) as hand_over:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            if memory is not None:
                limit_memory(device, memory)
            kernel(device.type)
            exact_ways(device)
        except (RuntimeError, AssertionError) as error:
            raise MissingDevice(
                f"{name} computes nothing here: {str(error).partition(chr(10))[0]}", hint="try --device cpu"
            ) from error
        yield hand_over


def limit_memory(device: torch.device, memory: int) -> None:
    """Let this process take at most ``memory`` bytes of a CUDA device.

    Raises:
        InvalidConfig: the device is no CUDA device, or ``memory`` is not positive.
    """
    if device.type != "cuda":
        raise InvalidConfig(f"{device} has no memory of its own to limit", hint="leave --device-memory out")
    if memory < 1:
        raise InvalidConfig(f"a device's memory is a number of bytes, not {memory}")
    total = int(torch.cuda.get_device_properties(device).total_memory)
    torch.cuda.set_per_process_memory_fraction(min(memory / total, 1.0), device)


@contextmanager
def _own_kernels(user: str | None) -> Iterator[Handover]:
    """Have Triton store what it compiles in a folder of ``user`` alone, unless a folder is named already."""
    if user is None or os.environ.get(KERNEL_FOLDER):
        yield lambda: None
        return
    folder = kernel_folder(user)
    os.environ[KERNEL_FOLDER] = str(folder)
    try:
        yield partial(_give, folder)
    finally:
        del os.environ[KERNEL_FOLDER]
        remove_folder(folder)


def _give(folder: Path) -> None:
    """Give all that is in ``folder`` to its owner, who could not remove it otherwise."""
    owner = folder.stat()
    for path in folder.rglob("*"):
        shutil.chown(path, owner.st_uid, owner.st_gid)
