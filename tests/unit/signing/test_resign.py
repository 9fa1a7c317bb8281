"""Signing again: what is read, what is believed, and what cannot be made to be believed."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, RecordMissing, SignerUntrusted, StorageError
from holdfast.evidence.beside import GIT_NAMES
from holdfast.signing import generate_key
from holdfast.signing.digest_cache import GROUP, DigestCache
from holdfast.signing.manifests import read_manifest, verify_files, write_manifest
from holdfast.signing.resign import Resigned, resign

KEY = generate_key("ed25519")
WEIGHTS = "model.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "cache", settle=0)


@pytest.fixture
def model(tmp_path: Path, cache: DigestCache) -> Path:
    """A signed model whose files this machine remembers."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.arange(3 * GROUP // 4).float(), "b": torch.ones(7)}, folder / WEIGHTS)
    (folder / "README.md").write_text("a model")
    write_manifest(folder, KEY)
    again(folder, cache)
    return folder


def again(model: Path, cache: DigestCache, **options: object) -> Resigned:
    return resign(model, KEY, KEY.public, cache=cache, **options)


def poke(path: Path, place: int, data: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def test_the_first_time_everything_is_read(tmp_path: Path, cache: DigestCache):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("a")
    write_manifest(tmp_path / "m", KEY)
    done = again(tmp_path / "m", cache)
    assert (done.hashed, done.reused) == (("a",), ())
    assert done.manifest == done.previous


def test_only_what_changed_is_read(model: Path, cache: DigestCache):
    (model / "README.md").write_text("a better model")
    (model / "new.json").write_text("{}")
    done = again(model, cache)
    assert done.hashed == ("README.md", "new.json")
    assert done.reused == (WEIGHTS,)
    assert GROUP <= done.sampled < 2 * GROUP  # one hundredth, rounded up to a group; the last group is short
    assert done.manifest.version == done.previous.version + 1
    manifest, _ = read_manifest(model, KEY.public)
    assert manifest == done.manifest
    verify_files(model, manifest)
    write_manifest(model, KEY, version=manifest.version)  # from scratch, to the very same bytes
    assert read_manifest(model, KEY.public)[0] == manifest


def test_nothing_changed_and_nothing_does(model: Path, cache: DigestCache):
    before = (model / "model.sig2").read_bytes()
    done = again(model, cache)
    assert done.hashed == ()
    assert (model / "model.sig2").read_bytes() == before


def test_a_removed_file_is_forgotten_with_its_tensors(model: Path, cache: DigestCache):
    (model / WEIGHTS).unlink()
    done = again(model, cache)
    assert [item.name for item in done.manifest.files] == ["README.md"]
    assert done.manifest.tensors == ()
    assert done.hashed == ()


def test_a_changed_file_is_read_however_it_changed(model: Path, cache: DigestCache):
    stamp = (model / WEIGHTS).stat()
    poke(model / WEIGHTS, 5000)
    os.utime(model / WEIGHTS, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # only the kernel's own ctime tells
    assert WEIGHTS in again(model, cache).hashed
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).write_bytes(data)
    assert WEIGHTS in again(model, cache).hashed


def test_what_was_left_unsigned_stays_so_unless_told_otherwise(model: Path, cache: DigestCache):
    (model / "notes").write_text("x")
    for options in ({"ignore": ["notes"]}, {}):
        assert set(again(model, cache, **options).manifest.ignore) == {"notes", *GIT_NAMES}
    done = again(model, cache, ignore=[])
    assert set(done.manifest.ignore) == set(GIT_NAMES)
    assert "notes" in done.hashed


def test_full_reads_everything(model: Path, cache: DigestCache):
    assert again(model, cache, full=True).reused == ()


@pytest.mark.parametrize(("part", "least"), [(0.0, 0), (0.5, GROUP), (1.0, 3 * GROUP)])
def test_the_sample_is_as_large_as_asked(part: float, least: int, model: Path, cache: DigestCache):
    sampled = again(model, cache, sample=part).sampled
    assert least <= sampled <= (model / WEIGHTS).stat().st_size + 100
    assert sampled > 0 or part == 0


def test_a_part_is_between_nothing_and_everything(model: Path, cache: DigestCache):
    for part in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidConfig):
            again(model, cache, sample=part)


