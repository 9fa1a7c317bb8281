"""What the target can do: rates of both worlds and of the way between them, measured with the code that will run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnsupportedVersion
from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds, PadStore, int8_model, shield
from holdfast.shielding.product import Geometry, integer_product, ring_product

FORMAT = "holdfast.shield-machine/v1"
_REPEATS = 5
_RATES = ("trusted", "open", "worker", "check")
_CONVOLUTION = Geometry(kind="conv2d", out_channels=64, in_channels=64, kernel=(3, 3), padding=(1, 1, 1, 1))
_SAMPLE = (64, 28, 28)
_WIDE = Geometry(kind="linear", out_channels=1024, in_channels=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Multiply-accumulates per second."""

    conv2d: float
    linear: float

    def of(self, operation: str) -> float:
        """Return the rate for an operation; all but convolutions go by that of linear layers."""
        return self.conv2d if "conv2d" in operation or operation == "depthwise" else self.linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Rates of one target.

    Attributes:
        trusted: int8 products in the trusted world.
        open: int8 products outside, unshielded and believed.
        worker: products modulo 2**32 in the worker, in the clear or blinded: it cannot tell.
        check: multiply-accumulates of the check, counted as one output channel.
        elements: elementwise work, elements per second.
        pads: blinding and unblinding, elements per second.
        bandwidth: between the worlds, bytes per second.
        crossing: one round trip without data, seconds.
    """

    trusted: Rates
    open: Rates
    worker: Rates
    check: Rates
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
            UnsupportedVersion, InvalidConfig: another type, or fields that are missing or no positive numbers.
        """
        if not isinstance(value, dict) or value.get("type") != FORMAT:
            raise UnsupportedVersion(f"this is no {FORMAT}", hint="measure the target again")
        fields = {key: part for key, part in value.items() if key != "type"}
        if fields.keys() != cls.__dataclass_fields__.keys():
            raise InvalidConfig("a machine has other fields", hint="measure the target again")
        return cls(**{key: _read(key, part) for key, part in fields.items()})


def _read(key: str, value: Any) -> Any:
    if key in _RATES:
        if not isinstance(value, dict) or value.keys() != Rates.__dataclass_fields__.keys():
            raise InvalidConfig(f"{key} of a machine has a rate for conv2d and one for linear")
        return Rates(**{name: _read(name, rate) for name, rate in value.items()})
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidConfig(f"{key} of a machine is {value!r}, not a positive number")
    return float(value)


def measure(*, worker: str = "spawn") -> Machine:
    """Measure this machine in seconds, with the products, checks, pads and worker that sessions use.

    Both worlds are taken to compute as this process does. Where the trusted world is slower, or the other has an
    accelerator, measure there and put the rates together in one file.

    Args:
        worker: as for :func:`~holdfast.shielding.shield`.
    """
    shapes = {"conv2d": (_CONVOLUTION, _SAMPLE), "linear": (_WIDE, (8, _WIDE.in_channels))}
    rates = {name: _product_rates(*shape) for name, shape in shapes.items()}
    crossing, bandwidth = _channel(worker)
    made = {name: Rates(**{kind: rates[kind][place] for kind in rates}) for place, name in enumerate(_RATES)}
    x = torch.rand(64, 56, 56)
    elements = x.numel() / _seconds(lambda: (x / 0.01).round_().clamp_(-127, 127).to(torch.int8).float() * 0.01)
    return Machine(**made, elements=elements, pads=_pad_rate(), bandwidth=bandwidth, crossing=crossing)


def _product_rates(geometry: Geometry, sample: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return rates of the trusted product, the same outside, of the worker's, and of the check."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, geometry.weight_shape, generator=generator, dtype=torch.int8)
    x = torch.randint(-127, 128, (1, *sample), generator=generator, dtype=torch.int8)
    y, verifier = integer_product(x, codes, geometry), Freivalds().prepare(codes, geometry, Entropy())
    macs = y.numel() * geometry.inner
    plain = macs / _seconds(lambda: integer_product(x, codes, geometry))
    return (
        plain,
        plain,
        macs / _seconds(lambda: ring_product(x.to(torch.int32), codes, geometry)),
        macs / geometry.out_channels / _seconds(lambda: verifier.accepts(x, y)),
    )


def _pad_rate() -> float:
    codes = torch.ones(_WIDE.weight_shape, dtype=torch.int8)
    store, shape = PadStore(codes, _WIDE, Entropy()), (8, _WIDE.in_channels)
    store.prepare(shape, _REPEATS + 1)
    x, y = torch.zeros(1, *shape, dtype=torch.int8), torch.zeros(1, *shape, dtype=torch.int32)

    def once() -> Tensor:
        pad = store.take(shape, 1)
        pad.blind(x)
        return pad.unblind(y)

    return 2 * x.numel() / _seconds(once)


def _channel(worker: str) -> tuple[float, float]:
    """Return seconds of an empty round trip and bytes per second, from real sessions with layers of little work."""
    small, large = (_round_trip(worker, size) for size in (1, 2**18))
    extra = 2 * 4 * (2**18 - 1)
    return small, extra / max(large - small, 1e-9)


def _round_trip(worker: str, channels: int) -> float:
    x = torch.rand(1, 1, channels, 1)
    model = int8_model(nn.Sequential(nn.Conv2d(1, 1, 1)), x)
    with shield(model, worker, blinding=False) as session:
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
