"""The firmware's event log: what a boot extended into a TPM (TCG, PC Client Platform Firmware Profile).

The log is crypto-agile: a first event of the old form that lists the algorithms, then events with one digest for each.
It is little-endian. A log is worth something only once replaying it gives the quoted registers, and even then its
words are not covered: of an event only the digest is. So a name is given (:func:`boot_names`) only where a register
holds nothing but events whose digest is that of their data, and the one that gets the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import SignatureInvalid, UnreadableArtifact
from holdfast.shielding.attestation.cursor import Cursor

MAX_EVENTS = 4096
FIRMWARE_REGISTERS = range(10)  # the static root of trust: firmware 0 to 7, boot loaders 8 and 9
_SHA256, _SIZES = 0x000B, {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
_MAGIC, _LOCALITY = b"Spec ID Event03\0", b"StartupLocality\0"
_NO_ACTION, _SEPARATOR, _TAG, _VERSION = 0x3, 0x4, 0x6, 0x8
_VARIABLE, _APPLICATION, _ACTION, _BLOBS = 0x80000001, 0x80000003, 0x80000007, (0x80000008, 0x8000000A)
_OF_DATA = (_SEPARATOR, _ACTION, _VARIABLE)  # events whose digest is that of their data
_INITRD, _OPTIONS = 0x8F3B22EC, 0x8F3B22ED  # of Linux, drivers/firmware/efi/libstub
_ACTIONS = (b"Calling EFI Application from Boot Option", b"Returning from EFI Application from Boot Option")
_KERNEL, _LOADED = 4, 9
_FIELD = 1 << 20


@dataclass(frozen=True, slots=True)
class BootEvent:
    """One event: register, type, the digest in the bank of SHA-256, and what is said of it."""

    register: int
    kind: int
    digest: bytes
    data: bytes


def read_boot_log(data: bytes) -> tuple[BootEvent, ...]:
    """Read a log, as Linux gives it in ``/sys/kernel/security/tpm0/binary_bios_measurements``.

    Raises:
        UnreadableArtifact: malformed, without the bank of SHA-256, or with a register that no firmware extends.
    """
    cursor = Cursor(data, "firmware's event log", "little")
    algorithms = _algorithms(cursor)
    found: list[BootEvent] = []
    while cursor.left:
        found.append(_event(cursor, algorithms))
        if len(found) > MAX_EVENTS:
            raise UnreadableArtifact(f"the firmware's event log has more than {MAX_EVENTS} events")
    return tuple(found)


def _algorithms(cursor: Cursor) -> Mapping[int, int]:
    """Read the first event, and return the digests' sizes by algorithm."""
    if (cursor.number(4), cursor.number(4)) != (0, _NO_ACTION):
        raise UnreadableArtifact("the firmware's event log does not begin as one of TPM 2.0 does")
    cursor.zeros(20)
    head = Cursor(cursor.block(4, limit=_FIELD), "head of the firmware's event log", "little")
    if head.take(16) != _MAGIC:
        raise UnreadableArtifact("the firmware's event log is of an unknown version")
    head.take(8)
    sizes = {head.number(2): head.number(2) for _ in range(min(head.number(4), 16))}
    head.block(1)
    head.end()
    if _SHA256 not in sizes or any(_SIZES.get(name) != size for name, size in sizes.items()):
        raise UnreadableArtifact("the firmware's event log has no SHA-256, or digests of an impossible size")
    return sizes


def _event(cursor: Cursor, sizes: Mapping[int, int]) -> BootEvent:
    register, kind, count = (cursor.number(4) for _ in range(3))
    digests: dict[int, bytes] = {}
    for _ in range(min(count, len(sizes) + 1)):
        name = cursor.number(2)
        digests[name] = cursor.take(sizes.get(name, 0))
    if count != len(sizes) or set(digests) != set(sizes):
        raise UnreadableArtifact("an event of the firmware does not have one digest for each algorithm")
    if register not in range(16) and kind != _NO_ACTION:
        raise UnreadableArtifact(f"the firmware's event log extends register {register}")
    return BootEvent(register, kind, digests[_SHA256], cursor.block(4, limit=_FIELD))


