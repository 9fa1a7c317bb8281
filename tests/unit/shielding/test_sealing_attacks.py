"""Attacks on sealing that once worked: each does what an attacker does, with what an attacker has."""

from __future__ import annotations

import functools
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import HoldfastError, IntegrityError, InvalidConfig, StorageError
from holdfast.shielding import int8_model
from holdfast.shielding.graph.exporting import export
from holdfast.shielding.sealing import FileCounter, MaskStream, PadStore, SealedStore, Sealer, VolatileCounter
from holdfast.shielding.sealing import counter as counters
from holdfast.shielding.sealing.aead import subkey
from holdfast.shielding.sealing.description import description
from tests.unit.shielding.nets import digits_net, images
from tests.unit.shielding.test_blinding import GEOMETRY, WEIGHTS
from tests.unit.shielding.test_sealing import KEY, Crash, Durable

_FIELD = 0xE1 << 120
_MAGIC, _NONCE, _TAG = 5, 12, 16


def test_a_worker_that_knows_four_codes_forges_no_sealed_file(tmp_path: Path) -> None:
    """One key for masks and files: mask 0, block 0 was AES of zeros, which is the authentication key of GCM."""
    counter = FileCounter(tmp_path / "masks", KEY, purpose="masks")
    pad = PadStore(WEIGHTS, GEOMETRY, MaskStream(KEY, counter)).take((16,), 1)
    assert pad.number == 0
    message = pad.blind(torch.zeros(1, 16, dtype=torch.int8))  # what the worker sees; it knows that codes are 0
    residues = sum(plane.int() << 8 * place for place, plane in enumerate(message)).flatten()[:4]
    sealer = Sealer(KEY)
    old, new = b"deny everything!", b"allow all of it!"
    forged = forge(sealer.seal(old, b"policy"), b"policy", residues.numpy().tobytes(), xor(old, new))
    with pytest.raises(IntegrityError, match="does not open"):
        sealer.open(forged, b"policy", name="the policy")


def test_the_forger_of_these_tests_can_forge() -> None:
    """With the authentication key itself, that is AES of zeros under the key of GCM, it succeeds."""
    stolen = Cipher(algorithms.AES(subkey(KEY, "sealed file")), modes.ECB()).encryptor().update(bytes(16))
    sealed = Sealer(KEY).seal(b"deny everything!", b"policy")
    forged = forge(sealed, b"policy", stolen, xor(b"deny everything!", b"allow all of it!"))
    assert Sealer(KEY).open(forged, b"policy", name="the policy") == b"allow all of it!"


def forge(sealed: bytes, what: bytes, secret: bytes, change: bytes) -> bytes:
    """Return ``sealed`` with ``change`` added to its plain text, and the tag that GHASH under ``secret`` gives it."""
    head, body = sealed[: _MAGIC + _NONCE], sealed[_MAGIC + _NONCE :]
    text, tag = body[:-_TAG], body[-_TAG:]
    authenticated = sealed[:_MAGIC] + what
    one_time = xor(tag, ghash(secret, authenticated, text))
    altered = xor(text, change)
    return head + altered + xor(one_time, ghash(secret, authenticated, altered))


def ghash(secret: bytes, authenticated: bytes, text: bytes) -> bytes:
    """NIST SP 800-38D, algorithm 2, over the blocks of algorithm 4."""
    data = padded(authenticated) + padded(text) + struct.pack(">QQ", 8 * len(authenticated), 8 * len(text))
    value, key = 0, int.from_bytes(secret, "big")
    for start in range(0, len(data), 16):
        value = product(value ^ int.from_bytes(data[start : start + 16], "big"), key)
    return value.to_bytes(16, "big")


def product(left: int, right: int) -> int:
    total = 0
    for place in range(127, -1, -1):
        total ^= right if left >> place & 1 else 0
        right = right >> 1 ^ (_FIELD if right & 1 else 0)
    return total


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


