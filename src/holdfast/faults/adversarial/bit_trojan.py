"""Targeted bit trojan (Rakin, He and Fan, TBT, CVPR 2020): a shaped trigger and a few weights of the last layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial.budget import Budget
from holdfast.faults.adversarial.changes import Place, flips_of
from holdfast.faults.adversarial.ledger import Ledger
from holdfast.faults.adversarial.protocol import attacks
from holdfast.faults.adversarial.trojan import Trojan
from holdfast.faults.adversarial.victim import Victim, encoded
from holdfast.models.site import Site
from holdfast.seeds import Seed


@attacks.register("bit-trojan")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitTrojan:
    """Plant a trojan in the last linear layer, in three steps; takes the objective ``trojan``.

    Rank: the ``neurons`` inputs of the layer on which the target class depends most, by |dCE(x, label)/dW[label]|.
    Shape: signed gradient steps on the trigger drive those neurons towards ``goal`` times their largest clean value.
    Tune: Adam on just W[label, neurons] lowers both losses of the objective; the codes of the tuned weights, encoded
    in their frozen range, tell which bits to flip. The paper flips them all; here they are flipped one by one, weights
    that moved most and significant bits first, as far as the budget goes, and the best state on the way stays.
    """

    neurons: int = 10  # w_b
    shape_steps: int = 40
    shape_step: float = 0.1  # of the range of the pixels, per step
    goal: float = 3.0  # of the largest clean activation
    tune_steps: int = 200
    tune_rate: float = 0.05  # of the largest weight of the layer, per step of Adam

    def __post_init__(self) -> None:
        if min(self.neurons, self.tune_steps) < 1 or self.shape_steps < 0:
            raise InvalidConfig("a trojan takes one neuron and one step of tuning at least")
        if not min(self.shape_step, self.goal, self.tune_rate) > 0:
            raise InvalidConfig("steps, rates and the goal of a trojan are positive")

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        """Shape the trigger into ``victim.objective`` and leave the flips; deterministic.

        Raises:
            InvalidConfig: the objective is no trojan, or no attacked weight is the layer that gives the logits.
        """
        if not isinstance(victim.objective, Trojan):
            raise InvalidConfig("a bit trojan needs a trojan's objective", hint="objective trojan:label=0")
        layer = _LastLayer(victim)
        chosen = layer.ranked(victim.objective.label)[: self.neurons]
        victim.objective = self._shaped(victim, layer, chosen)
        tuned = self._tuned(victim, layer, chosen)
        _flip_best(victim, layer.site, _within(budget, victim, layer.site, tuned))

    def _shaped(self, victim: Victim, layer: _LastLayer, chosen: Tensor) -> Trojan:
        """Return the objective with a trigger that excites the chosen neurons."""
        objective, images = victim.objective, victim.images
        if not isinstance(objective, Trojan):
            raise InvalidConfig("a bit trojan needs a trojan's objective")
        least, most = float(images.min()), float(images.max())
        goal = self.goal * layer.features(images)[:, chosen].detach().abs().max()
        patch = objective.patch
        if patch is None:
            patch = torch.full((images.shape[1], objective.size, objective.size), (least + most) / 2)
        for _ in range(self.shape_steps):
            patch = patch.detach().requires_grad_()
            excited = layer.features(dataclasses.replace(objective, patch=patch).triggered(images))[:, chosen]
            (slope,) = torch.autograd.grad(((excited - goal) ** 2).mean(), patch)
            patch = (patch - self.shape_step * (most - least) * slope.sign()).clamp(least, most)
        return dataclasses.replace(objective, patch=patch.detach())

    def _tuned(self, victim: Victim, layer: _LastLayer, chosen: Tensor) -> Tensor:
        """Return the weights of the layer, (classes, inputs), with the chosen ones of the target class tuned."""
        objective = victim.objective
        if not isinstance(objective, Trojan):
            raise InvalidConfig("a bit trojan needs a trojan's objective")
        clean, marked = (layer.features(x).detach() for x in (victim.images, objective.triggered(victim.images)))
        wanted = torch.full_like(victim.labels, objective.label)
        moved = layer.weight[objective.label, chosen].clone().requires_grad_()
        optimiser = torch.optim.Adam([moved], self.tune_rate * float(layer.weight.abs().max()))
        for _ in range(self.tune_steps):
            weight = layer.weight.index_put((torch.tensor(objective.label), chosen), moved)
            loss = cross_entropy(linear(marked, weight, layer.bias), wanted)
            loss = loss + objective.stealth * cross_entropy(linear(clean, weight, layer.bias), victim.labels)
            (moved.grad,) = torch.autograd.grad(loss, moved)
            optimiser.step()
        return layer.weight.index_put((torch.tensor(objective.label), chosen), moved.detach())


class _LastLayer:
    """The linear layer that gives the logits, seen through its inputs."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        for site in reversed(victim.places):
            if site.name.endswith("weight") and len(site.shape) == 2:
                self.site = site
                break
        else:
            raise InvalidConfig("no attacked weight is a linear layer", hint="at=weights:fc.weight, for example")
        self._module = victim.model.get_submodule(self.site.name.rpartition(".")[0])
        self.weight = victim.places[self.site].tensor.detach().clone()
        bias = getattr(self._module, "bias", None)
        self.bias = bias.detach().clone() if isinstance(bias, Tensor) else None
        with torch.no_grad(), self._watched() as run:
            features, outputs = run(victim.images)
        own = linear(features, self.weight, self.bias)
        if own.shape != outputs.shape or not torch.allclose(own, outputs, atol=1e-4, rtol=1e-4):
            raise InvalidConfig(f"{self.site.address} does not give the logits", hint="attack the last layer")

    def features(self, images: Tensor) -> Tensor:
        """Return the inputs of the layer, (n, inputs), differentiable in ``images``."""
        with torch.enable_grad(), self._watched() as run:
            return run(images)[0]

    def ranked(self, label: int) -> Tensor:
        """Return the inputs of the layer, int64, by falling |gradient| of the target class's weights."""
        if label >= len(self.weight):
            raise InvalidConfig(f"there is no class {label} among {len(self.weight)}", hint="classes count from 0")
        features = self.features(self._victim.images).detach()
        weight = self.weight.clone().requires_grad_()
        wanted = torch.full_like(self._victim.labels, label)
        (slope,) = torch.autograd.grad(cross_entropy(linear(features, weight, self.bias), wanted), weight)
        return slope[label].abs().sort(descending=True, stable=True).indices

    @contextmanager
    def _watched(self) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Yield a function from images to (inputs of the layer, outputs of the model)."""
        seen: list[Tensor] = []
        handle = self._module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))

        def run(images: Tensor) -> tuple[Tensor, Tensor]:
            seen.clear()
            outputs = self._victim.forward_at({})(images)
            if len(seen) != 1 or seen[0].dim() != 2:
                raise InvalidConfig(f"{self.site.address} is not called once with (batch, inputs)")
            return seen[0], outputs

        try:
            yield run
        finally:
            handle.remove()


def _flip_best(victim: Victim, site: Site, places: Sequence[Place]) -> None:
    """Leave the first so many of ``places`` flipped that give the highest score; at least one, if there is any."""
    best, count = -math.inf, 0
    for done, place in enumerate(places, start=1):
        victim.commit(flips_of(site, [place]))
        if (score := victim.score()) > best:
            best, count = score, done
            victim.keep(score)
        victim.progress(done, len(places))
    victim.assign([flips_of(site, places[:count])])


def _within(budget: Budget, victim: Victim, site: Site, tuned: Tensor) -> list[Place]:
    """Return the bits that turn the stored codes into those of ``tuned``, as many as the budget allows."""
    place = victim.places[site]
    before, after = place.codes.reshape(-1), encoded(place, tuned).reshape(-1)
    changed = before.to(torch.int64) ^ after.to(torch.int64)
    distance = (tuned - place.tensor.detach()).abs().reshape(-1)
    ledger, found = Ledger(budget, victim.memory), list[Place]()
    for element in distance.sort(descending=True, stable=True).indices[: int((changed != 0).sum())].tolist():
        for bit in reversed(range(site.bits)):
            if int(changed[element]) >> bit & 1 and ledger.affords(site, element, bit):
                ledger.spend(site, [(element, bit)])
                found.append((element, bit))
    return found
