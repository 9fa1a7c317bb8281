"""What the papers on bit error training claim, one claim each, on the handwritten digits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.execution import accuracy, robust_error
from holdfast.faults import BitErrors
from holdfast.faults.adversarial import Budget, ProgressiveBitSearch, ProjectedGradient, attack
from holdfast.models import build_architecture
from holdfast.quantization import quantize
from holdfast.training import AdversarialBitErrorTraining, RandomBitErrorTraining, Recipe, Standard, train
from holdfast.training.recipes import Schedule


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train")


@pytest.mark.slow
def test_bit_error_training_withstands_bit_errors(digits: Dataset) -> None:
    """Stutz et al., MLSys 2021: at p = 1 % training with bit errors beats quantisation alone by far."""
    test, schedule = dataset("digits", split="test"), Schedule(epochs=30, lr=0.1, batch_size=64)
    errors = []
    for recipe in (Standard(schedule=schedule), RandomBitErrorTraining(rate=0.01, clip=0.2, schedule=schedule)):
        small = quantize(train(build_architecture("digits-cnn", seed=0), digits, recipe), "rquant8")
        errors.append(robust_error(small, test, BitErrors(rate=0.01), chips=10).mean.value)
    plain, robust = errors
    assert robust < 0.1
    assert plain > 2 * robust


@pytest.mark.slow
def test_clipping_and_random_bit_error_training_keep_their_order_on_digits() -> None:
    """Robust error at p = 1 %: none > global clipping > learned clipping and RandBET, at no loss in clean error."""
    data, test = dataset("digits", split="train"), dataset("digits", split="test")
    schedule = Schedule(epochs=30, lr=0.1, batch_size=64)
    recipes: dict[str, Recipe] = {
        "none": Standard(format="rquant8", schedule=schedule),
        "global": Standard(format="rquant8", clip=0.2, schedule=schedule),
        "learned": Standard(format="rquant8", clip=0.2, clip_scope="learned", schedule=schedule),
        "errors": RandomBitErrorTraining(clip=0.2, schedule=schedule),
    }
    clean, robust = {}, {}
    for name, recipe in recipes.items():
        small = quantize(train(build_architecture("digits-cnn", seed=0), data, recipe), "rquant8")
        clean[name] = 1 - accuracy(small, test).value
        robust[name] = robust_error(small, test, BitErrors(rate=0.01), chips=20).mean
    assert max(clean.values()) < 0.04
    assert robust["none"].low > robust["global"].high
    assert robust["global"].value > max(robust["learned"].value, robust["errors"].value)


def small_net() -> nn.Module:
    """Without batch normalisation, whose statistics of a batch hide most flips from a training step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
        return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.slow
def test_it_withstands_attacks_that_ruin_standard_and_clipped_models(digits: Dataset) -> None:
    """Stutz et al., TPAMI 2022: AdvBET helps against attacks of its own kind and of another, beyond clipping.

    Errors are measured on images that neither training nor attack has seen; the intervals do not overlap.
    """
    test, schedule = dataset("digits", split="test"), Schedule(epochs=20, lr=0.1, batch_size=64)
    standard, clipped, robust = (
        quantize(train(small_net(), digits, recipe), "rquant8")
        for recipe in (
            Standard(format="rquant8", schedule=schedule),
            Standard(format="rquant8", clip=0.3, schedule=schedule),
            AdversarialBitErrorTraining(bits=20, clip=0.3, iterations=3, schedule=schedule),
        )
    )
    own, other = ProjectedGradient(restarts=3), ProgressiveBitSearch()
    plain, hard = (attack(model, test, own, Budget(bits=20)) for model in (standard, robust))
    assert hard.clean.value < plain.clean.value + 0.02
    assert hard.attacked.high < plain.attacked.low
    plain, hard = (attack(model, test, other, Budget(bits=5)) for model in (clipped, robust))
    assert hard.attacked.high < plain.attacked.low
