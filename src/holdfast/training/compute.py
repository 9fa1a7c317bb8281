"""Where and how a training computes: device, precision, compilation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from holdfast._device import device_named
from holdfast._kernels import device as devices
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed
from holdfast.training.graphs import graphing

Precision = Literal["float32", "bfloat16"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Means of computing; other ones give other last bits, so they belong to a training's lineage."""

    device: str = "cpu"
    precision: Precision = "float32"  # of products and convolutions; weights stay float32
    compile: bool = False  # through torch.compile: worth its minutes on a GPU and for long trainings
    graphs: bool = False  # CUDA graphs of the passes: for networks whose launches take longer than their arithmetic

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InvalidConfig(f"no training in {self.precision!r}", hint="float32 or bfloat16")
        kind = device_named(self.device, start=True).type
        if self.graphs and kind not in devices.KINDS:
            raise InvalidConfig(f"there are no CUDA graphs on {self.device}", hint="device=cuda has them")

    @contextmanager
    def step(self, seed: Seed) -> Iterator[None]:
        """Set the precision, and seed what layers such as dropout draw; the caller's generators are left alone."""
        place = torch.empty(0, device=self.device).device  # with its index, also where the name has none
        others = [] if place.type == "cpu" else [place.index]
        with torch.random.fork_rng(others, device_type="cuda" if place.type == "cpu" else place.type):
            _seed(place, seed.words()[1] >> 1)
            with torch.autocast(place.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield

    def holding(self, data: Dataset) -> Dataset:
        """Return ``data`` held on the device, or as it is where that has no memory for it, which is logged."""
        try:
            return data if self.device == "cpu" else data.to(self.device)
        except torch.OutOfMemoryError:
            _log.warning("%s does not fit on %s: each batch is copied there", data.name, self.device)
            return data

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[None]:
        """Move ``model`` to the device for the length of the block, and compile it if so wanted."""
        try:
            model.to(self.device)
            if self.compile:
                model.compile()
            with graphing(model) if self.graphs else nullcontext():
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
