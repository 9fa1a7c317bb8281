"""Where and how a training computes: device, precision, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from holdfast.errors import InvalidConfig, MissingDevice


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Means of computing; other ones give other last bits, so they belong to a training's lineage."""

    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = (
        "float32"  # bfloat16: of products and convolutions; weights stay float32
    )
    compile: bool = False  # through torch.compile: worth its minutes on a GPU and for long trainings

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InvalidConfig(f"no training in {self.precision!r}", hint="float32 or bfloat16")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise MissingDevice(f"there is no device {self.device!r} here", hint="device=cpu always works") from error

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16")

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[None]:
        """Move ``model`` to the device for the length of the block; the caller's random generators are left alone."""
        kind = torch.device(self.device)
        devices = [] if kind.type == "cpu" else [torch.empty(0, device=kind).device.index]
        with torch.random.fork_rng(devices, device_type="cuda" if kind.type == "cpu" else kind.type):
            model.to(kind)
            if self.compile:
                model.compile()
            try:
                yield
            finally:
                model.__dict__.pop(
                    "_compiled_call_impl", None
                )  # torch offers no way back; saving needs the plain module
                model.to("cpu")
