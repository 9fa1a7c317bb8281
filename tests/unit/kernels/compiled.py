"""Compiles every kernel for the GPUs named on the command line; needs Triton, its assembler, and no GPU.

``python -m tests.unit.kernels.compiled 80 90`` prints a line per kernel: name, architecture, bytes of machine code.
"""

from __future__ import annotations

import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from holdfast._kernels import (
    blake3_heads,
    blake3_tree,
    checksums,
    chip_events,
    decode,
    encode,
    flips,
    gemm_checksum,
    int8_planes,
    lattice,
    ranges,
)
from holdfast._kernels.int8_layers import TILES

_TABLE, _COUNT, _LONG, _NODES = "*i64", "i32", "i64", "*i32"
KERNELS: list[tuple[Any, dict[str, str], dict[str, int | bool], int]] = [
    (
        blake3_tree.chunk_nodes,
        dict.fromkeys(("starts", "lengths", "bodies", "heads", "covered", "key"), _TABLE)
        | {"nodes": _NODES, "ranges": _COUNT, "steps": _COUNT, "total": _LONG, "flags": _COUNT, "capacity": _LONG},
        {"LANES": 32, "SHIFTED": shifted},
        1,
    )
    for shifted in (False, True)
]
KERNELS.append(
    (
        blake3_heads.fill_heads,
        {"table": _TABLE, "prefixes": "*u8", "heads": "*u8"},
        {"LANES": 1024, "PIECES": blake3_heads.PIECES},
        4,
    )
)
KERNELS.append(
    (
        blake3_tree.merge_tiles,
        dict.fromkeys(("starts", "counts", "depths", "key"), _TABLE)
        | {"nodes": _NODES, "ranges": _COUNT, "steps": _COUNT, "flags": _COUNT, "capacity": _LONG},
        {"TILE": 1024, "LANES": 128},
        4,
    )
)
KERNELS += [
    (
        chip_events.mark_events,
        dict.fromkeys(("starts", "table", "poisson"), _TABLE)
        | {"out": _TABLE if listed else _NODES, "bands": _COUNT, "entries": _COUNT, "least": _COUNT}
        | {"start": _LONG, "stop": _LONG},
        {"COUNTERS": 168, "TIES": 336, "MOST": 1342, "LANES": 32, "LISTED": listed, "FIELDS": chip_events.FIELDS},
        1,
    )
    for listed in (False, True)
]
_OCTETS = {"octets": "*u8", "flags": "*u8", "counts": _TABLE, "size": _LONG}
_LISTED = {"words": _LONG, "addresses": _TABLE, "total": _LONG, "first": _LONG, "skip": _COUNT}
_TWO = {"left": "*u8", "right": "*u8", "counts": _TABLE, "size": _LONG}
KERNELS += [(flips.xor_listed, _LISTED, {"BITS": bits, "LANES": 256}, 4) for bits in (3, 8)]
for _kind in ("*u8", "*i32"):
    KERNELS += [
        (flips.xor_map, _OCTETS | {"octets": _kind, "flags": _kind}, {"LANES": 2048}, 4),
        (flips.count_bits, _TWO | {"left": _kind, "right": _kind}, {"LANES": 2048, "TWO": True}, 4),
    ]
