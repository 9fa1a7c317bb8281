"""The attestation report of AMD SEV-SNP, field by field (firmware ABI, document 56860, table ATTESTATION_REPORT).

All integers are little-endian. Versions 2 to 5 keep these fields where they are; later ones add some in reserved
space, which the signature covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.shielding.attestation.cursor import Cursor

SIZE = 0x4A0
SIGNED = 0x2A0  # bytes that the signature covers
VERSIONS = (2, 3, 4, 5)
DEBUG = 1 << 19  # of the guest policy
MIGRATION_AGENT = 1 << 18
SMT = 1 << 16
VCEK, VLEK = 0, 1
_ECDSA_P384_SHA384 = 1
_LAYOUTS = {  # where the security versions stand in the eight bytes of a TCB version
    "Milan": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Genoa": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Turin": {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report; byte strings as they stand in it."""

    signed: bytes
    signature: bytes  # r and s, big-endian, 48 bytes each
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_info: int
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    reported_tcb: bytes
    chip_id: bytes
    committed_tcb: bytes
    current_build: tuple[int, int, int]
    launch_tcb: bytes

    @property
    def debug(self) -> bool:
        """Whether the guest's owner allowed the host to read and write its memory."""
        return bool(self.policy & DEBUG)


def read_report(data: bytes) -> Report:
    """Read a report.

    Raises:
        UnreadableArtifact: not 1184 bytes, or structurally wrong.
        UnsupportedVersion: a version whose fields are not known.
    """
    if len(data) != SIZE:
        raise UnreadableArtifact(f"an SEV-SNP report has {SIZE} bytes, not {len(data)}")

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], "little")

    if (version := number(0, 4)) not in VERSIONS:
        raise UnsupportedVersion(f"the SEV-SNP report has version {version}, known are {VERSIONS[0]} to {VERSIONS[-1]}")
    if number(0x34, 4) != _ECDSA_P384_SHA384:
        raise UnreadableArtifact("the SEV-SNP report is signed with an unknown algorithm")
    return Report(
        signed=data[:SIGNED],
        signature=_signature(data),
        version=version,
        guest_svn=number(0x04, 4),
        policy=number(0x08, 8),
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=number(0x30, 4),
        platform_info=number(0x40, 8),
        signing_key=number(0x48, 4) >> 2 & 0b111,
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        reported_tcb=data[0x180:0x188],
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_build=(data[0x1EA], data[0x1E9], data[0x1E8]),
        launch_tcb=data[0x1F0:0x1F8],
    )


def _signature(data: bytes) -> bytes:
    cursor = Cursor(data[SIGNED:], "signature of the SEV-SNP report", "little")
    parts = []
    for _ in range(2):
        parts.append(cursor.take(48)[::-1])
        cursor.zeros(24)  # the numbers have 72 bytes each and are below 2**384
    cursor.zeros(cursor.left)
    return b"".join(parts)


def tcb_versions(tcb: bytes, product: str) -> Mapping[str, int]:
    """Return the security versions in a TCB version of one product line.

    Raises:
        UnsupportedVersion: an unknown product line.
    """
    if product not in _LAYOUTS:
        raise UnsupportedVersion(f"processors {product!r} are not known", hint=f"known: {', '.join(_LAYOUTS)}")
    return {name: tcb[place] for name, place in _LAYOUTS[product].items()}
