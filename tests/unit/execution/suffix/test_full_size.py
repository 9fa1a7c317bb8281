"""The networks of the benchmark at full size: a fault in every layer, bit for bit."""

from __future__ import annotations

import pytest
import torch

from holdfast.models import sites
from tests.unit.execution.suffix.test_bit_equality import draw, engines_of, same

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["resnet18", "vit-s"])
def test_every_layer_of_a_full_network_gives_the_bits_of_a_whole_pass(name: str) -> None:
    pytest.importorskip("transformers", reason="builds ResNet-18 and ViT-S")
    from benchmarks.injections import build

    model, samples = build(name), torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain, suffix = engines_of(model, samples)
        known = [s for s in sites(model, samples[0]) if s.kind in ("activations", "inputs", "outputs", "weights")]
        trials = draw(known, len(samples), seed=6)
        for block in suffix.blocks(trials, 16):
            rows = zip(block, suffix.faulty(block), strict=True)
            assert [t.address for t, row in rows if not same(row, plain.faulty((t,))[0])] == []
