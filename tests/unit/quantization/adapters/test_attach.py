"""A model that stands on a packed file: the same codes, the same faults, and the verbs of every other model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.cli import main
from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact
from holdfast.execution import inject
from holdfast.faults import BitErrors
from holdfast.models import KINDS, card, sites
from holdfast.models.tensors import fill, stored_tensors
from holdfast.numerics import bits
from holdfast.quantization import codes
from holdfast.quantization.adapters import (
    Layout,
    floating,
    ggml,
    gptq,
    inject_packed,
    load_packed,
    open_packed,
    write_packed,
)
from holdfast.quantization.adapters.layout import extent
from holdfast.seeds import derive


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    layers = nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 32, bias=False)
    return nn.Sequential(*layers).to(dtype).eval()


LAYOUTS = {
    "gptq": lambda name, shape: gptq(name, shape, bits=4, size=32),
    "gguf": lambda name, shape: ggml(name, "Q4_1", shape),
}


def packed(folder: Path, scheme: str) -> Path:
    """The two matrices of a net as codes, the rest in float32."""
    tensors: list[tuple[Layout, object]] = []
    generator = torch.Generator().manual_seed(0)
    for name, value in net().state_dict().items():
        if name.endswith("tracked"):
            continue
        matrix = value.dim() == 2
        layout = LAYOUTS[scheme](name, tuple(value.shape)) if matrix else plain(scheme, name, tuple(value.shape))
        tensors.append((layout, layout.format.encode(torch.rand(value.shape, generator=generator) - 0.3 * matrix)))
    path = folder / f"model.{'gguf' if scheme == 'gguf' else 'safetensors'}"
    write_packed(path, tensors)  # type: ignore[arg-type]
    return path


def plain(scheme: str, name: str, shape: tuple[int, ...]) -> Layout:
    return ggml(name, "F32", shape) if scheme == "gguf" else floating(name, extent(torch.float32, *shape))


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_the_model_holds_what_the_file_stores(scheme: str, tmp_path: Path) -> None:
    file, original = open_packed(packed(tmp_path, scheme)), net()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    model = load_packed(original, file)
    assert torch.equal(codes(model, "0.weight"), file["0.weight"].encoded().codes)
    assert torch.equal(model.get_parameter("3.weight"), file["3.weight"].decode().float())
    assert torch.equal(model.get_buffer("2.running_var"), file["2.running_var"].decode())
    known = {site.address: (site.format, site.bits) for site in sites(model)}
    assert known["weights:0.weight"] == (file["0.weight"].format.name, 4)
    assert known["weights:0.bias"] == ("fp32", 32)
    assert card(model).lineage[-1].parameters["file"] == file.path.name
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items()), "a copy is returned"
    assert not card(original).lenses


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_a_chip_makes_the_same_errors_in_the_model_and_in_the_file(scheme: str, tmp_path: Path) -> None:
    path = packed(tmp_path, scheme)
    law, x = BitErrors(rate=0.03), torch.rand(4, 64, generator=torch.Generator().manual_seed(1))
    model = load_packed(net(), open_packed(path))
    clean = model(x)
    with inject(model, law, at="weights:*.weight", seed=7) as faulty:
        expected = faulty(x)
    with open_packed(path, writable=True) as file:
        flips = law.flips(file.population("weights:*.weight"), derive(7, "inject"))
        with file.applied(flips):
            damaged = load_packed(net(), file)
            assert bits.bit_equal(damaged(x), expected)
    assert not torch.equal(clean, expected)
    assert bits.bit_equal(model(x), clean)


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_a_broken_copy_is_the_broken_model(scheme: str, tmp_path: Path) -> None:
    path, out = packed(tmp_path, scheme), tmp_path / "broken" / "model.bin"
    original = path.read_bytes()
    law, x = BitErrors(rate=0.03), torch.rand(4, 64, generator=torch.Generator().manual_seed(1))
    flipped = inject_packed(path, out, law, at="weights:*.weight", seed=7)
    assert path.read_bytes() == original
    broken = out.read_bytes()
    assert sum(flipped.values()) == sum((a ^ b).bit_count() for a, b in zip(broken, original, strict=True))
    assert flipped.keys() <= {"weights:0.weight", "weights:2.weight", "weights:3.weight"}
    with inject(load_packed(net(), open_packed(path)), law, at="weights:*.weight", seed=7) as faulty:
        assert bits.bit_equal(load_packed(net(), open_packed(out))(x), faulty(x))


class OfEachRead(BitErrors):
    """Errors of a read."""

    each_read = True


def test_what_makes_no_broken_copy_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, "gptq")
    original = path.read_bytes()
    with pytest.raises(InvalidConfig, match="happens to reads"):
        inject_packed(path, tmp_path / "out", OfEachRead(rate=0.1))
    with pytest.raises(InvalidConfig, match="is the file to be copied"):
        inject_packed(path, path, BitErrors(rate=0.1))
    with pytest.raises(UnreadableArtifact, match="cannot open"):
        inject_packed(tmp_path / "none", tmp_path / "out", BitErrors(rate=0.1))
    with pytest.raises(NoSuchSite):
        inject_packed(path, tmp_path / "out", BitErrors(rate=0.1), at="qparams:*/low")
    assert not (tmp_path / "out").exists()
    assert path.read_bytes() == original


@pytest.mark.skipif("qparams" not in KINDS, reason="models of this version have no qparams sites")
@pytest.mark.parametrize("scheme", LAYOUTS)
def test_the_scales_of_the_model_and_of_the_file_are_the_same_sites(scheme: str, tmp_path: Path) -> None:
    path, at = packed(tmp_path, scheme), "weights:*.weight,qparams:*/scale"
    law, x = BitErrors(rate=0.002), torch.rand(4, 64, generator=torch.Generator().manual_seed(1))
    with inject(load_packed(net(), open_packed(path)), law, at=at, seed=3) as faulty:
        expected = faulty(x)
    with open_packed(path, writable=True) as file:
        flips = law.flips(file.population(at), derive(3, "inject"))
        assert any(item.site.kind == "qparams" for item in flips)
        with file.applied(flips):
            assert bits.bit_equal(load_packed(net(), file)(x), expected)


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_an_artifact_of_it_loads_again(scheme: str, tmp_path: Path) -> None:
    model = load_packed(net(), open_packed(packed(tmp_path, scheme)))
    tensors = stored_tensors(model)
    assert "0.weight#scale" in tensors
    again = net()
    fill(again, tensors, {name: lens.format.name for name, lens in card(model).lenses.items()})
    assert torch.equal(codes(again, "0.weight"), codes(model, "0.weight"))
    x = torch.rand(4, 64)
    assert bits.bit_equal(again(x), model(x))


def test_names_of_the_file_may_be_others(tmp_path: Path) -> None:
    file = open_packed(packed(tmp_path, "gguf"))
    wrapped = nn.ModuleDict({"body": net()})
    model = load_packed(wrapped, file, rename=lambda name: f"body.{name}")
    assert torch.equal(codes(model, "body.0.weight"), file["0.weight"].encoded().codes)
    with pytest.raises(UnreadableArtifact, match=r"the model has no 0\.bias"):
        load_packed(wrapped, file)
    with pytest.raises(InvalidConfig, match="one name"):
        load_packed(wrapped, file, rename=lambda name: "body.0.weight")


def test_what_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    file = open_packed(packed(tmp_path, "gptq"))
    with pytest.raises(UnreadableArtifact, match=r"0\.bias has shape \[32\], the model's 0\.bias has \[16\]"):
        load_packed(nn.Sequential(nn.Linear(64, 16), *list(net())[1:]), file)
    with pytest.raises(UnreadableArtifact, match=r"the file lacks 4\.weight"):
        load_packed(nn.Sequential(*net(), nn.Linear(32, 2, bias=False)), file)
    with pytest.raises(UnreadableArtifact, match="does not fit"):
        load_packed(net(torch.bfloat16), file)
    with pytest.raises(InvalidConfig, match="already stored"):
        load_packed(load_packed(net(), file), file)


def test_a_damaged_scale_stops_the_import(tmp_path: Path) -> None:
    path = packed(tmp_path, "gptq")
    with open_packed(path, writable=True) as file:
        encoded = file["0.weight"].encoded()
        encoded.qparams["scale"][0, 0] = torch.nan
        file["0.weight"].store(encoded)
        with pytest.raises(UnreadableArtifact, match=r"0\.weight#scale holds NaN"):
            load_packed(net(), file)


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_the_verb_breaks_packed_files_as_packed(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, wanted = packed(tmp_path, scheme), tmp_path / "broken.file", tmp_path / "wanted"
    flipped = inject_packed(path, wanted, BitErrors(rate=0.03), at="weights:*.weight", seed=7)
    call = ["inject", str(path), "--fault", "bit-errors:rate=0.03", "--at", "weights:*.weight", "--seed", "7", "--json"]
    assert main([*call, "-o", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert out.read_bytes() == wanted.read_bytes() != path.read_bytes()
    assert {name: count for name, count in report["flipped"].items() if count} == flipped
    assert report["bits"] == (64 * 32 + 32 * 32) * 4 + 32 * 32  # two packed matrices and the norm's float weights
    (tmp_path / "config.json").write_text("{}")
    assert main(["inject", str(tmp_path), "--fault", "bit-flip", "-o", str(tmp_path / "folder")]) == 2
    assert "packed checkpoint" in capsys.readouterr().err