class Meeting(Durable):
    """A counter in which two threads meet if both come; a lock around it lets only one come."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier(2, timeout=0.2)

    def advance(self, value: int, *, after: int) -> None:
        with suppress(BrokenBarrierError):
            self.barrier.wait()
        self.value = max(value, self.value)


def test_two_threads_that_share_a_stream_get_different_masks() -> None:
    stream, taken = MaskStream(KEY, Meeting()), list[int]()
    together(lambda: taken.extend(stream.reserve(64)))
    assert len(set(taken)) == len(taken) == 128


def test_two_threads_do_not_take_a_counter_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, barrier, write = FileCounter(tmp_path / "c", KEY, purpose="tests"), Barrier(2, timeout=0.2), []
    real = counters._files.write_atomic

    def slowly(path: Path | str, data: bytes) -> None:
        with suppress(BrokenBarrierError):
            barrier.wait()
        real(path, data)

    monkeypatch.setattr(counters._files, "write_atomic", slowly)

    def go_on() -> None:
        try:
            counter.advance(100 + len(write), after=0)
        except IntegrityError:
            write.append("refused")

    together(go_on)
    assert write == ["refused"]


def together(function: Callable[[], object]) -> None:
    threads = [Thread(target=function) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_streams_over_one_counter_share_no_mask() -> None:
    counter = VolatileCounter()
    first, second = MaskStream(KEY, counter), MaskStream(KEY, counter)
    taken = [*first.reserve(1000), *second.reserve(2000), *first.reserve(3000), *second.reserve(10)]
    assert len(set(taken)) == len(taken) == 6010


class LateCounter(VolatileCounter):
    """One at which two threads meet after reading, so that both go on from one number and one of them is late."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier(2, timeout=0.2)

    def read(self) -> int:
        now = super().read()
        with suppress(BrokenBarrierError):
            self.barrier.wait()
        return now


def test_two_streams_that_read_one_counter_at_once_share_no_mask_and_both_go_on() -> None:
    counter, ready, taken, failed = LateCounter(), Barrier(2), list[int](), list[Exception]()

    def go_on() -> None:
        try:
            stream = MaskStream(KEY, counter)
            ready.wait()
            for _ in range(3):
                taken.extend(stream.reserve(1500))
        except Exception as error:
            failed.append(error)

    together(go_on)
    assert failed == []
    assert len(set(taken)) == len(taken) == 9000


def test_a_counter_that_refuses_where_nobody_went_on_is_not_asked_for_ever() -> None:
    class Refusing(VolatileCounter):
        def advance(self, value: int, *, after: int) -> None:
            raise IntegrityError("worn out")

    with pytest.raises(IntegrityError, match="worn out"):
        MaskStream(KEY, Refusing()).reserve(1)


@pytest.mark.parametrize("count", [-10, -1, 1.0, True, "1", None])
def test_masks_are_not_given_back(count: Any) -> None:
    stream = MaskStream(KEY, VolatileCounter())
    assert stream.reserve(10) == range(10)
    with pytest.raises(InvalidConfig, match="is no number of masks"):
        stream.reserve(count)
    assert (stream.reserve(0), stream.reserve(3)) == (range(10, 10), range(10, 13))


def test_one_key_over_two_counters_gives_no_mask_twice(tmp_path: Path) -> None:
    """Also where the file of the counter was taken away: the next one is another."""
    path, seen = tmp_path / "masks", []
    for _ in range(2):
        counter = FileCounter(path, KEY, purpose="masks")
        stream = MaskStream(KEY, counter)
        seen.append(stream.words(stream.reserve(1), (4,)))
        counter.close()
        path.unlink()
    assert not torch.equal(*seen)


