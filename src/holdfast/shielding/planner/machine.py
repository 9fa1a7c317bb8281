"""What the target can do: laws of both worlds and of the way between them, measured with the code that will run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnsupportedVersion
from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds, PadStore, int8_model, shield
from holdfast.shielding.product import Geometry, integer_product, ring_product

FORMAT = "holdfast.shield-machine/v1"
_REPEATS = 5
# (inputs, outputs, side, kernel, stride) and (rows, inputs, outputs): corners of what networks hold
_CONVOLUTIONS = ((3, 16, 32, 3, 1), (16, 16, 32, 3, 1), (64, 64, 28, 3, 1), (128, 128, 14, 3, 1), (64, 128, 28, 1, 2),
                 (256, 256, 7, 3, 1), (32, 192, 28, 1, 1), (3, 64, 56, 7, 2))  # fmt: skip
_LINEARS = ((1, 64, 64), (1, 512, 1000), (1, 2048, 1024), (8, 1024, 1024), (64, 256, 1024), (196, 384, 384))
_PADDED = Geometry(kind="linear", out_channels=1024, in_channels=1024)
_LAWS = ("trusted", "open", "worker", "check")
_RATES = ("step", "elements", "pads", "bandwidth", "crossing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Seconds of one call: a base, and a price for each of four sizes.

    Attributes:
        base: seconds of a call without work.
        mac: per multiply-accumulate.
        operand: per input operand of an output position; what unrolling copies.
        weight: per weight, which small batches wait for.
        output: per element of the result.
    """

    base: float = 0.0
    mac: float = 0.0
    operand: float = 0.0
    weight: float = 0.0
    output: float = 0.0

    def seconds(self, *, inner: int, channels: int, outputs: int) -> float:
        """Return the time of a product with ``outputs`` elements, ``channels`` of them at each position."""
        return float(
            np.dot([self.base, self.mac, self.operand, self.weight, self.output], _sizes(inner, channels, outputs))
        )


