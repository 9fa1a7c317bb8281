"""A TPM 2.0 in software (swtpm), commanded through tpm2-tools: registers, quotes, sealing, counters.

It attests the design, not silicon: whoever controls its process or its state folder can make it say anything. So it
listens on a socket of mode 0600 in a folder of mode 0700, and what it protects against is other users' code.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import MissingDevice, PolicyError, StorageError, Unavailable
from holdfast.evidence import canonical
from holdfast.shielding.attestation import Evidence
from holdfast.shielding.attestation.enrolment import Challenge
from holdfast.shielding.attestation.tpm_structures import read_key
from holdfast.shielding.own_process import OwnProcess

_KEY = "0x81010002"  # where the attestation key persists
_BANK = "sha256"
_FIRST_COUNTER, _COUNTERS = 0x01500000, 1 << 20  # indices of the owner's
_TIMEOUT = 30.0  # seconds for one command
_TOOLS = ("swtpm", "tpm2_quote", "tpm2_pcrextend", "tpm2_create", "tpm2_unseal", "tpm2_nvincrement")
_LEAVE_OBJECTS = ("tpm2_createek", "tpm2_createak", "tpm2_createprimary", "tpm2_create", "tpm2_load")
_LEAVE_SESSIONS = ("tpm2_createek", "tpm2_createak", "tpm2_createpolicy", "tpm2_unseal")
SEALED = ("public", "private")


def require_tools() -> None:
    """Raise :class:`MissingDevice` unless swtpm and tpm2-tools are installed."""
    if missing := [name for name in _TOOLS if shutil.which(name) is None]:
        raise MissingDevice(f"no {missing[0]} here", hint="install swtpm, swtpm-tools and tpm2-tools")


class SoftwareTpm:
    """One running software TPM; ``close()``, or the end of this program, ends it. Its state stays.

    Args:
        state: folder of its state (made with mode 0700): keys and counters survive in it.

    Attributes:
        socket: where it listens.

    Raises:
        MissingDevice: a tool is not installed.
        Unavailable: the TPM does not start.
        StorageError: ``state`` cannot be made, or others may enter it.
    """

    def __init__(self, state: Path) -> None:
        require_tools()
        self._state = _private(state)
        self._work = Path(tempfile.mkdtemp(prefix="holdfast-tpm-"))
        self.socket = self._work / "tpm.sock"
        with (self._work / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        self.close = OwnProcess("a TPM").finalize(self, _stop, self._process, self._work)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _command(self) -> list[str]:
        server = f"type=unixio,path={self.socket},mode=0600"
        state = f"dir={self._state},mode=0600"
        return ["swtpm", "socket", "--tpm2", "--tpmstate", state, "--server", server, "--flags", "startup-clear"]

    def _wait(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self._work / "log").read_text(errors="replace").strip().splitlines()
                raise Unavailable("the software TPM does not start", hint=words[-1] if words else "it said nothing")
            time.sleep(0.01)

    def call(self, tool: str, *arguments: str) -> bytes:
        """Run one tool, and drop what it leaves in the TPM, which has room for three objects and three sessions.

        Raises:
            Unavailable: it fails; the message is its own last line.
        """
        said = self._run(tool, *arguments)
        if tool in _LEAVE_OBJECTS:
            self._run("tpm2_flushcontext", "-t")
        if tool in _LEAVE_SESSIONS:
            self._run("tpm2_flushcontext", "-l")
        return said

    def _run(self, *command: str) -> bytes:
        relay = Path(__file__).with_name("relay.py")
        parts = (sys.executable, "-IS", str(relay), str(self.socket))
        environment = os.environ | {"TPM2TOOLS_TCTI": "cmd:" + shlex.join(parts), "TSS2_LOG": "all+none"}
        done = subprocess.run(  # noqa: S603 - a fixed list of tools
            command, env=environment, cwd=self._work, capture_output=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unavailable(f"{command[0]} failed: {words[-1] if words else 'no reason given'}")
        return done.stdout

    def extend(self, register: int, digest: bytes) -> None:
        """Extend ``register`` with 32 bytes."""
        self.call("tpm2_pcrextend", f"{register}:{_BANK}={digest.hex()}")

    def registers(self, *indices: int) -> Mapping[int, bytes]:
        """Return the values of registers."""
        chosen = ",".join(map(str, indices))
        self.call("tpm2_pcrread", f"{_BANK}:{chosen}", "-o", "registers")
        raw = self._read("registers")
        return {index: raw[32 * place : 32 * place + 32] for place, index in enumerate(sorted(indices))}

    def attestation_key(self) -> bytes:
        """Return the TPM2B_PUBLIC of the key that signs quotes; it is made on first use, and persists."""
        try:
            self.call("tpm2_readpublic", "-c", _KEY, "-o", "ak.public")
        except Unavailable:
            self.call("tpm2_createek", "-c", "ek.context", "-G", "ecc", "-u", "ek.public")
            made = ("-G", "ecc", "-g", _BANK, "-s", "ecdsa", "-u", "ak.public")
            self.call("tpm2_createak", "-C", "ek.context", "-c", "ak.context", *made)
            self.call("tpm2_evictcontrol", "-C", "o", "-c", "ak.context", _KEY)
            self.call("tpm2_readpublic", "-c", _KEY, "-o", "ak.public")
        return self._read("ak.public")

    def key_name(self) -> str:
        """Return the TPM's name of that key, for :attr:`~holdfast.shielding.attestation.Policy.keys`."""
        return read_key(self.attestation_key()).name

    def endorsement_key(self) -> bytes:
        """Return the TPM2B_PUBLIC of the key that the maker of a TPM certifies; it is the same at each call."""
        self.call("tpm2_createek", "-c", "ek.context", "-G", "ecc", "-u", "ek.public")
        return self._read("ek.public")

    def activate(self, challenge: Challenge) -> bytes:
        """Return the secret of a challenge, which this TPM finds only if it holds both keys.

        Raises:
            PolicyError: it does not.
        """
        self.endorsement_key()
        head = (0xBADCC0DE).to_bytes(4, "big") + (1).to_bytes(4, "big")  # of the tools' file format
        (self._work / "credential").write_bytes(head + challenge.credential + challenge.encrypted)
        self.call("tpm2_startauthsession", "--policy-session", "-S", "session")
        try:
            self.call("tpm2_policysecret", "-S", "session", "-c", "e")
            keys = ("-c", _KEY, "-C", "ek.context", "-P", "session:session")
            self.call("tpm2_activatecredential", *keys, "-i", "credential", "-o", "found")
        except Unavailable as error:
            raise PolicyError("the TPM does not hold the keys of this challenge") from error
        finally:
            self.call("tpm2_flushcontext", "session")
            self.call("tpm2_flushcontext", "-t")
        return self._read("found")

    def quote(self, registers: tuple[int, ...], qualifying: bytes, log: bytes) -> Evidence:
        """Return a quote of ``registers`` over ``qualifying`` (at most 32 bytes), with ``log`` to explain them."""
        key = self.attestation_key()
        chosen = f"{_BANK}:{','.join(map(str, registers))}"
        output = ("-m", "quote", "-s", "signature", "-g", _BANK)
        self.call("tpm2_quote", "-c", _KEY, "-l", chosen, "-q", qualifying.hex(), *output)
        values = {str(index): value.hex() for index, value in self.registers(*registers).items()}
        parts = {"ak": key, "signature": self._read("signature"), "pcrs": canonical.dumps({_BANK: values}), "log": log}
        return Evidence(kind="tpm2", body=self._read("quote"), collateral=parts)

    def seal(self, register: int, secret: bytes) -> Mapping[str, bytes]:
        """Return ``secret`` (at most 128 bytes) as a TPM object that opens only while ``register`` is as it is now."""
        self.call("tpm2_createprimary", "-C", "o", "-c", "primary")
        self.call("tpm2_createpolicy", "--policy-pcr", "-l", f"{_BANK}:{register}", "-L", "policy")
        (self._work / "secret").write_bytes(secret)
        try:
            output = ("-u", "public", "-r", "private", "-L", "policy", "-i", "secret")
            self.call("tpm2_create", "-C", "primary", *output, "-a", "fixedtpm|fixedparent|adminwithpolicy|noda")
        finally:
            (self._work / "secret").unlink()
        return {name: self._read(name) for name in SEALED}

    def unseal(self, register: int, sealed: Mapping[str, bytes]) -> bytes:
        """Return the secret of :meth:`seal`.

        Raises:
            PolicyError: the register is not as it was, or the object is another TPM's.
        """
        for name in SEALED:
            (self._work / name).write_bytes(sealed[name])
        self.call("tpm2_createprimary", "-C", "o", "-c", "primary")
        try:
            self.call("tpm2_load", "-C", "primary", "-u", "public", "-r", "private", "-c", "sealed")
            return self.call("tpm2_unseal", "-c", "sealed", "-p", f"pcr:{_BANK}:{register}")
        except Unavailable as error:
            raise PolicyError("the TPM does not unseal: another measurement, or another TPM") from error

    def count(self, name: str, *, increment: bool) -> int:
        """Return the monotonic counter called ``name``, after incrementing it if asked to; 0 before its first use."""
        index, known = self._counter(digest := hashlib.sha256(name.encode()).digest())
        if not known and not increment:
            return 0
        if not known:
            (self._work / "policy").write_bytes(digest)
            self.call("tpm2_nvdefine", index, "-C", "o", "-a", "ownerread|ownerwrite|nt=counter", "-L", "policy")
        if increment:
            self.call("tpm2_nvincrement", index, "-C", "o")
        return int.from_bytes(self.call("tpm2_nvread", index, "-C", "o"), "big")

    def _counter(self, digest: bytes) -> tuple[str, bool]:
        """Return the index of the counter whose name has ``digest``, and whether it is there; else a free index.

        An index has room for 20 bits of the digest, so that names meet. Each counter therefore holds its whole digest,
        where a policy would stand that nobody uses, and a name whose place another took has the next free one.
        """
        listed = re.findall(rb"0x[0-9a-fA-F]+", self.call("tpm2_getcap", "handles-nv-index"))
        taken, place = {int(item, 16) for item in listed}, int(digest.hex()[:5], 16)
        for step in range(_COUNTERS):
            index = _FIRST_COUNTER + (place + step) % _COUNTERS
            if index not in taken:
                return f"{index:#010x}", False
            public = self.call("tpm2_nvreadpublic", f"{index:#010x}").decode(errors="replace")
            if re.search(rf"authorization policy: {digest.hex()}\s", public, re.IGNORECASE):
                return f"{index:#010x}", True
        raise Unavailable("the TPM has no index left for another counter")

    def _read(self, name: str) -> bytes:
        return read_bytes(self._work / name, "answer of the TPM", limit=1 << 16)


def _stop(process: subprocess.Popen[bytes], work: Path) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()
    shutil.rmtree(work, ignore_errors=True)


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StorageError(f"others may enter {folder}", hint=f"chmod 700 {folder}")
    return folder.resolve()
