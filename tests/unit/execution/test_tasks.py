"""Segmentation, regression and detection: the decision of each task, held against sums done by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import Detection, Regression, Row, Segmentation, campaign
from holdfast.execution.tasks import Answer
from holdfast.execution.tasks_dense import mean_iou
from holdfast.execution.tasks_detection import box_iou
from holdfast.faults import BitFlip
from holdfast.hardening import method_of

DIGITS = dataset("digits", split="test").take(4)


class Constant(nn.Module):
    """Gives what its weights say, whatever comes in; so a flip of a weight is a flip of one output."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.values.expand(len(x), *self.values.shape) + 0.0


def verdict(task: Segmentation | Regression | Detection, golden: object, observed: object) -> Row:
    exam = task.bind(Constant(torch.zeros(2, 8, 8)), DIGITS)
    (found,) = exam.judge([0], Answer(exam.read(golden)), Answer(exam.read(observed)))
    return found


def scores(labels: Sequence[Sequence[int]], classes: int = 3) -> Tensor:
    return nn.functional.one_hot(torch.tensor([labels]), classes).movedim(-1, 1).float()


def objects(*found: tuple[int, float, tuple[float, float, float, float]]) -> list[dict[str, Tensor]]:
    labels, certain, boxes = ([item[place] for item in found] for place in range(3))
    return [
        {
            "boxes": torch.tensor(boxes).float().reshape(-1, 4),
            "scores": torch.tensor(certain).float(),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
    ]


def test_a_map_is_judged_by_its_mean_iou() -> None:
    golden, observed = scores([[0, 0], [1, 1]]), scores([[0, 1], [1, 1]])
    expected = (1 / 2 + 2 / 3) / 2  # class 0: 1 of 2 pixels; class 1: 2 of 3; class 2 is in neither map
    found = verdict(Segmentation(iou=0.6), golden, observed)
    assert found.agreement == pytest.approx(expected)
    assert (found.outcome, found.top1) == ("critical", 1)
    assert verdict(Segmentation(iou=0.5), golden, observed).outcome == "sdc"
    same = verdict(Segmentation(), golden, golden.clone())
    assert (same.outcome, same.agreement, same.top1, same.max_absolute) == ("masked", 1.0, 0, 0.0)
    assert verdict(Segmentation(), golden, golden * 0.5).outcome == "sdc"


def test_mean_iou_equals_the_sum_over_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 6, (5, 7, 9), generator=draw) for _ in range(2))
    one[one == 4], other[other == 4] = 0, 0  # a class that neither has
    for row, found in enumerate(mean_iou(one, other, 6)):
        shares = []
        for label in range(6):
            first, second = one[row] == label, other[row] == label
            if bool((first | second).any()):
                shares.append(float((first & second).sum()) / float((first | second).sum()))
        assert found == pytest.approx(sum(shares) / len(shares))
        assert len(shares) == 5


def test_one_channel_is_a_class_against_the_background() -> None:
    golden = torch.tensor([[[[1.0, -1.0], [2.0, -2.0]]]])
    found = verdict(Segmentation(), golden, golden * torch.tensor([[-1.0, 1.0], [1.0, 1.0]]))
    assert found.agreement == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.probability == pytest.approx(math.tanh(0.5))  # sigmoid(1) - sigmoid(-1)


def test_scores_are_found_where_libraries_put_them() -> None:
    class Output:
        logits = scores([[0, 1]])

    for output in (Output(), {"out": Output.logits, "aux": None}, Output.logits):
        assert verdict(Segmentation(), output, output).outcome == "masked"
    for output in (torch.zeros(1, 3), {"aux": Output.logits}, [Output.logits]):
        with pytest.raises(InvalidConfig, match=r"\(batch, classes, height, width\)"):
            verdict(Segmentation(), output, output)


