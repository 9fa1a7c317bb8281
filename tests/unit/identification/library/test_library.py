"""A library keeps what platforms answered, finds which of them are one class, and notices what was changed."""

from __future__ import annotations

import json

import pytest
import torch

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Trace
from holdfast.identification.library import Library, Machine

HERE = Machine("cpu one", ("avx2",), "Linux x86_64", {"torch": "2.13.0"})
THERE = Machine("cpu two", ("avx2", "avx512f"), "Linux x86_64", {"torch": "2.13.0"})


def trace(*words: float, model: str = "m", probes: str = "p") -> Trace:
    return Trace(torch.tensor([words]), probes, model, {"cpu": "one"})


def library() -> Library:
    """Two nets; on the first, two of three platforms agree, and the second tells those two apart."""
    made = Library()
    made.add("default", HERE, {"mlp": trace(1.0, 2.0), "cnn": trace(5.0, model="n")})
    made.add("batch-1", HERE, {"mlp": trace(1.0, 2.0), "cnn": trace(6.0, model="n")})
    made.add("bf16", HERE, {"mlp": trace(1.0, 2.5), "cnn": trace(5.0, model="n")})
    made.skip("openvino", HERE, "openvino is not installed")
    return made


def test_classes_are_per_subject_or_joint() -> None:
    known = library()
    assert [item.name for item in known.classes("mlp")] == ["batch-1 = default", "bf16"]
    assert [item.name for item in known.classes("cnn")] == ["batch-1", "bf16 = default"]
    assert [item.name for item in known.classes()] == ["batch-1", "bf16", "default"]
    with pytest.raises(InvalidConfig, match="no subject 'rnn'"):
        known.classes("rnn")


def test_what_was_not_shown_to_differ_is_one_class() -> None:
    known = library()
    known.add("half-run", HERE, {"mlp": trace(1.0, 2.0)})
    assert [item.name for item in known.classes()] == ["batch-1 = default = half-run", "bf16"]


def test_a_library_comes_back_whole_and_the_same_bytes_are_written_again(tmp_path) -> None:
    library().save(tmp_path / "one")
    found = Library.load(tmp_path / "one")
    assert found.classes() == library().classes()
    assert found.skipped[0].reason == "openvino is not installed"
    found.save(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert len(names) == 2
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_a_new_edition_leaves_one_file_of_outputs(tmp_path) -> None:
    known = library()
    known.save(tmp_path)
    known.add("fp16", HERE, {"mlp": trace(1.0, 2.25)})
    known.save(tmp_path)
    assert len(list(tmp_path.glob("outputs-*"))) == 1
    assert "fp16" in Library.load(tmp_path).labels().values()


def test_references_are_those_of_the_same_model_and_probes() -> None:
    known = library()
    found = known.references(trace(0.0, 0.0))
    assert [label for label, _ in found] == ["batch-1", "bf16", "default"]
    assert torch.equal(found[1][1].outputs, trace(1.0, 2.5).outputs)
    with pytest.raises(InvalidConfig, match="other probes"):
        known.references(trace(0.0, probes="q"))
    with pytest.raises(InvalidConfig, match="no trace of this model"):
        known.references(trace(0.0, model="x"))


def test_merging_adds_classes_and_names_machines_once_there_are_several() -> None:
    known, other = library(), Library()
    other.add("default", THERE, {"mlp": trace(1.0, 2.0), "cnn": trace(7.0, model="n")})
    other.add("batch-1", THERE, {"mlp": trace(1.0, 2.0), "cnn": trace(6.0, model="n")})
    assert known.merge(other) == 1
    labels = set(known.labels().values())
    assert {f"default@{HERE.name}", f"default@{THERE.name}"} <= labels
    assert known.merge(other) == 0
    wrong = Library()
    wrong.add("default", THERE, {"mlp": trace(1.0, 2.0, model="x")})
    with pytest.raises(InvalidConfig, match="another model"):
        known.merge(wrong)


def test_a_refusal_elsewhere_is_no_refusal_of_what_answered_here() -> None:
    known, other = library(), Library()
    known.skip("bf16", HERE, "nothing of it ran")
    other.add("default", HERE, {"cnn": trace(7.0, model="n")})
    other.skip("default", HERE, "it took more than 300 s", "mlp")
    other.skip("default", HERE, "no such layer", "resnet")
    known.merge(other)
    told = {(item.platform, item.subject): item.reason for item in known.skipped if item.platform == "default"}
    assert told == {("default", "resnet"): "no such layer"}
    known.skip("bf16", HERE, "no such layer", "cnn")
    assert [item.subject for item in known.skipped if item.platform == "bf16"] == ["cnn"]


def rewritten(folder, change) -> None:
    """Apply ``change`` to the description and leave its digest as it was."""
    value = json.loads((folder / "library.json").read_bytes())
    change(value)
    (folder / "library.json").write_bytes(canonical.dumps(value))


def resealed(folder, change) -> None:
    """Apply ``change`` to the body and state the digest anew, as somebody who knows the format would."""
    value = json.loads((folder / "library.json").read_bytes())
    change(value["library"])
    value["digest"] = digest_bytes(canonical.dumps(value["library"]))
    (folder / "library.json").write_bytes(canonical.dumps(value))


def test_a_renamed_platform_is_noticed(tmp_path) -> None:
    library().save(tmp_path)
    rewritten(tmp_path, lambda value: value["library"]["entries"][0].update(platform="bf16"))
    with pytest.raises(DigestMismatch, match="changed after it was written"):
        Library.load(tmp_path)


def test_a_changed_word_is_noticed_even_under_new_file_digests(tmp_path) -> None:
    library().save(tmp_path)
    place = next(tmp_path.glob("outputs-*"))
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(bytes(data))
    with pytest.raises(DigestMismatch, match=r"differs from its digest in library.json"):
        Library.load(tmp_path)
    resealed(tmp_path, lambda body: body["outputs"].update(digest=digest_bytes(bytes(data))))
    with pytest.raises(DigestMismatch, match="not the one it is called"):
        Library.load(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 50])
