"""Counters, masks, spilled vectors and sealed models: nothing twice, nothing old, nothing changed."""

from __future__ import annotations

import hmac
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.errors import IntegrityError, InvalidConfig, StorageError, UnreadableArtifact
from holdfast.numerics.bits import bit_equal
from holdfast.seeds import Entropy
from holdfast.shielding.product import integer_product, planes_product
from holdfast.shielding.sealing import (
    Budget,
    FileCounter,
    MaskStream,
    PadStore,
    SealedStore,
    Sealer,
    Spill,
    VolatileCounter,
    read_key,
)
from tests.unit.shielding.nets import images, integer_net, session_with
from tests.unit.shielding.test_blinding import GEOMETRY, WEIGHTS

KEY = bytes(range(32))


def test_a_counter_only_goes_up_and_survives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    counter = FileCounter(path, KEY, purpose="tests")
    assert counter.read() == 0
    counter.advance(7, after=0)
    for value in (7, 3, 0):
        with pytest.raises(IntegrityError, match="does not go to"):
            counter.advance(value, after=7)
    with pytest.raises(IntegrityError, match="does not go on from 3"):
        counter.advance(9, after=3)
    with pytest.raises(StorageError, match="cannot be held"):
        FileCounter(path, KEY, purpose="tests")
    counter.close()
    assert FileCounter(path, KEY, purpose="tests").read() == 7


def test_a_counter_that_somebody_wrote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    counter = FileCounter(path, KEY, purpose="tests")
    counter.advance(9, after=0)
    counter.close()
    with pytest.raises(InvalidConfig, match="is closed"):
        counter.advance(10, after=9)
    whole = path.read_bytes()
    flipped = bytes([whole[0] ^ 1]) + whole[1:-1] + bytes([whole[-1] ^ 1])
    for forged in (whole[:56], flipped, b"", b"9", whole + b"x"):
        path.write_bytes(forged)
        with pytest.raises(IntegrityError, match="does not open"):
            FileCounter(path, KEY, purpose="tests")
    path.write_bytes(whole)
    with pytest.raises(IntegrityError, match="another key"):
        FileCounter(path, KEY[::-1], purpose="tests")


class Durable:
    """A counter whose value outlives the stream that uses it, as a disk does."""

    def __init__(self) -> None:
        self.identity, self.value = b"a disk", 0

    def read(self) -> int:
        return self.value

    def advance(self, value: int, *, after: int) -> None:
        assert value > self.value == after
        self.value = value


class Crash(Exception):
    """The power goes."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_no_mask_number_is_given_twice_whatever_crashes(steps: list[tuple[int, bool, bool]]) -> None:
    """Processes take numbers and die, before or after the counter reaches the disk; the next one goes on."""
    counter, given_out = Durable(), set()
    stream = MaskStream(KEY, counter)
    for count, dies, before in steps:
        if dies and before:
            stream = MaskStream(KEY, dying(counter))
            try:
                numbers = stream.reserve(count)
            except Crash:
                numbers = range(0)
            stream = MaskStream(KEY, counter)
        else:
            numbers = stream.reserve(count)
            stream = MaskStream(KEY, counter) if dies else stream
        assert given_out.isdisjoint(numbers)
        given_out.update(numbers)


def dying(counter: Durable) -> Durable:
    class Dying(Durable):
        def read(self) -> int:
            return counter.read()

        def advance(self, value: int, *, after: int) -> None:
            raise Crash

    return Dying()


def test_masks_are_uniform_differ_by_number_and_repeat_by_key_and_number() -> None:
    stream = MaskStream(KEY, Durable())
    words = stream.words(range(4), (64, 128))
    again = MaskStream(KEY, Durable()).words(range(4), (64, 128))
    assert torch.equal(words, again)
    assert not torch.equal(words, MaskStream(KEY[::-1], Durable()).words(range(4), (64, 128)))
    assert not torch.equal(words, MaskStream(KEY, VolatileCounter()).words(range(4), (64, 128)))
    assert len(torch.unique(words)) > 0.999 * words.numel()
    octets = np.frombuffer(words.numpy().tobytes(), dtype=np.uint8)
    assert stats.chisquare(np.bincount(octets, minlength=256)).pvalue > 1e-6
    assert torch.equal(stream.words(range(3, 4), (5,))[0], words[3].flatten()[:5])


def test_a_mask_is_the_keystream_of_the_standard() -> None:
    """RFC 5869 gives the key; SP 800-38A: block 0 is the cipher's output for the counter block, number and zero."""
    number = int.from_bytes(bytes.fromhex("f0f1f2f3f4f5f6f7"), "big")
    first = MaskStream(KEY, Durable()).words(range(number, number + 1), (8,))
    label = b'["holdfast.subkey/v1","masks","' + b"a disk".hex().encode() + b'"]'
    pseudorandom = hmac.digest(bytes(32), KEY, "sha256")
    key = hmac.digest(pseudorandom, label + b"\x01", "sha256")
    block = bytes.fromhex("f0f1f2f3f4f5f6f7") + bytes(8)
    wanted = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)
    assert first.numpy().tobytes()[:16] == wanted


