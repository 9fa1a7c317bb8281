"""One arm of an experiment: train, quantise, and measure on common chips; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Augmentation, Dataset, augmentation
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.lineage import Step
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import MeanEstimate, Progress, accuracy, describe_platform, robust_error
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, card, load, model_subject, save
from holdfast.models.whitening import whitening_of
from holdfast.quantization import placed, quantize
from holdfast.signing import Signer
from holdfast.signing.lineage import Circumstances, write_steps
from holdfast.signing.lineage.origins import resource_of
from holdfast.training.compute import Compute
from holdfast.training.experiments.experiment import Arm, Experiment
from holdfast.training.journal import Journal
from holdfast.training.loop import train
from holdfast.training.whitening import whiten

KIND = "experiment-arm"
_PLAN, _MODEL, _RECORD = "plan.json", "model", "record.json"
_SNAPSHOTS = 20  # in a training, evenly spread
_BATCH, _WIDE_BATCH = 128, 1000  # images of a forward pass; a GPU wants more of them
Announce = Callable[[str], Progress]


@dataclass(frozen=True)
class Setting:
    """What all arms of a run share."""

    experiment: Experiment
    train: Dataset
    test: Dataset
    folder: Path
    seed: int
    compute: Compute
    announce: Announce
    signer: Signer | None = None  # of the lineage of the models

    @property
    def augment(self) -> Augmentation | None:
        """What happens to training images, fitted to them."""
        specs = self.experiment.augment
        return augmentation(specs, self.train) if specs else None


def run_arm(setting: Setting, arm: Arm) -> Record:
    """Return the record of ``arm``: clean error, and error on chips at each rate in both definitions.

    The folder ``setting.folder / arm.name`` keeps snapshots, the model as stored and every rate measured, so the
    same call goes on where an earlier one stopped.

    Raises:
        InvalidConfig: the folder holds the same arm of another experiment; what differs is named.
    """
    folder = setting.folder / arm.name
    plan = _claimed(folder, _plan(setting, arm))
    if (folder / _RECORD).exists():
        return Record.from_bytes(read_bytes(folder / _RECORD, "record"))
    model = _model(setting, arm, folder)
    with placed(model, setting.compute.device):
        measured = _measured(setting, arm, model, folder)
    record = Record(
        kind=KIND,
        subject=model_subject(model, arm.name),
        procedure=plan,
        measured=measured,
        inputs={"train": setting.train.digest, "test": setting.test.digest},
        facts={"title": arm.title or arm.name, "published": published(setting.experiment, arm)},
        seed=setting.seed,
        platform=describe_platform().to_json(),
        tool={"name": "holdfast", "version": version("holdfast")},
    )
    write_atomic(folder / _RECORD, record.to_bytes())
    return record


def published(experiment: Experiment, arm: Arm) -> dict[str, Any] | None:
    """Return what a paper prints for ``arm`` under the names of our own measurements, as shares of one."""
    if arm.published is None:
        return None
    pairs = zip(experiment.rates, arm.published.robust, strict=True)
    values = {robust_name(rate): _share(value) for rate, value in pairs if value == value}  # nan: nothing printed
    if arm.published.clean == arm.published.clean:
        values["clean-error"] = _share(arm.published.clean)
    return {"source": arm.published.source or experiment.source, "values": values}


def robust_name(rate: float, *, or_clean: bool = False) -> str:
    """Return the name of a measurement: images wrong after the errors, or wrong before or after."""
    return f"robust-error{'-or-clean' if or_clean else ''}@p={rate:g}"


def _plan(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Return every parameter that an arm's results depend on."""
    experiment = setting.experiment
    return {
        "type": KIND,
        "version": "1",
        "experiment": experiment.name,
        "scale": experiment.scale,
        "architecture": arm.architecture or experiment.architecture,
        "recipe": {key: list(value) if isinstance(value, tuple) else value for key, value in arm.recipe.items()},
        "format": arm.format,
        "post_training": arm.post_training,
        "schedule": asdict(experiment.schedule),
        "augment": list(experiment.augment),
        "rates": list(experiment.rates),
        "chips": experiment.chips,
        "robust_images": len(_robust_set(setting)),
        "train": setting.train.digest,
        "test": setting.test.digest,
        "device": _place(setting),
        "seed": str(setting.seed),
    }


