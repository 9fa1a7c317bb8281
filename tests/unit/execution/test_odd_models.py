"""Models that cannot be tested say so in one sentence; those that only look odd are tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast
from holdfast.data import Dataset, Text
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import accuracy, campaign, robust_error
from holdfast.faults import BitErrors, BitFlip
from holdfast.faults.adversarial import Budget, ProgressiveBitSearch
from holdfast.hardening import profile
from holdfast.models import build_architecture, save, select, sites

Verb = Callable[[Any, Dataset], object]
FLOWS: dict[str, Verb] = {
    "select": lambda model, data: select(model, "activations", data.example),
    "campaign": lambda model, data: campaign(model, data, BitFlip(), at="activations", trials=4),
    "profile": lambda model, data: profile(model, data.take(4), at="activations"),
}
STORES: dict[str, Verb] = {
    "robust_error": lambda model, data: robust_error(model, data, BitErrors(rate=1e-3), chips=1),
    "weights": lambda model, data: campaign(model, data, BitFlip(), at="weights", trials=4),
    "quantize": lambda model, _: holdfast.quantize(model),
}
RUNS: dict[str, Verb] = {"accuracy": accuracy}
ALL = FLOWS | STORES | RUNS


def parts(verbs: dict[str, Verb]) -> Any:
    return pytest.mark.parametrize("verb", verbs.values(), ids=verbs.keys())


def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=8", seed=0).eval()


@pytest.fixture
def compiler() -> Iterator[None]:
    """Leave no compiled code behind: others count theirs."""
    yield
    torch.compiler.reset()


class Around(nn.Module):
    """A net whose scores come out wrapped."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self._wrap = net(), wrap

    def forward(self, x: Tensor) -> object:
        return self._wrap(self.net(x))


@parts(ALL)
def test_what_is_no_module(digits: Dataset, verb: Verb) -> None:
    with pytest.raises(InvalidConfig, match=r"a model is a torch\.nn\.Module, not int"):
        verb(3, digits)
    with pytest.raises(InvalidConfig, match="Flatten is a class of modules") as caught:
        verb(nn.Flatten, digits)
    assert caught.value.hint == "call it: Flatten()"


@parts(ALL)
def test_a_model_without_values(digits: Dataset, verb: Verb) -> None:
    with pytest.raises(InvalidConfig, match="weight is on the device meta, where tensors have no values"):
        verb(net().to("meta"), digits)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@parts(FLOWS | STORES)
def test_a_script_cannot_be_looked_into_and_says_so(digits: Dataset, verb: Verb) -> None:
    for script in (torch.jit.script(net()), torch.jit.trace(net(), digits.example[None])):  # type: ignore[no-untyped-call]
        with pytest.raises(InvalidConfig, match="TorchScript does not let its parts be reached"):
            verb(script, digits)
        assert accuracy(script, digits.take(9)).n == 9  # which needs no look inside


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_script_inside_that_stores_nothing_is_in_the_way_only_of_who_looks_at_what_flows(digits: Dataset) -> None:
    partly = nn.Sequential(net(), torch.jit.script(nn.ReLU()))
    plain = nn.Sequential(net(), nn.ReLU())
    found, expected = (
        robust_error(model, digits.take(20), BitErrors(rate=0.01), at="weights", chips=2) for model in (partly, plain)
    )
    assert found.per_chip == expected.per_chip
    with pytest.raises(InvalidConfig, match="TorchScript does not let its parts be reached"):
        campaign(partly, digits, BitFlip(), at="weights", trials=3)
    with pytest.raises(InvalidConfig, match="TorchScript does not let its parts be reached"):
        sites(partly, digits.example)
    storing = nn.Sequential(torch.jit.script(net()))
    with pytest.raises(InvalidConfig, match="TorchScript does not let its parts be reached"):
        robust_error(storing, digits.take(20), BitErrors(rate=0.01), at="weights", chips=2)


