"""Timestamps: signatures outlive certificates, and an authority is asked over HTTP only when it is named."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, SignatureInvalid, SignerUntrusted, UnreadableArtifact, WorkerUnreachable
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, load_trust, sign_artifact, sign_statement, verify_artifact, verify_bundle
from holdfast.signing.envelope import read_envelope, write_envelope
from holdfast.signing.timestamp_request import request_timestamp
from holdfast.signing.timestamps import add_timestamp, timestamp_bundle, timestamp_file, verify_timestamp
from holdfast.signing.trusts import KeyTrust
from holdfast.signing.trusts.timestamped import TimestampedTrust
from tests.authority import BUILDER, authority, sealed, signer, trusting
from tests.timestamping import CLOCK, Tsa, open_authority, serving, stamper, validity

YEAR = timedelta(days=365)
SOON = timedelta(hours=12)  # CLOCK stood still when the tests were imported; a long run goes on
STATEMENT = Statement((Subject("model", {"sha256": "0" * 64}),), "https://example.org/kind", {"a": 1})


@pytest.fixture
def tsa(tmp_path: Path) -> Tsa:
    return open_authority(tmp_path / "tsa")


def test_an_authority_may_have_intermediates_that_come_along(tmp_path: Path):
    root = authority("tsa root" + "." * 50, **validity(-100, 100))  # openssl sorts them only if the longer one is later
    between = authority("tsa between", root, **validity(-100, 100))
    tsa = open_authority(tmp_path / "tsa", stamper(between), root)
    (tsa.folder / "chain.pem").write_bytes(between.pem)
    token = tsa.stamp(b"signature")
    assert abs(verify_timestamp(token, b"signature", (root.certificate,), now=CLOCK + SOON) - CLOCK) < SOON
    (tsa.folder / "chain.pem").unlink()
    with pytest.raises(SignerUntrusted, match="does not lead to a trusted root"):
        verify_timestamp(tsa.stamp(b"signature"), b"signature", (root.certificate,), now=CLOCK + SOON)


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_a_token_says_when_a_signature_existed(tsa: Tsa, digest: str):
    time = verify_timestamp(tsa.stamp(b"signature", digest), b"signature", (tsa.root.certificate,), now=CLOCK + SOON)
    assert abs(time - CLOCK) < SOON


def test_a_timestamped_signature_outlives_its_certificate(tsa: Tsa):
    root = authority("root", **validity(-100, 1))
    leaf = signer(root, **validity(-1, 1))
    bare = write_envelope(sealed(leaf))
    stamped = add_timestamp(bare, tsa.stamp(read_envelope(bare).signatures[0].value))
    later = {"at": CLOCK + YEAR, "tsa_roots": (tsa.root.certificate,)}
    identity = trusting(root, **later).accept(read_envelope(stamped), 0)
    assert identity.name == BUILDER
    assert identity.time is not None
    assert abs(identity.time - CLOCK) < SOON
    for envelope, options in ((bare, later), (stamped, {"at": CLOCK + YEAR})):
        with pytest.raises(SignerUntrusted, match="expired"):
            trusting(root, **options).accept(read_envelope(envelope), 0)


def test_the_timestamp_option_of_a_certificate_trust(tsa: Tsa, tmp_path: Path):
    root = authority("root", **validity())
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "tsa.pem").write_bytes(tsa.root.pem)
    envelope = sealed(signer(root, **validity()))
    stamped = add_timestamp(write_envelope(envelope), tsa.stamp(envelope.signatures[0].value))
    trust = load_trust(f"certificate:roots={tmp_path}/root.pem,identity={BUILDER},tsa-roots={tmp_path}/tsa.pem")
    assert trust.accept(read_envelope(stamped), 0).time is not None
    assert trust.accept(envelope, 0).time is None


def test_a_bare_key_with_a_timestamp(tsa: Tsa, tmp_path: Path):
    key = generate_key()
    (tmp_path / "key.pub").write_bytes(key.public.pem)
    (tmp_path / "tsa.pem").write_bytes(tsa.root.pem)
    bundle = sign_statement(STATEMENT, key)
    stamped = add_timestamp(bundle, tsa.stamp(read_envelope(bundle).signatures[0].value))
    trust = load_trust(f"timestamped:trust={tmp_path}/key.pub,tsa-roots={tmp_path}/tsa.pem")
    [identity] = verify_bundle(stamped, trust).signers
    assert identity.kind == "key"
    assert identity.time is not None
    assert abs(identity.time - CLOCK) < SOON
    assert verify_bundle(stamped, key.public).statement == STATEMENT
    with pytest.raises(SignatureInvalid, match="has no timestamp"):
        verify_bundle(bundle, trust)
    with pytest.raises(InvalidConfig, match="roots"):
        TimestampedTrust(trust=KeyTrust(key.public), tsa_roots=())


def test_of_several_timestamps_the_trusted_ones_count(tsa: Tsa, tmp_path: Path):
    stranger = open_authority(tmp_path / "stranger", root=authority("other tsa root", **validity()))
    key = generate_key()
    bundle = sign_statement(STATEMENT, key)
    value = read_envelope(bundle).signatures[0].value
    both = add_timestamp(add_timestamp(bundle, stranger.stamp(value)), tsa.stamp(value))
    trust = TimestampedTrust(trust=KeyTrust(key.public), tsa_roots=(tsa.root.certificate,))
    assert verify_bundle(both, trust).signers[0].time is not None


# --- asking for one ---


def test_a_named_authority_is_asked(tsa: Tsa):
    bundle = sign_statement(STATEMENT, generate_key())
    with serving(lambda body: (200, {}, tsa.answer(body))) as url:
        stamped = timestamp_bundle(bundle, url)
    [token] = read_envelope(stamped).material.timestamps
    value = read_envelope(bundle).signatures[0].value
    assert abs(verify_timestamp(token, value, (tsa.root.certificate,), now=CLOCK + SOON) - CLOCK) < SOON
    assert read_envelope(stamped).signatures == read_envelope(bundle).signatures


def test_the_bundle_of_a_model_is_stamped_in_its_place(tsa: Tsa, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    key = generate_key()
    path = sign_artifact(tmp_path / "model", key)
    with serving(lambda body: (200, {}, tsa.answer(body))) as url:
        assert abs(timestamp_file(path, url) - CLOCK) < SOON
    trust = TimestampedTrust(trust=KeyTrust(key.public), tsa_roots=(tsa.root.certificate,))
    [identity] = verify_artifact(tmp_path / "model", trust).signers
    assert identity.time is not None
    stamped = path.read_bytes()
    with serving(lambda _: (500, {}, b"")) as url, pytest.raises(WorkerUnreachable):
        timestamp_file(path, url)
    assert path.read_bytes() == stamped


def test_the_openssf_tool_reads_a_stamped_bundle(tsa: Tsa, tmp_path: Path):
    pytest.importorskip("model_signing", reason="the openssf tool is not installed")
    pytest.importorskip("OpenSSL", reason="the openssf tool needs pyopenssl")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    key = generate_key()
    (tmp_path / "key.pub").write_bytes(key.public.pem)
    path = sign_artifact(tmp_path / "model", key)
    bundle = path.read_bytes()
    path.write_bytes(add_timestamp(bundle, tsa.stamp(read_envelope(bundle).signatures[0].value)))
    words = ["verify", "key", "model", "--signature", "model/model.sig", "--public_key", "key.pub"]
    done = subprocess.run(
        [sys.executable, "-m", "model_signing", *words], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_answers_that_are_none(tsa: Tsa):
    replayed = tsa.stamp(b"signature", "sha512")
    for answer, error, words in [
        ((200, {}, replayed), SignatureInvalid, "another request"),
        ((200, {}, tsa.stamp(b"something else")), SignatureInvalid, "another signature"),
        ((200, {}, b"hello"), UnreadableArtifact, "malformed"),
        ((200, {}, b""), UnreadableArtifact, "malformed"),
        ((200, {}, b"x" * (1 << 17)), WorkerUnreachable, "more than"),
        ((500, {}, b""), WorkerUnreachable, "does not answer"),
        ((302, {"Location": "http://127.0.0.2/"}, b""), WorkerUnreachable, "sends us to"),
        ((307, {"Location": "http://127.0.0.2/"}, b""), WorkerUnreachable, "sends us to|does not answer"),
    ]:
        with serving(lambda _, answer=answer: answer) as url, pytest.raises(error, match=words):
            request_timestamp(b"signature", url)


def test_an_authority_that_never_answers_is_given_up():
    release = threading.Event()

    def wait(_: bytes) -> tuple[int, dict[str, str], bytes]:
        release.wait(20)
        return 200, {}, b""

    with serving(wait) as url:
        with pytest.raises(WorkerUnreachable, match="timed out"):
            request_timestamp(b"signature", url, timeout=0.2)
        release.set()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/", "example.org", "", "data:,x"])
def test_only_web_addresses_are_asked(url: str):
    with pytest.raises(InvalidConfig, match="no address"):
        request_timestamp(b"signature", url)


def test_an_authority_that_refuses(tmp_path: Path):
    strict = open_authority(tmp_path / "strict", digests="sha256")
    with (
        serving(lambda body: (200, {}, strict.answer(body))) as url,
        pytest.raises(UnreadableArtifact, match="refused"),
    ):
        request_timestamp(b"signature", url)
