"""Attacks on dataset commitments: each exploit that went through elsewhere, and the ones against this design.

Most names are those of defects found in a system that hashes data while it is loaded: only the last batch counted,
order and batch composition were hashed, labels were not, every sample was cut to the length of the first, 32 lanes fell
to lattice reduction, missing and extra sources passed, and the verdict came after the data had been used.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from torch.utils.data import DataLoader

import holdfast
from holdfast.cli import main
from holdfast.data.commitments import (
    MultisetHash,
    checked,
    commit,
    committed,
    from_predicate,
    merge,
    to_predicate,
    write_table,
)
from holdfast.data.commitments.element import Encoder
from holdfast.errors import (
    ArtifactError,
    DigestMismatch,
    InvalidConfig,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
    VerificationError,
)
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.datasets import (
    COMMITMENT_TYPE,
    merge_commitments,
    open_commitment,
    sign_commitment,
    verified,
    verify_sources,
    write_commitment,
)

LAB, MALLORY = generate_key(), generate_key()
PROVIDERS = {"a": generate_key("ed25519"), "b": generate_key()}


def stream(numbers, change=lambda number, fields: fields):
    """Samples of growing length, so that a hash of fixed length would miss the ends of most."""
    return [
        (f"{number:03d}", change(number, {"text": np.arange(number + 1, dtype=np.uint16), "label": number % 3}))
        for number in numbers
    ]


def digest(samples):
    return commit(samples, "d").commitment.digest


@pytest.fixture
def digits():
    return holdfast.dataset("digits", split="test").take(24)


@pytest.fixture
def folder(digits, tmp_path):
    return write_commitment(tmp_path / "one", commit(digits, "digits"), LAB)


@pytest.fixture
def composite(tmp_path):
    """Two sources, each signed by its provider, merged and signed by the lab."""
    parts = []
    for name, signer in PROVIDERS.items():
        place = write_commitment(tmp_path / name, commit(stream(range(10)), name), signer)
        parts.append(open_commitment(place, trust=signer.public))
    whole, statements = merge_commitments("both", parts)
    return write_commitment(tmp_path / "both", whole, LAB, statements)


def keys(*names):
    return {name: PROVIDERS[name].public for name in names}


# --- the hash ---------------------------------------------------------------------------------------------------------


def test_only_the_last_batch_counts():
    base = digest(stream(range(12)))
    for poisoned in range(12):
        samples = stream(range(12), lambda n, fields, bad=poisoned: fields | {"label": 9} if n == bad else fields)
        assert digest(samples) != base


def test_order_and_batch_composition_do_not_count(digits):
    whole = commit(digits, "d")
    for size, seed in ((1, 0), (5, 1), (24, 2)):
        data = checked(digits, whole)
        for _ in DataLoader(data, batch_size=size, shuffle=True, generator=torch.Generator().manual_seed(seed)):
            pass
        assert data.require_complete().multiset.digest == whole.commitment.digest
    assert digest(stream(range(12))) == digest(stream(reversed(range(12))))


def test_labels_are_not_covered():
    assert digest(stream(range(4), lambda n, fields: fields | {"label": (n + 1) % 3})) != digest(stream(range(4)))
    swapped = stream(range(4), lambda n, fields: fields | {"label": (3 - n) % 3})
    assert digest(swapped) != digest(stream(range(4)))  # the same labels, given to others


def test_samples_are_cut_to_the_length_of_the_first():
    longer = stream(range(6), lambda n, fields: fields | {"text": fields["text"] + (fields["text"] == 5)})
    assert digest(longer) != digest(stream(range(6)))
    padded = stream(range(6), lambda n, fields: fields | {"text": np.append(fields["text"], np.uint16(0))})
    assert digest(padded) != digest(stream(range(6)))


def test_a_boundary_moves_between_two_fields_or_two_samples():
    one = [("k", {"a": b"12", "b": b"3"})]
    other = [("k", {"a": b"1", "b": b"23"})]
    assert digest(one) != digest(other)
    pairs = [("k", {"x": b"12"}), ("l", {"x": b"3"})], [("k", {"x": b"1"}), ("l", {"x": b"23"})]
    assert digest(pairs[0]) != digest(pairs[1])


def test_65536_copies_cancel():
    one, other = (Encoder("d").element("k", {"x": value}).digest for value in (1, 2))
    poison = MultisetHash.of([one] * 65536, size=65536 * 8)
    assert not any(poison.state)  # the lanes do cancel ...
    assert poison.digest != MultisetHash().digest  # ... and the count does not
    assert MultisetHash.of([other] * 65536, size=65536 * 8).digest == poison.digest  # which alone would not do:
    with pytest.raises(InvalidConfig, match="twice"):  # no key comes twice
        commit([("k", {"x": 1})] * 2, "d")


def test_copies_of_one_sample_under_other_keys_do_not_cancel():
    copies = [(f"{number}", {"x": 1}) for number in range(300)]
    assert len({Encoder("d").element(key, fields).digest for key, fields in copies}) == 300
    assert digest(copies) != digest(copies[:-1])


@pytest.mark.parametrize(("lanes", "bits"), [(32, 16), (512, 16), (1024, 8), (1008, 20), (1024, 32)])
def test_small_lattices_and_other_ones(lanes, bits):
    value = to_predicate(commit(stream(range(3)), "d").commitment)
    value = json.loads(json.dumps(value))
    value["algorithms"]["multiset"] |= {"lanes": lanes, "bits": bits}
    with pytest.raises(UnsupportedVersion, match="algorithms or parameters"):
        from_predicate(value)
    with pytest.raises(UnreadableArtifact):
        MultisetHash(bytes(lanes * bits // 8) if lanes * bits != 16384 else bytes(64), 1, 1)


def test_a_statement_that_lies_about_its_parameters(digits, tmp_path):
    """A trusted signer that signs 64-byte states: the state itself is refused, whatever the statement calls it."""
    value = json.loads(json.dumps(to_predicate(commit(digits, "d").commitment)))
    value["multiset"]["state"] = value["multiset"]["state"][:128]
    with pytest.raises(UnsupportedVersion, match="2048 bytes"):
        from_predicate(value)


def test_unseeded_sources_and_splits():
    """The same specification gives the same samples, keys and digest in every process and call."""
    first, second = (commit(holdfast.dataset("digits", split="train"), "d").commitment for _ in range(2))
    assert first == second
    assert first.digest == "3b7864744e2872ce31bb1b941bec6eeb6137b86b06b9f653a65efe52beecb34d"


# --- the statement ----------------------------------------------------------------------------------------------------


def test_another_key_signed(folder):
    with pytest.raises(VerificationError):
        open_commitment(folder, trust=MALLORY.public)
    with pytest.raises(InvalidConfig, match="key to trust"):
        verified(holdfast.dataset("digits"), folder)


def bent(folder, change):
    """Rewrite the payload of a statement and keep its signature."""
    path = folder / "commitment.json"
    bundle = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(payload)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(bundle))


def test_the_statement_is_changed(folder):
    bent(folder, lambda payload: payload["predicate"].update(name="other"))
    with pytest.raises(SignatureInvalid):
        open_commitment(folder, trust=LAB.public)


def test_a_statement_about_something_else(digits, folder):
    commitment = commit(digits, "digits").commitment
    right = Subject("dataset:digits", {"blake3": commitment.digest, "merkle": commitment.root})
    wrong = Subject("dataset:digits", {"blake3": "0" * 64, "merkle": commitment.root})
    cases = [
        (Statement((right,), "https://holdfast.dev/model/v1", to_predicate(commitment)), UnsupportedVersion),
        (Statement((wrong,), COMMITMENT_TYPE, to_predicate(commitment)), DigestMismatch),
        (
            Statement((right, dataclasses.replace(wrong, name="x")), COMMITMENT_TYPE, to_predicate(commitment)),
            DigestMismatch,
        ),
        (Statement((right,), COMMITMENT_TYPE, {}), UnsupportedVersion),
    ]
    for statement, error in cases:
        (folder / "commitment.json").write_bytes(sign_statement(statement, LAB))
        with pytest.raises(error):
            open_commitment(folder, trust=LAB.public)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_another_one(folder, digits):
    path = folder / "leaves.bin"
    good = path.read_bytes()
    digits.labels[3] = (digits.labels[3] + 1) % 10
    for bad in (write_table(commit(digits, "digits").table), good[:-1], good + b"\0", b"", good[:-1] + b"x"):
        path.write_bytes(bad)
        with pytest.raises(DigestMismatch):
            open_commitment(folder, trust=LAB.public)
    path.unlink()
    with pytest.raises(ArtifactError):
        open_commitment(folder, trust=LAB.public)


def test_a_signed_table_that_contradicts_the_signed_sum(digits, folder):
    """Even the trusted signer cannot give a table of poisoned samples under the sum of clean ones."""
    clean = commit(digits, "digits")
    digits.labels[3] = (digits.labels[3] + 1) % 10
    poisoned = commit(digits, "digits")
    mixed = dataclasses.replace(
        clean.commitment, leaves=poisoned.commitment.leaves, leaves_size=poisoned.commitment.leaves_size
    )
    (folder / "commitment.json").write_bytes(sign_commitment(mixed, LAB))
    (folder / "leaves.bin").write_bytes(write_table(poisoned.table))
    with pytest.raises(DigestMismatch, match="sums or roots"):
        open_commitment(folder, trust=LAB.public)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_every_source_is_signed_by_its_provider(composite):
    proof = open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    assert proof.commitment.multiset.count == 20
    assert [source.signer for source in proof.commitment.sources] == [
        PROVIDERS[name].public.fingerprint for name in ("a", "b")
    ]


def test_a_missing_source_passes(composite, tmp_path):
    (composite / "sources" / "0001.json").unlink()
    with pytest.raises(RecordMissing, match="source b"):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))


def test_an_extra_source_passes(composite):
    shutil.copy(composite / "sources" / "0001.json", composite / "sources" / "0002.json")
    with pytest.raises(DigestMismatch, match=r"0002\.json belongs to no source"):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))


def test_a_provider_is_not_named_or_is_another(composite):
    with pytest.raises(RecordMissing, match="keys of b are missing"):
        open_commitment(composite, trust=LAB.public, providers=keys("a"))
    with pytest.raises(RecordMissing, match="keys of a, b are missing"):
        open_commitment(composite, trust=LAB.public)
    with pytest.raises(SignerUntrusted, match="keys of c"):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b") | {"c": LAB.public})
    with pytest.raises(VerificationError):
        open_commitment(composite, trust=LAB.public, providers=keys("a") | {"b": MALLORY.public})


def test_two_sources_are_exchanged(composite):
    one, other = composite / "sources" / "0000.json", composite / "sources" / "0001.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(VerificationError):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    same = dict.fromkeys(("a", "b"), PROVIDERS["b"].public)
    with pytest.raises(DigestMismatch, match="given for a is about b"):
        open_commitment(composite, trust=LAB.public, providers=same)


def test_a_source_is_poisoned_by_whoever_merges(composite):
    """The lab changes a provider's samples, signs the whole correctly, and keeps the provider's statement beside it."""
    whole = open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    poisoned = commit(stream(range(10), lambda n, fields: fields | {"label": 2}), "b")
    clean = commit(stream(range(10)), "a")
    signers = {name: signer.public.fingerprint for name, signer in PROVIDERS.items()}
    forged = merge("both", [clean, poisoned], signers)
    write_commitment(composite, forged, LAB, whole.providers)
    with pytest.raises(DigestMismatch, match="the source b is not what its provider signed"):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))


def test_an_unsigned_source_is_slipped_in(composite, tmp_path):
    """A third source that nobody signed adds up, and is refused as soon as providers are asked for."""
    proof = open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    parts = [commit(stream(range(10)), name) for name in ("a", "b", "c")]
    signers = {name: signer.public.fingerprint for name, signer in PROVIDERS.items()}
    forged = merge("both", parts, signers)
    write_commitment(composite, forged, LAB, proof.providers)
    with pytest.raises(RecordMissing, match="nobody but the signer of the whole vouches for the source c"):
        open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    stripped = committed("both", forged.table)
    write_commitment(tmp_path / "stripped", stripped, LAB)
    with pytest.raises(RecordMissing, match="nobody but the signer"):
        open_commitment(tmp_path / "stripped", trust=LAB.public, providers=keys("a", "b"))


def test_statements_are_asked_for_exactly(composite):
    proof = open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    with pytest.raises(RecordMissing, match="statements of b"):
        verify_sources(proof.commitment, {"a": proof.providers["a"]}, keys("a", "b"))
    with pytest.raises(SignerUntrusted, match="statements of c"):
        verify_sources(proof.commitment, dict(proof.providers) | {"c": proof.bundle}, keys("a", "b"))
    with pytest.raises(RecordMissing):
        write_commitment(composite, proof.whole, LAB, {})


def test_a_source_with_another_signer_than_the_statement_says(composite):
    proof = open_commitment(composite, trust=LAB.public, providers=keys("a", "b"))
    resigned = sign_commitment(commit(stream(range(10)), "b").commitment, MALLORY)
    with pytest.raises(SignerUntrusted, match="is said to be signed by"):
        verify_sources(proof.commitment, proof.providers | {"b": resigned}, keys("a") | {"b": MALLORY.public})


# --- use --------------------------------------------------------------------------------------------------------------


def test_bad_data_is_used_before_the_verdict(digits, folder):
    """The check comes before the sample is handed out, and nothing of its batch is."""
    digits.raw[7] = 255 - digits.raw[7]
    data = verified(digits, folder, trust=LAB.public)
    batches = iter(DataLoader(data, batch_size=5))
    assert len(next(batches)[0]) == 5
    with pytest.raises(DigestMismatch, match="index 7"):
        next(batches)


def test_bad_signatures_stop_before_the_first_sample(folder, composite):
    class Untouchable:
        def __len__(self):
            return 24

        def __getitem__(self, index):
            raise AssertionError("a sample was read before the signatures were verified")

    with pytest.raises(VerificationError):
        verified(Untouchable(), folder, trust=MALLORY.public)
    (composite / "sources" / "0000.json").unlink()
    with pytest.raises(RecordMissing):
        verified(Untouchable(), composite, trust=LAB.public, providers=keys("a", "b"), source="a")


def test_a_sample_stands_in_for_another(digits, folder):
    """Every sample is signed, but not at this place: a model trained on half the data twice is another model."""
    digits.raw[3], digits.labels[3] = digits.raw[4].clone(), digits.labels[4].clone()
    data = verified(digits, folder, trust=LAB.public)
    with pytest.raises(DigestMismatch, match="index 3"):
        data.all()


def test_a_shorter_epoch_passes(digits, folder):
    data = verified(digits, folder, trust=LAB.public)
    data.batch(torch.arange(23))
    with pytest.raises(DigestMismatch, match="1 missing"):
        data.require_complete()
    data.batch(torch.arange(23))
    with pytest.raises(DigestMismatch, match=r"1 missing.*23 repeated"):  # as many as there should be is not enough
        data.require_complete(padding=22)


@pytest.mark.parametrize("passes", [0, -1])
def test_an_epoch_of_no_passes_passes(digits, passes):
    with pytest.raises(InvalidConfig, match="nothing is complete"):
        checked(digits, commit(digits, "digits")).require_complete(passes=passes)


def test_an_unsigned_commitment_is_not_a_manifest(digits):
    with pytest.raises(InvalidConfig, match="not a signed commitment"):
        verified(digits, commit(digits, "digits"), trust=LAB.public)


# --- what is checked is what is used ----------------------------------------------------------------------------------


def one_sample(read):
    class One:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            if index:
                raise IndexError(index)
            return read()

    return One()


@pytest.mark.parametrize(("suffix", "mode"), [("pgm", "L"), ("bmp", "L"), ("tif", "RGBA"), ("tif", "I;16")])
def test_an_image_in_a_mapped_file_changes_after_the_check(tmp_path, suffix, mode):
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path, shape = tmp_path / f"a.{suffix}", (64, 64, 4) if mode == "RGBA" else (64, 64)
    images.fromarray(np.full(shape, 10, np.uint16 if mode == "I;16" else np.uint8)).save(path)
    data = one_sample(lambda: (images.open(path), 0))
    image, _ = checked(data, commit(data, "d"))[0]
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * (path.stat().st_size - 2000))
    assert np.asarray(image).max() == 10


def test_an_array_of_a_named_tuple_changes_after_the_check(tmp_path):
    named = namedtuple("named", "sample label")
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    data = one_sample(lambda: named(np.load(tmp_path / "x.npy", mmap_mode="r"), 0))
    got = checked(data, commit(data, "d"))[0]
    changed = np.load(tmp_path / "x.npy", mmap_mode="r+")
    changed[:] = 7
    changed.flush()
    assert isinstance(got, named)
    assert got.sample.max() == 0


def test_a_dataset_that_only_names_its_images_is_not_committed_to(tmp_path):
    library = pytest.importorskip("datasets", reason="datasets is not installed")
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    plain = {"image": [str(tmp_path / "a.png")], "label": [0]}
    outside = library.Dataset.from_dict(plain).cast_column("image", library.Image())
    nested = library.Dataset.from_dict(
        {"image": [[{"bytes": None, "path": plain["image"][0]}]]}, features=library.Features(image=[library.Image()])
    )
    for data in (outside, nested):
        with pytest.raises(InvalidConfig, match="names files and does not hold them"):
            commit(data, "d")
    outside.save_to_disk(tmp_path / "saved")
    inside = library.load_from_disk(tmp_path / "saved")
    whole = commit(inside, "d")
    images.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(tmp_path / "a.png")
    assert np.asarray(checked(inside, whole)[0]["image"]).max() == 0
    with pytest.raises(InvalidConfig, match="names files and does not hold them"):
        checked(outside, whole)[0]


def test_what_a_value_says_beside_its_numbers_is_not_covered():
    class Box(torch.Tensor):
        pass

    box = torch.zeros(1, 4).as_subclass(Box)
    assert digest([("a", {"x": box})]) == digest([("a", {"x": torch.zeros(1, 4)})])
    box.format = "XYWH"
    for value in (box, np.ma.array([1, 2], mask=[0, 1])):
        with pytest.raises(InvalidConfig, match="field 'x' of the sample 'a'"):
            digest([("a", {"x": value})])


def test_a_provider_is_named_whose_signature_is_not_there(tmp_path):
    lab = generate_key()
    (tmp_path / "lab.pub").write_bytes(lab.public.pem)
    (tmp_path / "lab.pem").write_bytes(lab.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "mallory.pub").write_bytes(MALLORY.public.pem)
    for name in "ce":
        write_commitment(tmp_path / name, commit(stream(range(3)), name), lab)
    command = ["dataset", "merge", str(tmp_path / "c"), str(tmp_path / "e"), "--trust", str(tmp_path / "lab.pub")]
    command += ["--name", "x", "--key", f"file:{tmp_path / 'lab.pem'}", "--out", str(tmp_path / "out")]
    assert main([*command, "--provider", f"c={tmp_path / 'mallory.pub'}"]) == 1
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
