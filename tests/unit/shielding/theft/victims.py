"""A victim that is trained once: the digits net on one half of the training data; the attacker has the other."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import nn

import holdfast
from holdfast.data import Dataset, dataset
from holdfast.models import build_architecture
from holdfast.shielding.graph import IntegerModel, export


@dataclass(frozen=True)
class Case:
    net: nn.Module
    deployed: IntegerModel
    own: Dataset
    pool: Dataset
    test: Dataset


@functools.cache
def case() -> Case:
    torch.set_num_threads(1)
    own, pool = dataset("digits", split="train").split(0.5)
    recipe = holdfast.Standard(schedule=holdfast.Schedule(epochs=12, lr=0.1, batch_size=32))
    net = holdfast.train(build_architecture("digits-cnn:channels=8", seed=1), own, recipe, seed=0)
    deployed = export(net, own.example[None], own.take(128))
    return Case(net, deployed, own, pool, dataset("digits", split="test"))
