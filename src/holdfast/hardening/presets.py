"""What the peers do, by their names, so that a comparison is one command.

Ranger: Chen, Li and Pattabiraman, DSN 2021. FT-ClipAct: Hoang, Hanif and Shafique, DATE 2020. FitAct: Ghavami et al.,
DATE 2022. MaxiMals: Roquet et al., DAC 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.hardening.activations import Followed, activation_sites, followers
from holdfast.hardening.binding import require_same_values
from holdfast.hardening.calibration import Calibration, calibrate
from holdfast.hardening.capture import capture
from holdfast.hardening.guards.hardened_identity import HardenedIdentityGuard, identity_census
from holdfast.hardening.guards.range_guard import RangeGuard
from holdfast.hardening.guards.range_protection import RangeProtection
from holdfast.hardening.harden import Method, methods
from holdfast.models.subject import evaluating
from holdfast.models.tap import Watch

_PRESET = "preset:"


def method_of(spec: str) -> Method:
    """Build ``range:per=channel``, ``preset:ranger`` or another registered method.

    Raises:
        UnknownName: there is none of that name; the nearest are shown.
        InvalidConfig: options it does not take.
    """
    if not spec.startswith(_PRESET):
        return methods.build(spec)
    name, comma, options = spec.removeprefix(_PRESET).partition(",")
    return methods.build(f"preset-{name.partition(':')[0]}{':' if comma else ''}{options}")


@dataclass(frozen=True, kw_only=True)
class Maximals:
    """One pair of bounds for a whole model, at every ``nn.Identity`` that the published code would find.

    Attributes:
        low: lower bound.
        high: upper bound.
        sites: the calls of those identities.
        profile: digest of the data the bounds come from.
        values_digest: of the model they come from.
    """

    low: float
    high: float
    sites: tuple[str, ...]
    profile: str = ""
    values_digest: str = ""

    def guards(self, model: nn.Module) -> list[HardenedIdentityGuard]:
        """Return one guard for each call of a found identity.

        Raises:
            DigestMismatch: the bounds are of another model.
        """
        require_same_values(model, self.values_digest)
        return [HardenedIdentityGuard(site, self.low, self.high) for site in self.sites]

    def describe(self) -> dict[str, Any]:
        """Return the bounds and how many places they guard."""
        parameters = {"method": "preset:maximals", "low": self.low, "high": self.high, "sites": len(self.sites)}
        return parameters | {"profile": self.profile}


@methods.register("preset-maximals")
@dataclass(frozen=True, slots=True, kw_only=True)
class MaximalsMethod:
    """NaN to zero, then clamp, at identities; bounds are the extremes over all of them times 1.3, to whole numbers."""

    slack: float = 1.3
    decimals: int = 0

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Maximals:
        """Profile the identities on ``data``.

        Raises:
            InvalidConfig: no data.
            NoSuchSite: the model has no such identity, or none that computes.
        """
        images = _required(data)
        found = calibrate(model, images, identity_calls(model, images.example))
        low = min(float(item.low) for item in found.sites.values())
        high = max(float(item.high) for item in found.sites.values())
        return Maximals(
            low=round(low * self.slack, self.decimals),
            high=round(high * self.slack, self.decimals),
            sites=tuple(found.sites),
            profile=found.data_digest,
            values_digest=found.values_digest,
        )


def identity_calls(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Return the places of every call of the identities that :func:`identity_census` finds.

    Raises:
        NoSuchSite: there is none.
    """
    paths, calls = set(identity_census(model)), dict[str, None]()

    def visit(name: str, value: Tensor) -> Tensor:
        calls[name] = None
        return value

    with Watch(model, visit, modules=paths, functional=False):
        _run_once(model, example)
    if not calls:
        raise NoSuchSite("the model has no nn.Identity that computes", hint="guard with range, which needs none")
    return tuple(calls)


@methods.register("preset-ranger")
@dataclass(frozen=True, slots=True, kw_only=True)
class RangerMethod:
    """Clamp activations to the range they showed, and pools and concatenations of them to the same; NaN passes."""

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Ranger:
        """Profile the activations on ``data``.

        Raises:
            InvalidConfig: no data.
            NoSuchSite: the model computes no activation.
        """
        images = _required(data)
        computation = capture(model, images.example)
        found = calibrate(model, images, activation_sites(computation))
        return Ranger(calibration=found, followed=followers(computation, found))


@dataclass(frozen=True, kw_only=True)
class Ranger:
    """Clamps at activations, and at what merely moves or averages their values."""

    calibration: Calibration
    followed: tuple[Followed, ...] = ()

    def guards(self, model: nn.Module) -> list[RangeGuard]:
        """Return a clamp for each activation and each follower.

        Raises:
            DigestMismatch: the calibration is of another model.
        """
        own = RangeProtection(calibration=self.calibration, slack=1.0, nan="keep").guards(model)
        return own + [RangeGuard(item.site, item.low, item.high, nan="keep") for item in self.followed]

    def describe(self) -> dict[str, Any]:
        """Return the method and how many places it guards."""
        sites = len(self.calibration.sites) + len(self.followed)
        return {"method": "preset:ranger", "sites": sites} | self.calibration.describe()


@methods.register("preset-clip-act")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClipActMethod:
    """Set activations beyond the largest that their layer showed to zero.

    The thresholds are the profiled maxima, from which FT-ClipAct starts; its search for smaller ones is not done.
    """

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Clipped:
        """Profile the activations on ``data``.

        Raises:
            InvalidConfig: no data.
            NoSuchSite: the model computes no activation.
        """
        images = _required(data)
        sites = activation_sites(capture(model, images.example))
        return Clipped(name="preset:clip-act", calibration=calibrate(model, images, sites))


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """Activations outside their range become zero, NaN too."""

    name: str
    calibration: Calibration

    def guards(self, model: nn.Module) -> list[RangeGuard]:
        """Return a guard for each activation.

        Raises:
            DigestMismatch: the calibration is of another model.
        """
        return RangeProtection(calibration=self.calibration, slack=1.0, action="zero").guards(model)

    def describe(self) -> dict[str, Any]:
        """Return the method and how many places it guards."""
        return {"method": self.name, "sites": len(self.calibration.sites)} | self.calibration.describe()


@methods.register("preset-fitact")
@dataclass(frozen=True, slots=True, kw_only=True)
class FitActMethod:
    """Set each activation beyond the largest that its own neuron showed to zero.

    The bounds are the profiled maxima of the neurons, from which FitAct starts; its fine-tuning is not done.
    """

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Clipped:
        """Profile the neurons on ``data``.

        Raises:
            InvalidConfig: no data.
            NoSuchSite: the model computes no activation.
        """
        images = _required(data)
        sites = activation_sites(capture(model, images.example))
        return Clipped(name="preset:fitact", calibration=calibrate(model, images, sites, per="element"))


def _required(data: Dataset | None) -> Dataset:
    if data is None:
        raise InvalidConfig("this preset learns its bounds from clean data", hint="pass calibration data")
    return data


def _run_once(model: nn.Module, example: Tensor) -> None:
    with torch.no_grad(), evaluating(model):
        model(example.unsqueeze(0))
