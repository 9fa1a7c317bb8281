"""A session's layers on a device: parts of a question on their way in, computed, and on their way out at the same time.

A session asks one question at a time, so nothing overlaps between questions. Within one, samples go in parts: while one
part is multiplied, the next is brought and the one before is fetched, on streams of their own and through pinned memory
that the device reads and writes by itself. On a processor the whole question is one part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from holdfast.errors import MissingDevice, StorageError
from holdfast.services.lanes import Lanes, OneLane, ThreeLanes
from holdfast.shielding.product import MOST_PLANES, Geometry
from holdfast.shielding.ways import Layer, exact_ways, wait_for

_log = logging.getLogger(__name__)
_PART = 4 * 2**20  # bytes of a part on its way in: long enough to hide a launch, short enough to hide in the next
_ENDS = "an error of the device outlasts the call: the worker ends; start it again, and look at the system's log"


class Accelerator:
    """Holds the layers of one session on a device and multiplies whole questions.

    Args:
        device: where products run.
        lanes: ways to it; by default three streams of a CUDA device.
        part: bytes of a question that go in together, rounded to samples; None for all of it.

    Raises:
        MissingDevice: no way to multiply is exact there.
    """

    def __init__(self, device: torch.device, *, lanes: Lanes | None = None, part: int | None = None) -> None:
        cuda = device.type == "cuda"
        self._device, self._part = device, _PART if part is None and cuda else part
        self._ways = exact_ways(device)
        self._lanes: Lanes = lanes or (ThreeLanes(device) if cuda else OneLane(device))
        self._layers: dict[str, Layer] = {}
        self._fitting: dict[str, int] = {}  # samples at once, of layers for which memory ran out

    @property
    def kernel(self) -> str:
        """What products may be computed by, in the order in which they are tried."""
        return ", ".join(self._ways.by_name)

    def load(
        self, name: str, geometry: Geometry, codes: Tensor, *, sample: tuple[int, ...] | None = None, planes: int = 1
    ) -> None:
        """Keep a layer's weights, and find its quickest way if it is known what samples it will meet.

        Raises:
            StorageError: the device has no memory for them.
            MissingDevice: the device failed.
        """
        with device_failures(self._device):
            try:
                layer = self._layers[name] = Layer(name, codes, geometry, self._device, self._ways.by_name)
                if sample is not None:
                    layer.rehearse(sample, planes)
                wait_for(self._device)
            except torch.OutOfMemoryError as error:
                self._layers.pop(name, None)
                raise _full(self._device, f"the weights of layer {name!r}") from error

    def multiply(self, name: str, message: Tensor, ring: int = MOST_PLANES) -> Tensor:
        """Return the layer's product with a whole question, in the host's memory.

        Args:
            message: int8, (planes, batch, *sample).
            ring: bytes of a residue.

        Raises:
            StorageError: the device has no memory for one sample.
            MissingDevice: the device failed; nothing that it says from then on is worth anything.
        """
        layer, batch = self._layers[name], message.shape[1]
        at_once = min(self._at_once(message), self._fitting.get(name, batch)) or 1
        with device_failures(self._device):
            while True:
                try:
                    return self._multiplied(layer, message, ring, at_once)
                except torch.OutOfMemoryError as error:
                    if at_once == 1:
                        raise _full(self._device, f"one sample of layer {name!r}") from error
                at_once = self._fitting[name] = (at_once + 1) // 2
                _log.warning("%s has no memory for layer %r: %d samples at a time", self._device, name, at_once)
                self._forget()

    def _at_once(self, message: Tensor) -> int:
        if self._part is None:
            return message.shape[1]
        sample = message.numel() // max(message.shape[1], 1)
        return min(message.shape[1], max(1, self._part // max(sample, 1)))

    def _multiplied(self, layer: Layer, message: Tensor, ring: int, at_once: int) -> Tensor:
        batch, lanes = message.shape[1], self._lanes
        if at_once >= batch:
            answer = lanes.fetch(lanes.compute(lambda planes: layer(planes, ring), lanes.bring(message)), None)
            lanes.finish()
            return answer
        answer = lanes.room((batch, *layer.geometry.output_shape(tuple(message.shape[2:]))))
        for start in range(0, batch, at_once):
            part = slice(start, start + at_once)
            there = lanes.bring(message[:, part].contiguous())
            lanes.fetch(lanes.compute(lambda planes: layer(planes, ring), there), answer[part])
        lanes.finish()
        return answer

    def _forget(self) -> None:
        """Give back what the device's memory holds for later."""
        wait_for(self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def device_failures(device: torch.device) -> Iterator[None]:
    """Turn whatever a device or its driver reports into one error that ends the worker; but not that memory ran out.

    Raises:
        MissingDevice: the device failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error).partition("\n")[0][:200]
        raise MissingDevice(f"{device} failed while it multiplied: {said}", hint=_ENDS) from error


def _full(device: torch.device, what: str) -> StorageError:
    return StorageError(
        f"{device} has no memory for {what}", hint="free memory of the device, or give the worker more of it"
    )
