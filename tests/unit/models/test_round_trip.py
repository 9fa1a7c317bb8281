"""Saving and loading: the same bits, the same bytes, and nothing lost when a write fails."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import holdfast.models.artifact as artifact
from holdfast.errors import DigestMismatch, InvalidConfig, StorageError
from holdfast.evidence.digest import digest_file
from holdfast.evidence.lineage import Step
from holdfast.hardening import RangeGuard
from holdfast.models import attach_guard, build_architecture, card, load, manifest_of, save
from holdfast.numerics.bits import bit_equal
from holdfast.quantization import quantize


@pytest.fixture
def full(digits_net):
    """A model with everything an artifact can hold: codes, a guard, history, classes, preprocessing."""
    model = quantize(digits_net, "int4")
    attach_guard(model, RangeGuard(site="/add", low=-3.5, high=7.25))
    known = card(model)
    known.lineage.append(Step("train", {"epochs": 3}, {"data": "00" * 32}))
    known.classes, known.preprocessing = tuple("0123456789"), {"scale": 16.0, "mean": [0.5], "std": [0.25]}
    return model


def test_a_round_trip_keeps_every_bit(full, tmp_path):
    save(full, tmp_path / "m")
    again = load(tmp_path / "m")
    assert not again.training
    assert manifest_of(again) == manifest_of(full)
    assert all(bit_equal(again.state_dict()[name], value) for name, value in full.state_dict().items())
    assert (card(again).classes, card(again).input_shape) == (card(full).classes, (1, 8, 8))
    assert card(again).preprocessing == card(full).preprocessing
    assert card(again).lineage == card(full).lineage
    with torch.no_grad():
        x = torch.rand(2, 1, 8, 8)
        assert bit_equal(again(x), full(x))


def test_the_same_model_gives_the_same_bytes(full, tmp_path):
    save(full, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_back_as_they_were(dtype, tmp_path):
    model = build_architecture("lenet").to(dtype)
    save(model, tmp_path / "m")
    assert manifest_of(load(tmp_path / "m")) == manifest_of(model)


def test_edited_codes_are_not_saved(full, tmp_path):
    with torch.no_grad():
        full.fc.weight[0, 0] += 1
    with pytest.raises(InvalidConfig, match=r"fc\.weight no longer holds"):
        save(full, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_failed_write_leaves_the_older_artifact_whole(full, digits_net, tmp_path, monkeypatch):
    save(digits_net, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    whole = artifact.Path.write_bytes

    def full_disk(path, data):
        if "model.json" in path.name:
            raise OSError(28, "No space left on device")
        return whole(path, data)

    monkeypatch.setattr(artifact.Path, "write_bytes", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        save(full, tmp_path / "m")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_load_as_training_scripts_leave_them(digits_net, wrapper, prefix, tmp_path):
    weights = {prefix + name: value for name, value in digits_net.state_dict().items()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "w.pt")
    again = load(tmp_path / "w.pt", arch="digits-cnn")
    assert all(bit_equal(again.state_dict()[name], value) for name, value in digits_net.state_dict().items())
    assert card(again).lineage[0].inputs == {"file": digest_file(tmp_path / "w.pt").blake3}


def test_a_file_without_architecture_asks_for_one(digits_net, tmp_path):
    torch.save(digits_net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InvalidConfig, match="does not say which architecture"):
        load(tmp_path / "w.pt")


def test_bytes_other_than_the_signed_ones_are_refused(digits_net, tmp_path):
    save(digits_net, tmp_path / "m")
    expected = {path.name: digest_file(path).sha256 for path in (tmp_path / "m").iterdir()}
    assert load(tmp_path / "m", expected=expected)
    with pytest.raises(DigestMismatch, match=r"model\.json"):
        load(tmp_path / "m", expected={"model.safetensors": expected["model.safetensors"]})
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DigestMismatch, match=r"model\.safetensors"):
        load(tmp_path / "m", expected=expected)


def test_masks_of_minus_infinity_are_no_damage(tmp_path, monkeypatch):
    (tmp_path / "masked_net.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Masked(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, 3)\n"
        "        self.register_buffer('mask', torch.full((3,), -torch.inf))\n"
    )
    monkeypatch.chdir(tmp_path)
    save(build_architecture("masked_net:Masked"), tmp_path / "m")
    assert isinstance(load(tmp_path / "m"), nn.Module)


@pytest.mark.parametrize(("file", "arch"), [("resnet20-12fca82f", 20), ("resnet32-d509ac18", 32)])
def test_published_weights_load_as_they_are(shared_data, file, arch, tmp_path):
    path = shared_data / "resnet-cifar10" / f"{file}.th"
    model = load(path, arch=f"cifar-resnet{arch}")
    published = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    own = model.state_dict()
    assert {name.removeprefix("module.") for name in published} <= own.keys()
    assert all(bit_equal(own[name.removeprefix("module.")], value) for name, value in published.items())
    save(model, tmp_path / "m")
    shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    assert manifest_of(load(tmp_path / "elsewhere")) == manifest_of(model)
