"""``border``: look for inputs on which two platforms differ, and keep those that withstand the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.execution import Progress
from holdfast.execution.fit import require_fit
from holdfast.identification.border.asking import Oracle, in_full_batches
from holdfast.identification.border.checks import Demands
from holdfast.identification.border.found import Found, Search
from holdfast.identification.border.inputs import INDEX, BorderInput, BorderSet, checked, write_checked
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.lattice_search import LatticeSearch
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.settings import Setting
from holdfast.models import manifest_of
from holdfast.models.subject import evaluating
from holdfast.seeds import derive

_COMPARED = 64  # images of either kind, before two platforms are called one class


def border(
    model: nn.Module,
    data: Dataset,
    *,
    platforms: Sequence[str | Setting | Oracle],
    n: int = 1,
    search: Search | None = None,
    demands: Demands | None = None,
    batch: int | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
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
        folder: where every input is written as soon as it is found, after one more check; what is there already, of
            the same model and platforms, is checked again and counts, so a killed search goes on.
        progress: called with inputs found and wanted.

    Raises:
        InvalidConfig: fewer than two platforms, data that the model does not take, or a folder with something else.
        VerificationError: fewer were found than wanted; the last candidate's failure is named.
    """
    if len(platforms) < 2 or n < 1:
        raise InvalidConfig("a border runs between two platforms", hint="platforms=('default', 'bf16')")
    require_fit(model, data)
    lattice = Lattice.of(data)
    with evaluating(model), open_oracles(model, platforms, lattice, batch=batch) as oracles:
        hunt = _Hunt(oracles, lattice, demands or Demands(), manifest_of(model).digest, seed, folder)
        hunt.resume()
        hunt.run(model, data, search or LatticeSearch(attempts=8 * n), n, progress)
        return hunt.found


class _Hunt:
    """Checks what a search yields and keeps what holds."""

    def __init__(
        self,
        oracles: Sequence[Oracle],
        lattice: Lattice,
        demands: Demands,
        model_digest: str,
        seed: int,
        folder: Path | str | None,
    ) -> None:
        self.oracles, self.demands, self.seed, self.folder = oracles, demands, seed, folder
        self.found = BorderSet((), lattice, model_digest)

    def resume(self) -> None:
        """Take over what lies in the folder."""
        if self.folder is None or not (Path(self.folder) / INDEX).exists():
            return
        there, names = BorderSet.load(self.folder), [oracle.name for oracle in self.oracles]
        same = there.model_digest == self.found.model_digest and there.lattice == self.found.lattice
        if not same or any(list(item.labels) != names for item in there.inputs):
            raise InvalidConfig(
                f"{self.folder} holds border inputs of another model, preprocessing or platforms",
                hint="give the result another folder",
            )
        self.found = there.rechecked(self.oracles, self.demands, seed=self.seed)

    def run(self, model: nn.Module, data: Dataset, search: Search, wanted: int, progress: Progress | None) -> None:
        """Search until there are ``wanted`` different inputs."""
        trouble, method = "the search met none", type(search).__name__
        # a search that goes on starts elsewhere than the one that found what is there
        start = derive(self.seed, "after", len(self.found.inputs))
        found = search.search(self.oracles, model, data, start)
        while len(self.found.inputs) < wanted:
            item = next(found, None)
            if item is None:
                raise self._too_few(wanted, trouble, data)
            try:
                good = self._checked(item)
            except VerificationError as error:
                trouble = str(error)
                continue
            if not any(torch.equal(good.image, other.image) for other in self.found.inputs):
                self._keep(replace(good, evaluations=item.evaluations, method=method))
            if progress is not None:
                progress(len(self.found.inputs), wanted)

    def _checked(self, item: Found) -> BorderInput:
        return checked(item.image, self.oracles, self.found.lattice, self.demands, self.seed, against=item.against)

    def _keep(self, item: BorderInput) -> None:
        """Take over an input; where there is a folder, after one more check of this one alone, and write it."""
        more = replace(self.found, inputs=(item,))
        if self.folder is not None:
            more = more.rechecked(self.oracles, self.demands, seed=self.seed)
        self.found = replace(self.found, inputs=(*self.found.inputs, *more.inputs))
        if self.folder is not None:
            write_checked(self.found, Path(self.folder))

    def _too_few(self, wanted: int, trouble: str, data: Dataset) -> VerificationError:
        one, two = (oracle.name for oracle in self.oracles[:2])
        if alike := self._alike(data):
            return VerificationError(
                f"no border input can part {one} and {two}: they give the same bits for all of {alike} images, in "
                f"batches of {self.oracles[0].batch} and {self.oracles[1].batch}: they are one class here",
                hint="single small images take the same kernels under many settings: try another batch or model",
            )
        return VerificationError(
            f"{len(self.found.inputs)} of {wanted} border inputs of {one} and {two} found: {trouble}",
            hint="the two give different bits: more attempts, other data, or another batch may part them",
        )

    def _alike(self, data: Dataset) -> int:
        """Return how many images, of the data and of noise, both answer with the same bits; 0 if any differs."""
        images = torch.cat((data.raw[:_COMPARED], self.found.lattice.noise(_COMPARED, self.seed)))
        first, second = (in_full_batches(oracle, images, images) for oracle in self.oracles[:2])
        return len(images) if torch.equal(first, second) else 0
