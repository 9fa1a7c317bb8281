"""Artifacts keep every bit, and refuse what is not one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.data import dataset
from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    InvalidConfig,
    UnknownName,
    UnreadableArtifact,
    UnsafeArtifact,
)
from holdfast.evidence.lineage import Step
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import build_architecture, card, load, manifest_of, save, select, stored
from holdfast.quantization import codes, quantize


def plain() -> nn.Module:
    return build_architecture("digits-cnn", seed=3).eval()


def hardened() -> nn.Module:
    return harden(plain(), RangeRestriction(profile(plain(), dataset("digits").take(16), at="activations")))


MODELS = {"plain": plain, "quantised": lambda: quantize(plain(), "rquant4"), "hardened": hardened}


@pytest.mark.parametrize("kind", list(MODELS))
def test_round_trip_keeps_every_bit_and_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    save(model, tmp_path / "a")
    back = load(tmp_path / "a")
    save(back, tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    images, _ = dataset("digits").take(8).all()
    with torch.no_grad():
        assert torch.equal(model(images), back(images))
    assert manifest_of(model).digest == manifest_of(back).digest


def test_manifest_sees_every_kind_of_change() -> None:
    seen = {manifest_of(plain()).digest}
    weight, buffer, arch, lineage = (plain() for _ in range(4))
    with torch.no_grad():
        weight.conv1.weight[0, 0, 0, 0] += 1
        buffer.norm1.running_mean[0] += 1
    card(arch).architecture = "lenet"
    card(lineage).lineage.append(Step("train"))
    for model in (weight, buffer, arch, lineage, hardened(), quantize(plain(), "int8")):
        digest = manifest_of(model).digest
        assert digest not in seen
        seen.add(digest)
    assert "tensor conv1.weight differs" in manifest_of(plain()).differences(manifest_of(weight))


def test_lens_flips_are_exact_involutions_that_touch_nothing_else() -> None:
    model = quantize(plain(), "int8")
    (site,) = select(model, "weights:conv1.weight")
    place, before = stored(model, site), codes(model, "conv1.weight").clone()
    weights = model.conv1.weight.detach().clone()
    index, mask = torch.tensor([0, 5]), torch.tensor([1, 128])
    place.xor_(index, mask)
    assert (codes(model, "conv1.weight") != before).flatten().nonzero().flatten().tolist() == [0, 5]
    assert (model.conv1.weight != weights).flatten().nonzero().flatten().tolist() == [0, 5]
    assert card(model).lenses["conv1.weight"].matches(model.conv1.weight)
    place.xor_(index, mask)
    assert torch.equal(model.conv1.weight, weights)


def test_an_edit_behind_the_codes_is_refused_at_save(tmp_path: Path) -> None:
    model = quantize(plain(), "int8")
    with torch.no_grad():
        model.fc.weight += 1e-3
    with pytest.raises(InvalidConfig, match=r"fc\.weight"):
        save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


def test_pickles_with_code_are_refused_and_do_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Runs()}, tmp_path / "evil.pt")
    torch.save(plain(), tmp_path / "module.pt")
    for name in ("evil.pt", "module.pt"):
        with pytest.raises(UnsafeArtifact, match=name):
            load(tmp_path / name, arch="digits-cnn")
    assert "code ran" not in capsys.readouterr().out
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeArtifact):
        load(tmp_path / "model.bin", arch="digits-cnn")


def damaged(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = copy.deepcopy(plain().state_dict())
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


CASES = {
    r"fc\.bias has shape": damaged(fc__bias=torch.zeros(3)),
    r"lacks fc\.bias": damaged(fc__bias=None),
    r"no extra": damaged(extra=torch.zeros(1)),
    r"fc\.bias holds NaN": damaged(fc__bias=torch.full((10,), torch.nan)),
    r"fc\.bias is (torch\.)?int64": damaged(fc__bias=torch.zeros(10, dtype=torch.int64)),
}


@pytest.mark.parametrize("message", list(CASES))
def test_tensors_that_do_not_fit_are_named(message: str, tmp_path: Path) -> None:
    save_file(CASES[message], tmp_path / "m.safetensors")
    with pytest.raises(UnreadableArtifact, match=message):
        load(tmp_path / "m.safetensors", arch="digits-cnn")


def test_missing_truncated_and_unnamed_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="No such file"):
        load(tmp_path / "none.safetensors", arch="digits-cnn")
    save_file(plain().state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(InvalidConfig, match="architecture"):
        load(tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    for cut in (4, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        with pytest.raises(UnreadableArtifact, match="cut"):
            load(tmp_path / "cut.safetensors", arch="digits-cnn")
    torch.save(plain().state_dict(), tmp_path / "m.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "m.pt").read_bytes()[:-500])
    with pytest.raises(HoldfastError):
        load(tmp_path / "cut.pt", arch="digits-cnn")
    with pytest.raises(UnknownName) as caught:
        load(tmp_path / "m.pt", arch="digit-cnn")
    assert "digits-cnn" in caught.value.hint


def test_bytes_other_than_the_expected_ones_are_refused(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m")
    with pytest.raises(DigestMismatch):
        load(tmp_path / "m", expected={"model.json": "0" * 64, "model.safetensors": "0" * 64})
    with pytest.raises(DigestMismatch):
        load(tmp_path / "m", expected={})


def test_pretrained_weights_load_strictly(shared_data: Path) -> None:
    model = load(shared_data / "resnet-cifar10" / "resnet20-12fca82f.th", arch="cifar-resnet20")
    assert sum(value.numel() for value in model.parameters()) == 269_722


def test_a_users_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(2, 2))\nbad = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3, generator=None)
    torch.manual_seed(5)
    first, second = build_architecture("mynet:make"), build_architecture("mynet:make")
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is left alone
    assert torch.equal(first[0].weight, second[0].weight)
    for spec in ("mynet:none", "nowhere:make"):
        with pytest.raises(UnknownName):
            build_architecture(spec)
    with pytest.raises(InvalidConfig):
        build_architecture("mynet:bad")
