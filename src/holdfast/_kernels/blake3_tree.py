"""BLAKE3 of many byte ranges in device memory: a lane per chunk, then a lane per pair of nodes, level by level.

O'Connor et al., *BLAKE3: one function, fast everywhere* (2020), sections 2.1 and 2.4. A chunk is 1024 bytes. All ranges
stand in one row of lanes, so that a bias of four bytes takes one lane and no more; a lane finds its range by bisection
in the table of first lanes. Words of neighbouring addresses are read together and then transposed, so that reads are
coalesced. Where nodes merge in pairs, an odd last one moves up unchanged: that gives the paper's tree, whose left
subtrees are whole.

Nodes lie in planes: word ``w`` of node ``i`` at ``nodes[w * capacity + i]``, so neighbours are read together too.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.blake3_rounds import CHUNK_END, CHUNK_START, PARENT, ROOT, compress
from holdfast._kernels.compiling import kernel

CHUNK = tl.constexpr(1024)  # bytes
BLOCK = tl.constexpr(64)  # bytes


@kernel()
def owners(starts: tl.tensor, lane: tl.tensor, ranges: tl.tensor, steps: tl.tensor) -> tl.tensor:
    """Return which range each lane belongs to: the last of ``ranges`` ascending ``starts`` that is not above it."""
    found = tl.zeros_like(lane)
    for step in range(steps):
        ahead = found + (1 << (steps - 1 - step))
        inside = ahead < ranges
        start = tl.load(starts + tl.where(inside, ahead, 0))
        found = tl.where(inside & (start <= lane), ahead, found)
    return found


@kernel()
def _words(there: tl.tensor, upto: tl.tensor, whole: tl.tensor, LANES: tl.constexpr) -> tl.tensor:  # noqa: N803
    """Return the words, uint32, at pointers (LANES, 16); bytes of a row from number ``upto`` on are zero."""
    if whole:
        word = tl.load(there)
    else:
        need = upto[:, None] - 4 * tl.arange(0, 16)[None, :]  # bytes that are still there
        word = _kept(tl.load(there, mask=need > 0, other=0), need)
    return word


@kernel()
def _kept(word: tl.tensor, need: tl.tensor) -> tl.tensor:
    """Return words of which only the first ``need`` bytes are left."""
    keep = tl.minimum(tl.maximum(need, 0), 4)
    return tl.where(keep == 4, word, word & ((1 << (8 * keep).to(tl.uint32)) - 1).to(tl.uint32))


@kernel()
def _moved(m: tl.tensor, after: tl.tensor, skip: tl.tensor) -> tl.tensor:
    """Return the sixteen words from byte ``skip`` on of the sixteen ``m`` and the one ``after`` them."""
    return (
        _joined(m[0], m[1], skip), _joined(m[1], m[2], skip), _joined(m[2], m[3], skip),
        _joined(m[3], m[4], skip), _joined(m[4], m[5], skip), _joined(m[5], m[6], skip),
        _joined(m[6], m[7], skip), _joined(m[7], m[8], skip), _joined(m[8], m[9], skip),
        _joined(m[9], m[10], skip), _joined(m[10], m[11], skip), _joined(m[11], m[12], skip),
        _joined(m[12], m[13], skip), _joined(m[13], m[14], skip), _joined(m[14], m[15], skip),
        _joined(m[15], after, skip),
    )  # fmt: skip


@kernel()
def _joined(low: tl.tensor, high: tl.tensor, skip: tl.tensor) -> tl.tensor:
    return ((high.to(tl.uint64) << 32 | low) >> (8 * skip).to(tl.uint64)).to(tl.uint32)


@kernel()
def _columns(word: tl.tensor, LANES: tl.constexpr) -> tl.tensor:  # noqa: N803
    """Return the sixteen columns of (LANES, 16), each (LANES,): the transposition that makes a lane of a row."""
    even, odd = tl.split(tl.reshape(word, [LANES, 2, 2, 2, 2]))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    w00, w04 = tl.split(w0)
    w01, w05 = tl.split(w1)
    w02, w06 = tl.split(w2)
    w03, w07 = tl.split(w3)
    m0, m8 = tl.split(w00)
    m1, m9 = tl.split(w01)
    m2, m10 = tl.split(w02)
    m3, m11 = tl.split(w03)
    m4, m12 = tl.split(w04)
    m5, m13 = tl.split(w05)
    m6, m14 = tl.split(w06)
    m7, m15 = tl.split(w07)
    return m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15


@kernel()
def key_words(key: tl.tensor, zero: tl.tensor) -> tl.tensor:
    """Return the eight key words, each as wide as ``zero``."""
    return (
        zero + tl.load(key).to(tl.uint32), zero + tl.load(key + 1).to(tl.uint32),
        zero + tl.load(key + 2).to(tl.uint32), zero + tl.load(key + 3).to(tl.uint32),
        zero + tl.load(key + 4).to(tl.uint32), zero + tl.load(key + 5).to(tl.uint32),
        zero + tl.load(key + 6).to(tl.uint32), zero + tl.load(key + 7).to(tl.uint32),
    )  # fmt: skip


@kernel()
def _chosen(mask: tl.tensor, a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Return the first eight words of ``a`` where ``mask`` is true, and of ``b`` elsewhere."""
    return (
        tl.where(mask, a[0], b[0]), tl.where(mask, a[1], b[1]), tl.where(mask, a[2], b[2]), tl.where(mask, a[3], b[3]),
        tl.where(mask, a[4], b[4]), tl.where(mask, a[5], b[5]), tl.where(mask, a[6], b[6]), tl.where(mask, a[7], b[7]),
    )  # fmt: skip


