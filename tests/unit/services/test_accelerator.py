"""A worker's device: parts of a question that overlap, memory that runs out, a device that fails."""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.errors import InvalidConfig, MissingDevice, StorageError, WorkerUnreachable
from holdfast.seeds import Entropy, derive
from holdfast.services import accelerator, device, worker
from holdfast.services.accelerator import Accelerator
from holdfast.services.lanes import OneLane
from holdfast.services.worker import Worker
from holdfast.shielding import Freivalds, Session
from holdfast.shielding.product import Geometry, planes_product
from holdfast.shielding.transport import Connection, Frame, Kind, SpawnedWorker, spawn
from holdfast.shielding.ways import Layer
from tests.unit.shielding.devices import taken_for_a_gpu
from tests.unit.shielding.nets import images, integer_net

CPU = torch.device("cpu")
CONV = Geometry(kind="conv2d", out_channels=6, in_channels=3, kernel=(3, 3), padding=(1, 1, 1, 1))
SAMPLE = (3, 8, 8)


def draw(batch: int, planes: int = 2) -> tuple[Tensor, Tensor]:
    generator = derive(1, "accelerator").torch()
    shapes = (planes, batch, *SAMPLE), CONV.weight_shape
    message, codes = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in shapes)
    return message, codes


class Recorded(OneLane):
    """Lanes that write down what they are asked, as a stream would take it down, and do it only when waited for."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.asked: list[str] = []
        self._later: list[Callable[[], object]] = []

    def bring(self, part: Tensor) -> Tensor:
        self.asked.append(f"in {part.shape[1]}")
        return super().bring(part).clone()  # the host may reuse its memory from here on

    def compute(self, product: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        self.asked.append("through")
        return super().compute(product, part)

    def fetch(self, made: Tensor, room: Tensor | None) -> Tensor:
        self.asked.append(f"out {len(made)}")
        room = torch.empty_like(made) if room is None else room
        self._later.append(lambda: room.copy_(made))
        return room

    def finish(self) -> None:
        self.asked.append("wait")
        for copy in self._later:
            copy()
        self._later.clear()


def test_parts_go_in_while_others_are_computed_and_the_host_waits_once() -> None:
    message, codes = draw(7)
    recorded = Recorded()
    engine = Accelerator(CPU, lanes=recorded, part=3 * message[:, :1].numel())
    engine.load("conv", CONV, codes)
    assert torch.equal(engine.multiply("conv", message), planes_product(message, codes, CONV))
    step = ["in 3", "through", "out 3"]
    assert recorded.asked == [*step, *step, "in 1", "through", "out 1", "wait"]
    recorded.asked.clear()
    assert torch.equal(engine.multiply("conv", message[:, :3]), planes_product(message[:, :3], codes, CONV))
    assert recorded.asked == [*step, "wait"]  # one part has nothing to overlap with


@pytest.mark.parametrize("part", [None, 1, 10**9])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_however_it_is_cut_it_is_the_reference(part: int | None, batch: int) -> None:
    message, codes = draw(batch)
    engine = Accelerator(CPU, part=part)
    engine.load("conv", CONV, codes, sample=SAMPLE, planes=2)
    answer = engine.multiply("conv", message)
    assert answer.dtype == torch.int32
    assert torch.equal(answer, planes_product(message, codes, CONV))


def test_an_answer_is_not_overwritten_by_the_next() -> None:
    message, codes = draw(2)
    engine = Accelerator(CPU)
    engine.load("conv", CONV, codes)
    first = engine.multiply("conv", message)
    kept = first.clone()
    engine.multiply("conv", message.neg())
    assert torch.equal(first, kept)


def small(most: int, calls: list[int]) -> Callable[[Layer, Tensor, int], Tensor]:
    """Return a product for a device whose memory holds ``most`` samples."""
    from holdfast.shielding import ways

    def multiply(layer: Layer, planes: Tensor, ring: int) -> Tensor:
        calls.append(planes.shape[1])
        if planes.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return ways._reference(layer, planes, ring)

    return multiply


def test_without_memory_half_of_the_samples_go_at_a_time_and_that_is_remembered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message, codes = draw(9)
    calls: list[int] = []
    engine = Accelerator(CPU)
    engine.load("conv", CONV, codes)
    engine._layers["conv"]._ways = {"small": small(3, calls)}
    wanted = planes_product(message, codes, CONV)
    assert torch.equal(engine.multiply("conv", message), wanted)
    assert calls == [9, 5, 3, 3, 3]
    assert "cpu has no memory for layer 'conv': 5 samples at a time" in caplog.text
    assert "3 samples at a time" in caplog.text
    calls.clear()
    assert torch.equal(engine.multiply("conv", message[:, :4]), wanted[:4])
    assert calls == [3, 1]


def test_without_memory_for_one_sample_or_for_weights_there_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message, codes = draw(4)
    engine = Accelerator(CPU)
    engine.load("conv", CONV, codes)
    engine._layers["conv"]._ways = {"small": small(0, [])}
    with pytest.raises(StorageError, match="cpu has no memory for one sample of layer 'conv'"):
        engine.multiply("conv", message)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(accelerator, "Layer", full)
    with pytest.raises(StorageError, match="no memory for the weights of layer 'other'"):
        engine.load("other", CONV, codes)


def broken(layer: Layer, planes: Tensor, ring: int) -> Tensor:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")


def talk(served: Worker, kind: type[BaseException] | None = None) -> tuple[Connection, threading.Thread, list[object]]:
    """Serve one session in a thread; return the other end, the thread, and what it ended with."""
    here, there = socket.socketpair()
    ended: list[object] = []

    def run() -> None:
        try:
            served.serve(Connection(there, timeout=20, peer="the session"))
        except MissingDevice as error:
            ended.append(error)
        there.close()

    thread = threading.Thread(target=run)
    thread.start()
    return Connection(here, timeout=20, peer="the worker"), thread, ended


@pytest.mark.parametrize(
    ("way", "message", "ends"),
    [
        (broken, "cpu failed while it multiplied: CUDA error: an illegal memory access", True),
        (small(0, []), "cpu has no memory for one sample of layer", False),
    ],
)
def test_a_session_hears_once_why_and_only_a_device_that_failed_ends_the_worker(
    way: Callable[[Layer, Tensor, int], Tensor], message: str, ends: bool
) -> None:
    model, engine = integer_net(), Accelerator(CPU)
    channel, thread, ended = talk(Worker(accelerator=engine))
    session = Session(model, channel, check=Freivalds(), entropy=Entropy())
    for layer in engine._layers.values():
        layer._ways = {"way": way}
    with pytest.raises(WorkerUnreachable, match=f"the worker refused: {message}"):
        session(images(2))
    assert session.closed
    thread.join(20)
    assert [type(error) for error in ended] == [MissingDevice] * ends


def test_a_device_that_fails_ends_the_process_with_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, ended = tmp_path / "w.sock", []
    monkeypatch.setattr(worker, "end_when_terminated", lambda: None)
    monkeypatch.setattr(worker, "renounce", lambda: None)

    def run() -> None:
        ended.append(worker.main(["--socket", str(path)]))

    thread = threading.Thread(target=run)
    thread.start()
    while not path.exists():
        assert thread.is_alive()
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while stream.connect_ex(str(path)):
        assert thread.is_alive()
    session = Session(integer_net(), Connection(stream, timeout=20, peer="w"), check=Freivalds(), entropy=Entropy())
    monkeypatch.setattr(Layer, "__call__", lambda self, planes, ring=4: broken(self, planes, ring))
    with pytest.raises(WorkerUnreachable, match="cpu failed while it multiplied"):
        session(images(1))
    thread.join(20)
    assert ended == [MissingDevice.exit_code]
    assert not path.exists()
    said = capsys.readouterr().err
    assert "error: cpu failed while it multiplied" in said
    assert "start it again" in said


def test_a_worker_for_other_machines_stops_as_well() -> None:
    from holdfast.services.remote import Switchboard
    from holdfast.shielding.transport.wire import encode, parsed

    engine, stopped = Accelerator(CPU), []
    board = Switchboard(lambda: Worker(accelerator=engine))
    board.on_failure = lambda: stopped.append(board.failure)

    def ask(kind: Kind, header: dict[str, object], body: Tensor | None = None) -> Frame:
        raw = b"".join(encode(Frame(kind, {"nonce": "n", "layer": "conv", **header}, body)))
        return parsed(board.answer(raw), "w")

    message, codes = draw(1)
    ask(Kind.HELLO, {})
    loaded = ask(Kind.LOAD, {"geometry": CONV.to_json(), "sample": list(SAMPLE), "planes": 2}, codes)
    assert loaded.kind is Kind.LOADED
    assert ask(Kind.RUN, {"sequence": 1}, message).kind is Kind.RESULT
    assert board.failure is None
    engine._layers["conv"]._ways = {"broken": broken}
    answer = ask(Kind.RUN, {"sequence": 2}, message)
    assert (answer.kind, len(stopped)) == (Kind.ERROR, 1)
    assert isinstance(board.failure, MissingDevice)


def test_samples_that_are_announced_are_judged_first() -> None:
    served = Worker()
    served.answer(Frame(Kind.HELLO, {"nonce": "n"}))
    codes = draw(1)[1]
    for sample in ([3, 8], [3, 8, -1], [3, 8, 8.0], [3, 2**15, 2**15], "3x8x8", [True, 8, 8], [4, 8, 8]):
        header = {"nonce": "n", "layer": "a", "geometry": CONV.to_json(), "sample": sample, "planes": 4}
        with pytest.raises(InvalidConfig):
            served.answer(Frame(Kind.LOAD, header, codes))
    with pytest.raises(InvalidConfig, match="1 to 4 bytes"):
        served.answer(Frame(Kind.LOAD, header | {"sample": [3, 8, 8], "planes": 5}, codes))


def test_memory_is_limited_only_where_a_device_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match="no memory of its own"), device.prepared("cpu", memory=2**30):
        pass
    asked: list[tuple[float, object]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("", (), {"total_memory": 1000}))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: asked.append(a))
    gpu = torch.device("cuda", 0)
    device.limit_memory(gpu, 250)
    device.limit_memory(gpu, 5000)
    assert asked == [(0.25, gpu), (1.0, gpu)]
    with pytest.raises(InvalidConfig, match="number of bytes"):
        device.limit_memory(gpu, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a device")
def test_a_device_that_is_not_there_is_named() -> None:
    for name, wrong in (("cuda", MissingDevice), ("cuda:3", MissingDevice), ("abacus", InvalidConfig)):
        with pytest.raises(wrong, match=f"no device '{name}'"), device.prepared(name):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_compiled_kernels_are_kept_where_only_the_worker_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spawn.KERNEL_FOLDER, raising=False)
    monkeypatch.setattr(devices, "KINDS", ["cpu"])
    monkeypatch.setattr(device, "exact_ways", lambda _: None)
    nobody = pwd.getpwnam("nobody").pw_uid
    with device.prepared("cpu", user="nobody") as hand_over:
        folder = Path(os.environ[spawn.KERNEL_FOLDER])
        (folder / "one").mkdir()
        (folder / "one" / "kernel.cubin").write_bytes(b"compiled by root")
        hand_over()
        assert folder.stat().st_mode & 0o077 == 0
        assert {path.stat().st_uid for path in (folder, *folder.rglob("*"))} == {nobody}
    assert not folder.exists()
    assert spawn.KERNEL_FOLDER not in os.environ
    monkeypatch.setenv(spawn.KERNEL_FOLDER, "/somewhere/else")
    with device.prepared("cpu", user="nobody"):
        assert os.environ[spawn.KERNEL_FOLDER] == "/somewhere/else"
    with pytest.raises(InvalidConfig, match="no user 'no-such-user'"):
        spawn.kernel_folder("no-such-user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_spawned_worker_s_kernels_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spawn.KERNEL_FOLDER, raising=False)
    made: list[Path] = []
    monkeypatch.setattr(spawn, "kernel_folder", lambda user: made.append(_folder(user)) or made[-1])
    owner = SpawnedWorker(("--device", "cpu"))
    try:
        assert f"{spawn.KERNEL_FOLDER}={made[0]}" in _environment(owner.process.pid)
    finally:
        owner.close()
    assert not made[0].exists()


_folder = spawn.kernel_folder


def _environment(process: int) -> list[str]:
    """Return what a new program was given; for a moment after it was started, the kernel shows nothing yet."""
    end = time.monotonic() + 10
    while not (found := Path(f"/proc/{process}/environ").read_bytes()) and time.monotonic() < end:
        time.sleep(0.01)
    return found.decode().split("\0")


def test_a_worker_says_which_way_each_layer_takes(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    logger = logging.getLogger("holdfast")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    try:
        worker.speak()
        worker.speak()
        assert len(logger.handlers) == 1
        logging.getLogger("holdfast.shielding.ways").info("layer %r takes %s", "fc", "int-mm")
        assert capsys.readouterr().err == "INFO: layer 'fc' takes int-mm\n"
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_a_session_over_the_twin_s_products_is_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that runs on a GPU but the streams: the kernels in the interpreter, in parts of one sample."""
    model = integer_net()
    with taken_for_a_gpu(monkeypatch):
        engine = Accelerator(CPU, part=1)
        engine._ways = replace(engine._ways, by_name={"triton-32x64": engine._ways.by_name["triton-32x64"]})
        channel, thread, ended = talk(Worker(accelerator=engine))
        with Session(model, channel, check=Freivalds(), entropy=Entropy()) as session:
            assert torch.equal(session(images(2)), model(images(2)))
            assert session.kernels["worker"] == "triton-32x64"
        thread.join(20)
    assert ended == []
