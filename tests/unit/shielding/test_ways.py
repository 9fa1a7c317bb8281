"""Layers on a device: every way is the reference's product, what is not is named, and the quickest is taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.errors import MissingDevice
from holdfast.seeds import derive
from holdfast.shielding import kernels, ways
from holdfast.shielding.product import Geometry, byte_planes, planes_product, ring_product
from holdfast.shielding.ways import Layer, exact_ways
from tests.unit.shielding.devices import taken_for_a_gpu

CPU = torch.device("cpu")
STRIDED = Geometry(kind="conv2d", out_channels=9, in_channels=5, kernel=(3, 2), stride=(2, 1), padding=(1, 0, 2, 1))
LINEAR = Geometry(kind="linear", out_channels=11, in_channels=40)


def draw(geometry: Geometry, sample: tuple[int, ...], planes: int = 3, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = derive(8, "ways", str(sample)).torch()
    shapes = (planes, batch, *sample), geometry.weight_shape
    message, codes = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in shapes)
    return message, codes


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The processor is taken for a CUDA device."""
    with taken_for_a_gpu(monkeypatch):
        yield


def test_a_processor_has_the_trusted_world_s_way_and_no_other() -> None:
    assert list(exact_ways(CPU).by_name) == [kernels.kernel("cpu").name]
    message, codes = draw(STRIDED, (5, 7, 6))
    layer = Layer("x", codes, STRIDED, CPU)
    layer.rehearse((5, 7, 6), 3)  # nothing to choose from
    assert layer._chosen == {}
    assert torch.equal(layer(message), planes_product(message, codes, STRIDED))


