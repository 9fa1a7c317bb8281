"""Containers of tensors: the strict parsers by themselves, against the formats' own readers, and behind a signature."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import numpy as np
import safetensors

from holdfast.errors import UnsupportedVersion
from holdfast.evidence.containers import Slot, index_for
from holdfast.signing import generate_key
from holdfast.signing.manifests import write_manifest
from holdfast.signing.opened import open_verified
from holdfast.signing.opened.gguf import open_gguf
from holdfast.signing.opened.safetensors import load_file
from holdfast.signing.trusts import KeyTrust

from .damage import mutate_binary, mutate_safetensors
from .driver import ForgeryFound, Target
from .folder import Folder
from .samples import gguf_sample, npz_sample, safetensors_sample


class OnlyOurs(UnsupportedVersion):
    """We accept what the format's own reader refuses: no forgery, since nobody is told anything else, yet counted."""


def parsed(name: str, data: bytes) -> tuple[Slot, ...]:
    """Return the slots of ``data``; none may leave it or share a byte with another."""
    index = index_for(name)
    assert index is not None
    slots = index(lambda offset, length: _exactly(data, offset, length), len(data))
    reached = 0
    for slot in slots:
        if slot.offset < reached or slot.offset + slot.length > len(data) or len({s.name for s in slots}) != len(slots):
            raise ForgeryFound(f"{slot} of {data!r}")
        reached = slot.offset + slot.length
    return slots


def _exactly(data: bytes, offset: int, length: int) -> bytes:
    if offset < 0 or length < 0 or offset + length > len(data):
        raise ForgeryFound(f"the parser reads {offset}:{offset + length} of {len(data)} bytes")
    return data[offset : offset + length]


def against_safetensors(data: bytes) -> None:
    """Whatever our parser accepts, the format's own reader must read as the same tensors."""
    slots = parsed("m.safetensors", data)
    try:
        other = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise OnlyOurs(f"only we accept it: {error}") from error
    theirs = {name: (tuple(item["shape"]), bytes(item["data"])) for name, item in other}
    ours = {slot.name: (slot.shape, data[slot.offset : slot.offset + slot.length]) for slot in slots}
    if ours != theirs or {n: i["dtype"].lower() for n, i in other} != {slot.name: slot.dtype for slot in slots}:
        raise ForgeryFound(f"read in two ways: {data!r}")


def against_numpy(data: bytes) -> None:
    """Likewise for archives of arrays; numpy also compares checksums, and may refuse what we index."""
    slots = parsed("m.npz", data)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            theirs = {slot.name: archive[slot.name] for slot in slots}
    except Exception as error:  # numpy and zipfile raise a dozen kinds
        raise OnlyOurs(f"only we accept it: {error}") from error
    for slot in slots:
        value = theirs[slot.name]
        if value.shape != slot.shape or value.tobytes() != data[slot.offset : slot.offset + slot.length]:
            raise ForgeryFound(f"{slot.name} is read in two ways: {data!r}")


def _as_bytes(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    flat = tensor.reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return str(tensor.dtype), tuple(tensor.shape), data


def _loaded(path: Any, trust: KeyTrust) -> Any:
    if path.suffix == ".safetensors":
        return {name: _as_bytes(value) for name, value in load_file(path, trust=trust).items()}
    if path.suffix == ".gguf":
        with open_gguf(path, trust=trust) as opened:
            return dict(opened.metadata), {name: opened.get_array(name).tobytes() for name in opened.tensors}
    with open_verified(path, trust) as opened:
        return {name: _as_bytes(value) for name, value in opened.get_tensors().items()}


def _behind_signature(name: str, good: bytes, damage: Callable[[Random, bytes], bytes], strict: bool) -> Target:
    """A signed file on disk; without ``strict``, opened in the way that never looks at the file's own header."""
    key, folder = generate_key("ed25519"), Folder()
    path = folder.hold({name: good}) / name
    signature = write_manifest(path, key).read_bytes()
    trust = KeyTrust(key.public)

    def use(data: bytes) -> Any:
        folder.hold({name: data, f"{name}.sig2": signature})
        if strict:
            return _loaded(path, trust)
        with open_verified(path, trust, strict=False) as opened:
            return {item: _as_bytes(opened.get_tensor(item)) for item in opened.keys()}  # noqa: SIM118  no mapping

    return Target(name=f"signed {name}{'' if strict else ', lazy'}", good=good, damage=damage, use=use)


def container_targets() -> list[Callable[[], Target]]:
    """Makers of the targets."""
    archive = partial(mutate_binary, front=0)
    header = partial(mutate_binary, front=len(gguf_sample()) - 192)
    free = {"same": False}  # an unsigned file may say anything
    tensors, ggml, arrays = safetensors_sample(), gguf_sample(), npz_sample()
    return [
        lambda: Target(name="safetensors", good=tensors, damage=mutate_safetensors, use=against_safetensors, **free),
        lambda: Target(name="gguf", good=ggml, damage=header, use=partial(parsed, "m.gguf"), **free),
        lambda: Target(name="npz", good=arrays, damage=archive, use=against_numpy, **free),
        lambda: _behind_signature("m.safetensors", tensors, mutate_safetensors, True),
        lambda: _behind_signature("m.safetensors", tensors, mutate_safetensors, False),
        lambda: _behind_signature("m.gguf", ggml, header, True),
        lambda: _behind_signature("m.npz", arrays, archive, True),
    ]
