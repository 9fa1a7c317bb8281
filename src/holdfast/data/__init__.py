"""Datasets and probes: real files read strictly, in a fixed order; a digest binds labels and preprocessing."""

from holdfast.data import autoaugment, cifar, digits, idx, image_folder, synthetic  # noqa: F401  (they register themselves
from holdfast.data.augmentation import Augmentation, augmentation, augmentations
from holdfast.data.catalogue import dataset, datasets
from holdfast.data.dataset import UNLABELLED, Dataset, Preprocessing
from holdfast.data.kinds import require_data, require_images
from holdfast.data.probes import probes
from holdfast.data.text import Text, is_text, text
from holdfast.data.tokenizer import Tokenizer, read_tokenizer

__all__ = [
    "UNLABELLED",
    "Augmentation",
    "Dataset",
    "Preprocessing",
    "Text",
    "Tokenizer",
    "augmentation",
    "augmentations",
    "dataset",
    "datasets",
    "is_text",
    "probes",
    "read_tokenizer",
    "require_data",
    "require_images",
    "text",
]
