"""Every GGUF type against the gguf package's own decoder where it is installed, and against plain loops always."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.errors import UnreadableArtifact, UnsupportedFormat
from holdfast.numerics import bits
from holdfast.quantization.adapters import ggml, open_packed, write_packed
from holdfast.quantization.adapters.ggml import BLOCKS
from holdfast.quantization.adapters.gguf_file import TYPES
from holdfast.testing import check_format

SCALES = {  # where a block holds float16 numbers, byte by byte
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def random_blocks(dtype: str, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    """Random bytes, with finite float16 scales where scales stand."""
    generator = np.random.default_rng(seed)
    octets = generator.integers(0, 256, (rows, blocks, TYPES[dtype][2]), dtype=np.uint8)
    for place in SCALES[dtype]:
        scales = generator.standard_normal((rows, blocks)).astype(np.float16)
        octets[:, :, place : place + 2] = scales[..., None].view(np.uint8)
    return octets


def read(dtype: str, octets: np.ndarray) -> tuple[object, torch.Tensor]:
    rows, blocks, _ = octets.shape
    layout = ggml("w", dtype, (rows, blocks * TYPES[dtype][1]))
    encoded = layout.unpack({"w": octets.reshape(-1)})
    return encoded, layout.format.decode(encoded)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_what_the_peer_decodes(dtype: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    octets = random_blocks(dtype, 5, 7)
    expected = gguf.quants.dequantize(octets.reshape(5, -1), gguf.GGMLQuantizationType[dtype])
    _, decoded = read(dtype, octets)
    assert bits.bit_equal(decoded, torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("filling", [0x00, 0xFF, 0x80, 0x7F])
def test_what_the_peer_decodes_at_the_edges(dtype: str, filling: int) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    octets = np.full((1, 6, TYPES[dtype][2]), filling, np.uint8)
    edges = np.array([0.0, -0.0, 65504, -65504, 6e-8, 1.0], np.float16)
    for place in SCALES[dtype]:
        octets[0, :, place : place + 2] = edges[:, None].view(np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(octets.reshape(1, -1), gguf.GGMLQuantizationType[dtype])
    _, decoded = read(dtype, octets)
    assert bits.bit_equal(decoded, torch.from_numpy(expected))


def half(block: bytes, place: int) -> float:
    return float(np.frombuffer(block, np.float16, 1, place)[0])


def plain_value(dtype: str, b: bytes, e: int) -> float:
    """Decode element e of one block of bytes, one Python number at a time, after ggml's structures."""
    nibble = lambda first, run, e: (b[first + e // (2 * run) * run + e % run] >> (4 * (e // run % 2))) & 15
    pair = lambda first, e: (b[first + e // 128 * 32 + e % 32] >> (2 * (e // 32 % 4))) & 3
    if dtype == "Q4_0":
        return (nibble(2, 16, e) - 8) * half(b, 0)
    if dtype == "Q4_1":
        return nibble(4, 16, e) * half(b, 0) + half(b, 2)
    if dtype == "Q5_0":
        return ((nibble(6, 16, e) | (b[2 + e // 8] >> (e % 8) & 1) << 4) - 16) * half(b, 0)
    if dtype == "Q5_1":
        return (nibble(8, 16, e) | (b[4 + e // 8] >> (e % 8) & 1) << 4) * half(b, 0) + half(b, 2)
    if dtype == "Q8_0":
        return (b[2 + e] - 256 * (b[2 + e] > 127)) * half(b, 0)
    if dtype == "Q2_K":
        return pair(16, e) * half(b, 80) * (b[e // 16] & 15) - half(b, 82) * (b[e // 16] >> 4)
    if dtype == "Q3_K":
        group = e // 16
        scale = (b[96 + group % 8] >> (4 * (group // 8)) & 15) | (b[104 + group % 4] >> (2 * (group // 4)) & 3) << 4
        return ((pair(32, e) | (b[e % 32] >> (e // 32) & 1) << 2) - 4) * half(b, 108) * (scale - 32)
    if dtype == "Q6_K":
        scale = b[192 + e // 16] - 256 * (b[192 + e // 16] > 127)
        return ((nibble(0, 64, e) | pair(128, e) << 4) - 32) * half(b, 208) * scale
    j = e // 32
    if j < 4:
        scale, low = b[4 + j] & 63, b[8 + j] & 63
    else:
        scale, low = b[8 + j] & 15 | b[j] >> 6 << 4, b[8 + j] >> 4 | b[4 + j] >> 6 << 4
    code = nibble(16, 32, e) if dtype == "Q4_K" else nibble(48, 32, e) | (b[16 + e % 32] >> (e // 32) & 1) << 4
    return code * half(b, 0) * scale - half(b, 2) * low


@pytest.mark.parametrize("dtype", BLOCKS)
def test_what_plain_loops_decode(dtype: str) -> None:
    octets = random_blocks(dtype, 2, 2, seed=1)
    _, decoded = read(dtype, octets)
    side = TYPES[dtype][1]
    expected = [
        [plain_value(dtype, octets[row, block].tobytes(), e) for block in range(2) for e in range(side)]
        for row in range(2)
    ]
    assert torch.allclose(decoded.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_every_bit_of_a_block_is_one_number_s_bit(dtype: str) -> None:
    layout = ggml("w", dtype, (1, TYPES[dtype][1]))
    everywhere = torch.arange(8 * TYPES[dtype][2])
    owners = sum((part.field.locate(everywhere)[0] >= 0).long() for part in layout.parts.values())
    assert (owners == 1).all(), "each bit belongs to exactly one part"


@pytest.mark.parametrize("dtype", BLOCKS)
def test_codes_and_parameters_go_back_to_the_same_bytes(dtype: str) -> None:
    octets = random_blocks(dtype, 3, 4).reshape(-1)
    layout = ggml("w", dtype, (3, 4 * TYPES[dtype][1]))
    assert np.array_equal(layout.pack(layout.unpack({"w": octets}))["w"], octets)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_the_format_of_each_type_keeps_the_contract(dtype: str) -> None:
    check_format(BLOCKS[dtype].format)


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_files_of_the_peer_come_in_and_go_out_byte_for_byte(dtype: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    kind = gguf.GGMLQuantizationType[dtype]
    weights = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(str(tmp_path / "peer.gguf"), "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", "<s>"])
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_tensor("blk.0.w.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("blk.0.norm.weight", weights[0])
    writer.add_tensor("half.weight", weights[:3].astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_packed(tmp_path / "peer.gguf") as file:
        assert file.metadata["tokenizer.ggml.tokens"] == ["a", "é", "<s>"]
        assert {name: (item.scheme, item.shape) for name, item in file.items()} == {
            "blk.0.w.weight": (dtype, (8, 64)),
            "blk.0.norm.weight": ("float", (64,)),
            "half.weight": ("float", (3, 64)),
        }
        expected = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
        assert bits.bit_equal(file["blk.0.w.weight"].decode(), torch.from_numpy(expected))
        assert np.array_equal(file["blk.0.norm.weight"].decode().numpy(), weights[0])
        in_order = [file[name] for name in file.header.tensors]
        write_packed(tmp_path / "ours.gguf", [(item.layout, item.encoded()) for item in in_order], file.header)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "peer.gguf").read_bytes()


@pytest.mark.parametrize("dtype", BLOCKS)
def test_our_files_are_read_by_the_peer(dtype: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    octets = random_blocks(dtype, 4, 3)
    layout = ggml("w", dtype, (2, 2, 3 * TYPES[dtype][1]))
    path = tmp_path / "ours.gguf"
    metadata = {"general.architecture": "llama", "general.alignment": 64, "x.count": -3, "x.real": 0.5, "x.yes": True}
    write_packed(path, [(layout, layout.unpack({"w": octets.reshape(-1)}))], metadata)
    reader = gguf.GGUFReader(str(path))
    assert reader.tensors[0].tensor_type.name == dtype
    assert reader.tensors[0].shape.tolist() == [3 * TYPES[dtype][1], 2, 2]
    assert np.array_equal(np.array(reader.tensors[0].data).reshape(-1), octets.reshape(-1))
    assert reader.fields["x.count"].contents() == -3
    assert open_packed(path).metadata == metadata


def test_types_that_are_not_read_say_so_and_leave_the_rest(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    writer = gguf.GGUFWriter(str(tmp_path / "mixed.gguf"), "llama")
    blocks = np.zeros((1, 66), np.uint8)
    writer.add_tensor("exotic", blocks, raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.add_tensor("plain", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_packed(tmp_path / "mixed.gguf")
    assert list(file) == ["plain"]
    assert list(file.unread) == ["exotic"]
    assert "exotic" not in file
    with pytest.raises(UnsupportedFormat, match="IQ2_XXS"):
        file["exotic"]
    assert file["plain"].decode().tolist() == [[1, 1], [1, 1]]


def test_sizes_agree_with_the_peer() -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is the peer")
    for name, (number, block, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))


def test_a_damaged_scale_is_refused_unless_wanted(tmp_path: Path) -> None:
    octets = random_blocks("Q4_K", 1, 2)
    octets[0, 1, 0:2] = np.array([np.inf], np.float16).view(np.uint8)
    layout = ggml("w", "Q4_K", (1, 512))
    write_packed(tmp_path / "w.gguf", [(layout, layout.unpack({"w": octets.reshape(-1)}))])
    tensor = open_packed(tmp_path / "w.gguf")["w"]
    with pytest.raises(UnreadableArtifact, match="w#super_scale holds NaN or infinite"):
        tensor.decode()
    assert not torch.isfinite(tensor.decode(damaged=True)[0, 256:]).all()
