"""NF4 as bitsandbytes stores it, against its published levels and packing written out in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat
from holdfast.numerics.formats import formats
from holdfast.quantization.adapters import Place, nf4, open_packed, write_packed
from holdfast.quantization.adapters.nf4 import STATE

pytestmark = pytest.mark.skipif("nf4" not in formats.names(), reason="this version has no number format nf4")

LEVELS = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32,
)  # fmt: skip


def saved(folder: Path, **changes: object) -> tuple[Path, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 16, (6, 128), dtype=np.uint8)
    absmax = generator.random(12, np.float32)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [6, 128]} | changes
    flat = codes.reshape(-1)
    tensors = {
        "m.weight": torch.from_numpy(flat[::2] << 4 | flat[1::2])[:, None],
        "m.weight.absmax": torch.from_numpy(absmax),
        "m.weight.quant_map": torch.from_numpy(LEVELS),
        f"m.weight{STATE}": torch.from_numpy(np.frombuffer(json.dumps(state).encode(), np.uint8).copy()),
        "m.bias": torch.ones(6),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors", codes, absmax


def replaced(path: Path, name: str, value: torch.Tensor) -> Path:
    save_file(load_file(path) | {name: value}, path)
    return path


def test_codes_and_maxima_are_what_the_packer_packed(tmp_path: Path) -> None:
    path, codes, absmax = saved(tmp_path)
    file = open_packed(path)
    tensor = file["m.weight"]
    assert (list(file), tensor.scheme, tensor.shape) == (["m.bias", "m.weight"], "bitsandbytes-nf4", (6, 128))
    assert np.array_equal(tensor.encoded().codes.numpy(), codes)
    expected = LEVELS[codes].reshape(12, 64) * absmax[:, None]
    assert np.array_equal(tensor.decode().numpy(), expected.reshape(6, 128))


def test_it_goes_back_byte_for_byte(tmp_path: Path) -> None:
    path, *_ = saved(tmp_path)
    write_packed(tmp_path / "ours.safetensors", [(item.layout, item.encoded()) for item in open_packed(path).values()])
    assert (tmp_path / "ours.safetensors").read_bytes() == path.read_bytes()


def test_a_flip_of_a_byte_is_a_flip_of_a_code(tmp_path: Path) -> None:
    path, codes, _ = saved(tmp_path)
    for element, bit in [(0, 0), (1, 3), (767, 2)]:
        (byte,), (within,) = open_packed(path)["m.weight"].address(
            "codes", torch.tensor([element]), torch.tensor([bit])
        )
        assert open_packed(path).locate(int(byte), int(within)) == Place("m.weight", "codes", element, bit)
        data = bytearray(path.read_bytes())
        data[int(byte)] ^= 1 << int(within)
        path.write_bytes(data)
        codes.reshape(-1)[element] ^= 1 << bit
        assert np.array_equal(open_packed(path)["m.weight"].encoded().codes.numpy(), codes)


def test_our_own_file_opens(tmp_path: Path) -> None:
    layout = nf4("m.weight", (4, 64))
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    write_packed(tmp_path / "ours.safetensors", [(layout, layout.format.encode(x))])
    assert (open_packed(tmp_path / "ours.safetensors")["m.weight"].decode() - x).abs().max() < 0.5
    with pytest.raises(InvalidConfig, match="blocks of 64"):
        nf4("m.weight", (4, 96))


@pytest.mark.parametrize("change", [{"nested_blocksize": 256}, {"blocksize": 48}, {"blocksize": 256}, {"blocksize": 0}])
def test_variants_are_named_and_leave_the_rest(change: dict[str, object], tmp_path: Path) -> None:
    path, *_ = saved(tmp_path, **change)
    file = open_packed(path)
    assert list(file) == ["m.bias"]
    assert {"m.weight", "m.weight.absmax"} <= file.unread.keys()
    with pytest.raises(UnsupportedFormat, match=r"m\.weight has"):
        file["m.weight"]


def test_levels_of_another_kind_are_not_read(tmp_path: Path) -> None:
    path = replaced(saved(tmp_path)[0], "m.weight.quant_map", torch.from_numpy(LEVELS + 1))
    assert "levels of NF4" in str(open_packed(path).unread["m.weight"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (f"m.weight{STATE}", torch.tensor([123, 1], dtype=torch.uint8), "no JSON"),
        (f"m.weight{STATE}", torch.tensor([91, 93], dtype=torch.uint8), "no JSON object"),
        (f"m.weight{STATE}", torch.tensor([123, 125], dtype=torch.uint8), "describes no matrix"),
        ("m.weight.absmax", torch.ones(11), r"m\.weight\.absmax is F32"),
        ("m.weight", torch.ones(383, 1, dtype=torch.uint8), r"m\.weight is U8"),
    ],
)
def test_weights_that_are_not_whole_are_refused(name: str, value: torch.Tensor, message: str, tmp_path: Path) -> None:
    path = replaced(saved(tmp_path)[0], name, value)
    with pytest.raises(UnreadableArtifact, match=message):
        open_packed(path)
