"""Every registered format, and every point of the fixed-point product, keeps the laws of a format."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from holdfast.numerics.formats import Encoded, FixedPoint, formats
from holdfast.testing import ContractBroken, check_format

GRID = [
    f"fixed-point:bits={bits},symmetric={symmetric},signed={signed},granularity={granularity},rounding={rounding}"
    for bits, symmetric, signed, granularity, rounding in itertools.product(
        (2, 3, 5, 8), ("true", "false"), ("true", "false"), ("tensor", "channel"), ("half-even", "truncate")
    )
]


@pytest.mark.parametrize(
    "spec", [*formats.names(), *GRID, "fixed-point:clip=0.1", "fixed-point:clip=0.1,rounding=truncate"]
)
def test_every_format_keeps_the_contract(spec: str) -> None:
    check_format(formats.build(spec))


class Int8:
    """A correct format to break one law at a time."""

    name, bits = "int8", 8
    inner = FixedPoint()

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        return self.inner.encode(x, qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        return self.inner.decode(encoded)

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        return self.inner.decode_at(encoded, index)

    def fields(self) -> tuple[str, ...]:
        return self.inner.fields()


class Truncating(Int8):
    """Loses a step at each pass: the published defect."""

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        encoded = self.inner.encode(x, qparams)
        return Encoded(((x - encoded.qparams["scale"] / 4) / encoded.qparams["scale"]).to(torch.int8), encoded.qparams)


class Forgetful(Int8):
    """Names one field too few."""

    def fields(self) -> tuple[str, ...]:
        return self.inner.fields()[1:]


class Deaf(Int8):
    """Ignores its lowest bit when decoding, and never sets it."""

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        encoded = self.inner.encode(x, qparams)
        return Encoded(encoded.codes & -2, encoded.qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        return self.inner.decode(Encoded(encoded.codes & -2, encoded.qparams))


class Silent(Int8):
    """Turns NaN into a number."""

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        return self.inner.encode(torch.nan_to_num(x), qparams)


class Misnamed(Int8):
    """Goes by the name of another format."""

    name = "rquant8"


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Truncating(), "gives back its codes"),
        (Forgetful(), "one field per stored bit"),
        (Deaf(), "bit 0"),
        (Silent(), "NaN"),
        (Misnamed(), "rebuild"),
    ],
)
def test_each_broken_law_is_named(broken: Int8, law: str) -> None:
    with pytest.raises(ContractBroken, match=law):
        check_format(broken)


def test_the_unbroken_one_passes() -> None:
    check_format(Int8())
