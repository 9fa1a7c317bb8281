"""On a CUDA device only: real sizes, streams that overlap, memory that is full, and a device that fails."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast.errors import MissingDevice, StorageError, WorkerUnreachable
from holdfast.seeds import derive
from holdfast.services.accelerator import Accelerator
from holdfast.shielding import shield
from holdfast.shielding.kernels import MOST_INNER
from holdfast.shielding.product import Geometry, byte_planes, planes_product, ring_product
from holdfast.shielding.ways import Layer, exact_ways
from tests.unit.services.test_worker import listens
from tests.unit.shielding.nets import images, integer_net

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)


def conv(taken: int, made: int, kernel: int, stride: int, margin: int) -> Geometry:
    return Geometry(
        kind="conv2d", in_channels=taken, out_channels=made, kernel=(kernel, kernel), stride=(stride, stride),
        padding=(margin,) * 4,
    )  # fmt: skip


SIZES = {
    "stem": (conv(3, 64, 7, 2, 3), (3, 224, 224)),
    "56": (conv(64, 64, 3, 1, 1), (64, 56, 56)),
    "28, strided": (conv(128, 256, 3, 2, 1), (128, 28, 28)),
    "7": (conv(512, 512, 3, 1, 1), (512, 7, 7)),
    "1x1": (conv(64, 128, 1, 2, 0), (64, 56, 56)),
    "vgg": (conv(64, 64, 3, 1, 1), (64, 112, 112)),
    "fc1": (Geometry(kind="linear", in_channels=25088, out_channels=4096), (25088,)),
    "mlp": (Geometry(kind="linear", in_channels=384, out_channels=1536), (197, 384)),
    "odd": (Geometry(kind="linear", in_channels=1001, out_channels=77), (3, 1001)),
}


def draw(geometry: Geometry, sample: tuple[int, ...], planes: int, batch: int) -> tuple[Tensor, Tensor]:
    generator = derive(8, "gpu", str(sample)).torch()
    shapes = (planes, batch, *sample), geometry.weight_shape
    message, codes = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in shapes)
    return message, codes


def test_the_twin_passes_and_nothing_is_refused() -> None:
    found = exact_ways(CUDA)
    assert list(found.by_name)[:2] == ["triton-64x128", "triton-32x64"]
    assert found.refused == ()


@pytest.mark.parametrize("planes", [1, 3, 4])
@pytest.mark.parametrize("name", SIZES)
def test_every_way_is_the_reference_at_real_sizes(name: str, planes: int) -> None:
    geometry, sample = SIZES[name]
    message, codes = draw(geometry, sample, planes, 2)
    wanted = planes_product(message, codes, geometry)
    for way, call in exact_ways(CUDA).by_name.items():
        layer = Layer(name, codes, geometry, CUDA, {way: call})
        for _ in range(3):  # shared sums are added up in another order each time, and are the same
            assert torch.equal(layer(message.to(CUDA)).cpu(), wanted), way


def test_sums_longer_than_an_accumulator_holds_wrap_as_the_reference() -> None:
    geometry = Geometry(kind="linear", in_channels=MOST_INNER + 5000, out_channels=3)
    x = torch.full((2, geometry.in_channels), -128, dtype=torch.int32)
    codes = torch.full(geometry.weight_shape, -128, dtype=torch.int8)
    for way, call in exact_ways(CUDA).by_name.items():
        made = Layer("long", codes, geometry, CUDA, {way: call})(byte_planes(x).to(CUDA))
        assert torch.equal(made.cpu(), ring_product(x, codes, geometry)), way


def test_streams_that_overlap_change_no_bit() -> None:
    geometry, sample = SIZES["56"]
    message, codes = draw(geometry, sample, 4, 17)
    engine = Accelerator(CUDA, part=2 * message[:, :1].numel())
    engine.load("conv", geometry, codes, sample=sample, planes=4)
    wanted = planes_product(message, codes, geometry)
    kept = []
    for turn in range(30):
        batch = 1 + turn % 17
        answer = engine.multiply("conv", message[:, :batch])
        assert answer.is_pinned()
        assert torch.equal(answer, wanted[:batch])
        kept.append((batch, answer))
    assert all(torch.equal(answer, wanted[:batch]) for batch, answer in kept)  # and none was overwritten


def test_memory_that_is_full_halves_the_parts_and_then_says_so(caplog: pytest.LogCaptureFixture) -> None:
    geometry, sample = SIZES["vgg"]
    message, codes = draw(geometry, sample, 4, 16)
    engine = Accelerator(CUDA, part=10**12)
    engine.load("conv", geometry, codes)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    held = torch.cuda.memory_reserved(CUDA)
    try:
        torch.cuda.set_per_process_memory_fraction((held + 150 * 2**20) / total, CUDA)
        assert torch.equal(engine.multiply("conv", message), planes_product(message, codes, geometry))
        assert "samples at a time" in caplog.text
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + 2**20) / total, CUDA)
        with pytest.raises(StorageError, match="no memory for one sample"):
            engine.multiply("conv", message)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)


def test_a_session_with_a_worker_on_the_gpu_is_the_model() -> None:
    model = integer_net()
    with shield(model, worker_options=("--device", "cuda"), timeout=300) as session:
        assert session.kernels["device"].startswith("cuda")
        for batch in (1, 7):
            assert torch.equal(session(images(batch)), model(images(batch)))


def test_the_quickest_way_is_measured_on_the_layer_s_own_shape(caplog: pytest.LogCaptureFixture) -> None:
    geometry, sample = SIZES["28, strided"]
    with caplog.at_level(logging.INFO):
        Accelerator(CUDA).load("conv", geometry, draw(geometry, sample, 1, 1)[1], sample=sample, planes=3)
    assert "layer 'conv', 3 planes of 1 samples: triton-64x128" in caplog.text


FAILS = """
import sys, torch
from holdfast.services import worker
from holdfast.shielding.ways import Layer
def broken(self, planes, ring=4):
    nowhere = torch.full((1,), 10**6, device=planes.device)
    return planes.flatten()[:4].int()[nowhere]  # an assertion of the device, noticed when somebody waits
served = worker.rehearse
worker.rehearse = lambda service: (served(service), setattr(Layer, "__call__", broken))
sys.exit(worker.main(["--socket", sys.argv[1], "--device", "cuda"]))
"""


def test_a_device_that_really_fails_ends_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    process = subprocess.Popen([sys.executable, "-c", FAILS, str(path)], stderr=subprocess.PIPE)
    while not listens(path, socket.SOCK_STREAM):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    with pytest.raises(WorkerUnreachable, match="failed while it multiplied"):
        shield(integer_net(), f"unix:{path}", timeout=120)  # already when it tries what layers will do
    said = process.communicate(timeout=60)[1]
    assert process.returncode == MissingDevice.exit_code
    assert b"error: cuda:0 failed while it multiplied" in said