def in_a_fork(function: Callable[[], object]) -> str:
    """Return what becomes of ``function`` in a forked process: its result or its error, as text."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = repr(function())
        except HoldfastError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"unexpected {error!r}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def test_a_forked_process_gets_no_mask_of_its_parent(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "masks", KEY, purpose="masks")
    stream = MaskStream(KEY, counter)
    stream.reserve(1)
    pads = PadStore(WEIGHTS, GEOMETRY, stream)
    pads.prepare((16,), 2)
    pad = pads.take((16,), 1)
    codes = torch.zeros(1, 16, dtype=torch.int8)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: stream.reserve(2),  # a number of the block that is reserved
        lambda: stream.reserve(3000),  # and beyond it
        lambda: stream.words(range(3, 4), (2,)).tolist(),
        lambda: pads.take((16,), 1),  # prepared before the fork
        lambda: pad.blind(codes),  # and taken before it
        lambda: counter.advance(10**6, after=counter.read()),
    )
    for attempt in attempts:
        assert in_a_fork(attempt).startswith("InvalidConfig: ")
    assert pad.blind(codes).shape == (4, 1, 16)  # the parent goes on
    assert stream.reserve(1) == range(3, 4)


def test_a_counter_of_something_else_is_refused(tmp_path: Path) -> None:
    """Under one key: the counter of a model, which hardly moves, in place of that of masks, which moves fast."""
    model = FileCounter(tmp_path / "model", KEY, purpose="model")
    model.advance(1, after=0)
    shutil.copy(tmp_path / "model", tmp_path / "masks")
    with pytest.raises(IntegrityError, match="of 'masks' does not open"):
        FileCounter(tmp_path / "masks", KEY, purpose="masks")
    with pytest.raises(InvalidConfig, match="a counter counts something"):
        FileCounter(tmp_path / "more", KEY, purpose="")


def test_a_sealed_counter_of_another_length_is_refused_and_lets_the_next_one_count(tmp_path: Path) -> None:
    path = tmp_path / "masks"
    counter = FileCounter(path, KEY, purpose="masks")
    path.write_bytes(Sealer(KEY).seal(b"abc", counter._what))
    counter.close()
    with pytest.raises(IntegrityError, match="holds 3 bytes, not 24"):
        FileCounter(path, KEY, purpose="masks")
    path.unlink()
    FileCounter(path, KEY, purpose="masks").close()
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be held: Is a directory"):
        FileCounter(path, KEY, purpose="masks")


def crashing(counter: VolatileCounter, now: Callable[[], bool]) -> VolatileCounter:
    """Return a counter with the number of ``counter``, of which the power goes when it is advanced and ``now()``."""

    class Crashing(VolatileCounter):
        def __init__(self) -> None:
            self.identity = counter.identity

        def read(self) -> int:
            return counter.read()

        def advance(self, value: int, *, after: int) -> None:
            if now():
                raise Crash
            counter.advance(value, after=after)

    return Crashing()


def test_an_aborted_version_does_not_pass_for_the_final_one(tmp_path: Path) -> None:
    """Everything of version 2 was on the disk when the power went, and an attacker kept it."""
    folder, counter = tmp_path / "store", VolatileCounter()
    sealed = SealedStore(folder, Sealer(KEY), counter)
    assert sealed.write({"a": b"one"}) == 1
    sealed_now = crashing(counter, lambda: len(list(folder.glob("*.manifest"))) == 2)
    with pytest.raises(Crash):
        SealedStore(folder, Sealer(KEY), sealed_now).write({"a": b"two, with a mistake"})
    shutil.copytree(folder, tmp_path / "aborted")
    assert sealed.read() == {"a": b"one"}
    final = sealed.write({"a": b"two, final"})
    assert sealed.read() == {"a": b"two, final"}
    aborted = [path for path in (tmp_path / "aborted").iterdir() if not path.name.startswith("1.")]
    assert len(aborted) == 2
    for path in aborted:
        shutil.copy(path, folder / path.name)
        _, _, rest = path.name.partition(".")
        shutil.copy(path, folder / f"{final}.{rest}")
    with pytest.raises(IntegrityError, match="does not open"):
        sealed.read()


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8))
def test_whatever_crashes_the_last_whole_version_is_read_and_no_number_serves_twice(steps: list[int]) -> None:
    """0 writes; 1 and 2 crash at the first and second advance of the counter."""
    counter, wanted, seen = VolatileCounter(), None, set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, step in enumerate(steps):
            text = f"text {number}".encode()
            before = set(os.listdir(folder))
            if step:
                left = iter([False] * (step - 1) + [True])
                with pytest.raises(Crash):
                    SealedStore(folder, Sealer(KEY), crashing(counter, lambda left=left: next(left))).write({"a": text})
            else:
                SealedStore(folder, Sealer(KEY), counter).write({"a": text})
                wanted = text
            made = set(os.listdir(folder)) - before
            assert seen.isdisjoint(made)
            seen |= made
            if wanted is not None:
                assert SealedStore(folder, Sealer(KEY), counter).read() == {"a": wanted}


def test_a_store_is_bound_to_its_counter(tmp_path: Path) -> None:
    """Two stores under one key: neither opens with the other's counter, nor with one that counted masks."""
    counters_ = [VolatileCounter(), VolatileCounter()]
    for name, counter in zip("ab", counters_, strict=True):
        SealedStore(tmp_path / name, Sealer(KEY), counter).write({"file": name.encode()})
    with pytest.raises(IntegrityError, match="does not open"):
        SealedStore(tmp_path / "a", Sealer(KEY), counters_[1]).read()
    masks = VolatileCounter()
    masks.advance(1025, after=0)
    with pytest.raises(IntegrityError, match="does not count versions"):
        SealedStore(tmp_path / "a", Sealer(KEY), masks).read()


