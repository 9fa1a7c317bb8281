"""Where bits live in a model, how they are read, tapped, guarded, saved and loaded."""

from holdfast.models.artifact import load, save
from holdfast.models.cache import KeyValueCache
from holdfast.models.card import Card, card
from holdfast.models.catalogue import architectures, build_architecture
from holdfast.models.guard import Guard, OperandGuard, Operands, WholeModelGuard, alarms_of, attach_guard, guards
from holdfast.models.identity import manifest_of, model_subject
from holdfast.models.internals import Unfused
from holdfast.models.lens import Lens, attach_lens
from holdfast.models.site import KINDS, Site
from holdfast.models.sites import select, sites
from holdfast.models.stored import Stored, stored
from holdfast.models.tap import Tap, tap

__all__ = [
    "KINDS",
    "Card",
    "Guard",
    "KeyValueCache",
    "Lens",
    "OperandGuard",
    "Operands",
    "Site",
    "Stored",
    "Tap",
    "Unfused",
    "WholeModelGuard",
    "alarms_of",
    "architectures",
    "attach_guard",
    "attach_lens",
    "build_architecture",
    "card",
    "guards",
    "load",
    "manifest_of",
    "model_subject",
    "save",
    "select",
    "sites",
    "stored",
    "tap",
]
