"""In-place ECC: what the memory really holds, its decoder against plain integers, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import quantize
from holdfast.errors import UnsupportedFormat
from holdfast.execution import inject
from holdfast.execution.condition import Flips, Population
from holdfast.faults import BitErrors, BitFlip, Protected
from holdfast.faults.protection import InPlaceEcc, report, throttle_, throttled
from holdfast.faults.protection.protocol import Raw
from holdfast.models import card
from holdfast.models.site import Site
from holdfast.seeds import derive

SPARE = [8 * j + 6 for j in range(7)]


def columns() -> list[int]:
    """Return the column of each stored bit: all odd patterns of seven bits, those of weight one on the spare bits."""
    odd = [column for weight in (3, 5, 7) for column in orbit_order(weight)]
    rest = iter(odd)
    return [1 << SPARE.index(k) if k in SPARE else next(rest) for k in range(64)]


def orbit_order(weight: int) -> list[int]:
    found: list[int] = []
    for pattern in range(128):
        turned = [(pattern << k | pattern >> (7 - k)) & 127 for k in range(7)]
        if pattern.bit_count() == weight and pattern == min(turned):
            found += list(dict.fromkeys(turned))
    return found


COLUMNS = columns()


def syndrome(word: int) -> int:
    total = 0
    for k, column in enumerate(COLUMNS):
        total ^= column if word >> k & 1 else 0
    return total


def decoded(word: int, *, zero: bool = False) -> int:
    """Return the 64 bits that are read: corrected, and each sign copied over the spare bit beside it."""
    found = syndrome(word)
    if found in COLUMNS:
        word ^= 1 << COLUMNS.index(found)
    elif found and zero:
        return 0
    for place in SPARE:
        word = word & ~(1 << place) | (word >> (place + 1) & 1) << place
    return word


def words_of(codes: Tensor) -> list[int]:
    whole = codes[: len(codes) // 8 * 8].numpy().tobytes()
    return [int.from_bytes(whole[k : k + 8], "little") for k in range(0, len(whole), 8)]


def small(numel: int) -> Tensor:
    values = torch.randint(-128, 128, (numel,), generator=derive(0, "codes").torch(), dtype=torch.int8)
    return throttled(values)


def memory(codes: Tensor) -> Population:
    return Population((Site("weights", "w", (len(codes),), "int8", 8),), lambda _: codes)


def test_the_memory_holds_code_words_that_read_as_the_weights() -> None:
    codes = small(1203)
    site = memory(codes).sites[0]
    held = InPlaceEcc().data_codes(site, codes, torch.arange(1203))
    for word, meant in zip(words_of(held), words_of(codes), strict=True):
        assert syndrome(word) == 0
        assert decoded(word) == meant
    assert torch.equal(held[1200:], codes[1200:])
    some = torch.tensor([1202, 3, 77, 78, 79])
    assert torch.equal(InPlaceEcc().data_codes(site, codes, some), held[some])


@pytest.mark.parametrize("policy", ["leave", "zero"])
@pytest.mark.parametrize("rate", [0.002, 0.02, 0.1])
def test_reading_is_that_of_plain_integers(rate: float, policy: str) -> None:
    codes = small(4000)
    population, seed = memory(codes), derive(3)
    site = population.sites[0]
    held = InPlaceEcc().data_codes(site, codes, torch.arange(4000))
    received = xored(held, BitErrors(rate=rate).flips(population, seed))
    fault = Protected(fault=BitErrors(rate=rate), by=InPlaceEcc(on_detect=policy))
    read = xored(codes, fault.flips(population, seed))
    assert words_of(read) == [decoded(word, zero=policy == "zero") for word in words_of(received)]


def xored(codes: Tensor, drawn: list[Flips]) -> Tensor:
    result = codes.clone()
    for item in drawn:
        result[item.index] ^= item.against(codes[item.index]).to(torch.uint8).view(torch.int8)
    return result


def test_every_single_error_in_a_block_is_corrected_and_every_double_detected() -> None:
    site = Site("weights", "w", (8 * 64,), "int8", 8)
    nothing = np.empty(0, np.int64)
    one = Raw(data=np.arange(64) * 65, check=nothing, codes=lambda: torch.zeros(0))
    tally = InPlaceEcc().decode(site, one).tally
    assert (tally.affected, tally.restored, tally.residual) == (64, 64, 0)
    pairs = [(a, b) for a in range(64) for b in range(a)]
    wide = Site("weights", "w", (8 * len(pairs),), "int8", 8)
    data = np.sort(np.array([[64 * k + a, 64 * k + b] for k, (a, b) in enumerate(pairs)]).ravel())
    two = InPlaceEcc().decode(wide, Raw(data=data, check=nothing, codes=lambda: torch.zeros(0))).tally
    assert two.detected == len(pairs) == two.failed


def test_stuck_bits_strike_what_is_stored_not_what_is_meant() -> None:
    """Weight 0 keeps a check bit where it means its sign: a bit stuck at that check bit's value changes nothing."""
    codes = small(8)
    site = memory(codes).sites[0]
    held = int(InPlaceEcc().data_codes(site, codes, torch.tensor([0]))[0]) & 0xFF
    stuck, nothing = torch.tensor([1 << 6]), torch.tensor([0])

    class Stuck:
        def flips(self, population: Population, seed: object) -> list[Flips]:
            assert int(population.codes(site)[0]) & 0xFF == held
            same = Flips(site, torch.tensor([0]), nothing, rise=stuck) if held >> 6 & 1 else None
            return [same or Flips(site, torch.tensor([0]), nothing, fall=stuck)]

    fault = Protected(fault=Stuck(), by="in-place-ecc")
    assert next(fault.read(memory(codes), derive(0)))[1].tally.affected == 0


