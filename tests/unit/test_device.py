"""The one place that reads names of devices: what each means, and which of two mistakes a wrong one is."""

from __future__ import annotations

import pytest
import torch

from holdfast import _device
from holdfast._device import absence, device_named, known_device
from holdfast.errors import InvalidConfig, MissingDevice


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that sees two GPUs, none of which starts."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    "name", ["", "gpu", "tpu", "meta", "mps", "CPU", " cpu", "cpu\n", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "cuda:01",
             "cuda:" + "9" * 30, "cuda:1,cuda:2"]
)  # fmt: skip
def test_a_name_that_means_nothing_is_a_mistake_of_the_caller(name: str) -> None:
    for read in (known_device, device_named):
        with pytest.raises(InvalidConfig) as caught:
            read(name)
        assert f"there is no device {name!r}" in str(caught.value)
        assert "cuda:1 for the second GPU" in caught.value.hint


@pytest.mark.parametrize("other", [torch.device("cpu"), None, 0])
def test_what_is_no_name_is_a_mistake_of_the_caller_too(other: object) -> None:
    for read in (known_device, device_named):
        with pytest.raises(InvalidConfig, match="there is no device"):
            read(other)  # type: ignore[arg-type]


def test_the_cpu_is_always_here() -> None:
    for name in ("cpu", "cpu:0"):
        assert device_named(name, start=True) == known_device(name) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_has_its_index_and_is_only_counted() -> None:
    assert device_named("cuda") == device_named("cuda:0") == torch.device("cuda", 0)
    assert device_named("cuda:1") == torch.device("cuda", 1)
    assert known_device("cuda").index is None  # whichever is current where it is used
    assert known_device("cuda:7") == torch.device("cuda", 7)


@pytest.mark.usefixtures("two_gpus")
def test_the_gpu_that_is_current_is_meant_by_its_bare_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device_named("cuda") == torch.device("cuda", 1)


@pytest.mark.usefixtures("two_gpus")
def test_an_absent_gpu_is_told_with_those_that_are_here() -> None:
    assert absence(torch.device("cuda", 1)) is None
    assert absence(torch.device("cuda", 2)) == "this process sees only cuda:0, cuda:1"
    with pytest.raises(
        MissingDevice, match=r"^there is no device 'cuda:2' here: this process sees only cuda:0, cuda:1$"
    ):
        device_named("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("built", "reason", "hint"),
    [
        (None, "this build of torch computes on no GPU", "another build of torch"),
        ("13.0", "this machine has no GPU that torch can use", "nvidia-smi"),
    ],
)
def test_where_no_gpu_is_the_hint_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, built: str | None, reason: str, hint: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(MissingDevice, match=f"there is no device 'cuda' here: {reason}") as caught:
        device_named("cuda")
    assert hint in caught.value.hint


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_does_not_start_is_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: all devices are busy\nand much more")

    monkeypatch.setattr(_device.torch, "empty", refuse)
    with pytest.raises(MissingDevice, match=r"'cuda:1' here that starts: CUDA error: all devices are busy$"):
        device_named("cuda:1", start=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_counting_gpus_starts_none_and_a_started_one_computes() -> None:
    started = torch.cuda.is_initialized()
    device = device_named("cuda")
    assert torch.cuda.is_initialized() == started
    assert device_named("cuda", start=True) == device == torch.empty(0, device="cuda").device
