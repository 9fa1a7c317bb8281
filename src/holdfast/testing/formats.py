"""The laws of a number format."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from holdfast.errors import UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded, Format, formats
from holdfast.seeds import derive
from holdfast.testing.contract import require

_FIELDS = {"mantissa", "exponent", "magnitude", "sign"}


def check_format(format: Format) -> None:
    """Check every law of :class:`holdfast.numerics.formats.Format` on a set of small tensors.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    require(isinstance(format, Format), format, "is no Format")
    fields = format.fields()
    require(len(fields) == format.bits and set(fields) <= _FIELDS, format.name, "names one field per stored bit")
    for case, x in _samples():
        _check_round_trip(format, case, x)
    _check_every_bit_counts(format)
    _check_not_a_number(format)
    require(_rebuilds(format), format.name, "its name must rebuild it")


def _rebuilds(format: Format) -> bool:
    """Say whether the format built from the name stores a sample as the same codes."""
    sample = dict(_samples())["normal"]
    return torch.equal(formats.build(format.name).encode(sample).codes, format.encode(sample).codes)


def _samples() -> Iterator[tuple[str, Tensor]]:
    generator = derive(0, "check-format").torch()
    normal = torch.randn(6, 5, 3, generator=generator)
    yield "normal", normal
    yield "one-sided", normal.abs() + 0.25
    yield "tiny", normal * 1e-3
    yield "vector", normal[0, 0]
    yield "constant", torch.full((4, 3), 0.3)
    yield "negative constant", torch.full((4,), -0.3)
    yield "zeros", torch.zeros(3, 2)
    yield "scalar", torch.tensor(0.7)
    yield "empty", torch.zeros(0, 3)


def _check_round_trip(format: Format, case: str, x: Tensor) -> None:
    subject, before = f"{format.name} on {case}", x.clone()
    encoded = format.encode(x)
    decoded = format.decode(encoded)
    again = format.encode(decoded, encoded.qparams)
    require(torch.equal(x, before), subject, "encoding leaves its argument alone")
    require(not encoded.codes.dtype.is_floating_point, subject, "codes are integers")
    require(encoded.codes.shape == x.shape == decoded.shape, subject, "codes and values keep the shape")
    require(bits.bit_width(encoded.codes.dtype) >= format.bits, subject, "codes hold all bits")
    require(bool(torch.isfinite(decoded.double()).all()), subject, "finite values stay finite")
    require(torch.equal(again.codes, encoded.codes), subject, "encoding a decoded tensor gives back its codes")
    require(bits.bit_equal(format.decode(again), decoded), subject, "decoding twice gives the same bits")
    index = torch.arange(x.numel()).flip(0)
    some = format.decode_at(encoded, index)
    require(bits.bit_equal(some, decoded.reshape(-1)[index]), subject, "decode_at gives what decode gives")
    if case == "zeros" and getattr(format, "has_zero", True):  # a pure logarithm has none, and says so
        require(not decoded.double().any(), subject, "zero is exact")


def _check_every_bit_counts(format: Format) -> None:
    x = torch.linspace(-1, 1, 7)
    encoded = format.encode(x)
    decoded = format.decode(encoded)
    for bit, field in enumerate(format.fields()):
        codes = encoded.codes.clone()
        mask = bits.one_bit(torch.full((len(x),), bit))
        bits.xor_(codes, torch.arange(len(x)), mask)
        faulty = format.decode(Encoded(codes, encoded.qparams))
        different = bits.popcount(bits.int_view(faulty) ^ bits.int_view(decoded)) > 0
        # not all: two codes may share a value, such as those a saturating format reads beyond its range
        require(bool(different.any()), format.name, f"bit {bit} ({field}) means nothing: flipping it changes no value")


def _check_not_a_number(format: Format) -> None:
    try:
        encoded = format.encode(torch.tensor([1.0, float("nan")]))
    except UnsupportedFormat:
        return
    decoded = format.decode(encoded).double()
    require(bool(torch.isnan(decoded[1])), format.name, "NaN is refused or kept, never turned into a number")
