"""GPTQ, AWQ and compressed-tensors against packers written out as loops over Python integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat
from holdfast.quantization.adapters import awq, compressed_tensors, gptq, open_packed, write_packed

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def numbers(top: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape)


def words_of(columns: np.ndarray, bits: int) -> Tensor:
    """Pack each row of numbers, one after the other from the lowest bit on, into int32 words."""
    rows = []
    for row in columns.tolist():
        stream = sum(value << (bits * place) for place, value in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([(stream >> (32 * word)) & 0xFFFFFFFF for word in range(count)])
    return torch.from_numpy(np.array(rows, np.uint32).view(np.int32))


def gptq_file(
    folder: Path, bits: int, *, outputs: int = 64, inputs: int = 96, groups: int = 3
) -> dict[str, np.ndarray]:
    codes, zeros = numbers(2**bits, outputs, inputs), numbers(2**bits, outputs, groups, seed=1)
    scales = np.random.default_rng(2).random((outputs, groups)).astype(np.float16)
    group = numbers(groups, inputs, seed=3)
    tensors = {
        "m.qweight": words_of(codes, bits).T.contiguous(),
        "m.qzeros": words_of(zeros.T, bits),
        "m.scales": torch.from_numpy(scales.T.copy()),
        "m.g_idx": torch.from_numpy(group.astype(np.int32)),
        "m.bias": torch.ones(outputs, dtype=torch.float16),
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return {"codes": codes, "zeros": zeros, "scales": scales, "group": group}


@pytest.mark.parametrize("convention", ["v1", "v1-unwrapped", "v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_means_what_its_readers_compute(bits: int, convention: str, tmp_path: Path) -> None:
    truth = gptq_file(tmp_path, bits)
    config = {"bits": bits, "group_size": 32, "desc_act": True, "checkpoint_format": convention}
    file = open_packed(tmp_path / "model.safetensors", config=config)
    tensor = file["m.weight"]
    encoded = tensor.encoded()
    assert tensor.scheme == "gptq"
    assert np.array_equal(encoded.codes.numpy(), truth["codes"])
    assert np.array_equal(encoded.qparams["zero_point"].numpy(), truth["zeros"])
    assert np.array_equal(encoded.qparams["scale"].numpy(), truth["scales"])
    zeros = {"v1": (truth["zeros"] + 1) % 2**bits, "v1-unwrapped": truth["zeros"] + 1, "v2": truth["zeros"]}[convention]
    steps = truth["codes"] - zeros[:, truth["group"]]
    expected = (steps * truth["scales"][:, truth["group"]].astype(np.float64)).astype(np.float16)
    assert np.array_equal(tensor.decode().numpy(), expected)
    assert file["m.bias"].decode().tolist() == [1] * 64


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_goes_back_byte_for_byte(bits: int, tmp_path: Path) -> None:
    gptq_file(tmp_path, bits)
    file = open_packed(tmp_path / "model.safetensors")
    write_packed(
        tmp_path / "ours.safetensors", [(item.layout, item.encoded()) for item in file.values()], file.metadata
    )
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_the_config_beside_the_file_is_asked(tmp_path: Path) -> None:
    gptq_file(tmp_path, 4)
    path = tmp_path / "model.safetensors"
    assert "zero=stored-minus-one," in open_packed(path)["m.weight"].format.name
    inner = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": inner}))
    assert "zero=stored," in open_packed(path)["m.weight"].format.name
    (tmp_path / "quantize_config.json").write_text('{"bits": 3}')
    with pytest.raises(UnreadableArtifact, match="has 4 bits, its config says 3"):
        open_packed(path)
    (tmp_path / "quantize_config.json").write_text("{")
    with pytest.raises(UnreadableArtifact, match="no JSON"):
        open_packed(path)


def test_gptq_without_an_order_of_columns(tmp_path: Path) -> None:
    truth = gptq_file(tmp_path, 4)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["m.g_idx"]
    save_file(tensors, tmp_path / "model.safetensors")
    decoded = open_packed(tmp_path / "model.safetensors")["m.weight"].decode()
    group = np.arange(96) // 32
    steps = truth["codes"] - (truth["zeros"][:, group] + 1) % 16
    assert np.array_equal(decoded.numpy(), (steps * truth["scales"][:, group].astype(np.float64)).astype(np.float16))


@pytest.mark.parametrize("explicit", [True, False])
def test_awq_undoes_the_shuffle_of_outputs(explicit: bool, tmp_path: Path) -> None:
    outputs, inputs, groups = 32, 64, 2
    codes, zeros = numbers(16, outputs, inputs), numbers(16, outputs, groups, seed=1)
    scales = np.random.default_rng(2).standard_normal((outputs, groups)).astype(np.float16)

    def packed(values: np.ndarray) -> Tensor:
        shuffled = values.T.reshape(-1, outputs // 8, 8)[:, :, AWQ_ORDER].reshape(-1, outputs)
        return words_of(shuffled, 4)

    tensors = {"m.qweight": packed(codes), "m.qzeros": packed(zeros), "m.scales": torch.from_numpy(scales.T.copy())}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"} if explicit else None
    file = open_packed(tmp_path / "model.safetensors", config=config)
    tensor = file["m.weight"]
    assert (tensor.scheme, tensor.shape) == ("awq", (32, 64))
    assert np.array_equal(tensor.encoded().codes.numpy(), codes)
    group = np.arange(inputs) // 32
    expected = (codes - zeros[:, group]) * scales[:, group].astype(np.float64)
    assert np.array_equal(tensor.decode().numpy(), expected.astype(np.float16))
    write_packed(tmp_path / "ours.safetensors", [(tensor.layout, tensor.encoded())])
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_pack_rows_and_pad_them(bits: int, zeros: bool, tmp_path: Path) -> None:
    outputs, inputs, groups = 12, 60, 3  # neither side fills whole words of 8
    codes, points = numbers(2**bits, outputs, inputs), numbers(2**bits, outputs, groups, seed=1)
    scales = torch.rand(outputs, groups, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensors = {
        "m.weight_packed": words_of(codes, bits),
        "m.weight_scale": scales,
        "m.weight_shape": torch.tensor([outputs, inputs]),
    }
    if zeros:
        tensors["m.weight_zero_point"] = words_of(points.T, bits).T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    tensor = open_packed(tmp_path / "model.safetensors", config=config)["m.weight"]
    assert tensor.shape == (outputs, inputs)
    group = np.arange(inputs) // 20
    zero = points[:, group] if zeros else 2 ** (bits - 1)
    product = torch.from_numpy(codes - zero).float() * scales[:, group].float()
    assert torch.equal(tensor.decode(), product.to(tensor.decode().dtype))
    write_packed(tmp_path / "ours.safetensors", [(tensor.layout, tensor.encoded())])
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_what_compressed_tensors_packs(bits: int, act: bool, tmp_path: Path) -> None:
    """The peer packs signed codes and zero points; widths that cross words need sides that fill them."""
    name = "compressed_tensors.compressors.pack_quantized.helpers"
    peer = pytest.importorskip(name, reason="compressed-tensors is the peer")
    half, (outputs, inputs) = 2 ** (bits - 1), (64, 96) if bits in (3, 5, 6, 7) else (12, 60)
    codes = torch.from_numpy(numbers(2**bits, outputs, inputs) - half).to(torch.int8)
    zeros = torch.from_numpy(numbers(2**bits, outputs, 3, seed=1) - half).to(torch.int8)
    group = torch.from_numpy(numbers(3, inputs, seed=2)).int() if act else torch.arange(inputs) // (inputs // 3)
    tensors = {
        "m.weight_packed": peer.pack_to_int32(codes, bits),
        "m.weight_zero_point": peer.pack_to_int32(zeros, bits, packed_dim=0),
        "m.weight_scale": torch.rand(outputs, 3).half(),
        "m.weight_shape": torch.tensor([outputs, inputs]),
    } | ({"m.weight_g_idx": group} if act else {})
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    tensor = open_packed(tmp_path / "model.safetensors", config=config)["m.weight"]
    encoded = tensor.encoded()
    assert torch.equal(encoded.codes.int() - half, codes.int())
    assert torch.equal(encoded.qparams["zero_point"].int() - half, zeros.int())
    product = (codes.float() - zeros.float()[:, group]) * tensors["m.weight_scale"].float()[:, group]
    assert torch.equal(tensor.decode(), product.half())
    write_packed(tmp_path / "ours.safetensors", [(tensor.layout, encoded)])
    ours = load_file(tmp_path / "ours.safetensors")
    assert torch.equal(peer.unpack_from_int32(ours["m.weight_packed"], bits, codes.shape), codes)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("sides", "message"), [([12, 68], "weight_packed is"), ([13, 60], "weight_packed is"), ([2**40, 60], "claims")]
)
def test_a_stored_shape_that_lies_is_refused(sides: list[int], message: str, tmp_path: Path) -> None:
    tensors = {
        "m.weight_packed": torch.zeros(12, 8, dtype=torch.int32),
        "m.weight_scale": torch.ones(12, 1),
        "m.weight_shape": torch.tensor(sides),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnreadableArtifact, match=message):
        open_packed(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"config_groups": []}, InvalidConfig, "no table"),
        ({"config_groups": {"a": {"weights": {"num_bits": [4]}}}}, UnsupportedFormat, "widths"),
        ({"config_groups": {"a": {"weights": {"num_bits": 16}}}}, UnsupportedFormat, "widths"),
        ({"config_groups": {n: {"weights": {"num_bits": n}} for n in (4, 8)}}, UnsupportedFormat, r"\[4, 8\]"),
        ({"config_groups": {"a": {"weights": {"num_bits": 8}}}}, UnreadableArtifact, "weight_packed is I32"),
    ],
)
def test_groups_of_layers_that_make_no_sense_are_refused(
    config: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    layout = compressed_tensors("m.weight", (8, 64), bits=4, size=32)
    write_packed(tmp_path / "model.safetensors", [(layout, layout.format.encode(torch.ones(8, 64)))])
    with pytest.raises(error, match=message):
        open_packed(tmp_path / "model.safetensors", config=config)


def test_our_files_are_read_by_the_format_s_own_library(tmp_path: Path) -> None:
    layout = gptq("m.weight", (32, 64), bits=4, size=32)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    write_packed(tmp_path / "ours.safetensors", [(layout, layout.format.encode(x))])
    tensors = load_file(tmp_path / "ours.safetensors")
    assert {name: (item.dtype, tuple(item.shape)) for name, item in tensors.items()} == {
        "m.qweight": (torch.int32, (8, 32)),
        "m.qzeros": (torch.int32, (2, 4)),
        "m.scales": (torch.float16, (2, 32)),
        "m.g_idx": (torch.int32, (64,)),
    }
    decoded = open_packed(tmp_path / "ours.safetensors")["m.weight"].decode()
    assert (decoded.float() - x).abs().max() < 0.25


def replaced(folder: Path, name: str, value: Tensor | None) -> Path:
    gptq_file(folder, 4)
    tensors = load_file(folder / "model.safetensors")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("m.scales", None, UnreadableArtifact, "lacks m.scales"),
        ("m.qzeros", None, UnreadableArtifact, "lacks m.qzeros"),
        ("m.scales", torch.ones(3, 32).half(), UnreadableArtifact, "make no width|is I32"),
        ("m.scales", torch.ones(5, 64).half(), UnsupportedFormat, "5 groups do not divide 96"),
        ("m.scales", torch.ones(192), UnreadableArtifact, "not a matrix"),
        ("m.scales", torch.ones(3, 64, dtype=torch.int32), UnsupportedFormat, "m.scales is I32"),
        ("m.qweight", torch.ones(12, 64), UnreadableArtifact, "m.qweight is F32"),
        ("m.qweight", torch.ones(0, 64, dtype=torch.int32), UnreadableArtifact, "is I32"),
        ("m.qzeros", torch.ones(3, 5, dtype=torch.int32), UnreadableArtifact, "m.qzeros is I32"),
        ("m.g_idx", torch.zeros(95, dtype=torch.int32), UnreadableArtifact, "m.g_idx is I32"),
        ("m.g_idx", torch.zeros(96, dtype=torch.int64), UnreadableArtifact, "m.g_idx is I64"),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    name: str, value: Tensor | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = replaced(tmp_path, name, value)
    with pytest.raises(error, match=message):
        open_packed(path)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"group_size": 0}, InvalidConfig, "group_size is 0"),
        ({"group_size": "128"}, InvalidConfig, "group_size"),
        ({"group_size": 48}, UnreadableArtifact, "has 3 groups"),
        ({"group_size": -1}, UnreadableArtifact, "has 3 groups"),
        ({"checkpoint_format": "marlin"}, UnsupportedFormat, "marlin"),
        ({"checkpoint_format": ["gptq"]}, UnsupportedFormat, "is not read"),
        ({"bits": "4"}, UnreadableArtifact, "its config says '4'"),
        ({"quant_method": "hqq"}, UnsupportedFormat, "hqq"),
        ({"quant_method": "awq", "version": "gemv"}, UnsupportedFormat, "gemv"),
        ({"quant_method": "awq"}, UnreadableArtifact, "m.qweight is I32"),
    ],
)
def test_configs_that_contradict_the_file_are_refused(
    config: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    gptq_file(tmp_path, 4)
    with pytest.raises(error, match=message):
        open_packed(tmp_path / "model.safetensors", config=config)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    scales = torch.ones(3, 64).half()
    scales[1, 2] = bad
    tensor = open_packed(replaced(tmp_path, "m.scales", scales))["m.weight"]
    with pytest.raises(UnreadableArtifact, match="weight#scale holds NaN or infinite"):
        tensor.encoded()
    assert not torch.isfinite(tensor.decode(damaged=True)[2]).all()


def test_groups_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    index = torch.zeros(96, dtype=torch.int32)
    index[5] = 3
    with pytest.raises(InvalidConfig, match="names group 3 of 3"):
        open_packed(replaced(tmp_path, "m.g_idx", index))["m.weight"].decode()


@pytest.mark.parametrize(
    "build",
    [
        lambda: gptq("m.weight", (64, 64), bits=5, size=32),
        lambda: gptq("m.weight", (64, 60), bits=4, size=32),
        lambda: gptq("m.weight", (48, 64), bits=3, size=32),
        lambda: gptq("m", (64, 64), bits=4, size=32),
        lambda: awq("m.weight", (60, 64), size=32),
        lambda: compressed_tensors("m.weight", (8, 8), bits=3, size=8),
        lambda: compressed_tensors("m.weight", (8, 8), bits=9, size=8),
    ],
)
def test_layouts_that_cannot_be_are_refused(build: object) -> None:
    with pytest.raises(InvalidConfig):
        build()  # type: ignore[operator]
