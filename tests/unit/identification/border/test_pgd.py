"""Sign-PGD does what was published, step by step, and its images are API inputs."""

from __future__ import annotations

import pytest
import torch
from tests.nets import trained_digits
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.identification.border import Lattice, SignPGD, border, one_vs_one, one_vs_rest, open_oracles

PLAIN = SignPGD(iterations=60, tries=2, batch=32, start=2e-3, end=2e-4, check_every=20)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return trained_digits()


@pytest.fixture(scope="module")
def data() -> Dataset:
    digits = dataset("digits")
    return Dataset("digits", digits.raw * 15, digits.labels, digits.classes, Preprocessing(1 / 240, (0.5,), (0.5,)))


def test_the_schedule_is_the_published_one() -> None:
    search = SignPGD()
    assert (search.iterations, search.tries, search.noise, search.start, search.end) == (400, 80, 0.01, 1e-3, 1e-4)
    assert search.step_size(0) == search.step_size(1) == 1e-3
    assert search.step_size(2) == pytest.approx(1e-3 - 9e-4 / 400)
    assert search.step_size(399) > 1e-4
    assert [SignPGD(check_every=value).period for value in (None, 0.1, 25.0)] == [400, 40, 25]


def test_the_objectives_are_the_published_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two, three = (torch.randn(5, 4, generator=generator) for _ in range(3))
    labels = torch.tensor([0, 1, 2, 3, 0])
    wanted = cross_entropy(one, two.argmax(1)) + cross_entropy(two, one.argmax(1))
    torch.testing.assert_close(one_vs_one(one, two), wanted)
    rest = cross_entropy(two, labels) + cross_entropy(three, labels) - 0.5 * cross_entropy(one, labels)
    torch.testing.assert_close(one_vs_rest(one, [two, three], labels, 0.5), rest)
    unlabelled = torch.full((5,), -1)
    torch.testing.assert_close(one_vs_rest(one, [two], unlabelled, 1.0), one_vs_rest(one, [two], one.argmax(1), 1.0))


@pytest.mark.parametrize("batch", [32, 1], ids=["batched", "single image"])
def test_it_finds_border_inputs_of_number_formats(model, data, batch: int) -> None:
    search = SignPGD(iterations=60, tries=40, batch=batch, start=2e-3, end=2e-4, check_every=20)
    item = border(model, data, platforms=("default", "bf16"), search=search).inputs[0]
    assert item.labels["default"] != item.labels["bf16"]
    assert item.method == "SignPGD"
    assert int(item.image.max()) <= 240


def test_one_against_the_rest_separates_from_all(model, data) -> None:
    search = SignPGD(iterations=60, tries=40, batch=32, start=2e-3, end=2e-4, check_every=10, objective="one-vs-rest")
    platforms = ("bf16", "default", "fp16")
    item = border(model, data, platforms=platforms, search=search, seed=3).inputs[0]
    assert item.against == 2
    assert item.labels["bf16"] not in (item.labels["default"], item.labels["fp16"])


def test_images_of_a_try_stay_close_to_their_source(model, data) -> None:
    lattice = Lattice.of(data)
    with open_oracles(model, ["default", "bf16"], lattice) as oracles:
        found = next(PLAIN.search(oracles, model, data, 0))
    nearest = (data.raw.float() - found.image.float()).abs().flatten(1).max(1).values.min()
    # noise of 0.01 and at most 60 steps of at most 2e-3, of a range of 240
    assert float(nearest) <= 240 * (0.01 + 60 * 2e-3) + 0.5


def test_two_fp32_stacks_are_beyond_it(model, data) -> None:
    with pytest.raises(VerificationError, match="0 of 1"):
        border(model, data, platforms=("default", "onednn-off"), search=PLAIN)


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"start": 0.0}, {"noise": -1.0}, {"check_every": 0.0}, {"objective": "all"}]
)
def test_what_cannot_run_is_refused(wrong) -> None:
    with pytest.raises(InvalidConfig):
        SignPGD(**wrong)
