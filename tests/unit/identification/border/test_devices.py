"""Ranks on devices: each brings a platform of its own, CPU or GPU, and over NCCL a GPU that is nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.nets import trained_digits

from holdfast.data import dataset
from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.identification.border import BorderSet, EmulatedSetting, Lattice, Ranks, Service, joined
from holdfast.identification.border.distributed import _Named, _platform_of
from holdfast.identification.border.meeting import require_own_gpu
from holdfast.identification.border.oracle import Local
from holdfast.identification.border.setting import setting_on
from holdfast.identification.settings import platform_of
from holdfast.models import save

HOLDFAST = (sys.executable, "-c", "import sys; from holdfast.cli import main; sys.exit(main(sys.argv[1:]))")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def typed(folder: Path, ranks: list[list[str]], backend: str = "gloo") -> list[subprocess.CompletedProcess]:
    """What ``holdfast border`` ends with on each of these ranks, as typed at a prompt."""
    save(trained_digits(), folder / "model")
    call = ["border", str(folder / "model"), "--data", "digits", "--batch", "1", "--timeout", "120"]
    call += ["--world-size", str(len(ranks)), "--rendezvous", f"file://{folder}/meet", "-o", str(folder / "out")]
    processes = [
        subprocess.Popen(
            [*HOLDFAST, *call, "--backend", backend, "--rank", str(rank), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, options in enumerate(ranks)
    ]
    said = [item.communicate(timeout=280) for item in processes]
    return [subprocess.CompletedProcess(p.args, p.returncode, *words) for p, words in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_two_ranks_of_one_cpu_with_other_knobs_find_an_input_that_holds(tmp_path: Path) -> None:
    ranks = [["--platform", "default", "--device", "cpu"], ["--platform", "bf16-channels-last", "--device", "cpu"]]
    ended = typed(tmp_path, ranks)
    assert [item.returncode for item in ended] == [0, 0], [item.stderr[-500:] for item in ended]
    assert "rank 1 has answered for bf16-channels-last" in ended[1].stderr
    (item,) = BorderSet.load(tmp_path / "out").inputs
    assert list(item.labels) == ["default@0", "bf16-channels-last@1"]
    assert len(set(item.labels.values())) == 2
    again = subprocess.run(
        [*HOLDFAST, "border", str(tmp_path / "model"), "--check", str(tmp_path / "out"), "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True, timeout=280,
    )  # fmt: skip
    assert json.loads(again.stdout)["changed"] == 0


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_and_a_gpu_of_one_machine_meet_over_gloo(tmp_path: Path) -> None:
    ranks = [["--platform", "default"], ["--platform", "bf16", "--device", "cuda"]]
    ended = typed(tmp_path, ranks)
    assert [item.returncode for item in ended] == [0, 0], [item.stderr[-500:] for item in ended]
    (item,) = BorderSet.load(tmp_path / "out").inputs
    assert list(item.labels) == ["default@0", "cuda-bf16@1"]
    assert len(set(item.labels.values())) == 2


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_ranks_on_one_gpu_are_refused_by_nccl_and_share_it_over_gloo(tmp_path: Path) -> None:
    ranks = [["--platform", "default", "--device", "cuda:0"], ["--platform", "bf16", "--device", "cuda:0"]]
    for item in typed(tmp_path, ranks, "nccl"):
        assert item.returncode == 3, item.stderr[-500:]
        assert "ranks 0 and 1 have one GPU" in item.stderr
    (tmp_path / "meet").unlink(missing_ok=True)
    ended = typed(tmp_path, ranks)
    assert [item.returncode for item in ended] == [0, 0], [item.stderr[-500:] for item in ended]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a GPU for each rank")
def test_two_gpus_of_one_machine_meet_over_nccl(tmp_path: Path) -> None:
    ranks = [["--platform", "default", "--device", "cuda:0"], ["--platform", "bf16", "--device", "cuda:1"]]
    ended = typed(tmp_path, ranks, "nccl")
    assert [item.returncode for item in ended] == [0, 0], [item.stderr[-500:] for item in ended]
    (item,) = BorderSet.load(tmp_path / "out").inputs
    assert list(item.labels) == ["cuda@0", "cuda-bf16@1"]


def told(identities: list[str]) -> list[BaseException | None]:
    """What each rank ends with when it tells the others its GPU."""
    store, ended = dist.HashStore(), list[BaseException | None]([None] * len(identities))

    def tell(rank: int) -> None:
        try:
            require_own_gpu(store, rank, len(identities), identities[rank])
        except MissingDevice as error:
            ended[rank] = error

    threads = [threading.Thread(target=tell, args=(rank,)) for rank in range(len(identities))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return ended


def test_ranks_that_have_one_gpu_are_named_on_every_rank_before_nccl_starts() -> None:
    ended = told(["NVIDIA H200 uuid-1", "NVIDIA H200 uuid-2", "NVIDIA H200 uuid-1"])
    assert all(isinstance(error, MissingDevice) for error in ended)
    assert {str(error) for error in ended} == {
        "ranks 0 and 2 have one GPU, NVIDIA H200 uuid-1, and NCCL needs one for each rank"
    }
    assert "--device cuda:1" in ended[0].hint  # type: ignore[union-attr]


def test_ranks_with_a_gpu_each_go_on() -> None:
    assert told(["NVIDIA H200 uuid-1", "NVIDIA H200 uuid-2"]) == [None, None]


def meet(platform: object, **options: object) -> None:
    ranks = Ranks(rank=0, world_size=2, rendezvous="tcp://127.0.0.1:1", timeout=5.0, **options)  # type: ignore[arg-type]
    with joined(ranks, trained_digits(steps=1), platform, Lattice.of(dataset("digits"))):  # type: ignore[arg-type]
        pass


@NO_GPU
def test_a_rank_without_its_device_says_so_before_anyone_waits() -> None:
    for platform, device in (("default", "cuda"), ("bf16", "cuda:1"), ("cuda-tf32", None)):
        with pytest.raises(MissingDevice, match="no GPU"):
            meet(platform, device=device)


def test_a_platform_of_another_device_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="onednn-off is a platform of the CPU, not of cuda"):
        meet("onednn-off", device="cuda")
    with pytest.raises(InvalidConfig, match="cuda-tf32 is a platform of a GPU, not of cpu"):
        meet("cuda-tf32", device="cpu")
    with pytest.raises(InvalidConfig, match="is computed on the CPU"):
        meet("int8-dynamic", device="cuda")
    with pytest.raises(InvalidConfig, match="NCCL runs between GPUs"):
        meet("default", device="cpu", backend="nccl")
    assert isinstance(setting_on("int8-dynamic", "cpu"), str | EmulatedSetting)


def test_a_function_that_answers_is_where_it_is() -> None:
    service = Service("far", lambda inputs: inputs.flatten(1), Lattice.of(dataset("digits")))
    assert setting_on(service, "cuda") is service


def test_a_rank_describes_the_knobs_that_it_answers_under() -> None:
    setting, lattice = platform_of("bf16-channels-last"), Lattice.of(dataset("digits"))
    found = _platform_of(_Named(Local(trained_digits(steps=1), setting, lattice), "x@1"))
    assert found["set"] == {"dtype": "bfloat16", "channels_last": "True"}
    off = _platform_of(_Named(Local(trained_digits(steps=1), platform_of("onednn-off"), lattice), "x@1"))
    assert (off["modes"]["onednn"], off["setting"]) == ("False", "onednn-off")