def test_a_truncated_library_is_unreadable(tmp_path, size: int) -> None:
    library().save(tmp_path)
    whole = (tmp_path / "library.json").read_bytes()
    (tmp_path / "library.json").write_bytes(whole[:size])
    with pytest.raises(UnreadableArtifact):
        Library.load(tmp_path)
    (tmp_path / "library.json").write_bytes(whole)
    place = next(tmp_path.glob("outputs-*"))
    place.write_bytes(place.read_bytes()[:size])
    with pytest.raises(DigestMismatch):
        Library.load(tmp_path)
    place.unlink()
    with pytest.raises(UnreadableArtifact, match="cannot read outputs"):
        Library.load(tmp_path)


def test_another_version_is_named(tmp_path) -> None:
    library().save(tmp_path)
    rewritten(tmp_path, lambda value: value.update(type="holdfast.platform-library/v9"))
    with pytest.raises(UnsupportedVersion, match=r"holdfast.platform-library/v9, and this version reads"):
        Library.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("machines"),
        lambda body: body["entries"][0].update(machine="nowhere"),
        lambda body: body["entries"][0].update(outputs=["mlp"]),
        lambda body: body["entries"][0]["outputs"].update(rnn="00"),
        lambda body: body["entries"][0].pop("described"),
        lambda body: body["outputs"].update(file="../outputs-elsewhere.safetensors"),
        lambda body: body.update(outputs=3),
        lambda body: body["entries"][0].update(platform=17),
        lambda body: body["entries"][0].update(described=[]),
        lambda body: body["entries"][0].update(extra=1),
        lambda body: body["entries"][0]["outputs"].update(mlp=3),
        lambda body: body["entries"].append([]),
        lambda body: body.update(entries={}),
        lambda body: body["subjects"][0].update(name=["mlp"]),
        lambda body: body["subjects"][0].update(probes=None),
        lambda body: body["skipped"][0].update(reason=7),
        lambda body: body["skipped"][0].update(machine="nowhere"),
        lambda body: body["machines"][HERE.name].update(features="avx2"),
        lambda body: body["machines"][HERE.name].update(versions={"torch": 2}),
        lambda body: body["machines"].update({HERE.name: "cpu"}),
    ],
)
def test_a_malformed_body_is_unreadable_and_never_a_crash(tmp_path, change) -> None:
    library().save(tmp_path)
    resealed(tmp_path, change)
    with pytest.raises(UnreadableArtifact):
        Library.load(tmp_path)


EVIL = "evil\x1b[31m\nplatform: fp16"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body["entries"][0].update(platform=EVIL), "no name of a platform"),
        (lambda body: body["entries"][0].update(platform="fp16 (accepted)"), "no name of a platform"),
        (lambda body: body["skipped"][0].update(platform=EVIL), "no name of a platform"),
        (lambda body: body["skipped"][0].update(reason=EVIL), "reason of openvino"),
        (lambda body: body["subjects"][0].update(name=EVIL), "name of a subject"),
        (lambda body: body["machines"][HERE.name].update(processor=EVIL), "the processor of a machine"),
        (lambda body: body["machines"][HERE.name].update(versions={"torch": EVIL}), "the version of torch"),
    ],
)
def test_no_name_in_a_library_can_print_a_line_of_its_own(tmp_path, change, said: str) -> None:
    library().save(tmp_path)
    resealed(tmp_path, change)
    with pytest.raises(UnreadableArtifact, match=said) as error:
        Library.load(tmp_path)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_such_names_are_not_taken_in_either() -> None:
    known = library()
    with pytest.raises(InvalidConfig, match="no name of a platform"):
        known.add(EVIL, HERE, {"mlp": trace(1.0, 2.0)})
    with pytest.raises(InvalidConfig, match="not one line"):
        known.add("fp16", Machine(EVIL, (), "Linux", {}), {"mlp": trace(1.0, 2.0)})
    with pytest.raises(InvalidConfig, match="not one line"):
        known.add("fp16", HERE, {EVIL: trace(1.0, 2.0)})
    known.skip("fp16", HERE, "it failed\nplatform: bf16\x1b")
    assert next(item.reason for item in known.skipped if item.platform == "fp16") == "it failed platform: bf16 "
    assert set(known.labels().values()) == {"default", "batch-1", "bf16"}


def test_other_probes_are_counted_and_named() -> None:
    with pytest.raises(InvalidConfig, match="mlp with other probes: 1 of them, digest p"):
        library().add("fp16", HERE, {"mlp": trace(1.0, probes="q")})
