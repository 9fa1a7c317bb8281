"""TPM 2.0 in its own bytes (TCG, TPM 2.0 Library, Part 3): the dozen commands that the guest of a vm world needs.

Runs inside the guest, where there are no tools, so it imports the standard library only. Objects are dropped after
each use. Everything is in the bank of SHA-256; sessions are the empty password, or a policy over registers.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence

KEY = 0x81010002  # where the attestation key persists
REGISTER = 12  # what the image says of itself
MEASURED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, REGISTER)  # what a quote covers: firmware, boot, IMA, image
KEY_REGISTERS = (0, 2, 4, 7, 9, REGISTER)  # what secrets are bound to: code and its configuration, at any boot
SEALED_LIMIT = 128  # bytes of one sealed object
_OWNER, _NULL_HANDLE, _PASSWORD = 0x40000001, 0x40000007, 0x40000009
_PLAIN, _WITH_SESSION = 0x8001, 0x8002
_SHA256, _NULL, _KEYEDHASH = 0x000B, 0x0010, 0x0008
_EXTEND, _READ, _QUOTE, _READ_PUBLIC = 0x182, 0x17E, 0x158, 0x173
_CREATE_PRIMARY, _CREATE, _LOAD, _IMPORT, _UNSEAL, _FLUSH = 0x131, 0x153, 0x157, 0x156, 0x15E, 0x165
_START_SESSION, _POLICY_PCR, _GET_DIGEST = 0x176, 0x17F, 0x189
_NV_DEFINE, _NV_INCREMENT, _NV_READ, _NV_READ_PUBLIC = 0x12A, 0x134, 0x14E, 0x169
_HANDLE_UNKNOWN = 0x18B
_LATER = (0x908, 0x90A, 0x922)  # yielded, testing itself, try again: a TPM that is busy says so
_ATTEMPTS = 30
_AT_ONCE = 8  # registers that one TPM2_PCR_Read returns
# restricted decryption on P-256 with AES-128-CFB: fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA
STORAGE = bytes.fromhex("0023000b00030472000000060080004300100003001000000000")
_SEALED_HERE = 0x00000492  # fixedTPM fixedParent adminWithPolicy noDA; no userWithAuth, so only the policy opens it
_FIRST_COUNTER, _COUNTERS = 0x01500000, 1 << 20  # indices of the owner's
_COUNTER = 1 << 1 | 1 << 4 | 1 << 17  # owner writes, counter, owner reads


class TpmError(OSError):
    """The TPM refuses a command; ``code`` is its response code."""

    def __init__(self, command: int, code: int) -> None:
        super().__init__(f"TPM command {command:#x} is refused with {code:#x}")
        self.code = code


def block(data: bytes) -> bytes:
    """Return a TPM2B: the length as u16, then the bytes."""
    return len(data).to_bytes(2, "big") + data


def selection(registers: Sequence[int]) -> bytes:
    """Return the TPML_PCR_SELECTION of ``registers`` in the bank of SHA-256."""
    mask = sum(1 << index for index in set(registers))
    return (1).to_bytes(4, "big") + _SHA256.to_bytes(2, "big") + b"\x03" + mask.to_bytes(3, "little")


def policy(values: Mapping[int, bytes]) -> bytes:
    """Return the policy digest that opens only while registers have these values (Part 3, TPM2_PolicyPCR)."""
    content = hashlib.sha256(b"".join(values[index] for index in sorted(values))).digest()
    return hashlib.sha256(bytes(32) + _POLICY_PCR.to_bytes(4, "big") + selection(tuple(values)) + content).digest()


def sealed_public(attributes: int, rule: bytes, unique: bytes = b"") -> bytes:
    """Return the TPMT_PUBLIC of sealed data."""
    head = _KEYEDHASH.to_bytes(2, "big") + _SHA256.to_bytes(2, "big") + attributes.to_bytes(4, "big")
    return head + block(rule) + _NULL.to_bytes(2, "big") + block(unique)


def device(path: str) -> Callable[[bytes], bytes]:
    """Return what exchanges a command for a response with a TPM device of Linux."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def exchange(command: bytes) -> bytes:
        os.write(handle, command)
        return os.read(handle, 1 << 14)

    return exchange