@pytest.mark.usefixtures("compiler")
@parts(FLOWS)
def test_a_compiled_model_says_that_nothing_in_it_can_be_reached(digits: Dataset, verb: Verb) -> None:
    in_place = net()
    in_place.compile(backend="eager")
    for compiled in (torch.compile(net(), backend="eager"), nn.Sequential(in_place)):
        with pytest.raises(InvalidConfig, match="compiled model fuses what flows"):
            verb(compiled, digits)


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_the_weights_of_a_compiled_model_can_be_struck(digits: Dataset) -> None:
    report = campaign(torch.compile(net(), backend="eager"), digits, BitFlip(), at="weights", trials=30, seed=0)
    plain = campaign(net(), digits, BitFlip(), at="weights", trials=30, seed=0, engine="hooks")
    assert [row.outcome for row in report.rows] == [row.outcome for row in plain.rows]


@parts(FLOWS | RUNS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_than_that_of_the_samples_is_named_and_the_hint_helps(
    digits: Dataset, verb: Verb, dtype: torch.dtype
) -> None:
    name, model = str(dtype), net().to(dtype)
    with pytest.raises(InvalidConfig, match=f"computes in {name[6:]}, and the samples are float32") as caught:
        verb(model, digits)
    exec(caught.value.hint.partition(", or ")[2], {"model": model, "torch": torch})
    verb(model, digits)


@parts(FLOWS | RUNS)
def test_a_forward_that_takes_something_else_than_one_batch(digits: Dataset, verb: Verb) -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) + y

    with pytest.raises(InvalidConfig, match=r"called with one batch, and nothing else .*missing 1 required"):
        verb(Two(4, 4), digits)


@parts(FLOWS | RUNS)
def test_samples_of_another_size(digits: Dataset, verb: Verb) -> None:
    with pytest.raises(InvalidConfig, match=r"samples are 1x8x8 \(.*cannot be multiplied"):
        verb(nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), digits)


@dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize("wrap", [Output, lambda x: {"logits": x, "other": x.sum()}], ids=["object", "dictionary"])
def test_scores_called_logits_are_found(digits: Dataset, wrap: Callable[[Tensor], object]) -> None:
    wrapped, plain = Around(wrap), Around(lambda x: x)
    assert accuracy(wrapped, digits) == accuracy(plain, digits)
    rows = [campaign(m, digits, BitFlip(), at="weights,activations", trials=40, seed=0).rows for m in (wrapped, plain)]
    assert [row.outcome for row in rows[0]] == [row.outcome for row in rows[1]]
    recipe = holdfast.Standard(schedule=holdfast.Schedule(epochs=1))
    learnt = [holdfast.train(m, digits, recipe, seed=0).state_dict() for m in (wrapped, plain)]
    assert all(torch.equal(value, learnt[1][name]) for name, value in learnt[0].items())
    budget, method = Budget(bits=2), ProgressiveBitSearch(top=2)
    found = [holdfast.attack(m, digits, method, budget, at="weights:net.fc*", images=8) for m in (wrapped, plain)]
    assert found[0].attacked == found[1].attacked


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda x: (x, x), "returned a tuple of 2"),
        (lambda x: {"scores": x, "mean": x.mean()}, "returned a dict of scores, mean"),
        (lambda x: x.argmax(1), r"returned one of shape \(\d+,\)"),
        (lambda x: None, "returned a NoneType"),
    ],
)
def test_an_answer_without_scores_is_described(digits: Dataset, wrap: Callable[[Tensor], object], said: str) -> None:
    for verb in (accuracy, STORES["weights"], FLOWS["campaign"]):
        with pytest.raises(InvalidConfig, match=said) as caught:
            verb(Around(wrap), digits)
        assert "wrap it" in caught.value.hint


def test_elements_that_share_memory_are_no_crash_of_the_model(digits: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].weight = nn.Parameter(torch.randn(10, 1).expand(10, 64))
    for verb in (STORES["robust_error"], STORES["weights"]):
        with pytest.raises(InvalidConfig, match=r"elements of weights:1\.weight share memory"):
            verb(model, digits)


