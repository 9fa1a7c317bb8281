"""Streams that are checked before they are used, in one process and in workers."""

from __future__ import annotations

import io
import tarfile

import pytest
from torch.utils.data import DataLoader

from holdfast.data.commitments import checked_stream, commit, merge, open_source
from holdfast.errors import DigestMismatch, InvalidConfig, SignatureInvalid, SignerUntrusted
from holdfast.signing import generate_key
from holdfast.signing.datasets import verified_stream, write_commitment

COUNT = 83


def shards(folder, change=lambda samples: samples):
    """Three shards of (number, text) samples."""
    folder.mkdir(exist_ok=True)
    samples = change([(f"{place:04d}", f"text {place}", place % 7) for place in range(COUNT)])
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for key, text, label in samples[shard * 30 : (shard + 1) * 30]:
                for suffix, data in (("txt", text.encode()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return open_source(f"webdataset:{folder}")


@pytest.fixture
def whole(tmp_path):
    return commit(shards(tmp_path / "s"), "text")


def decode(fields):
    return fields["txt"].decode(), int(fields["cls"])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_worker_hands_out_its_share(tmp_path, whole, workers):
    data = checked_stream(shards(tmp_path / "s"), whole, transform=decode)
    loader = DataLoader(data, batch_size=6, num_workers=workers)
    for _ in range(2):
        texts = [text for batch, _ in loader for text in batch]
        assert sorted(texts) == sorted(f"text {place}" for place in range(COUNT))
        assert data.require_complete().multiset == whole.commitment.multiset


def swapped(samples):
    return [*samples[:40], (samples[40][0], samples[40][1], 6 - samples[40][2]), *samples[41:]]


def test_a_changed_sample_is_named_before_it_is_used(tmp_path, whole):
    stream, taken = iter(checked_stream(shards(tmp_path / "s", swapped), whole)), []
    with pytest.raises(DigestMismatch, match=r"'0040' of text.*field 'cls' differs"):
        taken.extend(stream)
    assert len(list(checked_stream(shards(tmp_path / "s"), whole))) == COUNT


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda samples: samples[:-1], "1 missing: '0082' of text"),
        (lambda samples: [*samples[1:], ("9999", "new", 1)], "extra in the stream, not in text: '9999'"),
    ],
)
def test_what_is_missing_or_extra_is_named(tmp_path, whole, change, sentence):
    data = checked_stream(shards(tmp_path / "s", change), whole)

    def epoch():
        for _ in data:
            pass
        data.require_complete()

    with pytest.raises(DigestMismatch, match=sentence):
        epoch()


def test_a_stream_that_is_left_half_way_is_not_complete(tmp_path, whole):
    data = checked_stream(shards(tmp_path / "s"), whole)
    for place, _ in enumerate(data):
        if place == COUNT - 2:
            break
    with pytest.raises(DigestMismatch, match="missing"):
        data.require_complete()


def test_a_source_is_chosen_and_a_subset_is_of_it(tmp_path, whole):
    both = merge("both", [whole, commit([("k", {"x": 1})], "other")])
    with pytest.raises(InvalidConfig, match="several sources"):
        checked_stream(shards(tmp_path / "s"), both)
    data = checked_stream(shards(tmp_path / "s"), both, dataset="text")
    assert len(list(data)) == COUNT
    assert data.require_complete().multiset == whole.commitment.multiset
    with pytest.raises(InvalidConfig, match="others than text"):
        checked_stream(shards(tmp_path / "s"), both, dataset="text", subset=[("other", "k")])
    few = checked_stream(
        shards(tmp_path / "s", lambda samples: samples[:5]), whole, subset=[f"000{n}" for n in range(5)]
    )
    assert len(list(few)) == 5
    assert few.require_complete().multiset.count == 5


def test_signatures_come_before_the_stream(tmp_path, whole):
    lab, mallory = generate_key(), generate_key()
    folder = write_commitment(tmp_path / "c", whole, lab)
    spec = f"webdataset:{tmp_path / 's'}"
    data = verified_stream(spec, folder, trust=lab.public, transform=decode)
    assert dict(data)["text 3"] == 3
    data.require_complete()
    with pytest.raises((SignatureInvalid, SignerUntrusted)):
        verified_stream("webdataset:nowhere", folder, trust=mallory.public)
    with pytest.raises(InvalidConfig, match="key to trust"):
        verified_stream(spec, folder)
