"""Layers on a device: every way to multiply that is exact there, and for each layer the one that is quickest there.

On a processor there is one way, the trusted world's own. On a GPU there are several, which differ in time by more than
they differ in merit: the twin's tiles, and every window written out for the library's int8 product. Each has to pass a
test on full-range data of many geometries first; which one a layer takes is measured on that layer's shapes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast._kernels.int8_windows import Windows
from holdfast.errors import MissingDevice
from holdfast.seeds import derive
from holdfast.shielding.kernels import int8_matmul, kernel
from holdfast.shielding.product import MOST_PLANES, Geometry, centred, planes_product
from holdfast.shielding.twin import TILES, by_twin

_log = logging.getLogger(__name__)
_REPEATS = 3
_TRIED: tuple[tuple[Geometry, tuple[int, ...]], ...] = (
    (Geometry(kind="conv2d", out_channels=5, in_channels=3, kernel=(3, 3), padding=(1, 1, 1, 1)), (3, 7, 6)),
    (
        Geometry(kind="conv2d", out_channels=66, in_channels=20, kernel=(3, 2), stride=(2, 1), dilation=(2, 3),
                 padding=(0, 3, 1, 2)),
        (20, 6, 8),
    ),
    (Geometry(kind="conv2d", out_channels=17, in_channels=32, stride=(2, 2)), (32, 5, 5)),
    (Geometry(kind="linear", out_channels=19, in_channels=37), (3, 37)),
    (Geometry(kind="linear", out_channels=130, in_channels=1333), (1333,)),
)  # fmt: skip


class Layer:
    """The weights of one layer on a device, in the order in which windows of channels-last images meet them.

    Args:
        name: for messages.
        codes: int8 weights, shape ``geometry.weight_shape``.
        geometry: how they meet the input.
        device: where products run.
        ways: by name; by default :func:`ways` of the device.
    """

    def __init__(
        self, name: str, codes: Tensor, geometry: Geometry, device: torch.device, ways: Mapping[str, Way] | None = None
    ) -> None:
        self.name, self.geometry, self.windows = name, geometry, windows_of(geometry)
        self._ways = dict(exact_ways(device).by_name if ways is None else ways)
        self.codes = codes if device.type in devices.KINDS else codes.to(device)  # a GPU needs them in one order only
        self.weights = self.windows.weights(codes.to(device))
        self._chosen: dict[tuple[int, ...], str] = {}

    def __call__(self, planes: Tensor, ring: int = MOST_PLANES) -> Tensor:
        """Return the product of byte planes on the device, as :func:`~holdfast.shielding.product.ring_product` does.

        Args:
            planes: int8, shape (planes, batch, *sample), on the device.
            ring: bytes of a residue.

        Returns:
            int32 residues around zero, shape (batch, *output), on the device.

        Raises:
            MissingDevice: no way that was exact at first is any longer.
        """
        batch, shape = planes.shape[1], self.geometry.output_shape(tuple(planes.shape[2:]))
        if not batch or len(self._ways) == 1:
            return self._first(planes, ring).view(batch, *shape)
        key = (planes.shape[0], batch.bit_length(), *planes.shape[2:])
        if (name := self._chosen.get(key)) is None:
            return self._choose(key, planes, ring).view(batch, *shape)
        return self._first(planes, ring, name).view(batch, *shape)

    def rehearse(self, sample: tuple[int, ...], planes: int, batch: int = 1) -> None:
        """Find out on random data which way is quickest for samples of this shape; where there is a choice."""
        if len(self._ways) > 1:
            draw = derive(0, "shielding", "ways", self.name).torch()
            data = torch.randint(-128, 128, (planes, batch, *sample), generator=draw, dtype=torch.int8)
            self(data.to(self.weights.device), planes)

    def _first(self, planes: Tensor, ring: int, name: str | None = None) -> Tensor:
        """Go the named way first, and the others where it turns out to be none."""
        refused = []
        for way in sorted(self._ways, key=lambda other: other != name):  # stable, so the others keep their order
            try:
                return self._ways[way](self, planes, ring)
            except NotImplementedError as error:
                refused.append(f"{way}: {error}")
        raise MissingDevice(f"no exact product for layer {self.name!r}: {'; '.join(refused)}")

    def _choose(self, key: tuple[int, ...], planes: Tensor, ring: int) -> Tensor:
        """Time all ways on the same planes, remember the quickest, and return what they agree on."""
        found: dict[str, tuple[float, Tensor]] = {}
        short: torch.OutOfMemoryError | None = None
        for name, way in self._ways.items():
            try:
                found[name] = timed(partial(way, self, planes, ring), planes.device)
            except NotImplementedError as error:
                _log.warning("layer %r: not by %s: %s", self.name, name, error)
            except torch.OutOfMemoryError as error:
                _log.warning("layer %r: not by %s: the device has no memory for it", self.name, name)
                short = error
        if not found and short is not None:
            raise short
        self._agreed(found, planes, ring)
        name = self._chosen[key] = min(found, key=lambda one: found[one][0])
        spent = ", ".join(f"{one} {1e3 * seconds:.3f} ms" for one, (seconds, _) in found.items())
        _log.info("layer %r, %d planes of %d samples: %s; takes %s", self.name, *planes.shape[:2], spent, name)
        return found[name][1]

    def _agreed(self, found: dict[str, tuple[float, Tensor]], planes: Tensor, ring: int) -> None:
        """Drop every way whose product is not the reference's; the reference is asked only where ways differ."""
        results = [made for _, made in found.values()]
        if results and all(torch.equal(results[0].flatten(), made.flatten()) for made in results[1:]):
            return
        wanted = centred(planes_product(planes.cpu(), self.codes, self.geometry), ring).flatten()
        for name in [name for name, (_, made) in found.items() if not torch.equal(made.cpu().flatten(), wanted)]:
            _log.error("layer %r: %s is not exact for %s and is used no more", self.name, name, tuple(planes.shape))
            del found[name], self._ways[name]
        if not found:
            raise MissingDevice(f"no exact product for layer {self.name!r} on {planes.device}")


