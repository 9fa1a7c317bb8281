"""What the papers on fault injection claim, one claim each, on a small net with the handwritten digits."""

from __future__ import annotations

import pytest
from torch import nn

from holdfast.data import Dataset
from holdfast.execution import campaign
from holdfast.faults import BitFlip, Corruption


def test_the_published_sample_size_gives_the_margin_it_promises(trained: nn.Module, test: Dataset) -> None:
    """Leveugle et al., DATE 2009: n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p))) faults know a share to within e.

    Twenty samples of 10 % against the share of all 640 cases, tried one by one.
    """
    few, at = test.take(2), "weights:fc.bias"
    exact = campaign(trained, few, BitFlip(), at=at, exhaustive=True)["critical-or-due"].value
    samples = [campaign(trained, few, BitFlip(), at=at, preset="leveugle", margin=0.1, seed=k) for k in range(20)]
    assert {report.trials for report in samples} == {84}
    misses = [abs(report["critical-or-due"].value - exact) > 0.1 for report in samples]
    assert 0 < exact < 0.5
    assert sum(misses) <= 3  # one in twenty is promised


def test_high_exponent_bits_do_nearly_all_the_harm(trained: nn.Module, test: Dataset) -> None:
    """Li et al., SC 2017: SDC come from high-order bits; mantissas of fp32 hardly ever change an answer."""
    high, mantissa = (
        campaign(trained, test, BitFlip(), at="weights", bits=bits, trials=800, seed=0)["critical-or-due"]
        for bits in ("exponent-high", "mantissa")
    )
    assert high.low > 10 * mantissa.high


@pytest.mark.parametrize("where", ["row", "bullet-wake", "channel"])
def test_single_flips_understate_what_patterns_do(trained: nn.Module, test: Dataset, where: str) -> None:
    """Fernandes dos Santos et al., TNS 2023: one flipped bit is no acceptable model of what beams do to networks."""
    arms = (BitFlip(), Corruption(where=where, what="random-bits"))
    single, pattern = (campaign(trained, test, law, at="activations:conv1", trials=600, seed=0) for law in arms)
    assert pattern["critical-or-due"].low > 3 * single["critical-or-due"].high
