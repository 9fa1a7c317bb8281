"""Forged manifests and files that change under the reader: each must be refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save, save_file

from holdfast.errors import ArtifactError, DigestMismatch, HoldfastError, SignatureInvalid, UnreadableArtifact
from holdfast.evidence.digest import Hashed, Wanted, hash_open, hash_tree
from holdfast.evidence.hashing import Recorder, read_pass
from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.signing import generate_key
from holdfast.signing.envelope import pae
from holdfast.signing.manifests import manifest_of, read_manifest, verify_files, write_manifest

KEY = generate_key("ed25519")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.arange(6.0)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    write_manifest(folder, KEY)
    return folder


def test_every_byte_of_the_bundle_counts_or_says_nothing(model: Path) -> None:
    """A flipped bit is refused, or it was in what nobody signed and the manifest is the very same."""
    path = model / "model.sig2"
    whole, (good, _) = path.read_bytes(), read_manifest(model, KEY.public)
    for place in range(len(whole)):
        for mask in (1, 32):
            forged = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
            try:
                found, _ = read_manifest(model, KEY.public, signature=forged)
            except HoldfastError:
                continue
            assert found == good


def signed_again(model: Path, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the bundle with a changed statement under a good signature of the right key."""
    bundle = json.loads((model / "model.sig2").read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(KEY.sign(pae(PAYLOAD_TYPE, payload))).decode()}]
    return json.dumps(bundle).encode()


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another file's digest": lambda s: s["predicate"]["files"][0].update(blake3="0" * 64),
    "another name": lambda s: s["predicate"]["files"][0].update(name="b.json"),
    "a file left out": lambda s: s["predicate"]["files"].pop(0),
    "a tensor left out": lambda s: s["predicate"]["tensors"].clear(),
    "a tensor renamed": lambda s: s["predicate"]["tensors"][0].update(name="v"),
    "no identity": lambda s: s["subject"][0].update(digest={"blake3": "0" * 64}),
    "a path out of the folder": lambda s: s["predicate"]["files"][0].update(name="../config.json"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_manifests_that_contradict_themselves_are_refused_even_with_a_good_signature(model: Path, name: str) -> None:
    read_manifest(model, KEY.public, signature=signed_again(model, lambda s: None))
    with pytest.raises(SignatureInvalid, match="malformed"):
        read_manifest(model, KEY.public, signature=signed_again(model, CONTRADICTIONS[name]))


def test_two_files_that_exchange_their_names_are_refused(model: Path) -> None:
    """The root digest of OpenSSF signatures would be the same up to order; a model id binds names."""
    manifest, _ = read_manifest(model, KEY.public)
    (model / "config.json").rename(model / "x")
    (model / "model.safetensors").rename(model / "config.json")
    (model / "x").rename(model / "model.safetensors")
    with pytest.raises(DigestMismatch, match=r"config\.json changed; model\.safetensors changed"):
        verify_files(model, manifest)
    swapped = manifest_of(model, hash_tree(model, exclude=["model.sig2"]))
    assert swapped.model_id != manifest.model_id


def test_a_file_swapped_for_a_link_to_its_own_bytes_is_refused(model: Path, tmp_path: Path) -> None:
    manifest, _ = read_manifest(model, KEY.public)
    (model / "config.json").rename(tmp_path / "elsewhere")
    (model / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="not a regular file"):
        verify_files(model, manifest)


def test_an_index_read_before_the_pass_must_be_what_the_pass_saw(tmp_path: Path) -> None:
    """Header A for the index, header B for the hash: the digests would be true and the layout a lie."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({"w": torch.arange(6.0)}))
    with path.open("rb") as file:
        recorder = Recorder(file.fileno(), path.stat().st_size)
        recorder.read(0, 40)
        path.write_bytes(path.read_bytes().replace(b'"w"', b'"v"'))
        sink = recorder.sink()
        read_pass(file.fileno(), [sink])
        with pytest.raises(UnreadableArtifact, match="between its index and its bytes"):
            recorder.confirm(sink)


class Copy:
    """Keeps what a pass saw."""

    cost = 0.0

    def __init__(self) -> None:
        self.data = bytearray()

    def update(self, data: memoryview, /) -> None:
        self.data += data


@pytest.mark.parametrize("threads", [1, 2])
def test_digests_of_a_file_rewritten_meanwhile_are_all_of_the_same_bytes(threads: int, tmp_path: Path) -> None:
    path, stop = tmp_path / "m.safetensors", threading.Event()
    contents = [save({"w": torch.full((4 << 20,), float(n))}) for n in (1, 2)]
    path.write_bytes(contents[0])

    def rewrite() -> None:
        turn = 0
        while not stop.wait(0.005):
            turn += 1
            descriptor = os.open(path, os.O_WRONLY)
            os.pwrite(descriptor, contents[turn % 2], 0)
            os.close(descriptor)

    writer = threading.Thread(target=rewrite)
    writer.start()
    refused = 0
    try:
        for _ in range(15):
            with path.open("rb") as file:
                try:
                    found = hash_open(file.fileno(), path.name, Wanted(tensors=True, listeners=_copy), threads=threads)
                except UnreadableArtifact:
                    refused += 1
                    continue
            require_digests_of(found, bytes(found.listeners[0].data))  # type: ignore[attr-defined]
    finally:
        stop.set()
        writer.join()
    assert refused > 0


def _copy(name: str, size: int) -> list[Copy]:
    return [Copy()]


def require_digests_of(found: Hashed, data: bytes) -> None:
    slot, digest = found.tensors[0]
    assert found.digests["sha256"] == hashlib.sha256(data).hexdigest()
    assert found.digests["blake3"] == blake3(data).hexdigest()
    assert digest == blake3(data[slot.offset : slot.offset + slot.length]).hexdigest()