def test_numbers_are_judged_by_how_far_they_move() -> None:
    golden = torch.tensor([[10.0, 0.001]])
    observed = torch.tensor([[10.0, 0.501]])
    assert verdict(Regression(), golden, observed).outcome == "sdc"  # 0.5 of 10 is less than a tenth
    assert verdict(Regression(relative=0.04), golden, observed).outcome == "critical"
    assert verdict(Regression(relative=None, absolute=0.4), golden, observed).outcome == "critical"
    assert verdict(Regression(relative=None, absolute=0.6), golden, observed).outcome == "sdc"
    assert verdict(Regression(relative=0.04, absolute=9), golden, observed).outcome == "critical"
    assert verdict(Regression(), golden, golden.clone()).outcome == "masked"
    assert verdict(Regression(), torch.zeros(1, 4, 5), torch.full((1, 4, 5), torch.nan)).outcome == "due"
    assert verdict(Regression(), torch.ones(1), torch.ones(1) * 2).max_relative == 1.0


def test_objects_are_lost_and_new() -> None:
    box, moved, far = (0, 0, 10, 10), (1, 0, 11, 10), (20, 20, 30, 30)
    golden = objects((1, 0.9, box), (2, 0.8, far), (1, 0.3, far))
    near = verdict(Detection(), golden, objects((1, 0.7, moved), (2, 0.8, far)))
    assert (near.outcome, near.edits, near.agreement) == ("sdc", 0, 1.0)  # 90 of 110 is one object still
    lost = verdict(Detection(), golden, objects((1, 0.9, box)))
    assert (lost.outcome, lost.edits, lost.agreement) == ("critical", 1, pytest.approx(2 / 3))
    other = verdict(Detection(), golden, objects((3, 0.9, box), (2, 0.8, far)))
    assert (other.outcome, other.edits) == ("critical", 2)  # one label lost, another one new
    assert verdict(Detection(tolerated=2), golden, objects((3, 0.9, box), (2, 0.8, far))).outcome == "sdc"
    twice = verdict(Detection(), golden, objects((1, 0.9, box), (1, 0.9, box), (2, 0.8, far)))
    assert (twice.outcome, twice.edits) == ("critical", 1)  # one golden object answers for one
    assert verdict(Detection(iou=0.9), golden, objects((1, 0.7, moved), (2, 0.8, far))).edits == 2
    assert verdict(Detection(score=0.2), golden, objects((1, 0.9, box), (2, 0.8, far))).edits == 1
    assert verdict(Detection(), golden, golden).outcome == "masked"


def test_an_image_without_objects_and_one_with_too_many() -> None:
    box = (0, 0, 10, 10)
    none = objects()
    assert verdict(Detection(), none, none).outcome == "masked"
    assert verdict(Detection(), none, none).agreement == 1.0
    assert verdict(Detection(), none, objects((1, 0.6, box))).outcome == "critical"
    assert verdict(Detection(), objects((1, 0.6, box)), none).agreement == 0.0
    ghosts = objects(*[(1, 0.6 + place / 1000, box) for place in range(150)])
    assert verdict(Detection(), none, ghosts).edits == 100
    assert verdict(Detection(most=20), none, ghosts).edits == 20


def test_a_score_or_a_box_that_is_no_number_is_never_overlooked() -> None:
    box = (0, 0, 10, 10)
    golden = objects((1, 0.9, box))
    many = [(1, 0.9, box)] * 100
    assert verdict(Detection(), golden, objects(*many, (1, math.nan, box))).outcome == "due"
    assert verdict(Detection(), golden, objects((1, 0.9, (0, 0, math.inf, 10)))).outcome == "due"


def test_what_is_no_list_of_objects_is_refused() -> None:
    (good,) = objects((1, 0.9, (0, 0, 1, 1)))
    for output in (torch.zeros(1, 6), [], [good | {"scores": torch.zeros(2)}], [{"boxes": good["boxes"]}], ["box"]):
        with pytest.raises(InvalidConfig, match="one dictionary for each image"):
            verdict(Detection(), output, output)


