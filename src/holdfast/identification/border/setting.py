"""A model under a local setting, with gradients and for any kind of input: what a trace cannot give."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.execution.run import one_thread
from holdfast.identification.platforms import LocalPlatform


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


def is_plain(platform: LocalPlatform) -> bool:
    """Say whether :class:`Placed` honours everything that ``platform`` asks for: it knows the settings named above."""
    return all(
        getattr(platform, field.name) == field.default
        for field in dataclasses.fields(platform)
        if field.name not in _HONOURED
    )


def placed(model: nn.Module, platform: LocalPlatform) -> Placed:
    """Return ``model`` under the setting of ``platform``, as far as it is one of this process."""
    return Placed(model, platform)


def next_logits(model: nn.Module, platform: LocalPlatform) -> Callable[[Tensor], Tensor]:
    """Return what gives float32 logits (n, vocabulary) after prompts (n, t) of one length, in batches of the platform.

    The model is copied on the first call.
    """
    ready: list[Placed] = []

    def follow(tokens: Tensor) -> Tensor:
        if not ready:
            ready.append(placed(model, platform))
        with torch.no_grad(), one_thread():
            return torch.cat([ready[0](part)[:, -1] for part in tokens.split(platform.batch_size)])

    return follow
