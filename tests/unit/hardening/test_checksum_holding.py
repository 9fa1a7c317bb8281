"""A layer that computes with other weights for a moment gets its own back, whoever else did so meanwhile."""

from __future__ import annotations

import threading

import torch
from torch import nn

from holdfast.hardening.guards.checksum_operands import holding


def test_threads_that_restore_one_layer_leave_it_its_own_weights() -> None:
    layer = nn.Linear(4, 2)
    own, inside, done = layer._parameters, threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(10)
        with holding(layer, torch.ones(2, 4), None):
            done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with holding(layer, torch.zeros(2, 4), None):
        inside.set()
        assert not done.wait(0.2)
        assert not bool(layer.weight.any())
    thread.join(10)
    assert done.is_set()
    assert layer._parameters is own
