"""The exact population of a model: every place where bits live, counted once.

A place is found by running the model, not by listing its modules: what never computes is not a site.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Container, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models.card import card
from holdfast.models.census import Flowing, Run, float_site, flowing, stored_format
from holdfast.models.site import KINDS, Site
from holdfast.models.subject import require_open
from holdfast.numerics import bits

_NAMED = 8  # places in a warning
_log = logging.getLogger(__name__)
TRACED = ("activations", "inputs", "outputs", "internals")  # kinds that are found by running the model
_ELSEWHERE = {
    "cache": "holdfast.execution.inject_generation",
    "gradients": "holdfast.execution.inject_training",
    "moments": "holdfast.execution.inject_training",
}
_WHY_NONE = {
    "weights": "only registered parameters count: layers in a list are found in nn.ModuleList",
    "qparams": "holdfast.quantize stores some",
    "offload": "a model has them inside holdfast.shield",
}


def sites(
    model: nn.Module, example: Tensor | None = None, *, internals: bool = False, run: Run | None = None
) -> tuple[Site, ...]:
    """Return all sites of ``model`` in a fixed order.

    Args:
        model: any module; a session that offloads layers adds its own ``offload`` sites.
        example: one input sample, shape (...) without batch; needed to find what flows. None lists stored sites only.
        internals: also list the steps of fused operators, which are then computed step by step.
        run: what one computation is, where it is not ``model(batch)``. Of several forward passes, such as those that
            make a text, the last one counts, and the cache it starts from.
    """
    found, flows = _known(model, example, internals, run)
    return tuple(site for site in found if site not in flows.twins)


def _known(model: nn.Module, example: Tensor | None, internals: bool, run: Run | None) -> tuple[list[Site], Flowing]:
    """Return all sites, and what flows."""
    require_open(model)
    found = [*_parameters(model), *_buffers(model), *_qparams(model)]
    flows = Flowing([], {}, []) if example is None else flowing(model, example, internals, run)
    found += flows.sites
    if (offload := getattr(model, "offload_sites", None)) is not None:
        found += offload()
    return found, flows


def _parameters(model: nn.Module) -> list[Site]:
    lenses = card(model).lenses
    return [
        Site("weights", name, tuple(value.shape), lenses[name].format.name, lenses[name].format.bits)
        if name in lenses
        else float_site("weights", name, value, tuple(value.shape))
        for name, value in model.named_parameters()
    ]


def _buffers(model: nn.Module) -> list[Site]:
    floats = ((name, value) for name, value in model.named_buffers() if value.is_floating_point())
    return [float_site("buffers", name, value, tuple(value.shape)) for name, value in floats]


def _qparams(model: nn.Module) -> list[Site]:
    """Return the scales, offsets and zero points beside stored codes, as ``qparams:PARAMETER/KEY``."""
    return [
        Site("qparams", f"{name}/{key}", tuple(value.shape), stored_format(value.dtype), bits.bit_width(value.dtype))
        for name, _ in model.named_parameters()
        if (lens := card(model).lenses.get(name)) is not None
        for key, value in lens.stored_qparams().items()
    ]


def select(
    model: nn.Module, at: str = "weights", example: Tensor | None = None, *, run: Run | None = None
) -> tuple[Site, ...]:
    """Return the sites that ``at`` selects: comma-separated ``kind:glob``; a bare kind means all of it.

    ``**`` and ``*`` match anything within a name; ``run`` is as in :func:`sites`.

    Raises:
        NoSuchSite: a part matches nothing; the hint shows the nearest names.
        InvalidConfig: an unknown kind, flowing sites asked for without an example input, an example that the model does
            not take, or a model whose parts cannot be reached.
    """
    parts = [_parse(part) for part in at.split(",")]
    if example is None and any(kind in TRACED for kind, _ in parts):
        raise InvalidConfig(f"finding {at!r} takes a forward pass", hint="pass example=, one input sample")
    if special := [kind for kind, _ in parts if kind in _ELSEWHERE and not (kind == "cache" and run)]:
        raise InvalidConfig(f"a forward pass of one input has no {special[0]}", hint=_ELSEWHERE[special[0]])
    known, flows = _known(model, example, any(kind == "internals" for kind, _ in parts), run)
    found = chosen(known, at, dict(model.named_modules()))
    _tell([name for name in flows.left_out if any(k == "activations" and fnmatchcase(name, g) for k, g in parts)])
    return tuple(site for site in found if flows.twins.get(site) not in found)  # no bit twice


def _tell(left_out: Sequence[str]) -> None:
    """Log the places that a selection asks for and does not get: it would pass them over without a word.

    Recurrent and transformer layers of torch compute (tokens, batch, features) unless told otherwise.
    """
    if left_out:
        some = ", ".join(left_out[:_NAMED]) + (", ..." if len(left_out) > _NAMED else "")
        what = "1 place holds its" if len(left_out) == 1 else f"{len(left_out)} places hold their"
        _log.warning("%s samples along another dimension than the first, and cannot be struck: %s", what, some)


def chosen(known: Sequence[Site], at: str, modules: Container[str] = ()) -> tuple[Site, ...]:
    """Return the sites among ``known`` that ``at`` selects, in their order; ``modules`` only sharpens the message.

    Raises:
        NoSuchSite: a part matches nothing; the hint shows the nearest names.
        InvalidConfig: an unknown kind.
    """
    parts = [_parse(part) for part in at.split(",")]
    for kind, glob in parts:
        if not any(_matches(site, kind, glob) for site in known):
            raise _no_such(modules, kind, glob, known)
    return tuple(site for site in known if any(_matches(site, kind, glob) for kind, glob in parts))


def _parse(part: str) -> tuple[str, str]:
    kind, _, glob = part.strip().partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"kinds: {', '.join(KINDS)}"
        raise InvalidConfig(f"unknown kind of site {kind!r}", hint=hint)
    return kind, glob or "**"


def _matches(site: Site, kind: str, glob: str) -> bool:
    return site.kind == kind and fnmatchcase(site.name, glob)


def _no_such(modules: Container[str], kind: str, glob: str, known: Sequence[Site]) -> NoSuchSite:
    names = [site.name for site in known if site.kind == kind]
    if kind == "activations" and glob in modules:
        return NoSuchSite(
            f"the module {glob} never computes an output of its own", hint="its parent calls it another way"
        )
    if not names:
        return NoSuchSite(f"no site matches {kind}:{glob}, as the model has no {kind}", hint=_WHY_NONE.get(kind, ""))
    if not names:
        return NoSuchSite(f"no site matches {kind}:{glob}, as the model has no {kind}", hint=_WHY_NONE.get(kind, ""))
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
    return NoSuchSite(f"no site matches {kind}:{glob}", hint=f"nearest: {', '.join(near)}")
