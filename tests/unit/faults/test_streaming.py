"""Faults in stored files: the same bits as in the loaded model, whatever the shards, and nothing half done."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact, UnsafeArtifact
from holdfast.execution import Fault, Flips, Population, inject
from holdfast.faults import BitErrors, BitFlip, inject_file
from holdfast.models import build_architecture, card, save
from holdfast.models.tensors import stored_tensors
from holdfast.numerics import bits
from holdfast.quantization import quantize
from holdfast.seeds import Seed

PARAMETERS = "weights:*.weight,weights:*.bias"  # and no buffer, which a file would count among the weights


@dataclass(frozen=True)
class Extremes:
    """A law that reads what is stored: it clears the top bit and sets the lowest one of every third element."""

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        result = []
        for site in population.sites:
            index = torch.arange(0, len(population.codes(site)), 3)
            none = torch.zeros_like(index)
            result.append(Flips(site, index, none, rise=none + 1, fall=none + (1 << (site.bits - 1))))
        return result


@pytest.fixture
def model() -> nn.Module:
    model = build_architecture("digits-cnn")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(generator=generator)
    card(model).architecture = "digits-cnn"
    return model.eval()


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(bits.bit_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("format", [None, "int8", "int4", "rquant8", "rquant3"])
@pytest.mark.parametrize(
    "fault", [BitErrors(rate=0.01), BitErrors(rate=1e-4), BitErrors(rate=1.0), Extremes()], ids=repr
)
def test_a_broken_file_holds_what_injection_puts_into_the_loaded_model(
    tmp_path: Path, model: nn.Module, format: str | None, fault: Fault
) -> None:
    stored = model if format is None else quantize(model, format)
    save(stored, tmp_path / "whole")
    at = PARAMETERS if format is None else f"{PARAMETERS},qparams"
    done = inject_file(tmp_path / "whole", tmp_path / "broken", fault, at=at, seed=7)
    clean = stored_tensors(stored)
    with inject(stored, fault, at=at, seed=7):
        expected = dict(clean)
        for name, value in stored.state_dict().items():
            expected[name] = value.detach().clone()
        for name, lens in card(stored).lenses.items():
            parts = {"codes": lens.codes, **lens.qparams}
            expected |= {f"{name}#{key}": item.clone() for key, item in parts.items()}
    found = load_file(tmp_path / "broken" / "model.safetensors")
    assert same_bits(found, {name: expected[name] for name in clean})
    changed = sum(
        int(bits.popcount((bits.int_view(found[name]) ^ bits.int_view(clean[name])).flatten()).sum())
        for name in clean
        if not name.endswith("#codes")
    )
    if format is None:  # codes of less than eight bits carry copies of their sign in the byte
        assert done.total == changed > 0
    assert (tmp_path / "broken" / "model.json").read_bytes() == (tmp_path / "whole" / "model.json").read_bytes()


@pytest.mark.parametrize("fault", [BitErrors(rate=0.003), BitFlip()], ids=repr)
def test_what_breaks_does_not_depend_on_the_shards(tmp_path: Path, model: nn.Module, fault: Fault) -> None:
    tensors = {name: value for name, value in stored_tensors(model).items() if value.is_floating_point()}
    save_file(tensors, tmp_path / "one.safetensors")
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "config.json").write_text("{}")
    names = sorted(tensors)
    for number in range(3):
        save_file({name: tensors[name] for name in names[number::3]}, shards / f"part-{number}.safetensors")
    one = inject_file(tmp_path / "one.safetensors", tmp_path / "broken.safetensors", fault, seed=5)
    many = inject_file(shards, tmp_path / "out", fault, seed=5)
    gathered = {
        key: item for part in sorted((tmp_path / "out").glob("*.safetensors")) for key, item in load_file(part).items()
    }
    assert same_bits(gathered, load_file(tmp_path / "broken.safetensors"))
    assert dict(one.flipped) == dict(many.flipped)
    assert one.total == 1 or isinstance(fault, BitErrors)
    assert one.population == sum(value.numel() * 32 for value in tensors.values())
    assert (tmp_path / "out" / "config.json").read_text() == "{}"
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == sorted(item.name for item in shards.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_every_float_type_breaks_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.zeros(100_000, dtype=torch.uint8 if dtype.itemsize == 1 else dtype).view(dtype)
    save_file({"steps": torch.arange(9), "w": values}, tmp_path / "a.safetensors")
    done = inject_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", BitErrors(rate=0.001), seed=1)
    found = load_file(tmp_path / "b.safetensors")
    assert int(bits.popcount(found["w"]).sum()) == done.total == done.flipped["weights:w"]
    assert abs(done.total - done.population * 0.001) < 5 * (done.population * 0.001) ** 0.5
    assert torch.equal(found["steps"], torch.arange(9))  # counters are no weights


def test_only_what_is_selected_breaks(tmp_path: Path, model: nn.Module) -> None:
    save(model, tmp_path / "whole")
    done = inject_file(tmp_path / "whole", tmp_path / "broken", BitErrors(rate=1.0), at="weights:conv1.weight")
    assert set(done.flipped) == {"weights:conv1.weight"}
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert [name for name in before if not bits.bit_equal(before[name], after[name])] == ["conv1.weight"]


def test_memory_is_that_of_the_flips_and_not_of_the_file(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(16_000_000)}, tmp_path / "big.safetensors")  # 64 MB
    tracemalloc.start()
    try:
        inject_file(tmp_path / "big.safetensors", tmp_path / "broken.safetensors", BitErrors(rate=1e-5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


@dataclass(frozen=True)
class Interrupted:
    """A law that stops in the middle, as a user does."""

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        raise KeyboardInterrupt

    def flip_memory_(self, octets: object, site: object, seed: Seed) -> int:
        raise KeyboardInterrupt


def test_an_interruption_leaves_neither_a_half_broken_copy_nor_a_trace(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(100)}, tmp_path / "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        inject_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", Interrupted())
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


@dataclass(frozen=True)
class ReadErrors(Interrupted):
    each_read = True


def test_what_cannot_be_done_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(100)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.safetensors").write_bytes(whole)
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    (tmp_path / "long.safetensors").write_bytes(whole + b"x")
    (tmp_path / "pickle.pt").write_bytes(b"...")
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    for name in ("1", "2"):
        (tmp_path / "twice" / f"{name}.safetensors").write_bytes(whole)
    out, law = tmp_path / "out", BitErrors(rate=0.5)

    def refuses(
        error: type[Exception], match: str, source: str, fault: Fault = law, to: Path = out, at: str = "weights"
    ) -> None:
        with pytest.raises(error, match=match):
            inject_file(tmp_path / source, to, fault, at=at)
        assert not out.exists()

    refuses(InvalidConfig, "overwrite", "a.safetensors", to=tmp_path / "a.safetensors")
    refuses(InvalidConfig, "each read", "a.safetensors", ReadErrors())
    refuses(InvalidConfig, "unlike", "a.safetensors", to=tmp_path / "empty")
    refuses(NoSuchSite, "weights:v", "a.safetensors", at="weights:v")
    refuses(NoSuchSite, "buffers", "a.safetensors", at="buffers")
    refuses(UnreadableArtifact, "whole safetensors", "cut.safetensors")
    refuses(UnreadableArtifact, "whole safetensors", "long.safetensors")
    refuses(UnreadableArtifact, "No such file", "nothing.safetensors")
    refuses(UnreadableArtifact, "holds no", "empty")
    refuses(UnreadableArtifact, "1.safetensors and in 2", "twice")
    refuses(UnsafeArtifact, "no safetensors", "pickle.pt")
    refuses(InvalidConfig, "weights that are not of .*: other.safetensors", "one", to=tmp_path / "other")
    assert [item.name for item in (tmp_path / "other").iterdir()] == ["other.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_addresses_go_beyond_two_to_the_33(tmp_path: Path) -> None:
    """A sparse file of 1.2 GiB: its last bits have addresses above 2**33, and fail at the rate of the first ones."""
    numel, rate = 310_000_000, 1e-6
    save_file({"w": torch.zeros(1)}, tmp_path / "form.safetensors")
    header = f'{{"w":{{"dtype":"F32","shape":[{numel}],"data_offsets":[0,{4 * numel}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "huge.safetensors").open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + 4 * numel)
    done = inject_file(tmp_path / "huge.safetensors", tmp_path / "out.safetensors", BitErrors(rate=rate), seed=3)
    with (tmp_path / "out.safetensors").open("rb") as handle:
        handle.seek(8 + len(header) + 2**30)
        tail = torch.frombuffer(bytearray(handle.read()), dtype=torch.uint8)
    beyond, expected = int(bits.popcount(tail).sum()), 8 * len(tail) * rate
    assert abs(beyond - expected) < 5 * expected**0.5
    assert abs(done.total - done.population * rate) < 5 * (done.population * rate) ** 0.5
