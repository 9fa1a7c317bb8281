"""Readers of datasets as (key, fields): what they give, and what they refuse."""

from __future__ import annotations

import datetime
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import holdfast
from holdfast.data.commitments import checked, commit, image_multiset, open_source, sources
from holdfast.data.commitments.values import Value
from holdfast.errors import DigestMismatch, InvalidConfig, UnknownName, UnreadableArtifact


def read(spec, **options):
    return dict(open_source(spec, **options).samples())


def test_one_registry_names_them_all():
    assert sources.names() == ["arrow", "files", "hf", "mds", "npz", "parquet", "webdataset"]
    with pytest.raises(UnknownName, match="parque"):
        open_source("parque:x")
    with pytest.raises(InvalidConfig, match="needs a path"):
        open_source("npz")
    with pytest.raises(InvalidConfig, match="no option 'depth'"):
        open_source("npz:x,depth=3")


def test_our_datasets_are_sources():
    source, data = open_source("digits", split="train"), holdfast.dataset("digits", split="train")
    assert (source.name, len(source)) == (data.name, len(data))
    key, fields = next(source.samples())
    assert key == "0" * 12
    assert torch.equal(fields["image"], data.raw[0])
    assert commit(source).commitment == commit(data).commitment


def test_an_image_folder_is_committed_by_its_pixels(tmp_path):
    for name, value in (("cat/a.png", 10), ("cat/b.png", 20), ("dog/c.png", 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / name)
    whole = commit(open_source(f"folder:{tmp_path}"), "pets")
    data = checked(holdfast.dataset(f"folder:{tmp_path}"), whole)
    data.all()
    assert data.require_complete().multiset.count == 3
    (tmp_path / "dog").rename(tmp_path / "fox")
    with pytest.raises(DigestMismatch, match=r"index 2\).*field 'class' differs"):
        checked(holdfast.dataset(f"folder:{tmp_path}"), whole).all()


def test_ten_thousand_real_images(shared_data):
    data = holdfast.dataset(f"mnist:{shared_data / 'mnist'}")
    whole = commit(open_source(f"mnist:{shared_data / 'mnist'}"), data.name)
    assert whole.commitment.multiset == image_multiset(data, data.name)
    assert whole.commitment.multiset.count == 10_000
    verified = checked(data, whole)
    for _ in verified.batches(500):
        pass
    assert verified.require_complete().multiset == whole.commitment.multiset


def test_files_are_read_as_they_are(tmp_path):
    for name, data in {"cat/1.png": b"x", "cat/2.png": b"", "dog/å.png": b"y"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    samples = read(f"files:{tmp_path}")
    assert samples["cat/1.png"] == {"bytes": b"x", "folder": "cat"}
    assert list(samples) == sorted(samples)
    assert len(open_source(f"files:{tmp_path}")) == 3
    (tmp_path / "dog" / "link.png").symlink_to(tmp_path / "cat" / "1.png")
    with pytest.raises(UnreadableArtifact, match="not a regular file"):
        read(f"files:{tmp_path}")
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(UnreadableArtifact):
            read(f"files:{wrong}")


def test_rows_of_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(6, dtype=np.int16).reshape(3, 2), y=np.array(["a", "bb", "c"]), z=np.array([1.0, 2, 3]))
    samples = read(f"npz:{path}")
    assert list(samples) == [f"{place:012d}" for place in range(3)]
    assert samples["000000000001"]["x"].tolist() == [2, 3]
    assert samples["000000000001"]["y"] == "bb"
    np.savez(path, x=np.arange(3), key=np.array(["c", "a", "b"]))
    assert {key: int(fields["x"]) for key, fields in read(f"npz:{path}").items()} == {"c": 0, "a": 1, "b": 2}


ARCHIVES = {
    "objects": {"x": np.array([{}, {}], dtype=object)},
    "two lengths": {"x": np.zeros(3), "y": np.zeros(2)},
    "a scalar": {"x": np.float32(1)},
    "no rows": {"x": np.zeros((0, 2))},
    "nothing": {},
    "number keys": {"x": np.zeros(2), "key": np.arange(2)},
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_are_refused(case, tmp_path):
    np.savez(tmp_path / "a.npz", **ARCHIVES[case])
    with pytest.raises(UnreadableArtifact):
        read(f"npz:{tmp_path / 'a.npz'}")


def test_broken_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(100000))
    data = path.read_bytes()
    with pytest.raises(UnreadableArtifact, match="more than 1000"):
        read(f"npz:{path},limit=1000")
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", huge.getvalue())
    for broken in (path.read_bytes(), data[: len(data) // 2], b"", b"PK", data[:60] + b"\xff" * 20 + data[80:]):
        path.write_bytes(broken)
        with pytest.raises(UnreadableArtifact):
            read(f"npz:{path}")
    with pytest.raises(UnreadableArtifact):
        read(f"npz:{tmp_path / 'none.npz'}")


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


GOOD = [("a/1.jpg", b"j"), ("a/1.cls", b"3"), ("./a/2.jpg", b"k"), ("a/2.seg.PNG", b"s"), ("3.txt", b"")]


def test_members_with_one_base_name_are_one_sample(tmp_path):
    samples = read(f"webdataset:{shard(tmp_path / 's.tar', GOOD)}")
    assert samples == {"a/1": {"jpg": b"j", "cls": b"3"}, "a/2": {"jpg": b"k", "seg.png": b"s"}, "3": {"txt": b""}}


def test_a_folder_of_shards_is_one_dataset(tmp_path):
    shard(tmp_path / "b.tar", [("3.x", b"3")])
    shard(tmp_path / "a.tar", [("1.x", b"1"), ("2.x", b"2")])
    source = open_source(f"webdataset:{tmp_path}")
    assert [key for key, _ in source.samples()] == ["1", "2", "3"]
    assert len(source) == 3
    shard(tmp_path / "c.tar", [("2.x", b"again")])
    with pytest.raises(UnreadableArtifact, match="two pieces"):
        read(f"webdataset:{tmp_path}")


def special(kind, name="x.jpg", **more):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


SHARDS = {
    "symlink": [(special(tarfile.SYMTYPE, linkname="/etc/passwd"), b"")],
    "hard link": [("y.jpg", b"1"), (special(tarfile.LNKTYPE, linkname="y.jpg"), b"")],
    "fifo": [(special(tarfile.FIFOTYPE), b"")],
    "device": [(special(tarfile.CHRTYPE), b"")],
    "absolute": [("/x.jpg", b"")],
    "climbing": [("../x.jpg", b"")],
    "hidden climb": [("a/../x.jpg", b"")],
    "doubled slash": [("a//x.jpg", b"")],
    "no suffix": [("x", b"")],
    "no key": [(".jpg", b"")],
    "twice": [("x.jpg", b"1"), ("x.jpg", b"2")],
    "twice by case": [("x.jpg", b"1"), ("x.JPG", b"2")],
    "in two pieces": [("x.jpg", b"1"), ("y.jpg", b"2"), ("x.cls", b"3")],
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards_that_are_refused(case, tmp_path):
    with pytest.raises(UnreadableArtifact):
        read(f"webdataset:{shard(tmp_path / 's.tar', SHARDS[case])}")


def test_broken_shards_are_refused(tmp_path):
    path = shard(tmp_path / "s.tar", [("x.jpg", b"1" * 5000)])
    with pytest.raises(UnreadableArtifact, match="larger than 100"):
        read(f"webdataset:{path},limit=100")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UnreadableArtifact):
        read(f"webdataset:{path}")
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UnreadableArtifact):
        read(f"webdataset:{path}")
    with pytest.raises(UnreadableArtifact, match="no tar file"):
        read(f"webdataset:{tmp_path / 'none'}")


COLUMNS = {"column_names": ["image", "label"], "column_encodings": ["jpeg", "int"], "column_sizes": [None, 8]}


def mosaic(folder, images, change=lambda index, shard: (index, shard)):
    """Write one shard as the MDS layout has it; ``change`` gets the index and the shard's bytes."""
    folder.mkdir(exist_ok=True)
    config = json.dumps({"format": "mds", "version": 2, **COLUMNS}, sort_keys=True).encode()
    rows = [struct.pack("<I", len(data)) + data + struct.pack("<q", place) for place, data in enumerate(images)]
    start = 4 + 4 * (len(rows) + 1) + len(config)
    offsets = np.cumsum([start, *map(len, rows)])
    shard = struct.pack(f"<{len(rows) + 2}I", len(rows), *offsets) + config + b"".join(rows)
    entry = {
        "format": "mds", "version": 2, "samples": len(rows), "compression": None, "zip_data": None, "hashes": [],
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(shard), "hashes": {}}, "size_limit": None, **COLUMNS,
    }  # fmt: skip
    entry, shard = change(entry, shard)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [entry]}))
    (folder / "shard.00000.mds").write_bytes(shard)
    return folder


