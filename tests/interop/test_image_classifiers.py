"""Image classifiers of transformers as they are: they return an object with ``.logits``, and every verb reads it.

Each answer is held against that of the same network in a module that returns the tensor alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.data import Dataset, dataset
from holdfast.execution import Trace, run
from holdfast.models.outputs import logits_of, with_logits
from holdfast.shielding import int8_model
from holdfast.shielding.graph import export

transformers = pytest.importorskip("transformers")


class Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x).logits
        return logits


@pytest.fixture(scope="module")
def net() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config).eval()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def test() -> Dataset:
    return dataset("digits", split="test").take(64)


def test_it_is_asked_and_broken_like_one_that_returns_a_tensor(net: nn.Module, test: Dataset) -> None:
    plain = Logits(net)
    assert holdfast.accuracy(net, test) == holdfast.accuracy(plain, test)
    traces: list[Trace] = [run(model, test) for model in (net, plain)]
    assert torch.equal(traces[0].outputs, traces[1].outputs)
    small, law = holdfast.quantize(net, "int8"), holdfast.BitErrors(rate=0.01)
    with holdfast.inject(small, law, at="weights", seed=1) as faulty:
        assert holdfast.accuracy(faulty, test) == holdfast.accuracy(Logits(faulty), test)
    found = holdfast.robust_error(small, test, holdfast.BitErrors(rate=0.0), chips=2, seed=0)
    assert found.mean.value == pytest.approx(1 - holdfast.accuracy(small, test).value)


@pytest.mark.parametrize("engine", ["hooks", "suffix"])
@pytest.mark.parametrize("at", ["activations", "weights", "outputs"])
def test_a_campaign_has_the_table_of_the_tensor(net: nn.Module, test: Dataset, at: str, engine: str) -> None:
    tables: list[list[tuple[Any, ...]]] = []
    for model in (net, Logits(net)):
        report = holdfast.campaign(model, test, holdfast.BitFlip(), at=at, trials=80, seed=3, engine=engine)
        assert report.plan["computed"] == engine
        tables.append([(row.element, row.bit, row.input, row.outcome, row.max_absolute) for row in report.rows])
    assert tables[0] == tables[1]
    assert len({row[3] for row in tables[0]}) > 1


def test_training_moves_the_same_weights(net: nn.Module) -> None:
    data, recipe = dataset("digits", split="train").take(128), holdfast.Standard(schedule=holdfast.Schedule(epochs=2))
    one, other = (holdfast.train(model, data, recipe, seed=0) for model in (net, Logits(net)))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[f"net.{name}"])


def test_it_becomes_an_integer_model(net: nn.Module, test: Dataset) -> None:
    images = test.batch(torch.arange(8))[0]
    graphs = [export(model, images[:1], images) for model in (net, Logits(net))]
    assert torch.equal(graphs[0](images), graphs[1](images))
    integers = int8_model(net, images)
    assert torch.equal(integers(images).logits, int8_model(Logits(net), images)(images))
    with holdfast.shield(integers) as session:
        assert torch.equal(session(images).logits, integers(images).logits)


def test_scores_are_put_back_where_they_were() -> None:
    scores, others = torch.zeros(2, 3), torch.ones(2, 3)
    for output in (
        transformers.modeling_outputs.ImageClassifierOutput(logits=scores),
        OrderedDict(out=scores, aux=torch.full((1,), 7.0)),
        {"logits": scores},
    ):
        changed = with_logits(output, others)
        assert type(changed) is type(output)
        assert logits_of(changed) is others
        assert logits_of(output) is scores
        assert with_logits(output, scores) is output
    assert with_logits(scores, others) is others
    assert logits_of([scores])[0] is scores
