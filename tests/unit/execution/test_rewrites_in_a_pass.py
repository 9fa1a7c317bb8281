"""A rule that computes while it rewrites an input is no operation of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines import build_engine
from holdfast.execution.plan import Trial
from holdfast.execution.rewrites import Scaled
from holdfast.models import sites


class Magnitudes(nn.Module):
    """Calls of its own that are called as those of the rule are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).abs() * 2


def test_a_fault_in_the_input_leaves_the_names_of_operations_alone() -> None:
    model, sample = Magnitudes().eval(), torch.ones(6)
    known = {site.address: site for site in sites(model, sample)}
    scaled = Flips(
        known["inputs:input"],
        torch.tensor([2]),
        torch.tensor([0]),
        rewrite=Scaled(torch.tensor([[3.0, 5.0]], dtype=torch.float64), (0.5,)),
    )
    later = Flips(known["activations:/abs"], torch.tensor([1]), torch.tensor([1 << 31]))
    engine = build_engine("hooks", model, lambda numbers: sample.expand(len(numbers), 6).clone())
    with torch.no_grad():
        output = engine.faulty((Trial(0, (scaled, later), 0),))
        inner = sample.clone()
        inner[2] = 5
        expected = model.linear(inner[None]).abs()
        expected[0, 1] *= -1
    assert torch.equal(output, expected * 2)
