"""Trust in certificates: who is accepted, under which name, and that published bundles verify."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from holdfast.errors import InvalidConfig, SignerUntrusted, UnreadableArtifact
from holdfast.signing import Threshold, Trust, load_trust
from holdfast.signing.envelope import read_envelope
from holdfast.signing.trusts import KeyTrust
from holdfast.signing.x509 import NameRule, leaf_key, read_certificates
from tests.authority import BUILDER, DAY, NOW, authority, revoking, sealed, signer, trusting

ROOT = authority("root")
BETWEEN = authority("between", ROOT)
LEAF = signer(BETWEEN)


def test_a_chain_to_a_chosen_root_with_the_demanded_name_is_accepted():
    identity = trusting(ROOT).accept(sealed(LEAF, BETWEEN), 0)
    assert (identity.kind, identity.name, identity.issuer) == ("certificate", BUILDER, "CN=between")
    assert identity.fingerprint == leaf_key(LEAF.certificate).fingerprint
    assert identity.time is None


def test_intermediates_may_come_from_the_verifier_instead_of_the_bundle():
    bare = sealed(LEAF)
    with pytest.raises(SignerUntrusted, match="does not lead to a trusted root"):
        trusting(ROOT).accept(bare, 0)
    assert trusting(ROOT, intermediates=(BETWEEN.certificate,)).accept(bare, 0).name == BUILDER


def test_an_intermediate_may_itself_be_the_trusted_root():
    assert trusting(BETWEEN).accept(sealed(LEAF), 0).name == BUILDER


def test_a_new_key_of_the_same_authority_does_not_count_as_one_below():
    root = authority("root", length=0)
    renewed = authority("root", root, length=0)
    assert trusting(root).accept(sealed(signer(renewed), renewed), 0).name == BUILDER


def test_of_two_paths_the_one_that_holds_is_taken():
    old = authority("between", ROOT, key=BETWEEN.key, end=NOW - DAY)
    assert trusting(ROOT).accept(sealed(LEAF, old, BETWEEN), 0).name == BUILDER


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_of_openssf_model_signatures(curve: ec.EllipticCurve):
    leaf = signer(BETWEEN, key=ec.generate_private_key(curve))
    assert trusting(ROOT).accept(sealed(leaf, BETWEEN), 0).name == BUILDER


def test_ed25519_authorities_and_signers_work():
    root = authority("root", key=ed25519.Ed25519PrivateKey.generate())
    leaf = signer(root, key=ed25519.Ed25519PrivateKey.generate())
    assert trusting(root).accept(sealed(leaf), 0).name == BUILDER


def test_each_kind_of_name_is_matched_exactly():
    names = [x509.UniformResourceIdentifier("https://example.org/build"), x509.DNSName("build.example.org")]
    leaf = signer(BETWEEN, names=names)
    for demanded in ("https://example.org/build", "build.example.org"):
        assert trusting(ROOT, identity=demanded).accept(sealed(leaf, BETWEEN), 0).name == demanded


def test_domain_pattern_subject_issuer_and_policy():
    policy = x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), None)
    leaf = signer(BETWEEN, more=[(x509.CertificatePolicies([policy]), False)])
    envelope = sealed(leaf, BETWEEN)
    assert trusting(ROOT, domain="example.org").accept(envelope, 0).name == BUILDER
    assert trusting(ROOT, pattern=r"[a-z]+@example\.org").accept(envelope, 0).name == BUILDER
    assert trusting(ROOT, subject="CN=builder").accept(envelope, 0).name == "CN=builder"
    both = trusting(ROOT, identity=BUILDER, subject="CN=builder", issuer="CN=between", policy="1.3.6.1.4.1.55555.1")
    assert both.accept(envelope, 0).name == BUILDER
    for wrong in ({"issuer": "CN=other"}, {"policy": "1.3.6.1.4.1.55555.2"}, {"subject": "CN=Builder"}):
        with pytest.raises(SignerUntrusted):
            trusting(ROOT, identity=BUILDER, **wrong).accept(envelope, 0)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "needs a name"),
        ({"issuer": "CN=between"}, "needs a name"),
        ({"identity": "a@example.org", "domain": "example.org"}, "give one of"),
        ({"identity": "*@example.org"}, "takes no star"),
        ({"pattern": "("}, "not a regular expression"),
        ({"domain": "@example.org"}, "not a domain"),
        ({"subject": "builder"}, "not a name"),
    ],
)
def test_a_rule_that_cannot_mean_anything_is_refused(rule: dict[str, str], words: str):
    with pytest.raises(InvalidConfig, match=words):
        NameRule(**rule)


def test_an_unrevoked_chain_passes_where_every_certificate_is_covered():
    lists = (revoking(BETWEEN), revoking(ROOT))
    assert trusting(ROOT, lists=lists).accept(sealed(LEAF, BETWEEN), 0).name == BUILDER
    with pytest.raises(SignerUntrusted, match="no revocation list covers certificate 'CN=between'"):
        trusting(ROOT, lists=lists[:1]).accept(sealed(LEAF, BETWEEN), 0)


def test_it_is_a_trust_that_counts_once_beside_keys():
    trust = trusting(ROOT)
    assert isinstance(trust, Trust)
    assert hash(trust) == hash(trusting(ROOT))
    with pytest.raises(InvalidConfig, match="twice"):
        Threshold((trust, trusting(ROOT)))
    key = KeyTrust(leaf_key(LEAF.certificate))
    assert not trust.claims(sealed(LEAF, BETWEEN), 1)
    assert Threshold((trust, key), 1).judge(sealed(LEAF, BETWEEN))[0].kind == "certificate"


def test_the_specification_reads_files(tmp_path: Path):
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    (tmp_path / "between.pem").write_bytes(BETWEEN.pem)
    (tmp_path / "list.crl").write_bytes(revoking(BETWEEN))
    (tmp_path / "list2.crl").write_bytes(revoking(ROOT))
    files = (
        f"roots={tmp_path}/root.pem,intermediates={tmp_path}/between.pem,crls={tmp_path}/list.crl+{tmp_path}/list2.crl"
    )
    trust = load_trust(f"certificate:{files},identity={BUILDER},at={NOW.isoformat()}")
    assert trust.accept(sealed(LEAF), 0).name == BUILDER
    both = load_trust(
        f"certificate:roots={tmp_path}/root.pem+{tmp_path}/between.pem,subject=(CN=builder),at={NOW:%Y-%m-%dT%XZ}"
    )
    assert both.accept(sealed(LEAF), 0).name == "CN=builder"
    for wrong in ("at=tomorrow", "at=2026-01-01T00:00:00"):
        with pytest.raises(InvalidConfig, match="time"):
            load_trust(f"certificate:roots={tmp_path}/root.pem,identity=a@b,{wrong}")
    with pytest.raises(InvalidConfig, match="roots"):
        load_trust(f"certificate:identity={BUILDER}")
    with pytest.raises(UnreadableArtifact, match="no readable PEM certificate"):
        load_trust(f"certificate:roots={tmp_path}/list.crl,identity=a@b")


@pytest.fixture
def vectors(shared_data: Path) -> Path:
    """Bundles that releases of OpenSSF model signing wrote."""
    folder = shared_data.parent / "vectors" / "oms"
    if not folder.is_dir():
        pytest.skip(f"no published bundles at {folder}")
    return folder


def test_published_bundles_verify_and_only_with_the_exception_their_leaf_needs(vectors: Path):
    envelope = read_envelope((vectors / "v1.0.0-certificate" / "model.sig").read_bytes())
    spec = f"certificate:roots={vectors}/keys/ca-cert.pem,subject=CN=intermediate-ca,at={NOW:%Y-%m-%dT%XZ}"
    with pytest.raises(SignerUntrusted, match="is an authority, not a signer"):
        load_trust(spec).accept(envelope, 0)
    identity = load_trust(f"{spec},allow-ca-leaf=true").accept(envelope, 0)
    assert identity.name == "CN=intermediate-ca"
    [leaf] = read_certificates(vectors / "keys" / "signing-key-cert.pem")
    assert identity.fingerprint == leaf_key(leaf).fingerprint