def test_boxes_overlap_as_areas_do() -> None:
    one = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 9], [3, 3, 1, 1]])
    other = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2]])
    assert box_iou(one, other).tolist() == [[1 / 7, 1.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Segmentation, {"iou": 1.5}), (Regression, {"relative": None}), (Regression, {"relative": -1.0}),
        (Regression, {"relative": math.nan}), (Detection, {"score": 0.0}), (Detection, {"iou": 2.0}),
        (Detection, {"most": 0}), (Detection, {"tolerated": -1}),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(task: type, options: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        task(**options)


class Mapper(nn.Module):
    """A segmentation net; torchvision's way of returning scores."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.up(torch.relu(self.down(x)))}


class Finder(nn.Module):
    """A detector of one stage: a score, a label and a box at each of 16 places, and no object below 0.45."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.Conv2d(8, 7, 1)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = self.head(torch.relu(self.body(x))).flatten(2).movedim(1, 2)
        return [self._objects(rows) for rows in found]

    def _objects(self, rows: Tensor) -> dict[str, Tensor]:
        certain = rows[:, 0].sigmoid()
        kept = certain >= 0.45
        corner = rows[kept, 1:3]
        boxes = torch.cat([corner, corner + rows[kept, 3:5].exp()], 1)
        return {"boxes": boxes, "scores": certain[kept], "labels": rows[kept, 5:].argmax(1)}


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def unlabelled() -> Dataset:
    return Dataset("pictures", DIGITS.raw, torch.full((len(DIGITS),), -1))


@pytest.mark.parametrize(
    ("model", "task", "site"),
    [
        (Mapper, Segmentation(), "weights:down.bias"),
        (Finder, Detection(), "weights:head.bias"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), Regression(), "weights:1.bias"),
    ],
)
def test_a_campaign_counts_what_forward_passes_with_flipped_bits_show(model, task, site: str) -> None:
    """Every bit of a tensor of weights, by the campaign and by flipping it in a copy of the state dict."""
    net, data = seeded(model), unlabelled().take(2)
    exam = task.bind(net, data)
    name = site.partition(":")[2]
    report = campaign(net, data, BitFlip(), at=site, task=task, exhaustive=True, batch=8)
    weight, rows = net.state_dict()[name], {(row.element, row.bit, row.input): row for row in report.rows}
    assert len(rows) == weight.numel() * 32 * 2
    outcomes = set()
    with torch.no_grad():
        for (element, bit, number), row in rows.items():
            golden = Answer(exam.read(net(data.batch(torch.tensor([number]))[0])))
            codes = weight.view(torch.int32).flatten()
            before = int(codes[element])
            codes[element] = (before ^ (1 << bit)) if bit < 31 else before ^ -(1 << 31)
            observed = Answer(exam.read(net(data.batch(torch.tensor([number]))[0])))
            codes[element] = before
            (expected,) = exam.judge([number], golden, observed)
            assert (row.outcome, row.edits, row.top1) == (expected.outcome, expected.edits, expected.top1)
            if expected.agreement is not None:
                assert row.agreement == pytest.approx(expected.agreement)
            outcomes.add(row.outcome)
    assert {"critical", "sdc"} <= outcomes
    assert f"Task: {report.plan['task']['name']}, " in report.words


def test_labels_that_are_no_outputs_of_a_regression_do_not_matter() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    with pytest.raises(InvalidConfig, match="labels up to"):
        campaign(net, DIGITS, BitFlip(), at="weights", trials=4)
    assert campaign(net, DIGITS, BitFlip(), at="weights", trials=4, task=Regression()).trials == 4


def test_activations_of_a_dense_model_are_struck_one_sample_at_a_time() -> None:
    """In whole passes of batches, and alone: the same trials, the same outcomes."""
    net, data = seeded(Mapper), unlabelled()
    tables = [
        campaign(net, data, BitFlip(), at="activations:down", task=Segmentation(), trials=60, seed=1, batch=batch).rows
        for batch in (1, 16)
    ]
    assert [(row.outcome, row.element, row.bit) for row in tables[0]] == [
        (row.outcome, row.element, row.bit) for row in tables[1]
    ]
    assert {"critical", "sdc"} <= {row.outcome for row in tables[0]}


def test_guards_learn_from_models_that_return_no_classes() -> None:
    net, data = seeded(Mapper), unlabelled()
    tough = holdfast.harden(net, method_of("range").calibrated(net, data))
    image = data.batch(torch.arange(2))[0]
    assert torch.equal(tough(image)["out"], net(image)["out"])
    high = float(torch.relu(net.down(data.batch(torch.arange(len(data)))[0])).detach().max())
    with torch.no_grad():
        net.down.bias[0] = tough.down.bias[0] = 1e9
        assert float(net(image)["out"].abs().max()) > 1e6
        assert float(tough(image)["out"].abs().max()) < 100 * high
