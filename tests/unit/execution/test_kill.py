"""kill -9 at random moments: the benchmark of the same name, with more in each campaign than one process."""

from __future__ import annotations

import pytest
import torch
from benchmarks import kill_and_resume
from torch import nn

from holdfast.data import Dataset
from holdfast.execution import campaign
from holdfast.faults import BitFlip


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_campaigns_resume_to_the_same_table_and_lose_at_most_one_batch(
    trained: nn.Module, digits: Dataset, kills: int
) -> None:
    torch.set_num_threads(1)
    lost = kill_and_resume.lost_rows(trained, digits, kills, seed=kills)
    assert len(lost) == kills
    assert all(0 <= rows <= kill_and_resume.BATCH for rows in lost)


def test_what_is_counted_as_lost_is_what_was_begun_twice(trained: nn.Module, digits: Dataset) -> None:
    tally = kill_and_resume.Tally()
    with tally.counting():
        for _ in range(2):  # no store, so everything is begun again
            campaign(trained, digits, BitFlip(), at="weights", trials=24, batch=8)
    assert tally.rows == 48
    tally.reset()
    campaign(trained, digits, BitFlip(), at="weights", trials=24, batch=8)
    assert tally.rows == 0  # nobody counts any more
