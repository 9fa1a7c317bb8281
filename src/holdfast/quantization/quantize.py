"""Post-training quantisation of weights to real codes."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite, UnsupportedFormat
from holdfast.evidence.lineage import Step
from holdfast.models import attach_lens, card, manifest_of, select
from holdfast.numerics.formats import Encoded, FixedPoint, Format, formats


def quantize(model: nn.Module, format: str = "int8", *, clip: float | None = None, at: str = "weights") -> nn.Module:
    """Return a copy of ``model`` whose selected parameters are stored as codes of ``format``.

    Ranges are derived once, here, and kept beside the codes; they are never derived again.

    Args:
        model: a float model; unchanged.
        format: name or specification, e.g. ``int8``, ``rquant4``, ``mxfp4``, ``fixed-point:bits=3,signed=false``.
        clip: clip weights to [-clip, clip] first (Stutz et al.'s w_max); fixed-point formats only.
        at: selection of ``weights`` sites.

    Raises:
        InvalidConfig: a selected parameter is quantised already, or ``clip`` with a floating-point format.
        NoSuchSite: ``at`` selects no weights.
        UnsupportedFormat: a weight holds what the format cannot, such as NaN; the first is named.
    """
    chosen = _format(format, clip)
    result = copy.deepcopy(model)
    for site in select(result, at):
        if site.kind != "weights":
            raise NoSuchSite(f"{site.address} is not a weight", hint="write at='weights:...'")
        attach_lens(result, site.name, chosen, _encoded(chosen, site.name, result.get_parameter(site.name)))
    step = Step("quantize", {"format": chosen.name, "at": at}, {"model": manifest_of(model).digest})
    card(result).lineage.append(step)
    return result


def _encoded(chosen: Format, name: str, weight: Tensor) -> Encoded:
    try:
        return chosen.encode(weight)
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{name}: {error}", hint=error.hint) from error


def _format(spec: str, clip: float | None) -> Format:
    chosen = formats.build(spec)
    if clip is None:
        return chosen
    if not isinstance(chosen, FixedPoint):
        raise InvalidConfig(f"{spec} has no clip", hint="clip goes with fixed-point formats")
    return dataclasses.replace(chosen, clip=clip)


def codes(model: nn.Module, name: str) -> Tensor:
    """Return the integer codes of parameter ``name``, shaped like it.

    Raises:
        NoSuchSite: the parameter is not quantised.
    """
    lenses = card(model).lenses
    if name not in lenses:
        raise NoSuchSite(f"{name} is not stored as codes", hint="quantize the model first")
    return lenses[name].codes
