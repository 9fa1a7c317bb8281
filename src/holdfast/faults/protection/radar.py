"""RADAR: signatures of interleaved groups of weights; a group whose signature differs reads as zero.

Li et al., "RADAR: run-time adversarial weight attack detection and accuracy recovery", DATE 2021, section IV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.faults.protection.addresses import Masks, whole
from holdfast.faults.protection.protocol import (
    Cost,
    Decoded,
    Policy,
    Protection,
    Raw,
    check_memory,
    meanings,
    protections,
    require_policy,
)
from holdfast.faults.protection.verdict import Errors, Verdict, settle
from holdfast.models.site import Site

_KEY_BITS = 16


@dataclass(frozen=True, slots=True)
class Groups:
    """Elements of a site in groups whose members lie as far apart as there are groups: element e is in e mod groups."""

    site: Site
    size: int  # elements of a whole group

    @property
    def word(self) -> int:
        """Data bits of a whole group."""
        return self.size * self.site.bits

    @property
    def groups(self) -> int:
        """Number of groups."""
        return -(-self.site.numel // self.size)

    def places(self, address: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each bit address and its position: that of the element, then of the bit."""
        element, bit = np.divmod(address, self.site.bits)
        member, group = np.divmod(element, max(1, self.groups))
        return group, member * self.site.bits + bit

    def addresses(self, word: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the bit addresses of positions of groups; -1 where a short group has no such element."""
        member, bit = np.divmod(position, self.site.bits)
        element = member * self.groups + word
        return np.where(element < self.site.numel, element * self.site.bits + bit, -1)

    def reads(self, word: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return every position and its address."""
        return np.arange(len(word)), self.addresses(word, position)

    def cleared(self, word: np.ndarray) -> Masks:
        """Return all bits of groups."""
        element = np.sort((np.arange(self.size)[:, None] * self.groups + word[None, :]).ravel())
        return whole(self.site, element[element < self.site.numel])

    def values(self, codes: Tensor, word: np.ndarray) -> np.ndarray:
        """Return the low bits of the members' codes, int64, shape (n, size); a missing member is zero."""
        element = np.arange(self.size)[None, :] * self.groups + word[:, None]
        found = codes.take(torch.from_numpy(np.minimum(element, self.site.numel - 1)).to(codes.device)).cpu()
        low = found.numpy().astype(np.int64) & ((1 << self.site.bits) - 1)
        return np.where(element < self.site.numel, low, 0)


@protections.register("radar")
@dataclass(frozen=True, slots=True, kw_only=True)
class Radar(Protection):
    """Two signature bits for each group of integer weights, element g of the check site for group g.

    With M the sum of the group's codes, each taken negative where the key says so, the bits are floor(M / 2**(m-1))
    and floor(M / 2**m) modulo two, m the width: 128 and 256 for eight bits, as in the paper. A flipped most significant
    bit always changes the former; two in one group may cancel, unless the key gives them different signs.

    The paper keeps signatures in safe memory on the chip: that is ``check_bits="safe"`` of
    :class:`holdfast.faults.protection.Protected`. Otherwise they fail as well, and raise false alarms.
    """

    group: int = 512  # weights; the paper takes 8 for ResNet-20, 512 for ResNet-18
    key: int = 0x5A3C  # 16 bits, secret in a deployment: member j of a group counts negative if bit j mod 16 is set
    on_detect: Policy = "zero"

    def __post_init__(self) -> None:
        if self.group < 1 or not 0 <= self.key < 1 << _KEY_BITS:
            raise InvalidConfig(f"no groups of {self.group} with key {self.key}", hint="group >= 1, a key of 16 bits")
        require_policy(self.on_detect)

    def admit(self, site: Site, codes: object) -> None:
        """Refuse formats whose codes are no integers."""
        if not set(meanings(site.format)) <= {"magnitude", "sign"} or site.bits > 32:
            raise UnsupportedFormat(
                f"a checksum of {site.format} codes ({site.address}) says nothing about their values",
                hint="quantise to int8, or select quantised sites with at=",
            )

    def check_site(self, site: Site) -> Site:
        """Return the signatures: one element of two bits per group."""
        return check_memory(site, Groups(site, self.group).groups, 2)

    def check_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return the signatures of groups ``index``."""
        values = Groups(site, self.group).values(codes, index.numpy())
        return torch.from_numpy(self.signature(values, site))

    def signature(self, values: np.ndarray, site: Site) -> np.ndarray:
        """Return the signatures (int64, (n,)) of groups of codes, their low bits as int64, shape (n, members)."""
        width = site.bits
        if "sign" in meanings(site.format):
            values = values - ((values >> (width - 1)) << width)
        negative = (self.key >> np.arange(values.shape[1]) % _KEY_BITS) & 1
        total: np.ndarray = (values * (1 - 2 * negative)).sum(1)
        return (total >> (width - 1)) & 3

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Compare the signatures of the groups in which anything is wrong."""
        layout = Groups(site, self.group)
        errors = Errors.of(layout, raw, 2)
        return settle(layout, errors, self._verdict(errors, layout, raw), self.on_detect)

    def _verdict(self, errors: Errors, layout: Groups, raw: Raw) -> Verdict:
        if not len(errors.word):
            return Verdict.nothing()
        meant = layout.values(raw.codes(), errors.words)
        held = meant.copy()
        kept = self.signature(meant, layout.site)
        data = errors.position < errors.data
        member, bit = np.divmod(errors.position[data], layout.site.bits)
        np.bitwise_xor.at(held, (errors.rows[data], member), np.int64(1) << bit)
        np.bitwise_xor.at(kept, errors.rows[~data], np.int64(1) << errors.position[~data] - errors.data)
        nothing = np.empty(0, np.int64)
        return Verdict(self.signature(held, layout.site) != kept, nothing, nothing)

    def cost(self, site: Site) -> Cost:
        """Return the signatures."""
        groups = Groups(site, self.group).groups
        return Cost(words=groups, check_bits=2 * groups)
