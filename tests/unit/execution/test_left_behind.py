"""What a shared pass writes before it crashes is put back before its trials run alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution.condition import Flips
from holdfast.execution.plan import Trial
from holdfast.execution.trials import TrialRunner
from holdfast.models import sites


class Grudge(nn.Module):
    """Remembers the first huge value it meets, gives up on it, and answers differently ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.register_buffer("hurt", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        if bool((y.abs() > 1e6).any()):
            self.hurt += 1
            raise FloatingPointError("too large")
        return y + self.hurt


def test_a_crash_in_a_shared_pass_leaves_no_trace_in_the_trials_that_follow() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Grudge().eval()
        data = Dataset("noise", torch.randn(4, 1, 1, 6), torch.full((4,), -1))
    site = next(site for site in sites(model, data.example) if site.address == "activations:inner")
    block = tuple(
        Trial(number, (Flips(site, torch.tensor([number]), torch.tensor([mask])),), number)
        for number, mask in enumerate((1, 1 << 30, 2))
    )
    runner = TrialRunner(model, data)
    runner.require_repeatable(2)
    together = runner(block)
    assert float(model.hurt) == 0
    alone = [row.outcome for trial in block for row in TrialRunner(model, data)((trial,))]
    assert [row.outcome for row in together] == alone == ["sdc", "due", "sdc"]
    assert together[0].max_absolute < 1e-3
