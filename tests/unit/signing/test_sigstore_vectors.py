"""Bundles that the public Sigstore instances issued years ago, verified offline; and those that must be refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.signing import load_trust, verify, verify_bundle
from holdfast.signing.sigstore import load_root, read_trusted_root
from holdfast.signing.sigstore.roots import embedded
from holdfast.signing.sigstore.trusted_root import parse_authority
from holdfast.signing.trusts.sigstore import SigstoreTrust

ROOT = Path(__file__).resolve().parents[3]
OMS = "issuer=https://sigstore.verify.ibm.com/oauth2"
GITHUB = "https://github.com/login/oauth"
needs_sigstore = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="the public trusted roots come with the package sigstore"
)


@pytest.fixture(scope="session")
def vectors() -> Path:
    base = Path(os.environ.get("HOLDFAST_SHARED", ROOT.parent / "shared")) / "vectors"
    if not base.is_dir():
        pytest.skip(f"no test vectors of others at {base}")
    return base


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("verification opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def anybody(root: str) -> SigstoreTrust:
    return SigstoreTrust(issuer=GITHUB, identity_regex=".+", root=load_root(root))


@needs_sigstore
def test_a_model_signed_in_2025_names_its_signer_and_time_without_a_network(vectors: Path):
    bundle = (vectors / "oms/v1.0.0-sigstore/model.sig").read_bytes()
    proof = verify_bundle(bundle, f"sigstore:identity=stefanb@us.ibm.com,{OMS},root=public-good")
    assert proof.statement.subjects[0].digest["sha256"].startswith("61d4849d9d90076d")
    assert (proof.signers[0].kind, proof.signer) == ("sigstore", "stefanb@us.ibm.com")
    assert proof.signers[0].time.isoformat() == "2025-05-03T01:34:46+00:00"


@needs_sigstore
def test_the_model_signing_specifications_own_vectors(vectors: Path):
    folder = vectors / "oms/spec/test-vectors/v1.0"
    trust = f"sigstore:identity=stefanb@us.ibm.com,{OMS},root=public-good"
    proof = verify_bundle((folder / "valid/sigstore.bundle.json").read_bytes(), trust)
    assert proof.signer == "stefanb@us.ibm.com"
    with pytest.raises(RecordMissing, match="no log entry"):
        verify_bundle((folder / "invalid/missing-tlog-entries.bundle.json").read_bytes(), trust)
    for kind in ("key", "certificate"):
        with pytest.raises((SignerUntrusted, UnsupportedVersion)):
            verify_bundle((folder / f"valid/{kind}.bundle.json").read_bytes(), trust)


@needs_sigstore
def test_the_files_of_that_model_are_verified_with_it(vectors: Path, tmp_path: Path):
    trust = f"sigstore:identity=stefanb@us.ibm.com,{OMS},root=public-good"
    model = Path(shutil.copytree(vectors / "oms/v1.0.0-sigstore", tmp_path / "model"))
    assert verify(model, trust=trust).signer == "stefanb@us.ibm.com"
    (model / "signme-2").write_bytes(b"other weights")
    with pytest.raises(DigestMismatch, match="signme-2"):
        verify(model, trust=trust)


@needs_sigstore
@pytest.mark.parametrize(
    ("trust", "error"),
    [
        (f"identity=stefanb@us.ibm.co,{OMS},root=public-good", SignerUntrusted),
        (f"identity=Stefanb@us.ibm.com,{OMS},root=public-good", SignerUntrusted),
        ("identity=stefanb@us.ibm.com,issuer=https://sigstore.verify.ibm.com/oauth,root=public-good", SignerUntrusted),
        (f"domain=ibm.com,{OMS},root=public-good", SignerUntrusted),
        (f"identity-regex=stefanb,{OMS},root=public-good", SignerUntrusted),
        (f"identity=stefanb@us.ibm.com,{OMS},root=staging", SignerUntrusted),
        (f"identity=stefanb@us.ibm.com,{OMS},root=public-good,at=2025-05-03T01:34:45Z", SignerUntrusted),
    ],
)
def test_the_same_model_under_any_other_trust_is_refused(vectors: Path, trust: str, error: type[HoldfastError]):
    with pytest.raises(error):
        verify_bundle((vectors / "oms/v1.0.0-sigstore/model.sig").read_bytes(), f"sigstore:{trust}")


@needs_sigstore
@pytest.mark.parametrize("trust", ["domain=us.ibm.com", "domain=US.IBM.com", r"identity-regex=[a-z]+@us\.ibm\.com"])
def test_a_signer_can_be_named_by_domain_or_by_a_pattern_of_the_whole_name(vectors: Path, trust: str):
    bundle = (vectors / "oms/v1.0.0-sigstore/model.sig").read_bytes()
    proof = verify_bundle(bundle, f"sigstore:{trust},{OMS},root=public-good,at=2025-05-03T01:34:46Z")
    assert proof.signer == "stefanb@us.ibm.com"


@needs_sigstore
@pytest.mark.parametrize(
    ("name", "identity", "time"),
    [
        ("bundle.txt", "a@tny.town", "2023-04-26T00:21:09+00:00"),  # media type 0.1, P-384, a chain of one
        ("bundle_v3.txt", "william@yossarian.net", "2024-04-02T19:19:09+00:00"),
    ],
)
def test_files_signed_by_others_are_accepted_with_their_staging_root(
    vectors: Path, name: str, identity: str, time: str
):
    folder = vectors / "sigstore/sigstore-python"
    found = anybody("staging").accept_file((folder / f"{name}.sigstore").read_bytes(), folder / name)
    assert (found.name, found.issuer, found.time.isoformat()) == (identity, GITHUB, time)


REFUSED = {
    "bundle_invalid_version.txt.sigstore": (UnsupportedVersion, "media type"),
    "bundle_no_cert_v1.txt.sigstore": (UnreadableArtifact, "certificate is missing"),
    "bundle_no_checkpoint.txt.sigstore": (RecordMissing, "no checkpoint"),
    "bundle_no_log_entry.txt.sigstore": (RecordMissing, "no log entry"),
    "bundle_v3_no_signed_time.txt.sigstore.json": (RecordMissing, "no signed promise with its time"),
}


@needs_sigstore
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("root", ["public-good", "staging"])
def test_each_bad_bundle_is_refused_for_what_its_name_says(vectors: Path, name: str, root: str):
    folder = vectors / "sigstore/sigstore-python"
    kind, reason = REFUSED[name]
    if name == "bundle_v3_no_signed_time.txt.sigstore.json" and root == "staging":
        kind, reason = SignerUntrusted, "knows no signature log"  # it is of the other instance
    with pytest.raises(kind, match=reason):
        anybody(root).accept_file((folder / name).read_bytes(), folder / name.split(".sigstore")[0])


@needs_sigstore
def test_a_good_bundle_over_another_file_or_with_a_stripped_digest_is_refused(vectors: Path):
    folder = vectors / "sigstore/sigstore-python"
    value = json.loads((folder / "bundle_v3.txt.sigstore").read_bytes())
    with pytest.raises(DigestMismatch):
        anybody("staging").accept_file(json.dumps(value).encode(), folder / "bundle.txt")
    del value["messageSignature"]["messageDigest"]
    with pytest.raises(SignatureInvalid):
        anybody("staging").accept_file(json.dumps(value).encode(), folder / "bundle.txt")


def test_trusted_roots_are_read_strictly(vectors: Path):
    folder = vectors / "sigstore/sigstore-python/trusted_root"
    root = read_trusted_root(folder / "trustedroot.v1.json")
    assert [log.origin for log in root.signature_logs] == ["rekor.sigstore.dev"]
    assert [len(item.chain) for item in root.authorities] == [1, 2]
    tiles = read_trusted_root(folder / "trustedroot.v1.local_tlog_ed25519_rekor-tiles.json")
    assert tiles.signature_logs[0].key.details == "PKIX_ED25519"
    with pytest.raises(UnsupportedVersion, match="bad-media-type"):
        read_trusted_root(folder / "trustedroot.badtype.json")


def test_authorities_without_certificates_or_without_their_root_are_refused(vectors: Path):
    folder = vectors / "sigstore/sigstore-python/trusted_root"
    assert len(parse_authority(json.loads((folder / "certificate_authority.json").read_bytes())).chain) == 3
    for name in ("empty", "missingroot"):
        with pytest.raises(UnreadableArtifact):
            parse_authority(json.loads((folder / f"certificate_authority.{name}.json").read_bytes()))


@needs_sigstore
def test_one_trust_written_twice_is_one_trust():
    written = f"sigstore:identity=a@b.org,{OMS},root=public-good"
    assert len({load_trust(written), load_trust(written)}) == 1


PEER_CASES = {
    "bundle.txt": "bundle.txt.sigstore",
    "bundle_v3.txt": "bundle_v3.txt.sigstore",
    "bundle_invalid_version.txt": "bundle_invalid_version.txt.sigstore",
    "bundle_no_cert_v1.txt": "bundle_no_cert_v1.txt.sigstore",
    "bundle_no_checkpoint.txt": "bundle_no_checkpoint.txt.sigstore",
    "bundle_no_log_entry.txt": "bundle_no_log_entry.txt.sigstore",
    "bundle_v3_no_signed_time.txt": "bundle_v3_no_signed_time.txt.sigstore.json",
    "a.txt": "bundle_v3.txt.sigstore",  # another file
}


def peer_accepts(bundle: bytes, data: bytes, root: str) -> bool:
    from sigstore.errors import Error
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(embedded(root))))
    try:
        verifier.verify_artifact(data, Bundle.from_json(bundle), policy.OIDCIssuer(GITHUB))
    except (Error, ValueError):
        return False
    return True


@needs_sigstore
@pytest.mark.parametrize("name", PEER_CASES)
@pytest.mark.parametrize("root", ["public-good", "staging"])
def test_the_sigstore_package_gives_the_same_verdict_on_every_vector(vectors: Path, name: str, root: str):
    folder = vectors / "sigstore/sigstore-python"
    bundle = (folder / PEER_CASES[name]).read_bytes()
    try:
        anybody(root).accept_file(bundle, folder / name)
        accepted = True
    except HoldfastError:
        accepted = False
    assert accepted == peer_accepts(bundle, (folder / name).read_bytes(), root)


@needs_sigstore
def test_the_sigstore_package_accepts_the_signed_model_too(vectors: Path):
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    bundle = (vectors / "oms/v1.0.0-sigstore/model.sig").read_bytes()
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(embedded("public-good"))))
    name = policy.Identity(identity="stefanb@us.ibm.com", issuer="https://sigstore.verify.ibm.com/oauth2")
    kind, payload = verifier.verify_dsse(Bundle.from_json(bundle), name)
    assert kind == "application/vnd.in-toto+json"
    trust = f"sigstore:identity=stefanb@us.ibm.com,{OMS},root=public-good"
    assert json.loads(payload) == json.loads(verify_bundle(bundle, trust).statement.to_bytes())