def test_the_weights_behind_the_last_block_are_not_guarded() -> None:
    codes = small(13)
    population = memory(codes)
    fault = Protected(fault=BitErrors(rate=1.0), by="in-place-ecc")
    ((site, result),) = fault.read(population, derive(0))
    assert result.flips is not None
    behind = result.flips.index >= 8
    assert result.flips.index[behind].tolist() == [8, 9, 10, 11, 12]
    assert (result.flips.mask[behind] == 255).all()
    assert InPlaceEcc().cost(site).words == 2
    assert InPlaceEcc().cost(site).check_bits == 0


def test_expectation_meets_experiment() -> None:
    found = report(Protected(fault=BitErrors(rate=0.01), by="in-place-ecc"), memory(small(200_003)), chips=4)
    for name in ("failed", "detected", "residual"):
        share, expected = getattr(found, name), found.expected_rate(name)
        assert expected is not None
        assert share.low < expected < share.high


def test_weights_out_of_range_are_refused_by_name_with_a_way_out() -> None:
    codes = small(80)
    codes[17] = 64
    fault = Protected(fault=BitFlip(), by="in-place-ecc")
    with pytest.raises(
        UnsupportedFormat, match=r"weights:w stores 1 weights outside -64..63.*element 17: 64"
    ) as caught:
        fault.flips(memory(codes), derive(0))
    assert "throttle_" in caught.value.hint
    codes[17], codes[23] = 63, 127  # the eighth of a block may be large
    assert isinstance(fault.flips(memory(codes), derive(0)), list)


@pytest.mark.parametrize(("name", "bits"), [("fp32", 32), ("rquant8", 8), ("int4", 4)])
def test_other_formats_are_refused(name: str, bits: int) -> None:
    site = Site("weights", "w", (64,), name, bits)
    population = Population((site,), lambda _: torch.zeros(64, dtype=torch.int8))
    with pytest.raises(UnsupportedFormat, match="only signed int8"):
        Protected(fault=BitFlip(), by="in-place-ecc").flips(population, derive(0))


def test_a_throttled_model_can_be_guarded_and_is_itself_again_afterwards() -> None:
    torch.random.fork_rng()
    model = quantize(
        nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)).eval(), "int8", at="weights:*weight"
    )
    fault = Protected(fault=BitErrors(rate=0.001), by=InPlaceEcc())
    with pytest.raises(UnsupportedFormat, match="outside"), inject(model, fault, at="weights:*weight"):
        pass
    original = copy.deepcopy(model)
    changed = throttle_(model, "weights:*weight")
    lens = card(model).lenses["0.weight"]
    assert changed > 0
    assert lens.matches(model.get_parameter("0.weight"))
    lenses, others = card(model).lenses, card(original).lenses
    assert sum(int((lenses[name].codes != others[name].codes).sum()) for name in lenses) == changed
    assert throttle_(model, "weights:*weight") == 0
    before = {name: value.codes.clone() for name, value in card(model).lenses.items()}
    image = torch.ones(1, 40)
    clean = model(image)
    with inject(model, Protected(fault=BitErrors(rate=0.02), by=InPlaceEcc()), at="weights:*weight", seed=1):
        assert not torch.equal(model(image), clean)
    assert torch.equal(model(image), clean)
    assert all(torch.equal(card(model).lenses[name].codes, codes) for name, codes in before.items())
