"""The device of a platform: the CPU, or a GPU that has what the platform asks of it."""

from __future__ import annotations

import dataclasses
import re

import torch

from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.identification.platforms.setting import LocalPlatform

_NAME = re.compile(r"cpu|cuda(:\d{1,4})?")
_AMPERE = (8, 0)  # the first compute capability with TF32


def require_device(platform: LocalPlatform) -> torch.device:
    """Return the device of a platform.

    Raises:
        InvalidConfig: no such kind of device.
        MissingDevice: none here, or one that lacks what the platform asks for; see :func:`obstacle`.
    """
    if not _NAME.fullmatch(platform.device):
        raise InvalidConfig(f"no device {platform.device!r}", hint="cpu, cuda, or cuda:1 for the second GPU")
    if (reason := obstacle(platform)) is not None:
        raise MissingDevice(reason, hint="settings without cuda in their name run on the CPU")
    return torch.device(platform.device)


def obstacle(platform: LocalPlatform) -> str | None:
    """Return why this machine has no device for a platform; None if it has one. Starts nothing on a GPU's behalf."""
    if platform.device == "cpu":
        return None
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return "this machine has no GPU that torch can use" if built else "this build of torch computes on no GPU"
    index = int(platform.device.partition(":")[2] or 0)
    if index >= (count := torch.cuda.device_count()):
        return f"there is no {platform.device}: this process sees {count} GPU{'s' * (count != 1)}"
    return _lacking(platform, index)


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
    if not _NAME.fullmatch(device):
        raise InvalidConfig(f"no device {device!r}", hint="cpu, cuda, or cuda:1 for the second GPU")
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
