"""The lattice of stored pixels: what an image API takes, and the only place where border inputs are looked for.

HSPI (Zhang et al., ICML 2025) searches in the space of normalised floats and rounds at the end, so what it saves is not
what the net saw. Here every candidate is a stored image, and the preprocessing of the data stands between it and the
net in the search, in the checks and in the saved file alike.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from holdfast.data import Dataset, Preprocessing
from holdfast.data.dataset import UNLABELLED
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.seeds import Seed, derive

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Lattice:
    """Images of one shape whose pixels are the whole numbers 0..``top``, and how a net reads them.

    Attributes:
        shape: (channels, height, width); 1 or 3 channels, as PNG files have.
        preprocessing: from stored pixels to network inputs.
    """

    shape: tuple[int, int, int]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.shape[0] not in _MODES:
            raise InvalidConfig(f"images of shape {self.shape} are no PNG files", hint="1 or 3 channels, 8 bits each")

    @classmethod
    def of(cls, data: Dataset) -> Lattice:
        """Return the lattice that ``data`` lies on.

        Raises:
            InvalidConfig: its pixels are not uint8, or it has other than 1 or 3 channels.
        """
        if data.raw.dtype != torch.uint8:
            raise InvalidConfig(f"{data.name} holds {data.raw.dtype} pixels", hint="border inputs are 8-bit images")
        channels, height, width = data.raw.shape[1:]
        return cls((channels, height, width), data.preprocessing)

    @property
    def top(self) -> int:
        """The brightest pixel: what preprocessing scales to 1, such as 16 for the digits; 255 where that is no byte."""
        level = round(1 / self.preprocessing.scale) if self.preprocessing.scale > 0 else 255
        return level if 1 <= level <= 255 else 255

    def dataset(self, raw: Tensor) -> Dataset:
        """Return images (n, c, h, w), uint8, as an unlabelled dataset with this preprocessing."""
        return Dataset("border", raw, torch.full((len(raw),), UNLABELLED), (), self.preprocessing)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return network inputs of ``pixels`` (n, c, h, w), uint8 or float32; differentiable in float32 pixels."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.preprocessing.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.preprocessing.std, device=pixels.device).view(shape)
        return (pixels.float() * self.preprocessing.scale - mean) / std  # the same operations as Dataset.inputs

    def noise(self, count: int, seed: Seed | int) -> Tensor:
        """Return ``count`` images of uniform pixels, uint8: neighbours that mean nothing."""
        drawn = derive(seed, "border", "noise").numpy().integers(0, self.top + 1, (count, *self.shape))
        return torch.from_numpy(drawn.astype("uint8"))


def png_bytes(image: Tensor) -> bytes:
    """Return ``image`` (c, h, w), uint8, as a lossless PNG."""
    mode = _MODES.get(image.shape[0])
    if mode is None or image.dtype != torch.uint8:
        raise InvalidConfig(f"{tuple(image.shape)} {image.dtype} is no PNG", hint="1 or 3 channels of uint8")
    out, plain = io.BytesIO(), image.permute(1, 2, 0).contiguous()
    Image.fromarray((plain[:, :, 0] if mode == "L" else plain).numpy(), mode=mode).save(out, "PNG")
    return out.getvalue()


def png_pixels(data: bytes, what: str = "image") -> Tensor:
    """Return the pixels of a PNG, uint8 (c, h, w).

    Raises:
        UnreadableArtifact: not a PNG of 8-bit grey or colour pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode not in _MODES.values():
                raise UnreadableArtifact(f"{what} has {image.mode} pixels, not 8-bit grey or RGB")
            octets, size, channels = image.tobytes(), image.size, len(image.getbands())
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableArtifact(f"{what} is no PNG: {error}") from error
    flat = torch.frombuffer(bytearray(octets), dtype=torch.uint8)
    return flat.view(size[1], size[0], channels).permute(2, 0, 1).contiguous()
