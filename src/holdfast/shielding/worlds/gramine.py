"""The SGX world, through Gramine: for machines that have both. Elsewhere it says what is missing, and runs nothing.

An enclave speaks for itself. Quotes come from the code inside (:func:`enclave_quote`), secrets reach it through a
session bound to such a quote, and what it keeps lies in the encrypted folder ``/sealed``, whose key the processor
derives from MRENCLAVE. The host's side of this interface therefore measures, starts and runs, and refuses the rest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from holdfast._files import read_bytes
from holdfast.errors import MissingDevice, PolicyError, Unavailable
from holdfast.shielding.attestation import Evidence, bound
from holdfast.shielding.worlds.lint import lint
from holdfast.shielding.worlds.manifest import Enclave, manifest
from holdfast.shielding.worlds.measuring import Measurement
from holdfast.shielding.worlds.protocol import Launch, worlds

_TOOLS = ("gramine-manifest", "gramine-sgx-sign", "gramine-sgx")
_DEVICE = Path("/dev/sgx_enclave")
_ATTESTATION = Path("/dev/attestation")
_TIMEOUT = 600.0


@worlds.register("gramine")
class GramineWorld:
    """An enclave.

    Args:
        launch: what it runs.
        enclave: its size, versions and libraries.
        key: the RSA key that signs it, as ``gramine-sgx-gen-private-key`` makes one.

    Raises:
        MissingDevice: Gramine is not installed, or the machine has no SGX.
    """

    def __init__(self, launch: Launch, *, enclave: Enclave, key: Path) -> None:
        if missing := [name for name in _TOOLS if shutil.which(name) is None]:
            raise MissingDevice(f"no {missing[0]} here", hint="install Gramine, or use the process world")
        if not _DEVICE.exists():
            raise MissingDevice(f"no {_DEVICE} here", hint="SGX must be on in the firmware and the kernel")
        self._launch, self._enclave, self._key = launch, enclave, key
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-gramine-"))
        self._running: list[subprocess.Popen[bytes]] = []
        self._signed = False

    def measure(self) -> Measurement:
        """Return the digest of the manifest, which names every trusted file by its own; the quote states MRENCLAVE."""
        text = manifest(self._launch, self._enclave)
        return Measurement((("manifest", hashlib.sha256(text.encode()).digest()),))

    def start(self) -> None:
        """Render and sign the manifest.

        Raises:
            PolicyError: the linter finds a hole in it.
            Unavailable: a tool of Gramine fails.
        """
        text = manifest(self._launch, self._enclave)
        found = [item for item in lint(text) if item.rule not in ("home-path", "debug")]
        if found:
            raise PolicyError(f"the manifest has a hole, {found[0].rule}: {found[0].why}")
        (self._folder / "world.manifest.template").write_text(text)
        self._call("gramine-manifest", "world.manifest.template", "world.manifest")
        output = ("--manifest", "world.manifest", "--output", "world.manifest.sgx")
        self._call("gramine-sgx-sign", "--key", str(self._key.resolve()), *output)
        self._signed = True

    def _call(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self._folder, capture_output=True, timeout=_TIMEOUT, check=False)  # noqa: S603
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unavailable(f"{command[0]} failed: {words[-1] if words else 'no reason given'}")

    def run(self) -> subprocess.Popen[bytes]:
        """Run the module in the enclave; its standard streams are the host's."""
        if not self._signed:
            raise PolicyError("the world was not measured and started", hint="World.start()")
        pipe = subprocess.PIPE
        process = subprocess.Popen(["gramine-sgx", "world"], cwd=self._folder, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S607
        self._running.append(process)
        return process

    def quote(self, nonce: bytes, binding: bytes = b"") -> Evidence:
        """Refuse: an enclave's quote is made by the code inside, see :func:`enclave_quote`."""
        return _inside("makes its quotes")

    def provision(self, secrets: Mapping[str, bytes]) -> None:
        """Refuse: what the host hands over is no secret; it goes through a session that is bound to a quote."""
        _inside("takes its secrets, through an attested session")

    def seal(self, name: str, data: bytes) -> bytes:
        """Refuse: the code inside writes to ``/sealed``."""
        return _inside("writes to /sealed")

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Refuse: the code inside reads from ``/sealed``."""
        return _inside("reads from /sealed")

    def close(self) -> None:
        """Kill what runs and remove the manifest; the encrypted folder stays."""
        for process in self._running:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _inside(what: str) -> NoReturn:
    raise Unavailable(
        f"an enclave's own code {what}: its host cannot", hint="holdfast.shielding.worlds.gramine.enclave_quote"
    )


def enclave_quote(nonce: bytes, binding: bytes = b"") -> Evidence:
    """Return a quote of the enclave that this is called in, without collateral: the verifier fetches that.

    Raises:
        MissingDevice: this is no enclave under Gramine with DCAP.
    """
    if not _ATTESTATION.is_dir():
        raise MissingDevice("this code does not run in an enclave", hint="run it with gramine-sgx")
    (_ATTESTATION / "user_report_data").write_bytes(bound(nonce, binding).ljust(64, b"\0"))
    return Evidence(kind="sgx", body=read_bytes(_ATTESTATION / "quote", "quote", limit=1 << 15, stream=True))