def test_columns_of_mosaic_shards_are_bytes_under_their_encoding(tmp_path):
    folder = mosaic(tmp_path / "m", [b"abc", b"", b"z"])
    samples = read(f"mds:{folder}")
    assert samples["000000000000"] == {
        "image": Value("mds/jpeg", (), b"abc"),
        "label": Value("mds/int", (), bytes(8)),
    }
    assert samples["000000000002"]["label"].data == struct.pack("<q", 2)
    assert len(open_source(f"mds:{folder}")) == 3
    assert len(commit(open_source(f"mds:{folder}")).table) == 3


MOSAICS = {
    "other version": lambda entry, shard: (entry | {"version": 1}, shard),
    "compressed": lambda entry, shard: (entry | {"compression": "zstd"}, shard),
    "climbing": lambda entry, shard: (entry | {"raw_data": entry["raw_data"] | {"basename": "../x"}}, shard),
    "hidden": lambda entry, shard: (entry | {"raw_data": entry["raw_data"] | {"basename": "a/b"}}, shard),
    "longer": lambda entry, shard: (entry, shard + b"x"),
    "shorter": lambda entry, shard: (entry, shard[:-1]),
    "fewer samples": lambda entry, shard: (entry | {"samples": 2}, shard),
    "more samples": lambda entry, shard: (entry | {"samples": 2**31}, shard),
    "negative": lambda entry, shard: (entry | {"samples": -1}, shard),
    "other columns": lambda entry, shard: (entry | {"column_encodings": ["png", "int"]}, shard),
    "one column twice": lambda entry, shard: (entry | {"column_names": ["image", "image"]}, shard),
    "other sizes": lambda entry, shard: (entry | {"column_sizes": [None, 4]}, shard),
    "overlap": lambda entry, shard: (entry, shard[:8] + b"\xff\x00\x00\x00" + shard[12:]),
    "wrong size": lambda entry, shard: (entry, shard.replace(b"\x03\x00\x00\x00abc", b"\x09\x00\x00\x00abc")),
    "no list": lambda entry, shard: ([], shard),
}  # fmt: skip


