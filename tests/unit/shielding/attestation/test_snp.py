"""SEV-SNP: reports of our own machines and of a real one; whatever is altered, exchanged or too old is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    HoldfastError,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.shielding.attestation import Evidence, Policy, verify
from holdfast.shielding.attestation.der import read_certificate
from holdfast.shielding.attestation.snp_report import SIGNED, SIZE, read_report
from tests.attesting import NONCE, NOW, SNP_TCB, SnpMachine, amd_chain, flipped, snp_policy, with_body, with_part
from tests.authority import authority

REFUSED = (VerificationError, ArtifactError)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_the_report_of_a_machine_with_an_allowed_measurement_is_accepted(product: str):
    claims = verify(SnpMachine(product).evidence(), snp_policy(product), nonce=NONCE, at=NOW)
    assert claims.measurements["measurement"] == "11" * 48
    assert claims.versions["tcb.snp"] == SNP_TCB["snp"]
    assert claims.versions["tcb.microcode"] == SNP_TCB["microcode"]
    assert claims.report_data == NONCE.ljust(64, b"\0")
    assert claims.measurements["guest_policy"] == "0000000000030000"
    assert claims.details["processor"] == product
    assert not claims.debug


def test_a_cloud_s_key_vouches_for_no_chip_but_for_the_patch_level():
    claims = verify(SnpMachine(cloud=True).evidence(), snp_policy(), nonce=NONCE, at=NOW)
    assert claims.details["key"] == "vlek"


def test_a_report_that_leaves_the_chip_s_name_out_is_accepted_and_one_of_another_chip_is_not():
    verify(SnpMachine().evidence(chip=bytes(64)), snp_policy(), nonce=NONCE, at=NOW)
    with pytest.raises(SignerUntrusted, match="another chip"):
        verify(SnpMachine().evidence(chip=b"\x07" * 64), snp_policy(), nonce=NONCE, at=NOW)


def test_another_nonce_is_a_replay():
    with pytest.raises(PolicyError, match="another nonce"):
        verify(SnpMachine().evidence(), snp_policy(), nonce=bytes(32), at=NOW)


def test_a_guest_that_can_be_debugged_is_refused_unless_the_policy_says_so():
    evidence = SnpMachine().evidence(debug=True)
    with pytest.raises(PolicyError, match="debugged"):
        verify(evidence, snp_policy(), nonce=NONCE, at=NOW)
    assert verify(evidence, snp_policy(debug=True), nonce=NONCE, at=NOW).debug


def test_another_measurement_is_refused_by_name():
    evidence = SnpMachine().evidence(measurement=b"\x12" * 48)
    with pytest.raises(PolicyError, match="measurement measurement is 1212"):
        verify(evidence, snp_policy(), nonce=NONCE, at=NOW)


def test_an_older_patch_level_is_refused_by_name():
    with pytest.raises(PolicyError, match=r"tcb\.snp is 8, demanded is at least 9"):
        verify(SnpMachine().evidence(), snp_policy(minimum={"tcb.snp": 9}), nonce=NONCE, at=NOW)
    with pytest.raises(PolicyError, match=r"no version 'tcb\.gpu'"):
        verify(SnpMachine().evidence(), snp_policy(minimum={"tcb.gpu": 0}), nonce=NONCE, at=NOW)


def test_a_certificate_of_another_patch_level_does_not_vouch_for_the_report():
    newer = SnpMachine(tcb=SNP_TCB | {"snp": 9})
    evidence = with_part(SnpMachine().evidence(), "vcek", newer.certificate())
    with pytest.raises(SignerUntrusted, match=r"another patch level \(snp\)"):
        verify(evidence, snp_policy(), nonce=NONCE, at=NOW)


def test_the_certificate_of_another_chip_does_not_verify_the_report():
    other = SnpMachine(chip=b"\x05" * 64)
    with pytest.raises(SignatureInvalid, match="SEV-SNP report does not verify"):
        verify(with_part(SnpMachine().evidence(), "vcek", other.certificate()), snp_policy(), nonce=NONCE, at=NOW)


def test_a_chain_to_somebody_else_s_root_is_refused():
    stranger = authority("ARK-Milan")
    _, middle = amd_chain("Milan")
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(SnpMachine().evidence(), snp_policy(roots=()), nonce=NONCE, at=NOW)  # AMD's own roots are asked for
    swapped = with_part(SnpMachine().evidence(), "chain", middle.pem + stranger.pem)
    with pytest.raises(SignatureInvalid, match="was not issued by"):
        verify(swapped, snp_policy(roots=(stranger.pem,)), nonce=NONCE, at=NOW)


def test_the_roots_of_one_line_of_processors_do_not_vouch_for_another():
    """The certificate's product decides where the versions stand, so a wrong one would misread them."""
    evidence = SnpMachine("Turin").evidence()
    genoa = with_part(evidence, "vcek", SnpMachine("Genoa").certificate())
    with pytest.raises(REFUSED):
        verify(genoa, snp_policy("Turin"), nonce=NONCE, at=NOW)


