"""Faults per CPU-second of batches in lockstep against one hooked inference per fault, to the rows of the table.

The network is a vision transformer of ViT-Ti's width with six blocks on images of 64 x 64; 16 of them, so that golden
rows are shared. Capture and proof happen once and are reported, not timed.
"""

from __future__ import annotations

import torch

from benchmarks import _campaigns, _harness
from benchmarks._transformers import Transformer

ROWS, TRIALS, INPUTS = 32, 256, 16


def measure() -> _harness.Result:
    """Time the same faults both ways, interleaved."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Transformer(dim=192, heads=3, depth=6, patch=16, image=64, classes=100).eval().requires_grad_(False)
    data = _campaigns.images(INPUTS, 64)
    known = _campaigns.linear_sites(model, data)
    trials = _campaigns.draw(known, INPUTS, TRIALS, 0)
    _campaigns.require_equal(model, data, trials, ROWS)
    ours = _campaigns.runner_of(model, data, "lockstep", ROWS)
    plain = _campaigns.runner_of(model, data, "hooks", 1)
    few = trials[: TRIALS // 4]
    pairs = _harness.paired(
        lambda: _campaigns.run(ours, trials, ROWS), lambda: _campaigns.run(plain, few, 1), repeats=9
    )
    rates = [(TRIALS / mine, len(few) / theirs) for mine, theirs in pairs]
    claim = "campaign on a small vision transformer in lockstep, one thread"
    return _harness.summarise(claim, rates, peer_name="one hooked inference per fault", unit="faults per CPU-s")


if __name__ == "__main__":
    _harness.main(measure)