def test_masks_run_out_instead_of_repeating_and_keys_stay_out_of_sight() -> None:
    counter = VolatileCounter()
    counter.advance(2**63 - 5, after=0)
    with pytest.raises(InvalidConfig, match="no masks left"):
        MaskStream(KEY, counter).reserve(10)
    with pytest.raises(InvalidConfig, match="32 bytes, not 5"):
        MaskStream(b"short", counter)
    for secret in (MaskStream(KEY, counter), Sealer(KEY)):
        assert KEY.hex() not in repr(secret).lower()
        assert str(KEY) not in repr(secret)


def test_a_full_store_says_so_and_keeps_what_fitted() -> None:
    budget = Budget(40 * 12 + 76)  # an output of three int32 for each mask, and a sample on its way
    pads = PadStore(WEIGHTS, GEOMETRY, Entropy(), budget=budget)
    with pytest.raises(StorageError, match=r"the unblinding store is full: 480 of 556 bytes, 76 .* 12 more") as caught:
        pads.prepare((16,), 100)
    assert "fewer samples" in caught.value.hint
    assert pads.available((16,)) == 40
    pads.take((16,), 1)
    assert budget.used == 39 * 12


def test_vectors_beyond_the_memory_are_spilled_sealed_and_used_once(tmp_path: Path) -> None:
    spill = Spill(tmp_path, limit=12 * 64)
    pads = PadStore(WEIGHTS, GEOMETRY, Entropy(), budget=Budget(12 * 16 + 76), spill=spill)
    pads.prepare((16,), 48)
    assert len(list(tmp_path.glob("*/*.pad"))) == 32
    for codes in torch.randint(-127, 128, (48, 1, 16), dtype=torch.int8):
        pad = pads.take((16,), 1)
        product = pad.unblind(planes_product(pad.blind(codes), WEIGHTS, GEOMETRY))
        assert torch.equal(product, integer_product(codes, WEIGHTS, GEOMETRY))
    assert not list(tmp_path.glob("*/*.pad"))


def test_a_spilled_vector_that_was_changed_exchanged_or_removed_is_refused(tmp_path: Path) -> None:
    for attack in ("change", "exchange", "remove"):
        spill = Spill(tmp_path / attack, limit=2**20)
        assert [spill.put(torch.full((3,), number, dtype=torch.int32)) for number in range(2)] == [0, 1]
        first, second = sorted((tmp_path / attack).glob("*/*.pad"))
        if attack == "change":
            first.write_bytes(first.read_bytes()[:-1] + bytes([first.read_bytes()[-1] ^ 1]))
        elif attack == "exchange":
            first.write_bytes(second.read_bytes())
        else:
            first.unlink()
        with pytest.raises(IntegrityError, match="unblinding vector 0"):
            spill.take(0, (3,))
        assert spill.take(1, (3,)).tolist() == [1, 1, 1]


def test_a_session_over_a_sealed_counter_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    model, seen = integer_net(), []
    for _ in range(2):
        counter = FileCounter(tmp_path / "masks", KEY, purpose="masks")
        masks = MaskStream(KEY, counter)
        with session_with(model, masks=masks) as session:
            assert bit_equal(session(images(2)), model(images(2)))
        seen.append(masks._next)
        counter.close()
    assert seen[1] > seen[0] + 8


