"""The first process of a vm world's guest: records, answers for quotes, opens secrets, runs the module it was told to.

Everything it is and reads came with the initial file system, which the firmware and the kernel measured before this
ran. It imports the standard library only. On the port ``control`` it answers its launcher, one JSON object after
another, each preceded by its length as u32, big-endian.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from holdfast.shielding.worlds.vm_ports import Streams, message, port, put
from holdfast.shielding.worlds.vm_tpm import KEY_REGISTERS, MEASURED, REGISTER, Tpm, device

CONFIG, INSIDE, POLICY = "/config.json", "/inside.py", "/ima-policy"
_LIBC = ctypes.CDLL(None, use_errno=True)
_SCRATCH = "/tmp"  # noqa: S108 - the guest's own
_SECURITY = "/sys/kernel/security"
_MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", _SCRATCH), ("securityfs", _SECURITY))
_LOGS = {"firmware": "tpm0/binary_bios_measurements", "ima": "ima/binary_runtime_measurements"}
_DOMAIN = b"holdfast attestation v1"
_TYPE = "holdfast.attestation-evidence/v1"
_CHUNK, _FIRST = 1 << 16, 1


def mount() -> None:
    """Mount what the kernel offers."""
    for kind, place in _MOUNTS:
        os.makedirs(place, exist_ok=True)
        if _LIBC.mount(kind.encode(), place.encode(), kind.encode(), 0, b"mode=1777" if place == _SCRATCH else None):
            raise OSError(ctypes.get_errno(), f"cannot mount {place}")


def _whole(path: str) -> bytes:
    """Read a file of the kernel's, which does not know its length."""
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(_CHUNK), b""))


def end_all(_process: object) -> None:
    """Kill every process of this machine but this one, so that nothing of a module outlives it."""
    if os.getpid() == _FIRST:  # anywhere else this would be a catastrophe
        os.kill(-1, signal.SIGKILL)


