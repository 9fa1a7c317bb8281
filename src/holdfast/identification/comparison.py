"""Do two collections of answers come from one service: every test that they allow, under one bound on the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.identification.answers import Collection
from holdfast.identification.drift import logprob_drift
from holdfast.identification.equality import TwoSample, model_equality
from holdfast.identification.samples import require_same_question, texts_of, tops_of
from holdfast.seeds import Seed


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the tests say together.

    Attributes:
        tests: by kind: ``texts``, and ``logprobs`` where there are any.
        error: bound on the chance of calling one service two, over all tests.
    """

    tests: Mapping[str, TwoSample]
    error: float

    @property
    def share(self) -> float:
        """Error of each single test (Bonferroni)."""
        return self.error / len(self.tests)

    @property
    def differ(self) -> bool:
        """Whether the two are two services."""
        return any(test.differ(self.share) for test in self.tests.values())


def compare_answers(
    one: Collection,
    other: Collection,
    *,
    error: float = 0.05,
    permutations: int = 2000,
    tokens: int | None = None,
    seed: Seed | int = 0,
) -> Comparison:
    """Test whether two collections come from one service, by their texts and by their log-probabilities, if any.

    Args:
        one: answers to prompts, several to each.
        other: answers to the same prompts, asked in the same way.
        error: shared out evenly among the tests, so that all together keep it.
        permutations: relabellings of each test.
        tokens: tokens of an answer that count; all of them where None.
        seed: of the permutations.

    Raises:
        InvalidConfig: an error outside (0, 1), too few permutations to show it, collections of other questions, or
            log-probabilities in only one of them.
    """
    if not 0 < error < 1:
        raise InvalidConfig(f"an error lies between 0 and 1, not {error}")
    require_same_question(one, other)
    tops = tops_of(one), tops_of(other)
    if bool(tops[0]) != bool(tops[1]):
        raise InvalidConfig("only one of the two collections has log-probabilities", hint="collect both alike")
    _require_permutations(permutations, error / (2 if tops[0] else 1))
    tests = {"texts": model_equality(texts_of(one), texts_of(other), length=tokens, permutations=permutations,
                                     seed=seed)}  # fmt: skip
    if tops[0]:
        tests["logprobs"] = logprob_drift(*tops, permutations=permutations, seed=seed)
    return Comparison(tests, error)


def _require_permutations(permutations: int, share: float) -> None:
    """Refuse, before any test is made, what no test could decide."""
    if 1 / (permutations + 1) > share:
        raise InvalidConfig(
            f"{permutations} permutations cannot show an error of {share:g}", hint="more --permutations"
        )