def test_rot_that_leaves_no_trace_is_found_by_the_sample(model: Path, cache: DigestCache):
    poke(model / WEIGHTS, GROUP + 17)
    known = cache.recall(model)
    stamp = dataclasses.replace(known[WEIGHTS].stamp)
    status = (model / WEIGHTS).stat()
    rotten = dataclasses.replace(stamp, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)
    known[WEIGHTS] = dataclasses.replace(known[WEIGHTS], stamp=rotten)  # as if the disk itself had changed a bit
    cache.remember(model, {}, known)
    with pytest.raises(DigestMismatch, match=rf"bytes {GROUP}:{2 * GROUP} of {WEIGHTS} changed without a trace"):
        again(model, cache, sample=1.0)
    again(model, cache, full=True)


def forge(cache: DigestCache, model: Path, other_key: bool) -> None:
    """Make the cache claim that a changed file is the signed one."""
    (path,) = cache.folder.glob("*.json")
    status = (model / WEIGHTS).stat()
    if other_key:
        stranger = DigestCache(cache.folder.parent / "stranger", settle=0)
        known = cache.recall(model)
        stamp = dataclasses.replace(
            known[WEIGHTS].stamp, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, inode=status.st_ino
        )
        known[WEIGHTS] = dataclasses.replace(known[WEIGHTS], stamp=stamp)
        stranger.remember(model, {}, known)
        path.write_bytes(next(stranger.folder.glob("*.json")).read_bytes())
        return
    code, _, payload = path.read_bytes().partition(b"\n")
    value = json.loads(payload)
    value["files"][WEIGHTS]["stamp"][1:3] = [str(status.st_mtime_ns), str(status.st_ctime_ns)]
    path.write_bytes(code + b"\n" + json.dumps(value).encode())


@pytest.mark.parametrize("other_key", [True, False])
def test_a_forged_memory_is_not_believed(other_key: bool, model: Path, cache: DigestCache):
    poke(model / WEIGHTS, 5000)
    forge(cache, model, other_key)
    done = again(model, cache, sample=0.0)
    assert WEIGHTS in done.hashed
    verify_files(model, done.manifest)


def test_the_memory_of_another_folder_is_not_believed(model: Path, cache: DigestCache, tmp_path: Path):
    other = tmp_path / "other"
    model.rename(other)
    assert again(other, cache).reused == ()


@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 64 + b"\n{}"])
def test_a_damaged_memory_only_costs_time(damage: bytes, model: Path, cache: DigestCache):
    next(cache.folder.glob("*.json")).write_bytes(damage)
    assert again(model, cache).reused == ()
    assert again(model, cache).hashed == ()


def test_a_key_that_others_can_read_is_refused(model: Path, cache: DigestCache):
    assert (cache.folder / "key").stat().st_mode & 0o777 == 0o600
    (cache.folder / "key").chmod(0o644)
    with pytest.raises(StorageError, match="no private key"):
        again(model, cache)
    (cache.folder / "key").unlink()
    (cache.folder / "key").symlink_to("/dev/zero")
    with pytest.raises(StorageError):
        again(model, cache)


def test_memory_and_signature_must_agree(model: Path, cache: DigestCache):
    """A cache entry alone is no reason to believe: the file must also be the one that was signed."""
    kept = (model / "model.sig2").read_bytes()
    (model / "README.md").write_text("version two")
    again(model, cache)
    (model / "model.sig2").write_bytes(kept)  # somebody puts the older signature back
    assert "README.md" in again(model, cache).hashed


def test_young_files_are_not_remembered(model: Path, tmp_path: Path):
    careful = DigestCache(tmp_path / "careful", settle=3600)
    again(model, careful)
    assert again(model, careful).reused == ()


def test_the_old_signature_must_hold_first(model: Path, cache: DigestCache):
    with pytest.raises(SignerUntrusted):
        resign(model, KEY, generate_key().public, cache=cache)
    (model / "model.sig2").write_bytes((model / "model.sig2").read_bytes().replace(b'"sig":"', b'"sig":"A'))
    with pytest.raises(HoldfastError):
        again(model, cache)
    (model / "model.sig2").unlink()
    with pytest.raises(RecordMissing):
        again(model, cache)


def test_a_new_key_can_take_over_without_reading(model: Path, cache: DigestCache):
    new = generate_key("p256")
    done = resign(model, new, KEY.public, cache=cache)
    assert done.hashed == ()
    assert read_manifest(model, new.public)[0] == done.manifest


def test_a_single_file_is_signed_again(model: Path, cache: DigestCache):
    path = model / WEIGHTS
    write_manifest(path, KEY)
    assert again(path, cache).hashed == (".",)
    assert again(path, cache).reused == (".",)
    poke(path, 5000)
    done = again(path, cache)
    assert done.hashed == (".",)
    verify_files(path, done.manifest)