def _reap() -> None:
    """Collect what has ended, which the kernel leaves to the first process."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def bound(nonce: bytes, binding: bytes) -> bytes:
    """Return what :func:`holdfast.shielding.attestation.bound` returns, which is not here."""
    if len(nonce) < 16 or max(len(nonce), len(binding)) > 1 << 16:
        raise ValueError("a nonce has at least 16 bytes")
    lengths = len(nonce).to_bytes(4, "big") + len(binding).to_bytes(4, "big")
    return hashlib.sha256(_DOMAIN + lengths + nonce + binding).digest()


def event_value(name: str, digest: bytes) -> bytes:
    """Return what the register is extended with for an event, as the verifier of the log has it."""
    return hashlib.sha256(b"holdfast event v1\0" + len(name).to_bytes(1, "big") + name.encode() + digest).digest()


class Guest:
    """What the launcher may ask of this machine."""

    def __init__(self, config: dict[str, Any], tpm: Tpm, streams: Streams) -> None:
        self._config, self._tpm, self._streams = config, tpm, streams
        self._lock = threading.Lock()  # one command to the TPM at a time
        self._secrets = b"\0"

    def record(self) -> None:
        """Extend what the image says of itself."""
        for event in self._config["events"]:
            self._tpm.extend(REGISTER, event_value(event["name"], bytes.fromhex(event["digest"])))

    def quote(self, nonce: bytes, binding: bytes) -> bytes:
        """Return evidence, as canonical JSON."""
        with self._lock:
            while True:
                logs = {name: _whole(f"{_SECURITY}/{path}") for name, path in _LOGS.items()}
                body, signature = self._tpm.quote(MEASURED, bound(nonce, binding))
                values = self._tpm.registers(MEASURED)
                if logs["ima"] == _whole(f"{_SECURITY}/{_LOGS['ima']}"):  # nothing was measured in between
                    break
            key = self._tpm.attestation_key()
        pcrs = {"sha256": {str(index): value.hex() for index, value in values.items()}}
        parts = {"ak": key, "signature": signature, "pcrs": _json(pcrs), "log": _json(self._config["events"]), **logs}
        collateral = {name: _text(part) for name, part in parts.items()}
        return _json({"body": _text(body), "collateral": collateral, "kind": "tpm2", "type": _TYPE})

    def answer(self, question: dict[str, Any]) -> Any:
        """Do what the launcher asks, and return the answer."""
        blobs = {name: base64.b64decode(value) for name, value in question.get("blobs", {}).items()}
        kind = question["do"]
        if kind == "quote":
            return _text(self.quote(blobs["nonce"], blobs["binding"]))
        if kind == "provision":
            return self.provision(question["objects"])
        if kind == "run":
            return self.run()
        if kind == "stop":
            return self._streams.end()
        with self._lock:
            if kind == "seal":
                return {name: _text(part) for name, part in self._tpm.seal(KEY_REGISTERS, blobs["secret"]).items()}
            if kind == "unseal":
                return _text(self._tpm.unseal(KEY_REGISTERS, blobs))
            return self._tpm.count(question["name"], increment=question["increment"])

    def provision(self, objects: list[dict[str, str]]) -> int:
        """Open secrets that were wrapped for this machine in this state; return how many objects there were."""
        with self._lock:
            pieces = [
                self._tpm.open_wrapped(KEY_REGISTERS, {name: base64.b64decode(part) for name, part in each.items()})
                for each in objects
            ]
        whole = b"".join(pieces)
        if hashlib.sha256(whole[32:]).digest() != whole[:32]:
            raise ValueError("the secrets are not whole, or out of order")
        self._secrets = whole[32:]
        return len(objects)

    def run(self) -> int:
        """Start the module behind its lock, with its streams on the port; return its number."""
        self._streams.end()
        _reap()
        pipe, sink = os.pipe()
        quotes, inner = socket.socketpair()
        config = self._config["launch"] | {"quotes": inner.fileno(), "secrets": pipe}
        command = [sys.executable, "-I", "-S", "-B", "-X", "pycache_prefix=/nowhere", INSIDE, _json(config).decode()]
        try:
            os.write(sink, self._secrets)
            process = subprocess.Popen(  # noqa: S603
                command, pass_fds=(pipe, inner.fileno()), env={"LANG": "C.UTF-8", "HOME": _SCRATCH}, cwd=_SCRATCH,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        finally:
            os.close(pipe)
            os.close(sink)
            inner.close()
        threading.Thread(target=self._quotes, args=(quotes,), daemon=True).start()
        try:
            self._streams.attach(process)
        except OSError:
            process.kill()
            raise
        return process.pid

    def _quotes(self, stream: socket.socket) -> None:
        """Answer the module's questions for quotes; the protocol is that of :mod:`.quoting`."""
        with stream, suppress(OSError, EOFError):
            while True:
                nonce, binding = message(stream.fileno(), 2), message(stream.fileno(), 2)
                try:
                    answer = self.quote(nonce, binding)
                except ValueError:
                    answer = b""
                put(stream.fileno(), len(answer).to_bytes(4, "big") + answer)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tell(handle: int, value: object) -> None:
    words = _json(value)
    put(handle, len(words).to_bytes(4, "big") + words)


def serve(handle: int, guest: Guest) -> None:
    """Answer on the control port until the launcher is gone."""
    _tell(handle, {"answer": "ready"})
    while True:
        question = json.loads(message(handle))
        try:
            _tell(handle, {"answer": guest.answer(question)})
        except (OSError, ValueError, KeyError) as error:
            _tell(handle, {"refused": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Be the first process."""
    mount()
    with open(f"{_SECURITY}/ima/policy", "w") as policy:
        policy.write(POLICY)
    with open(CONFIG, "rb") as file:
        config = json.load(file)
    guest = Guest(config, Tpm(device("/dev/tpm0")), Streams(port("run"), end_all))
    guest.record()
    with suppress(EOFError):
        serve(port("control"), guest)
