"""Batches on a CUDA device: the digests of their elements and the sum of their lanes, made where the batch lies.

The encoding is that of :mod:`holdfast.data.commitments.element`, labels and keys included; the batch is laid out as
those bytes once, on the device, and what comes to the host is 2 KiB of lanes, or the digests when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast._kernels.device import attempt, obstacle
from holdfast.data.commitments.element import ELEMENT_CONTEXT, Encoder, name_bytes, prefixed, u64
from holdfast.data.commitments.multiset import EXPANSION_CONTEXT, MultisetHash
from holdfast.errors import InvalidConfig, MissingDevice


@dataclass(frozen=True, slots=True, eq=False)
class BatchSum:
    """What a batch comes to.

    Attributes:
        digests: of its elements, uint8, shape (batch, 32), on the device.
        lanes: their sum, int64, shape (1024,), each below 2**16, on the device; add up ranks, then take modulo 2**16.
        size: bytes of all fields.
    """

    digests: Tensor
    lanes: Tensor
    size: int

    def multiset(self) -> MultisetHash:
        """Return the batch as a multiset, which waits for the device."""
        lanes = self.lanes.cpu().numpy().astype(np.uint16)
        return MultisetHash.from_lanes(lanes, len(self.digests), self.size)


def sum_batch(encoder: Encoder, keys: Sequence[str], fields: Mapping[str, Tensor]) -> BatchSum:
    """Return digests and lanes of a batch whose fields are tensors on one device, samples first.

    Args:
        encoder: of the dataset.
        keys: of the samples, in order.
        fields: name -> values of all samples, shape (batch, ...); a scalar label has shape (batch,).

    Raises:
        InvalidConfig: fields of another length, or none, or a name or key without an encoding.
        MissingDevice: no kernel can do it there; the message says why.
    """
    if not fields or any(len(item) != len(keys) for item in fields.values()):
        raise InvalidConfig(f"every field has one value for each of {len(keys)} samples, and there is one at least")
    ordered = sorted(fields.items(), key=lambda item: name_bytes(item[0], "field name"))
    for _, item in ordered:
        if (why := obstacle(item)) is not None:
            raise MissingDevice(f"no kernel can digest the batch: {why}", hint="digest it on the CPU")
    from holdfast._kernels.digest import Plan
    from holdfast._kernels.lattice import lane_sums

    def made() -> BatchSum:
        digests = Plan(tuple(_rows(encoder, keys, ordered)), context=ELEMENT_CONTEXT).roots()
        return BatchSum(digests, lane_sums(digests, EXPANSION_CONTEXT), sum(item.nbytes for item in fields.values()))

    first = ordered[0][1]
    if (found := attempt(made, first.device)) is None:
        raise MissingDevice(f"no kernel can digest the batch: {obstacle(first)}", hint="digest it on the CPU")
    return found


def _rows(encoder: Encoder, keys: Sequence[str], ordered: list[tuple[str, Tensor]]) -> list[Tensor]:
    """Return each sample's encoding, uint8, on the device; samples whose keys are equally long are laid out at once."""
    schema = tuple((name, str(item.dtype).removeprefix("torch."), tuple(item.shape[1:])) for name, item in ordered)
    heads = [encoder.prefix(schema) + prefixed(name_bytes(key, "key")) for key in keys]
    parts = [item.detach().reshape(len(keys), -1).view(torch.uint8).reshape(len(keys), -1) for _, item in ordered]
    rows: list[Tensor | None] = [None] * len(keys)
    for length in sorted({len(head) for head in heads}):
        places = [place for place, head in enumerate(heads) if len(head) == length]
        block = _block([heads[place] for place in places], [_chosen(part, places) for part in parts])
        for place, row in zip(places, block, strict=True):
            rows[place] = row
    return [row for row in rows if row is not None]


def _block(heads: list[bytes], parts: list[Tensor]) -> Tensor:
    """Return heads and fields side by side, uint8, shape (samples, bytes)."""
    device, count = parts[0].device, len(heads)
    columns = [torch.frombuffer(bytearray(b"".join(heads)), dtype=torch.uint8).view(count, -1).to(device)]
    for part in parts:
        size = torch.frombuffer(bytearray(u64(part.shape[1])), dtype=torch.uint8).to(device)
        columns += [size.expand(count, 8), part]
    return torch.cat(columns, 1)


def _chosen(part: Tensor, places: list[int]) -> Tensor:
    return part if len(places) == len(part) else part[torch.tensor(places, device=part.device)]