def store(folder: Path, counter: VolatileCounter | None = None) -> SealedStore:
    return SealedStore(folder, Sealer(KEY), VolatileCounter() if counter is None else counter)


def test_a_sealed_model_opens_bit_equal_and_shows_nothing(tmp_path: Path) -> None:
    model, other = integer_net(), integer_net()
    for value in other.state_dict().values():
        value.zero_()
    sealed = store(tmp_path)
    assert sealed.seal_model(model) == 1
    sealed.open_model(other)
    assert all(bit_equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    secret = model.state_dict()["body.codes"].numpy().tobytes()[:32]
    assert all(secret not in path.read_bytes() and b"body" not in path.read_bytes() for path in tmp_path.iterdir())
    with pytest.raises(InvalidConfig, match="differs from this one at"):
        sealed.open_model(torch.nn.Linear(2, 2))


def test_an_older_version_put_back_is_refused(tmp_path: Path) -> None:
    sealed = store(tmp_path / "store")
    sealed.write({"a": b"one"})
    shutil.copytree(tmp_path / "store", tmp_path / "old")
    assert sealed.write({"a": b"two"}) == 2
    assert sealed.read() == {"a": b"two"}
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(tmp_path / "old", tmp_path / "store")
    with pytest.raises(IntegrityError, match="missing from version 2") as caught:
        sealed.read()
    assert "older" in caught.value.hint
    for path in list((tmp_path / "store").iterdir()):  # and renaming the old files does not help
        path.rename(path.with_name("2" + path.name[1:]))
    with pytest.raises(IntegrityError, match="does not open"):
        sealed.read()


def test_parts_that_are_changed_exchanged_or_missing_are_refused(tmp_path: Path) -> None:
    for number, attack in enumerate(("flip", "cut", "swap", "drop", "key")):
        folder = tmp_path / attack
        counter = VolatileCounter()
        sealed = store(folder, counter)
        sealed.write({"a": b"x" * 40, "b": b"y" * 40})
        first, second = folder / "1.0.part", folder / "1.1.part"
        raw = first.read_bytes()
        if attack == "flip":
            first.write_bytes(raw[:30] + bytes([raw[30] ^ 1]) + raw[31:])
        elif attack == "cut":
            first.write_bytes(raw[: 10 * number])
        elif attack == "swap":
            first.write_bytes(second.read_bytes())
            second.write_bytes(raw)
        elif attack == "drop":
            second.unlink()
        else:
            sealed = SealedStore(folder, Sealer(KEY[::-1]), counter)
        with pytest.raises(IntegrityError):
            sealed.read()


def test_a_crash_between_the_files_and_the_counter_leaves_the_old_version(tmp_path: Path) -> None:
    counter = VolatileCounter()
    sealed = store(tmp_path, counter)
    sealed.write({"a": b"one"})
    broken = SealedStore(tmp_path, Sealer(KEY), dying_at(counter))
    with pytest.raises(Crash):
        broken.write({"a": b"two"})
    assert sealed.read() == {"a": b"one"}
    sealed.write({"a": b"three"})
    assert sealed.read() == {"a": b"three"}


def dying_at(counter: VolatileCounter) -> Durable:
    dead = dying(Durable())
    dead.identity, dead.read = counter.identity, counter.read  # type: ignore[method-assign]
    return dead


def test_an_empty_store_and_loose_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="nothing was sealed"):
        store(tmp_path).read()
    with pytest.raises(InvalidConfig, match="at least one file"):
        store(tmp_path).write({})
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o644)
    with pytest.raises(InvalidConfig, match="others than its owner"):
        read_key(path)
    path.chmod(0o600)
    assert read_key(path) == KEY
    path.write_bytes(KEY[:-1])
    with pytest.raises(UnreadableArtifact, match="31 bytes"):
        read_key(path)
    with pytest.raises(UnreadableArtifact, match="cannot read"):
        read_key(tmp_path / "none")
