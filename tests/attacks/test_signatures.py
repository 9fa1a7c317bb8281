"""Forged and damaged signatures: each must be refused, never accepted with a shrug."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import HoldfastError, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement, Subject
from holdfast.signing import (
    generate_key,
    load_trust,
    sign,
    sign_statement,
    verify,
    verify_bundle,
    verify_passport,
    write_passport,
)
from holdfast.signing.envelope import Envelope, pae
from holdfast.signing.trust import Identity
from holdfast.signing.trusts import KeyTrust, Threshold

KEY = generate_key()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(64)))
    (folder / "sub" / "config.json").write_text("{}")
    sign(folder, key=KEY)
    return folder


def refused(path: Path) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        verify(path, trust=KEY.public)
    assert caught.value.exit_code in (1, 2)
    return caught.value


def resign(model: Path, change: Callable[[dict[str, Any]], None], payload_type: str = PAYLOAD_TYPE) -> None:
    """Change the signed statement and sign it again with the right key: the *content* must be refused."""
    path = model / "model.sig"
    bundle = json.loads(path.read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["payloadType"] = payload_type
    signature = KEY.sign(pae(payload_type, payload))
    bundle["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signature).decode()}]
    path.write_bytes(json.dumps(bundle).encode())


def first(statement: dict[str, Any]) -> dict[str, Any]:
    return statement["predicate"]["resources"][0]


CONTENT = {
    "no change at all is accepted": lambda s: None,
    "type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "predicate type": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "two subjects": lambda s: s["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}),
    "no subject": lambda s: s["subject"].clear(),
    "root digest": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    "duplicate resource": lambda s: s["predicate"]["resources"].append(dict(first(s))),
    "no resources": lambda s: s["predicate"]["resources"].clear(),
    "name ./": lambda s: first(s).update(name="./" + first(s)["name"]),
    "name ..": lambda s: first(s).update(name="../" + first(s)["name"]),
    "name absolute": lambda s: first(s).update(name="/" + first(s)["name"]),
    "name doubled slash": lambda s: first(s).update(name="sub//config.json"),
    "name trailing slash": lambda s: first(s).update(name=first(s)["name"] + "/"),
    "upper-case digest": lambda s: first(s).update(digest=first(s)["digest"].upper()),
    "short digest": lambda s: first(s).update(digest="ab"),
    "algorithm": lambda s: first(s).update(algorithm="md5"),
    "hash type": lambda s: s["predicate"]["serialization"].update(hash_type="md5"),
    "ignore everything": lambda s: s["predicate"]["serialization"].update(ignore_paths=["."]),
    "ignore a file": lambda s: s["predicate"]["serialization"].update(ignore_paths=["weights.bin"]),
}


@pytest.mark.parametrize("name", list(CONTENT))
def test_contradicting_statements_are_refused_even_with_a_good_signature(model: Path, name: str) -> None:
    resign(model, CONTENT[name])
    if name.endswith("accepted"):
        assert verify(model, trust=KEY.public).signer == KEY.public.fingerprint
    else:
        refused(model)


def test_a_signature_over_another_payload_type_is_refused(model: Path) -> None:
    resign(model, lambda s: None, "application/json")
    assert "payload type" in str(refused(model))


def edit(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = model / "model.sig"
    bundle = json.loads(path.read_bytes())
    change(bundle)
    path.write_bytes(json.dumps(bundle).encode())


def second_bad_signature(bundle: dict[str, Any]) -> None:
    good = bundle["dsseEnvelope"]["signatures"][0]
    bad = generate_key().sign(b"something else")
    bundle["dsseEnvelope"]["signatures"] = [good, {"sig": base64.b64encode(bad).decode()}]


ENVELOPE = {
    "media type": lambda b: b.update(mediaType="application/json"),
    "no signature": lambda b: b["dsseEnvelope"]["signatures"].clear(),
    "second bad signature": second_bad_signature,
    "hint": lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64),
    "raw key": lambda b: b["verificationMaterial"]["publicKey"].update(
        rawBytes=base64.b64encode(generate_key().public.pem).decode()
    ),
    "certificate instead": lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": ""}}),
    "certificate beside": lambda b: b["verificationMaterial"].update(certificate={"rawBytes": ""}),
    "truncated base64": lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"][:-2]),
    "base64 with blanks": lambda b: b["dsseEnvelope"].update(payload=" " + b["dsseEnvelope"]["payload"]),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
}


@pytest.mark.parametrize("name", list(ENVELOPE))
def test_damaged_envelopes_are_refused(model: Path, name: str) -> None:
    edit(model, ENVELOPE[name])
    refused(model)


def test_duplicate_json_keys_are_refused(model: Path) -> None:
    path = model / "model.sig"
    path.write_bytes(path.read_bytes().replace(b'{"dsse', b'{"mediaType":"x","dsse', 1))
    assert "duplicate key" in str(refused(model))


def test_changed_missing_extra_and_linked_files_are_refused(model: Path) -> None:
    (model / "weights.bin").write_bytes(bytes(64))
    assert "weights.bin changed" in str(refused(model))
    (model / "weights.bin").unlink()
    assert "weights.bin is missing" in str(refused(model))
    (model / "weights.bin").write_bytes(bytes(range(64)))
    verify(model, trust=KEY.public)
    (model / "extra.py").write_text("evil()")
    assert "extra.py was not signed" in str(refused(model))
    (model / "extra.py").unlink()
    (model / "link").symlink_to("weights.bin")
    refused(model)


def test_another_key_and_a_private_key_are_refused(model: Path) -> None:
    with pytest.raises(HoldfastError, match="0 of 1 trusted"):
        verify(model, trust=generate_key("ed25519").public)
    edit(model, lambda b: b["verificationMaterial"]["publicKey"].pop("hint"))
    for kind in ("p256", "p384", "ed25519"):
        with pytest.raises(HoldfastError, match="does not verify"):
            verify(model, model / "model.sig", trust=generate_key(kind).public)
    with pytest.raises(UnreadableArtifact, match="private key"):
        load_trust(b"-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    "kind", ["p256", "ed25519", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("p384", "p521"))]
)
def test_every_byte_of_a_passport_counts(tmp_path: Path, kind: str) -> None:
    key = generate_key(kind)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_bytes(canonical.dumps({"a": 1}))
    write_passport(tmp_path, key)
    assert verify_passport(tmp_path, key.public).signer == key.public.fingerprint
    for name in ("passport.bundle.json", "passport.pub", "records/a.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            for mask in (1, 32):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
                for trust in (None, key.public):
                    with pytest.raises(HoldfastError):
                        verify_passport(tmp_path, trust)
        path.write_bytes(whole)
    assert verify_passport(tmp_path).self_signed


def test_a_self_signed_replacement_is_refused_under_trust(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"good")
    write_passport(tmp_path, KEY)
    (tmp_path / "model").write_bytes(b"evil")
    write_passport(tmp_path, generate_key())
    assert verify_passport(tmp_path).self_signed
    with pytest.raises(HoldfastError, match="0 of 1 trusted"):
        verify_passport(tmp_path, KEY.public)


def test_white_space_in_a_passport_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"good")
    path = write_passport(tmp_path, KEY)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(HoldfastError, match="canonical"):
        verify_passport(tmp_path, KEY.public)


class Picky(KeyTrust):
    """Accepts the first signature only, as a trust does that wants a timestamp."""

    def accept(self, envelope: Envelope, index: int) -> Identity:
        if index:
            raise SignatureInvalid("no timestamp")
        return super().accept(envelope, index)


def test_one_key_trusted_in_two_ways_is_one_of_two_signers() -> None:
    key = generate_key()
    statement = Statement((Subject("m", {"sha256": "0" * 64}),), "https://example.org/t", {})
    bundle = json.loads(sign_statement(statement, key))
    bundle["dsseEnvelope"]["signatures"] *= 2
    both = Threshold((Picky(key.public), KeyTrust(key.public)), 2)
    with pytest.raises(SignerUntrusted, match="1 of 2 trusted signers"):
        verify_bundle(json.dumps(bundle).encode(), both)
