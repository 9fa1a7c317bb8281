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
        place = torch.empty(0, device=self.device).device  # with its index, also where the name has none
        others = [] if place.type == "cpu" else [place.index]
        with torch.random.fork_rng(others, device_type="cuda" if place.type == "cpu" else place.type):
            _seed(place, seed.words()[1] >> 1)
            with torch.autocast(place.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
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


def _seed(place: torch.device, value: int) -> None:
    """Seed the generators of the CPU and of ``place``; ``torch.manual_seed`` would seed every other device as well."""
    torch.default_generator.manual_seed(value)
    if place.type != "cpu":
        module = torch.get_device_module(place)
        with module.device(place):
            module.manual_seed(value)
