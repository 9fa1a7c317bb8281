"""Ranks with other instruction sets find border inputs together; one that lies or falls silent is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.nets import trained_digits

from holdfast.data import dataset
from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.identification.border import Lattice, Ranks, joined
from holdfast.models import save

RANK = """
import json, sys, torch
torch.set_num_threads(1)
from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.identification.border import Lattice, Ranks, border, joined
from holdfast.models import load
rank, world, folder, mean = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
raw = dataset("digits")
data = Dataset("digits", raw.raw * 15, raw.labels, raw.classes, Preprocessing(1 / 240, (mean,), (0.5,)))
model = load(folder + "/model")
ranks = Ranks(rank=rank, world_size=world, rendezvous="file://" + folder + "/meet", timeout=60)
with joined(ranks, model, "default", Lattice.of(data), batch=8) as oracles:
    if oracles is not None:
        found = border(model, data, platforms=oracles, n=2, folder=folder + "/out")
        print(json.dumps([oracle.platform["capability"] for oracle in oracles[1:]]))
"""


def ranks_of(folder: Path, settings: list[dict[str, str]], means: list[float]) -> list[subprocess.CompletedProcess]:
    save(trained_digits(), folder / "model")
    script = folder / "rank.py"
    script.write_text(RANK)
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(len(settings)), str(folder), str(mean)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | setting,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (setting, mean) in enumerate(zip(settings, means, strict=True))
    ]
    return [
        subprocess.CompletedProcess(item.args, item.returncode, *said)
        for item, said in [(item, item.communicate(timeout=240)) for item in processes]
    ]


@pytest.mark.slow
def test_three_ranks_of_other_instruction_sets(tmp_path: Path) -> None:
    settings = [{}, {"ATEN_CPU_CAPABILITY": "default"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}]
    ended = ranks_of(tmp_path, settings, [0.5] * 3)
    assert [item.returncode for item in ended] == [0, 0, 0], [item.stderr[-500:] for item in ended]
    assert json.loads(ended[0].stdout.splitlines()[-1])[0] in ("DEFAULT", "NO AVX")
    written = json.loads((tmp_path / "out" / "border.json").read_text())["border"]
    assert len(written["inputs"]) == 2
    for item in written["inputs"]:
        assert [entry["platform"] for entry in item["platforms"]] == ["default@0", "default@1", "default@2"]
        assert item["platforms"][0]["label"] != item["platforms"][1]["label"]


@pytest.mark.slow
def test_a_rank_that_reads_images_in_another_way_is_named(tmp_path: Path) -> None:
    ended = ranks_of(tmp_path, [{}, {}], [0.5, 0.25])
    assert ended[0].returncode != 0
    assert "rank 1 has another preprocessing than rank 0" in ended[0].stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 2, "world_size": 2},
        {"rank": 0, "world_size": 1},
        {"rank": 0, "world_size": 2, "rendezvous": "localhost:80"},
        {"rank": 0, "world_size": 2, "backend": "mpi"},
        {"rank": 0, "world_size": 2, "timeout": 0.0},
    ],
)
def test_ranks_that_cannot_meet_are_refused(wrong) -> None:
    with pytest.raises(InvalidConfig):
        Ranks(**({"rendezvous": "tcp://127.0.0.1:1"} | wrong))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_nccl_without_a_gpu_is_refused_before_anyone_waits() -> None:
    ranks = Ranks(rank=0, world_size=2, rendezvous="tcp://127.0.0.1:1", backend="nccl")
    with (
        pytest.raises(MissingDevice, match="rank 0 has no GPU"),
        joined(ranks, trained_digits(steps=1), "default", Lattice.of(dataset("digits"))),
    ):
        pass
