"""Hostile model signatures: each rejection a verifier owes, and each exploit that worked on the tools before us.

Numbers in the tables are those of the published list of what a verifier must reject and of the exploits executed
against ``model-signing`` 1.1.1 and Sentry; certificates and logs have test files of their own.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.errors import HoldfastError, SignatureInvalid, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement, Subject
from holdfast.signing import Serialization, add_signature, generate_key, require_threshold, sign_artifact, verify
from holdfast.signing.envelope import pae
from holdfast.signing.oms import PREDICATE_TYPE, read_statement, signed_files
from holdfast.signing.oms.serialization import MAX_RESOURCES

from .forgery import KEY, edit, replace_payload, resign, sha256_signature, statement_of

SHARDS = Serialization(method="shards", shard_size=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(20)))
    (folder / "sub" / "config.json").write_text("{}")
    sign_artifact(folder, KEY)
    return folder


@pytest.fixture
def sharded(model: Path) -> Path:
    sign_artifact(model, KEY, how=SHARDS)
    return model


def refused(model: Path, match: str | None = None, **options: object) -> HoldfastError:
    with pytest.raises(HoldfastError, match=match) as caught:
        verify(model, trust=KEY.public, **options)
    assert caught.value.exit_code in (1, 2)
    return caught.value


def accepted(model: Path, **options: object):
    return verify(model, trust=KEY.public, **options)


# the statement, rejections 5, 6, 7, 10 and 11 ------------------------------------------------------------------


def first(statement: dict) -> dict:
    return statement["predicate"]["resources"][0]


def last(statement: dict) -> dict:
    return statement["predicate"]["resources"][-1]


def settings(statement: dict) -> dict:
    return statement["predicate"]["serialization"]


STATEMENTS: dict[str, Callable[[dict], object]] = {
    "5 another type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "5 another predicate": lambda s: s.update(predicateType="https://model_signing/signature/v2.0"),
    "5 two subjects": lambda s: s["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}),
    "7 a name twice": lambda s: s["predicate"]["resources"].append(dict(first(s))),
    "7 a name twice with two digests": lambda s: s["predicate"]["resources"].append(first(s) | {"digest": "0" * 64}),
    "7 ./a": lambda s: first(s).update(name="./sub/config.json"),
    "7 a/./b": lambda s: first(s).update(name="sub/./config.json"),
    "7 a/../b": lambda s: first(s).update(name="sub/../sub/config.json"),
    "7 ..": lambda s: first(s).update(name="../model/sub/config.json"),
    "7 absolute": lambda s: first(s).update(name="/sub/config.json"),
    "7 //": lambda s: first(s).update(name="sub//config.json"),
    "7 trailing /": lambda s: first(s).update(name="sub/config.json/"),
    "7 NUL": lambda s: first(s).update(name="sub/config.json\0"),
    "7 lone surrogate": lambda s: first(s).update(name="\ud800"),
    "7 empty name": lambda s: first(s).update(name=""),
    "7 no name": lambda s: first(s).pop("name"),
    "7 a number for a name": lambda s: first(s).update(name=7),
    "7 upper-case digest": lambda s: first(s).update(digest=first(s)["digest"].upper()),
    "7 mixed-case algorithm": lambda s: first(s).update(algorithm="SHA256"),
    "7 long digest": lambda s: first(s).update(digest=first(s)["digest"] * 2),
    "7 digest with a line end": lambda s: first(s).update(digest=first(s)["digest"][:-1] + "\n"),
    "7 digest in other digits": lambda s: first(s).update(digest="٣" * 64),
    "7 another algorithm": lambda s: first(s).update(algorithm="blake3"),
    "7 a sharded algorithm for a file": lambda s: first(s).update(algorithm="sha256-sharded-8"),
    "7 no algorithm": lambda s: first(s).pop("algorithm"),
    "7 a list for a resource": lambda s: s["predicate"]["resources"].append([]),
    "7 unknown method": lambda s: settings(s).update(method="trees"),
    "7 a list for a method": lambda s: settings(s).update(method=[]),
    "7 a list for a hash": lambda s: settings(s).update(hash_type=[]),
    "7 hash of another length": lambda s: settings(s).update(hash_type="blake2b"),
    "7 links by words": lambda s: settings(s).update(allow_symlinks="false"),
    "7 links unsaid": lambda s: settings(s).pop("allow_symlinks"),
    "7 size of files": lambda s: settings(s).update(shard_size=8),
    "7 no settings": lambda s: s["predicate"].pop("serialization"),
    "7 empty files of a listing by files": lambda s: first(s).update(
        annotations={"https://holdfast.dev/oms/empty-files": ["x"]}
    ),
    "10 ignore all": lambda s: settings(s).update(ignore_paths=["."]),
    "10 ignore all, unspelt": lambda s: settings(s).update(ignore_paths=[""]),
    "10 ignore outside": lambda s: settings(s).update(ignore_paths=["../model"]),
    "10 ignore absolute": lambda s: settings(s).update(ignore_paths=["/"]),
    "10 ignore what is signed": lambda s: settings(s).update(ignore_paths=["weights.bin"]),
    "10 ignore the folder of what is signed": lambda s: settings(s).update(ignore_paths=["sub"]),
    "10 ignore a number": lambda s: settings(s).update(ignore_paths=[7]),
    "10 ignore a word": lambda s: settings(s).update(ignore_paths="sub"),
}


@pytest.mark.parametrize("name", list(STATEMENTS))
def test_statements_that_are_malformed_or_contradict_themselves_are_refused(model: Path, name: str):
    resign(model / "model.sig", STATEMENTS[name])
    assert "root digest" not in str(refused(model))


def test_a_resigned_statement_without_any_change_is_accepted(model: Path):
    resign(model / "model.sig", lambda s: None)
    assert accepted(model).listing.files == {"weights.bin", "sub/config.json"}


def test_6_a_root_digest_of_other_resources_is_refused(model: Path):
    resign(model / "model.sig", lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), fix_root=False)
    refused(model, "root digest")
    sign_artifact(model, KEY)
    resign(model / "model.sig", lambda s: s["predicate"]["resources"].reverse(), fix_root=False)
    refused(model, "root digest")


def test_11_duplicate_keys_anywhere_are_refused(model: Path):
    path = model / "model.sig"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"keyid"', b'"sig":"AA==","keyid"', 1))
    refused(model, "duplicate key")
    path.write_bytes(whole)
    payload = json.dumps(statement_of(path)).encode()
    for inside in (b'"name": ', b'"digest": ', b'"method": ', b'"_type": '):
        replace_payload(path, payload.replace(inside, inside + b'"x", ' + inside, 1))
        refused(model, "duplicate key")


def test_15_sizes_counts_and_depths_are_bounded(model: Path, tmp_path: Path):
    path = model / "model.sig"
    for depth in (100, 100_000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        replace_payload(path, deep)
        assert isinstance(refused(model), UnreadableArtifact)
        (tmp_path / "deep.sig").write_bytes(deep)
        refused(model, bundle=tmp_path / "deep.sig")
    with (tmp_path / "long.sig").open("wb") as file:
        file.truncate((64 << 20) + 1)
    refused(model, "longer than", bundle=tmp_path / "long.sig")
    sign_artifact(model, KEY)
    edit(path, lambda b: b["dsseEnvelope"].update(signatures=b["dsseEnvelope"]["signatures"] * 65))
    refused(model, "65 signatures")
    item = {"name": "a", "algorithm": "sha256", "digest": "0" * 64}
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    many = {"serialization": how, "resources": [item] * (MAX_RESOURCES + 1)}
    with pytest.raises(UnreadableArtifact, match="at most"):
        read_statement(Statement((Subject("m", {"sha256": "0" * 64}),), PREDICATE_TYPE, many))
    replace_payload(path, b'{"a": 1' + b"0" * 5000 + b"}")
    refused(model)


# the envelope, rejections 1 to 4 and exploits A1, A5, A6, A7, A8 and B11 ---------------------------------------


ENVELOPES: dict[str, Callable[[dict], object]] = {
    "1 another media type": lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v9+json"),
    "1 no media type": lambda b: b.pop("mediaType"),
    "1 no material": lambda b: b.pop("verificationMaterial"),
    "1 empty material": lambda b: b.update(verificationMaterial={}),
    "1 two kinds of material": lambda b: b["verificationMaterial"].update(certificate={"rawBytes": "AA=="}),
    "1 unknown material": lambda b: b.update(verificationMaterial={"none": {}}),
    "1 no signatures": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "1 signatures that are none": lambda b: b["dsseEnvelope"].update(signatures="x"),
    "1 payload not base64": lambda b: b["dsseEnvelope"].update(payload="***"),
    "1 payload with a line end": lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"] + "\n"),
    "1 signature not base64": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="*"),
    "1 no envelope": lambda b: b.pop("dsseEnvelope"),
    "2 another payload type": lambda b: b["dsseEnvelope"].update(payloadType="application/json"),
    "2 no payload type": lambda b: b["dsseEnvelope"].pop("payloadType"),
    "3 A1 an empty signature": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
    "3 A1 r = s = 0": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="MAYCAQACAQA="),
    "3 A1 r = s = 1": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="MAYCAQECAQE="),
    "3 A1 64 bytes of anything": lambda b: b["dsseEnvelope"]["signatures"][0].update(
        sig=base64.b64encode(bytes(range(64))).decode()
    ),
    "3 another's signature": lambda b: b["dsseEnvelope"]["signatures"][0].update(
        sig=base64.b64encode(generate_key("p384").sign(pae(PAYLOAD_TYPE, b"x"))).decode()
    ),
    "4 another's hint": lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64),
    "4 another's key id": lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="0" * 64),
}


@pytest.mark.parametrize("name", list(ENVELOPES))
def test_envelopes_that_are_malformed_or_not_signed_are_refused(model: Path, name: str):
    edit(model / "model.sig", ENVELOPES[name])
    refused(model)


def test_4_a_bundle_without_a_hint_is_accepted_with_a_note(model: Path):
    edit(model / "model.sig", lambda b: b["verificationMaterial"].update(publicKey={}))
    assert accepted(model).notes == ("the bundle does not say whose key signed it",)


def test_b11_a_bad_signature_beside_a_good_one_is_refused(model: Path):
    bad = {"sig": base64.b64encode(KEY.sign(b"something else")).decode(), "keyid": ""}
    edit(model / "model.sig", lambda b: b["dsseEnvelope"]["signatures"].append(bad))
    refused(model, "does not verify")


def test_3_strangers_do_not_count_towards_a_threshold(model: Path):
    path, other = model / "model.sig", generate_key()
    path.write_bytes(add_signature(path.read_bytes(), generate_key("ed25519"), generate_key("p256")))
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify(model, trust=require_threshold([KEY.public, other.public]))


def test_a6_the_bytes_that_are_signed_are_the_bytes_that_are_read(model: Path):
    """The same statement in other white space, or in another order of keys, is another payload."""
    statement = statement_of(model / "model.sig")
    for payload in (json.dumps(statement, indent=1), json.dumps(dict(reversed(statement.items())))):
        edit(
            model / "model.sig",
            lambda b, p=payload: b["dsseEnvelope"].update(payload=base64.b64encode(p.encode()).decode()),
        )
        refused(model, "does not verify")


def test_a7_the_bundle_does_not_choose_the_algorithm(model: Path):
    """SHA-256 on a P-384 key is what version 0.2 used; neither a detail in the bundle nor --legacy brings it back."""
    path = model / "model.sig"
    payload = json.dumps(statement_of(path)).encode()
    replace_payload(path, payload)
    weak = base64.b64encode(sha256_signature(pae(PAYLOAD_TYPE, payload))).decode()
    edit(path, lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=weak))
    edit(path, lambda b: b["verificationMaterial"]["publicKey"].update(keyDetails="PKIX_ECDSA_P256_SHA_256"))
    refused(model, "does not verify")
    refused(model, "does not verify", legacy=True)


def test_b3_the_encoding_and_the_predicate_of_version_0_2_are_refused_unless_asked_for(model: Path):
    path = model / "model.sig"
    resources = statement_of(path)["predicate"]["resources"]
    note = {"actual_hash_algorithm": "file-sha256"}
    subjects = [{"name": i["name"], "digest": {"sha256": i["digest"]}, "annotations": note} for i in resources]
    old = {"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicate": {"unused": ""}}
    payload = json.dumps(old | {"predicateType": "https://model_signing/Digests/v0.1"}).encode()
    message = f"DSSEV1 28 {PAYLOAD_TYPE} {len(payload)} {payload!r}".encode()
    replace_payload(path, payload, message=message)
    edit(path, lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=_text(sha256_signature(message))))
    assert isinstance(refused(model), UnsupportedVersion)
    assert main(["verify", str(model), "--trust", _public(model)]) == 2
    assert accepted(model, legacy=True).listing.files == {"weights.bin", "sub/config.json"}
    assert main(["verify", str(model), "--trust", _public(model), "--legacy"]) == 0
    for damage in ({"annotations": {"actual_hash_algorithm": "sha256-sharded-8"}}, {"name": "../x"}, {"name": "."}):
        broken = json.dumps(
            old | {"predicateType": "https://model_signing/Digests/v0.1", "subject": [subjects[0] | damage]}
        ).encode()
        message = f"DSSEV1 28 {PAYLOAD_TYPE} {len(broken)} {broken!r}".encode()
        replace_payload(path, broken, message=message)
        edit(path, lambda b, m=message: b["dsseEnvelope"]["signatures"][0].update(sig=_text(sha256_signature(m))))
        assert isinstance(refused(model, legacy=True), SignatureInvalid)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _public(model: Path) -> str:
    path = model.parent / "key.pub"
    path.write_bytes(KEY.public.pem)
    return str(path)


def test_14_a_bundle_that_brings_its_own_key_is_legacy_and_the_key_is_not_believed(model: Path):
    path, eve = model / "model.sig", generate_key()
    sign_artifact(model, eve)
    edit(path, lambda b: b["verificationMaterial"].update(publicKey={"rawBytes": _text(eve.public.pem)}))
    assert isinstance(refused(model), UnsupportedVersion)
    assert isinstance(refused(model, legacy=True), SignerUntrusted)


def test_a5_a8_there_is_no_verification_that_only_logs_and_none_without_trust(model: Path, capsys):
    edit(model / "model.sig", lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AA=="))
    assert main(["verify", str(model), "--trust", _public(model)]) == 1
    assert "verified" not in capsys.readouterr().err
    for arguments in ((), ("--trust", "skip"), ("--trust", "none:")):
        assert main(["verify", str(model), *arguments]) == 2


# shards, rejection 8 and exploits B4, B6 and B8 ----------------------------------------------------------------


def rename(statement: dict, old: str, new: str) -> None:
    next(item for item in statement["predicate"]["resources"] if item["name"] == old)["name"] = new


def drop(statement: dict, name: str) -> None:
    statement["predicate"]["resources"] = [i for i in statement["predicate"]["resources"] if i["name"] != name]


SHARDED: dict[str, Callable[[dict], object]] = {
    "8 a gap": lambda s: drop(s, "weights.bin:8:16"),
    "8 no first shard": lambda s: drop(s, "weights.bin:0:8"),
    "8 an overlap": lambda s: rename(s, "weights.bin:8:16", "weights.bin:7:15"),
    "8 a nested shard": lambda s: s["predicate"]["resources"].append(first(s) | {"name": "weights.bin:0:20"}),
    "8 a long shard": lambda s: (drop(s, "weights.bin:8:16"), rename(s, "weights.bin:0:8", "weights.bin:0:16")),
    "8 a short shard inside": lambda s: (
        rename(s, "weights.bin:0:8", "weights.bin:0:7"),
        rename(s, "weights.bin:8:16", "weights.bin:7:16"),
    ),
    "8 backwards": lambda s: rename(s, "weights.bin:8:16", "weights.bin:16:8"),
    "8 empty": lambda s: rename(s, "weights.bin:8:16", "weights.bin:8:8"),
    "8 a name without range": lambda s: rename(s, "weights.bin:0:8", "weights.bin"),
    "8 a leading zero": lambda s: rename(s, "weights.bin:0:8", "weights.bin:00:8"),
    "8 a sign": lambda s: rename(s, "weights.bin:0:8", "weights.bin:+0:8"),
    "8 an underscore": lambda s: rename(s, "weights.bin:16:20", "weights.bin:1_6:20"),
    "8 other digits": lambda s: rename(s, "weights.bin:0:8", "weights.bin:0:٨"),
    "8 no size": lambda s: settings(s).pop("shard_size"),
    "8 size 0": lambda s: settings(s).update(shard_size=0),
    "8 a negative size": lambda s: settings(s).update(shard_size=-8),
    "8 half a byte": lambda s: settings(s).update(shard_size=8.5),
    "8 size true": lambda s: settings(s).update(shard_size=True),
    "8 another size": lambda s: settings(s).update(shard_size=16),
    "8 the algorithm of another size": lambda s: first(s).update(algorithm="sha256-sharded-16"),
    "8 empty files that are shards": lambda s: first(s).update(
        annotations={"https://holdfast.dev/oms/empty-files": ["weights.bin"]}
    ),
    "8 an empty file twice": lambda s: first(s).update(
        annotations={"https://holdfast.dev/oms/empty-files": ["x", "x"]}
    ),
    "8 an empty file outside": lambda s: first(s).update(
        annotations={"https://holdfast.dev/oms/empty-files": ["../x"]}
    ),
    "8 empty files in words": lambda s: first(s).update(annotations={"https://holdfast.dev/oms/empty-files": "x"}),
}


@pytest.mark.parametrize("name", list(SHARDED))
def test_shards_that_do_not_make_up_the_file_are_refused(sharded: Path, name: str):
    resign(sharded / "model.sig", SHARDED[name])
    assert "root digest" not in str(refused(sharded))


def test_8_a_size_beyond_all_numbers_is_refused(sharded: Path):
    payload = json.dumps(statement_of(sharded / "model.sig"))
    replace_payload(sharded / "model.sig", payload.replace('"shard_size": 8', '"shard_size": 1e400').encode())
    refused(sharded, "beyond a double")


def test_8_a_file_cut_at_a_shard_or_grown_after_the_last_is_refused(sharded: Path):
    weights, whole = sharded / "weights.bin", bytes(range(20))
    for data in (whole[:16], whole[:19], whole + b"x", whole + bytes(4), whole + bytes(12), b"", whole[::-1]):
        weights.write_bytes(data)
        refused(sharded, r"weights\.bin")
    weights.write_bytes(whole)
    accepted(sharded)


def test_8_missing_last_shards_in_the_statement_are_noticed(sharded: Path):
    resign(sharded / "model.sig", lambda s: drop(s, "weights.bin:16:20"))
    refused(sharded, r"weights\.bin:16:20 was not signed")


def test_b6_what_model_signing_writes_of_shards_is_read(sharded: Path):
    def as_they_do(statement: dict) -> None:
        settings(statement).update(shard_size=8.0)
        statement["predicate"]["resources"].sort(key=lambda item: item["name"], reverse=True)
        for item in statement["predicate"]["resources"]:
            item["algorithm"] = "sha256-sharded-8"

    resign(sharded / "model.sig", as_they_do)
    assert accepted(sharded).listing.how.shard_size == 8


def test_b8_empty_files_colons_and_extra_files_in_shards(model: Path):
    (model / "a:b:0:8").write_bytes(bytes(12))
    (model / "empty").touch()
    sign_artifact(model, KEY, how=SHARDS)
    assert {"a:b:0:8", "empty"} <= accepted(model).listing.files
    (model / "more").touch()
    refused(model, "more was not signed")
    assert accepted(str(model), extra="allow").unsigned == ("more",)
    (model / "more").unlink()
    (model / "empty").unlink()
    refused(model, "empty is missing")
    (model / "empty").write_text("no longer")
    refused(model, "empty")


def test_b4_two_models_of_one_root_digest_are_two_models(tmp_path: Path):
    for folder, names in (("m", ("a", "b")), ("n", ("x", "y"))):
        (tmp_path / folder).mkdir()
        for name, data in zip(names, (b"1", b"2"), strict=True):
            (tmp_path / folder / name).write_bytes(data)
        sign_artifact(tmp_path / folder, KEY)
    roots = {statement_of(tmp_path / f / "model.sig")["subject"][0]["digest"]["sha256"] for f in "mn"}
    assert len(roots) == 1  # as OMS defines it: it names no files
    (tmp_path / "n" / "model.sig").write_bytes((tmp_path / "m" / "model.sig").read_bytes())
    refused(tmp_path / "n", "a is missing")


# the files, rejections 9, 10 and 12 and exploits B7, B11 and B12 -----------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "run.py", "sub/more/config.json", "libx.so", "vocab.txt"])
def test_10_a_signer_cannot_hide_what_a_loader_reads(model: Path, name: str):
    sign_artifact(model, KEY, how=Serialization(ignore=frozenset({name.rpartition("/")[0] or name})))
    accepted_without_it = name.partition("/")[0] != "sub"
    if accepted_without_it:
        accepted(model)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("evil")
    refused(model, name)
    accepted(model, ignore=[name])


@pytest.mark.parametrize(
    "data", [b"\x7fELF..", b"#!/bin/sh\n", b"PK\x03\x04", b"\x80\x04\x95", b"GGUF", bytes(8) + b'{"a":1}'], ids=str
)
def test_10_a_harmless_name_hides_nothing_either(model: Path, data: bytes):
    sign_artifact(model, KEY, how=Serialization(ignore=frozenset({"notes"})))
    (model / "notes").write_bytes(b"just words")
    assert accepted(model).unsigned == ("notes",)
    (model / "notes").write_bytes(data)
    refused(model, "notes")
    (model / "notes").write_bytes(b"echo")
    (model / "notes").chmod(0o755)
    refused(model, "notes")


def test_b11_an_empty_statement_over_an_empty_or_hidden_model_is_refused(model: Path, tmp_path: Path):
    def hide(statement: dict) -> None:
        statement["predicate"]["resources"] = []
        settings(statement)["ignore_paths"] = ["sub", "weights.bin"]

    resign(model / "model.sig", hide)
    refused(model, "lists no files")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "lists no files", bundle=model / "model.sig")


def test_9_missing_extra_and_changed_files_are_refused(model: Path):
    (model / "weights.bin").rename(model / "weights.BIN")
    refused(model, r"weights\.bin is missing; weights\.BIN was not signed")
    (model / "weights.BIN").rename(model / "weights.bin")
    (model / "weights.bin").write_bytes(bytes(20))
    refused(model, r"weights\.bin changed")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)
        listener.bind(path.name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "link to a file": lambda p: p.symlink_to("weights.bin"),
    "link to nothing": lambda p: p.symlink_to("nothing"),
    "link to itself": lambda p: p.symlink_to(p.name),
    "link out": lambda p: p.symlink_to("/etc/hostname"),
    "link to a folder": lambda p: p.symlink_to("sub"),
    "link to the model": lambda p: p.symlink_to("."),
    "pipe": os.mkfifo,
    "socket": _socket,
}


@pytest.mark.parametrize("name", list(SPECIAL))
@pytest.mark.parametrize("links", [False, True])
def test_12_links_pipes_and_sockets_are_refused(
    model: Path, name: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    SPECIAL[name](model / "x")
    fine = links and name == "link to a file"
    refused(model, allow_symlinks=links, extra="allow" if not fine else "refuse")
    if fine:
        sign_artifact(model, KEY, how=Serialization(allow_symlinks=True))
        assert "x" in accepted(model).listing.files
        return
    with pytest.raises(UnreadableArtifact):
        sign_artifact(model, KEY, how=Serialization(allow_symlinks=links))


def test_12_a_device_is_refused_without_opening_it(model: Path, monkeypatch: pytest.MonkeyPatch):
    try:
        os.mknod(model / "null", 0o600 | 0o020000, os.makedev(1, 3))
    except OSError:
        pytest.skip("making a device needs privileges")
    refused(model, "null is not a regular file")


def test_b7_a_folder_behind_a_link_is_never_half_signed(model: Path, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "evil.py").write_text("evil()")
    for target in (tmp_path / "outside", "sub"):
        (model / "folder").symlink_to(target)
        with pytest.raises(UnreadableArtifact, match="folder is a link"):
            sign_artifact(model, KEY, how=Serialization(allow_symlinks=True))
        refused(model, "folder is a link", allow_symlinks=True)
        (model / "folder").unlink()


def test_links_of_a_hugging_face_cache_lead_to_its_blobs_and_nowhere_else(tmp_path: Path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    for folder in (snapshot, blobs, tmp_path / "models--a--c" / "blobs"):
        folder.mkdir(parents=True)
    (blobs / "123").write_bytes(b"weights")
    (tmp_path / "models--a--c" / "blobs" / "123").write_bytes(b"weights")
    (snapshot / "model.bin").symlink_to("../../blobs/123")
    sign_artifact(snapshot, KEY, how=Serialization(allow_symlinks=True))
    accepted(snapshot)
    (blobs / "123").write_bytes(b"WEIGHTS")
    refused(snapshot, r"model\.bin changed")
    (blobs / "123").write_bytes(b"weights")
    (snapshot / "model.bin").unlink()
    (snapshot / "model.bin").symlink_to("../../../models--a--c/blobs/123")
    refused(snapshot, "leads out of the model")
    (blobs / "124").symlink_to("../../models--a--c/blobs/123")
    (snapshot / "model.bin").unlink()
    (snapshot / "model.bin").symlink_to("../../blobs/124")
    refused(snapshot, r"cannot read .*model\.bin")


def test_a_model_signed_as_files_may_be_verified_as_links(tmp_path: Path):
    """In a download cache the same files are links into ``blobs``: the verifier allows that, and content is checked."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.bin").write_bytes(b"weights")
    signature = sign_artifact(tmp_path / "m", KEY)
    snapshot, blobs = tmp_path / "c" / "snapshots" / "abc", tmp_path / "c" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for blob, name, data in (("1", "model.bin", b"weights"), ("2", "model.sig", signature.read_bytes())):
        (blobs / blob).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    refused(snapshot, "is a link")
    assert accepted(snapshot, allow_symlinks=True).listing.files == {"model.bin"}