@pytest.mark.parametrize("days", [-101, 101])
def test_what_is_not_valid_at_the_time_asked_for_is_refused(days: int):
    with pytest.raises(SignerUntrusted, match="is valid from"):
        verify(SnpMachine().evidence(), snp_policy(), nonce=NONCE, at=NOW + timedelta(days=days))


def test_the_library_s_warning_about_serial_number_zero_is_not_needed(recwarn: pytest.WarningsRecorder):
    certificate = read_certificate(SnpMachine().certificate(), "certificate")
    assert certificate.start < NOW < certificate.end
    assert not recwarn.list


def test_the_certificate_reader_agrees_with_the_library():
    from cryptography import x509

    der = SnpMachine().certificate(serial_zero=False)
    ours, theirs = read_certificate(der, "certificate"), x509.load_der_x509_certificate(der)
    assert ours.signed == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert ours.issuer == theirs.issuer.public_bytes()
    assert (ours.start, ours.end) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert {item.oid.dotted_string: item.value.value for item in theirs.extensions} == ours.extensions


@pytest.mark.parametrize("step", [37])
def test_every_flipped_bit_of_the_report_is_refused(step: int):
    evidence, policy = SnpMachine().evidence(), snp_policy()
    for bit in range(0, 8 * SIZE, step):
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), policy, nonce=NONCE, at=NOW)


@pytest.mark.slow
def test_many_single_flipped_bits_of_report_and_certificate_are_refused():
    evidence, policy = SnpMachine().evidence(), snp_policy()
    for bit in range(0, 8 * SIZE, 7):  # every byte, and each place in a byte
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), policy, nonce=NONCE, at=NOW)
    certificate = evidence.part("vcek")
    for bit in range(0, 8 * len(certificate), 7):
        with pytest.raises(REFUSED):
            verify(with_part(evidence, "vcek", flipped(certificate, bit)), policy, nonce=NONCE, at=NOW)


def test_every_truncation_and_anything_behind_is_refused():
    evidence = SnpMachine().evidence()
    for length in (0, 1, SIGNED, SIZE - 1):
        with pytest.raises(UnreadableArtifact):
            verify(with_body(evidence, evidence.body[:length]), snp_policy(), nonce=NONCE, at=NOW)
    with pytest.raises(UnreadableArtifact):
        verify(with_body(evidence, evidence.body + b"\0"), snp_policy(), nonce=NONCE, at=NOW)
    certificate = evidence.part("vcek")
    for length in range(0, len(certificate), 7):
        with pytest.raises(REFUSED):
            verify(with_part(evidence, "vcek", certificate[:length]), snp_policy(), nonce=NONCE, at=NOW)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_the_readers_raise_nothing_but_our_errors(data: bytes):
    for reader in (read_report, lambda raw: read_certificate(raw, "certificate")):
        with pytest.raises(HoldfastError):
            reader(data)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_certificate_raises_nothing_but_our_errors(data: st.DataObject):
    der = bytearray(_certificate())
    for place in data.draw(st.lists(st.integers(0, len(der) - 1), min_size=1, max_size=4)):
        der[place] = data.draw(st.integers(0, 255))
    try:
        read_certificate(bytes(der), "certificate")
    except HoldfastError:
        return


_CERTIFICATE: list[bytes] = []


def _certificate() -> bytes:
    if not _CERTIFICATE:
        _CERTIFICATE.append(SnpMachine().certificate())
    return _CERTIFICATE[0]


# ----- the real thing

REAL_NONCE = bytes((1, 2, 3, 4, 5)).ljust(64, b"\0")
REAL_TIME = datetime(2023, 1, 1, tzinfo=UTC)
REAL_POLICY = Policy(kind="sev-snp", any_code=True, debug=True)


