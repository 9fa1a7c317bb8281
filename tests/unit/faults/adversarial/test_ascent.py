"""The projected ascent against a plain one, written weight by weight from its definition; and how it splits places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.faults.adversarial import Budget, LinearMemory, ProjectedGradient, Untargeted, Victim
from holdfast.faults.adversarial.attack import attackable
from holdfast.faults.adversarial.changes import flips_of
from holdfast.faults.adversarial.projection import split_by_size
from holdfast.models.site import Site
from holdfast.quantization import quantize
from holdfast.seeds import derive

Chosen = dict[Site, list[tuple[int, int]]]  # element and bit


def victim_of(model: nn.Module, digits: Dataset) -> Victim:
    places = attackable(model, "weights")
    return Victim(model, places, LinearMemory.of(places, 8192), Untargeted(), digits.take(64).all())


def plain_ascent(victim: Victim, attack: ProjectedGradient, bits: int) -> tuple[float, Chosen]:
    """Return the best score and its flips; the victim is asked for gradients and scores only."""
    codes = {site: place.codes.clone() for site, place in victim.places.items()}
    clean = {site: place.tensor.detach().clone() for site, place in victim.places.items()}
    weights = {site: value.clone() for site, value in clean.items()}
    velocity = {site: torch.zeros_like(value) for site, value in clean.items()}
    reach = max(float(value.abs().max()) for value in clean.values())
    best, found, flips = -math.inf, dict[Site, list[tuple[int, int]]](), dict[Site, list[tuple[int, int]]]()
    for number in range(attack.iterations + 1):
        victim.assign([flips_of(site, places) for site, places in flips.items()])
        score, slopes = victim.gradients()
        if score > best:
            best, found = score, flips
        if number == attack.iterations:
            break
        size = max(float(slope.abs().max()) for slope in slopes.values())
        for site, slope in slopes.items():
            velocity[site] = attack.momentum * velocity[site] + slope / size * reach
            weights[site] = weights[site] + attack.step * velocity[site]
        flips = plain_projection(victim, attack, codes, weights, bits)
        if attack.keep == "projection":
            victim.assign([flips_of(site, places) for site, places in flips.items()])
            weights = {site: place.tensor.detach().clone() for site, place in victim.places.items()}
    victim.restore()
    return best, found


def plain_projection(
    victim: Victim, attack: ProjectedGradient, codes: dict[Site, Tensor], weights: dict[Site, Tensor], bits: int
) -> Chosen:
    """Return one flip, the highest differing bit, of each of the ``bits`` weights that moved most."""
    victim.restore()
    moved: list[tuple[float, int, Site, int, int]] = []
    for site, place in victim.places.items():
        assert place.lens is not None
        after = place.lens.format.encode(weights[site], place.lens.qparams).codes.flatten().tolist()
        values, clean = weights[site].flatten().tolist(), place.tensor.flatten().tolist()
        for element, (old, new) in enumerate(zip(codes[site].flatten().tolist(), after, strict=True)):
            if differing := (old ^ new) & (2**site.bits - 1):
                far = abs(new - old) if attack.rank == "codes" else abs(values[element] - clean[element])
                moved.append((-far, len(moved), site, element, differing.bit_length() - 1))
    chosen: Chosen = {}
    for _, _, site, element, bit in sorted(moved, key=lambda item: item[:2])[:bits]:
        chosen.setdefault(site, []).append((element, bit))
    return chosen


@pytest.mark.parametrize(("keep", "rank"), [("projection", "values"), ("ascent", "values"), ("projection", "codes")])
@pytest.mark.parametrize("format", ["int8", "rquant4"])
def test_the_search_is_the_plain_ascent(format: str, keep: str, rank: str, trained: nn.Module, digits: Dataset) -> None:
    model = quantize(trained, format)
    attack = ProjectedGradient(iterations=6, keep=keep, rank=rank)  # type: ignore[arg-type]
    expected, flips = plain_ascent(victim_of(model, digits), attack, 9)
    victim = victim_of(model, digits)
    attack.search(victim, Budget(bits=9), derive(0))
    found = {item.site: item for item in victim.flips}
    assert victim.score() == pytest.approx(expected, rel=1e-6)
    victim.restore()
    assert found.keys() == flips.keys()
    for site, places in flips.items():
        plain = flips_of(site, places)
        assert torch.equal(found[site].index, plain.index)
        assert torch.equal(found[site].mask, plain.mask)
    assert sum(map(len, flips.values())) > 1


def test_places_are_split_where_tensors_end() -> None:
    found = split_by_size(torch.tensor([0, 2, 3, 6, 9]), [3, 0, 1, 4, 1, 1, 2])
    assert [part.tolist() for part in found] == [[0, 2], [], [0], [2], [], [0], []]
    assert [part.tolist() for part in split_by_size(torch.empty(0, dtype=torch.int64), [2, 1])] == [[], []]
