"""Protected faults: whole memories decoded word by word in plain integers give what the model reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from holdfast import quantize
from holdfast.errors import InvalidConfig, UnknownName, UnsupportedFormat
from holdfast.execution import inject
from holdfast.execution.condition import Fault, Flips, Population, faults
from holdfast.execution.injection import population_of
from holdfast.execution.plan import describe_fault
from holdfast.faults import BitErrors, BitFlip, Protected
from holdfast.faults.protection import OnDieSec, ParityZero, ProtectBits, Secded
from holdfast.faults.protection.word_codes import WordCode
from holdfast.models import card
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive
from holdfast.testing import check_fault

BYTES = Site("weights", "w", (1003,), "int8", 8)
NIBBLES = Site("weights", "n", (777,), "rquant4", 4)
FLOATS = Site("buffers", "f", (205,), "fp32", 32)
DOUBLES = Site("weights", "d", (61,), "fp64", 64)
DTYPES = {8: torch.int8, 4: torch.uint8, 32: torch.int32, 64: torch.int64}


def codes_of(site: Site) -> Tensor:
    low, high = (0, 15) if site.bits == 4 else (torch.iinfo(DTYPES[site.bits]).min, torch.iinfo(DTYPES[site.bits]).max)
    return torch.randint(low, high, site.shape, generator=derive(0, site.name).torch(), dtype=DTYPES[site.bits])


def stored(*sites: Site) -> Population:
    return Population(sites, lambda site: codes_of(site))


def bits_of(codes: Tensor, width: int) -> list[int]:
    return [int(code) >> bit & 1 for code in codes.tolist() for bit in range(width)]


def changed(bits: list[int], drawn: list[Flips], site: Site) -> list[int]:
    """Apply flips, settings and clearings to the bits of a memory, one at a time."""
    result = list(bits)
    for item in drawn:
        if item.site != site:
            continue
        empty = torch.zeros_like(item.mask)
        for column, action in ((item.mask, None), (item.rise, 1), (item.fall, 0)):
            for element, mask in zip(item.index.tolist(), (empty if column is None else column).tolist(), strict=True):
                for bit in range(site.bits):
                    if mask >> bit & 1:
                        place = element * site.bits + bit
                        result[place] = result[place] ^ 1 if action is None else action
    return result


class WordReader:
    """Cuts a memory into words, encodes them, and reads them back by the textbook."""

    def __init__(self, by: WordCode) -> None:
        self.by, self.code, self.ways = by, by.code, by.ways
        self.columns = self.code.matrix.tolist()

    def words(self, total: int) -> list[list[int]]:
        """Return the bit addresses of each word: blocks of ``ways`` words whose bits alternate."""
        size = self.code.data * self.ways
        blocks = [range(start, min(start + size, total)) for start in range(0, total, size)]
        return [list(block[lane :: self.ways]) for block in blocks for lane in range(self.ways) if block[lane:]]

    def check(self, data: list[int]) -> list[int]:
        syndrome = 0
        for bit, column in zip(data, self.columns, strict=False):
            syndrome ^= column * bit
        return [syndrome >> k & 1 for k in range(self.code.check)]

    def read(self, data: list[int], check: list[int]) -> list[int]:
        expected = self.check(data)
        syndrome = sum((a ^ b) << k for k, (a, b) in enumerate(zip(expected, check, strict=True)))
        known = self.columns[: len(data)] + self.columns[self.code.data :]
        if syndrome == 0:
            return data
        if self.code.corrects and syndrome in known:
            place = known.index(syndrome)
            return [bit ^ (k == place) for k, bit in enumerate(data)]
        return [0] * len(data) if self.code.detects and self.by.on_detect == "zero" else data


def expected(fault: Fault, by: WordCode, site: Site, seed: Seed) -> list[int]:
    """Return the bits that are read of a memory with check memory beside it, both struck by ``fault``."""
    reader, meant = WordReader(by), bits_of(codes_of(site), site.bits)
    words = reader.words(site.population)
    guard = Site(site.kind, f"{site.name}#check", (len(words),), "check-bits", reader.code.check)
    check = [bit for word in words for bit in reader.check([meant[k] for k in word])]
    each = reader.code.check
    held = torch.tensor([sum(check[each * w + k] << k for k in range(each)) for w in range(len(words))])
    data = changed(meant, list(fault.flips(stored(site), seed)), site)
    drawn = fault.flips(Population((guard,), lambda _: held), derive(seed, "check bits"))
    check = changed(check, list(drawn), guard)
    result = list(data)
    for number, word in enumerate(words):
        own = check[number * each : (number + 1) * each]
        for place, bit in zip(word, reader.read([data[k] for k in word], own), strict=True):
            result[place] = bit
    return result


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """Bits stuck at one and at zero, whatever is stored."""

    rate: float

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        drawn = BitErrors(rate=self.rate).flips(population, seed)
        half = 0x5A5A5A5A5A5A5A5A
        none = [torch.zeros_like(item.mask) for item in drawn]
        columns = [(item.mask & half, item.mask & ~half) for item in drawn]
        return [Flips(i.site, i.index, zero, *both) for i, zero, both in zip(drawn, none, columns, strict=True)]


CODES = [
    Secded(),
    Secded(matrix="hamming", on_detect="zero"),
    Secded(ways=5),
    OnDieSec(),
    OnDieSec(ways=2, design=3),
    ParityZero(),
    ParityZero(word=24, ways=3),
    ParityZero(word=100, on_detect="leave"),
]


@pytest.mark.parametrize("by", CODES, ids=repr)
@pytest.mark.parametrize("law", [BitErrors(rate=0.004), BitErrors(rate=0.05), Stuck(rate=0.02)], ids=repr)
@pytest.mark.parametrize("site", [BYTES, NIBBLES, FLOATS, DOUBLES], ids=lambda site: site.format)
def test_reading_is_that_of_plain_integers(by: WordCode, law: Fault, site: Site) -> None:
    seed = derive(7)
    drawn = Protected(fault=law, by=by).flips(stored(site), seed)
    meant = bits_of(codes_of(site), site.bits)
    assert changed(meant, drawn, site) == expected(law, by, site, seed)
    assert drawn


@dataclass(frozen=True)
class OnBytes:
    """A fault on the int8 sites of any population, of which all weights are 5."""

    fault: Fault

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        sites = tuple(site for site in population.sites if site.format == "int8")
        fives = Population(sites, lambda site: torch.full(site.shape, 5, dtype=torch.int8))
        return list(self.fault.flips(fives, seed))


@pytest.mark.parametrize("by", ["radar:group=8", "in-place-ecc", "in-place-ecc:on-detect=zero", "secded"])
@pytest.mark.parametrize("law", [BitErrors(rate=0.02), Stuck(rate=0.1), BitErrors(rate=1.0)], ids=repr)
def test_protections_that_read_the_codes_keep_the_contract_of_a_fault(by: str, law: Fault) -> None:
    check_fault(OnBytes(Protected(fault=law, by=by)))


def test_a_site_fails_alike_beside_any_others() -> None:
    fault = Protected(fault=BitErrors(rate=0.03), by="secded")
    alone = fault.flips(stored(BYTES), derive(1))
    among = [item for item in fault.flips(stored(FLOATS, BYTES, NIBBLES), derive(1)) if item.site == BYTES]
    assert torch.equal(alone[0].index, among[0].index)
    assert torch.equal(alone[0].mask, among[0].mask)


def test_protections_meet_the_same_errors_and_a_lower_rate_fewer() -> None:
    bare = BitErrors(rate=0.01).flips(stored(BYTES), derive(2))
    count = sum(bin(mask).count("1") for mask in bare[0].mask.tolist())
    for by in ("secded", "on-die-sec", "parity-zero", "chipkill", "voting", "protect-bits:field=sign", "radar"):
        ((_, decoded),) = Protected(fault=BitErrors(rate=0.01), by=by).read(stored(BYTES), derive(2))
        assert decoded.tally.data_errors == count
    lower = Protected(fault=BitErrors(rate=0.005), by="secded").read(stored(BYTES), derive(2))
    assert next(iter(lower))[1].tally.data_errors < count


def test_data_and_check_bits_of_equal_address_fail_independently() -> None:
    """A law that knows addresses only must not strike both alike."""

    @dataclass(frozen=True)
    class ByAddress:
        def flips(self, population: Population, seed: Seed) -> list[Flips]:
            start = seed.key % population.bits
            site, element, bit = population.locate(start)
            return [Flips(site, torch.tensor([element]), torch.tensor([1 << bit]))]

    hits = 0
    for number in range(200):
        tally = next(Protected(fault=ByAddress(), by="secded").read(stored(BYTES), derive(number)))[1].tally
        assert (tally.data_errors, tally.check_errors) == (1, 1)
        hits += tally.detected
    assert hits < 15  # in one word of 126, by chance


def test_check_bits_may_be_safe() -> None:
    fault = Protected(fault=BitFlip(), by="secded", check_bits="safe")
    for number in range(50):
        ((_, decoded),) = fault.read(stored(BYTES), derive(number))
        assert decoded.flips is None
        assert (decoded.tally.data_errors, decoded.tally.check_errors, decoded.tally.restored) == (1, 0, 1)


def test_protections_nest_from_the_inside_out() -> None:
    """With exponents that cannot fail, SECDED has fewer errors to bear; what is left never touches them."""
    inner = Protected(fault=BitErrors(rate=0.02), by=ProtectBits(field="exponent"))
    nested = Protected(fault=inner, by=Secded(ways=3))
    ((_, both),) = nested.read(stored(FLOATS), derive(3))
    ((_, alone),) = Protected(fault=BitErrors(rate=0.02), by=Secded(ways=3)).read(stored(FLOATS), derive(3))
    assert 0 < both.tally.data_errors < alone.tally.data_errors
    assert both.tally.check_errors == alone.tally.check_errors


@pytest.mark.parametrize("inner", ["radar", "in-place-ecc"])
def test_what_reads_weights_cannot_guard_the_check_bits_of_another(inner: str) -> None:
    fives = Population((BYTES,), lambda site: torch.full(site.shape, 5, dtype=torch.int8))
    within = Protected(fault=BitErrors(rate=0.1), by=inner)
    with pytest.raises(UnsupportedFormat, match="check-bits"):
        Protected(fault=within, by="secded").flips(fives, derive(0))
    around = Protected(fault=Protected(fault=BitErrors(rate=0.1), by="secded"), by=inner)
    assert around.flips(fives, derive(0))


def test_faults_of_each_read_stay_so() -> None:
    @dataclass(frozen=True)
    class Reads(BitErrors):
        each_read = True

    assert Protected(fault=Reads(rate=0.1), by="secded").each_read
    assert not Protected(fault=BitErrors(rate=0.1), by="secded").each_read


def test_the_digest_of_what_the_law_read_is_kept() -> None:
    @dataclass(frozen=True)
    class Measured(BitErrors):
        digest = "blake3:00"

    assert describe_fault(Protected(fault=Measured(rate=0.1), by="secded"))["digest"] == "blake3:00"
    assert Protected(fault=BitErrors(rate=0.1), by="secded").digest is None


def test_specifications_build_and_describe_it() -> None:
    spec = "protected:by=(secded:matrix=hamming,on-detect=zero),fault=bit-errors:rate=0.01,check-bits=safe"
    built = faults.build(spec)
    assert isinstance(built, Protected)
    assert built.law == BitErrors(rate=0.01)
    assert built.protection == Secded(matrix="hamming", on_detect="zero")
    assert describe_fault(built) == {
        "name": "protected",
        "fault": "bit-errors:rate=0.01",
        "by": "secded:matrix=hamming,on-detect=zero",
        "check_bits": "safe",
    }
    nested = faults.build("protected:by=secded,fault=(protected:by=protect-bits:field=sign,fault=bit-errors:rate=1e-3)")
    assert isinstance(nested, Protected)
    assert nested.law == Protected(by="protect-bits:field=sign", fault="bit-errors:rate=1e-3")


def test_words_and_objects_mean_the_same() -> None:
    one = Protected(fault="bit-errors:rate=0.02", by="parity-zero:word=16").flips(stored(BYTES), derive(4))
    other = Protected(fault=BitErrors(rate=0.02), by=ParityZero(word=16)).flips(stored(BYTES), derive(4))
    assert [item.index.tolist() for item in one] == [item.index.tolist() for item in other]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("bit-errors:rate=0.001,protect=secded", InvalidConfig, "no option 'protect'"),
        ("protected:by=secdet,fault=bit-flip", UnknownName, "unknown protection 'secdet'"),
        ("protected:by=secded,fault=bit-flop", UnknownName, "unknown fault 'bit-flop'"),
        ("protected:by=secded,fault=bit-errors:rate=2", InvalidConfig, "between 0 and 1"),
        ("protected:by=secded,fault=bit-flip,check-bits=maybe", InvalidConfig, "check_bits"),
        ("protected:by=(secded:on-detect=retry),fault=bit-flip", InvalidConfig, "on_detect"),
        ("protected:by=on-die-sec:on-detect=zero,fault=bit-flip", InvalidConfig, "detects nothing"),
        ("protected:by=on-die-sec:design=-1,fault=bit-flip", InvalidConfig, "seed"),
        ("protected:by=parity-zero:word=0,fault=bit-flip", InvalidConfig, "1 to 4096"),
        ("protected:by=(secded:ways=0),fault=bit-errors:rate=0.5", InvalidConfig, "over 0 words"),
        ("protected:fault=bit-flip", InvalidConfig, "needs by"),
        ("protected:by=protect-bits,fault=bit-errors", InvalidConfig, "needs"),
    ],
)
def test_what_cannot_be_built_is_refused_at_once(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        faults.build(spec)


def test_stuck_bits_need_a_model() -> None:
    with pytest.raises(InvalidConfig, match="unknown here"):
        Protected(fault=Stuck(rate=0.1), by="secded").flips(Population((BYTES,)), derive(0))


@pytest.mark.parametrize("by", ["secded", "on-die-sec", "parity-zero", "chipkill", "radar:group=16", "voting"])
def test_a_model_reads_it_and_forgets_it(by: str) -> None:
    model = quantize(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).eval(), "int8", at="weights")
    lenses, image = card(model).lenses, torch.ones(2, 20)
    before, clean = {name: lens.codes.clone() for name, lens in lenses.items()}, model(image)
    fault = Protected(fault=BitErrors(rate=0.05), by=by)
    drawn = fault.flips(population_of(model, "weights", None), derive(5, "inject"))
    with inject(model, fault, seed=5):
        assert not torch.equal(model(image), clean)
        for item in drawn:
            codes = before[item.site.name].flatten()
            mask = item.against(codes[item.index])
            found = lenses[item.site.name].codes.flatten()[item.index]
            assert torch.equal((found ^ codes[item.index]).to(torch.int64) & 255, mask)
    assert torch.equal(model(image), clean)
    assert all(torch.equal(lens.codes, before[name]) for name, lens in lenses.items())


def test_it_is_a_frozen_fault() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Protected(fault=BitFlip(), by="secded").by = "parity-zero"  # type: ignore[misc]
