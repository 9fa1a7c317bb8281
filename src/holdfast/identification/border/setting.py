"""A model under a local setting, with gradients and for any kind of input: what a trace cannot give."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.execution.run import one_thread
from holdfast.identification.emulated import EMULATED, EmulatedFormat
from holdfast.identification.platforms import LOCAL_PLATFORMS, LocalPlatform

_PREFIX = "emulated:"


@dataclass(frozen=True, slots=True)
class EmulatedSetting:
    """A number format of accelerators in place of a platform: this machine computes, and the name says so."""

    format: EmulatedFormat
    batch_size: int = 32
    environment: dict[str, str] = field(default_factory=dict)  # none: it needs no process of its own

    @property
    def name(self) -> str:
        """``emulated:`` and the tag."""
        return _PREFIX + self.format.name


Setting = LocalPlatform | EmulatedSetting


def platform_of(name: str) -> Setting:
    """Return a setting of this machine, or else an emulated format: ``bf16``, ``int8-dynamic``, ``emulated:bf16``.

    Raises:
        UnknownName: there is none of that name.
    """
    if name in LOCAL_PLATFORMS:
        return LOCAL_PLATFORMS[name]
    tag = name.removeprefix(_PREFIX)
    if tag not in EMULATED:
        raise unknown("platform", name, [*LOCAL_PLATFORMS, *(_PREFIX + item for item in EMULATED)])
    return EmulatedSetting(EMULATED[tag])


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
    kept = {key: item for key, item in value.items() if key != "environment"}
    if "format" in kept:
        return EmulatedSetting(EmulatedFormat(**kept["format"]), kept["batch_size"])
    return LocalPlatform(**kept)


class Placed(nn.Module):
    """Runs a copy of a model in the number format, memory layout and library of a platform; returns float32.

    Token inputs stay integers. What a platform reads at start-up is that of this process.
    """

    def __init__(self, model: nn.Module, platform: LocalPlatform) -> None:
        super().__init__()
        self._dtype, self._onednn = getattr(torch, platform.dtype), platform.onednn
        self._channels_last = platform.channels_last
        self.model = copy.deepcopy(model).eval().to(self._dtype)
        if platform.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
            with torch.backends.mkldnn.flags(enabled=self._onednn):
                output = self.model(self._fitting(inputs))
        return getattr(output, "logits", output).float()  # type: ignore[no-any-return]

    def _fitting(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return inputs
        cast = inputs.to(self._dtype)
        return cast.contiguous(memory_format=torch.channels_last) if self._channels_last else cast.contiguous()


_HONOURED = {"name", "batch_size", "dtype", "channels_last", "onednn", "environment"}


def is_plain(platform: Setting) -> bool:
    """Say whether :func:`placed` honours everything that ``platform`` asks for: it knows the settings named above."""
    return isinstance(platform, EmulatedSetting) or all(
        getattr(platform, field.name) == field.default
        for field in dataclasses.fields(platform)
        if field.name not in _HONOURED
    )


def placed(model: nn.Module, platform: Setting) -> nn.Module:
    """Return ``model`` under the setting of ``platform``, as far as it is one of this process."""
    if isinstance(platform, EmulatedSetting):
        return platform.format.apply(model)
    return Placed(model, platform)


def next_logits(model: nn.Module, platform: Setting) -> Callable[[Tensor], Tensor]:
    """Return what gives float32 logits (n, vocabulary) after prompts (n, t) of one length, in batches of the platform.

    The model is copied on the first call.
    """
    ready: list[nn.Module] = []

    def follow(tokens: Tensor) -> Tensor:
        if not ready:
            ready.append(placed(model, platform))
        with torch.no_grad(), one_thread():
            return torch.cat([ready[0](part)[:, -1] for part in tokens.split(platform.batch_size)])

    return follow