@pytest.mark.parametrize("by", ["link", "pipe", "folder link"])
def test_12_what_is_swapped_between_the_look_and_the_open_is_refused(
    model: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
):
    """Whoever replaces a file or folder after it was listed gains nothing: a link, a pipe, another folder."""
    from holdfast.evidence import tree

    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "config.json").write_text("{}")
    (twin / "weights.bin").write_bytes(bytes(range(20)))
    place = model / ("sub" if by == "folder link" else "weights.bin")
    real, swapped = os.open, []

    def swap_first(path: object, *arguments: object, **options: object) -> int:
        if path == place.name and not swapped:
            swapped.append(place.rename(tmp_path / "aside"))
            os.mkfifo(place) if by == "pipe" else place.symlink_to(twin if by == "folder link" else twin / place.name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(tree.os, "open", swap_first)
    error = refused(model)
    assert swapped
    assert place.name in str(error)


def test_b12_a_file_that_grows_while_it_is_read_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch):
    from holdfast.signing.oms import serialization

    real = serialization._digest

    def grow(file: object, *arguments: object) -> tuple[int, str]:
        result = real(file, *arguments)
        with (model / "weights.bin").open("ab") as other:
            other.write(b"more")
        return result

    monkeypatch.setattr(serialization, "_digest", grow)
    refused(model, "changed while it was read")


def test_a_statement_of_shards_gives_no_list_of_whole_files(sharded: Path):
    with pytest.raises(UnsupportedVersion, match="shards/sha256"):
        signed_files(accepted(sharded).statement)
