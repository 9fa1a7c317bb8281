"""Addresses are those of the file: a flip made in the bytes on disk is the flip that is read back, and the reverse."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact
from holdfast.execution import Fault, Flips
from holdfast.faults import BitErrors, BitFlip
from holdfast.models import Site
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded
from holdfast.quantization.adapters import (
    Layout,
    PackedFile,
    Place,
    awq,
    compressed_tensors,
    ggml,
    gptq,
    open_packed,
    write_packed,
)
from holdfast.quantization.adapters.ggml import BLOCKS
from holdfast.quantization.adapters.gguf_file import TYPES
from holdfast.seeds import derive

SCHEMES: dict[str, Layout] = {
    "gptq-2": gptq("m.weight", (32, 64), bits=2, size=32),
    "gptq-3": gptq("m.weight", (32, 64), bits=3, size=32, convention="v2"),
    "gptq-4": gptq("m.weight", (16, 64), bits=4, size=32, act=False),
    "gptq-8": gptq("m.weight", (16, 64), bits=8, size=64, scale="fp32"),
    "awq": awq("m.weight", (16, 64), size=32),
    "compressed-4": compressed_tensors("m.weight", (12, 60), bits=4, size=20, zeros=True),
    "compressed-5": compressed_tensors("m.weight", (32, 64), bits=5, size=32, zeros=True, act=True),
    "compressed-8": compressed_tensors("m.weight", (12, 62), bits=8, size=62, scale="fp16"),
    **{name: ggml("m.weight", name, (2, 2 * TYPES[name][1])) for name in BLOCKS},
    "F16": ggml("m.weight", "F16", (3, 5)),
    "BF16": ggml("m.weight", "BF16", (7,)),
}


def config_of(scheme: str) -> dict[str, object]:
    if scheme.startswith("compressed"):
        return {"config_groups": {"g": {"weights": {"num_bits": int(scheme[-1])}}}}
    return {"checkpoint_format": "gptq_v2"} if scheme == "gptq-3" else {}


def written(folder: Path, scheme: str) -> Path:
    """A file of the scheme between two tensors of its container, holding a random matrix."""
    layout = SCHEMES[scheme]
    x = torch.randn(layout.shape, generator=torch.Generator().manual_seed(0))
    gguf = scheme in TYPES
    others = [ggml(name, "F32", (3,)) for name in ("a", "z")]
    tensors = [(other, other.format.encode(torch.ones(3))) for other in others]
    path = folder / ("model.gguf" if gguf else "model.safetensors")
    write_packed(path, [tensors[0], (layout, layout.format.encode(x)), tensors[1]])
    return path


def opened(path: Path, scheme: str, *, writable: bool = False) -> PackedFile:
    return open_packed(path, writable=writable, config=config_of(scheme))


def all_parts(encoded: Encoded) -> dict[str, torch.Tensor]:
    return {"codes": encoded.codes, **encoded.qparams}


def sampled(population: int) -> list[int]:
    """The ends, and some between them."""
    between = torch.randint(0, population, (6,), generator=torch.Generator().manual_seed(1)).tolist()
    return sorted({0, population - 1, *between})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_flip_of_the_byte_in_the_file_is_the_flip_that_is_read(scheme: str, tmp_path: Path) -> None:
    path = written(tmp_path, scheme)
    original = path.read_bytes()
    tensor = opened(path, scheme)["m.weight"]
    before = all_parts(tensor.encoded())
    for site, (part, value) in zip(tensor.sites(), before.items(), strict=True):
        for address in sampled(site.population):
            element, bit = divmod(address, site.bits)
            (byte,), (within,) = tensor.address(part, torch.tensor([element]), torch.tensor([bit]))
            damaged = bytearray(original)
            damaged[int(byte)] ^= 1 << int(within)
            path.write_bytes(damaged)
            file = opened(path, scheme)
            assert file.locate(int(byte), int(within)) == Place("m.weight", part, element, bit)
            after = all_parts(file["m.weight"].encoded(damaged=True))
            expected = bits.flip(value, element, bit)
            if value.dtype == torch.int8 and site.bits < 8:
                expected = expected << (8 - site.bits) >> (8 - site.bits)
            assert bits.bit_equal(after[part], expected)
            assert all(bits.bit_equal(after[key], before[key]) for key in before if key != part)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_bit_of_the_file_is_one_place_or_none(scheme: str, tmp_path: Path) -> None:
    path = written(tmp_path, scheme)
    tensor = opened(path, scheme)["m.weight"]
    byte = torch.arange(-2, path.stat().st_size + 2).repeat_interleave(8)
    bit = torch.arange(8).repeat(len(byte) // 8)
    taken = torch.zeros(len(byte), dtype=torch.long)
    for site, (part, (element, place)) in zip(tensor.sites(), tensor.locate(byte, bit).items(), strict=True):
        mine = element >= 0
        taken += mine
        assert int(mine.sum()) == site.population
        back = tensor.address(part, element[mine], place[mine])
        assert torch.equal(back[0], byte[mine])
        assert torch.equal(back[1], bit[mine])
    assert int(taken.max()) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("law", [BitErrors(rate=0.02), BitFlip()], ids=["bit-errors", "bit-flip"])
def test_laws_of_faults_act_on_the_file_and_leave_no_trace(law: Fault, scheme: str, tmp_path: Path) -> None:
    path = written(tmp_path, scheme)
    original = path.read_bytes()
    with opened(path, scheme, writable=True) as file:
        before = all_parts(file["m.weight"].encoded())
        population = file.population(
            "weights:m.weight,qparams:m.*" if len(file["m.weight"].sites()) > 1 else "weights:m.weight"
        )
        flips = law.flips(population, derive(0, "chip"))
        with file.applied(flips):
            file.close()
            changed = path.read_bytes()
            after = all_parts(opened(path, scheme)["m.weight"].encoded(damaged=True))
        touched = sum(int(bits.popcount(item.mask).sum()) for item in flips)
        differing = sum((one ^ other).bit_count() for one, other in zip(changed, original, strict=True))
        assert differing == touched > 0
        for site, (key, value) in zip(file["m.weight"].sites(), before.items(), strict=True):
            drawn = [item for item in flips if item.site == site]
            assert bits.hamming_distance(value, after[key]) >= sum(int(bits.popcount(i.mask).sum()) for i in drawn)
            for item in drawn:
                old, new = (bits.int_view(x).view(-1)[item.index].long() for x in (value, after[key]))
                assert torch.equal((old ^ new) & ((1 << site.bits) - 1), item.mask)
    assert path.read_bytes() == original


def test_what_rises_and_falls_depends_on_what_is_stored(tmp_path: Path) -> None:
    path = written(tmp_path, "gptq-4")
    with opened(path, "gptq-4", writable=True) as file:
        site = file["m.weight"].sites()[0]
        codes = file["m.weight"].encoded().codes.view(-1).long()
        assert torch.equal(file.population("weights:m.weight").codes(site).long(), codes)
        index, none = torch.arange(16 * 64), torch.zeros(16 * 64, dtype=torch.int64)
        stuck = Flips(site, index, none, rise=none + 0b1000, fall=none + 0b0001)
        with file.applied([stuck]):
            assert torch.equal(file["m.weight"].encoded().codes.view(-1).long(), codes & 0b0110 | 0b1000)
        assert torch.equal(file["m.weight"].encoded().codes.view(-1).long(), codes)


@pytest.mark.parametrize("scheme", ["gptq-3", "awq", "compressed-4", "Q6_K"])
def test_codes_are_stored_back_in_place(scheme: str, tmp_path: Path) -> None:
    path = written(tmp_path, scheme)
    original = path.read_bytes()
    with opened(path, scheme, writable=True) as file:
        encoded = file["m.weight"].encoded()
        file["m.weight"].store(Encoded(torch.zeros_like(encoded.codes), encoded.qparams))
        assert not file["m.weight"].encoded().codes.any()
        file["m.weight"].store(encoded)
    assert path.read_bytes() == original


def test_selections_and_lookups(tmp_path: Path) -> None:
    path = written(tmp_path, "gptq-4")
    file = open_packed(path)
    assert list(file) == ["a", "m.weight", "z"]
    scales = ["qparams:m.weight/scale", "qparams:m.weight/zero_point"]
    everything = ["weights:a", "weights:m.weight", *scales, "weights:z"]
    assert [site.address for site in file.population().sites] == everything
    assert [site.address for site in file.population("qparams").sites] == scales
    assert [site.address for site in file.population("weights:z, weights:m.*").sites] == [
        "weights:m.weight",
        "weights:z",
    ]
    assert file.population("qparams:*/scale").bits == 16 * 2 * 16
    with pytest.raises(NoSuchSite, match="matches weights:q"):
        file.population("weights,weights:q")
    with pytest.raises(NoSuchSite, match="matches buffers"):
        file.population("buffers")
    gone = Flips(Site("qparams", "m.weight/low", (1,), "fp16", 16), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(NoSuchSite, match=r"no site qparams:m\.weight/low"), file.applied([gone]):
        pass
    with pytest.raises(KeyError):
        file["q"]
    with pytest.raises(InvalidConfig, match="no 'low'"):
        file["m.weight"].address("low", torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(InvalidConfig, match="elements run"):
        file["m.weight"].address("scale", torch.tensor([32]), torch.tensor([0]))
    assert file.locate(0, 0) is None
    assert file.locate(10**12, 0) is None
    assert file.locate(-1, 0) is None


def test_a_file_open_for_reading_takes_no_faults(tmp_path: Path) -> None:
    path = written(tmp_path, "Q4_0")
    original = path.read_bytes()
    file = open_packed(path)
    flips = BitFlip().flips(file.population("weights:m.weight"), derive(0))
    with pytest.raises(InvalidConfig, match="open for reading"), file.applied(flips):
        pass
    with pytest.raises(InvalidConfig, match="open for reading"):
        file["m.weight"].store(file["m.weight"].encoded())
    assert path.read_bytes() == original


@pytest.fixture
def packed() -> tuple[Layout, Encoded]:
    layout = SCHEMES["awq"]
    return layout, layout.format.encode(torch.ones(16, 64))


def test_what_does_not_fit_a_layout_is_not_written(packed: tuple[Layout, Encoded], tmp_path: Path) -> None:
    layout, encoded = packed
    target = tmp_path / "model.safetensors"
    without = {key: value for key, value in encoded.qparams.items() if key != "scale"}
    transposed = Encoded(encoded.codes.T.contiguous(), encoded.qparams)
    wide = Encoded(encoded.codes | 16, encoded.qparams)
    narrow = Encoded(encoded.codes, dict(encoded.qparams) | {"scale": encoded.qparams["scale"].float()})
    for wrong, message in [
        (Encoded(encoded.codes, without), "has codes, scale, zero_point"),
        (transposed, "has shape"),
        (wide, "does not fit its 4 bits"),
        (narrow, "torch.float16"),
    ]:
        with pytest.raises(InvalidConfig, match=message):
            write_packed(target, [(layout, wrong)])
    with pytest.raises(InvalidConfig, match="twice"):
        write_packed(target, [packed, packed])
    with pytest.raises(InvalidConfig, match="does not take"):
        write_packed(target, [(SCHEMES["Q4_0"], SCHEMES["Q4_0"].format.encode(torch.ones(2, 64)))])
    assert not target.exists()


def test_scalars_and_nothing_are_tensors_too(tmp_path: Path) -> None:
    stored = {
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 3),
        "deep": torch.ones(2, 1, 3, dtype=torch.bfloat16),
    }
    save_file(stored, tmp_path / "model.safetensors")
    file = open_packed(tmp_path / "model.safetensors")
    assert all(bits.bit_equal(file[name].decode(), value) for name, value in stored.items())
    assert file.population().bits == 32 + 6 * 16
    write_packed(tmp_path / "ours.safetensors", [(item.layout, item.encoded()) for item in file.values()])
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_integers_that_belong_to_nothing_are_named(tmp_path: Path) -> None:
    save_file({"steps": torch.tensor([3]), "w": torch.ones(2)}, tmp_path / "model.safetensors")
    file = open_packed(tmp_path / "model.safetensors")
    assert (list(file), list(file.unread)) == (["w"], ["steps"])
    assert file["w"].decode().tolist() == [1, 1]


def test_real_weights_of_a_language_model(shared_data: Path) -> None:
    """The whole of a real checkpoint is one population, located bit by bit."""
    path = shared_data / "tiny-llama-260k" / "model.safetensors"
    if not path.is_file():
        pytest.skip("no tiny-llama-260k")
    file = open_packed(path)
    assert file.population().bits > 8 * 200_000
    for name in list(file)[:3]:
        byte, bit = file[name].address("codes", torch.tensor([7]), torch.tensor([3]))
        assert file.locate(int(byte), int(bit)) == Place(name, "codes", 7, 3)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    for path in (tmp_path / "none.gguf", tmp_path / "empty.gguf", tmp_path):
        with pytest.raises(UnreadableArtifact, match="cannot open"):
            open_packed(path)


def test_a_flip_costs_a_flip_beyond_four_billion_bits(tmp_path: Path) -> None:
    """A file with holes of two gigabytes, 2**34 bits: addresses are 64 bits wide and memory stays small."""
    layout = ggml("w", "Q8_0", (2**16, 2**15))
    head = open_packed(written(tmp_path, "Q8_0")).path
    entry = (1).to_bytes(8, "little") + b"w" + struct.pack("<IQQIQ", 2, 2**15, 2**16, TYPES["Q8_0"][0], 0)
    front = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry
    with head.open("wb") as handle:
        handle.write(front + bytes(-len(front) % 32))
        handle.truncate(-(-len(front) // 32) * 32 + layout.stored["w"].nbytes)
    tracemalloc.start()
    with open_packed(head, writable=True) as file:
        assert file.population().bits == 8 * layout.stored["w"].nbytes > 2**34
        flips = BitErrors(rate=1e-8).flips(file.population(), derive(0))
        drawn = sum(int(bits.popcount(item.mask).sum()) for item in flips)
        with file.applied(flips):
            for item in flips:
                part = file["w"].layout.parts["scale" if item.site.kind == "qparams" else "codes"]
                assert torch.equal(part.field.take(file["w"].memory["w"], item.index), item.mask)
                byte, bit = file["w"].address("codes", torch.tensor([2**31 - 1]), torch.tensor([7]))
                assert file.locate(int(byte), int(bit)) == Place("w", "codes", 2**31 - 1, 7)
        for item in flips:
            part = file["w"].layout.parts["scale" if item.site.kind == "qparams" else "codes"]
            assert not part.field.take(file["w"].memory["w"], item.index).any()
    assert 100 < drawn < 260
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