_RANGES = {"table": "*bf16", "events": _NODES, "size": _LONG, "inner": _LONG, "bounds": _LONG, "parts": _LONG}
KERNELS += [
    (
        ranges.restrict,
        {"values": "*bf16"} | _RANGES,
        {"ACTION": action, "KEEP": keep, "ONE": keep, "EVEN": keep, "LANES": 2048},
        4,
    )
    for action in range(3)
    for keep in (False, True)
]
_ROWS = dict.fromkeys(("signs", "column", "gram", "law"), "*fp64") | {"wrong": "*i8"}
_SUMS = {"sums": "*fp64", "squares": "*fp64", "rows": _COUNT, "columns": _COUNT, "part": _COUNT}
KERNELS += [
    (
        checksums.check_rows,
        {"x": "*bf16", "y": "*bf16"} | _ROWS | {"rows": _COUNT, "inputs": _COUNT, "outputs": _COUNT},
        {"ROWS": 8, "COLUMNS": 256},
        4,
    ),
    (checksums.sum_columns, {"matrix": "*bf16"} | _SUMS, {"ROWS": 32, "COLUMNS": 32}, 4),
]
_PRODUCT = dict.fromkeys(("signs", "column", "gram", "parts", "columns"), "*fp32")
_PRODUCT |= dict.fromkeys(("rows", "outputs", "inputs"), _COUNT)
KERNELS += [
    (
        gemm_checksum.multiply_and_sum,
        dict.fromkeys(("x", "w", "bias", "y"), kind) | _PRODUCT,
        {"BIAS": biased, "COLUMNS": not biased, "PRECISION": precision, "ROWS": 128, "OUTPUTS": 128, "INPUTS": 64},
        8,
    )
    for kind, precision in (("*bf16", "ieee"), ("*fp32", "tf32"))
    for biased in (False, True)
]
_JUDGED = {"parts": "*fp32", "numbers": "*fp64", "wrong": "*i8", "rows": _COUNT, "tiles": _COUNT}
KERNELS.append((gemm_checksum.judge_rows, _JUDGED, {"ROWS": 128}, 4))
_DIGESTS = {"digests": _NODES, "key": _TABLE, "sums": _NODES, "count": _LONG, "flags": _COUNT}
KERNELS.append((lattice.add_expansions, _DIGESTS, {"ELEMENTS": 4}, 1))
_PRODUCTS = {"images": "*i8", "weights": "*i8", "sums": _NODES}
_PRODUCTS |= dict.fromkeys(int8_planes.multiply_planes.arg_names[3:-6], _COUNT)
KERNELS += [
    (
        int8_planes.multiply_planes,
        _PRODUCTS,
        {"PLANES": planes, "ABOVE": 0 if split else 8 * (4 - planes), "SPLIT": split}
        | {"ROWS": tile.rows, "COLUMNS": tile.columns, "INNER": tile.inner},
        tile.warps,
    )
    for tile in TILES.values()
    for planes, split in ((1, False), (3, False), (4, False), (4, True))
]
_READ = {"table": _TABLE, "scales": "*fp32", "lows": "*fp32", "limits": "*fp64"}
_PARTS = {"owner": _TABLE, "starts": _TABLE} | _READ
_ENDS = {"parts": _COUNT, "steps": _COUNT}
_CODE: dict[str, int | bool] = {"SIGNED": True, "OFFSET": 0, "SATURATE": True, "LANES": 1024, "FIELDS": 4}
for _bits, _packed in ((8, False), (4, True), (2, True), (3, False), (3, True)):
    _width = _CODE | {"BITS": _bits, "PACKED": _packed}
    _in, _out = {"codes": "*u8"}, {"values": "*fp32"}
    KERNELS += [
        (decode.decode_parts, _PARTS | _in | {"flags": "*u8"} | _out, _width | {"FLIPPED": True}, 4),
        (
            decode.decode_listed,
            {"firsts": _TABLE} | _READ | _in | {"addresses": _TABLE} | _out | _ENDS | {"total": _LONG},
            _width | {"LANES": 256},
            4,
        ),
    ]
_FLIPPED = {"codes": "*i8", "values": "*fp32", "index": _TABLE, "masks": _TABLE}
_FLIPPED |= {"scales": "*fp32", "lows": "*fp32", "limits": "*fp64", "inner": _LONG, "total": _LONG}
KERNELS += [
    (
        decode.flip_touched,
        _FLIPPED,
        {"BITS": width, "SIGNED": width < 8, "OFFSET": 0, "SATURATE": True, "LANES": 256},
        4,
    )
    for width in (4, 8)
]
KERNELS.append(
    (
        encode.find_extremes,
        {"owner": _TABLE, "starts": _TABLE, "table": _TABLE, "extremes": "*fp32", "programs": _COUNT},
        {"LANES": 1024, "FIELDS": 4},
        4,
    )
)
KERNELS += [
    (
        encode.encode_parts,
        _PARTS | {"codes": "*i8", "values": "*fp32"},
        _CODE | {"BITS": 8, "TRUNCATE": truncate},
        4,
    )
    for truncate in (False, True)
]
_ONES = dict.fromkeys(("positions", "plane", "image", "down", "right", "tap_down", "tap_right", "run", "channels"), 1)
KERNELS.append(  # sizes of 1, which Triton makes constants of
    (
        int8_planes.multiply_planes,
        {name: kind for name, kind in _PRODUCTS.items() if name not in _ONES},
        _ONES | {"PLANES": 4, "ABOVE": 0, "SPLIT": True, "ROWS": 32, "COLUMNS": 64, "INNER": 32},
        4,
    )
)


def _aligned(function: Any, types: dict[str, str]) -> dict[tuple[int, ...], Any] | None:
    """Return what is said of the arguments of a product: 16 divides addresses and lengths of rows."""
    if function not in (gemm_checksum.multiply_and_sum, checksums.check_rows):
        return None
    known = [
        place
        for place, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name in ("outputs", "inputs")
    ]
    return {(place,): [["tt.divisibility", 16]] for place in known}


def main(architectures: list[str]) -> None:
    for architecture in architectures:
        for function, signature, constants, warps in KERNELS:
            types = signature | dict.fromkeys(constants, "constexpr")
            source = ASTSource(function, types, constants, _aligned(function, types))
            options = {"num_warps": warps, "enable_fp_fusion": False}
            done = compile(source, target=GPUTarget("cuda", int(architecture), 32), options=options)
            print(function.__name__, architecture, len(done.asm["cubin"]))


if __name__ == "__main__":
    main(sys.argv[1:])
