"""``holdfast sign``, ``verify`` and ``digest --oms`` as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli import entry, main
from holdfast.signing.envelope import read_envelope
from tests.timestamping import open_authority, serving


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.bin").write_bytes(bytes(range(100)))
    (tmp_path / "m" / "README.md").write_text("words")
    for name, kind in (("a", "p256"), ("b", "ed25519"), ("c", "p384")):
        assert main(["keygen", name, "--kind", kind]) == 0
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_signers_and_a_threshold(capsys: pytest.CaptureFixture[str]):
    signed = output(capsys, "sign", "m", "--key", "file:a.pem", "--key", "file:b.pem")
    assert signed["signatures"] == len(signed["signers"]) == 2
    assert main(["verify", "m", "--trust", "a.pub", "--trust", "key:b.pub"]) == 0
    assert main(["verify", "m", "--trust", "a.pub", "--trust", "c.pub"]) == 1
    assert "1 of 2 trusted signers signed" in capsys.readouterr().err
    proof = output(capsys, "verify", "m", "--trust", "b.pub", "--trust", "c.pub", "--threshold", "1")
    assert [item["name"] for item in proof["signers"]] == [signed["signers"][1]]
    assert main(["verify", "m", "--threshold", "1"]) == 2
    assert main(["verify", "m", "--trust", "a.pub", "--threshold", "2"]) == 2


def test_a_signature_is_added_to_one_that_is_there(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    assert output(capsys, "sign", "m", "--key", "file:c.pem", "--add-signature")["signatures"] == 2
    assert main(["verify", "m", "--trust", "a.pub", "--trust", "c.pub"]) == 0
    Path("m/weights.bin").write_bytes(b"other")
    assert main(["sign", "m", "--key", "file:b.pem", "--add-signature"]) == 1
    assert "weights.bin changed" in capsys.readouterr().err
    assert main(["sign", "m", "--key", "file:b.pem", "--add-signature", "--no-rehash"]) == 0


@pytest.mark.parametrize("kind", ["sha256", "blake2b", "blake3"])
def test_shards_and_hashes(capsys: pytest.CaptureFixture[str], kind: str):
    options = ("--method", "shards", "--shard-size", "32", "--hash", kind)
    assert main(["sign", "m", "--key", "file:a.pem", *options]) == 0
    proof = output(capsys, "verify", "m", "--trust", "a.pub", "--signature", "m/model.sig")
    assert (proof["method"], proof["hash"], proof["files"], proof["unsigned"]) == ("shards", kind, 2, [])
    assert output(capsys, "verify", "m", "--trust", "a.pub")["hash"] == "blake3"  # by the manifest beside it
    assert main(["sign", "m", "--key", "file:a.pem", "--shard-size", "32"]) == 2
    assert main(["sign", "m", "--key", "file:a.pem", "--hash", "md5"]) == 2


def test_what_is_left_out_is_said_and_weights_are_not_left_out_unasked(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem", "--ignore", "README.md"]) == 0
    assert output(capsys, "verify", "m", "--trust", "a.pub")["unsigned"] == ["README.md"]
    assert main(["sign", "m", "--key", "file:a.pem", "--ignore", "weights.bin"]) == 0
    assert main(["verify", "m", "--trust", "a.pub"]) == 1
    assert "leaves weights.bin unsigned" in capsys.readouterr().err
    assert main(["verify", "m", "--trust", "a.pub", "--ignore", "weights.bin"]) == 0
    assert main(["sign", "m", "--key", "file:a.pem", "--ignore", "../m"]) == 2


def test_a_path_to_leave_out_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem", "--ignore", "README.md", "--ignore", "REDME.md"]) == 0
    told = capsys.readouterr().err
    assert "m holds no REDME.md to leave out" in told
    assert "README.md" not in told


@pytest.mark.parametrize("words", [["verify", "m", "--trust", "a.pub", "--json"], ["--help"], ["verify", "--help"]])
def test_a_reader_that_leaves_ends_it_in_silence(words: list[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    code = "import sys; from holdfast.cli import entry; sys.argv[0] = 'holdfast'; entry()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not [line for line in done.stderr.decode().splitlines() if not line.startswith("verified: m, 2 files")]


def test_a_misspelt_kind_of_trust_is_told_apart_from_a_missing_file(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    assert main(["verify", "m", "--trust", "certifcate:roots=a.pub,identity=x"]) == 2
    assert "did you mean certificate?" in capsys.readouterr().err
    assert main(["verify", "m", "--trust", "none.pub"]) == 2
    assert "cannot read public key none.pub" in capsys.readouterr().err


def test_one_file_is_one_file(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m/weights.bin", "--key", "file:a.pem"]) == 0
    assert main(["verify", "m/weights.bin", "--trust", "a.pub"]) == 0
    assert "weights.bin, 1 file, signed by" in capsys.readouterr().err


def test_extra_files_and_links(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    Path("m/new.py").write_text("x")
    assert main(["verify", "m", "--trust", "a.pub"]) == 1
    assert output(capsys, "verify", "m", "--trust", "a.pub", "--extra", "allow")["unsigned"] == ["new.py"]
    assert main(["verify", "m", "--trust", "a.pub", "--extra", "ignore"]) == 2
    Path("m/new.py").unlink()
    Path("m/link").symlink_to("weights.bin")
    assert main(["sign", "m", "--key", "file:a.pem"]) == 2
    assert main(["sign", "m", "--key", "file:a.pem", "--allow-symlinks"]) == 0
    assert main(["verify", "m", "--trust", "a.pub"]) == 0
    assert main(["verify", "m", "--trust", "a.pub", "--no-allow-symlinks"]) == 2


def test_the_root_digest_is_the_one_that_is_signed(capsys: pytest.CaptureFixture[str]):
    root = output(capsys, "digest", "m", "--oms")
    assert main(["digest", "m", "--oms"]) == 0
    assert capsys.readouterr().out == f"sha256:{root['sha256']}\n"
    from holdfast.signing import sign_artifact, verify_artifact
    from holdfast.signing.signers import load_signer

    sign_artifact("m", load_signer("file:a.pem"))
    assert verify_artifact("m", Path("a.pub")).statement.subjects[0].digest["sha256"] == root["sha256"]
    assert output(capsys, "digest", "m", "--oms") == root  # the signature is not part of it
    assert output(capsys, "digest", "m", "--oms", "--ignore", "README.md")["files"] == 1
    assert main(["digest", "m", "--ignore", "README.md"]) == 2


def test_passwords_come_in_the_order_of_the_keys(capsys: pytest.CaptureFixture[str]):
    for name in ("x", "y"):
        Path(f"{name}.pw").write_text(f"secret {name}\n")
        assert main(["keygen", name, "--password-file", f"{name}.pw"]) == 0
    keys = ("--key", "file:x.pem", "--key", "file:y.pem")
    assert main(["sign", "m", *keys, "--password-file", "x.pw", "--password-file", "y.pw"]) == 0
    assert main(["verify", "m", "--trust", "x.pub", "--trust", "y.pub"]) == 0
    assert main(["sign", "m", *keys, "--password-file", "x.pw"]) == 2
    assert main(["sign", "m", *keys, "--password-file", "y.pw", "--password-file", "x.pw"]) == 2


def test_a_range_of_a_file_is_verified_by_its_outboard_alone(capsys: pytest.CaptureFixture[str]):
    Path("m/weights.bin").write_bytes(bytes(range(256)) * (5 << 12))
    assert main(["sign", "m", "--key", "file:a.pem", "--outboard"]) == 0
    assert Path("m/model.outboard/weights.bin.obao").is_file()
    words = ["verify", "m", "--trust", "a.pub", "--range", "weights.bin:1000:3000"]
    found = output(capsys, *words)
    assert (found["start"], found["stop"]) == (1000, 3000)
    assert found["bytes_read"] < 1 << 20
    assert main(["verify", "m", "--trust", "a.pub"]) == 0
    with Path("m/weights.bin").open("r+b") as file:
        file.seek(2000)
        file.write(b"!")
    capsys.readouterr()
    assert main(words) == 1
    assert "weights.bin" in capsys.readouterr().err
    assert main(["verify", "m", "--trust", "b.pub", "--range", "weights.bin:0:1"]) == 1
    assert main(["verify", "m", "--range", "weights.bin:0:1"]) == 2
    assert main(["sign", "m", "--key", "file:a.pem", "--outboard", "--signature", "x.sig"]) == 2


def test_an_authority_says_when_both_signatures_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("rfc3161_client", reason="timestamps need rfc3161-client")
    tsa = open_authority(tmp_path / "tsa")
    with serving(lambda body: (200, {}, tsa.answer(body))) as url:
        assert main(["sign", "m", "--key", "file:a.pem", "--timestamp", url]) == 0
    for name in ("model.sig", "model.sig2"):
        assert len(read_envelope(Path("m", name).read_bytes()).material.timestamps) == 1
    capsys.readouterr()
    assert main(["verify", "m", "--trust", "a.pub"]) == 0
    assert main(["sign", "m", "--key", "file:b.pem", "--timestamp", "http://127.0.0.1:1/", "--add-signature"]) == 2


def test_verify_says_how_many_signatures_were_needed(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    found = output(capsys, "verify", "m", "--trust", "a.pub", "--trust", "b.pub", "--threshold", "1")
    assert (found["needed"], found["trusted"]) == (1, 2)
    assert main(["verify", "m", "--trust", "a.pub", "--trust", "b.pub", "--threshold", "1"]) == 0
    assert "(1 of 2 needed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("verify", "nowhere", "--trust", "a.pub"), "no file or folder at nowhere", ""),
        (("sign", "m", "--key", "file:locked.pem"), "locked.pem is encrypted", "--password-file FILE, or -"),
        (("sign", "m", "--key", "file:a.pem", "--password-file", "words"), "a.pem is not encrypted", "leave out"),
        (("verify", "m", "--trust", "ca.pem"), "ca.pem is not a PEM public key", "certificate:roots="),
        (("sign", "linked", "--key", "file:a.pem"), "config.json is a link, not a regular file", "--allow-symlinks"),
    ],
)
def test_what_goes_wrong_is_told_with_a_hint_that_helps(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str, hint: str
):
    Path("words").write_text("secret\n")
    assert main(["keygen", "locked", "--password-file", "words"]) == 0
    Path("ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    Path("linked").mkdir()
    Path("linked/config.json").symlink_to("../m/README.md")
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    capsys.readouterr()
    assert main([*arguments]) == 2
    told, _, help_ = capsys.readouterr().err.partition("\n  hint: ")
    assert message in told
    assert hint in help_


def test_an_interrupt_before_the_verb_runs_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.cli._dispatch", interrupted)
    monkeypatch.setattr("sys.argv", ["holdfast", "sign", "m"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_signing_names_both_signatures_it_writes(capsys: pytest.CaptureFixture[str]):
    assert output(capsys, "sign", "m", "--key", "file:a.pem")["manifest"] == "m/model.sig2"
    assert output(capsys, "sign", "m", "--key", "file:a.pem", "--signature", "m.sig")["manifest"] is None
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    assert "signed m as m/model.sig and model.sig2\n" in capsys.readouterr().err


def test_a_wrong_key_is_told_with_how_keys_are_named(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    assert main(["verify", "m", "--trust", "c.pub"]) == 1
    assert "hint: is --trust the signer's?" in capsys.readouterr().err


def test_digests_follow_the_links_of_a_model_when_asked(capsys: pytest.CaptureFixture[str]):
    Path("m/link.bin").symlink_to("weights.bin")
    assert main(["digest", "m"]) == 2
    files = output(capsys, "digest", "m", "--allow-symlinks")
    assert files["link.bin"] == files["weights.bin"]


def test_a_refusal_is_one_json_object_too(capsys: pytest.CaptureFixture[str]):
    assert main(["sign", "m", "--key", "file:a.pem"]) == 0
    capsys.readouterr()
    assert main(["verify", "m", "--trust", "b.pub", "--json"]) == 1
    seen = capsys.readouterr()
    assert set(json.loads(seen.out)) == {"error", "hint", "kind"}
    assert json.loads(seen.out)["kind"] == "SignerUntrusted"
    assert "error:" in seen.err
