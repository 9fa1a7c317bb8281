"""Training that withstands bit errors, beside standard training."""

from holdfast.training.compute import Compute
from holdfast.training.journal import Journal
from holdfast.training.loop import train
from holdfast.training.recipes import (
    AdversarialBitErrorTraining,
    Alternating,
    DeSimilarity,
    RandomBitErrorTraining,
    Recipe,
    Standard,
    recipes,
)

__all__ = [
    "AdversarialBitErrorTraining",
    "Alternating",
    "Compute",
    "DeSimilarity",
    "Journal",
    "RandomBitErrorTraining",
    "Recipe",
    "Standard",
    "recipes",
    "train",
]