def _place(setting: Setting) -> str:
    """Return the device, and what else decides over the last bits of a training."""
    means = setting.compute
    others = [means.precision] * (means.precision != "float32") + ["compiled"] * means.compile
    return ", ".join([means.device, *others, *(["graphs"] * means.graphs)])


def _claimed(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Write ``plan`` into ``folder``, or require that it is the one there."""
    path = folder / _PLAN
    if path.exists():
        found = canonical.loads(read_bytes(path, "plan"), what=str(path))
        wanted = canonical.loads(canonical.dumps(plan), what="plan")
        differing = sorted(key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key])
        if differing:
            hint = "choose another folder, or delete that one to start over"
            raise InvalidConfig(f"{folder} holds a run with another {', '.join(differing)}", hint=hint)
    else:
        write_atomic(path, canonical.dumps(plan))
    return plan


def _model(setting: Setting, arm: Arm, folder: Path) -> nn.Module:
    """Return the trained and quantised model, from the folder if it is there."""
    experiment = setting.experiment
    architecture = arm.architecture or experiment.architecture
    if (folder / _MODEL / "model.json").exists():
        return load(folder / _MODEL, arch=architecture)
    model = build_architecture(architecture, seed=setting.seed)
    card(model).lineage.append(Step("build", {"architecture": architecture, "seed": str(setting.seed)}))
    if whitening_of(model) is not None:
        model = whiten(model, setting.train)
    trained = train(
        model,
        setting.train,
        arm.build(experiment.schedule),
        seed=setting.seed,
        augment=setting.augment,
        compute=setting.compute,
        journal=Journal(folder=folder / "training", every=max(1, experiment.schedule.epochs // _SNAPSHOTS)),
        progress=setting.announce(f"train {arm.name}"),
    )
    result = quantize(trained, arm.format)
    save(result, folder / _MODEL)
    write_steps(
        folder / _MODEL, setting.signer, circumstances=Circumstances(known=(resource_of(setting.train, "data"),))
    )
    return result


def _measured(setting: Setting, arm: Arm, model: nn.Module, folder: Path) -> dict[str, Measurement]:
    """Return all measurements; the chips of each rate are kept as soon as they are done."""
    progress = setting.announce(f"errors {arm.name}")
    found = {"clean-error": _wrong(accuracy(model, setting.test).measurement())}
    for done, rate in enumerate(setting.experiment.rates):
        path = folder / "rates" / f"{rate:g}.json"
        if not path.exists():
            write_atomic(path, canonical.dumps(_chips(setting, model, rate)))
        errors = canonical.loads(read_bytes(path, "errors of chips"), what=str(path))
        for or_clean in (False, True):
            mean = MeanEstimate.of_shares(errors["or-clean" if or_clean else "after"])
            found[robust_name(rate, or_clean=or_clean)] = mean.measurement("proportion", least=0.0, most=1.0)
        progress(done + 1, len(setting.experiment.rates))
    return found


def _chips(setting: Setting, model: nn.Module, rate: float) -> dict[str, list[float]]:
    """Return the error of each chip, in both definitions."""
    count, fault = setting.experiment.chips, BitErrors(rate=rate)
    size = _BATCH if setting.compute.device == "cpu" else _WIDE_BATCH
    error = robust_error(model, _robust_set(setting), fault, chips=count, seed=setting.seed, batch_size=size)
    return {"after": list(error.per_chip), "or-clean": list(error.per_chip_or_clean)}


def _robust_set(setting: Setting) -> Dataset:
    count = setting.experiment.test_images
    return setting.test if count is None else setting.test.take(count)


def _wrong(right: Measurement) -> Measurement:
    return Measurement(1 - right.value, 1 - right.high, 1 - right.low, right.n, right.unit)


def _share(percent: float) -> float:
    return round(percent / 100, 6)
