"""A shielded session in two worlds under two users: the trusted one is attested, the worker's is only a worker."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.shielding.attestation import Policy, bound, verify
from holdfast.shielding.worlds import Launch, ProcessWorld
from holdfast.shielding.worlds.process import USER

NONCE = bytes(range(32))
WORKER = USER + 1
TRUSTED = """
import hashlib, sys
import torch
import holdfast
from holdfast.shielding import int8_model
from holdfast.shielding.worlds import provisioned
torch.set_num_threads(1)
torch.manual_seed(int.from_bytes(provisioned("seed").view(), "big"))
net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
images = torch.rand(8, 1, 8, 8)
model = int8_model(net.eval(), images)
with holdfast.shield(model, worker="unix:/shared/worker.sock") as session:
    answer = session(images)
print(hashlib.sha256(answer.detach().numpy().tobytes()).hexdigest(), torch.equal(answer, model(images)), flush=True)
"""


@pytest.fixture
def worlds(can_hold_worlds: None, tmp_path: Path) -> Iterator[tuple[ProcessWorld, ProcessWorld, Path]]:
    package = Path(holdfast.__file__).parent
    shared, place = tmp_path / "shared", tmp_path / "code"
    shared.mkdir()
    shutil.copytree(package, place / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "trusted.py").write_text(TRUSTED)
    common = {
        "measured": {"code": place},
        "libraries": {"packages": Path(torch.__file__).parents[1]},
        "path": ("code", "packages"),
        "shared": shared,
    }
    with ExitStack() as stack:
        made = []
        for user, module, arguments in (
            (WORKER, "holdfast.services.worker", ("--socket", "/shared/worker.sock", "--once")),
            (USER, "trusted", ()),
        ):
            world = ProcessWorld(Launch(module=module, arguments=arguments, **common), user=user)
            stack.callback(world.close)
            world.start()
            made.append(world)
        yield made[0], made[1], shared


def _wait(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_shielded_session_runs_in_an_attested_world_with_a_worker_under_another_user(
    worlds: tuple[ProcessWorld, ProcessWorld, Path],
):
    worker, trusted, shared = worlds
    policy = Policy(kind="tpm2", measurements=trusted.measure().demands(), keys=(trusted.key_name,))
    verify(trusted.quote(NONCE), policy, nonce=bound(NONCE), at=datetime(2026, 6, 1, tzinfo=UTC))
    trusted.provision({"seed": b"\x05"})
    process = worker.run()
    _wait(shared / "worker.sock", process)
    assert (shared / "worker.sock").stat().st_uid == WORKER
    os.chown(shared / "worker.sock", USER, -1)  # the launcher lets the one it trusts through the worker's door
    out, err = trusted.run().communicate(timeout=120)
    digest, equal = out.split() or (b"", err)
    assert equal == b"True", err
    assert len(digest) == len(hashlib.sha256().hexdigest())
