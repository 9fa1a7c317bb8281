"""Hiding scales hides nothing: the mode, and its attack, on real digits."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import accuracy
from holdfast.hazmat.scales_only import ScalesOnly, join, split
from holdfast.hazmat.scales_only_attack import guess, recover
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.theft import Knockoff
from holdfast.training import Standard, train
from holdfast.training.recipes import Schedule


def plain_net() -> nn.Module:
    """Specification 7.4's kind of victim: convolutions and one linear layer, no normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return net


@functools.cache
def victim() -> tuple[nn.Module, IntegerModel]:
    torch.set_num_threads(1)
    own = dataset("digits", split="train").split(0.7)[0]
    net = train(plain_net(), own, Standard(schedule=Schedule(epochs=25, lr=0.05)))
    return net, export(net, own.example[None], own.take(128))


def parts() -> ScalesOnly:
    return split(victim()[1])


def test_the_parts_make_the_model_again_to_the_bit_and_the_form_alone_holds_nothing() -> None:
    images = dataset("digits", split="test").take(16).all()[0]
    assert torch.equal(join(parts())(images), victim()[1](images))
    assert all(not bool(value.any()) for value in parts().form.state_dict().values())
    opened, secret = parts().numbers()
    assert secret < 0.02 * opened


def test_a_guess_without_data_is_most_of_the_model() -> None:
    test = dataset("digits", split="test")
    whole = accuracy(victim()[1], test)
    found = accuracy(guess(parts(), plain_net(), torch.zeros(1, 1, 8, 8)), test)
    assert whole.value > 0.95
    assert found.value > whole.value - 0.1


def test_ten_labels_are_enough_with_the_codes_and_not_without() -> None:
    own = dataset("digits", split="train").split(0.7)[1].take(10)
    test = dataset("digits", split="test")
    found = accuracy(recover(parts(), plain_net(), own, knockoff=Knockoff(steps=100, scale_lr=0.01)), test)
    blind = ScalesOnly({}, parts().secret, parts().form)
    alone = accuracy(recover(blind, plain_net(), own, knockoff=Knockoff(steps=100, scale_lr=0.01)), test)
    assert found.low > alone.high + 0.1
    assert found.value > accuracy(victim()[1], test).value - 0.15


def test_a_model_without_codes_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="no layer with codes"):
        split(nn.Sequential(nn.ReLU()))  # type: ignore[arg-type]