@pytest.fixture(scope="session")
def real(vectors: Path) -> Evidence:
    folder = vectors / "snp" / "verify"
    parts = {"vcek": folder / "testdata" / "vcek.testcer", "chain": folder / "trust" / "ask_ark_milan.pem"}
    body = (folder / "testdata" / "attestation.bin").read_bytes()
    return Evidence(kind="sev-snp", body=body, collateral={name: path.read_bytes() for name, path in parts.items()})


def test_a_real_report_verifies_up_to_amd_s_root(real: Evidence):
    claims = verify(real, REAL_POLICY, nonce=REAL_NONCE, at=REAL_TIME)
    assert claims.measurements["measurement"].startswith("b07af9620f3b839b")
    assert {name: claims.versions[f"tcb.{name}"] for name in ("bootloader", "tee", "snp", "microcode")} == {
        "bootloader": 2, "tee": 0, "snp": 5, "microcode": 68,
    }  # fmt: skip
    assert claims.details["processor"] == "Milan"


def test_the_real_guest_can_be_debugged_and_is_refused_by_default(real: Evidence):
    with pytest.raises(PolicyError, match="debugged"):
        verify(real, Policy(kind="sev-snp", any_code=True), nonce=REAL_NONCE, at=REAL_TIME)


@pytest.mark.parametrize("line", ["genoa", "turin_vcek", "milan_vlek"])
def test_the_chains_of_other_lines_do_not_vouch_for_the_real_report(real: Evidence, vectors: Path, line: str):
    chain = (vectors / "snp" / "verify" / "trust" / f"ask_ark_{line}.pem").read_bytes()
    with pytest.raises(SignatureInvalid):
        verify(with_part(real, "chain", chain), REAL_POLICY, nonce=REAL_NONCE, at=REAL_TIME.replace(year=2024))


@pytest.mark.parametrize("line", ["milan", "genoa", "turin_vcek", "milan_vlek", "genoa_vlek", "turin_vlek"])
def test_amd_s_published_chains_reach_the_pinned_roots(vectors: Path, line: str):
    from holdfast.shielding.attestation.chains import from_pem, require_chain
    from holdfast.shielding.attestation.roots import AMD

    chain = from_pem((vectors / "snp" / "verify" / "trust" / f"ask_ark_{line}.pem").read_bytes(), "chain")
    assert AMD[require_chain(chain, AMD, REAL_TIME.replace(year=2026))].lower() == line.partition("_")[0]


def test_the_real_certificate_has_expired_in_2030(real: Evidence):
    with pytest.raises(SignerUntrusted, match="is valid from"):
        verify(real, REAL_POLICY, nonce=REAL_NONCE, at=datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("part", ["body", "vcek"])
def test_flipped_bits_of_the_real_report_are_refused(real: Evidence, part: str):
    data = real.body if part == "body" else real.part(part)
    for bit in range(0, 8 * len(data), 53):
        bad = flipped(data, bit)
        changed = with_body(real, bad) if part == "body" else with_part(real, part, bad)
        with pytest.raises(REFUSED):
            verify(changed, REAL_POLICY, nonce=REAL_NONCE, at=REAL_TIME)


def test_a_revoked_intermediate_is_refused():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    root, middle = amd_chain("Milan")

    def listing(*serials: int, days: int = 10) -> bytes:
        builder = x509.CertificateRevocationListBuilder(root.certificate.subject, NOW, NOW + timedelta(days=days))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, NOW - timedelta(days=1)).build()
            builder = builder.add_revoked_certificate(entry)
        scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)  # as AMD's are signed
        return builder.sign(root.key, hashes.SHA384(), rsa_padding=scheme).public_bytes(Encoding.DER)

    evidence, policy = SnpMachine().evidence(), snp_policy(revocation=True)
    with pytest.raises(SignerUntrusted, match="demands a revocation list"):
        verify(evidence, policy, nonce=NONCE, at=NOW)
    assert verify(with_part(evidence, "crl", listing()), policy, nonce=NONCE, at=NOW).unrevoked
    with pytest.raises(SignerUntrusted, match="is revoked"):
        verify(with_part(evidence, "crl", listing(middle.certificate.serial_number)), policy, nonce=NONCE, at=NOW)
    with pytest.raises(SignerUntrusted, match="not current"):
        verify(with_part(evidence, "crl", listing()), policy, nonce=NONCE, at=NOW + timedelta(days=11))
    with pytest.raises(REFUSED):
        verify(with_part(evidence, "crl", flipped(listing(), 900)), policy, nonce=NONCE, at=NOW)
