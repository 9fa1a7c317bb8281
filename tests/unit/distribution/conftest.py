"""A real registry (Debian's docker-registry) over a folder of its own, so that tests can also spoil what it stores."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("oras", reason="the extra oci is not installed")

_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


@dataclass(frozen=True)
class LocalRegistry:
    host: str
    root: Path

    def blob(self, digest: str) -> Path:
        """Where the registry keeps the bytes of ``sha256:...``."""
        value = digest.removeprefix("sha256:")
        return self.root / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail("the local registry does not start")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    binary = shutil.which("docker-registry")
    if binary is None:
        pytest.skip("docker-registry is not installed")
    folder, port = tmp_path_factory.mktemp("registry"), _free_port()
    (folder / "config.yml").write_text(_CONFIG.format(root=folder / "data", port=port))
    process = subprocess.Popen([binary, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield LocalRegistry(f"127.0.0.1:{port}", folder / "data")
    finally:
        process.kill()
        process.wait()
