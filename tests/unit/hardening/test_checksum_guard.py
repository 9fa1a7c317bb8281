from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.data import Dataset
from holdfast.errors import IntegrityError, InvalidConfig, NoSuchSite
from holdfast.execution import campaign, predict
from holdfast.execution.condition import Flips, Population
from holdfast.execution.statistics import Proportion
from holdfast.faults import BitFlip
from holdfast.hardening import ChecksumGuard, Checksums, harden, methods
from holdfast.hardening.guards.checksum_operations import Located
from holdfast.models import card, load, manifest_of, save, tap
from holdfast.models.guard import attach_guard, guard_from_json
from holdfast.numerics import bits
from holdfast.seeds import Seed

FAILURES = ("critical", "due")


@dataclass(frozen=True)
class HighBit:
    """One flip of the three highest bits of an fp32 exponent, where nearly all harm comes from."""

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        site, element, bit = population.locate(seed.key % population.bits)
        return [Flips(site, torch.tensor([element]), bits.one_bit(torch.tensor([28 + bit % 3])))]


@pytest.fixture(scope="module")
def hardened(trained: nn.Module, digits: Dataset) -> nn.Module:
    return harden(trained, methods.build("checksum").calibrated(trained, digits))


def failures(report: object) -> list[int]:
    return [row.trial for row in report.rows if row.outcome in FAILURES]  # type: ignore[attr-defined]


def test_every_linear_and_convolution_gets_one(hardened: nn.Module) -> None:
    assert [guard.site for guard in card(hardened).guards] == ["conv1", "conv2", "conv3", "fc"]
    step = card(hardened).lineage[-1]
    assert step.parameters["method"] == "checksum"


def test_clean_outputs_keep_their_bits(hardened: nn.Module, trained: nn.Module, digits: Dataset) -> None:
    assert bits.bit_equal(predict(hardened, digits), predict(trained, digits))
    for guard in card(hardened).guards:
        assert int(guard.events.sum()) == int(guard.alarms.sum()) == 0


@pytest.mark.parametrize("at", ["activations:fc", "activations:conv*"])
def test_faults_in_outputs_that_change_the_answer_are_found_and_undone(
    hardened: nn.Module, trained: nn.Module, digits: Dataset, at: str
) -> None:
    plain, hard = (campaign(model, digits, BitFlip(), at=at, trials=2500, seed=0) for model in (trained, hardened))
    harmful = failures(plain)
    left = set(failures(hard)) & set(harmful)
    coverage = Proportion.clopper_pearson(len(harmful) - len(left), len(harmful))
    assert len(harmful) > 50
    assert coverage.value == 1.0
    assert coverage.low > 0.9
    assert not failures(hard)
    assert all(hard.rows[trial].guard_events > 0 for trial in harmful)
    assert all(
        row.outcome in ("masked", "corrected") for row in hard.rows if row.guard_events
    )  # the golden bits came out again


def test_faults_in_weights_that_change_the_answer_are_found_and_undone(
    hardened: nn.Module, trained: nn.Module, digits: Dataset
) -> None:
    at = "weights:conv*,weights:fc*"
    plain, hard = (campaign(item, digits, HighBit(), at=at, trials=150, seed=1) for item in (trained, hardened))
    assert len(failures(plain)) > 20
    assert not failures(hard)
    corrected = [row for row in hard.rows if row.guard_events > 0]
    assert all(row.outcome in ("masked", "corrected") for row in corrected)  # the golden bits came out again
    assert len(corrected) > len(failures(plain))


def test_clean_rows_spare_the_second_look_and_no_fault_profits(
    hardened: nn.Module, trained: nn.Module, digits: Dataset
) -> None:
    guard = next(item for item in card(hardened).guards if item.site == "fc")
    seen: list[Tensor] = []
    with trained.fc.register_forward_hook(lambda _, args, out: seen.append(guard.inner.thresholds(args[0], out))):
        predict(trained, digits)
    assert guard.quick == pytest.approx(float(torch.cat(seen)[:64].min()) / 2)
    assert guard.quick < float(torch.cat(seen).min())  # no clean row is judged more loosely than by its own threshold


def test_detection_counts_alarms_and_leaves_the_output(trained: nn.Module, digits: Dataset) -> None:
    model = harden(trained, Checksums(sites=("fc",), action="detect"))
    (guard,) = card(model).guards
    images = digits.batch(torch.arange(4))[0]
    with torch.no_grad():
        golden = model(images)
        assert guard.alarms.tolist() == [0, 0, 0, 0]
        model.fc.weight[3, 5] += 10
        found = model(images)
    assert not torch.equal(found, golden)
    assert guard.events.tolist() == [0, 0, 0, 0]
    assert guard.alarms.sum() > 0


def test_what_is_done_to_a_sample_does_not_depend_on_those_beside_it(trained: nn.Module, digits: Dataset) -> None:
    """A change below the threshold stays, whether or not a sample of its batch is set right."""
    images = digits.batch(torch.arange(6))[0]
    for site in ("fc", "conv2"):
        model = harden(trained, Checksums(sites=(site,)))
        (guard,) = card(model).guards

        def hit(output: Tensor, wrong: Tensor) -> Tensor:
            output[2].flatten()[5].mul_(1 + 2**-22)
            output[4].flatten()[7] += wrong
            return output

        with torch.no_grad():
            golden, outputs = model(images), []
            for wrong in (0.0, 30.0):
                with tap(model, {site: functools.partial(hit, wrong=torch.tensor(wrong))}):
                    outputs.append(model(images))
                assert guard.events.tolist() == [0, 0, 0, 0, int(wrong > 0), 0]
        assert bits.bit_equal(*outputs)
        assert site != "fc" or not torch.equal(outputs[0], golden)


