"""What the papers on platforms and on split computation claim, one claim each, on a net with the handwritten digits."""

from __future__ import annotations

import torch
from torch import nn

import holdfast
from holdfast.data import Dataset, probes
from holdfast.execution import accuracy
from holdfast.faults import BitFlip
from holdfast.identification import LOCAL_PLATFORMS, Identifier, collect_platforms, trace_on
from holdfast.shielding import Freivalds, int8_model, shield

PLATFORMS = ("default", "bf16", "fp16")


def test_number_formats_show_in_the_answers_and_one_known_input_suffices(trained: nn.Module) -> None:
    """HSPI, ICML 2025: platforms are told from outputs alone. Ours needs references of the same probes, and few."""
    one = probes("uniform", n=1, shape=(1, 8, 8), seed=0)
    identifier = Identifier().fit(list(collect_platforms(trained, one, PLATFORMS).items()))
    for name in PLATFORMS:
        assert identifier.predict(trace_on(LOCAL_PLATFORMS[name], trained, one)).label == name


def test_a_worker_that_is_not_trusted_computes_the_same_bits_and_is_caught_when_it_lies(
    trained: nn.Module, train: Dataset, test: Dataset
) -> None:
    """Tramèr & Boneh, ICLR 2019 (Slalom): blinded linear layers are exact, and Freivalds' check finds wrong ones."""
    integer, images = int8_model(trained, train.take(128)), test.batch(torch.arange(8))[0]
    with shield(integer, worker="spawn", check=Freivalds()) as session:
        assert torch.equal(session(images), integer(images))
        report = holdfast.campaign(session, test.take(16), BitFlip(), at="offload:**", trials=60, seed=0)
    assert report.counts["detected"] == report.trials


def test_an_integer_network_for_two_worlds_decides_as_the_float_one(
    trained: nn.Module, train: Dataset, test: Dataset
) -> None:
    """TSQP, IEEE S&P 2025: a network can be made of integers for a trusted and an untrusted part at little cost."""
    integer = int8_model(trained, train.take(128))
    assert accuracy(integer, test).value > accuracy(trained, test).value - 0.02
