"""A capture that breaks off leaves nothing behind: stream, memory and generator are what they were.

Stand-ins play what torch 2.11 does with CUDA: a capture that something broke off fails once more at its end, and then
neither the stream nor the allocator nor the generator leaves it.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from holdfast._kernels.capture import recorded

POOL, OURS, ITS = (0, 7), SimpleNamespace(device_index=0, name="ours"), SimpleNamespace(device_index=0, name="its")


class Generator:
    """Refuses draws while it believes that a capture is under way."""

    def __init__(self, capturing: bool = False) -> None:
        self.capturing = capturing

    def clone_state(self) -> Generator:
        return Generator()

    def graphsafe_set_state(self, other: Generator) -> None:
        self.capturing = other.capturing


class Device:
    """What torch keeps of a device."""

    def __init__(self) -> None:
        self.stream, self.pools, self.generator, self.broken = OURS, set[object](), Generator(), False
        self.replays = 0

    def set_stream(self, stream: SimpleNamespace) -> None:
        self.stream = stream

    def end(self, device: int, pool: object) -> None:
        if pool not in self.pools:
            raise RuntimeError("not recording to this pool")
        self.pools.remove(pool)

    def wait(self) -> None:
        """What a pass must not do."""
        self.broken = True
        raise RuntimeError("operation not permitted when stream is capturing")

    def replay(self) -> None:
        self.replays += 1


class Capture:
    """``torch.cuda.graph`` of 2.11."""

    def __init__(self, device: Device, pool: object) -> None:
        self.device, self.pool = device, pool

    def __enter__(self) -> None:
        self.device.stream, self.device.generator.capturing = ITS, True
        self.device.pools.add(self.pool)

    def __exit__(self, *_: object) -> None:
        if self.device.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.device.pools.remove(self.pool)
        self.device.generator.capturing, self.device.stream = False, OURS


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=found.replay))
    monkeypatch.setattr(torch.cuda, "graph", lambda _, pool, stream, capture_error_mode: Capture(found, pool))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: found.stream)
    monkeypatch.setattr(torch.cuda, "set_stream", found.set_stream)
    monkeypatch.setattr(torch.cuda, "default_generators", (found.generator,))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", found.end, raising=False)
    return found


def clean(device: Device) -> bool:
    return device.stream is OURS and not device.pools and not device.generator.capturing


def test_a_body_is_run_once_and_repeated_by_its_replay(played: Device) -> None:
    calls: list[object] = []
    replay = recorded(lambda: calls.append(played.stream))
    assert calls == [ITS]
    replay()
    assert (len(calls), played.replays) == (1, 1)
    assert clean(played)


def test_a_pass_that_waits_is_named_and_leaves_nothing_behind(played: Device) -> None:
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        recorded(played.wait)
    assert clean(played)


def test_an_error_that_the_end_of_the_capture_does_not_know_of_leaves_nothing_behind(played: Device) -> None:
    """Such as memory that runs out: torch ends the capture itself, and the allocator has nothing to end any more."""

    def full() -> None:
        raise torch.OutOfMemoryError("no memory left (played)")

    with pytest.raises(torch.OutOfMemoryError):
        recorded(full)
    assert clean(played)


def test_an_error_handled_meanwhile_is_not_taken_for_the_capture_s(played: Device) -> None:
    def broken() -> None:
        played.broken = True

    try:
        raise RuntimeError("out of memory, a while ago")
    except RuntimeError:
        with pytest.raises(RuntimeError, match="a previous error during capture"):
            recorded(broken)
    assert clean(played)
