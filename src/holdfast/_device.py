"""What the name of a device means: the one place that reads ``cpu``, ``cuda`` and ``cuda:1``.

A name that means nothing is its writer's mistake (:class:`InvalidConfig`); a device that is not there is this machine's
lack (:class:`MissingDevice`). GPUs are counted without CUDA's start-up, after which no process could fork.
"""

from __future__ import annotations

import re

import torch

from holdfast.errors import InvalidConfig, MissingDevice

_NAME = re.compile(r"cpu|cpu:0|cuda|cuda:(0|[1-9]\d{0,3})")
_NAMES = "cpu, cuda, or cuda:1 for the second GPU"


def known_device(name: str) -> torch.device:
    """Return what ``name`` means, here or elsewhere; ``cuda`` without an index, and the CPU always so.

    Raises:
        InvalidConfig: it means nothing.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):  # plans and records hold the name, and no torch.device
        raise InvalidConfig(f"there is no device {name!r}", hint=_NAMES)
    return torch.device("cpu" if name.startswith("cpu") else name)


def absence(device: torch.device) -> str | None:
    """Return why this process has no such device; None if it has it. Starts nothing."""
    if device.type == "cpu" or (device.index or 0) < (count := torch.cuda.device_count()):
        return None
    if count:
        return f"this process sees only {', '.join(f'cuda:{index}' for index in range(count))}"
    if _built_for_gpus():
        return "this machine has no GPU that torch can use"
    return "this build of torch computes on no GPU"


def device_named(name: str, *, start: bool = False) -> torch.device:
    """Return the device of this machine that ``name`` means, a GPU with its index.

    Args:
        name: ``cpu``, ``cuda`` (the GPU that is current, the first where none was chosen) or ``cuda:N``.
        start: make sure that it starts as well. A process that has started CUDA cannot be forked into workers.

    Raises:
        InvalidConfig: the name means nothing.
        MissingDevice: there is no such device here, or it does not start; the message says what is here.
    """
    device = known_device(name)
    if (reason := absence(device)) is not None:
        raise MissingDevice(f"there is no device {name!r} here: {reason}", hint=_remedy())
    if name == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
    if start:
        _start(device, name)
    return device


def _start(device: torch.device, name: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise MissingDevice(f"there is no device {name!r} here that starts: {reason}", hint=_remedy()) from error


def _remedy() -> str:
    """Return what would give this process a GPU."""
    if not _built_for_gpus():
        return "cpu always works; a GPU needs another build of torch, see pytorch.org/get-started"
    if not torch.cuda.device_count():
        return "cpu always works; nvidia-smi or rocm-smi says what the driver sees, CUDA_VISIBLE_DEVICES what is hidden"
    return _NAMES


def _built_for_gpus() -> bool:
    return any(getattr(torch.version, name) is not None for name in ("cuda", "hip"))
