"""The benchmark's lies about the protocol are told, each in its own way, and an honest worker is believed."""

from __future__ import annotations

import pytest
from benchmarks._protocol_lies import KINDS, _refused, refusals
from tests.unit.shielding.nets import honest


def test_every_kind_of_lie_is_told_and_refused() -> None:
    rows = list(refusals(1))
    assert [row["lie"] for row in rows] == [kind.__name__ for kind in KINDS]
    assert all(row["told"] >= 3 and row["refused"] == row["told"] for row in rows)


def test_an_honest_worker_is_not_refused() -> None:
    assert not _refused(honest, 0)


@pytest.mark.parametrize("kind", KINDS[:7], ids=lambda kind: kind.__name__)
def test_a_lie_about_a_layer_that_is_not_there_is_honesty(kind: object) -> None:
    assert not _refused(kind("no such layer"), 0)  # type: ignore[operator]
