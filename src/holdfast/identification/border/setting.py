"""A model under a local setting, with gradients and for any kind of input: what a trace cannot give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.execution import predict
from holdfast.execution.run import one_thread
from holdfast.identification.border.asking import Oracle
from holdfast.identification.emulated import EmulatedFormat
from holdfast.identification.platforms import LOCAL_PLATFORMS, LocalPlatform
from holdfast.identification.platforms.devices import moved, require_device
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.platforms.torch_stacks import Placed, has_gradients
from holdfast.identification.settings import EmulatedSetting, Setting, platform_of


def without_rank(name: str) -> str:
    """Return the setting in the name of a platform that a rank brought: ``bf16`` of ``bf16@1``."""
    return name.partition("@")[0]


def recorded_setting(name: str, batch: int) -> Setting:
    """Return the setting of this machine that answers for a recorded platform, in batches of the recorded size.

    Raises:
        UnknownName: this machine has no such setting.
    """
    return dataclasses.replace(platform_of(without_rank(name)), batch_size=batch)


def setting_on(platform: str | Setting | Oracle, device: str | None) -> str | Setting | Oracle:
    """Return a platform on a device: of local ones that of the same name there, as it is where none is given.

    Raises:
        UnknownName: no such platform.
        InvalidConfig: one that is not on this kind of device.
        MissingDevice: this machine has no such device.
    """
    setting = platform_of(platform) if isinstance(platform, str) else platform
    if isinstance(setting, EmulatedSetting) and device not in (None, "cpu"):
        raise InvalidConfig(f"{setting.name} is computed on the CPU, not on {device}", hint="--device cpu")
    if not isinstance(setting, LocalPlatform):
        return platform
    there = setting if device is None else moved(setting, device, LOCAL_PLATFORMS)
    require_device(there)
    return there


def setting_bytes(setting: Setting) -> bytes:
    """Return a setting as canonical JSON, for a worker."""
    return canonical.dumps(dataclasses.asdict(setting))


def setting_from(data: bytes) -> Setting:
    """Return what :func:`setting_bytes` was given, less the environment: it is what this process was started under.

    Raises:
        InvalidConfig: no setting.
    """
    value = canonical.loads(data, what="setting")
    if not isinstance(value, dict):
        raise InvalidConfig("a setting is a JSON object")
    if (batch := value.get("batch_size")) is not None and (type(batch) is not int or batch < 1):
        raise InvalidConfig(f"batch_size of a setting is {batch!r:.60}, not a number of inputs")
    kept = {key: item for key, item in value.items() if key != "environment"}
    if "format" in kept:
        return EmulatedSetting(EmulatedFormat(**kept["format"]), kept["batch_size"])
    return LocalPlatform(**kept)


def host_of(setting: Setting) -> LocalPlatform:
    """Return the platform of this machine that computes a setting: itself, or the default one that emulates."""
    if isinstance(setting, EmulatedSetting):
        return LocalPlatform(setting.name, batch_size=setting.batch_size)
    return setting


def placed(model: nn.Module, setting: Setting) -> nn.Module:
    """Return ``model`` under everything in a setting that one process of torch can be.

    Raises:
        InvalidConfig: a platform of another runtime, which runs no module of torch.
    """
    if isinstance(setting, EmulatedSetting):
        return setting.format.apply(model)
    return Placed(model, setting)


def differentiable_here(setting: Setting) -> bool:
    """Say whether gradients pass through :func:`placed`; those of emulated formats do, straight through."""
    return isinstance(setting, EmulatedSetting) or has_gradients(setting)


def answers(
    model: nn.Module, setting: Setting, net: Callable[[], nn.Module] | None = None
) -> Callable[[Dataset], Tensor]:
    """Return what gives float32 logits (n, classes) of images under a setting, in this process.

    Args:
        model: copied on the first call, unless another runtime converts it each time.
        setting: of this process.
        net: gives the model as :func:`placed` under the setting, where somebody has it already.
    """
    if (platform := host_of(setting)).runtime != "torch":
        return lambda data: trace_here(platform, model, data).outputs
    ready: list[nn.Module] = []

    def answer(data: Dataset) -> Tensor:
        if not ready:
            ready.append(placed(model, setting) if net is None else net())
        with one_thread():
            return predict(ready[0], data, batch_size=setting.batch_size)

    return answer


def next_logits(model: nn.Module, platform: Setting) -> Callable[[Tensor], Tensor]:
    """Return what gives float32 logits (n, vocabulary) after prompts (n, t) of one length, in batches of the platform.

    The model is copied on the first call, which raises :class:`InvalidConfig` for another runtime than torch.
    """
    ready: list[nn.Module] = []

    def follow(tokens: Tensor) -> Tensor:
        if not ready:
            ready.append(placed(model, platform))
        with torch.no_grad(), one_thread():
            return torch.cat([ready[0](part)[:, -1] for part in tokens.split(platform.batch_size)])

    return follow