@kernel("ranges", "steps", "total", "flags", "capacity")
def chunk_nodes(
    starts: tl.tensor, lengths: tl.tensor, bodies: tl.tensor, heads: tl.tensor, covered: tl.tensor,
    key: tl.tensor, nodes: tl.tensor,
    ranges: tl.tensor, steps: tl.tensor, total: tl.tensor, flags: tl.tensor, capacity: tl.tensor,
    LANES: tl.constexpr, SHIFTED: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Hash every chunk of every range.

    Args:
        starts: first lane of each range, ascending; int64, as all tables.
        lengths: bytes of each range.
        bodies: address of each range.
        heads: address of where the first ``covered`` chunks of it lie instead.
        covered: how many chunks that is.
        key: eight words, the first chaining value.
        nodes: int32 (8, capacity), out; lanes beyond a range's end write nothing.
        ranges: how many there are.
        steps: bits of ``ranges``.
        total: lanes, those that stand between ranges included.
        flags: of every compression.
        capacity: columns of ``nodes``.
        LANES: chunks of one program.
        SHIFTED: whether some address is not a multiple of 16.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    owner = owners(starts, lane, ranges, steps)
    number = lane - tl.load(starts + owner)
    length = tl.load(lengths + owner)
    live = (lane < total) & (number < tl.maximum((length + (CHUNK - 1)) // CHUNK, 1))
    here = tl.where(number < tl.load(covered + owner), tl.load(heads + owner), tl.load(bodies + owner)) + number * CHUNK
    size = tl.where(live, tl.minimum(tl.maximum(length - number * CHUNK, 0), CHUNK), 0)
    blocks = tl.where(live, tl.maximum((size + (BLOCK - 1)) // BLOCK, 1), 0)
    most = tl.max(blocks, 0)
    whole = tl.min(size, 0) == CHUNK
    zero = tl.zeros([LANES], tl.uint32)
    low, high = number.to(tl.uint32), (number >> 32).to(tl.uint32)
    h0, h1, h2, h3, h4, h5, h6, h7 = key_words(key, zero)
    end = tl.where(length <= CHUNK, CHUNK_END | ROOT, CHUNK_END).to(tl.uint32)
    begin = zero + flags.to(tl.uint32) + CHUNK_START
    skip = (here & 3).to(tl.int32)
    first = tl.multiple_of((here & -4).to(tl.pointer_type(tl.uint32), bitcast=True), 4 if SHIFTED else 16)
    rows = first[:, None] + tl.arange(0, 16)[None, :]
    for block in range(most):
        left = tl.minimum(tl.maximum(size - block * BLOCK, 0), BLOCK).to(tl.int32)
        upto = tl.where(left > 0, left + skip, 0) if SHIFTED else left  # from the first aligned word on
        m = _columns(_words(rows + 16 * block, upto, whole, LANES), LANES)
        if SHIFTED:
            after = tl.load(first + 16 * (block + 1), mask=upto > BLOCK, other=0)
            m = _moved(m, _kept(after, upto - BLOCK), skip)
        marks = tl.where(block == blocks - 1, begin | end, begin)
        o = compress((h0, h1, h2, h3, h4, h5, h6, h7), m, low, high, left.to(tl.uint32), marks)
        more = block < blocks
        h0, h1, h2, h3, h4, h5, h6, h7 = _chosen(more, o, (h0, h1, h2, h3, h4, h5, h6, h7))
        begin = zero + flags.to(tl.uint32)
    _store((h0, h1, h2, h3, h4, h5, h6, h7), nodes, lane, capacity, live)


@kernel()
def _store(h: tl.tensor, nodes: tl.tensor, index: tl.tensor, capacity: tl.tensor, mask: tl.tensor) -> None:
    for word in tl.static_range(8):
        tl.store(nodes + word * capacity + index, h[word].to(tl.int32, bitcast=True), mask=mask)


@kernel()
def _word(nodes: tl.tensor, word: tl.constexpr, index: tl.tensor, capacity: tl.tensor, mask: tl.tensor) -> tl.tensor:
    return tl.load(nodes + word * capacity + index, mask=mask, other=0).to(tl.uint32, bitcast=True)


@kernel()
def _load(nodes: tl.tensor, index: tl.tensor, capacity: tl.tensor, mask: tl.tensor) -> tl.tensor:
    return (
        _word(nodes, 0, index, capacity, mask), _word(nodes, 1, index, capacity, mask),
        _word(nodes, 2, index, capacity, mask), _word(nodes, 3, index, capacity, mask),
        _word(nodes, 4, index, capacity, mask), _word(nodes, 5, index, capacity, mask),
        _word(nodes, 6, index, capacity, mask), _word(nodes, 7, index, capacity, mask),
    )  # fmt: skip


@kernel("ranges", "steps", "flags", "capacity")
def merge_tiles(
    starts: tl.tensor, counts: tl.tensor, depths: tl.tensor, key: tl.tensor, nodes: tl.tensor,
    ranges: tl.tensor, steps: tl.tensor, flags: tl.tensor, capacity: tl.tensor,
    TILE: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Merge the nodes of each tile of ``TILE`` neighbouring ones, in place, level by level, into as few as it can.

    A range of up to ``TILE`` nodes ends as one, its root, at its first node; of a larger one each tile's worth does.
    A range of fewer nodes than a tile starts at a multiple of its own size, rounded up to a power of two, and the
    larger ones come first; so no pair is ever of two ranges, and the first range of a tile has the most levels.

    Args:
        starts: first node of each range, ascending; int64, as all tables.
        counts: its nodes.
        depths: levels of its tree, of one tile at most.
        key: eight words.
        nodes: int32 (8, capacity), in and out.
        ranges: how many there are.
        steps: bits of ``ranges``.
        flags: of every compression.
        capacity: columns of ``nodes``.
        TILE: a power of two.
        LANES: pairs that are merged at once.
    """
    first = tl.program_id(0).to(tl.int64) * TILE
    k = key_words(key, tl.zeros([LANES], tl.uint32))
    zero = tl.zeros([LANES], tl.uint32)
    biggest = owners(starts, first + tl.zeros([1], tl.int64), ranges, steps)
    for level in range(tl.max(tl.load(depths + biggest), 0)):
        pairs = TILE >> (level + 1)
        for part in range((pairs + (LANES - 1)) // LANES):
            pair = part * LANES + tl.arange(0, LANES)
            left = first + (pair.to(tl.int64) << (level + 1))
            owner = owners(starts, left, ranges, steps)
            count = (tl.load(counts + owner) + (1 << level) - 1) >> level  # of this level
            place = (left - tl.load(starts + owner)) >> level
            two = (pair < pairs) & (place + 1 < count)  # an odd last one stays as it is
            a = _load(nodes, left, capacity, two)
            b = _load(nodes, left + (1 << level), capacity, two)
            m = (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7])
            marks = tl.where(count == 2, PARENT | ROOT, PARENT).to(tl.uint32) + flags.to(tl.uint32)
            o = compress(k, m, zero, zero, zero + BLOCK, marks)
            _store(o, nodes, left, capacity, two)
        tl.debug_barrier()  # the next level reads what other threads of this program wrote
