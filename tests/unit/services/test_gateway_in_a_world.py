"""The whole of it: the command in a process world, its worker outside, a client that trusts neither host nor worker."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
import holdfast
from holdfast.data import dataset
from holdfast.errors import MissingDevice, PolicyError
from holdfast.models import build_architecture
from holdfast.services.gateway import forwarding
from holdfast.shielding.attestation import Policy
from holdfast.shielding.gateway import dial_gateway
from holdfast.shielding.graph import export
from holdfast.shielding.worlds import Launch, ProcessWorld
from holdfast.shielding.worlds.process import USER, require_host

ARGUMENTS = ("serve", "gateway", "digits-cnn", "--data", "digits", "--worker", "unix:/shared/worker.sock")
ARGUMENTS += ("--http", "unix:/shared/health.sock", "--attested", "unix:/shared/gateway.sock")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """The folder that both sides see, with a worker that listens there."""
    try:
        require_host()
    except MissingDevice as error:
        pytest.skip(f"{error}; {error.hint}")
    folder = tmp_path / "shared"
    folder.mkdir()
    command = [sys.executable, "-m", "holdfast.services.worker", "--socket", str(folder / "worker.sock")]
    worker = subprocess.Popen([*command, "--parent", str(os.getpid())])
    while not (folder / "worker.sock").exists():
        assert worker.poll() is None
        time.sleep(0.05)
    os.chown(folder / "worker.sock", USER, -1)  # the launcher lets the world through the worker's door
    yield folder
    worker.kill()
    worker.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_client_reaches_the_gateway_in_its_world_and_no_other(tmp_path: Path, shared: Path) -> None:
    place = tmp_path / "code" / "holdfast"
    shutil.copytree(Path(holdfast.__file__).parent, place, ignore=shutil.ignore_patterns("__pycache__"))
    launch = Launch(
        module="holdfast.cli",
        arguments=ARGUMENTS,
        measured={"code": place.parent},
        libraries={"packages": Path(torch.__file__).parents[1]},
        path=("code", "packages"),
        shared=shared,
    )
    with ExitStack() as stack:
        world = ProcessWorld(launch)
        stack.callback(world.close)
        world.start()
        policy = Policy(kind="tpm2", measurements=world.measure().demands(), keys=(world.key_name,))
        process = world.run()
        train, inputs = dataset("digits", split="train").take(128), dataset("digits", split="test").take(8).all()[0]
        model = export(build_architecture("digits-cnn", seed=0).eval(), train.batch(torch.tensor([0]))[0], train)
        wait_for(shared / "gateway.sock", process)
        address = stack.enter_context(forwarding("127.0.0.1:0", shared / "gateway.sock"))
        with dial_gateway(address, policy, at=datetime.now(UTC)) as caller:
            assert caller.claims.measurements["event.config"] == policy.measurements["event.config"][0]
            assert torch.equal(caller(inputs), model(inputs))
        others = dict(policy.measurements) | {"event.config": ("00" * 32,)}
        with pytest.raises(PolicyError, match=r"measurement event\.config"):
            dial_gateway(address, dataclasses.replace(policy, measurements=others), at=datetime.now(UTC))
