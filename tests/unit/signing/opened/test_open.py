"""Opening a signed model: everything comes out as it was saved, and nothing is read that was not asked for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    NoSuchSite,
    PolicyError,
    RecordMissing,
    SignerUntrusted,
    UnsupportedVersion,
)
from holdfast.signing import Serialization, generate_key, sign, sign_artifact
from holdfast.signing.opened import open_verified
from tests.signed_models import KEY, KIB, make_model, sign_manifest, tensors

PUBLIC = KEY.public


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m", outboards=4 * KIB)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_tensor_comes_out_as_safetensors_reads_it(model: Path, threads: int):
    peer = load_file(model / "model.safetensors")
    with open_verified(model, PUBLIC) as opened:
        assert opened.granularity == "tensor"
        assert opened.keys() == sorted(peer)
        found = opened.get_tensors(threads=threads)
    assert found.keys() == peer.keys()
    for name, value in peer.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert torch.equal(found[name], value)


def test_arrays_files_and_names(model: Path):
    with open_verified(model, PUBLIC) as opened:
        assert np.array_equal(opened.get_array("twin.a"), tensors()["twin.a"].numpy())
        files = opened.files()
        assert sorted(files) == ["config.json", "model.safetensors"]
        assert files["config.json"] == (model / "config.json").read_bytes()
        assert "nothing" not in files
        with pytest.raises(NoSuchSite):
            opened.file("nothing")
        with pytest.raises(NoSuchSite):
            opened.get_tensor("nothing")


def test_one_tensor_reads_no_other(model: Path):
    with open_verified(model, PUBLIC, strict=False) as opened:
        opened.get_tensor("twin.a")
        assert opened.memory.bytes_read == 128 * 32 * 4


def test_memory_is_private_and_outlives_the_model(model: Path):
    with open_verified(model, PUBLIC) as opened:
        tensor = opened.get_tensor("big")
    (model / "model.safetensors").write_bytes(b"")  # a mapping would now be fatal
    assert torch.equal(tensor, tensors()["big"])
    tensor.zero_()
    with pytest.raises(InvalidConfig, match="closed"):
        opened.get_tensor("twin.a")


SLICES = [
    np.s_[:], np.s_[:512], np.s_[512:], np.s_[100:101], np.s_[7], np.s_[-1], np.s_[3:3], np.s_[..., 5], np.s_[:, 10:20],
    np.s_[17, 3:9], np.s_[17:19, 299], np.s_[-5:, -5:], np.s_[2000:], np.s_[...], np.s_[4, 4], np.s_[5:9, ...],
]  # fmt: skip


@pytest.mark.parametrize("index", SLICES, ids=str)
@pytest.mark.parametrize("outboards", [0, 4 * KIB])
def test_slices_are_those_of_the_whole(tmp_path: Path, index: object, outboards: int):
    with open_verified(make_model(tmp_path / "m", outboards=outboards), PUBLIC) as opened:
        part = opened.get_slice("big")
        assert (part.get_shape(), part.get_dtype()) == ([1024, 300], "F32")
        assert torch.equal(part[index], tensors()["big"][index])


def test_random_slices_of_three_sides(tmp_path: Path):
    rng, whole = random.Random(0), torch.arange(24 * 20 * 16, dtype=torch.int16).reshape(24, 20, 16)
    with open_verified(make_model(tmp_path / "m", {"w": whole}, outboards=KIB), PUBLIC) as opened:
        for _ in range(200):
            index = tuple(
                rng.randrange(-size, size) if rng.random() < 0.3 else slice(*sorted(rng.choices(range(size + 1), k=2)))
                for size in whole.shape[: rng.randrange(1, 4)]
            )
            assert torch.equal(opened.get_slice("w")[index], whole[index]), index


@pytest.mark.parametrize("outboards", [0, KIB])
@pytest.mark.parametrize("name", ["scalar", "empty", "mask", "bytes", "half"])
def test_slices_of_small_and_odd_tensors(tmp_path: Path, name: str, outboards: int):
    whole = tensors()[name]
    with open_verified(make_model(tmp_path / "m", outboards=outboards), PUBLIC) as opened:
        part = opened.get_slice(name)
        for index in (..., (), slice(None))[: 2 + bool(whole.ndim)]:
            assert torch.equal(part[index], whole[index])
            assert part[index].dtype == whole.dtype
        if whole.ndim and len(whole):
            assert torch.equal(part[1:3], whole[1:3])


@pytest.mark.parametrize("index", [np.s_[::2], np.s_[::-1], [1, 2], True, None, np.s_[1024], np.s_[1, 1, 1], 0.5])
def test_other_indices_are_refused(model: Path, index: object):
    with open_verified(model, PUBLIC) as opened, pytest.raises(InvalidConfig):
        opened.get_slice("big")[index]


def test_half_of_the_rows_reads_about_half_of_the_bytes(model: Path):
    with open_verified(model, PUBLIC, strict=False) as opened:
        opened.get_slice("big")[:512]
        half = 512 * 300 * 4
        assert half <= opened.memory.bytes_read <= half + 2 * 4 * KIB + (model / "config.json").stat().st_size


def test_without_an_outboard_file_the_whole_tensor_is_verified(model: Path):
    (model / "model.outboard" / "model.safetensors.obao").unlink()
    with open_verified(model, PUBLIC, strict=False) as opened:
        assert torch.equal(opened.get_slice("big")[3:5], tensors()["big"][3:5])
        assert opened.memory.bytes_read == 1024 * 300 * 4


def test_damage_is_named_by_tensor_and_by_group(model: Path):
    with open_verified(model, PUBLIC) as opened:
        place = opened.entry("big").offset + 5 * KIB
        flip(model / "model.safetensors", place)
        group = place // (4 * KIB) * 4 * KIB
        with pytest.raises(DigestMismatch, match=r"big in model\.safetensors \(bytes \d+:\d+\) differs"):
            opened.get_tensor("big")
        with pytest.raises(DigestMismatch, match=rf"bytes {group}:{group + 4 * KIB} of .*\(tensor big"):
            opened.get_slice("big")[:8]
        assert list(opened.damaged("model.safetensors")) == [(group, group + 4 * KIB)]
        assert torch.equal(opened.get_slice("big")[-4:], tensors()["big"][-4:])  # another group is as good as ever
        with pytest.raises(DigestMismatch):
            opened.get_tensors()


def test_the_first_damaged_group_of_a_tensor_is_named(model: Path):
    outboard = model / "model.outboard" / "model.safetensors.obao"
    with open_verified(model, PUBLIC) as opened:
        first = (opened.entry("big").offset // (4 * KIB) + 2) * 4 * KIB
        flip(model / "model.safetensors", first + 7)
        flip(model / "model.safetensors", first + 20 * KIB)
        with pytest.raises(
            DigestMismatch, match=rf"differs from its signed digest, first in bytes {first}:{first + 4 * KIB}"
        ):
            opened.get_tensor("big")
    outboard.write_bytes(b"damaged as well")
    with open_verified(model, PUBLIC) as opened, pytest.raises(DigestMismatch, match=r"big in .* differs.* digest$"):
        opened.get_tensor("big")


def test_an_openssf_signature_verifies_whole_files(tmp_path: Path):
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(tensors(), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    sign_artifact(folder, KEY)
    with open_verified(folder, PUBLIC) as opened:
        assert opened.granularity == "file"
        assert opened.manifest is None
        assert opened.keys() == sorted(tensors())
        assert torch.equal(opened.get_tensor("half"), tensors()["half"])
        assert torch.equal(opened.get_slice("big")[5:9], tensors()["big"][5:9])
        opened.get_tensor("big").zero_()
        assert torch.equal(opened.get_tensor("big"), tensors()["big"])
    flip(folder / "model.safetensors", -1)
    with open_verified(folder, PUBLIC) as opened, pytest.raises(DigestMismatch, match=r"model\.safetensors"):
        opened.keys()


@pytest.mark.parametrize("kind", ["manifest", "openssf"])
def test_a_single_file(tmp_path: Path, kind: str):
    path = tmp_path / "w.safetensors"
    save_file(tensors(), path)
    if kind == "manifest":
        sign_manifest(path, outboards=4 * KIB)
        assert (tmp_path / "w.safetensors.obao").exists()
    else:
        sign(path, key=KEY)
    with open_verified(path, PUBLIC) as opened:
        assert torch.equal(opened.get_tensor("big"), tensors()["big"])
        assert torch.equal(opened.get_slice("big")[9:12], tensors()["big"][9:12])


def test_two_files_may_hold_one_name(tmp_path: Path):
    folder = tmp_path / "m"
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        save_file({"w": torch.full((3,), float(len(part)))}, folder / part / "model.safetensors")
    sign_manifest(folder)
    with open_verified(folder, PUBLIC) as opened:
        assert opened.keys() == ["w"]
        with pytest.raises(InvalidConfig, match="both hold"):
            opened.get_tensor("w")
        assert opened.get_tensor("w", file="vae/model.safetensors")[0] == 3


def test_signature_and_policy_come_first(model: Path):
    (model / "model.safetensors").unlink()
    with pytest.raises(SignerUntrusted):
        open_verified(model, generate_key().public)

    def no_older_than_one(proof: object, manifest: object) -> None:
        if manifest.version < 1:
            raise PolicyError("version 0 is older than the last one seen")

    with pytest.raises(PolicyError):
        open_verified(model, PUBLIC, policy=no_older_than_one)
    (model / "model.sig2").unlink()
    with pytest.raises(RecordMissing):
        open_verified(model, PUBLIC)


@pytest.mark.parametrize("kind", ["sha256", "blake2b", "blake3"])
def test_an_openssf_signature_by_any_hash_opens_whole_files(tmp_path: Path, kind: str):
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "notes.txt"
    file.write_bytes(b"signed" * 100_000)
    sign_artifact(tmp_path / "m", KEY, how=Serialization(hash=kind))
    with open_verified(tmp_path / "m", KEY.public) as model:
        assert bytes(model.file("notes.txt")) == file.read_bytes()
    file.write_bytes(b"signEd" * 100_000)
    with open_verified(tmp_path / "m", KEY.public) as model, pytest.raises(DigestMismatch, match="notes"):
        model.file("notes.txt")


def test_a_signature_over_shards_opens_nothing_and_says_why(tmp_path: Path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_bytes(b"signed")
    sign_artifact(tmp_path / "m", KEY, how=Serialization(method="shards", hash="blake3"))
    with pytest.raises(UnsupportedVersion, match="shards/blake3"), open_verified(tmp_path / "m", KEY.public):
        pass
