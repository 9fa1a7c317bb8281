"""Quantisation, bit errors and decoding on the device give the formats' bits: every width, sign and granularity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.errors import InvalidConfig
from holdfast.models.lens import Lens
from holdfast.numerics import bits, packing
from holdfast.numerics.formats import Encoded, FixedPoint, formats
from holdfast.numerics.formats.on_device import encode_all, objection
from holdfast.seeds import derive

SHAPES = [(5, 3, 3, 3), (70,), (2, 600), (1, 1), ()]
FAST = ["rquant8", "rquant4", "int8", "normal8"]
SLOW = [
    *(f"rquant{width}" for width in (2, 3, 5, 6, 7)), "int4", "uint8", "uint3", "global8", "global4",
    "fixed-point:bits=8,symmetric=true,signed=true,granularity=tensor,rounding=truncate",
    "fixed-point:bits=8,symmetric=false,signed=true,granularity=tensor,rounding=truncate",
    "fixed-point:bits=5,symmetric=false,signed=false,granularity=channel,rounding=truncate,clip=0.1",
    "fixed-point:bits=6,granularity=group,group=250", "fixed-point:bits=8,clip=0.05,range=fixed,epsilon=0.001",
    "fixed-point:bits=4,symmetric=false,signed=true,granularity=group,group=70,saturate=true,epsilon=0.001",
]  # fmt: skip
EVERY = FAST + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


def weights(device: torch.device) -> list[Tensor]:
    generator = derive(0, "weights").torch()
    found = [0.2 * torch.randn(shape, generator=generator) for shape in SHAPES]
    found[1][3:9] = 0.0
    found[2][0] = 0.125  # a constant channel
    found[2][1, :5] = torch.tensor([0.5, -0.5, 1e-30, -1e-30, 0.25])
    return [item.to(device) for item in found]


def apart(values: Tensor, codes: Tensor, parts: object) -> list[tuple[Tensor, Tensor]]:
    """Return the codes and values of each tensor."""
    places = parts.places  # type: ignore[attr-defined]
    counts = [torch.Size(shape).numel() for shape in SHAPES]
    return [(codes[c : c + n], values[v : v + n]) for (c, v), n in zip(places, counts, strict=True)]


@pytest.mark.parametrize("name", EVERY)
def test_codes_and_values_are_the_format_s(resident: torch.device, name: str) -> None:
    form, tensors = formats.build(name), weights(resident)
    assert isinstance(form, FixedPoint)
    assert objection(form, tensors) is None
    found = encode_all(form, tensors)
    assert found is not None
    codes, values = found
    scales = []
    for item, (held, read) in zip(tensors, apart(values, codes.memory, codes.parts), strict=True):
        expected = form.encode(item.cpu())
        assert bits.bit_equal(held.cpu().view(item.shape), expected.codes)
        assert bits.bit_equal(read.cpu().view(item.shape), form.decode(expected))
        scales.append(expected.qparams["scale"].reshape(-1))
    assert bits.bit_equal(codes.scales.cpu(), torch.cat(scales))
    assert bits.bit_equal(codes.values(), values)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float16, torch.float64])
def test_what_torch_makes_by_default_changes_no_code(resident: torch.device, other: torch.dtype) -> None:
    form, tensors = formats.build("rquant8"), [*weights(resident), torch.full((3,), 1e6, device=resident)]
    expected = [form.encode(item.cpu()) for item in tensors]
    before = torch.get_default_dtype()
    torch.set_default_dtype(other)
    try:
        codes, values = encode_all(form, tensors)  # type: ignore[misc,arg-type]
        again = codes.values()
    finally:
        torch.set_default_dtype(before)
    assert values.dtype == again.dtype == torch.float32
    assert bits.bit_equal(again, values)
    for item, encoded, (place, start) in zip(tensors, expected, codes.parts.places, strict=True):
        assert bits.bit_equal(codes.memory[place : place + item.numel()].cpu().view(item.shape), encoded.codes)
        assert bits.bit_equal(values[start : start + item.numel()].cpu().view(item.shape), form.decode(encoded))


def test_constants_and_zeros_are_exact(resident: torch.device) -> None:
    for value in (0.0, 0.1, -3.7):
        tensor = torch.full((33,), value, device=resident)
        for name in ("rquant8", "rquant4"):
            found = encode_all(formats.build(name), [tensor])  # type: ignore[arg-type]
            assert found is not None
            assert torch.equal(found[1][:33], tensor)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_errors_are_decoded_as_flipped_codes_are(resident: torch.device, name: str, packed: bool) -> None:
    form = formats.build(name)
    codes, clean = encode_all(form, weights(resident))  # type: ignore[misc,arg-type]
    count, width = codes.parts.codes, form.bits
    generator = derive(1, "errors").torch()
    mask = torch.randint(0, 2**width, (count,), generator=generator, dtype=torch.uint8)
    mask[torch.rand(count, generator=generator) < 0.7] = 0
    flags = packing.pack(mask, width).to(resident)
    if packed:
        memory = packing.pack(codes.memory.cpu().view(torch.uint8) & (2**width - 1), width).to(resident)
        codes = type(codes)(
            parts=codes.parts, law=codes.law, memory=memory, scales=codes.scales, lows=codes.lows, packed=True
        )
    faulty = codes.values(flags)
    for item, (place, start) in zip(weights(torch.device("cpu")), codes.parts.places, strict=True):
        encoded, n = form.encode(item), item.numel()
        hit = encoded.codes.clone()
        bits.xor_(hit, torch.arange(n), mask[place : place + n].long())
        expected = form.decode(Encoded(hit, encoded.qparams))
        assert bits.bit_equal(faulty[start : start + n].cpu().view(item.shape), expected)
    listed = torch.stack([(mask >> bit) & 1 for bit in range(width)], 1).view(-1).nonzero().flatten()
    assert bits.bit_equal(codes.touch_(clean.clone(), listed.to(resident)), faulty)
    assert len(listed) > 100
    assert not bits.bit_equal(faulty, clean)


def test_addresses_outside_the_codes_are_refused(resident: torch.device) -> None:
    codes, clean = encode_all(formats.build("rquant8"), weights(resident))  # type: ignore[misc,arg-type]
    before = clean.clone()
    for address in (-1, 8 * codes.parts.codes):
        with pytest.raises(InvalidConfig, match="outside"):
            codes.touch_(clean, torch.tensor([address], device=resident))
    assert torch.equal(codes.touch_(clean, torch.empty(0, dtype=torch.int64, device=resident)), before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_what_a_format_refuses_or_rounds_beyond_float32_is_left_to_it(resident: torch.device, value: float) -> None:
    tensor = torch.zeros(40, device=resident)
    tensor[17] = value
    assert encode_all(formats.build("rquant8"), [torch.ones(3, device=resident), tensor]) is None  # type: ignore[arg-type]


def test_what_the_kernels_do_not_know_is_named(resident: torch.device) -> None:
    one = [torch.ones(4, 4, device=resident)]
    assert objection(formats.build("mxfp4"), one) == f"{formats.build('mxfp4').name} is not fixed point"
    assert objection(formats.build("int16"), one) == "codes have 16 bits, more than eight"
    assert objection(formats.build("fixed-point:granularity=tile"), one) == "scales belong to tiles"
    assert objection(formats.build("rquant8"), [one[0].half()]) == "a tensor is not float32"
    assert objection(formats.build("rquant8"), [one[0][:0]]) == "a tensor is empty"
    assert objection(formats.build("rquant8"), [torch.ones(4, 3, device=resident).t()]) == "a tensor is not contiguous"


def test_on_a_cpu_the_reference_works() -> None:
    assert objection(formats.build("rquant8"), [torch.ones(3)]) == "cpu is no CUDA device"


@pytest.mark.parametrize("name", EVERY)
def test_a_lens_flips_and_decodes_what_is_touched(
    resident: torch.device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, generator = formats.build(name), derive(2, "flips").torch()
    for tensor in weights(torch.device("cpu"))[:3]:
        encoded, count = form.encode(tensor), min(40, tensor.numel())
        index = torch.randperm(tensor.numel(), generator=generator)[:count]
        mask = torch.randint(1, 2**form.bits, (count,), generator=generator)
        lenses, parameters = [], []
        for place in (torch.device("cpu"), resident):
            qparams = {key: value.to(place).contiguous() for key, value in encoded.qparams.items()}
            lenses.append(Lens(encoded.codes.clone().to(place), qparams, form))
            parameters.append(torch.nn.Parameter(form.decode(encoded).to(place)))
        lenses[1].xor_(parameters[1], index.to(resident), mask.to(resident))
        monkeypatch.setattr(devices, "KINDS", [])
        lenses[0].xor_(parameters[0], index, mask)
        assert bits.bit_equal(lenses[1].codes.cpu(), lenses[0].codes)
        assert bits.bit_equal(parameters[1].detach().cpu(), parameters[0].detach())
        assert not bits.bit_equal(lenses[0].codes, encoded.codes)
        monkeypatch.setattr(devices, "KINDS", [resident.type])


def test_a_lens_that_kernels_cannot_read_is_flipped_by_torch(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast._kernels import codes

    monkeypatch.setattr(codes, "touch_", lambda *_: pytest.fail("a kernel ran"))
    for name in ("mxint8", "int16", "fixed-point:granularity=tile", "fixed-point:granularity=group,group=7"):
        form = formats.build(name)
        encoded = form.encode(weights(resident)[2])
        lens = Lens(encoded.codes.clone(), dict(encoded.qparams), form)
        parameter = torch.nn.Parameter(form.decode(encoded))
        lens.xor_(parameter, torch.tensor([5], device=resident), torch.tensor([3], device=resident))
        assert lens.codes.view(-1)[5] == encoded.codes.view(-1)[5] ^ 3
        assert lens.matches(parameter)
