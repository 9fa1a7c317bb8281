"""Compiles every kernel for the GPUs named on the command line; needs Triton, its assembler, and no GPU.

``python -m tests.unit.kernels.compiled 80 90`` prints a line per kernel: name, architecture, bytes of machine code.
"""

from __future__ import annotations

import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from holdfast._kernels import blake3_tree, checksums, chip_events, flips, lattice, ranges

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
        | {"out": _TABLE if listed else _NODES, "bands": _COUNT, "steps": _COUNT, "entries": _COUNT, "least": _COUNT}
        | {"start": _LONG, "stop": _LONG},
        {"COUNTERS": 168, "TIES": 336, "MOST": 1342, "LANES": 256, "LISTED": listed, "FIELDS": chip_events.FIELDS},
        4,
    )
    for listed in (False, True)
]
_OCTETS = {"octets": "*u8", "flags": "*u8", "counts": _TABLE, "size": _LONG}
_LISTED = {"words": _LONG, "addresses": _TABLE, "total": _LONG, "first": _LONG, "bits": _COUNT, "skip": _COUNT}
_TWO = {"left": "*u8", "right": "*u8", "counts": _TABLE, "size": _LONG}
KERNELS += [
    (flips.xor_map, _OCTETS, {"LANES": 4096}, 4),
    (flips.xor_listed, _LISTED, {"LANES": 4096}, 4),
    (flips.count_bits, _TWO, {"LANES": 4096, "TWO": True}, 4),
]
_RANGES = {"table": "*bf16", "events": _TABLE, "size": _LONG, "inner": _LONG, "bounds": _LONG, "parts": _LONG}
KERNELS += [
    (ranges.restrict, {"values": "*bf16"} | _RANGES, {"ACTION": action, "KEEP": keep, "ONE": keep, "LANES": 1024}, 4)
    for action in range(3)
    for keep in (False, True)
]
_ROWS = dict.fromkeys(("signs", "column", "gram", "law"), "*fp64") | {"wrong": "*i8", "summary": _TABLE}
_SUMS = {"sums": "*fp64", "squares": "*fp64", "rows": _COUNT, "columns": _COUNT, "part": _COUNT}
KERNELS += [
    (
        checksums.check_rows,
        {"x": "*bf16", "y": "*bf16"} | _ROWS | {"inputs": _COUNT, "outputs": _COUNT},
        {"COLUMNS": 256},
        4,
    ),
    (checksums.sum_columns, {"matrix": "*bf16"} | _SUMS, {"ROWS": 32, "COLUMNS": 32}, 4),
]
_DIGESTS = {"digests": _NODES, "key": _TABLE, "sums": _NODES, "count": _LONG, "flags": _COUNT}
KERNELS.append((lattice.add_expansions, _DIGESTS, {"ELEMENTS": 4}, 1))


def main(architectures: list[str]) -> None:
    for architecture in architectures:
        for function, signature, constants, warps in KERNELS:
            source = ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants)
            options = {"num_warps": warps, "enable_fp_fusion": False}
            done = compile(source, target=GPUTarget("cuda", int(architecture), 32), options=options)
            print(function.__name__, architecture, len(done.asm["cubin"]))


if __name__ == "__main__":
    main(sys.argv[1:])
