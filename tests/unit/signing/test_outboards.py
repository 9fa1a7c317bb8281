"""Outboards beside a model: written only over the bytes of the manifest, and enough to check a range or find damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import DigestMismatch, InvalidConfig, NoSuchSite, UnsafeArtifact
from holdfast.evidence.outboard import build_outboard
from holdfast.signing import sign
from holdfast.signing.outboards import damaged_ranges, outboard_path, parse_range, verify_range, write_outboards
from tests.signed_models import KEY, KIB, make_model, manifest_for, sign_manifest

PUBLIC = KEY.public
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m", outboards=KIB)


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 128
    path.write_bytes(data)


def test_written_outboards_are_those_of_the_files(model: Path):
    manifest = manifest_for(model)
    written = write_outboards(model, manifest, group=KIB, least=1000)
    roots = {item.name: item.outboard for item in written.files}
    assert roots == {WEIGHTS: build_outboard(model / WEIGHTS, group=KIB).root, "config.json": ""}
    assert outboard_path(model, WEIGHTS).read_bytes() == build_outboard(model / WEIGHTS, group=KIB).to_bytes()
    assert (written.tensors, written.model_id) == (manifest.tensors, manifest.model_id)


@pytest.mark.parametrize(
    "change", [lambda path: flip(path, 900), lambda path: path.write_bytes(path.read_bytes() + b"x")]
)
def test_no_outboard_is_written_over_other_bytes(tmp_path: Path, change):
    model = make_model(tmp_path / "m")
    manifest = manifest_for(model)
    change(model / WEIGHTS)
    with pytest.raises(DigestMismatch, match="changed since"):
        write_outboards(model, manifest, group=KIB, least=0)
    assert not outboard_path(model, WEIGHTS).exists()


def test_no_outboard_is_written_for_what_a_link_leads_to(tmp_path: Path):
    model = make_model(tmp_path / "m")
    manifest = manifest_for(model)
    (model / WEIGHTS).rename(tmp_path / "aside")
    (model / WEIGHTS).symlink_to(tmp_path / "aside")
    with pytest.raises(UnsafeArtifact):
        write_outboards(model, manifest, least=0)


def test_a_range_is_verified_alone(model: Path):
    data = (model / WEIGHTS).read_bytes()
    flip(model / WEIGHTS, 100_000)
    found = verify_range(model, f"{WEIGHTS}:5000:9000", PUBLIC)
    assert (found.file, found.start, found.stop, found.data) == (WEIGHTS, 5000, 9000, data[5000:9000])
    assert found.bytes_read <= 4000 + 2 * KIB
    assert found.proof.signer == PUBLIC.fingerprint
    with pytest.raises(DigestMismatch, match=r"bytes 99328:100352 of model\.safetensors"):
        verify_range(model, f"{WEIGHTS}:99999:100001", PUBLIC)


def test_a_range_without_an_outboard_costs_the_whole_file(tmp_path: Path):
    model = make_model(tmp_path / "m")
    data = (model / WEIGHTS).read_bytes()
    assert verify_range(model, f"{WEIGHTS}:0:8", PUBLIC).bytes_read == len(data)
    with pytest.raises(InvalidConfig):
        verify_range(model, f"{WEIGHTS}:0:{len(data) + 1}", PUBLIC)
    flip(model / WEIGHTS, 100_000)
    with pytest.raises(DigestMismatch):
        verify_range(model, f"{WEIGHTS}:0:8", PUBLIC)


def test_all_damaged_groups_are_found(model: Path):
    assert damaged_ranges(model, WEIGHTS, PUBLIC) == ()
    flip(model / WEIGHTS, 3 * KIB, 3 * KIB + 5, 700 * KIB)
    assert damaged_ranges(model, WEIGHTS, PUBLIC) == ((3 * KIB, 4 * KIB), (700 * KIB, 701 * KIB))
    with (model / WEIGHTS).open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(DigestMismatch, match="signed are"):
        damaged_ranges(model, WEIGHTS, PUBLIC)


def test_damage_cannot_be_found_where_no_outboard_is_signed(tmp_path: Path):
    model = make_model(tmp_path / "m")
    with pytest.raises(InvalidConfig, match="no outboard"):
        damaged_ranges(model, WEIGHTS, PUBLIC)
    (model / "model.sig2").unlink()
    sign(model, key=KEY)
    with pytest.raises(InvalidConfig, match="no outboard"):
        damaged_ranges(model, WEIGHTS, PUBLIC)


def test_ranges_are_read_strictly(model: Path):
    assert parse_range("a:b:1:22") == ("a:b", 1, 22)
    for span in ("a", "a:1", ":1:2", "a:1:", "a:-1:2", "a:1:x", "a:1:²", "a: 1:2"):
        with pytest.raises(InvalidConfig):
            parse_range(span)
    for span, error in ((f"{WEIGHTS}:9:8", InvalidConfig), ("nothing:0:1", NoSuchSite)):
        with pytest.raises(error):
            verify_range(model, span, PUBLIC)


def test_a_signed_file_keeps_its_outboard_beside_it(tmp_path: Path):
    path = make_model(tmp_path / "m") / WEIGHTS
    alone = path.rename(tmp_path / "alone.safetensors")
    sign_manifest(alone, outboards=KIB)
    assert outboard_path(alone, alone.name) == tmp_path / "alone.safetensors.obao"
    assert verify_range(alone, "alone.safetensors:10:20", PUBLIC).data == alone.read_bytes()[10:20]
