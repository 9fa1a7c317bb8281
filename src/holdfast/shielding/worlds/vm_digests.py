"""What firmware will measure of a boot, computed beforehand from the files: kernel, command line, firmware's volumes.

A kernel's digest is the one that UEFI takes of programs (Microsoft, Windows Authenticode Portable Executable
Signature Format): everything but the checksum, the entry about signatures, and the signatures. Before it hands a
kernel over, QEMU fills in fields of its header that are meant for boot loaders (Linux, Documentation/arch/x86/boot),
so what is measured is the file with these fields filled in; newer releases hand over the file as it is.
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact
from holdfast.shielding.attestation.cursor import Cursor

MAX_FILE = 1 << 28  # bytes
_MAGIC, _PROTOCOL, _LOADER, _FLAGS, _RAMDISK, _HEAP, _COMMAND_LINE, _XFLAGS = (
    0x202, 0x206, 0x210, 0x211, 0x218, 0x224, 0x228, 0x236,
)  # fmt: skip
_NEEDED = 0x20C  # of the boot protocol, from Linux 3.8 on
_ABOVE_4G = 1 << 1
_QEMU, _HEAP_USABLE, _REAL, _WORDS = 0xB0, 0x80, 0x10000, 0x20000  # its number, and where it puts things
_ACPI = 0x28000  # bytes below the end of memory that QEMU keeps for tables
_PAGE = 4096
_MANY, _LOW = 0xB0000000, 0x80000000  # from so many bytes of memory on, q35 has only the second below 4 GiB
_LZMA = bytes.fromhex("98584eee143959429d6edc7bd79403cf")  # EE4E5898-3914-4259-9D6E-DC7BD79403CF
_VOLUME, _SECTION_VOLUME = b"_FVH", 0x17


def kernel_digests(kernel: Path, *, initrd_size: int, memory: int) -> tuple[str, str]:
    """Return the digests (hex) that may be measured of a kernel: as QEMU fills it in, and as it is.

    Args:
        kernel: the file.
        initrd_size: bytes of the initial file system.
        memory: MiB of the machine.

    Raises:
        UnreadableArtifact: it is no Linux kernel that UEFI starts.
    """
    data = read_bytes(kernel, "kernel", limit=MAX_FILE)
    if data[_MAGIC : _MAGIC + 4] != b"HdrS" or int.from_bytes(data[_PROTOCOL : _PROTOCOL + 2], "little") < _NEEDED:
        raise UnreadableArtifact(f"{kernel} is no Linux kernel for x86-64", hint="name the vmlinuz of a distribution")
    filled = bytearray(data)
    low = memory << 20 if memory << 20 < _MANY else _LOW
    limit = low - _ACPI - 1
    if not data[_XFLAGS] & _ABOVE_4G:
        limit = min(limit, int.from_bytes(data[0x22C:0x230], "little"))
    place = (limit - initrd_size) & -_PAGE
    filled[_LOADER] = _QEMU
    filled[_FLAGS] |= _HEAP_USABLE
    for field, value, size in (
        (_RAMDISK, place, 4),
        (_RAMDISK + 4, initrd_size, 4),
        (_HEAP, _WORDS - _REAL - 0x200, 2),
        (_COMMAND_LINE, _WORDS, 4),
    ):
        filled[field : field + size] = value.to_bytes(size, "little")
    return program_digest(bytes(filled), kernel).hex(), program_digest(data, kernel).hex()


def program_digest(data: bytes, path: Path) -> bytes:
    """Return the SHA-256 that firmware takes of a program; ``path`` is for messages.

    Raises:
        UnreadableArtifact: it is no program for UEFI.
    """
    start = int.from_bytes(data[0x3C:0x40], "little")
    optional = start + 24
    checksum, entry = optional + 64, optional + 112 + 4 * 8
    if data[:2] != b"MZ" or data[start : start + 4] != b"PE\0\0" or data[optional : optional + 2] != b"\x0b\x02":
        raise UnreadableArtifact(f"{path} is no 64-bit program for UEFI", hint="a Linux kernel with CONFIG_EFI_STUB=y")
    signatures = int.from_bytes(data[entry + 4 : entry + 8], "little")
    if len(data) < entry + 8 or signatures > len(data) - entry - 8:
        raise UnreadableArtifact(f"{path} is cut short")
    signed = len(data) - signatures
    return hashlib.sha256(data[:checksum] + data[checksum + 4 : entry] + data[entry + 8 : signed]).digest()


def command_line_digest(command_line: str) -> str:
    """Return the SHA-256 (hex) that Linux takes of its command line: UTF-16 with a zero, as UEFI hands it over."""
    return hashlib.sha256(f"{command_line}\0".encode("utf-16-le")).hexdigest()


def firmware_volume_digest(firmware: Path) -> str:
    """Return the SHA-256 (hex) of the last volume in OVMF, which holds all that runs once memory is set up.

    The volume before it is in use when it is measured, so that no file says what its digest will be.

    Raises:
        UnreadableArtifact: it is no OVMF.
    """
    data = read_bytes(firmware, "firmware", limit=MAX_FILE)
    place = data.find(_LZMA)
    if place < 4:
        raise UnreadableArtifact(f"{firmware} is no OVMF", hint="name its OVMF_CODE.fd")
    start = place - 4 + int.from_bytes(data[place + 16 : place + 18], "little")
    try:
        inner = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(data[start:], max_length=MAX_FILE)
    except lzma.LZMAError as error:
        raise UnreadableArtifact(f"{firmware} is no OVMF: {error}") from error
    volumes = [section for kind, section in _sections(inner) if kind == _SECTION_VOLUME and section[40:44] == _VOLUME]
    if not volumes:
        raise UnreadableArtifact(f"{firmware} holds no volume")
    return hashlib.sha256(volumes[-1]).hexdigest()


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and content of the sections of firmware (UEFI Platform Initialization, volume 3, 2.2.4)."""
    cursor, found = Cursor(data, "firmware", "little"), list[tuple[int, bytes]]()
    while cursor.left >= 4:
        size, kind, head = cursor.number(3), cursor.number(1), 4
        if size == (1 << 24) - 1:
            size, head = cursor.number(4), 8
        if size < head:
            raise UnreadableArtifact("the firmware has a section without a size")
        found.append((kind, cursor.take(size - head)))
        cursor.take(min(-cursor.place % 4, cursor.left))
    return found
