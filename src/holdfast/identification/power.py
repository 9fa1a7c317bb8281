"""How much a defence leaves of the power to identify: measured with the identifier, and with an adversary who adapts.

The identifier compares bits and compensates rounding. Noise it cannot undo, so a second adversary who knows that noise
was added takes the reference nearest in the sense of least squares: the best there is against Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion, Trace
from holdfast.identification.identifier import Identifier


@dataclass(frozen=True, slots=True)
class IdentificationPower:
    """What is left of identification.

    Attributes:
        named: share of traces whose platform, and no other, was named.
        narrowed: share whose platform is in the answer, and some known platform is not.
        wrong: share with an answer that leaves their platform out and is not ``unknown``.
        nearest: share whose platform is the nearest in least squares, the first where several are; guessing gives one
            over the number of platforms.
        classes: distinct classes among the references, the fewest of all experiments.
    """

    named: Proportion
    narrowed: Proportion
    wrong: Proportion
    nearest: Proportion
    classes: int


def identification_power(trials: Sequence[tuple[Mapping[str, Trace], Mapping[str, Trace]]]) -> IdentificationPower:
    """Measure how often platforms are told from what is sent.

    Args:
        trials: for each experiment the references (as computed, or as defended where the adversary can run that too)
            and the targets (as sent), by platform. Experiments differ in model or probes: these are the units that are
            independent, as far as platforms are.

    Raises:
        InvalidConfig: no trial.
    """
    if not trials:
        raise InvalidConfig("identification power is measured on one experiment or more")
    counts = dict.fromkeys(("named", "narrowed", "wrong", "nearest"), 0)
    total, classes = 0, len(trials[0][0])
    for references, targets in trials:
        identifier = Identifier().fit(list(references.items()))
        classes = min(classes, len(identifier.classes_))
        for platform, target in targets.items():
            labels = identifier.predict(target).labels
            counts["named"] += labels == (platform,)
            counts["narrowed"] += platform in labels and not set(references) <= set(labels)
            counts["wrong"] += platform not in labels and labels != ("unknown",)
            counts["nearest"] += nearest(identifier.classes_, target.outputs)[0] == platform
            total += 1
    found = {name: Proportion.clopper_pearson(count, total) for name, count in counts.items()}
    return IdentificationPower(**found, classes=classes)


def nearest(classes: Sequence[tuple[tuple[str, ...], Tensor]], outputs: Tensor) -> tuple[str, ...]:
    """Return the labels of the class with the least squared distance to ``outputs``, the first of equals."""
    wide = outputs.reshape(len(outputs), -1).double()
    return min(classes, key=lambda item: float((item[1].double() - wide).square().sum()))[0]