def test_layers_in_a_plain_list_are_not_found_and_the_hint_says_why(digits: Dataset) -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(64, 10)]

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layers[0](x.flatten(1))
            return result

    with pytest.raises(NoSuchSite, match=r"weights:\*\*, as the model has no weights") as caught:
        select(Listed(), "weights")
    assert "nn.ModuleList" in caught.value.hint


def test_what_torch_packed_is_named(digits: Dataset, tmp_path: Any) -> None:
    class Packed(nn.Module):
        def get_extra_state(self) -> Any:
            return 1, 2

    with pytest.raises(InvalidConfig, match="stored as tuple, not as a tensor"):
        save(nn.Sequential(Packed()), tmp_path / "model")


def test_modes_of_single_modules_survive_a_look(digits: Dataset) -> None:
    """Frozen norms in training, or dropout that samples in evaluation: both are set module by module."""
    for training in (True, False):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)).train(training)
        model[2].train(not training)
        before = [module.training for module in model.modules()]
        for verb in ALL.values():
            verb(model, digits)
            assert [module.training for module in model.modules()] == before


def test_what_a_prompt_shows_of_a_result_is_short_and_says_the_numbers(digits: Dataset) -> None:
    model = net()
    report = campaign(model, digits, BitFlip(), at="weights", trials=50, seed=0)
    share = report["masked"]
    assert f"masked {report.counts['masked']}" in repr(report)
    assert len(repr(report)) < 200
    assert (
        f"masked           {share.value:9.4%}  [{share.low:.4%}, {share.high:.4%}]  n = 50" in str(report).splitlines()
    )
    assert str(report).startswith("Population: 65,088 bits")
    found = robust_error(model, digits, BitErrors(rate=1e-4), chips=3)
    assert f"on 3 chips: mean {found.mean.value:.2%} [{found.mean.low:.2%}" in repr(found)
    assert len(repr(found)) < 200
    assert repr(digits) == "<Dataset 'digits/test': 500 images of 1x8x8, 10 classes>"


def test_a_loader_of_torch_is_told_how_to_become_data(digits: Dataset) -> None:
    images, labels = digits.take(8).all()
    pairs = TensorDataset(images, labels)
    for data in (pairs, DataLoader(pairs), (images, labels), None):
        for verb in (accuracy, FLOWS["campaign"], STORES["robust_error"]):
            with pytest.raises(InvalidConfig, match=f"not {type(data).__name__}") as caught:
                verb(net(), data)  # type: ignore[arg-type]
            assert "Dataset('mine', images, labels, classes)" in caught.value.hint
    with pytest.raises(InvalidConfig) as caught:
        holdfast.train(net(), "digits", holdfast.Standard())  # type: ignore[arg-type]
    assert "holdfast.dataset('digits') reads it" in caught.value.hint
    with pytest.raises(InvalidConfig, match="is a text, and images with labels are needed"):
        accuracy(net(), Text("words", torch.arange(9), 9))  # type: ignore[arg-type]
    mine = Dataset("mine", images, labels, tuple("0123456789"))
    assert accuracy(net(), mine).n == 8


def test_names_and_classes_where_things_are_wanted(digits: Dataset) -> None:
    for fault, said in (("bit-flip", "not str"), (BitFlip, "not the class BitFlip")):
        calls: list[Callable[[], object]] = [
            lambda fault=fault: campaign(net(), digits, fault, at="weights", trials=2),  # type: ignore[misc]
            lambda fault=fault: robust_error(net(), digits, fault),  # type: ignore[misc]
            lambda fault=fault: holdfast.inject(net(), fault).__enter__(),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(InvalidConfig, match=said):
                call()
    with pytest.raises(InvalidConfig, match="'range' is no calibrated hardening"):
        holdfast.harden(net(), "range")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="'standard' is no recipe"):
        holdfast.train(net(), digits, "standard")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="named by a text, not 8"):
        holdfast.quantize(net(), 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("trials", [3.5, "10", True])
def test_a_number_of_trials_is_whole(digits: Dataset, trials: Any) -> None:
    with pytest.raises(InvalidConfig, match="trials is a whole number"):
        campaign(net(), digits, BitFlip(), at="weights", trials=trials)
