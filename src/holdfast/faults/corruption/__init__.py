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
    "Zero",
    "patterns",
    "values",
]
