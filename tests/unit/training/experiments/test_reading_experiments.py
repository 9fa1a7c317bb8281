"""Experiment files: what is read, what is refused, and that the published grid is whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError, InvalidConfig, UnknownName, UnreadableArtifact
from holdfast.numerics.formats import formats
from holdfast.training import RandomBitErrorTraining, Standard
from holdfast.training.experiments import Experiment, read_experiment

TEXT = """
name = "tiny"
architecture = "digits-cnn:channels=4"
rates = [0.001, 0.01]
chips = 3

[data]
name = "digits"

[schedule]
epochs = 2

[scales.small]
architecture = "digits-cnn:channels=2"
epochs = 1
chips = 2
rates = [0.01]
train_images = 100
test_images = 50

[[arms]]
name = "normal"
format = "int8"
recipe = { name = "standard" }
published = { clean = 4.3, robust = [4.6, nan] }

[[arms]]
name = "robust"
format = "rquant4"
architecture = "digits-cnn:channels=3"
recipe = { name = "random-bit-error", rate = 0.01, clip = 0.1, combine = "sum" }
"""


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str) -> Experiment:
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return read_experiment(path)

    return read_text


def test_a_file_becomes_recipes_that_know_their_format(read):
    experiment = read(TEXT)
    normal, robust = (arm.build(experiment.schedule) for arm in experiment.arms)
    assert normal == Standard(format="int8", schedule=experiment.schedule)
    assert robust == RandomBitErrorTraining(
        format="rquant4", rate=0.01, clip=0.1, combine="sum", schedule=experiment.schedule
    )
    assert experiment.schedule.epochs == 2
    assert experiment.arms[0].published.clean == 4.3
    assert math.isnan(experiment.arms[0].published.robust[1])


def test_quantising_after_training_trains_float_weights(read):
    experiment = read(TEXT.replace('format = "int8"', 'format = "int8"\npost_training = true'))
    assert experiment.arms[0].build(experiment.schedule).format is None


def test_a_smaller_scale_replaces_what_it_names(read):
    small = read(TEXT).at_scale("small")
    assert (small.scale, small.schedule.epochs, small.chips) == ("small", 1, 2)
    assert (small.rates, small.train_images, small.test_images) == ((0.01,), 100, 50)
    assert small.architecture == "digits-cnn:channels=2"
    assert [arm.architecture for arm in small.arms] == ["", ""]
    assert math.isnan(small.arms[0].published.robust[0])
    whole = read(TEXT)
    assert whole.at_scale("full") is whole


def test_arms_are_chosen_by_pattern(read):
    experiment = read(TEXT)
    assert [arm.name for arm in experiment.only(["rob*"]).arms] == ["robust"]
    assert [arm.name for arm in experiment.only(["robust", "normal"]).arms] == ["normal", "robust"]
    with pytest.raises(UnknownName, match="robsut") as caught:
        experiment.only(["robsut"])
    assert "robust" in caught.value.hint
    with pytest.raises(UnknownName, match="smal"):
        experiment.at_scale("smal")


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("chips = 3", "chip = 3", "no key 'chip'", "chips"),
        ("epochs = 2", "epoch = 2", "schedule has no key 'epoch'", "epochs"),
        ("clip = 0.1", "clop = 0.1", "recipe 'random-bit-error' of robust has no key 'clop'", "clip"),
        ("chips = 3", 'chips = "3"', "chips is a text .*, not a whole number", ""),
        ("chips = 3", "chips = true", "chips is true or false", ""),
        ("chips = 3", "chips = 0", "chips of tiny is 0", ""),
        ("rate = 0.01", 'rate = "0.01"', "rate is a text", ""),
        ("rate = 0.01", "rate = 1.5", "between 0 and 1", ""),
        ('"sum"', '"product"', "combine is 'product'", "mean, sum"),
        ("rates = [0.001, 0.01]", "rates = 0.001", "rates is a number .*, not an array", "write"),
        ("rates = [0.001, 0.01]", "rates = [0.01, 0.001]", "ascending", ""),
        ("rates = [0.001, 0.01]", "rates = [0.001, 2.0]", "0..1", ""),
        ("rates = [0.001, 0.01]", "rates = [0.001]", "2 published errors for 1 rates", ""),
        ("clean = 4.3", "clean = 430", "outside 0..100", ""),
        ("clean = 4.3, ", "", "lacks the key 'clean'", ""),
        ('name = "robust"', 'name = "normal"', "two arms called normal", ""),
        ('name = "robust"', 'name = "../robust"', "cannot be called", "letters"),
        ('"rquant4"', '"rquant44"', "rquant44", "rquant4"),
        ('"standard"', '"standart"', "standart", "standard"),
        ('{ name = "standard" }', "{}", "has no name", "recipe"),
        ('name = "standard"', 'name = "standard", schedule = {}', "sets a schedule", "schedule"),
        ('architecture = "digits-cnn:channels=4"', "", "lacks the key 'architecture'", ""),
        ("[data]", "[data", "is not TOML", ""),
        ("chips = 3", 'chips = 3\nscale = "small"', "no key 'scale'", ""),
    ],
)
def test_a_mistake_in_a_file_is_named(read, old, new, message, hint):
    assert old in TEXT
    with pytest.raises(HoldfastError, match=message) as caught:
        read(TEXT.replace(old, new, 1))
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_scale_cannot_have_a_rate_of_its_own(read):
    with pytest.raises(InvalidConfig, match=r"no rate 0\.5"):
        read(TEXT.replace("rates = [0.01]", "rates = [0.5]")).at_scale("small")


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(UnreadableArtifact, match="absent"):
        read_experiment(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig, match="not TOML"):
        read_experiment(tmp_path / "binary.toml")


FILES = {"cifar10": 79, "cifar100": 17, "mnist": 31, "cifar10-schemes": 13, "cifar10-variants": 9}


@pytest.fixture(params=FILES)
def grid(request, repository) -> Experiment:
    experiment = read_experiment(repository / "experiments" / "mlsys" / f"{request.param}.toml")
    assert len(experiment.arms) == FILES[request.param]
    return experiment


def test_the_published_grid_is_whole(grid):
    assert grid.source.startswith("Stutz")
    assert grid.chips == 50
    for arm in grid.arms:
        printed = [value for value in arm.published.robust if not math.isnan(value)]
        assert printed
        # an image that is wrong clean counts as wrong on every chip; 0.2 for 9,000 images instead of 10,000
        assert printed[0] >= arm.published.clean - 0.2
    assert grid.at_scale("small").schedule.epochs < grid.schedule.epochs


def test_names_say_what_arms_do(grid):
    for arm in grid.arms:
        recipe = arm.build(grid.schedule)
        bits = arm.name.partition("-")[0].removeprefix("m")
        assert formats.build(arm.format).bits == int(bits)
        parts = arm.name.split("-")
        if "clip" in parts:
            assert recipe.clip == float(parts[parts.index("clip") + 1])
        if "randbet" in parts:
            assert recipe.clip == float(parts[parts.index("randbet") + 1])
            assert recipe.rate == pytest.approx(float(parts[-1].removeprefix("p")) / 100)
            assert recipe.start_loss == (3.5 if grid.name == "mlsys-cifar100" else 1.75)


@pytest.mark.parametrize(
    ("file", "arm", "rate", "error"),
    [
        ("cifar10", "m8-rquant", 0.01, 32.05),
        ("cifar10", "m8-clip-0.1", 0.01, 8.93),
        ("cifar10", "m8-randbet-0.1-p1", 0.01, 7.41),
        ("cifar10", "m4-randbet-0.05-p2", 0.025, 8.62),
        ("cifar10", "m3-randbet-0.05-p1", 0.005, 6.68),
        ("cifar10", "m2-clip-0.025", 0.015, 9.16),
        ("cifar100", "m8-randbet-0.05-p1", 0.005, 24.33),
        ("mnist", "m8-clip-0.025", 0.2, 32.68),
        ("mnist", "m4-randbet-0.05-p20", 0.2, 1.04),
    ],
)
def test_published_values_stand_at_their_rates(repository, file, arm, rate, error):
    experiment = read_experiment(repository / "experiments" / "mlsys" / f"{file}.toml")
    chosen = next(item for item in experiment.arms if item.name == arm)
    assert chosen.published.robust[experiment.rates.index(rate)] == error
