"""A forked process is another one, also where it has its parent's number."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

import pytest

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.sealing import MaskStream
from tests.unit.shielding.test_sealing_attacks import in_a_fork


@pytest.fixture
def one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every process the same number, as those that begin a namespace have."""
    monkeypatch.setattr(os, "getpid", lambda: 1)


@pytest.mark.usefixtures("one_number")
def test_a_fork_with_the_number_of_its_parent_gets_no_mask() -> None:
    stream = MaskStream.fresh(Entropy())
    stream.reserve(1)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: stream.reserve(2),
        lambda: stream.words(range(1, 2), (2,)).tolist(),
    )
    for attempt in attempts:
        assert in_a_fork(attempt).startswith("InvalidConfig: a stream of masks of process 1 was copied")
    assert stream.reserve(1) == range(1, 2)


@pytest.mark.usefixtures("one_number")
def test_a_fork_of_a_fork_is_a_third_process() -> None:
    first = OwnProcess("the first")

    def inner() -> object:
        second = OwnProcess("the second")
        assert second.here
        assert not first.here
        return in_a_fork(lambda: (first.here, second.here, OwnProcess("the third").here))

    assert "(False, False, True)" in in_a_fork(inner)
    assert first.here


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux empties a page at a fork")
@pytest.mark.usefixtures("one_number")
def test_a_fork_that_the_interpreter_does_not_see_is_another_process() -> None:
    mine = OwnProcess("this")
    reading, writing = os.pipe()
    if (child := ctypes.PyDLL(None).fork()) == 0:
        try:
            mine.require()
            said = b"used"
        except InvalidConfig:
            said = b"refused" if OwnProcess("another").here else b"locked out"
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"refused"
    assert mine.here
