"""The log of IMA: every file that a Linux kernel ran, mapped or read under its policy, by path and digest.

Both forms that Linux gives are read: ``binary_runtime_measurements`` (little-endian: register u32, SHA-1, name of the
template, data of the template) and ``ascii_runtime_measurements``, with the templates ``ima-ng`` (digest and path) and
``ima-sig`` (and a signature). The register is extended with the SHA-256 of a template's data, in the bank of SHA-256,
which the log does not state. Its first entry is the digest of the firmware's registers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import PolicyError, SignatureInvalid, UnreadableArtifact
from holdfast.shielding.attestation.boot_log import FIRMWARE_REGISTERS
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.cursor import Cursor

MAX_ENTRIES = 20_000
REGISTER = 10  # the kernel's; in another one anybody may extend a log of his own afterwards
PREFIX = "ima."  # of the names of claims; the path follows
_TEMPLATES = {"ima-ng": 2, "ima-sig": 3}  # and how many fields each has
_ALGORITHMS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_AGGREGATE = "boot_aggregate"
_FIELD = 1 << 16
_TEXT = re.compile(rb" ?\d{1,2} [0-9a-f]")
_LINE = re.compile(
    r" ?(\d{1,2}) ([0-9a-f]{40}|[0-9a-f]{64}) (ima-ng|ima-sig) ([a-z0-9]+):([0-9a-f]+) (\S+)(?: ([0-9a-f]+)?)?"
)


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One file: the register that it went into, its path and digest, and the data that was extended."""

    register: int
    path: str
    algorithm: str
    digest: bytes
    template: bytes


def read_ima_log(data: bytes) -> tuple[ImaEntry, ...]:
    """Read a log in either form.

    Raises:
        UnreadableArtifact: malformed, of another template, or with a file that changed while it was measured.
        SignatureInvalid: an entry's own digest is not that of its data.
    """
    entries = _ascii(data) if _TEXT.match(data) else _binary(data)
    if len(entries) > MAX_ENTRIES:
        raise UnreadableArtifact(f"IMA's log has more than {MAX_ENTRIES} entries")
    return entries


def _binary(data: bytes) -> tuple[ImaEntry, ...]:
    cursor, found = Cursor(data, "log of IMA", "little"), list[ImaEntry]()
    while cursor.left and len(found) <= MAX_ENTRIES:
        register, stated = cursor.number(4), cursor.take(20)
        name = cursor.block(4, limit=64).decode("ascii", "replace")
        template = cursor.block(4, limit=_FIELD)
        found.append(_entry(register, name, template, stated))
    return tuple(found)


def _ascii(data: bytes) -> tuple[ImaEntry, ...]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact("the log of IMA is not UTF-8") from error
    if lines.pop():
        raise UnreadableArtifact("the log of IMA is cut short")
    return tuple(_from_line(line) for line in lines[: MAX_ENTRIES + 1])


def _from_line(line: str) -> ImaEntry:
    match = _LINE.fullmatch(line)
    if match is None or len(match[5]) % 2 or len(match[7] or "") % 2:
        raise UnreadableArtifact("a line of IMA's log is none of the templates ima-ng and ima-sig")
    register, stated, name, algorithm, digest, path, signature = match.groups()
    fields = [f"{algorithm}:\0".encode() + bytes.fromhex(digest), path.encode() + b"\0"]
    fields += [bytes.fromhex(signature or "")] if name == "ima-sig" else []
    if name == "ima-ng" and signature:
        raise UnreadableArtifact("a line of IMA's log has a signature that its template has not")
    template = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return _entry(int(register), name, template, bytes.fromhex(stated))


def _entry(register: int, name: str, template: bytes, stated: bytes) -> ImaEntry:
    if name not in _TEMPLATES:
        raise UnreadableArtifact(f"the template {name!r} of IMA's log is not known", hint="ima-ng and ima-sig are")
    if not any(stated):
        raise UnreadableArtifact("IMA's log has a violation: a file was measured while it was written to")
    if hashlib.new("sha1" if len(stated) == 20 else "sha256", template, usedforsecurity=False).digest() != stated:
        raise SignatureInvalid("an entry of IMA's log is not what its digest is of")
    cursor = Cursor(template, "entry of IMA's log", "little")
    fields = [cursor.block(4, limit=_FIELD) for _ in range(_TEMPLATES[name])]
    cursor.end()
    algorithm, mark, digest = fields[0].partition(b":\0")
    known = algorithm.decode("ascii", "replace")
    if not mark or _ALGORITHMS.get(known) != len(digest):
        raise UnreadableArtifact("an entry of IMA's log has a digest of an unknown kind")
    return ImaEntry(register, _path(fields[1]), known, digest, template)


def _path(field: bytes) -> str:
    try:
        path = field.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact("a path in IMA's log is not UTF-8") from error
    if not path.endswith("\0") or "\0" in path[:-1] or len(path) < 2:
        raise UnreadableArtifact("a path in IMA's log is none")
    return path[:-1]


def replay_ima(entries: Iterable[ImaEntry]) -> dict[int, bytes]:
    """Return the values of the registers that these entries leave behind."""
    values: dict[int, bytes] = {}
    for entry in entries:
        extended = hashlib.sha256(entry.template).digest()
        values[entry.register] = hashlib.sha256(values.get(entry.register, bytes(32)) + extended).digest()
    return values


def require_ima(entries: Sequence[ImaEntry], registers: Mapping[int, bytes]) -> None:
    """Return if ``entries`` leave exactly the one quoted register behind, after the boot that is quoted with it.

    Raises:
        SignatureInvalid: they do not, or they begin with the registers of another boot.
    """
    values = replay_ima(entries)
    if len(values) != 1:
        raise SignatureInvalid("IMA's log does not extend exactly one register")
    if REGISTER not in values:
        raise SignatureInvalid(f"IMA's log is of register {min(values)}, and the kernel's is {REGISTER}")
    for index, value in values.items():
        if registers.get(index) != value:
            raise SignatureInvalid(f"IMA's log does not explain register {index}: entries are missing, added or moved")
    first = entries[0]
    missing = [index for index in FIRMWARE_REGISTERS if index not in registers]
    if first.path != _AGGREGATE or missing:
        raise SignatureInvalid("IMA's log does not begin with the firmware's registers, or they are not quoted")
    whole = b"".join(registers[index] for index in FIRMWARE_REGISTERS)
    if first.algorithm != "sha256" or hashlib.sha256(whole).digest() != first.digest:
        raise SignatureInvalid("IMA's log begins with the registers of another boot")


def ima_names(entries: Sequence[ImaEntry]) -> dict[str, str]:
    """Return the digests (hex) by path; of a path that had several, all of them in order, which no policy names."""
    found: dict[str, str] = {}
    for entry in entries[1:]:
        name, digest = f"{PREFIX}{entry.path}", entry.digest.hex()
        found[name] = found.get(name, "") + ("" if found.get(name) == digest else digest)
    return found


def require_known(claims: Claims, known: Mapping[str, str]) -> None:
    """Return if everything that IMA measured is among ``known``, digests (hex) by path.

    Raises:
        PolicyError: the first file that is not; or the evidence says nothing of files, for who leaves the log out hides
            what is in it.
    """
    measured = {
        name.removeprefix(PREFIX): item for name, item in claims.measurements.items() if name.startswith(PREFIX)
    }
    if not measured:
        raise PolicyError("the evidence brings no log of IMA", hint="what ran there is not known without it")
    for path, digest in measured.items():
        if known.get(path) != digest:
            raise PolicyError(f"{path} ran or was read there with digest {digest}, which is not known")