def replay_boot(events: Iterable[BootEvent]) -> dict[int, bytes]:
    """Return the values of the registers that these events leave behind, of those that they extend.

    Raises:
        SignatureInvalid: an event says something else than it extended.
    """
    values: dict[int, bytes] = {}
    for event in events:
        if event.kind == _NO_ACTION:
            values |= _started(event, values)
            continue
        if event.kind in _OF_DATA and hashlib.sha256(event.data).digest() != event.digest:
            raise SignatureInvalid(f"an event of register {event.register} is not what its digest is of")
        values[event.register] = hashlib.sha256(values.get(event.register, bytes(32)) + event.digest).digest()
    return values


def _started(event: BootEvent, values: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return what register 0 starts from, where the TPM was not started by the firmware at locality 0."""
    if not event.data.startswith(_LOCALITY):
        return {}
    if len(event.data) != len(_LOCALITY) + 1 or 0 in values:
        raise UnreadableArtifact("the firmware's event log has a locality where none can be")
    return {0: bytes(31) + event.data[-1:]}


def require_boot(events: Sequence[BootEvent], registers: Mapping[int, bytes]) -> None:
    """Return if ``events`` leave exactly these quoted values behind.

    Raises:
        SignatureInvalid: one of registers 0 to 9 has another value, or the log extends one that is not quoted.
    """
    values = replay_boot(events)
    for index in sorted({*values, *(set(registers) & set(FIRMWARE_REGISTERS))}):
        if registers.get(index) != values.get(index, bytes(32)):
            raise SignatureInvalid(f"the firmware's event log does not explain register {index}")


def boot_names(events: Sequence[BootEvent]) -> dict[str, str]:
    """Return the digests (hex) of firmware, kernel, initial file system and command line, where the log is unambiguous.

    Whoever boots something of his own extends it first and what he likes afterwards, and may give any event any type
    that is not checked. So the register of the kernel must hold one program and nothing unchecked, and that of what
    Linux loads just its two.
    """
    return _firmware(events) | _kernel(events) | _loaded(events)


def _of(events: Sequence[BootEvent], register: int) -> list[BootEvent]:
    return [event for event in events if event.register == register and event.kind != _NO_ACTION]


def _firmware(events: Sequence[BootEvent]) -> dict[str, str]:
    own = _of(events, 0)
    blobs = [event for event in own if event.kind in _BLOBS]
    others = [event for event in own if event.kind not in _BLOBS]
    if not all(event.kind in (_VERSION, _SEPARATOR) and _honest(event) for event in others):
        return {}
    return {f"boot.firmware.{place}": event.digest.hex() for place, event in enumerate(blobs)}


def _honest(event: BootEvent) -> bool:
    return hashlib.sha256(event.data).digest() == event.digest


def _kernel(events: Sequence[BootEvent]) -> dict[str, str]:
    own = _of(events, _KERNEL)
    programs = [event for event in own if event.kind == _APPLICATION]
    actions = [event for event in own if event.kind == _ACTION]
    separators = [event for event in own if event.kind == _SEPARATOR]
    known = all(event.data in _ACTIONS for event in actions) and len(separators) == 1
    if len(programs) != 1 or not known or len(own) != 1 + len(actions) + 1:
        return {}
    return {"boot.kernel": programs[0].digest.hex()}


def _loaded(events: Sequence[BootEvent]) -> dict[str, str]:
    own = {_tag(event): event.digest.hex() for event in _of(events, _LOADED)}
    if set(own) != {_INITRD, _OPTIONS} or len(_of(events, _LOADED)) != len(own):
        return {}
    return {"boot.initrd": own[_INITRD], "boot.command-line": own[_OPTIONS]}


def _tag(event: BootEvent) -> int | None:
    return int.from_bytes(event.data[:4], "little") if event.kind == _TAG and len(event.data) >= 8 else None
