"""Holdfast: know what you run, where it runs, and that it holds.

    >>> import holdfast
    >>> model = holdfast.load("model/", trust="author.pub")
    >>> with holdfast.inject(model, holdfast.BitErrors(rate=0.001), at="weights", seed=7) as faulty:
    ...     faulty(images)

Four families of verbs are the whole face. **Vouch**: :func:`load`, :func:`sign`, :func:`verify`, :func:`check`.
**Transform** (model in, new model out): :func:`quantize`, :func:`train`, :func:`harden`. **Perturb** (context
managers): :func:`inject`, :func:`shield`. **Observe**: :func:`run`, :func:`campaign`, :func:`assess` and the
measures beside them. Each name is imported on first use, so importing this package loads no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import _lazy

if TYPE_CHECKING:
    from holdfast.assessment.assess import assess
    from holdfast.data import dataset, probes
    from holdfast.execution.campaign import campaign
    from holdfast.execution.compare import compare
    from holdfast.execution.injection import inject
    from holdfast.execution.language import language_robustness
    from holdfast.execution.robustness import accuracy, robust_error
    from holdfast.execution.run import run
    from holdfast.execution.sensitivity import sensitivity
    from holdfast.faults import BitErrors, BitFlip, Protected, inject_file
    from holdfast.faults.adversarial.attack import attack
    from holdfast.hardening import RangeRestriction
    from holdfast.hardening.harden import harden
    from holdfast.hardening.profile import profile
    from holdfast.identification import Identifier
    from holdfast.identification.border.find import border
    from holdfast.models.artifact import save
    from holdfast.models.sites import select, sites
    from holdfast.numerics.formats import formats
    from holdfast.policy import check
    from holdfast.quantization.quantize import codes, quantize
    from holdfast.shielding import Freivalds, shield
    from holdfast.signing.datasets import verified
    from holdfast.signing.lineage import TrainingRun, verify_lineage
    from holdfast.signing.opened import open_verified
    from holdfast.signing.verbs import load, sign, verify
    from holdfast.training import RandomBitErrorTraining, Standard, train
    from holdfast.training.recipes.protocol import Schedule

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped as the docstring groups them
    "load", "save", "dataset", "probes", "sites", "select", "formats",
    "sign", "verify", "open_verified", "verified", "verify_lineage", "check",
    "quantize", "codes", "train", "TrainingRun", "Schedule", "Standard", "RandomBitErrorTraining",
    "harden", "profile", "RangeRestriction",
    "inject", "inject_file", "BitErrors", "BitFlip", "Protected", "attack", "shield", "Freivalds",
    "run", "compare", "campaign", "robust_error", "sensitivity", "language_robustness", "accuracy",
    "Identifier", "border", "assess",
]  # fmt: skip

_EXPORTS = {
    "BitErrors": "holdfast.faults:BitErrors",
    "BitFlip": "holdfast.faults:BitFlip",
    "Freivalds": "holdfast.shielding:Freivalds",
    "Identifier": "holdfast.identification:Identifier",
    "Protected": "holdfast.faults:Protected",
    "RandomBitErrorTraining": "holdfast.training:RandomBitErrorTraining",
    "RangeRestriction": "holdfast.hardening:RangeRestriction",
    "Schedule": "holdfast.training.recipes.protocol:Schedule",
    "Standard": "holdfast.training:Standard",
    "TrainingRun": "holdfast.signing.lineage:TrainingRun",
    "accuracy": "holdfast.execution.robustness:accuracy",
    "attack": "holdfast.faults.adversarial.attack:attack",
    "assess": "holdfast.assessment.assess:assess",
    "border": "holdfast.identification.border.find:border",
    "campaign": "holdfast.execution.campaign:campaign",
    "check": "holdfast.policy:check",
    "codes": "holdfast.quantization.quantize:codes",
    "compare": "holdfast.execution.compare:compare",
    "dataset": "holdfast.data:dataset",
    "formats": "holdfast.numerics.formats:formats",
    "harden": "holdfast.hardening.harden:harden",
    "inject": "holdfast.execution.injection:inject",
    "inject_file": "holdfast.faults:inject_file",
    "language_robustness": "holdfast.execution.language:language_robustness",
    "load": "holdfast.signing.verbs:load",
    "open_verified": "holdfast.signing.opened:open_verified",
    "probes": "holdfast.data:probes",
    "profile": "holdfast.hardening.profile:profile",
    "quantize": "holdfast.quantization.quantize:quantize",
    "robust_error": "holdfast.execution.robustness:robust_error",
    "run": "holdfast.execution.run:run",
    "save": "holdfast.models.artifact:save",
    "sensitivity": "holdfast.execution.sensitivity:sensitivity",
    "select": "holdfast.models.sites:select",
    "shield": "holdfast.shielding:shield",
    "sign": "holdfast.signing.verbs:sign",
    "sites": "holdfast.models.sites:sites",
    "train": "holdfast.training:train",
    "verified": "holdfast.signing.datasets:verified",
    "verify": "holdfast.signing.verbs:verify",
    "verify_lineage": "holdfast.signing.lineage:verify_lineage",
}

__getattr__, __dir__ = _lazy.attach(__name__, _EXPORTS)
