"""Reference matching: the same probes on the same model give the same bits only on an equivalent platform.

Classifiers trained on the bits of *unseen* inputs (HSPI's logit distributions, Zhang et al., ICML 2025) hardly beat
chance between fp32 stacks on held-out inputs; matching *known* probes against references tells them apart from one
input. Classes that give identical bits on all probes are merged and reported together; what fits no class is
``unknown``. The likelihoods are those of :mod:`holdfast.identification.matching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution import Trace
from holdfast.identification.evidence import grid_of, not_numbers, rounded, rounding_in, step_of
from holdfast.identification.grid_text import Rounding
from holdfast.identification.matching import UNKNOWN as UNKNOWN
from holdfast.identification.matching import DistanceLaw, bins_of, distances
from holdfast.identification.posterior import Identification, Posterior
from holdfast.identification.providers import digests
from holdfast.identification.sequential import FLAW, Decision, SequentialMatch, echo_of, run_sequential
from holdfast.numerics import bits

_Classes = list[tuple[tuple[str, ...], Tensor]]


class Identifier:
    """Learns reference traces and names the platform of a new one.

    Outputs that a service rounded are noticed, and compared with references rounded alike.

    Args:
        flaw: share of words that a platform does not repeat when compared with itself, as struck in transport.
        unknown: prior probability that a trace comes from no reference.
        level: probability that the reported set of classes holds at least.
    """

    def __init__(self, *, flaw: float = 1e-4, unknown: float = 0.05, level: float = 0.99) -> None:
        if not 0 < flaw < 0.5 or not 0 < unknown < 1 or not 0 < level < 1:
            raise InvalidConfig(f"flaw {flaw}, unknown {unknown} and level {level} are not all probabilities")
        self.flaw, self.unknown, self.level = flaw, unknown, level

    def fit(self, traces: Sequence[tuple[str, Trace]]) -> Identifier:
        """Learn labelled references; merge those with identical bits.

        Raises:
            InvalidConfig: no traces, or traces of different probes, models or shapes.
        """
        if not traces:
            raise InvalidConfig("an identifier needs at least one reference trace")
        self.first_ = traces[0][1]
        for _, trace in traces:
            self.require_comparable(trace)
        self.classes_ = merged([(label, _words(trace)) for label, trace in traces])
        self.law_ = _law(self.classes_, Rounding("fp32"), self.flaw)
        return self

    def predict(self, trace: Trace) -> Identification:
        """Return the classes that explain ``trace``, or ``unknown``.

        Raises:
            InvalidConfig: a trace of other probes or another model, or an identifier that was not fitted.
        """
        classes, words, rounding = self._compensated(trace)
        law = _law(classes, rounding, self.flaw) if rounding.rounded else self.law_
        apart = {labels: distances(known, words, step_of(known, rounding)) for labels, known in classes}
        grid = grid_of(trace.outputs, rounding)
        answer = Posterior(apart, law, self.unknown).answer(rounding, grid, self.level)
        return replace(answer, evidence=(*answer.evidence, *not_numbers(trace.outputs)))

    def probe_by_probe(self, trace: Trace, *, error: float) -> Decision:
        """Return where the sequential test stops that looks at one probe after another, the telling ones first.

        Args:
            trace: what is to be named.
            error: bound on the probability of naming a wrong class, whenever the test stops.

        Raises:
            InvalidConfig: as for :meth:`predict`; or fewer than two distinct classes.
        """
        classes, words, _ = self._compensated(trace)
        answers = {" = ".join(labels): digests(known) for labels, known in classes}
        echo = echo_of(answers)
        # one struck word breaks the digest of its probe, so a probe is as frail as all its words together
        frail = 1 - (1 - self.flaw) ** words.shape[1]
        test = SequentialMatch(answers, error=error, flaw=min(max(FLAW, frail), echo / 2, (1 - echo) / 2), echo=echo)
        decision = run_sequential(test, digests(words))
        spelled = {" = ".join(labels): labels for labels, _ in classes}
        return replace(decision, labels=tuple(one for name in decision.labels for one in spelled.get(name, (name,))))

    def _compensated(self, trace: Trace) -> tuple[_Classes, Tensor, Rounding]:
        """Return classes and words as they compare: rounded alike where the service rounded."""
        self.require_comparable(trace)
        words, rounding = _words(trace), rounding_in(trace.outputs)
        if not rounding.rounded:
            return self.classes_, words, rounding
        known = [(label, rounded(known, rounding)) for labels, known in self.classes_ for label in labels]
        return merged(known), rounded(words, rounding), rounding

    def require_comparable(self, trace: Trace) -> None:
        """Raise :class:`InvalidConfig` unless ``trace`` was made with the references' probes and model."""
        if not hasattr(self, "first_"):
            raise InvalidConfig("the identifier has no references yet", hint="call fit first")
        first = self.first_
        if trace.probe_digest != first.probe_digest:
            raise InvalidConfig("the trace was made with other probes than the references")
        if trace.model_digest != first.model_digest:
            raise InvalidConfig("the trace was made with another model than the references")
        if trace.outputs.shape != first.outputs.shape or trace.outputs.dtype != first.outputs.dtype:
            mine, theirs = (f"{tuple(item.outputs.shape)} {item.outputs.dtype}" for item in (trace, first))
            raise InvalidConfig(f"a trace of {mine} does not fit references of {theirs}")


def merged(traces: Sequence[tuple[str, Tensor]]) -> _Classes:
    """Return equivalence classes: labels whose words are bit-equal, in order of appearance."""
    classes: _Classes = []
    for label, words in traces:
        place = next((k for k, (_, known) in enumerate(classes) if bits.bit_equal(known, words)), None)
        if place is None:
            classes.append(((label,), words))
        elif label not in classes[place][0]:
            classes[place] = ((*classes[place][0], label), classes[place][1])
    return classes


def _words(trace: Trace) -> Tensor:
    return trace.outputs.reshape(len(trace.outputs), -1).contiguous()


def _law(classes: _Classes, rounding: Rounding, flaw: float) -> DistanceLaw:
    """Learn the law from each class and the one nearest to it."""
    nearest = []
    for place, (_, one) in enumerate(classes):
        shared = [int((bits.int_view(known) == bits.int_view(one)).sum()) for _, known in classes]
        shared[place] = -1
        if len(classes) > 1:
            near = classes[shared.index(max(shared))][1]
            nearest.append(bins_of(distances(one, near, step_of(one, rounding))))
    return DistanceLaw(flaw).fit(nearest)
