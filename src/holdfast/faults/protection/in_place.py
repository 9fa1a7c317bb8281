"""In-place zero-space ECC: check bits live in weight bits that carry no information.

Guan et al., "In-place zero-space memory protection for CNN", NeurIPS 2019. Of every eight int8 weights the first seven
lie in -64 .. 63, so bit 6 of each equals its sign. It can hold a check bit instead, and reading copies the sign back.
Seven check bits guard the other 57: a (64, 57) SECDED code without any memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import UnsupportedFormat
from holdfast.faults.protection.addresses import Masks, whole
from holdfast.faults.protection.columns import hsiao
from holdfast.faults.protection.linear import LinearCode
from holdfast.faults.protection.protocol import (
    Cost,
    Decoded,
    Expectation,
    Policy,
    Protection,
    Raw,
    beyond,
    meanings,
    protections,
    require_policy,
)
from holdfast.faults.protection.verdict import Errors, Verdict, settle
from holdfast.models import select, stored
from holdfast.models.site import Site

BLOCK = 8  # weights
SMALL = 7  # of them lie in -64 .. 63
_SPARE = 6  # the bit that equals the sign in a small weight
_DATA = 57
_CODE = LinearCode(hsiao(_DATA, SMALL), SMALL)
# storage bit of each position of the code: 57 data bits in order, then the spare bits
_BIT = np.array(
    [k for k in range(64) if k % 8 != _SPARE or k // 8 == SMALL] + [8 * j + _SPARE for j in range(SMALL)], np.int64
)
_POSITION = np.argsort(_BIT)
# the same columns in the order of storage; what a spare bit means to hold counts for nothing
_ENCODER = LinearCode(tuple(np.where(_POSITION < _DATA, _CODE.matrix[_POSITION], 0).tolist()), SMALL)
_SIGNS = np.isin(_BIT[:_DATA], [8 * j + 7 for j in range(SMALL)])


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of eight int8 weights; what is left at the end is one block without a code."""

    site: Site
    word: int = _DATA

    @property
    def blocks(self) -> int:
        """Number of blocks that are coded."""
        return self.site.numel // BLOCK

    @property
    def rest(self) -> int:
        """Number of bits of the weights behind them."""
        return self.site.numel % BLOCK * 8

    def places(self, address: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the block of each bit address and its position in the code; in the rest, all are data bits."""
        block, bit = np.divmod(address, 64)
        return block, np.where(block < self.blocks, _POSITION[bit], bit)

    def addresses(self, word: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the bit addresses of positions."""
        address = word * 64 + np.where(word < self.blocks, _BIT[position], position)
        return np.where(address < self.site.population, address, -1)

    def reads(self, word: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each data position and its address, and once more the spare bit beside a wrong sign."""
        address = self.addresses(word, position)
        copied = np.flatnonzero((word < self.blocks) & _SIGNS[position])
        return np.concatenate([np.arange(len(word)), copied]), np.concatenate([address, address[copied] - 1])

    def cleared(self, word: np.ndarray) -> Masks:
        """Return all bits of blocks."""
        return whole(self.site, (word[:, None] * BLOCK + np.arange(BLOCK)[None, :]).ravel())


@protections.register("in-place-ecc")
@dataclass(frozen=True, slots=True, kw_only=True)
class InPlaceEcc(Protection):
    """Single error correction, double error detection within the int8 weights themselves.

    At most seven weights at the end of a site, those that fill no block, are not protected. What a site stores is
    checked whenever it is read, in one pass over its codes.
    """

    on_detect: Policy = "leave"

    def __post_init__(self) -> None:
        require_policy(self.on_detect)

    def admit(self, site: Site, codes: Callable[[], Tensor]) -> None:
        """Refuse other formats than int8, and small weights outside -64 .. 63.

        Raises:
            UnsupportedFormat: with the first weight in the way.
        """
        require_int8(site)
        values = codes().cpu().view(torch.int8)
        bad = torch.nonzero(throttled(values) != values).flatten()
        if len(bad):
            raise UnsupportedFormat(
                f"{site.address} stores {len(bad)} weights outside -64..63 where a check bit has to go "
                f"(the first is element {int(bad[0])}: {int(values[bad[0]])})",
                hint="constrain them with holdfast.faults.protection.throttle_(model), and train on if that costs",
            )

    def data_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return the weights with check bits in place."""
        held = codes.take(index.to(codes.device)).cpu().to(torch.int64) & 0xFF
        block, member = index.numpy() // BLOCK, index.numpy() % BLOCK
        borrowed = (block < site.numel // BLOCK) & (member < SMALL)
        check = np.zeros(len(index), np.int64)
        check[borrowed] = _check_bits(codes, block[borrowed]) >> member[borrowed] & 1
        spare = np.where(borrowed, 1 << _SPARE, 0)
        return torch.from_numpy((held.numpy() & ~spare) | check << _SPARE).to(torch.uint8).view(torch.int8)

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Decode every block that holds an error; the rest behind the blocks reads as it is stored."""
        layout = Blocks(site)
        word, position = layout.places(raw.data)
        errors = Errors.from_keys(np.sort(word * 64 + position), _DATA, 64)
        decoded = settle(layout, errors, _verdict(errors, layout), self.on_detect)
        # every bit of the site counts as data, those that hold check bits included
        return replace(decoded, tally=replace(decoded.tally, data_errors=len(raw.data), check_errors=0))

    def cost(self, site: Site) -> Cost:
        """Return the blocks; no memory is added."""
        layout = Blocks(site)
        return Cost(words=layout.blocks + (layout.rest > 0))

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return failed and detected words and residual bits, all exact; a wrong sign counts two bits."""
        layout = Blocks(site)
        weights = (1 + _SIGNS).tolist()
        left = _CODE.leaving(rate, rate, erasing=self.on_detect == "zero", weights=weights)
        return Expectation(
            failed=layout.blocks * _CODE.failing(rate, rate) + beyond([rate] * layout.rest, 0),
            detected=layout.blocks * _CODE.detecting(rate, rate),
            residual=layout.blocks * left + layout.rest * rate,
        )


def _verdict(errors: Errors, layout: Blocks) -> Verdict:
    coded = errors.word < layout.blocks
    inside = Errors(errors.word[coded], errors.position[coded], _DATA, 64)
    verdict = _CODE.decode(inside, layout)
    plain = len(errors.words) - len(inside.words)  # the rest comes last, and nothing is known about it
    given_up = np.concatenate([verdict.given_up, np.zeros(plain, np.bool_)])
    return Verdict(given_up, verdict.fixed_row, verdict.fixed_position)


def _check_bits(codes: Tensor, block: np.ndarray) -> np.ndarray:
    octets = codes.cpu().contiguous().numpy().view(np.uint8)
    return _ENCODER.encode(octets[: len(octets) // BLOCK * BLOCK].reshape(-1, BLOCK)[block])


def require_int8(site: Site) -> None:
    """Refuse a site that stores anything but two's complement bytes.

    Raises:
        UnsupportedFormat: always with the site's name and format.
    """
    if site.bits != 8 or meanings(site.format) != ("magnitude",) * 7 + ("sign",):
        raise UnsupportedFormat(
            f"{site.address} stores {site.format}; only signed int8 weights have bits to spare",
            hint="quantise to int8, or leave the site out with at=",
        )


def throttled(codes: Tensor) -> Tensor:
    """Return int8 codes, flat, with the first seven of every whole block of eight clamped to -64 .. 63.

    The paper applies it after every step of training, so that the weights settle within the range.
    """
    result = codes.clone()
    end = len(codes) // BLOCK * BLOCK
    result[:end].view(-1, BLOCK)[:, :SMALL].clamp_(-64, 63)
    return result


def throttle_(model: nn.Module, at: str = "weights") -> int:
    """Constrain the int8 weights of ``model`` that ``at`` selects, in place, and return how many changed.

    Raises:
        UnsupportedFormat: a selected site stores something else.
        NoSuchSite: ``at`` selects nothing.
    """
    changed = 0
    for site in select(model, at):
        require_int8(site)
        place = stored(model, site)
        codes = place.codes.flatten()
        difference = (throttled(codes) ^ codes).to(torch.int64) & 0xFF
        index = torch.nonzero(difference).flatten()
        place.xor_(index, difference[index])
        changed += len(index)
    return changed
