"""A folder of images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing
from holdfast.errors import InvalidConfig, UnreadableArtifact

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@datasets.register("folder")
def image_folder(
    root: str,
    split: str = "test",
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    resize: int | None = None,
) -> Dataset:
    """Return the images below ``root`` (or ``root/split`` where that exists) as RGB uint8 (n, 3, height, width).

    Classes are the sorted sub-folder names, images come in sorted order.

    Args:
        root: the folder.
        split: used only when ``root`` has a sub-folder of that name.
        mean: per channel, on a 0..1 scale.
        std: per channel.
        resize: side in pixels to resize to (bilinear); without it all images must have one size.

    Raises:
        UnreadableArtifact: no classes, no images, a broken image, or two sizes; the file is named.
    """
    folder = Path(root) / split if (Path(root) / split).is_dir() else Path(root)
    if not folder.is_dir():
        raise UnreadableArtifact(f"no folder at {folder}")
    if resize is not None and resize < 1:
        raise InvalidConfig(f"cannot resize images to {resize} pixels")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in _images(folder / name)]
    if not files:
        raise UnreadableArtifact(f"{folder} holds no images", hint="one sub-folder per class, with PNG, JPEG or WebP")
    arrays = [_decode(path, resize) for path, _ in files]
    for (path, _), array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise UnreadableArtifact(
                f"{path} is {array.shape[1::-1]}, others {arrays[0].shape[1::-1]}", hint="resize=N"
            )
    raw = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([label for _, label in files])
    return Dataset(f"folder/{folder.name}", raw, labels, tuple(classes), Preprocessing(1 / 255, mean, std))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _decode(path: Path, resize: int | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnreadableArtifact(f"{path} is not a readable image: {error}") from error
    if resize is not None:
        rgb = rgb.resize((resize, resize), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
