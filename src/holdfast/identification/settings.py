"""Names of settings: a platform that this machine can be, or a number format that it emulates."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast._registry import unknown
from holdfast.identification.emulated import EMULATED, EmulatedFormat
from holdfast.identification.platforms import LISTED_BY, LOCAL_PLATFORMS, LocalPlatform

_PREFIX = "emulated:"


@dataclass(frozen=True, slots=True)
class EmulatedSetting:
    """A number format of accelerators in place of a platform: this machine computes, and the name says so."""

    format: EmulatedFormat
    batch_size: int = 32
    environment: dict[str, str] = field(default_factory=dict)  # none: it needs no process of its own

    @property
    def name(self) -> str:
        """``emulated:`` and the tag."""
        return _PREFIX + self.format.name


Setting = LocalPlatform | EmulatedSetting


def platform_of(name: str) -> Setting:
    """Return a setting of this machine, or else an emulated format: ``bf16``, ``int8-dynamic``, ``emulated:bf16``.

    Raises:
        UnknownName: there is none of that name.
    """
    if name in LOCAL_PLATFORMS:
        return LOCAL_PLATFORMS[name]
    tag = name.removeprefix(_PREFIX)
    if tag not in EMULATED:
        known = [*LOCAL_PLATFORMS, *(_PREFIX + item for item in EMULATED)]
        raise unknown("platform", name, known, listed_by=LISTED_BY)
    return EmulatedSetting(EMULATED[tag])
