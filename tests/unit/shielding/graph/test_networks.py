"""Networks of real size, bit-equal through a worker in another process; seeded weights serve for equality."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.models import build_architecture, load
from holdfast.shielding import shield
from holdfast.shielding.graph import IntegerModel, export
from tests.unit.shielding.graph.nets import seeded
from tests.unit.shielding.graph.vision import NETWORKS, library

pytestmark = pytest.mark.slow


def assert_bits_of_the_sample_alone(model: IntegerModel, x: Tensor) -> None:
    whole = model(x)
    assert torch.equal(torch.cat([model(one) for one in x.split(1)]), whole)
    torch.set_num_threads(2)
    try:
        assert torch.equal(model(x), whole)
    finally:
        torch.set_num_threads(1)
    with shield(model, timeout=600.0) as session:
        assert torch.equal(session(x), whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_at_224_equal_their_sessions(name: str) -> None:
    net = seeded(NETWORKS[name])
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = export(net, x[:1], x)
    assert all(bound < 2**31 for path, bound in model.bounds().items() if "att" not in path)
    with torch.no_grad():
        expected = net(x)
    assert (model(x) - expected).norm() < 0.1 * expected.norm()
    assert_bits_of_the_sample_alone(model, x)


class Logits(nn.Module):
    """A language model of transformers as one tensor in, one tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(3, 512, (count, 24), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("source", ["ours", "transformers"])
def test_a_trained_llama_equals_its_session_and_keeps_its_mask(source: str, shared_data: Path) -> None:
    folder = shared_data / "tiny-llama-260k"
    if source == "ours":
        net = load(folder)
    else:
        if importlib.util.find_spec("transformers") is None:
            pytest.skip("transformers is not installed; pip install 'holdfast[hf]'")
        import transformers

        net = Logits(transformers.AutoModelForCausalLM.from_pretrained(folder)).eval()
    model, x = export(net, tokens(1, 0), tokens(8, 1)), tokens(2, 2)
    with torch.no_grad():
        expected = net(x)
    assert (model(x) - expected).norm() < 0.1 * expected.norm()
    assert (model(x).argmax(-1) == expected.argmax(-1)).float().mean() > 0.85
    later = x.clone()
    later[:, -1] = (x[:, -1] + 1) % 512
    assert torch.equal(model(later)[:, :-1], model(x)[:, :-1])
    assert_bits_of_the_sample_alone(model, x)


def test_resnet20_equals_its_session() -> None:
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert_bits_of_the_sample_alone(export(build_architecture("cifar-resnet20"), x[:1], x), x)


@pytest.mark.parametrize(
    "name",
    ["densenet121", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x1_0", "regnet_y_400mf", "convnext_tiny",
     "mobilenet_v3_small", "timm:swin_tiny_patch4_window7_224", "timm:mixer_s16_224", "timm:resnetv2_50"],
)  # fmt: skip
def test_other_networks_export_and_stay_close(name: str) -> None:
    source, _, tail = name.rpartition(":")
    make = (
        (lambda: library("timm").create_model(tail))
        if source
        else (lambda: getattr(library("torchvision").models, name)())
    )
    net = seeded(make)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = export(net, x[:1], x)
    with torch.no_grad():
        expected = net(x)
    whole = model(x)
    assert (whole - expected).norm() < 0.2 * expected.norm()
    assert torch.equal(torch.cat([model(one) for one in x.split(1)]), whole)