@pytest.mark.parametrize("case", MOSAICS)
def test_mosaic_shards_that_are_refused(case, tmp_path):
    with pytest.raises(UnreadableArtifact):
        read(f"mds:{mosaic(tmp_path / 'm', [b'abc', b'', b'z'], MOSAICS[case])}")


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow", reason="pyarrow (extra data) is not installed")


def rows(arrow):
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    return arrow.table(
        {
            "id": ["r1", "r2"],
            "small": arrow.array([1, None], arrow.int16()),
            "wide": arrow.array([1, 2], arrow.int64()),
            "real": arrow.array([1.5, 2.5], arrow.float32()),
            "flag": [True, False],
            "blob": [b"a", b""],
            "list": arrow.array([[1, 2], []], arrow.list_(arrow.uint8())),
            "struct": [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
            "when": arrow.array([moment, None], arrow.timestamp("us", tz="UTC")),
        }
    )


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_rows_keep_their_types(arrow, tmp_path, kind):
    import pyarrow.parquet

    path = tmp_path / f"t.{'parquet' if kind == 'parquet' else 'arrow'}"
    table = rows(arrow)
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        new = arrow.ipc.new_file if kind == "arrow" else arrow.ipc.new_stream
        with arrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
    spec = f"{'parquet' if kind == 'parquet' else 'arrow'}:{path}"
    first, second = read(f"{spec},key=id").values()
    assert {name: type(value) for name, value in first.items()} == {
        "id": str, "small": np.int16, "wide": np.int64, "real": np.float32, "flag": np.bool, "blob": bytes,
        "list": list, "struct": dict, "when": Value,
    }  # fmt: skip
    assert first["when"] == Value("timestamp[us, tz=UTC]", (), b"1767323045000006")
    assert (second["small"], second["when"], second["list"]) == (None, None, [])
    assert list(read(f"{spec},key=id")) == ["r1", "r2"]
    assert list(read(spec)) == ["000000000000", "000000000001"]
    assert commit(open_source(spec), "t").commitment.digest == commit(open_source(f"{spec}"), "t").commitment.digest


def test_a_retyped_column_is_another_dataset(arrow, tmp_path):
    import pyarrow.parquet

    digests = set()
    for kind in (arrow.int32(), arrow.int64(), arrow.float64(), arrow.timestamp("s"), arrow.timestamp("ms")):
        pyarrow.parquet.write_table(
            arrow.table({"x": arrow.array([1, 2], arrow.int32()).cast(arrow.int64()).cast(kind)}),
            tmp_path / "t.parquet",
        )
        digests.add(commit(open_source(f"parquet:{tmp_path / 't.parquet'}"), "t").commitment.digest)
    assert len(digests) == 5


def test_rows_that_are_refused(arrow, tmp_path):
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(rows(arrow), path)
    for key in ("small", "nothing", "blob"):
        with pytest.raises(UnreadableArtifact, match="no key in column"):
            read(f"parquet:{path},key={key}")
    data = path.read_bytes()
    for broken in (data[:100], b"", data[:-4] + b"PAR2"):
        path.write_bytes(broken)
        with pytest.raises(UnreadableArtifact, match=r"t\.parquet"):
            read(f"parquet:{path}")
    with pytest.raises(UnreadableArtifact, match=r"no \.parquet file"):
        read(f"parquet:{tmp_path / 'none'}")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", reason="datasets (extra hf-data) is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    images = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (0, 100, 200)]
    data = library.Dataset.from_dict(
        {"image": images, "label": [0, 1, 2], "text": ["a", "b", "c"]},
        features=library.Features(
            {
                "image": library.Image(),
                "label": library.ClassLabel(names=["x", "y", "z"]),
                "text": library.Value("string"),
            }
        ),
    )
    data.save_to_disk(tmp_path / "hf")
    return tmp_path / "hf"


