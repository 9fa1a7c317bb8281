"""Hostile and damaged model files: each is refused by one clear error, and no code of theirs runs."""

from __future__ import annotations

import json
import pickle
import random
import resource
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.errors import ArtifactError, HoldfastError, UnknownName, UnreadableArtifact, UnsafeArtifact
from holdfast.models import build_architecture, load, save
from holdfast.quantization import quantize


@pytest.fixture
def model():
    return build_architecture("digits-cnn").eval()


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "m")
    return tmp_path / "m"


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"fc.weight": p}, lambda p: {"state_dict": {"x": p}}])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_pickle_with_a_payload_does_not_run(wrap, old, tmp_path):
    mark = tmp_path / "ran"
    torch.save(wrap(Payload(mark)), tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(UnsafeArtifact, match="would run code"):
        load(tmp_path / "x.pt", arch="digits-cnn")
    assert not mark.exists()


def test_a_whole_module_a_script_archive_and_a_plain_pickle_are_refused(model, tmp_path):
    torch.save(model, tmp_path / "module.pt")
    torch.jit.save(torch.jit.trace(model, torch.rand(1, 1, 8, 8)), tmp_path / "script.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("module.pt", "script.pt", "plain.pkl", "list.pt"):
        with pytest.raises(UnsafeArtifact):
            load(tmp_path / name, arch="digits-cnn")


def tampered(folder, change):
    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return load(folder)


def poison(tensors):
    tensors["fc.weight"].view(-1)[5] = torch.nan


CHANGES = {
    r"fc\.weight holds NaN": poison,
    r"norm1\.running_var holds NaN or inf": lambda tensors: tensors["norm1.running_var"].fill_(torch.inf),
    r"fc\.weight has shape \[3, 3\], the architecture wants \[10, 32\]": lambda tensors: tensors.update(
        {"fc.weight": torch.zeros(3, 3)}
    ),
    r"fc\.weight is float16, the architecture wants float32": lambda tensors: tensors.update(
        {"fc.weight": tensors["fc.weight"].half()}
    ),
    r"fc\.weight is int32": lambda tensors: tensors.update({"fc.weight": tensors["fc.weight"].int()}),
    r"lacks fc\.weight": lambda tensors: tensors.pop("fc.weight"),
    r"has no fc\.extra": lambda tensors: tensors.update({"fc.extra": torch.zeros(1)}),
    r"has no fc\.weight#codes": lambda tensors: tensors.update({"fc.weight#codes": torch.zeros(1)}),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_tensor_that_does_not_fit_is_named(folder, sentence):
    with pytest.raises(UnreadableArtifact, match=sentence):
        tampered(folder, CHANGES[sentence])


CODES = {
    r"fc\.weight#scale holds NaN": lambda tensors: tensors["fc.weight#scale"].fill_(torch.nan),
    r"fc\.weight#scale has shape": lambda tensors: tensors.update({"fc.weight#scale": torch.zeros(3, 3, 3)}),
    r"lacks fc\.weight#scale": lambda tensors: tensors.pop("fc.weight#scale"),
    r"fc\.weight#codes is float32": lambda tensors: tensors.update(
        {"fc.weight#codes": tensors["fc.weight#codes"].float()}
    ),
    r"fc\.weight#codes holds values beyond 4 bits": lambda tensors: tensors["fc.weight#codes"].fill_(100),
}


@pytest.mark.parametrize("sentence", CODES)
def test_codes_that_do_not_fit_are_named(model, tmp_path, sentence):
    save(quantize(model, "int4"), tmp_path / "q")
    with pytest.raises(UnreadableArtifact, match=sentence):
        tampered(tmp_path / "q", CODES[sentence])


KEYS = ["architecture", "classes", "formats", "guards", "input_shape", "lineage", "preprocessing"]


def described(folder, change):
    path = folder / "model.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    return load(folder)


@pytest.mark.parametrize("key", KEYS)
def test_a_description_lacks_no_key_and_none_is_of_another_type(folder, key, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(UnreadableArtifact, match=f"lacks '{key}'"):
        described(folder, lambda value: value.pop(key))
    with pytest.raises(UnreadableArtifact, match=f"'{key}' in .* is malformed"):
        described(tmp_path / "other", lambda value: value.update({key: 7}))


def test_a_description_names_only_what_exists(folder, tmp_path):
    for number, (change, error) in enumerate(
        [
            ({"zzz": 1}, UnreadableArtifact),
            ({"formats": {"nowhere": "int8"}}, UnreadableArtifact),
            ({"formats": {"fc.weight": "int99"}}, UnknownName),
            ({"guards": [{"kind": "nope", "site": "fc"}]}, UnknownName),
            ({"lineage": [{"kind": "train"}]}, UnreadableArtifact),
            ({"architecture": "digits-cn"}, UnknownName),
        ]
    ):
        copy = shutil.copytree(folder, tmp_path / str(number))
        with pytest.raises(error):
            described(copy, lambda value, change=change: value.update(change))


LARGE = (
    "digits-cnn:channels=100000000",
    "simplenet:channels=100000",
    "llama:dim=65536,inner=65536,layers=64",
    "llama:dim=8,heads=1,groups=1,inner=8,layers=100000000",
    "vit-tiny:dim=300000000",
)


@pytest.mark.parametrize("spec", LARGE)
def test_a_description_takes_no_more_memory_than_its_tensors_fill(folder, tmp_path, spec):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableArtifact, match="describes a larger model than the tensors beside it"):
        described(shutil.copytree(folder, tmp_path / "copy"), lambda value: value.update({"architecture": spec}))
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("name", ["absent", "absent.pt", "absent.safetensors"])
def test_a_missing_file_is_said_to_be_missing(name, tmp_path):
    with pytest.raises(UnreadableArtifact, match="No such file"):
        load(tmp_path / name, arch="digits-cnn")


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path):
    with pytest.raises(UnreadableArtifact, match=r"model\.json"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["zip.pt", "legacy.pt", "w.safetensors", "model.json"])
def test_damaged_bytes_give_an_error_of_ours_or_a_model(model, folder, kind, tmp_path):
    if kind.endswith(".pt"):
        torch.save(model.state_dict(), tmp_path / kind, _use_new_zipfile_serialization=kind == "zip.pt")
    elif kind == "w.safetensors":
        shutil.copy(folder / "model.safetensors", tmp_path / kind)
    path = folder / kind if kind == "model.json" else tmp_path / kind
    whole, draw = path.read_bytes(), random.Random(0)
    arch = None if kind == "model.json" else "digits-cnn"
    caught = [attempt(path, damaged(whole, draw, cut=turn % 2 == 1), arch) for turn in range(150)]
    errors = [error for error in caught if error is not None]
    assert len(errors) >= 75  # every truncation at least
    assert all(isinstance(error, ArtifactError | UnknownName) and error.exit_code == 2 for error in errors)
    assert not any("\n" in str(error) for error in errors)


def damaged(whole, draw, *, cut):
    data = bytearray(whole)
    if cut:
        del data[draw.randrange(len(data)) :]
        return bytes(data)
    for _ in range(draw.randrange(1, 8)):
        data[draw.randrange(min(3000, len(data)))] = draw.randrange(256)
    return bytes(data)


def attempt(path, data, arch):
    path.write_bytes(data)
    try:
        load(path if arch else path.parent, arch=arch)
    except HoldfastError as error:
        return error
    return None
