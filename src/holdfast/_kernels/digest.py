"""BLAKE3 roots of tensors where they lie: the tables that the kernels read, and the few launches that make a digest.

O'Connor et al., *BLAKE3: one function, fast everywhere* (2020). The roots are those of the ``blake3`` package over the
same bytes, for any length and any address; a :class:`Plan` is made once and run as often as wanted, and nothing
of the tensors is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast._kernels.blake3_heads import PIECES, fill_heads
from holdfast._kernels.blake3_key import DERIVE_KEY_MATERIAL, IV, context_key
from holdfast._kernels.blake3_layout import CHUNK, TILE, Level, Tables, lay_out
from holdfast._kernels.blake3_tree import chunk_nodes, merge_tiles
from holdfast.errors import InvalidConfig

LANES = 32  # chunks of one program: a warp, whose threads wait for no other warp
PAIRS = 128  # merged at once by a program of four warps


def octets(tensor: Tensor) -> Tensor:
    """Return the bytes of a contiguous tensor, uint8 of shape (n,), as a view.

    Raises:
        InvalidConfig: the tensor is not contiguous, so that its bytes in memory are not those of its values in order.
    """
    _require_order(tensor)
    return tensor.detach().reshape(-1).view(torch.uint8)


def _require_order(tensor: Tensor) -> None:
    if not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
        raise InvalidConfig("a tensor is digested in place only if it is contiguous", hint="call .contiguous() first")


@dataclass(frozen=True, eq=False)
class Plan:
    """The digests of ``tensors``, of which each may follow some bytes of a prefix of its own.

    Attributes:
        tensors: contiguous, all on one device, any dtype and shape; a tensor may be empty or a view at any offset.
        prefixes: bytes that stand before each tensor's own; none when left out.
        context: of BLAKE3's derive-key mode; None is the plain hash.
        lanes: chunks that one program hashes, a power of two; a matter of speed alone.

    Raises:
        InvalidConfig: a tensor is not contiguous, they lie on several devices, or prefixes do not pair with them.
    """

    tensors: tuple[Tensor, ...]
    prefixes: tuple[bytes, ...] = ()
    context: str | None = None
    lanes: int = LANES

    def __post_init__(self) -> None:
        if self.prefixes and len(self.prefixes) != len(self.tensors):
            raise InvalidConfig(f"{len(self.prefixes)} prefixes do not pair with {len(self.tensors)} tensors")
        if len({item.device for item in self.tensors}) > 1:
            raise InvalidConfig("one digest runs on one device, and these tensors lie on several")
        for item in self.tensors:
            _require_order(item)

    def roots(self) -> Tensor:
        """Return the 32-byte digests, uint8 of shape (tensors, 32), on the tensors' device; nothing is waited for.

        Raises:
            InvalidConfig: a tensor lies elsewhere than when the plan was made.
        """
        if not self.tensors:
            return torch.empty(0, 32, dtype=torch.uint8)
        where = self._tables
        if list(map(Tensor.data_ptr, self.tensors)) != where.addresses:
            raise InvalidConfig("a tensor has moved since the plan was made", hint="make the plan again")
        with torch.cuda.device_of(self.tensors[0]):  # kernels go to the current device
            return self._launched(where)

    def _launched(self, where: Tables) -> Tensor:
        if len(where.heads):  # a copy of what may have changed since the last run
            fill_heads[(len(where.pieces),)](where.pieces, self._before, where.heads, LANES=CHUNK, PIECES=PIECES)
        nodes, found = self._chunks(where), []
        for level in where.levels:
            nodes = nodes if level.source is None else nodes.index_select(1, level.source)
            self._merge_(where, level, nodes)
            found.append(nodes.index_select(1, level.ends))
        return torch.cat(found, 1).index_select(1, where.places).t().contiguous().view(torch.uint8)

    def _chunks(self, where: Tables) -> Tensor:
        level, words = where.levels[0], where.table
        nodes = torch.empty(8, level.slots, dtype=torch.int32, device=words.device)
        chunk_nodes[(-(-level.slots // self.lanes),)](
            level.table[0], words[0], words[1], words[2], words[3], where.key, nodes,
            level.ranges, level.ranges.bit_length(), level.slots, where.flags, level.slots,
            LANES=self.lanes, SHIFTED=where.shifted, num_warps=1,
        )  # fmt: skip
        return nodes

    def _merge_(self, where: Tables, level: Level, nodes: Tensor) -> None:
        if level.deep:
            starts, counts, depths = level.table
            merge_tiles[(-(-level.slots // TILE),)](
                starts, counts, depths, where.key, nodes,
                level.ranges, level.ranges.bit_length(), where.flags, level.slots,
                TILE=TILE, LANES=PAIRS, num_warps=PAIRS // 32,
            )  # fmt: skip

    @cached_property
    def _tables(self) -> Tables:
        lengths = [item.nbytes for item in self.tensors]
        prefixes = [len(item) for item in self.prefixes] or [0] * len(lengths)
        covered = [
            min(-(-size // CHUNK) * CHUNK, size + length) for size, length in zip(prefixes, lengths, strict=True)
        ]
        heads = torch.empty(sum(covered), dtype=torch.uint8, device=self.tensors[0].device)
        key, flags = (IV, 0) if self.context is None else (context_key(self.context), DERIVE_KEY_MATERIAL)
        return lay_out(self.tensors, prefixes, covered, heads, key=key, flags=flags)

    @cached_property
    def _before(self) -> Tensor:
        return torch.frombuffer(bytearray(b"".join(self.prefixes)), dtype=torch.uint8).to(self.tensors[0].device)


def roots(tensors: Sequence[Tensor]) -> Tensor:
    """Return the BLAKE3 of each tensor's bytes, uint8 of shape (tensors, 32), on their device; see :class:`Plan`."""
    return Plan(tuple(tensors)).roots()


def differing(found: Tensor, expected: Tensor) -> Tensor:
    """Say which digests differ, bool of shape (n,), compared on the device; both are uint8 of shape (n, 32).

    Raises:
        InvalidConfig: another number of digests is expected.
    """
    if found.shape != expected.shape:
        raise InvalidConfig(f"{len(found)} digests cannot be compared with {len(expected)}")
    return (found != expected.to(found.device)).any(1)
