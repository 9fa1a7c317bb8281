"""Affine codes against arithmetic on Python numbers, and the contract at every point of the product."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats import Encoded, formats
from holdfast.numerics.formats.affine import Affine
from holdfast.testing import check_format

ZEROS = ("none", "middle", "stored", "stored-minus-one", "stored-minus-one-unwrapped", "low")
GRID = [
    f"affine:bits={bits},signed={signed},zero={zero},granularity={granularity},size=4,scale={scale}"
    for bits, (signed, zero), granularity, scale in itertools.product(
        (2, 3, 4, 8),
        [("false", zero) for zero in ZEROS[1:]] + [("true", zero) for zero in ("none", "stored", "low")],
        ("tensor", "channel", "group"),
        ("fp16", "fp32"),
    )
]
OTHERS = [
    f"affine:bits=4,zero={zero},size=2,scale=bf16,values={values},order={order}"
    for zero, values, order in itertools.product(ZEROS[1:], ("fp16", "bf16"), ("row", "act"))
]


@pytest.mark.parametrize("spec", GRID + OTHERS)
def test_every_point_keeps_the_contract(spec: str) -> None:
    check_format(formats.build(spec))


def grouped(zero: str, signed: bool = False, **more: object) -> tuple[Affine, Encoded]:
    """Two rows of four elements in groups of two, with distinct parameters everywhere."""
    codes = torch.tensor([[0, 15, 7, 8], [1, 2, 14, 9]])
    qparams = {
        "scale": torch.tensor([[0.5, -2.0], [0.125, 3.0]], dtype=torch.float16),
        "zero_point": torch.tensor([[0, 15], [7, 8]], dtype=torch.uint8),
        "low": torch.tensor([[1.0, -1.0], [0.25, 64.0]], dtype=torch.float16),
        "group": torch.tensor([1, 0, 0, 1], dtype=torch.int32),
    }
    format = Affine(bits=4, zero=zero, signed=signed, size=2, **more)  # type: ignore[arg-type]
    return format, Encoded(codes.to(torch.int8 if signed else torch.uint8), qparams)


MEANING = {
    "middle": lambda code, scale, zero, low: (code - 8) * scale,
    "stored": lambda code, scale, zero, low: (code - zero) * scale,
    "stored-minus-one": lambda code, scale, zero, low: (code - (zero + 1) % 16) * scale,
    "stored-minus-one-unwrapped": lambda code, scale, zero, low: (code - zero - 1) * scale,
    "low": lambda code, scale, zero, low: code * scale + low,
}


@pytest.mark.parametrize("order", ["row", "act"])
@pytest.mark.parametrize("zero", MEANING)
def test_every_zero_means_what_it_says(zero: str, order: str) -> None:
    format, encoded = grouped(zero, order=order)
    group = [0, 0, 1, 1] if order == "row" else [1, 0, 0, 1]
    q = {key: value.tolist() for key, value in encoded.qparams.items()}
    expected = [
        [
            MEANING[zero](code, q["scale"][row][group[column]], q["zero_point"][row][group[column]],
                          q["low"][row][group[column]])
            for column, code in enumerate(codes)
        ]
        for row, codes in enumerate(encoded.codes.tolist())
    ]  # fmt: skip
    assert format.decode(encoded).tolist() == expected


def test_bits_above_the_width_mean_nothing() -> None:
    format, encoded = grouped("stored-minus-one")
    high = dict(encoded.qparams) | {"zero_point": encoded.qparams["zero_point"] | 0x30}
    assert torch.equal(format.decode(Encoded(encoded.codes | 0xC0, high)), format.decode(encoded))


def test_signed_codes_are_two_s_complement_in_their_width() -> None:
    format = Affine(bits=4, signed=True, zero="none", granularity="tensor", scale="fp32")
    codes = torch.tensor([7, 8, 15, -1, -8], dtype=torch.int8)
    assert format.decode(Encoded(codes, {"scale": torch.tensor(2.0)})).tolist() == [14, -16, -2, -2, -16]


def test_the_product_is_rounded_once_to_the_precision_of_the_values() -> None:
    generator = np.random.default_rng(0)
    scale = torch.from_numpy(generator.random(256, np.float32)).half()
    codes = torch.from_numpy(generator.integers(0, 256, (256, 1), dtype=np.uint8))
    format = Affine(bits=8, zero="stored", granularity="channel", values="fp16")
    zero = torch.full((256, 1), 131, dtype=torch.uint8)
    decoded = format.decode(Encoded(codes, {"scale": scale[:, None], "zero_point": zero}))
    exact = (codes.numpy().astype(np.float64) - 131) * scale[:, None].numpy().astype(np.float64)
    assert np.array_equal(decoded.numpy(), exact.astype(np.float16))


def test_values_beyond_the_range_of_a_frozen_scale_are_clipped() -> None:
    format = Affine(bits=4, zero="middle", granularity="tensor", scale="fp32")
    frozen = {"scale": torch.tensor(0.5)}
    assert format.encode(torch.tensor([-100.0, -0.3, 0.3, 100.0]), frozen).codes.tolist() == [0, 7, 9, 15]


def test_a_block_whose_scale_is_zero_decodes_and_encodes() -> None:
    format = Affine(bits=4, zero="middle", granularity="group", size=2)
    encoded = Encoded(torch.tensor([[3, 9]], dtype=torch.uint8), {"scale": torch.zeros(1, 1, dtype=torch.float16)})
    values = format.decode(encoded)
    assert values.tolist() == [[0, 0]]
    assert format.encode(values, encoded.qparams).codes.tolist() == [[8, 8]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 1}, "2 to 8 bits"),
        ({"bits": 9}, "2 to 8 bits"),
        ({"signed": True, "zero": "middle"}, "signed codes"),
        ({"zero": "none"}, "unsigned codes need a zero"),
        ({"order": "act", "granularity": "channel"}, "goes with groups"),
        ({"size": 0}, "at least one element"),
        ({"bits": 8, "values": "bf16"}, "bf16 cannot tell"),
    ],
)
def test_impossible_combinations_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        Affine(**wrong)  # type: ignore[arg-type]


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="NaN"):
        Affine().encode(torch.tensor([1.0, torch.nan]))
    with pytest.raises(UnsupportedFormat, match="fp16 scales"):
        Affine(bits=4).encode(torch.tensor([3e7, -3e7]))


@pytest.mark.parametrize("group", [-1, 2, 2**31 - 1])
def test_a_column_of_a_group_that_does_not_exist_is_refused(group: int) -> None:
    format, encoded = grouped("stored", order="act")
    encoded.qparams["group"][2] = group
    with pytest.raises(InvalidConfig, match=f"names group {group} of 2"):
        format.decode(encoded)


@pytest.mark.parametrize("zero", ["middle", "stored", "low"])
def test_values_beyond_their_precision_are_refused(zero: str) -> None:
    format = Affine(bits=4, zero=zero, granularity="tensor", scale="fp32", values="fp16")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFormat, match="fp16 values cannot hold"):
        format.encode(torch.tensor([1e5, -1e5, 0.0]))


@pytest.mark.parametrize(("scale", "values"), [("fp16", "fp32"), ("fp32", "fp16"), ("bf16", "fp16")])
@pytest.mark.parametrize("zero", ["middle", "stored", "low"])
@pytest.mark.parametrize("size", [1e-9, 1e-37, 1e-44])
def test_weights_too_small_are_refused_and_do_not_vanish(zero: str, scale: str, values: str, size: float) -> None:
    format = Affine(zero=zero, granularity="tensor", scale=scale, values=values)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFormat, match="cannot hold weights so small"):
        format.encode(torch.tensor([1.0, -1.0, 0.5]) * size)
    assert not format.decode(format.encode(torch.zeros(3))).any()


@pytest.mark.parametrize("spec", ["scale=fp16", "scale=fp32,values=fp16", "scale=bf16,values=bf16", "scale=fp32"])
@pytest.mark.parametrize("zero", ["middle", "stored", "low"])
def test_at_every_size_codes_come_back_or_are_refused(spec: str, zero: str) -> None:
    format = formats.build(f"affine:bits=4,zero={zero},granularity=tensor,{spec}")
    normal, held = torch.randn(64, generator=torch.Generator().manual_seed(0)), 0
    for power in range(-44, 38):
        x = (normal.double() * 10.0**power).float()
        try:
            encoded = format.encode(x)
        except UnsupportedFormat:
            continue
        held += 1
        decoded = format.decode(encoded)
        assert torch.isfinite(decoded).all()
        assert decoded.any()
        assert torch.equal(format.encode(decoded.float(), encoded.qparams).codes, encoded.codes)
    assert held >= 10
