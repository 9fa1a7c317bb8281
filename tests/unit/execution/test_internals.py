"""Campaigns in models whose operators torch fuses: golden and faulty runs are computed alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution import Flips, campaign
from holdfast.faults import BitFlip, Corruption
from holdfast.numerics import bits


def test_transformer_layers_compute_alike_with_a_tap_and_without() -> None:
    """Torch's fast path rounds differently and is left as soon as a hook is there: every row would be a false SDC."""
    from holdfast.execution.engines import build_engine
    from holdfast.execution.injection import computed_alike
    from holdfast.execution.plan import Trial
    from holdfast.models import select

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.fc = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer(x.view(len(x), 4, 16)).mean(1))

    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(2, 1, 8, 8)
    engine = build_engine("hooks", model, lambda inputs: x[list(inputs)])
    for at in ("activations:fc", "internals:**/softmax"):
        (site, *_) = select(model, at, x[0])
        nothing = Flips(site, torch.tensor([0]), torch.tensor([0]))
        with torch.no_grad(), computed_alike(model, at):
            golden = engine.golden((0, 1))
            faulty = engine.faulty((Trial(0, (nothing,), 0), Trial(1, (nothing,), 1)))
        assert bits.bit_equal(golden, faulty)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_campaign_inside_fused_operators_says_so(digits: Dataset) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10)).eval()
    report = campaign(model, digits, BitFlip(), at="internals", trials=60, seed=0)
    assert "step by step" in report.plan["operators"]
    assert {row.site for row in report.rows} == {"internals:1/layer_norm/mean", "internals:1/layer_norm/rstd"}
    assert {row.outcome for row in report.rows} >= {"sdc", "critical"}
    assert report.rows == campaign(model, digits, BitFlip(), at="internals", trials=60, seed=0).rows
    forked = campaign(model, digits, BitFlip(), at="internals", trials=60, seed=0, executor="processes:2")
    assert forked.rows == report.rows
    assert "operators" not in campaign(model, digits, BitFlip(), at="activations", trials=1, seed=0).plan


def test_guards_see_the_same_places_when_operators_run_unfused(digits: Dataset) -> None:
    """A guard at a norm corrects what a fault in that norm's statistics did to its output."""
    from holdfast.hardening import RangeRestriction, harden, profile

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10)).eval()
    bounds = profile(model, digits, at="activations:1")
    guarded = harden(model, RangeRestriction(bounds, slack=1.0))
    law = Corruption(what="(bit-flip:bit=30)")  # tiny or huge, so mostly a norm that explodes
    options = {"at": "internals:1/**/rstd", "trials": 40, "seed": 0}
    plain, tough = (campaign(item, digits, law, **options) for item in (model, guarded))
    assert {row.site for row in tough.rows} == {row.site for row in plain.rows} == {"internals:1/layer_norm/rstd"}
    assert sum(row.guard_events for row in tough.rows) > 0
    assert sum(row.guard_events for row in plain.rows) == 0
