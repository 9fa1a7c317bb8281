"""Where and how a training computes: device, precision, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.seeds import Seed


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Means of computing; other ones give other last bits, so they belong to a training's lineage."""

    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"  # of products and convolutions; weights stay float32
    compile: bool = False  # through torch.compile: worth its minutes on a GPU and for long trainings

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InvalidConfig(f"no training in {self.precision!r}", hint="float32 or bfloat16")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise MissingDevice(f"there is no device {self.device!r} here", hint="device=cpu always works") from error

    @contextmanager
    def step(self, seed: Seed) -> Iterator[None]:
        """Set the precision, and seed what layers such as dropout draw; the caller's generators are left alone."""
        kind = torch.device(self.device).type
        devices = [] if kind == "cpu" else [torch.empty(0, device=self.device).device.index]
        with torch.random.fork_rng(devices, device_type="cuda" if kind == "cpu" else kind):
            torch.manual_seed(seed.words()[1] >> 1)
            with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[None]:
        """Move ``model`` to the device for the length of the block, and compile it if so wanted."""
        model.to(self.device)
        if self.compile:
            model.compile()
        try:
            yield
        finally:
            model.__dict__.pop("_compiled_call_impl", None)  # torch offers no way back; saving needs the plain module
            model.to("cpu")
