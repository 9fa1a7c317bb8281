"""One running world for the tests that only look at it; they skip where this machine can hold none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import MissingDevice
from holdfast.shielding.worlds import Launch, ProcessWorld
from holdfast.shielding.worlds.process import require_host
from holdfast.shielding.worlds.software_tpm import require_tools

PROBE = Path(__file__).with_name("probe.py")


@pytest.fixture(scope="session")
def can_hold_worlds() -> None:
    """Skip with the reason where a process world cannot be."""
    try:
        require_host()
    except MissingDevice as error:
        pytest.skip(f"{error}; {error.hint}")


@pytest.fixture(scope="session")
def has_tpm_tools() -> None:
    """Skip with the reason where there is no software TPM."""
    try:
        require_tools()
    except MissingDevice as error:
        pytest.skip(f"{error}; {error.hint}")


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the probe."""
    folder = tmp_path_factory.mktemp("code") / "code"
    folder.mkdir()
    shutil.copy(PROBE, folder)
    return folder


@pytest.fixture(scope="session")
def world(can_hold_worlds: None, code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessWorld]:
    """A started world that runs the probe."""
    launch = Launch(module="probe", arguments=("given",), measured={"code": code}, path=("code",))
    world = ProcessWorld(launch, state=tmp_path_factory.mktemp("world") / "tpm")
    world.start()
    yield world
    world.close()
