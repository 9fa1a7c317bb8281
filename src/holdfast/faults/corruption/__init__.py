"""Corruptions composed of a pattern and a value."""

from holdfast.faults.corruption.catalogue import Pattern, Region, Value, patterns, values
from holdfast.faults.corruption.effects import (
    FlipMask,
    FlippedBits,
    Infinite,
    NotANumber,
    RandomBits,
    SetTo,
    StuckBits,
    Uniform,
    Zero,
)
from holdfast.faults.corruption.law import Corruption
from holdfast.faults.corruption.power_law import PowerLaw
from holdfast.faults.corruption.shapes import (
    Block,
    BulletWake,
    Channel,
    Column,
    EccWord,
    GemmTile,
    Mbu,
    Row,
    Scattered,
    Shattered,
    Single,
    SkipX,
)
from holdfast.faults.corruption.value_classes import Histogram, ValueClasses, read_value_classes

__all__ = [
    "Block",
    "BulletWake",
    "Channel",
    "Column",
    "Corruption",
    "EccWord",
    "FlipMask",
    "FlippedBits",
    "GemmTile",
    "Histogram",
    "Infinite",
    "Mbu",
    "NotANumber",
    "Pattern",
    "PowerLaw",
    "RandomBits",
    "Region",
    "Row",
    "Scattered",
    "SetTo",
    "Shattered",
    "Single",
    "SkipX",
    "StuckBits",
    "Uniform",
    "Value",
    "ValueClasses",
    "Zero",
    "patterns",
    "read_value_classes",
    "values",
]
