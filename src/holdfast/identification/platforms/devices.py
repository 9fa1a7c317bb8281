"""The device of a platform: the CPU, or a GPU that has what the platform asks of it."""

from __future__ import annotations

import dataclasses

import torch

from holdfast._device import absence, device_named, known_device
from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.identification.platforms.setting import LocalPlatform

_AMPERE = (8, 0)  # the first compute capability with TF32


def require_device(platform: LocalPlatform) -> torch.device:
    """Return the device of a platform.

    Raises:
        InvalidConfig: no such kind of device.
        MissingDevice: none here, or one that lacks what the platform asks for; see :func:`obstacle`.
    """
    device = device_named(_canonical(platform.device))
    if (reason := obstacle(platform)) is not None:
        raise MissingDevice(reason, hint="settings without cuda in their name run on the CPU")
    return device


def _canonical(name: str) -> str:
    """Return ``name``, unless it is a second one of the CPU: a platform has one description."""
    if name == "cpu:0":
        raise InvalidConfig(f"there is no device {name!r} of platforms", hint="cpu")
    return name


def obstacle(platform: LocalPlatform) -> str | None:
    """Return why this machine has no device for a platform; None if it has one. Starts nothing on a GPU's behalf."""
    device = known_device(platform.device)
    if (reason := absence(device)) is not None or device.type == "cpu":
        return reason
    return _lacking(platform, device.index or 0)


def _lacking(platform: LocalPlatform, index: int) -> str | None:
    """Return what a GPU lacks of what a platform asks for, of what torch takes anywhere and then ignores."""
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    old = torch.version.hip is None and capability < _AMPERE
    if old and platform.matmul_precision != "highest":
        return f"{name} has no TF32 (compute capability {capability[0]}.{capability[1]})"
    if old and "bfloat16" in (platform.dtype, platform.autocast):
        return f"{name} has no bf16 (compute capability {capability[0]}.{capability[1]})"
    wants_cudnn = platform.cudnn_benchmark or platform.cudnn_deterministic or platform.attention == "cudnn"
    if wants_cudnn and not torch.backends.cudnn.is_available():
        return "this torch has no cuDNN"
    return None


def moved(platform: LocalPlatform, device: str, known: dict[str, LocalPlatform]) -> LocalPlatform:
    """Return the platform that is ``platform`` on ``device``: ``bf16`` on ``cuda:1`` is the ``cuda-bf16`` of that GPU.

    Args:
        platform: of the CPU or of a GPU.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        known: all platforms by name.

    Raises:
        InvalidConfig: no such device, or a platform that is there on the other kind of device only.
    """
    known_device(_canonical(device))
    if device == "cpu" or platform.device != "cpu":
        if (device == "cpu") != (platform.device == "cpu"):
            raise InvalidConfig(f"{platform.name} is a platform of a GPU, not of {device}", hint="--device cuda")
        return dataclasses.replace(platform, device=device)
    name = "cuda" if platform.name == "default" else f"cuda-{platform.name}"
    if name not in known:
        raise InvalidConfig(
            f"{platform.name} is a platform of the CPU, not of {device}",
            hint=f"of a GPU are {', '.join(item for item in known if item.startswith('cuda'))}",
        )
    return dataclasses.replace(known[name], device=device, batch_size=platform.batch_size)
