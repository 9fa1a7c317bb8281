"""The software TPM: its quotes verify, its objects open in their state only, its counters only grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    DigestMismatch,
    HoldfastError,
    PolicyError,
    StorageError,
    Unavailable,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.evidence import canonical
from holdfast.shielding.attestation import Policy, verify
from holdfast.shielding.worlds import sealing
from holdfast.shielding.worlds.software_tpm import SoftwareTpm
from tests.attesting import flipped, tpm_replay, with_body, with_part

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NONCE = bytes(range(32))
REFUSED = (VerificationError, ArtifactError)


@pytest.fixture(scope="module")
def tpm(has_tpm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm") / "state")
    for digest in (b"\x21" * 32, b"\x22" * 32):
        tpm.extend(12, digest)
    yield tpm
    tpm.close()


LOG = canonical.dumps([
    {"digest": "21" * 32, "name": "code", "pcr": 12}, {"digest": "22" * 32, "name": "model", "pcr": 12},
])  # fmt: skip


def test_extending_is_what_the_log_replays(tpm: SoftwareTpm):
    assert tpm.registers(0, 12) == {0: bytes(32), 12: tpm_replay()}


def test_a_real_quote_verifies_and_every_flipped_bit_is_refused(tpm: SoftwareTpm):
    evidence = tpm.quote((12,), NONCE, LOG)
    policy = Policy(kind="tpm2", measurements={"event.model": ("22" * 32,)}, keys=(tpm.key_name(),))
    verify(evidence, policy, nonce=NONCE, at=NOW)
    for name in ("body", "signature", "ak"):
        data = evidence.body if name == "body" else evidence.part(name)
        for bit in range(0, 8 * len(data), 3):
            bad = flipped(data, bit)
            changed = with_body(evidence, bad) if name == "body" else with_part(evidence, name, bad)
            with pytest.raises(REFUSED):
                verify(changed, policy, nonce=NONCE, at=NOW)


def test_the_key_stays_the_same(tpm: SoftwareTpm):
    assert tpm.key_name() == tpm.key_name()


@pytest.mark.slow
def test_counters_only_grow_and_are_apart(tpm: SoftwareTpm):
    assert tpm.count("never", increment=False) == 0
    first = tpm.count("one", increment=True)
    assert tpm.count("one", increment=True) == first + 1 == tpm.count("one", increment=False)
    assert tpm.count("other", increment=True) > 0


def test_its_folder_is_nobody_else_s(has_tpm_tools: None, tmp_path: Path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(StorageError, match="others may enter"):
        SoftwareTpm(tmp_path / "open")


def test_a_tool_that_fails_says_why(tpm: SoftwareTpm):
    with pytest.raises(Unavailable, match="tpm2_pcrextend failed"):
        tpm.call("tpm2_pcrextend", "99:sha256=00")


class PaperTpm:
    """Seals by remembering: for what sealing does around a TPM."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}

    def seal(self, register: int, secret: bytes) -> Mapping[str, bytes]:
        return {"private": secret, "public": bytes((register,))}

    def unseal(self, register: int, sealed: Mapping[str, bytes]) -> bytes:
        if sealed["public"] != bytes((register,)):
            raise PolicyError("another register")
        return sealed["private"]

    def count(self, name: str, *, increment: bool) -> int:
        self.counters[name] = self.counters.get(name, 0) + increment
        return self.counters[name]


def test_sealed_data_is_authenticated_with_its_name_and_number():
    tpm = PaperTpm()
    sealed = sealing.seal(tpm, 12, "store", b"data")
    assert sealing.unseal(tpm, 12, "store", sealed) == b"data"
    with pytest.raises(UnreadableArtifact, match="not the sealed 'other'"):
        sealing.unseal(tpm, 12, "other", sealed)
    tpm.count("other", increment=True)
    renamed = canonical.dumps(canonical.loads(sealed) | {"name": "other"})
    with pytest.raises(DigestMismatch):
        sealing.unseal(tpm, 12, "other", renamed)
    older = sealed
    sealed = sealing.seal(tpm, 12, "store", b"newer")
    with pytest.raises(PolicyError, match="put an old one back"):
        sealing.unseal(tpm, 12, "store", older)
    forged = canonical.dumps(canonical.loads(older) | {"counter": 2})
    with pytest.raises(DigestMismatch):
        sealing.unseal(tpm, 12, "store", forged)


@given(st.data())
def test_damaged_sealed_data_never_opens(data: st.DataObject):
    tpm = PaperTpm()
    sealed = sealing.seal(tpm, 12, "store", b"data")
    bad = flipped(sealed, data.draw(st.integers(0, 8 * len(sealed) - 1)))
    with pytest.raises(HoldfastError):
        sealing.unseal(tpm, 12, "store", bad)
