"""A training run of one's own, recorded: wrap the loop, and what went in and came out is written as provenance.

>>> with holdfast.TrainingRun(data=[train], config={"lr": 0.1}, seed=0, key="file:trainer.pem") as run:
...     for epoch in range(10):
...         fit(model)
...         torch.save(model.state_dict(), f"epoch-{epoch}.pt")
...         run.checkpoint(f"epoch-{epoch}.pt")
...     run.finish(model, metrics={"accuracy": 0.97})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UsageError
from holdfast.evidence import canonical
from holdfast.evidence.chain import Chain
from holdfast.evidence.digest import digest_file
from holdfast.evidence.provenance import BUILDER, Provenance, Resource, build_type
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import sign_statement
from holdfast.signing.lineage.code import commit_of
from holdfast.signing.lineage.origins import resource_of, subject_of
from holdfast.signing.lineage.steps import environment, holdfast_version, invocation, now, packages, write_step
from holdfast.signing.signers import Signer, load_signer

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset

    Thing = Dataset | nn.Module | Path | str | Subject | Resource

CHECKPOINTS = "checkpoint-chain"


class TrainingRun:
    """Records one training: what goes in when it begins, checkpoints on the way, the model when it ends.

    Args:
        data: datasets in memory, also as :func:`holdfast.verified` gives them, subjects, or resources with any digests.
        base: the model it starts from; None when its weights are fresh.
        config: everything chosen, JSON.
        seed: of every random choice.
        key: ``file:KEY.pem`` or a signer; without it the provenance is unsigned, and no evidence.
        password: of an encrypted key.
        code: a folder in a git repository, whose commit is named; None leaves git alone.
        packages: of which the installed version is named, besides those that Holdfast computes with.
        builder: URI of who runs this, such as a platform; Holdfast's own by default.
        out: an artifact folder: on exit its ``lineage`` folder gets the statement.
        clock: returns the time as RFC 3339.

    Attributes:
        statement: the in-toto statement, once the run has ended well.
        bundle: its signed bytes, or None without a key.
        chain: the checkpoints so far.

    Raises:
        InvalidConfig: ``config`` is no JSON, or ``code`` is in no repository.
    """

    def __init__(
        self,
        *,
        data: Iterable[Thing] = (),
        base: Thing | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        key: str | Signer | None = None,
        password: bytes | None = None,
        code: Path | str | None = None,
        packages: Iterable[str] = (),
        builder: str = "",
        out: Path | str | None = None,
        clock: Callable[[], str] = now,
    ) -> None:
        self._signer = None if key is None else load_signer(key, password=password)
        self._parameters = {"config": dict(config or {}), "seed": None if seed is None else str(seed)}
        canonical.dumps(self._parameters)
        self._inputs = [resource_of(item, "data") for item in data]
        self._inputs += [] if base is None else [resource_of(base, "model")]
        self._inputs += [] if code is None else [commit_of(code)]
        self._packages, self._builder, self._out, self._clock = tuple(packages), builder, out, clock
        self._model: Subject | None = None
        self._metrics: dict[str, Any] = {}
        self._started = ""
        self.chain = Chain.of(self._about())
        self.statement: Statement | None = None
        self.bundle: bytes | None = None

    def _about(self) -> dict[str, Any]:
        return {**self._parameters, "inputs": [item.to_json() for item in self._inputs]}

    def __enter__(self) -> Self:
        """Begin: the clock starts."""
        self._started = self._clock()
        return self

    def checkpoint(self, path: Path | str, *, step: int | None = None) -> str:
        """Add the file at ``path`` to the chain of checkpoints, and return the chain's new head (hex).

        Raises:
            UnreadableArtifact: there is no file.
        """
        self._require_open()
        number = len(self.chain.links) if step is None else step
        self.chain = self.chain.add(Path(path).name, digest_file(path).blake3, number)
        return self.chain.head

    def resume(self, path: Path | str, chain: Path | str, *, head: str | None = None) -> None:
        """Go on from the checkpoint at ``path``, if it is the one that ``chain`` (from :meth:`save_chain`) names.

        Args:
            path: the checkpoint; load it only after this returns.
            chain: the file of the chain.
            head: what the chain's head must be (hex), from a place that a forger cannot write to.

        Raises:
            DigestMismatch: another file, an edited chain, the chain of another training, or another head.
        """
        self._require_open()
        found = Chain.from_bytes(read_bytes(chain, "checkpoint chain"), what=str(chain))
        if found.start != Chain.of(self._about()).start:
            raise DigestMismatch(f"{chain} is the chain of another training", hint="same data, base, config and seed?")
        if head is not None and found.head != head:
            raise DigestMismatch(f"{chain} has another head than the expected one")
        self.chain = found.upto(Path(path).name, digest_file(path).blake3)

    def save_chain(self, path: Path | str) -> None:
        """Write the chain, for :meth:`resume`."""
        write_atomic(path, self.chain.to_bytes())

    def finish(self, model: nn.Module | Path | str | Subject, *, metrics: Mapping[str, Any] | None = None) -> None:
        """Name the model that came out, as it is now, and what was measured (JSON).

        Raises:
            UsageError: the run has ended, or has been finished.
        """
        self._require_open()
        canonical.dumps(dict(metrics or {}))
        self._model, self._metrics = subject_of(model), dict(metrics or {})

    def _require_open(self) -> None:
        if not self._started or self._model is not None:
            raise UsageError("this training run is not open", hint="with holdfast.TrainingRun(...) as run:")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End: make the provenance, sign it and write it; after an exception there is none."""
        if kind is not None:
            return
        if self._model is None:
            raise InvalidConfig("the training run named no model", hint="call run.finish(model) before it ends")
        made = self._provenance(self._model)
        self.statement = made.statement(self._model)
        self.bundle = None if self._signer is None else sign_statement(self.statement, self._signer)
        if self._out is not None:
            write_step(self._out, made, self._model, self._signer)

    def _provenance(self, model: Subject) -> Provenance:
        made = Provenance(
            build_type=build_type("train"),
            parameters=self._parameters,
            environment=environment(),
            inputs=(*self._inputs, *packages(), *packages(self._packages)),
            builder=self._builder or BUILDER,
            version=holdfast_version(),
            started=self._started,
            finished=self._clock(),
            byproducts=byproducts(self.chain, self._metrics),
        )
        return replace(made, invocation=invocation(made, model))


def byproducts(chain: Chain | None, metrics: Mapping[str, Any]) -> tuple[Resource, ...]:
    """Return what a training leaves besides its model: the head of its checkpoints, and what was measured."""
    found = []
    if chain is not None and chain.links:
        notes = {"start": chain.start, "checkpoints": len(chain.links)}
        found.append(Resource(CHECKPOINTS, {"blake3": chain.head}, notes=notes))
    if metrics:
        found.append(Resource("metrics", notes={"values": dict(metrics)}))
    return tuple(found)
