"""The known inputs that ``--probes`` names for a model on this machine: one meaning in every verb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset

FIXED = "fixed:"
PER_MODEL = "64"
_DIGITS = 18  # more are no number of anything, and longer texts than int() takes


def known_probes(model: nn.Module, wanted: str, shape: str | None, seed: int) -> Dataset:
    """Return ``64`` inputs drawn from the seed, or ``fixed:4``, the first of the list that the package fixes.

    Raises:
        InvalidConfig: neither, or no shape that the model or ``shape`` tells.
    """
    from holdfast.data import probes
    from holdfast.identification.probe_nets import probe_inputs

    size = input_shape(model, shape)
    count = probe_count(wanted)
    return probe_inputs(count, size) if wanted.startswith(FIXED) else probes(n=count, shape=size, seed=seed)


def probe_count(wanted: str) -> int:
    """Return N of ``N`` or ``fixed:N``."""
    number = wanted.removeprefix(FIXED)
    if not number.isascii() or not number.isdigit() or len(number) > _DIGITS or int(number) < 1:
        raise InvalidConfig(
            f"a model is run on a number of probe inputs, not on {wanted!r:.60}",
            hint="--probes 64, or --probes fixed:4",
        )
    return int(number)


def input_shape(model: nn.Module, given: str | None) -> tuple[int, ...]:
    """Return the shape that the command line gives, or else the model's card."""
    from holdfast.models import card

    try:
        size = tuple(int(side) for side in given.split("x")) if given else card(model).input_shape
    except ValueError:
        raise InvalidConfig(f"{given!r} is no shape", hint="--shape 3x32x32") from None
    if size is None:
        raise InvalidConfig("the model does not say its input shape", hint="--shape 3x32x32")
    return size
