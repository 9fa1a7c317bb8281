"""Training that withstands bit errors, beside standard training."""

from holdfast.training.loop import train
from holdfast.training.recipes import RandomBitErrorTraining, Recipe, Standard, recipes

__all__ = ["RandomBitErrorTraining", "Recipe", "Standard", "recipes", "train"]
