"""A victim gives exact gradients, tries flips, and is afterwards what it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import LinearMemory, Untargeted, Victim
from holdfast.faults.adversarial.attack import attackable
from holdfast.faults.adversarial.changes import flips_of
from holdfast.models import manifest_of
from holdfast.models.site import Site


def victim_of(model: nn.Module, data: Dataset, at: str = "weights") -> Victim:
    places = attackable(model, at)
    return Victim(model, places, LinearMemory.of(places, 8192), Untargeted(), data.take(64).all())


def named(victim: Victim, name: str) -> Site:
    return next(site for site in victim.places if site.name == name)


def test_scores_and_gradients_are_autograds(int8: nn.Module, digits: Dataset) -> None:
    victim, (images, labels) = victim_of(int8, digits), digits.take(64).all()
    loss = cross_entropy(int8(images), labels)
    expected, loss = torch.autograd.grad(loss, list(int8.parameters())), loss.detach()
    score, found = victim.gradients()
    assert score == pytest.approx(float(loss), rel=1e-6)
    assert victim.score() == pytest.approx(float(loss), rel=1e-6)
    assert victim.forwards == 2
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found.values(), expected, strict=True))


def test_buffers_have_scores_but_no_gradients(int8: nn.Module, digits: Dataset) -> None:
    victim = victim_of(int8, digits, "buffers:*running_var")
    assert math.isfinite(victim.score())
    with pytest.raises(InvalidConfig, match="no gradient of buffers:norm1"):
        victim.gradients()


def test_trying_committing_and_assigning_flip_what_they_say(int8: nn.Module, digits: Dataset) -> None:
    victim, digest = victim_of(int8, digits), manifest_of(int8).digest
    conv, fc = named(victim, "conv1.weight"), named(victim, "fc.weight")
    codes = victim.places[conv].codes.clone().view(-1)
    with victim.trying([flips_of(conv, [(0, 7), (4, 2)])]):
        assert (victim.places[conv].codes.view(-1) ^ codes).view(torch.uint8).tolist()[:5] == [128, 0, 0, 0, 4]
    assert manifest_of(int8).digest == digest
    victim.commit(flips_of(conv, [(0, 7)]))
    victim.commit(flips_of(conv, [(4, 2)]))
    victim.commit(flips_of(conv, [(0, 7)]))  # and back again
    assert [(item.site, item.index.tolist(), item.mask.tolist()) for item in victim.flips] == [(conv, [4], [4])]
    victim.assign([flips_of(fc, [(1, 0)])])
    assert [item.site for item in victim.flips] == [fc]
    victim.restore()
    assert victim.flips == ()
    assert manifest_of(int8).digest == digest


def test_alternatives_are_the_decoded_neighbours_of_a_code(int8: nn.Module, digits: Dataset) -> None:
    victim = victim_of(int8, digits)
    site = named(victim, "conv2.weight")
    lens, index = victim.places[site].lens, torch.tensor([5, 300])
    found = victim.alternatives(site, index)
    scale = lens.qparams["scale"].double().view(-1)[index // 72]
    for bit in range(8):
        neighbour = (lens.codes.view(-1)[index].int() ^ (1 << bit)) & 255
        signed = torch.where(neighbour > 127, neighbour - 256, neighbour)
        assert torch.equal(found[:, bit], (signed.double() * scale).float())


def test_a_score_that_is_no_number_counts_as_harmless(trained: nn.Module, digits: Dataset) -> None:
    victim = victim_of(trained, digits)
    fc, before = named(victim, "fc.bias"), trained.fc.bias.detach().clone()
    infinite = victim.places[fc].codes.view(-1)[0].item() & 0x7F800000 ^ 0x7F800000
    with victim.trying([flips_of(fc, [(0, bit) for bit in range(23, 31) if infinite >> bit & 1])]):
        assert not torch.isfinite(trained.fc.bias[0])
        assert victim.score() == -math.inf
    assert torch.equal(trained.fc.bias, before)


def test_a_model_in_training_keeps_its_running_statistics(trained: nn.Module, digits: Dataset) -> None:
    victim_mode = trained.training
    trained.train()
    try:
        digest = manifest_of(trained).digest
        victim = victim_of(trained, digits)
        assert victim.score() == victim.score()
        victim.gradients()
        assert manifest_of(trained).digest == digest
    finally:
        trained.train(victim_mode)
