"""The software TPM: its quotes verify, its objects open in their state only, its counters only grow."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    DigestMismatch,
    HoldfastError,
    PolicyError,
    SignerUntrusted,
    StorageError,
    Unavailable,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.evidence import canonical
from holdfast.shielding.attestation import Policy, verify
from holdfast.shielding.attestation.enrolment import challenge, read_endorsement_key, require_endorsed
from holdfast.shielding.worlds import Measurement, sealing
from holdfast.shielding.worlds.software_tpm import SoftwareTpm
from tests.attesting import block, flipped, tpm_attestation_key, tpm_key, tpm_replay, with_body, with_part
from tests.authority import authority, issue

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NONCE = bytes(range(32))
REFUSED = (VerificationError, ArtifactError)


@pytest.fixture(scope="module")
def tpm(has_tpm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm") / "state")
    for extended in Measurement((("code", b"\x21" * 32), ("model", b"\x22" * 32))).extended():
        tpm.extend(12, extended)
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


def test_counters_whose_names_meet_at_one_index_are_apart(tpm: SoftwareTpm):
    places: dict[str, str] = {}
    for number in itertools.count():
        name = f"model-{number}"
        place = hashlib.sha256(name.encode()).hexdigest()[:5]
        if place in places:
            break
        places[place] = name
    other = places[place]
    first = tpm.count(name, increment=True)
    assert tpm.count(other, increment=False) == 0
    tpm.count(other, increment=True)
    tpm.count(other, increment=True)
    assert tpm.count(name, increment=False) == first
    assert tpm.count(name, increment=True) == first + 1


@pytest.mark.slow
def test_a_tpm_that_holds_both_keys_is_enrolled_and_no_other(tpm: SoftwareTpm):
    key = tpm.attestation_key()
    asked = challenge(tpm.endorsement_key(), key)
    answer = tpm.activate(asked)
    assert asked.accept(answer) == tpm.key_name()
    with pytest.raises(PolicyError, match="did not find the secret"):
        asked.accept(answer[::-1])
    elsewhere = tpm_key(tpm_attestation_key())  # a key that somebody claims is in this TPM
    with pytest.raises(PolicyError, match="does not hold the keys"):
        tpm.activate(challenge(tpm.endorsement_key(), elsewhere))
    for part in ("credential", "encrypted"):
        damaged = replace(asked, **{part: flipped(getattr(asked, part), 100)})
        with pytest.raises(PolicyError):
            tpm.activate(damaged)


def test_only_a_restricted_decryption_key_can_be_an_endorsement_key():
    with pytest.raises(SignerUntrusted, match="only decrypts"):
        challenge(tpm_key(tpm_attestation_key()), tpm_key(tpm_attestation_key()))
    with pytest.raises(SignerUntrusted, match="only decrypts"):
        read_endorsement_key(endorsement(attributes=0x000500B2))
    read_endorsement_key(endorsement())


def endorsement(key: ec.EllipticCurvePrivateKey | None = None, attributes: int = 0x000300B2) -> bytes:
    """TPM2B_PUBLIC of the default template."""
    point = (key or tpm_attestation_key()).public_key().public_numbers()
    head = b"\x00\x23\x00\x0b" + attributes.to_bytes(4, "big") + block(bytes(32))
    scheme = bytes.fromhex("000600800043001000030010")
    return block(head + scheme + block(point.x.to_bytes(32, "big")) + block(point.y.to_bytes(32, "big")))


def test_an_endorsement_key_is_vouched_for_by_its_maker():
    maker = authority("TPM maker")
    key = tpm_attestation_key()
    chain = issue("TPM", maker, key=key).pem + maker.pem
    assert len(require_endorsed(endorsement(), chain, (maker.pem,), NOW)) == 64
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        require_endorsed(endorsement(), chain, (authority("TPM maker").pem,), NOW)
    with pytest.raises(SignerUntrusted, match="another endorsement key"):
        require_endorsed(endorsement(ec.generate_private_key(ec.SECP256R1())), chain, (maker.pem,), NOW)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_endorsement_key_raises_nothing_but_our_errors(data: bytes):
    with pytest.raises(HoldfastError):
        read_endorsement_key(block(data))


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


@settings(deadline=None)
@given(st.data())
def test_damaged_sealed_data_never_opens(data: st.DataObject):
    tpm = PaperTpm()
    sealed = sealing.seal(tpm, 12, "store", b"data")
    bad = flipped(sealed, data.draw(st.integers(0, 8 * len(sealed) - 1)))
    with pytest.raises(HoldfastError):
        sealing.unseal(tpm, 12, "store", bad)
