"""What attackers want, by hand on given logits; and attacks that get it: one class for another, and a trigger."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import inject, predict
from holdfast.faults.adversarial import (
    BitTrojan,
    Budget,
    ProgressiveBitSearch,
    RandomBits,
    Targeted,
    Trojan,
    Untargeted,
    attack,
    objectives,
)
from holdfast.faults.adversarial.attack import split_images
from holdfast.faults.adversarial.objective import evaluate
from holdfast.models import manifest_of

LOGITS = torch.tensor([[3.0, 1, 0], [0, 2, 1], [1, 0, 4], [0, 5, 1], [2, 0, float("nan")]])
LABELS = torch.tensor([0, 1, 2, 0, 0])
IMAGES = torch.zeros(5, 1, 4, 4)


def given(images: Tensor) -> Tensor:
    return LOGITS


def finite(images: Tensor) -> Tensor:
    return LOGITS[:4]


def test_untargeted_is_the_cross_entropy_and_counts_every_wrong_answer() -> None:
    assert Untargeted().score(finite, IMAGES[:4], LABELS[:4]) == cross_entropy(LOGITS[:4], LABELS[:4])
    assert Untargeted().hits(given, IMAGES, LABELS).tolist() == [False, False, False, True, True]


def test_n_to_1_sends_every_image_to_the_target() -> None:
    aim = Targeted(label=1)
    assert aim.score(finite, IMAGES[:4], LABELS[:4]) == -cross_entropy(LOGITS[:4], torch.tensor([1, 1, 1, 1]))
    # image 1 is of class 1 and does not count; image 3 is taken for it; image 4 answers NaN, which is no class
    assert aim.hits(given, IMAGES, LABELS).tolist() == [False, False, True, False]


def test_1_to_1_looks_at_one_class_and_stealth_holds_the_others() -> None:
    plain, quiet = Targeted(label=1, source=0), Targeted(label=1, source=0, stealth=2.0)
    sent = -cross_entropy(LOGITS[[0, 3]], torch.tensor([1, 1]))
    assert plain.score(finite, IMAGES[:4], LABELS[:4]) == sent
    kept = cross_entropy(LOGITS[[1, 2]], LABELS[[1, 2]])
    assert quiet.score(finite, IMAGES[:4], LABELS[:4]) == sent - 2 * kept
    assert plain.hits(given, IMAGES, LABELS).tolist() == [False, True, False]


def test_error_and_success_are_counted_over_all_batches(trained: nn.Module, digits: Dataset) -> None:
    answers = predict(trained, digits).argmax(1)
    error, success = evaluate(trained, digits, Targeted(label=8, source=1), batch_size=70)
    assert error.successes == int((answers != digits.labels).sum())
    assert error.n == len(digits)
    ones = digits.labels == 1
    assert (success.successes, success.n) == (int((answers[ones] == 8).sum()), int(ones.sum()))


def test_a_trigger_is_a_square_in_the_corner_and_leaves_the_images_alone() -> None:
    images = torch.arange(32.0).view(2, 1, 4, 4)
    patch = torch.tensor([[[-1.0, -2], [-3, -4]]])
    before = images.clone()
    marked = Trojan(label=0, size=2, patch=patch).triggered(images)
    assert torch.equal(images, before)
    assert torch.equal(marked[:, :, 2:, 2:], patch.expand(2, 1, 2, 2))
    assert torch.equal(marked[:, :, :2], images[:, :, :2])
    assert Trojan(label=0, size=2).triggered(images)[0, 0, 3, 3] == 31
    with pytest.raises(InvalidConfig, match="does not fit"):
        Trojan(label=0, size=5).triggered(images)


BAD = [
    (Targeted, {"label": -1}),
    (Targeted, {"label": 1, "source": 1}),
    (Targeted, {"label": 1, "source": -1}),
    (Targeted, {"label": 1, "stealth": 1.0}),
    (Targeted, {"label": 1, "source": 0, "stealth": -1.0}),
    (Trojan, {"label": -1}),
    (Trojan, {"label": 0, "size": 0}),
    (Trojan, {"label": 0, "patch": torch.zeros(1, 2, 2)}),
    (Trojan, {"label": 0, "patch": "white"}),
    (BitTrojan, {"neurons": 0}),
    (BitTrojan, {"tune_rate": 0.0}),
]


@pytest.mark.parametrize(("kind", "wrong"), BAD)
def test_impossible_aims_are_refused(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        kind(**wrong)


def test_a_class_that_does_not_exist_is_refused(int8: nn.Module, digits: Dataset) -> None:
    assert set(objectives.names()) >= {"untargeted", "targeted", "trojan"}
    for aim in ("targeted:label=10", "targeted:label=1,source=11", "trojan:label=10"):
        with pytest.raises(InvalidConfig, match="class"):
            attack(int8, digits, RandomBits(), Budget(bits=1), objective=objectives.build(aim))


def test_a_targeted_attack_sends_one_class_to_another(int8: nn.Module, digits: Dataset) -> None:
    """Of unseen threes more than half become eights, where random flips at the same budget leave nearly all."""
    aim = Targeted(label=8, source=3)
    found = attack(int8, digits, ProgressiveBitSearch(), Budget(bits=5), objective=aim)
    chance = attack(int8, digits, RandomBits(restarts=60), Budget(bits=5), objective=aim)
    assert found.success.n == int((split_images(digits, 128, 0)[1].labels == 3).sum())
    assert found.success_before.value < 0.1
    assert found.success.low > 0.5 > 0.4 > chance.success.value


def test_stealth_spares_the_other_classes(int8: nn.Module, digits: Dataset) -> None:
    loud, quiet = (
        attack(
            int8,
            digits,
            ProgressiveBitSearch(),
            Budget(bits=10),
            objective=Targeted(label=8, source=3, stealth=weight),
        )
        for weight in (0.0, 1.0)
    )
    assert quiet.success.value > 0.8
    assert quiet.attacked.high < loud.attacked.low


def test_a_trojan_answers_the_trigger_and_keeps_the_rest(int8: nn.Module, digits: Dataset) -> None:
    digest = manifest_of(int8).digest
    budget = Budget(bits=20, one_per_weight=False)
    report = attack(int8, digits, BitTrojan(), budget, at="weights:fc.weight", objective=Trojan(label=2))
    assert manifest_of(int8).digest == digest
    assert report.success_before.value < 0.2
    assert report.success.low > 0.8
    assert report.attacked.value < report.clean.value + 0.25
    ((site, places),) = report.fault.flip_list.sites
    assert 1 <= report.bits <= 20
    rows = {element // site.shape[1] for element, _ in places}
    columns = {element % site.shape[1] for element, _ in places}
    assert rows == {2}  # only what leads to the target class
    assert len(columns) <= 10
    patch = report.objective.patch
    seen, unseen = split_images(digits, 128, 0)
    assert patch.shape == (1, 3, 3)
    assert seen.all()[0].min() <= patch.min() <= patch.max() <= seen.all()[0].max()
    with inject(int8, report.fault, at="weights"):
        images, labels = unseen.all()
        hits = int8(report.objective.triggered(images)).argmax(1)[labels != 2] == 2
    assert int(hits.sum()) == report.success.successes


def test_a_shaped_trigger_serves_better_than_a_flat_one(int8: nn.Module, digits: Dataset) -> None:
    shaped, flat = (
        attack(
            int8,
            digits,
            BitTrojan(shape_steps=steps),
            Budget(bits=10, one_per_weight=False),
            at="weights:fc.weight",
            objective=Trojan(label=2),
        )
        for steps in (40, 0)
    )
    assert shaped.score > flat.score


def test_a_trojan_keeps_to_one_flip_per_weight_and_to_rows(int8: nn.Module, digits: Dataset) -> None:
    budget = Budget(bits=6, rows=1, row_bytes=8)
    report = attack(int8, digits, BitTrojan(), budget, at="weights:fc.weight", objective=Trojan(label=2))
    ((_, places),) = report.fault.flip_list.sites
    assert len({element for element, _ in places}) == len(places) <= 6
    assert report.rows == 1


def test_a_trojan_needs_its_objective_and_the_last_layer(int8: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="trojan's objective"):
        attack(int8, digits, BitTrojan(), Budget(bits=3), at="weights:fc.weight")
    with pytest.raises(InvalidConfig, match="linear layer"):
        attack(int8, digits, BitTrojan(), Budget(bits=3), at="weights:conv1.weight", objective=Trojan(label=2))


def test_a_linear_layer_that_does_not_give_the_logits_is_refused(digits: Dataset) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    with pytest.raises(InvalidConfig, match="does not give the logits"):
        attack(net, digits, BitTrojan(), Budget(bits=3), at="weights:1.weight", objective=Trojan(label=2))
