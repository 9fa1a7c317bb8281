"""Platforms of a GPU in a library: the GPU is the machine, what it lacks is skipped, and older libraries still read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from holdfast.errors import Unavailable
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, LocalPlatform
from holdfast.identification.library import Library
from holdfast.identification.library import machine as machine_module
from holdfast.identification.library import sweep as module
from holdfast.identification.library.machine import machine_here, machine_of
from holdfast.identification.library.sweep import chosen_platforms, sweep
from holdfast.identification.platforms.process import Case
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.probe_nets import probe_inputs, probe_net

OLD = Path(__file__).parents[3] / "vectors" / "platform-library" / "v1"


def cases(*names: str) -> list[Case]:
    return [Case(name, probe_net(name), probe_inputs(4)) for name in names or ("mlp", "transformer")]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An H200 on which each setting gives the bits of the CPU's setting of that name; returns what was run.

    TF32 is stood in for by another format. There is no kernel of flash attention.
    """
    ran: list[str] = []

    def there(platform: LocalPlatform, given: Sequence[Case]) -> dict[str, Trace | Unavailable]:
        ran.append(platform.name)
        twin = {"cuda": "default", "cuda-tf32": "matmul-medium"}.get(platform.name, platform.name.removeprefix("cuda-"))
        found: dict[str, Trace | Unavailable] = {
            case.name: trace_here(LOCAL_PLATFORMS[twin], case.model, case.probes) for case in given
        }
        if platform.attention == "flash" and "transformer" in found:
            found["transformer"] = Unavailable("No available kernel. Aborting execution.")
        return found

    chip = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: chip)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: chip.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(machine_module, "gpu_versions", lambda: {"driver": "570.133.20", "cudnn": "91002"})
    monkeypatch.setattr(module, "traces_in_own_process", there)
    return ran


def test_settings_of_a_gpu_fall_into_classes(gpu: list[str], tmp_path: Path) -> None:
    names = ("cuda", "cuda-gradients", "cuda-batch-1", "cuda-tf32", "cuda-bf16", "cuda-sdpa-math")
    library = Library()
    assert set(sweep(library, cases(), chosen_platforms(names)).ran) == set(names) == set(gpu)
    library.save(tmp_path)
    found = Library.load(tmp_path)
    classes = {item.labels for item in found.classes()}
    assert ("cuda", "cuda-gradients") in classes
    assert len(classes) == 5
    assert sweep(found, cases(), chosen_platforms(names)).kept == tuple(item.name for item in chosen_platforms(names))


def test_the_machine_is_the_gpu_and_not_the_processor_beside_it(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of(LOCAL_PLATFORMS["cuda-tf32"])
    assert machine.processor == "NVIDIA H200"
    assert machine.features == ("compute capability 9.0", "132 multiprocessors")
    assert machine.versions["torch"] == machine_here("torch").versions["torch"]
    assert (machine.versions["driver"], machine.versions["cudnn"]) == ("570.133.20", "91002")
    assert machine_of(LOCAL_PLATFORMS["batch-1"]) == machine_here("torch")
    monkeypatch.setattr(machine_module, "gpu_versions", lambda: {"driver": "580.1", "cudnn": "91002"})
    assert machine_of(LOCAL_PLATFORMS["cuda-tf32"]).name != machine.name


def test_a_backend_without_a_kernel_is_skipped_on_nets_without_attention_too(gpu: list[str]) -> None:
    """They answer as if nothing had been asked, and would make one class of two that only attention tells apart."""
    library = Library()
    swept = sweep(library, cases(), chosen_platforms(["cuda", "cuda-sdpa-math", "cuda-sdpa-flash"]))
    assert swept.skipped == ("cuda-sdpa-flash",)
    assert {item.platform: item.reason for item in library.skipped} == {
        "cuda-sdpa-flash": "No available kernel. Aborting execution."
    }
    assert [item.labels for item in library.classes()] == [("cuda",), ("cuda-sdpa-math",)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_its_settings_are_skipped_with_the_reason_and_no_process_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    monkeypatch.setattr(module, "traces_in_own_process", lambda platform, given: started.append(platform.name) or {})
    library, wanted = Library(), chosen_platforms(["cuda*"])
    swept = sweep(library, cases(), wanted)
    assert not started
    assert set(swept.skipped) == {item.name for item in wanted} == {item.platform for item in library.skipped}
    assert len({item.reason for item in library.skipped}) == 1
    assert "GPU" in library.skipped[0].reason
    assert library.skipped[0].machine == machine_here("torch").name


def test_a_library_from_before_gpus_reads_and_takes_one_in(gpu: list[str], tmp_path: Path) -> None:
    """Its bytes were written by the version that swept no GPU, and what that one had skipped stays told."""
    old = Library.load(OLD)
    assert set(old.labels().values()) == {"default", "batch-1"}
    before = [item.labels for item in old.classes()]
    assert before == [("batch-1",), ("default",)]
    sweep(old, cases("mlp"), chosen_platforms(["cuda-bf16"]))
    old.save(tmp_path)
    again = Library.load(tmp_path)
    assert [item.labels for item in again.classes()] == [("batch-1",), ("cuda-bf16",), ("default",)]
    assert len(again.machines) == 2
