"""Which tensors of a safetensors file belong together, and in which scheme: told by their names, shapes and config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from holdfast._files import read_bytes
from holdfast.errors import HoldfastError, InvalidConfig, UnreadableArtifact, UnsupportedFormat
from holdfast.numerics.formats.affine import Real
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.gptq import Convention, awq, compressed_tensors, gptq
from holdfast.quantization.adapters.layout import Extent, Layout, floating, real_of, require_stored
from holdfast.quantization.adapters.nf4 import STATE, read_nf4

Extents = Mapping[str, Extent]
Memory = Mapping[str, Octets]
Config = Mapping[str, Any]  # what the producing tool wrote beside the file
_LONGEST_CONFIG = 10_000_000
_CONVENTIONS: Mapping[str, Convention] = {"gptq": "v1", "gptq_v2": "v2"}


def config_beside(path: Path) -> Config:
    """Return ``quantize_config.json`` beside ``path``, or ``quantization_config`` of ``config.json``, or nothing."""
    for name in ("quantize_config.json", "config.json"):
        if not (path.parent / name).is_file():
            continue
        try:
            value = json.loads(read_bytes(path.parent / name, "config", limit=_LONGEST_CONFIG))
        except (ValueError, RecursionError) as error:
            raise UnreadableArtifact(f"{path.parent / name} is no JSON: {error}") from error
        found = value.get("quantization_config") if isinstance(value, dict) and name == "config.json" else value
        if isinstance(found, dict):
            return found
    return {}


def layouts_of(extents: Extents, memory: Memory, config: Config) -> tuple[dict[str, Layout], dict[str, HoldfastError]]:
    """Return the layouts by tensor name, and the stored tensors that are not read, with the reason.

    Of ``memory``, the bytes of the stored tensors, only the shapes that some schemes store are looked at.

    Raises:
        UnreadableArtifact: a quantised weight that is not whole or does not fit together.
        UnsupportedFormat: a variant of a scheme that is not known.
        InvalidConfig: the config contradicts the file.
    """
    found: dict[str, Layout] = {}
    unread: dict[str, HoldfastError] = {}
    for name in extents:
        try:
            layout = _layout(name, extents, memory, config)
        except UnsupportedFormat as error:
            if not name.endswith(STATE):
                raise
            weight = name.removesuffix(STATE)
            unread |= {other: error for other in extents if other == weight or other.startswith(f"{weight}.")}
            continue
        if layout is not None:
            require_stored(layout, extents)
            found[layout.name] = layout
    taken = {stored for layout in found.values() for stored in layout.stored}
    for name in sorted(extents.keys() - taken - unread.keys()):
        try:
            found[name] = floating(name, extents[name])
        except UnsupportedFormat as error:
            unread[name] = error
    return found, unread


def _layout(name: str, extents: Extents, memory: Memory, config: Config) -> Layout | None:
    if name.endswith(".qweight"):
        return _words(name, extents, config)
    if name.endswith(".weight_packed"):
        return _pack_quantized(name, extents, memory, config)
    return read_nf4(name, extents, memory) if name.endswith(STATE) else None


def _words(qweight: str, extents: Extents, config: Config) -> Layout:
    """GPTQ and AWQ share their names; the direction of packing shows in the shapes."""
    prefix = qweight.removesuffix("qweight")
    words, zeros, scales = (_matrix(extents, f"{prefix}{tail}") for tail in ("qweight", "qzeros", "scales"))
    method = config.get("quant_method")
    if method not in (None, "gptq", "awq"):
        raise UnsupportedFormat(f"{qweight} belongs to method {method!r}", hint="gptq and awq are read")
    if method == "awq" or (method is None and words[1] * 8 == scales[1]):
        return _awq(prefix, words, scales, extents, config)
    outputs, scale = scales[1], cast(Real, real_of(extents, f"{prefix}scales"))
    bits = zeros[1] * 32 // outputs if outputs else 0
    if bits not in (2, 3, 4, 8):
        raise UnreadableArtifact(f"{qweight}: {zeros[1]} words of zeros for {outputs} outputs make no width")
    inputs = words[0] * 32 // bits
    if "dynamic" not in config:  # which gives layers widths of their own
        _require_same(config, "bits", bits, qweight)
    size = _group_size(config, inputs, scales[0], qweight)
    act = f"{prefix}g_idx" in extents
    if not act and config.get("desc_act"):
        raise UnreadableArtifact(f"the file lacks {prefix}g_idx", hint="its config says that columns are reordered")
    return gptq(
        f"{prefix}weight", (outputs, inputs), bits=bits, size=size, convention=_convention(config), scale=scale, act=act
    )


def _awq(prefix: str, words: tuple[int, int], scales: tuple[int, int], extents: Extents, config: Config) -> Layout:
    if str(config.get("version", "gemm")).lower() != "gemm":
        raise UnsupportedFormat(f"{prefix}qweight is AWQ {config['version']}", hint="the GEMM layout is read")
    _require_same(config, "bits", 4, f"{prefix}qweight")
    size = _group_size(config, words[0], scales[0], f"{prefix}qweight")
    return awq(
        f"{prefix}weight", (scales[1], words[0]), size=size, scale=cast(Real, real_of(extents, f"{prefix}scales"))
    )


def _pack_quantized(packed: str, extents: Extents, memory: Memory, config: Config) -> Layout:
    name = packed.removesuffix("_packed")
    shape, scales = _stored_shape(f"{name}_shape", extents, memory), _matrix(extents, f"{name}_scale")
    return compressed_tensors(
        name,
        shape,
        bits=_width(packed, config),
        size=_group_size({}, shape[1], scales[1], packed),
        scale=cast(Real, real_of(extents, f"{name}_scale")),
        zeros=f"{name}_zero_point" in extents,
        act=f"{name}_g_idx" in extents,
    )


def _stored_shape(name: str, extents: Extents, memory: Memory) -> tuple[int, int]:
    if name not in extents or (extents[name].dtype, extents[name].shape) != ("I64", (2,)):
        raise UnreadableArtifact(f"the file lacks {name}, I64 [2]", hint="pack-quantized weights store their shape")
    rows, columns = (int.from_bytes(side, "little") for side in np.split(memory[name], 2))
    if max(rows, columns) >= 2**32:
        raise UnreadableArtifact(f"{name} claims {rows} x {columns}")
    return rows, columns


def _width(packed: str, config: Config) -> int:
    """Return the one width of all groups of layers in a compressed-tensors config; 4 without a config."""
    groups = config.get("config_groups", {})
    weights = [group.get("weights") for group in _values(groups) if isinstance(group, dict)]
    widths = [item.get("num_bits") for item in weights if isinstance(item, dict)]
    if any(type(width) is not int or width != widths[0] or not 2 <= width <= 8 for width in widths):
        raise UnsupportedFormat(f"{packed} has widths {widths}", hint="one width for all, 2 to 8, is read")
    return cast(int, widths[0]) if widths else 4


def _values(groups: object) -> list[object]:
    if not isinstance(groups, dict):
        raise InvalidConfig("config_groups is no table of groups")
    return list(groups.values())


def _convention(config: Config) -> Convention:
    spelled = config.get("checkpoint_format", "gptq")
    if spelled in ("v1", "v1-unwrapped", "v2"):
        return cast(Convention, spelled)
    if not isinstance(spelled, str) or spelled not in _CONVENTIONS:
        raise UnsupportedFormat(f"GPTQ of format {spelled!r} is not read", hint="gptq and gptq_v2 are")
    return _CONVENTIONS[spelled]


def _group_size(config: Config, inputs: int, groups: int, name: str) -> int:
    size = config.get("group_size")
    if size is None:
        if not groups or inputs % groups:
            raise UnsupportedFormat(f"{name}: {groups} groups do not divide {inputs} inputs", hint="pass group_size")
        return max(inputs // groups, 1)
    if type(size) is not int or (size < 1 and size != -1):
        raise InvalidConfig(f"group_size is {size!r}", hint="a positive number, or -1 for one group per output")
    size = max(inputs, 1) if size == -1 else size
    if -(-inputs // size) != groups:
        raise UnreadableArtifact(f"{name} has {groups} groups, its config says one per {size} of {inputs} inputs")
    return size


def _require_same(config: Config, key: str, found: int, name: str) -> None:
    if config.get(key, found) != found:
        raise UnreadableArtifact(f"{name} has {found} {key}, its config says {config[key]!r}")


def _matrix(extents: Extents, name: str) -> tuple[int, int]:
    if name not in extents:
        raise UnreadableArtifact(f"the file lacks {name}", hint="a quantised weight is not whole without it")
    shape = extents[name].shape
    if len(shape) != 2:
        raise UnreadableArtifact(f"{name} has shape {list(shape)}, not a matrix")
    return shape[0], shape[1]