class Tpm:
    """A TPM behind ``exchange``, which takes a command and returns the response."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def _call(self, code: int, handles: Sequence[int], parameters: bytes = b"", session: int | None = None) -> bytes:
        """Return what follows the header of the response."""
        body = b"".join(handle.to_bytes(4, "big") for handle in handles)
        if session is not None:
            entry = session.to_bytes(4, "big") + bytes(5)  # no nonce, the session ends with this command, no HMAC
            body += len(entry).to_bytes(4, "big") + entry
        body += parameters
        tag = _PLAIN if session is None else _WITH_SESSION
        head = tag.to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big")
        return self._accepted(code, head + body)

    def _accepted(self, code: int, command: bytes) -> bytes:
        for attempt in range(_ATTEMPTS):
            answer = self._exchange(command)
            if len(answer) < 10 or int.from_bytes(answer[2:6], "big") != len(answer):
                raise TpmError(code, 0xFFFFFFFF)
            result = int.from_bytes(answer[6:10], "big")
            if not result:
                return answer[10:]
            if result not in _LATER:
                break
            time.sleep(0.02 * attempt)
        raise TpmError(code, result)

    def _authorized(
        self, code: int, handles: Sequence[int], parameters: bytes = b"", session: int = _PASSWORD
    ) -> bytes:
        """Return the parameters of the response to a command under a session."""
        answer = self._call(code, handles, parameters, session)
        return answer[4 : 4 + int.from_bytes(answer[:4], "big")]

    def _made(self, code: int, parent: int, parameters: bytes) -> tuple[int, bytes]:
        """Return handle and parameters of the response to a command that makes or loads an object."""
        answer = self._call(code, (parent,), parameters, _PASSWORD)
        return int.from_bytes(answer[:4], "big"), answer[8 : 8 + int.from_bytes(answer[4:8], "big")]

    def _flush(self, handle: int) -> None:
        self._call(_FLUSH, (), handle.to_bytes(4, "big"))

    def extend(self, register: int, digest: bytes) -> None:
        """Extend ``register`` with 32 bytes."""
        self._call(_EXTEND, (register,), (1).to_bytes(4, "big") + _SHA256.to_bytes(2, "big") + digest, _PASSWORD)

    def registers(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Return the values of registers."""
        found: dict[int, bytes] = {}
        ordered = sorted(indices)
        for start in range(0, len(ordered), _AT_ONCE):
            chosen = ordered[start : start + _AT_ONCE]
            values = self._call(_READ, (), selection(chosen))[4 + len(selection(chosen)) + 4 :]
            if len(values) != 34 * len(chosen):
                raise TpmError(_READ, 0xFFFFFFFF)
            found |= {index: values[34 * place + 2 : 34 * place + 34] for place, index in enumerate(chosen)}
        return found

    def quote(self, registers: Sequence[int], qualifying: bytes) -> tuple[bytes, bytes]:
        """Return the TPMS_ATTEST over ``registers`` and its TPMT_SIGNATURE by the persistent key."""
        asked = block(qualifying) + _NULL.to_bytes(2, "big") + selection(registers)
        answer = self._authorized(_QUOTE, (KEY,), asked)
        length = int.from_bytes(answer[:2], "big")
        return answer[2 : 2 + length], answer[2 + length :]

    def attestation_key(self) -> bytes:
        """Return the TPM2B_PUBLIC of the persistent key."""
        return _first(self._call(_READ_PUBLIC, (KEY,)))

    def storage_key(self) -> bytes:
        """Return the TPM2B_PUBLIC of the key that objects are kept under; it is the same at each call."""
        handle, answer = self._primary()
        self._flush(handle)
        return _first(answer)

    def _primary(self) -> tuple[int, bytes]:
        return self._made(_CREATE_PRIMARY, _OWNER, block(bytes(4)) + block(STORAGE) + bytes(2) + bytes(4))

    def seal(self, registers: Sequence[int], secret: bytes) -> dict[str, bytes]:
        """Return ``secret`` (1 to 128 bytes) as an object that opens only while ``registers`` are as they are."""
        rule = policy(self.registers(registers))
        parent, _ = self._primary()
        try:
            asked = block(bytes(2) + block(secret)) + block(sealed_public(_SEALED_HERE, rule)) + bytes(2) + bytes(4)
            answer = self._authorized(_CREATE, (parent,), asked)
        finally:
            self._flush(parent)
        private = _first(answer)
        return {"private": private, "public": _first(answer[len(private) :])}

    def unseal(self, registers: Sequence[int], sealed: Mapping[str, bytes]) -> bytes:
        """Return the secret of :meth:`seal`, or raise :class:`TpmError`."""
        parent, _ = self._primary()
        try:
            return self._opened(parent, registers, sealed["private"], sealed["public"])
        finally:
            self._flush(parent)

    def open_wrapped(self, registers: Sequence[int], wrapped: Mapping[str, bytes]) -> bytes:
        """Return a secret that somebody outside wrapped for this TPM's storage key and values of ``registers``."""
        parent, _ = self._primary()
        try:
            asked = bytes(2) + wrapped["public"] + wrapped["duplicate"] + wrapped["seed"] + _NULL.to_bytes(2, "big")
            private = _first(self._authorized(_IMPORT, (parent,), asked))
            return self._opened(parent, registers, private, wrapped["public"])
        finally:
            self._flush(parent)

    def _opened(self, parent: int, registers: Sequence[int], private: bytes, public: bytes) -> bytes:
        handle, _ = self._made(_LOAD, parent, private + public)
        try:
            session = self._policy_session(registers)
            try:
                return _first(self._authorized(_UNSEAL, (handle,), session=session))[2:]
            except TpmError:
                self._flush(session)  # which ends by itself only with a command that succeeds
                raise
        finally:
            self._flush(handle)

    def _policy_session(self, registers: Sequence[int]) -> int:
        asked = block(os.urandom(16)) + bytes(2) + b"\x01" + _NULL.to_bytes(2, "big") + _SHA256.to_bytes(2, "big")
        answer = self._call(_START_SESSION, (_NULL_HANDLE, _NULL_HANDLE), asked)
        session = int.from_bytes(answer[:4], "big")
        self._call(_POLICY_PCR, (session,), bytes(2) + selection(registers))
        return session

    def count(self, name: str, *, increment: bool) -> int:
        """Return the monotonic counter called ``name``, after incrementing it if asked to; 0 before its first use."""
        index, known = self._counter(digest := hashlib.sha256(name.encode()).digest())
        if not known and not increment:
            return 0
        if not known:
            public = index.to_bytes(4, "big") + _SHA256.to_bytes(2, "big") + _COUNTER.to_bytes(4, "big")
            self._authorized(_NV_DEFINE, (_OWNER,), bytes(2) + block(public + block(digest) + (8).to_bytes(2, "big")))
        if increment:
            self._authorized(_NV_INCREMENT, (_OWNER, index))
        answer = self._authorized(_NV_READ, (_OWNER, index), (8).to_bytes(2, "big") + bytes(2))
        return int.from_bytes(answer[2:10], "big")

    def _counter(self, digest: bytes) -> tuple[int, bool]:
        """Return the index of the counter whose name has ``digest``, and whether it is there; else a free index.

        As ``software_tpm.py`` finds it: names meet at an index, so a counter holds its digest where a policy would be.
        """
        place = int(digest.hex()[:5], 16)
        for step in range(_COUNTERS):
            index = _FIRST_COUNTER + (place + step) % _COUNTERS
            held = self._held(index)
            if held is None or held == digest:
                return index, held is not None
        raise OSError("the TPM has no index left for another counter")

    def _held(self, index: int) -> bytes | None:
        """Return what stands for the policy of an index, or None where there is no such index."""
        try:
            answer = self._call(_NV_READ_PUBLIC, (index,))
        except TpmError as error:
            if error.code != _HANDLE_UNKNOWN:
                raise
            return None
        return _first(answer[12:])[2:]  # after the length, index, algorithm and attributes


def _first(data: bytes) -> bytes:
    """Return the TPM2B at the front of ``data``, with its length."""
    return data[: 2 + int.from_bytes(data[:2], "big")]
