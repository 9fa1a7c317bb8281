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
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # wider ones would be cut off at white
_BROKEN = (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, EOFError)
_SPLITS = ("train", "test")


@datasets.register("folder")
def image_folder(
    root: str,
    split: str = "test",
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    resize: int | None = None,
) -> Dataset:
    """Return the images below ``root`` as RGB uint8 (n, 3, height, width).

    Classes are the sorted sub-folder names, images come in sorted order; hidden folders and files of other kinds are
    passed over, and pixels stay as stored (no rotation by EXIF, no alpha channel). Where ``root`` has a folder
    ``train`` or ``test`` with class folders in it, the one named by ``split`` is read; otherwise ``root`` itself.

    Args:
        root: the folder.
        split: ``train`` or ``test``.
        mean: per channel, on a 0..1 scale.
        std: per channel.
        resize: side in pixels to resize to (bilinear); without it all images must have one size.

    Raises:
        UnreadableArtifact: no classes, no images, no such split, a broken image, or two sizes; the file is named.
        InvalidConfig: another split, or a size below one.
    """
    if split not in _SPLITS:
        raise InvalidConfig(f"an image folder has no split {split!r}", hint="train or test")
    if resize is not None and resize < 1:
        raise InvalidConfig(f"cannot resize images to {resize} pixels")
    folder = _split_folder(Path(root), split)
    classes = _folders(folder)
    files = [(path, label) for label, name in enumerate(classes) for path in _images(folder / name)]
    if not files:
        raise UnreadableArtifact(f"{folder} holds no images", hint="one sub-folder per class, with PNG, JPEG or WebP")
    raw = torch.from_numpy(_stacked([path for path, _ in files], resize)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([label for _, label in files])
    return Dataset(f"folder/{folder.name}", raw, labels, tuple(classes), Preprocessing(1 / 255, mean, std))


def _split_folder(root: Path, split: str) -> Path:
    """Return ``root/split``, or ``root`` where neither split has a folder (a class may be called train, too)."""
    if not root.is_dir():
        raise UnreadableArtifact(f"no folder at {root}")
    splits = [name for name in _SPLITS if (root / name).is_dir() and _folders(root / name)]
    if splits and split not in splits:
        raise UnreadableArtifact(f"{root} has a folder {splits[0]} and none for {split}")
    return root / split if splits else root


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )


def _stacked(files: list[Path], resize: int | None) -> np.ndarray:
    """Return the decoded files, uint8 (n, height, width, 3)."""
    first = _decoded(files[0], resize)
    whole = np.empty((len(files), *first.shape), np.uint8)
    for place, path in enumerate(files):
        pixels = _decoded(path, resize)
        if pixels.shape != first.shape:
            sizes = [f"{width}x{height}" for height, width, _ in (pixels.shape, first.shape)]
            raise UnreadableArtifact(
                f"{path} is {sizes[0]}, {files[0].name} is {sizes[1]}", hint="give resize=N to bring all to one size"
            )
        whole[place] = pixels
    return whole


def _decoded(path: Path, resize: int | None) -> np.ndarray:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode not in _MODES:
                raise UnreadableArtifact(f"{path} has {image.mode} pixels, which 8 bits a channel cannot hold")
            rgb = image.convert("RGB")
    except _BROKEN as error:
        raise UnreadableArtifact(f"{path} is not a readable image: {error}") from error
    if resize is not None:
        rgb = rgb.resize((resize, resize), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
