"""The quotes of Intel's data-center attestation, field by field: SGX (version 3) and TDX (versions 4 and 5).

Layout as in Intel's "SGX ECDSA Quote Library" and "TDX DCAP Quoting Library" references. All integers are
little-endian. What no signature covers (bytes behind the signature data) must be zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.shielding.attestation.cursor import Cursor

MAX_QUOTE = 1 << 15  # bytes; real ones have five thousand
_ECDSA_P256 = 2  # the kind of attestation key
_PEM_CHAIN, _WITH_QE_REPORT = 5, 6  # kinds of certification data
_TEES = {0x00: "sgx", 0x81: "tdx"}
_Layout = tuple[tuple[str, int], ...]
_SGX: _Layout = (
    ("cpu_svn", 16), ("misc_select", 4), ("", 12), ("isv_ext_prod_id", 16), ("attributes", 16), ("mrenclave", 32),
    ("", 32), ("mrsigner", 32), ("", 32), ("config_id", 64), ("isv_prod_id", 2), ("isv_svn", 2), ("config_svn", 2),
    ("", 42), ("isv_family_id", 16), ("report_data", 64),
)  # fmt: skip
_TD10: _Layout = (
    ("tee_tcb_svn", 16), ("mrseam", 48), ("mrsignerseam", 48), ("seam_attributes", 8), ("td_attributes", 8),
    ("xfam", 8), ("mrtd", 48), ("mrconfigid", 48), ("mrowner", 48), ("mrownerconfig", 48), ("rtmr0", 48),
    ("rtmr1", 48), ("rtmr2", 48), ("rtmr3", 48), ("report_data", 64),
)  # fmt: skip
_TD15: _Layout = (*_TD10, ("tee_tcb_svn2", 16), ("mrservicetd", 48))
_BODIES: Mapping[int, tuple[str, _Layout]] = {1: ("sgx", _SGX), 2: ("tdx", _TD10), 3: ("tdx", _TD15)}  # of version 5


@dataclass(frozen=True, slots=True)
class Quote:
    """One quote; ``fields`` are those of the enclave's or the trust domain's report, ``chain`` is PEM."""

    version: int
    tee: str
    fields: Mapping[str, bytes]
    chain: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read and write its memory."""
        if self.tee == "sgx":
            return bool(self.fields["attributes"][0] & 0b10)
        return bool(self.fields["td_attributes"][0])  # the whole byte is kept for attributes that undo trust


def read_quote(data: bytes) -> Quote:
    """Read a quote.

    Raises:
        UnreadableArtifact: malformed, or its key is certified in another way than by a PEM chain inside.
        UnsupportedVersion: a version or body that is not known.
    """
    if len(data) > MAX_QUOTE:
        raise UnreadableArtifact(f"the quote is longer than {MAX_QUOTE} bytes")
    cursor = Cursor(data, "quote", "little")
    version, key_kind, tee = cursor.number(2), cursor.number(2), cursor.number(4)
    cursor.take(40)
    if version not in (3, 4, 5):
        raise UnsupportedVersion(f"the quote has version {version}, known are 3 to 5")
    if key_kind != _ECDSA_P256 or tee not in _TEES or (version == 3 and _TEES[tee] != "sgx"):
        raise UnreadableArtifact("the quote is of no known kind of key or world")
    fields = _body(cursor, version, _TEES[tee])
    chain = _chain(Cursor(cursor.block(4, limit=MAX_QUOTE), "signature data of the quote", "little"), version)
    cursor.zeros(cursor.left)
    return Quote(version, _TEES[tee], fields, chain)


def _body(cursor: Cursor, version: int, tee: str) -> dict[str, bytes]:
    layout = _SGX if tee == "sgx" else _TD10
    if version == 5:
        kind, size = cursor.number(2), cursor.number(4)
        found, layout = _BODIES.get(kind, ("", ()))
        if found != tee or size != sum(width for _, width in layout):
            raise UnsupportedVersion(f"the quote has a body of kind {kind} with {size} bytes, which is not known")
    fields: dict[str, bytes] = {}
    for name, width in layout:
        value = cursor.take(width)
        fields |= {name: value} if name else {}
    return fields


def _chain(cursor: Cursor, version: int) -> bytes:
    """Return the PEM chain, past the signature, the attestation key and the quoting enclave's own report."""
    cursor.take(64 + 64)
    if version == 3:
        return _certificates(cursor)
    kind, inner = cursor.number(2), cursor.block(4, limit=MAX_QUOTE)
    cursor.end()
    if kind != _WITH_QE_REPORT:
        raise UnreadableArtifact(f"the quote's key is certified by data of kind {kind}, which is not supported")
    return _certificates(Cursor(inner, cursor.what, "little"))


def _certificates(cursor: Cursor) -> bytes:
    cursor.take(384 + 64)
    cursor.block(2)
    kind, chain = cursor.number(2), cursor.block(4, limit=MAX_QUOTE)
    cursor.end()
    if kind != _PEM_CHAIN:
        raise UnreadableArtifact(f"the quote's certificates are of kind {kind}, not a PEM chain")
    return chain.rstrip(b"\0")