def test_what_is_wrong_is_located_by_row_and_column(trained: nn.Module, digits: Dataset) -> None:
    model = harden(trained, Checksums(sites=("fc",)))
    (guard,) = card(model).guards
    images = digits.batch(torch.arange(6))[0]

    def hit(output: Tensor) -> Tensor:
        output[4, 7] += 3
        return output

    with torch.no_grad():
        golden = model(images)
        assert guard.located is None
        with tap(model, {"fc": hit}):
            assert bits.bit_equal(model(images), golden)
        assert guard.located == Located("output", ((4, 7),))
        model.fc.weight[3, 5] += 10
        assert bits.bit_equal(model(images), golden)
        assert guard.located == Located("weight", ((3, 5),))
        model.fc.bias[2] -= 1
        assert bits.bit_equal(model(images), golden)
        assert guard.located == Located("weight", ((3, 5), (2, 16)))


def test_refusal_is_a_detected_outcome(trained: nn.Module, digits: Dataset) -> None:
    model = harden(trained, Checksums(sites=("fc",), action="refuse"))
    report = campaign(model, digits, BitFlip(), at="activations:fc", trials=200, seed=0)
    assert report.counts["detected"] > 50
    assert report.counts["critical"] == report.counts["due"] == 0


def test_saved_and_loaded_checksums_still_work(hardened: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    save(hardened, tmp_path / "model")
    back = load(tmp_path / "model")
    assert manifest_of(back).digest == manifest_of(hardened).digest
    digests = [
        campaign(model, digits, BitFlip(), at="weights:fc.*", trials=60, seed=0).digest
        for model in (hardened, back, copy.deepcopy(hardened))
    ]
    assert len(set(digests)) == 1


def test_weights_that_were_wrong_before_the_first_pass_are_refused(hardened: nn.Module, tmp_path: Path) -> None:
    """Sums are taken again after loading; the digest says whether of the right weights."""
    save(hardened, tmp_path / "model")
    back = load(tmp_path / "model")
    bits.xor_(back.fc.weight.detach(), torch.tensor([17]), bits.one_bit(torch.tensor([3])))
    with pytest.raises(IntegrityError, match="fc are not those it was hardened with"), torch.no_grad():
        back(torch.zeros(1, 1, 8, 8))


def test_a_fault_in_the_sums_themselves_changes_no_answer(hardened: nn.Module, digits: Dataset) -> None:
    model = copy.deepcopy(hardened)
    guard = next(item for item in card(model).guards if item.site == "fc")
    images = digits.batch(torch.arange(3))[0]
    with torch.no_grad():
        golden = model(images)
        guard._check.inner._kept[1].fill_(1e9)
        bits.xor_(guard._check.sums.plain, torch.tensor([4]), bits.one_bit(torch.tensor([61])))
        assert bits.bit_equal(model(images), golden)
    assert guard.events.tolist() == guard.alarms.tolist() == [0, 0, 0]
    assert guard._check.sums.intact()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 4).softmax(-1)
        return self.out((torch.bmm(weights, v) + F.scaled_dot_product_attention(q, k, v)).mean(1))


def test_products_in_attention_are_guarded_where_they_are_called() -> None:
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.randn(6, 9, 16)
    card(model).input_shape = (9, 16)
    hard = harden(model, methods.build("checksum").calibrated(model, None))
    sites = [guard.site for guard in card(hard).guards]
    assert sites == ["qkv", "/matmul", "/bmm", "/scaled_dot_product_attention", "out"]
    with torch.no_grad():
        golden = model(x)
        assert bits.bit_equal(hard(x), golden)
        for site in sites:

            def hit(output: Tensor) -> Tensor:
                output.flatten(1)[3, 7 % output[0].numel()] = 1e6
                return output

            with tap(hard, {site: hit}):
                assert bits.bit_equal(hard(x), golden)
            guard = next(item for item in card(hard).guards if item.site == site)
            assert guard.events.tolist() == [0, 0, 0, 1, 0, 0]


def test_gradients_still_flow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    hard = harden(model, Checksums(sites=("0", "1")))
    x = torch.randn(3, 4)
    for net in (model, hard):
        net(x).square().sum().backward()
    assert torch.equal(model[0].weight.grad, hard[0].weight.grad)


def test_what_it_refuses(trained: nn.Module, digits: Dataset) -> None:
    with pytest.raises(NoSuchSite, match="relu is no product"):
        harden(trained, Checksums(sites=("relu",)))
    with pytest.raises(NoSuchSite, match="selects no product"):
        methods.build("checksum:at=activations:relu").calibrated(trained, digits)
    with pytest.raises(InvalidConfig, match="cannot 'guess'"):
        ChecksumGuard("fc", action="guess")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="false alarms"):
        ChecksumGuard("fc", false_alarms=0.0)
    with pytest.raises(InvalidConfig, match="example"):
        methods.build("checksum").calibrated(nn.Sequential(nn.Linear(2, 2)), None)
    guard = ChecksumGuard("fc", weights="00")
    assert guard_from_json(guard.to_json()).to_json() == guard.to_json()
    attach_guard(copied := copy.deepcopy(trained), guard)
    with pytest.raises(IntegrityError, match="hardened with"):
        copied(torch.zeros(1, 1, 8, 8))
