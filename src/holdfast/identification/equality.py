"""Model Equality Testing: do two services answer from one distribution (Gao, Liang & Guestrin, ICLR 2025, 2410.20247).

Maximum mean discrepancy between texts with the Hamming string kernel, k(y, y') = number of positions where two
completions have the same token; completions of different prompts have similarity 0. The p-value is that of a
permutation *within* prompts, so unequal numbers of answers per prompt, or prompts answered by one side only, cannot
make a difference appear, and it counts the observed arrangement itself, so that it is never 0 and the test is exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from holdfast.execution import Proportion
from holdfast.identification.samples import answered_twice, sides
from holdfast.seeds import Seed, derive

Text = Sequence[Hashable]  # tokens, or characters
Samples = Mapping[int, Sequence[Text]]  # prompt -> completions
_END = -1  # fills up what is shorter; two texts that have both ended agree


@dataclass(frozen=True, slots=True)
class TwoSample:
    """The outcome of a permutation test.

    Attributes:
        p_value: chance of a statistic this large if both sides are one; valid, never 0.
        statistic: the observed one.
        permutations: how many were drawn.
        sure: interval of the exact permutation p-value, which finitely many permutations leave (95 %).
        prompts: prompts that both sides answered.
        samples: answers of either side to them.
    """

    p_value: float
    statistic: float
    permutations: int
    sure: Proportion
    prompts: int
    samples: tuple[int, int]

    def differ(self, level: float) -> bool:
        """Whether the two sides differ at an error level such as 0.05."""
        return self.p_value <= level


def model_equality(
    one: Samples, other: Samples, *, length: int | None = None, permutations: int = 1000, seed: Seed | int = 0
) -> TwoSample:
    """Test whether completions of the same prompts come from one distribution.

    Args:
        one: for each prompt the completions of one service; tokens where there are some, characters otherwise.
        other: those of the other service.
        length: tokens of a completion that count, all of them where None.
        permutations: relabellings to draw; the smallest p-value is 1 / (permutations + 1).
        seed: of the permutations.

    Raises:
        InvalidConfig: no prompt with two completions on either side.
    """
    shared = answered_twice(one, other, "equality")
    generator = derive(seed, "model-equality").numpy()
    scores = np.zeros(permutations + 1)
    for prompt in shared:
        kernel = hamming_kernel([*one[prompt], *other[prompt]], length)
        scores += _discrepancies(kernel, len(one[prompt]), permutations, generator)
    sizes = sum(len(one[prompt]) for prompt in shared), sum(len(other[prompt]) for prompt in shared)
    return outcome(scores / len(shared), len(shared), sizes)


def outcome(scores: npt.NDArray[np.float64], prompts: int, samples: tuple[int, int]) -> TwoSample:
    """Return the test whose observed statistic is ``scores[0]``, with those of relabellings after it."""
    count = len(scores) - 1
    # what rounding makes of equal statistics is no difference
    reached = int((scores[1:] >= scores[0] - 1e-12 * np.abs(scores).max()).sum())
    sure = Proportion.clopper_pearson(reached, count)
    return TwoSample((reached + 1) / (count + 1), float(scores[0]), count, sure, prompts, samples)


def hamming_kernel(texts: Sequence[Text], length: int | None = None) -> npt.NDArray[np.float64]:
    """Return the number of positions with the same token for every pair of texts, shape (n, n).

    Shorter texts are filled up with an end sign: where both have ended they agree, where one has they do not.
    """
    width = max((len(text) for text in texts), default=0)
    width = max(width if length is None else min(width, length), 1)
    numbers: dict[Hashable, int] = {}
    codes = np.full((len(texts), width), _END)
    for row, text in enumerate(texts):
        found = [numbers.setdefault(token, len(numbers)) for token in text[:width]]
        codes[row, : len(found)] = found
    return np.asarray((codes[:, None, :] == codes[None, :, :]).sum(axis=-1), dtype=np.float64)


def _discrepancies(
    kernel: npt.NDArray[np.float64], first: int, permutations: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the unbiased squared MMD of the observed split and of random ones, shape (permutations + 1,).

    For Hamming similarity its expectation is the squared distance of the token distributions, summed over positions.
    """
    total = len(kernel)
    side = sides(total, first, permutations, generator)
    second, inner = total - first, kernel - np.diag(np.diag(kernel))
    mine, theirs = side @ inner, (1 - side) @ inner
    return np.asarray(
        (mine * side).sum(1) / (first * (first - 1))
        + (theirs * (1 - side)).sum(1) / (second * (second - 1))
        - 2 * (mine * (1 - side)).sum(1) / (first * second)
    )
