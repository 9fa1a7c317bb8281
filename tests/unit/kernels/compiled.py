"""Compiles every kernel for the GPUs named on the command line; needs Triton, its assembler, and no GPU.

``python -m tests.unit.kernels.compiled 80 90`` prints a line per kernel: name, architecture, bytes of machine code.
"""

from __future__ import annotations

import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from holdfast._kernels import blake3_tree

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


def main(architectures: list[str]) -> None:
    for architecture in architectures:
        for function, signature, constants, warps in KERNELS:
            source = ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants)
            done = compile(source, target=GPUTarget("cuda", int(architecture), 32), options={"num_warps": warps})
            print(function.__name__, architecture, len(done.asm["cubin"]))


if __name__ == "__main__":
    main(sys.argv[1:])
