"""``border``: look for inputs on which two platforms differ, and keep those that withstand the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.execution import Progress
from holdfast.execution.fit import require_fit
from holdfast.execution.run import evaluating
from holdfast.identification.border.checks import Demands
from holdfast.identification.border.found import Search
from holdfast.identification.border.inputs import BorderInput, BorderSet, checked
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.lattice_search import LatticeSearch
from holdfast.identification.border.oracle import Oracle, open_oracles
from holdfast.identification.platforms import LocalPlatform
from holdfast.models import manifest_of


def border(
    model: nn.Module,
    data: Dataset,
    *,
    platforms: Sequence[str | LocalPlatform | Oracle],
    n: int = 1,
    search: Search | None = None,
    demands: Demands | None = None,
    batch: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BorderSet:
    """Find ``n`` images that two platforms answer with different labels; further platforms are only asked.

    Args:
        model: an image classifier that returns (batch, classes).
        data: 8-bit images to start from, of several classes; their preprocessing belongs to the search.
        platforms: names of local platforms, settings, or oracles; the first two are to be separated.
        n: border inputs wanted.
        search: bisection and lattice steps if not given.
        demands: what each must withstand.
        batch: images in one pass of each local platform, instead of its own number; 1 for a service that answers
            one request at a time.
        seed: of starting images and of steps.
        progress: called with inputs found and wanted.

    Raises:
        InvalidConfig: fewer than two platforms, or data that the model does not take.
        VerificationError: fewer were found than wanted; the last candidate's failure is named.
    """
    if len(platforms) < 2 or n < 1:
        raise InvalidConfig("a border runs between two platforms", hint="platforms=('default', 'bf16')")
    require_fit(model, data)
    lattice = Lattice.of(data)
    with evaluating(model), open_oracles(model, platforms, lattice, batch=batch) as oracles:
        hunt = _Hunt(oracles, lattice, demands or Demands(), seed)
        found = hunt.run(model, data, search or LatticeSearch(attempts=8 * n), n, progress)
    return BorderSet(found, lattice, manifest_of(model).digest)


class _Hunt:
    """Checks what a search yields and keeps what holds."""

    def __init__(self, oracles: Sequence[Oracle], lattice: Lattice, demands: Demands, seed: int) -> None:
        self.oracles, self.lattice, self.demands, self.seed = oracles, lattice, demands, seed

    def run(
        self, model: nn.Module, data: Dataset, search: Search, wanted: int, progress: Progress | None
    ) -> tuple[BorderInput, ...]:
        """Return ``wanted`` different inputs."""
        kept, trouble, method = list[BorderInput](), "the search met none", type(search).__name__
        for item in search.search(self.oracles, model, data, self.seed):
            try:
                good = checked(item.image, self.oracles, self.lattice, self.demands, self.seed, against=item.against)
            except VerificationError as error:
                trouble = str(error)
                continue
            if not any(torch.equal(good.image, other.image) for other in kept):
                kept.append(replace(good, evaluations=item.evaluations, method=method))
            if progress is not None:
                progress(len(kept), wanted)
            if len(kept) == wanted:
                return tuple(kept)
        one, two = (oracle.name for oracle in self.oracles[:2])
        raise VerificationError(
            f"{len(kept)} of {wanted} border inputs of {one} and {two} found: {trouble}",
            hint="the two may compute the same bits for such batches; more attempts, other data, or another batch",
        )