def _sizes(inner: int, channels: int, outputs: int) -> list[float]:
    return [1.0, outputs * inner, outputs / channels * inner, inner * channels, outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """One law for convolutions, one for linear layers."""

    conv2d: Law
    linear: Law

    def of(self, operation: str) -> Law:
        """Return the law for an operation; all but convolutions go by that of linear layers."""
        return self.conv2d if operation == "conv2d" else self.linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Laws and rates of one target.

    Attributes:
        trusted: int8 products in the trusted world.
        open: int8 products outside, unshielded and believed.
        worker: products modulo 2**32 in the worker, in the clear or blinded: it cannot tell.
        check: checking an answer.
        step: seconds of a node that does nothing.
        elements: elementwise work, elements per second.
        pads: blinding and unblinding, elements per second.
        bandwidth: between the worlds, bytes per second.
        crossing: one round trip without data, seconds.
    """

    trusted: Laws
    open: Laws
    worker: Laws
    check: Laws
    step: float
    elements: float
    pads: float
    bandwidth: float
    crossing: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"type": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Machine:
        """Read what :meth:`to_json` made.

        Raises:
            UnsupportedVersion, InvalidConfig: another type, or fields that are missing or no such numbers.
        """
        if not isinstance(value, dict) or value.get("type") != FORMAT:
            raise UnsupportedVersion(f"this is no {FORMAT}", hint="measure the target again")
        if value.keys() - {"type"} != cls.__dataclass_fields__.keys():
            raise InvalidConfig("a machine has other fields", hint="measure the target again")
        trusted, outside, worker, check = (_laws(key, value[key]) for key in _LAWS)
        rates = {key: _number(key, value[key], above=0.0) for key in _RATES}
        return cls(trusted=trusted, open=outside, worker=worker, check=check, **rates)


def _laws(key: str, value: Any) -> Laws:
    if not isinstance(value, dict) or value.keys() != Laws.__dataclass_fields__.keys():
        raise InvalidConfig(f"{key} of a machine has a law for conv2d and one for linear")
    found = {}
    for kind, law in value.items():
        if not isinstance(law, dict) or law.keys() != Law.__dataclass_fields__.keys():
            raise InvalidConfig(f"the law {key} of {kind} has other fields", hint="measure the target again")
        found[kind] = Law(**{name: _number(f"{key}.{kind}.{name}", part) for name, part in law.items()})
    return Laws(**found)


def _number(key: str, value: Any, *, above: float | None = None) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if not right or (above is not None and value <= above):
        raise InvalidConfig(f"{key} of a machine is {value!r}, not a positive number")
    return float(value)


def measure(*, worker: str = "spawn") -> Machine:
    """Measure this machine in seconds, with the products, checks, pads and worker that sessions use.

    Both worlds are taken to compute as this process does. Where the trusted world is slower, or the other has an
    accelerator, measure there and put the laws together in one file.

    Args:
        worker: as for :func:`~holdfast.shielding.shield`.
    """
    conv2d = _fitted([_convolution(*shape) for shape in _CONVOLUTIONS])
    linear = _fitted([_linear(*shape) for shape in _LINEARS])
    trusted, outside, work, check = (
        Laws(conv2d=first, linear=second) for first, second in zip(conv2d, linear, strict=True)
    )
    step, crossing = _seconds(lambda: _elementwise(torch.rand(1))), _round_trip(worker, 1)
    extra, size = 2 * 4 * (2**18 - 1), 2**20
    bandwidth = extra / max(_round_trip(worker, 2**18) - crossing, 1e-9)
    x = torch.rand(size)
    elements = size / max(_seconds(lambda: _elementwise(x)) - step, 1e-9)
    rates = {"step": step, "elements": elements, "pads": _pad_rate(), "bandwidth": bandwidth, "crossing": crossing}
    return Machine(trusted=trusted, open=outside, worker=work, check=check, **rates)


def _convolution(taken: int, made: int, side: int, kernel: int, stride: int) -> tuple[Geometry, tuple[int, ...]]:
    geometry = Geometry(kind="conv2d", out_channels=made, in_channels=taken, kernel=(kernel, kernel),
                        stride=(stride, stride), padding=(kernel // 2,) * 4)  # fmt: skip
    return geometry, (taken, side, side)


def _linear(rows: int, taken: int, made: int) -> tuple[Geometry, tuple[int, ...]]:
    return Geometry(kind="linear", out_channels=made, in_channels=taken), (rows, taken)


def _fitted(layers: Sequence[tuple[Geometry, tuple[int, ...]]]) -> list[Law]:
    """Return laws of the trusted product, the same outside, the worker's, and the check."""
    sizes, times = [], []
    for geometry, sample in layers:
        outputs = torch.Size(geometry.output_shape(sample)).numel()
        sizes.append(_sizes(geometry.inner, geometry.out_channels, outputs))
        times.append(_product_times(geometry, sample))
    trusted, worker, check = (_law(sizes, column) for column in zip(*times, strict=True))
    return [trusted, trusted, worker, check]


def _law(sizes: Sequence[Sequence[float]], times: Sequence[float]) -> Law:
    """Fit non-negative prices by least squares of relative errors."""
    relative = np.array(sizes) / np.array(times)[:, None]
    widths = relative.max(0)
    prices, _ = nnls(relative / widths, np.ones(len(times)))
    return Law(**dict(zip(Law.__dataclass_fields__, (prices / widths).tolist(), strict=True)))


def _product_times(geometry: Geometry, sample: tuple[int, ...]) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, geometry.weight_shape, generator=generator, dtype=torch.int8)
    x = torch.randint(-127, 128, (1, *sample), generator=generator, dtype=torch.int8)
    y, verifier = integer_product(x, codes, geometry), Freivalds().prepare(codes, geometry, Entropy())
    return (
        _seconds(lambda: integer_product(x, codes, geometry)),
        _seconds(lambda: ring_product(x.to(torch.int32), codes, geometry)),
        _seconds(lambda: verifier.accepts(x, y)),
    )


def _elementwise(x: Tensor) -> Tensor:
    return (x / 0.01).round_().clamp_(-127, 127).to(torch.int8).float() * 0.01


def _pad_rate() -> float:
    codes = torch.ones(_PADDED.weight_shape, dtype=torch.int8)
    store, shape = PadStore(codes, _PADDED, Entropy()), (8, _PADDED.in_channels)
    store.prepare(shape, _REPEATS + 1)
    x, y = torch.zeros(1, *shape, dtype=torch.int8), torch.zeros(1, *shape, dtype=torch.int32)

    def once() -> Tensor:
        pad = store.take(shape, 1)
        pad.blind(x)
        return pad.unblind(y)

    return 2 * x.numel() / _seconds(once)


def _round_trip(worker: str, size: int) -> float:
    """Return seconds of one remote answer of ``size`` elements that cost one multiplication each."""
    x = torch.rand(1, 1, size, 1)
    model = int8_model(nn.Sequential(nn.Conv2d(1, 1, 1)), x)
    with shield(model, worker, placements="verified") as session:
        session(x)
        times = []
        for _ in range(_REPEATS):
            before = session.timings["remote"]
            session(x)
            times.append(session.timings["remote"] - before)
    return min(times)


def _seconds(call: Callable[[], object]) -> float:
    """Return the least time of a few calls, after one to warm up."""
    call()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)