def sealed_in(folder: Path, model: nn.Module) -> SealedStore:
    store = SealedStore(folder, Sealer(KEY), VolatileCounter())
    store.seal_model(model)
    return store


def test_a_model_with_another_top_code_is_not_the_sealed_one(tmp_path: Path) -> None:
    net, x = digits_net(), images(16)
    store = sealed_in(tmp_path, export(net, x[:1], x, top_code=15))
    other = export(net, x[:1], x, top_code=127)
    before = other(x)
    with pytest.raises(InvalidConfig, match=r"differs from this one at '.*top_code'"):
        store.open_model(other)
    assert torch.equal(other(x), before)


@pytest.mark.parametrize(
    ("sealed", "opened", "at"),
    [
        (nn.ReLU(), nn.Tanh(), "1.(class)"),
        (nn.GELU(), nn.GELU(approximate="tanh"), "1.approximate"),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), "1.negative_slope"),
        (nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, groups=2, stride=2), "1.stride"),
    ],
)
def test_a_model_of_the_same_shapes_that_computes_something_else_is_refused(
    tmp_path: Path, sealed: nn.Module, opened: nn.Module, at: str
) -> None:
    first, second = (
        int8_model(nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.AdaptiveAvgPool2d(3)), images(4))
        for middle in (sealed, opened)
    )
    with pytest.raises(InvalidConfig, match=re.escape(f"differs from this one at {at!r} ")):
        sealed_in(tmp_path, first).open_model(second)


def test_a_constant_that_no_state_dict_holds_is_compared(tmp_path: Path) -> None:
    def masked(value: float) -> nn.Module:
        net = nn.Linear(2, 2)
        net.register_buffer("mask", torch.full((2,), value), persistent=False)
        return net

    store = sealed_in(tmp_path, masked(0.0))
    store.open_model(masked(0.0))
    with pytest.raises(InvalidConfig, match="at 'mask'"):
        store.open_model(masked(1.0))


class Choice(Enum):
    ONE = 1
    OTHER = 2


class Settings:
    """Of a class that says nothing about itself, and knows the module that holds it."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon, self.itself = epsilon, self


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (Choice, 1, 2),
        (np.float32, 0.5, 0.25),
        (np.array, [1, 2], [1, 3]),
        (Settings, 1e-5, 1e-6),
        (lambda order: dict.fromkeys(order), "ab", "ac"),
        (lambda step: functools.partial(torch.clamp, max=step), 1, 2),
        (lambda ends: slice(*ends), (0, 1), (0, 2)),
        (torch.tensor, 1.0, 2.0),
    ],
    ids=["enum", "number", "array", "object", "dict", "partial", "slice", "tensor"],
)
def test_whatever_a_module_is_set_up_with_is_compared(make: Callable[..., object], first: Any, second: Any) -> None:
    def told(value: Any) -> dict[str, str]:
        net = nn.Identity()
        net.setting = make(value)
        return description(net)

    assert told(first) == told(first)
    assert told(first)["setting"] != told(second)["setting"]


@pytest.mark.parametrize("make", [int8_model, lambda net, x: export(net, x[:1], x)])
def test_bounds_are_those_of_the_weights_that_were_opened(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    x = images(16)
    model, other = make(digits_net(0), x), make(digits_net(1), x)
    bounds = bounds_of(model)
    assert bounds != bounds_of(other)
    sealed_in(tmp_path, model).open_model(other)
    assert bounds_of(other) == bounds
    assert torch.equal(other(x), model(x))


def bounds_of(model: nn.Module) -> dict[str, int]:
    return {path: part.bound for path, part in model.named_modules() if hasattr(part, "bound")}


def test_files_that_are_no_model_do_not_open_as_one(tmp_path: Path) -> None:
    store = SealedStore(tmp_path, Sealer(KEY), VolatileCounter())
    store.write({"a": b"text"})
    with pytest.raises(InvalidConfig, match="no model was sealed"):
        store.open_model(nn.Linear(2, 2))