def test_saved_datasets_are_committed_as_stored_and_used_decoded(saved):
    import datasets

    source = open_source(f"hf:{saved}")
    assert len(source) == 3
    _, fields = next(source.samples())
    assert fields["image"]["bytes"].startswith(b"\x89PNG")
    assert fields["label"] == np.int64(0)
    whole, loaded = commit(source, "hf"), datasets.load_from_disk(str(saved))
    assert commit(loaded, "hf").commitment == whole.commitment
    data = checked(loaded, whole)
    items = data.__getitems__([2, 0, 1])
    assert [item["label"] for item in items] == [2, 0, 1]
    assert np.asarray(items[0]["image"]).max() == 200
    data.require_complete()
    changed = loaded.map(lambda row: {"label": 0 if row["text"] == "b" else row["label"]})
    with pytest.raises(DigestMismatch, match=r"index 1\).*field 'label' differs"):
        checked(changed, whole)[1]


def test_splits_of_saved_datasets_are_chosen(saved, tmp_path):
    import datasets

    loaded = datasets.load_from_disk(str(saved))
    datasets.DatasetDict({"train": loaded, "test": loaded}).save_to_disk(tmp_path / "both")
    assert len(read(f"hf:{tmp_path / 'both'},split=test")) == 3
    for wrong in ("", ",split=dev"):
        with pytest.raises(InvalidConfig, match="train, test"):
            read(f"hf:{tmp_path / 'both'}{wrong}")
    with pytest.raises(UnreadableArtifact, match="no saved dataset"):
        read(f"hf:{tmp_path}")
