"""Border inputs of every pair among many platforms, the fewest labels that name each, and whether they do.

One search separates two platforms, and its input is asked of all others too, so it often separates further pairs: those
are not searched. A pair that no input parts is kept with the reason; it is one class as far as labels go.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast._files import write_atomic
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.evidence import canonical
from holdfast.execution import Progress
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.checks import Demands
from holdfast.identification.border.find import border
from holdfast.identification.border.found import Search
from holdfast.identification.border.inputs import BorderInput
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.border.probe_sets import ProbeSet, named_right, probe_set
from holdfast.identification.matching_tree import probe_tree
from holdfast.models.subject import evaluating

PAIRS_TYPE = "holdfast.border-pairs/v1"


@dataclass(frozen=True)
class Pairs:
    """What was found among all pairs.

    Attributes:
        inputs: border inputs, in the order in which they were found.
        folders: where each was written, relative; empty without a folder.
        alike: pairs that no input parted, with the reason.
        chosen: the fewest inputs whose labels separate all that any of them do.
        right: by platform, whether labels from a process of its own lead to the class that it is in.
    """

    inputs: tuple[BorderInput, ...]
    folders: tuple[str, ...]
    alike: dict[tuple[str, str], str]
    chosen: ProbeSet
    right: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "type": PAIRS_TYPE,
            "inputs": [
                {"folder": folder, "labels": item.labels}
                for folder, item in itertools.zip_longest(self.folders, self.inputs, fillvalue="")
                if isinstance(item, BorderInput)
            ],
            "alike": [{"pair": list(pair), "reason": reason} for pair, reason in self.alike.items()],
            "chosen": list(self.chosen.inputs),
            "classes": [list(group) for group in self.chosen.classes],
            "right": self.right,
        }


def border_pairs(
    model: nn.Module,
    data: Dataset,
    *,
    platforms: Sequence[str],
    search: Search | None = None,
    demands: Demands | None = None,
    batch: int | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> Pairs:
    """Separate every pair of ``platforms`` that can be, and name each of them from labels of a fresh process.

    Args:
        model: an image classifier.
        data: images to start from.
        platforms: names of settings of this machine, two or more.
        search: as for :func:`border`.
        demands: as for :func:`border`.
        batch: images in one pass.
        seed: of the searches.
        folder: each input is written to ``ONE--OTHER/`` below it, and ``pairs.json`` beside; the same call goes on.
        progress: called with pairs done and all.

    Raises:
        InvalidConfig: fewer than two platforms, or one named twice.
        VerificationError: no pair could be parted.
    """
    if len(set(platforms)) < max(2, len(platforms)):
        raise InvalidConfig("pairs are made of two platforms or more, each named once")
    found, folders, alike = list[BorderInput](), list[str](), dict[tuple[str, str], str]()
    pairs = list(itertools.combinations(platforms, 2))
    for done, (one, other) in enumerate(pairs):
        if not any(_parts(item, one, other) for item in found):
            rest = [name for name in platforms if name not in (one, other)]
            place = None if folder is None else Path(folder) / f"{one}--{other}".replace(":", "-")
            try:
                more = border(model, data, platforms=[one, other, *rest], search=search, demands=demands, batch=batch,
                              seed=seed, folder=place)  # fmt: skip
            except VerificationError as error:
                alike[one, other] = str(error)
            else:
                found.append(more.inputs[0])
                folders += [] if place is None else [place.name]
        if progress is not None:
            progress(done + 1, len(pairs))
    if not found:
        raise VerificationError(f"no pair of {len(pairs)} could be parted: {next(iter(alike.values()))}")
    result = _judged(model, Lattice.of(data), platforms, batch, (found, folders, alike))
    if folder is not None:
        write_atomic(Path(folder) / "pairs.json", canonical.dumps(result.to_json()))
    return result


def _parts(item: BorderInput, one: str, other: str) -> bool:
    labels = item.labels[one], item.labels[other]
    return None not in labels and labels[0] != labels[1]


def _judged(
    model: nn.Module,
    lattice: Lattice,
    platforms: Sequence[str],
    batch: int | None,
    parts: tuple[list[BorderInput], list[str], dict[tuple[str, str], str]],
) -> Pairs:
    found, folders, alike = parts
    table = {name: [item.labels[name] for item in found] for name in platforms}
    chosen, tree, right = probe_set(table), probe_tree(table), dict[str, bool]()
    with evaluating(model), open_oracles(model, platforms, lattice, batch=batch) as oracles:
        for oracle in oracles:
            right[oracle.name] = named_right(tree, chosen, oracle.name, _fresh_labels(oracle, found))
    return Pairs(tuple(found), tuple(folders), alike, chosen, right)


def _fresh_labels(oracle: Oracle, found: Sequence[BorderInput]) -> list[int]:
    """Return the labels that a new interpreter gives, each image in a batch of copies of itself."""
    images = torch.cat([item.image.expand(oracle.batch, *item.image.shape) for item in found])
    logits = oracle.fresh(images)
    if logits is None:
        logits = oracle.logits(images)
    return [int(label) for label in logits[:: oracle.batch].argmax(1)]
