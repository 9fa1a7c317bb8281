"""Attacks on a model while, before and after it is opened: only signed bytes come out, or a clear refusal."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.errors import ArtifactError, DigestMismatch, HoldfastError, SignatureInvalid, UnsafeArtifact
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.evidence.outboard import build_outboard
from holdfast.signing import sign
from holdfast.signing.opened import open_verified
from tests.signed_models import KEY, KIB, make_model, manifest_for, sign_manifest, tensors, with_tensor

PUBLIC = KEY.public
WEIGHTS = "model.safetensors"

# what the other process does to the file, over and over; `good` are the signed bytes
REWRITERS = {
    "bit flips": "data = bytearray(good); data[random.randrange(len(data))] ^= 1 << random.randrange(8); put(data)",
    "truncation": "os.truncate(path, random.randrange(len(good)))",
    "rename swap": "open(other, 'wb').write(good[::-1]); os.replace(other, path)",
    "half of each": "cut = random.randrange(len(good)); put(good[:cut] + bytes(len(good) - cut))",
    "gone": "os.unlink(path)",
    "link": "open(other, 'wb').write(good); os.unlink(path); os.symlink(other, path)",
}
LOOP = """
import os, random, sys, time
path, other = sys.argv[1:]
good = open(path, 'rb').read()
def put(data):
    if os.path.islink(path) or not os.path.exists(path):
        open(other, 'wb').write(data); os.replace(other, path)
    else:
        handle = os.open(path, os.O_WRONLY)
        os.pwrite(handle, data, 0); os.truncate(handle, len(data)); os.close(handle)
print('ready', flush=True)
for turn in range(10**9):
    {attack}
    time.sleep(0.002 * random.random())
    put(good)
    time.sleep(0.004 * random.random())
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m", outboards=4 * KIB)


def read_all(model: Path) -> dict[str, Tensor]:
    with open_verified(model, PUBLIC) as opened:
        found = opened.get_tensors(threads=2)
        found["part"] = opened.get_slice("big")[100:200]
        return found


@pytest.mark.parametrize("attack", REWRITERS.values(), ids=REWRITERS.keys())
def test_a_process_that_rewrites_the_file_meanwhile_gains_nothing(model: Path, attack: str, tmp_path: Path):
    genuine = tensors() | {"part": tensors()["big"][100:200]}
    script = LOOP.format(attack=attack)
    arguments = [sys.executable, "-c", script, str(model / WEIGHTS), str(tmp_path / "other")]
    outcomes, end = {True: 0, False: 0}, time.monotonic() + 30
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as rewriter:
        rewriter.stdout.readline()
        try:
            while time.monotonic() < end and (sum(outcomes.values()) < 150 or not all(outcomes.values())):
                try:
                    found = read_all(model)
                except (DigestMismatch, ArtifactError):
                    outcomes[False] += 1
                else:
                    assert found.keys() == genuine.keys()
                    assert all(torch.equal(found[name], value) for name, value in genuine.items())
                    outcomes[True] += 1
        finally:
            rewriter.kill()
    assert min(outcomes.values()) > 0, f"the attack was never met, or always: {outcomes}"


VERSIONS = """
import os, random, sys, time
model, *folders = sys.argv[1:]
print('ready', flush=True)
for turn in range(10**9):
    for name in random.sample(['model.sig2', 'model.safetensors'], 2):
        data = open(os.path.join(folders[turn % 2], name), 'rb').read()
        open(model + '/.new', 'wb').write(data); os.replace(model + '/.new', os.path.join(model, name))
        time.sleep(0.002 * random.random())
    time.sleep(0.02 * random.random())
"""