@pytest.mark.parametrize(("geometry", "sample"), [(STRIDED, (5, 7, 6)), (LINEAR, (3, 40)), (LINEAR, (40,))])
def test_a_device_has_several_and_they_agree(
    as_gpu: None, geometry: Geometry, sample: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_TRIED", ways._TRIED[3:4])
    found = exact_ways(CPU)
    assert list(found.by_name) == ["triton-64x128", "triton-32x64", f"unrolled-{kernels.kernel('cpu').name}"]
    codes = draw(geometry, sample)[1]
    x = torch.randint(-(2**31), 2**31, (2, *sample), generator=derive(2, "x").torch(), dtype=torch.int32)
    for planes in (1, 2, 3, 4):
        wanted = ring_product(x, codes, geometry, planes)
        for name, way in found.by_name.items():
            layer = Layer("x", codes, geometry, CPU, {name: way})
            assert torch.equal(layer(byte_planes(x, planes), planes), wanted), name


def test_every_way_passes_its_whole_test(as_gpu: None) -> None:
    assert exact_ways(CPU).refused == ()


def test_a_way_that_is_wrong_is_refused_by_name(
    as_gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rounds(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        return ways._reference(layer, planes, ring).float().to(torch.int32)

    def rejects(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        raise RuntimeError("no kernel image is available")

    def absent(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        raise NotImplementedError("Triton is not installed")

    bad = {"floats": rounds, "old": rejects, "absent": absent}
    monkeypatch.setattr(ways, "_candidates", lambda _: iter([*bad.items(), ("good", ways._reference)]))
    found = exact_ways(CPU)
    assert list(found.by_name) == ["good"]
    assert [text.partition(":")[0] for text in found.refused] == list(bad)
    assert "wrong numbers" in found.refused[0]
    assert "no kernel image" in found.refused[1]
    assert found.refused[2].endswith("Triton is not installed")
    assert caplog.text.count("not used on cpu") == 3
    exact_ways.cache_clear()
    monkeypatch.setattr(ways, "_candidates", lambda _: iter(bad.items()))
    with pytest.raises(MissingDevice, match="no exact product of byte planes on cpu: floats: wrong numbers"):
        exact_ways(CPU)


def test_no_memory_for_the_test_is_not_remembered(as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ways, "_candidates", lambda _: iter([("full", full)]))
    with pytest.raises(MissingDevice, match="no memory left"):
        exact_ways(CPU)
    monkeypatch.setattr(ways, "_candidates", lambda _: iter([("good", ways._reference)]))
    assert list(exact_ways(CPU).by_name) == ["good"]
    with pytest.raises(MissingDevice, match="no memory left"):
        kernels.self_test(full)


def test_the_quickest_way_is_measured_for_each_shape_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    price = {"steady": 2.0, "batches": 3.0}

    def way(name: str) -> ways.Way:
        def multiply(layer: Layer, planes: Tensor, ring: int) -> Tensor:
            asked.append(name)
            return ways._reference(layer, planes, ring)

        return multiply

    def measured(call, device):
        made, name = call(), asked[-1]
        return price[name] / (len(made) if name == "batches" else 1), made

    monkeypatch.setattr(ways, "timed", measured)
    message, codes = draw(LINEAR, (40,), batch=4)
    layer = Layer("fc", codes, LINEAR, CPU, {name: way(name) for name in price})
    with caplog.at_level(logging.INFO):
        layer.rehearse((40,), 3)
        wanted = planes_product(message, codes, LINEAR)
        assert torch.equal(layer(message), wanted)
    assert "layer 'fc', 3 planes of 1 samples: steady 2000.000 ms, batches 3000.000 ms; takes steady" in caplog.text
    assert "3 planes of 4 samples" in caplog.text
    asked.clear()
    assert torch.equal(layer(message), wanted)
    assert torch.equal(layer(message[:, :1]), wanted[:1])
    assert asked == ["batches", "steady"]


def test_a_way_that_is_wrong_for_one_layer_only_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    def off(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        return ways._reference(layer, planes, ring) + 1

    message, codes = draw(STRIDED, (5, 7, 6))
    wanted = planes_product(message, codes, STRIDED)
    layer = Layer("conv", codes, STRIDED, CPU, {"off": off, "right": ways._reference})
    assert torch.equal(layer(message), wanted)
    assert torch.equal(layer(message), wanted)
    assert "layer 'conv': off is not exact" in caplog.text
    with pytest.raises(MissingDevice, match="no exact product for layer 'conv'"):
        Layer("conv", codes, STRIDED, CPU, {"off": off, "too": lambda *a: off(*a) + 1})(message)


def test_a_way_that_is_gone_later_leaves_the_work_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broken: list[str] = []

    def compiled(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        if broken:
            raise NotImplementedError(broken[0])
        return ways._reference(layer, planes, ring)

    message, codes = draw(LINEAR, (40,))
    layer = Layer("fc", codes, LINEAR, CPU, {"compiled": compiled, "other": ways._reference})
    wanted = layer(message)
    layer._chosen = dict.fromkeys(layer._chosen, "compiled")
    broken.append("a kernel does not compile")
    assert torch.equal(layer(message), wanted)
    assert torch.equal(layer(message[:, :1]), wanted[:1])
    assert "not by compiled: a kernel does not compile" in caplog.text
    with pytest.raises(MissingDevice, match="compiled: a kernel does not compile"):
        Layer("fc", codes, LINEAR, CPU, {"compiled": compiled})(message)


def test_a_way_without_memory_is_passed_over_and_all_without_say_so(caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    message, codes = draw(LINEAR, (40,))
    layer = Layer("fc", codes, LINEAR, CPU, {"full": full, "right": ways._reference})
    assert torch.equal(layer(message), planes_product(message, codes, LINEAR))
    assert "not by full: the device has no memory" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        Layer("fc", codes, LINEAR, CPU, {"full": full, "too": full})(message)


def test_on_a_device_the_twin_is_one_more_plain_product(as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TRIALS", kernels._TRIALS[:4])
    monkeypatch.setattr(kernels, "_int_mm", lambda a, b: (a.float() @ b.float()).to(torch.int32) ^ 1)
    found = kernels.kernel("cpu")
    assert (found.name, len(found.refused)) == ("triton", 1)
    assert found.refused[0].startswith("int-mm: wrong numbers")


def test_without_triton_the_reason_is_named(as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_obstacle", lambda _: "Triton is not installed")
    monkeypatch.setattr(ways, "_TRIED", ways._TRIED[3:4])
    found = exact_ways(CPU)
    assert list(found.by_name) == ["unrolled-int-mm"] or list(found.by_name) == ["unrolled-float32"]
    assert [text for text in found.refused if text.endswith("Triton is not installed")]


def test_padding_by_nothing_copies_nothing() -> None:
    matrix = torch.ones(24, 16, dtype=torch.int8)
    assert kernels._grown(matrix, 24, 16).data_ptr() == matrix.data_ptr()
    assert kernels._grown(matrix, 32, 16).shape == (32, 16)


@pytest.mark.parametrize("way", [pytest.param("triton-32x64", marks=pytest.mark.slow), "unrolled"])
def test_sums_longer_than_an_accumulator_holds_wrap_as_the_reference(as_gpu: None, way: str) -> None:
    geometry = Geometry(kind="linear", in_channels=kernels.MOST_INNER + 500, out_channels=2)
    codes = torch.full(geometry.weight_shape, -128, dtype=torch.int8)
    x = torch.full((1, geometry.in_channels), -128, dtype=torch.int32)
    call = ways._unrolled if way == "unrolled" else partial(ways._twin, way)
    layer = Layer("long", codes, geometry, CPU, {way: call})
    assert layer(byte_planes(x, 1)).tolist() == [[geometry.in_channels * 2**14 - 2**32] * 2]
    assert torch.equal(layer(byte_planes(x, 1), 1), ring_product(x, codes, geometry, 1))