Way = Callable[[Layer, Tensor, int], Tensor]


def windows_of(geometry: Geometry) -> Windows:
    """Return the windows of a layer."""
    return Windows(
        outputs=geometry.out_channels, inputs=geometry.in_channels, kernel=geometry.kernel, stride=geometry.stride,
        dilation=geometry.dilation, padding=geometry.padding,
    )  # fmt: skip


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Return the least seconds of a few calls after one that does not count, and what the last returned."""
    made, least = call(), float("inf")
    for _ in range(_REPEATS):
        wait_for(device)
        start = time.perf_counter()
        made = call()
        wait_for(device)
        least = min(least, time.perf_counter() - start)
    return least, made


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class Ways:
    """The exact ways of one device.

    Attributes:
        by_name: the ways.
        refused: those that failed their test here, with what was seen.
    """

    by_name: Mapping[str, Way]
    refused: tuple[str, ...] = ()


@cache
def exact_ways(device: torch.device) -> Ways:
    """Return the ways that are exact on ``device``; the first call tests them.

    Raises:
        MissingDevice: none is, or there is no memory for the test.
    """
    if device.type not in devices.KINDS:
        return Ways({kernel(device.type).name: _reference})
    found: dict[str, Way] = {}
    refused = [f"plain {text}" for text in kernel(device.type).refused]
    for name, way in _candidates(device):
        if (problem := tried(way, device)) is None:
            found[name] = way
        else:
            refused.append(f"{name}: {problem}")
    for text in refused:
        _log.warning("not used on %s: %s", device, text)
    if not found:
        raise MissingDevice(f"no exact product of byte planes on {device}: {'; '.join(refused)}")
    return Ways(found, tuple(refused))


def _candidates(device: torch.device) -> Iterator[tuple[str, Way]]:
    for tile in TILES:
        yield tile, partial(_twin, tile)
    yield f"unrolled-{kernel(device.type).name}", _unrolled


def tried(way: Way, device: torch.device) -> str | None:
    """Return None if ``way`` is exact on full-range planes of many geometries, or what went wrong."""
    for trial, (geometry, sample) in enumerate(_TRIED):
        for planes, codes in _operands(trial, geometry, sample):
            ring = planes.shape[0] if trial % 2 else MOST_PLANES
            wanted = centred(planes_product(planes, codes, geometry), ring)
            layer = Layer("trial", codes, geometry, device, {"trial": way})
            try:
                got = layer(planes.to(device), ring).cpu()
            except MissingDevice as error:
                return str(error).partition("trial: ")[2] or str(error)
            except torch.OutOfMemoryError as error:  # says nothing of the way, and is not to be remembered
                raise MissingDevice(f"{device} has no memory left for a first product") from error
            except RuntimeError as error:
                return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
            if got.dtype != torch.int32 or not torch.equal(got, wanted):
                return f"wrong numbers for {planes.shape[0]} planes, {geometry.kind} of {geometry.inner} products"
    return None


def _operands(trial: int, geometry: Geometry, sample: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield full-range random operands of one to four planes, and the extremes."""
    draw = derive(0, "shielding", "ways", trial).torch()
    planes = torch.randint(-128, 128, (trial % MOST_PLANES + 1, 2, *sample), generator=draw, dtype=torch.int8)
    codes = torch.randint(-128, 128, geometry.weight_shape, generator=draw, dtype=torch.int8)
    yield planes, codes
    yield torch.full_like(planes, -128), torch.full_like(codes, -128)
    yield torch.full_like(planes, 127), torch.full_like(codes, -128)


def _reference(layer: Layer, planes: Tensor, ring: int) -> Tensor:
    return centred(planes_product(planes, layer.codes, layer.geometry), ring)


def _twin(tile: str, layer: Layer, planes: Tensor, ring: int) -> Tensor:
    images = layer.windows.images(_pictures(layer, planes))
    return by_twin(images, layer.weights, layer.windows, above=8 * (MOST_PLANES - ring), tile=tile)


def _unrolled(layer: Layer, planes: Tensor, ring: int) -> Tensor:
    """Write every window out as a row: the library's product takes nothing else."""
    images, windows = layer.windows.images(_pictures(layer, planes)), layer.windows
    rows = int8_matmul(windows.unrolled(images), layer.weights.flatten(1).t())
    parts = rows.view(len(planes), -1, windows.outputs)
    total = parts[0]
    for place in range(1, len(parts)):
        total += parts[place] << 8 * place
    total = centred(total, ring).view(images.shape[1], -1, windows.outputs)
    return total.transpose(1, 2).contiguous()


def _pictures(layer: Layer, planes: Tensor) -> Tensor:
    """Return planes as images (planes, batch, channels, height, width): rows of a linear layer are pixels."""
    if layer.geometry.kind == "conv2d":
        return planes
    return planes.reshape(planes.shape[0], -1, layer.geometry.in_channels, 1, 1)