def test_two_signed_versions_are_never_mixed(tmp_path: Path):
    folders = [make_model(tmp_path / f"v{seed}", tensors(seed)) for seed in range(2)]
    model = shutil.copytree(folders[0], tmp_path / "m")
    seen, refusals, end = set(), 0, time.monotonic() + 30
    arguments = [sys.executable, "-c", VERSIONS, *map(str, (model, *folders))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as rewriter:
        rewriter.stdout.readline()
        try:
            while time.monotonic() < end and (len(seen) < 2 or refusals < 20):
                try:
                    found = read_all_of(model)
                except (DigestMismatch, ArtifactError):
                    refusals += 1
                else:
                    whole = [v for v in range(2) if all(torch.equal(found[n], t) for n, t in tensors(v).items())]
                    assert len(whole) == 1, "tensors of two versions came out together"
                    seen.update(whole)
        finally:
            rewriter.kill()
    assert seen == {0, 1}
    assert refusals >= 20


def use_all(model: Path, strict: bool) -> None:
    with open_verified(model, PUBLIC, strict=strict) as opened:
        names = opened.keys()
        if "big" in names:
            opened.get_slice("big")[:3]
        opened.get_tensors()
        dict(opened.files())


def sign_and_use(model: Path, manifest: ModelManifest) -> None:
    sign_manifest(model, manifest)
    use_all(model, strict=False)


def refused(model: Path, *, strict: bool = False) -> HoldfastError:
    """Opening or reading everything is refused."""
    with pytest.raises(HoldfastError) as caught:
        use_all(model, strict)
    assert isinstance(caught.value, DigestMismatch | SignatureInvalid | ArtifactError)
    return caught.value


def test_truncation_after_opening_is_refused_and_kills_nobody(model: Path):
    with open_verified(model, PUBLIC) as opened:
        before = opened.get_tensor("big")
        os.truncate(model / WEIGHTS, 100)
        with pytest.raises(DigestMismatch, match="ends before byte"):
            opened.get_tensor("big")
        with pytest.raises(DigestMismatch, match="ends before byte"):
            opened.get_slice("big")[5:7]
        assert torch.equal(before, tensors()["big"])
    assert "has 100 bytes, signed are" in str(refused(model))


def test_a_sparse_extension_is_refused_before_memory_is_taken(model: Path):
    os.truncate(model / WEIGHTS, 1 << 42)
    assert "signed are" in str(refused(model))


def test_one_more_byte_is_refused(model: Path):
    with (model / WEIGHTS).open("ab") as handle:
        handle.write(b"\0")
    assert "signed are" in str(refused(model))


def test_tensors_of_equal_shape_swapped(model: Path):
    swapped = tensors()
    swapped["twin.a"], swapped["twin.b"] = swapped["twin.b"], swapped["twin.a"]
    save_file(swapped, model / WEIGHTS)
    assert "twin.a" in str(refused(model))


def edit_header(path: Path, change) -> None:
    """Change the JSON header, keeping its length, so that only meaning changes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= length
    path.write_bytes(data[:8] + text.ljust(length) + data[8 + length :])


def offsets_of_b(header: dict) -> None:
    a, b = header["twin.a"], header["twin.b"]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]


def another_shape(header: dict) -> None:
    header["twin.a"]["shape"] = [32, 128]


def another_type(header: dict) -> None:
    header["twin.a"]["dtype"] = "I32"


def another_name(header: dict) -> None:
    header["twin.c"] = header.pop("twin.b")


@pytest.mark.parametrize("change", [offsets_of_b, another_shape, another_type, another_name])
def test_a_lying_header_is_refused_and_never_believed(model: Path, change):
    edit_header(model / WEIGHTS, change)
    changed = load_file(model / WEIGHTS)
    assert any(not same(changed.get(name), value) for name, value in tensors().items()), "the lie would work elsewhere"
    with pytest.raises(DigestMismatch, match="twin"):
        open_verified(model, PUBLIC)
    with open_verified(model, PUBLIC, strict=False) as opened:  # offsets, types and shapes are the signed ones
        assert all(same(opened.get_tensor(name), value) for name, value in tensors().items())
        with pytest.raises(DigestMismatch):
            opened.file(WEIGHTS)


def same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_the_digest_of_another_tensor(model: Path):
    manifest = manifest_for(model)
    other = next(t.blake3 for t in manifest.tensors if t.name == "twin.b")
    sign_manifest(model, with_tensor(manifest, "twin.a", blake3=other))
    assert "twin.a" in str(refused(model))


SIGNED_LIES = {
    "beyond the file": {"offset": 10**9},
    "before the file": {"offset": -8},
    "longer than the file": {"length": 10**9},
    "of negative length": {"length": -4},
    "of another file": {"file": "elsewhere.safetensors"},
    "of another shape": {"shape": (3, 3)},
    "of a negative shape": {"shape": (-128, -32)},
    "of another type": {"dtype": "f64"},
}


@pytest.mark.parametrize("lie", SIGNED_LIES.values(), ids=SIGNED_LIES.keys())
def test_a_signed_manifest_that_contradicts_itself(model: Path, lie: dict):
    with pytest.raises(HoldfastError):  # a writer may refuse to write it, a reader must refuse to read it
        sign_and_use(model, with_tensor(manifest_for(model), "twin.a", **lie))


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "./config.json", "", "a\0b", "a//b"])
def test_signed_names_that_leave_the_model(model: Path, name: str):
    (model.parent / "secret").write_text("secret")
    manifest = manifest_for(model)
    files = tuple(replace(item, name=name) if item.name == "config.json" else item for item in manifest.files)
    with pytest.raises(HoldfastError):
        sign_and_use(model, replace(manifest, files=files))


def to_link(path: Path) -> None:
    shutil.move(path, path.parent.parent / "aside")
    path.symlink_to(path.parent.parent / "aside")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as end, tempfile.TemporaryDirectory() as short:  # such names are 107 bytes long
        end.bind(f"{short}/s")
        Path(short, "s").rename(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("change", [to_link, to_pipe, to_socket, to_folder, to_device])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "model.outboard/model.safetensors.obao"])
def test_something_else_than_a_file_is_refused_without_waiting(model: Path, change, name: str):
    change(model / name)
    assert isinstance(refused(model), UnsafeArtifact)


def test_a_link_in_the_place_of_a_folder(tmp_path: Path):
    model = tmp_path / "m"
    (model / "sub").mkdir(parents=True)
    save_file(tensors(), model / "sub" / WEIGHTS)
    sign_manifest(model)
    shutil.move(model / "sub", tmp_path / "aside")
    (model / "sub").symlink_to(tmp_path / "aside")
    assert isinstance(refused(model), UnsafeArtifact)
    assert "link to a folder" in str(refused(model, strict=True))


def test_the_folder_replaced_after_opening(model: Path):
    with open_verified(model, PUBLIC) as opened:
        model.rename(model.with_name("away"))
        model.mkdir()
        save_file(tensors(1), model / WEIGHTS)
        assert torch.equal(opened.get_tensor("big"), tensors()["big"])


UNSIGNED = ["modeling_evil.py", "pytorch_model.bin", "x.pkl", "extra.safetensors", "sub/deep.PT", "lib.so", "w.gguf"]


@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned_code_pickles_and_weights(model: Path, name: str):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"")
    with pytest.raises(DigestMismatch, match="was not signed"):
        open_verified(model, PUBLIC)
    with open_verified(model, PUBLIC, strict=False) as opened:
        assert name not in opened.files()


def test_signed_code_is_bytes_and_nothing_more(model: Path):
    (model / "modeling.py").write_text("raise SystemExit")
    sign_manifest(model)
    with open_verified(model, PUBLIC) as opened:
        assert opened.files()["modeling.py"] == b"raise SystemExit"


def test_endless_folders_are_refused(model: Path):
    (model / "/".join("d" * 200)).mkdir(parents=True)
    assert "nested deeper" in str(refused(model, strict=True))


def test_a_file_too_large_for_memory_under_a_signature_without_sizes(model: Path):
    shutil.rmtree(model / "model.outboard")
    sign(model, key=KEY)
    (model / "model.sig2").unlink()
    os.truncate(model / WEIGHTS, 1 << 43)
    assert "bytes of memory" in str(refused(model))


def test_a_missing_shard(model: Path):
    save_file({"more": torch.ones(2)}, model / "second.safetensors")
    sign_manifest(model)
    (model / "second.safetensors").unlink()
    assert "second.safetensors is missing" in str(refused(model))
    assert "second.safetensors is missing" in str(refused(model, strict=True))


OUTBOARDS = {
    "of other bytes": lambda data: build_outboard([bytes(100)], group=KIB).to_bytes(),
    "one bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "two leaves swapped": lambda data: data[:20] + data[52:84] + data[20:52] + data[84:],
    "cut": lambda data: data[:-32],
    "longer": lambda data: data + bytes(32),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("change", OUTBOARDS.values(), ids=OUTBOARDS.keys())
def test_a_forged_outboard_beside_forged_bytes(model: Path, change):
    path = model / "model.outboard" / "model.safetensors.obao"
    path.write_bytes(change(path.read_bytes()))
    with open_verified(model, PUBLIC) as opened, pytest.raises(HoldfastError):
        opened.get_slice("big")[:3]


def test_a_forged_outboard_that_fits_the_forged_bytes(model: Path):
    save_file(tensors(1), model / WEIGHTS)
    forged = build_outboard(model / WEIGHTS, group=4 * KIB)
    (model / "model.outboard" / "model.safetensors.obao").write_bytes(forged.to_bytes())
    with open_verified(model, PUBLIC) as opened, pytest.raises(DigestMismatch, match="outboard"):
        opened.get_slice("big")[:3]


def test_an_endless_outboard_takes_no_memory(model: Path):
    os.truncate(model / "model.outboard" / "model.safetensors.obao", 1 << 42)
    with open_verified(model, PUBLIC) as opened, pytest.raises(DigestMismatch, match="longer than"):
        opened.get_slice("big")[:3]


def test_without_the_manifest_the_openssf_signature_still_binds(model: Path):
    shutil.rmtree(model / "model.outboard")
    (model / "model.sig2").unlink()
    sign(model, key=KEY)
    sign_manifest(model)
    (model / "model.sig2").unlink()
    save_file(tensors(1), model / WEIGHTS)
    assert WEIGHTS in str(refused(model))


def hub(tmp_path: Path) -> Path:
    """A signed model as the Hugging Face cache keeps it: a folder of links into blobs."""
    plain, snapshot = make_model(tmp_path / "plain"), tmp_path / "cache" / "snapshots" / "abc"
    blobs = tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(plain.iterdir())):
        shutil.copy(path, blobs / f"{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_links_of_the_hugging_face_cache_lead_to_its_blobs(tmp_path: Path):
    snapshot = hub(tmp_path)
    assert all(same(read_all_of(snapshot)[name], value) for name, value in tensors().items())
    blob = (snapshot / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[::-1])
    assert isinstance(refused(snapshot), DigestMismatch)


def read_all_of(model: Path) -> dict[str, Tensor]:
    with open_verified(model, PUBLIC) as opened:
        return opened.get_tensors()


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../secret", "../../blobs/../secret", "../../blobs/link"])
def test_other_links_of_the_cache_are_refused(tmp_path: Path, target: str):
    snapshot = hub(tmp_path)
    (tmp_path / "cache" / "blobs" / "link").symlink_to(snapshot / "config.json")
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(target)
    assert isinstance(refused(snapshot), UnsafeArtifact)
