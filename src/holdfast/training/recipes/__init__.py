"""Training recipes, each a frozen dataclass beside its citation."""

from holdfast.training.recipes.adversarial_bit_error import AdversarialBitErrorTraining
from holdfast.training.recipes.alternating import Alternating
from holdfast.training.recipes.de_similarity import DeSimilarity
from holdfast.training.recipes.protocol import Loss, Recipe, Schedule, recipes
from holdfast.training.recipes.random_bit_error import RandomBitErrorTraining
from holdfast.training.recipes.standard import Standard

__all__ = [
    "AdversarialBitErrorTraining",
    "Alternating",
    "DeSimilarity",
    "Loss",
    "RandomBitErrorTraining",
    "Recipe",
    "Schedule",
    "Standard",
    "recipes",
]
