"""Border inputs of one model asked of others: published transferability; and platforms named from labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from holdfast.identification.border.again import Again, recorded_on
from holdfast.identification.border.asking import in_full_batches
from holdfast.identification.border.inputs import BorderSet
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.border.probe_sets import ProbeSet, named_right, probe_set
from holdfast.identification.border.setting import recorded_setting
from holdfast.identification.border.votes import Transfer, transfer
from holdfast.identification.matching_tree import probe_tree
from holdfast.models.subject import evaluating


def transferred(kept: BorderSet, models: Mapping[str, nn.Module]) -> Transfer:
    """Ask other models, on the two platforms of each border input, and judge what the votes name.

    As in :func:`recheck`, this machine answers for a platform that a rank brought, in batches of the recorded size.

    Raises:
        InvalidConfig: no models, or a platform that is no setting of this machine.
    """
    recorded = recorded_on(kept.inputs)
    images, answers = torch.stack([item.image for item in kept.inputs]), dict[tuple[str, str], list[int]]()
    for title, model in models.items():
        for name in sorted({name for item in kept.inputs for name in item.pair}):
            setting = recorded_setting(name, recorded[name][0][1].batch)
            with evaluating(model), open_oracles(model, [setting], kept.lattice) as (oracle,):
                answers[title, name] = in_full_batches(oracle, images, images).argmax(1).tolist()
    return transfer(kept.inputs, answers)


@dataclass(frozen=True)
class Naming:
    """How few labels name the platforms that were asked, and whether labels of today name them.

    Attributes:
        chosen: the fewest inputs, from the recorded labels alone.
        asked: inputs that the decision tree asks about, at most.
        right: by platform, whether today's labels lead to the class that it is in.
    """

    chosen: ProbeSet
    asked: int
    right: dict[str, bool]


def naming(found: Sequence[Again]) -> Naming | None:
    """Choose inputs from the labels that were recorded and name each platform from those that were seen now.

    Returns:
        None where fewer than two platforms were asked, or not about the same inputs.
    """
    then, now = dict[str, dict[int, int | None]](), dict[str, dict[int, int | None]]()
    for item in found:
        then.setdefault(item.recorded.platform, {})[item.number] = item.recorded.label
        now.setdefault(item.recorded.platform, {})[item.number] = item.found.label
    if len(then) < 2 or len({tuple(sorted(row)) for row in then.values()}) != 1:
        return None
    table = {name: [row[number] for number in sorted(row)] for name, row in then.items()}
    chosen, tree = probe_set(table), probe_tree(table)
    right = {
        name: named_right(tree, chosen, name, [row[number] for number in sorted(row)]) for name, row in now.items()
    }
    return Naming(chosen, tree.worst, right)
