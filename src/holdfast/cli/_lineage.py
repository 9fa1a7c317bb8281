"""What transforming verbs share: the key that signs a step, and writing the step beside the new model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import password_for, say

if TYPE_CHECKING:
    from holdfast.data import Dataset
    from holdfast.evidence.provenance import Resource
    from holdfast.signing import Signer

StepKey = Annotated[
    str | None, typer.Option("--key", help="Key that signs this step of the lineage: file:KEY.pem. Unsigned without.")
]
PasswordFile = Annotated[str | None, typer.Option(help="File with the key's password (- asks).")]


class Recorder:
    """Made when a verb begins, so that its key is there before work is spent and its clock runs from the start."""

    def __init__(self, key: str | None, password_file: str | None = None) -> None:
        from holdfast.signing import load_signer
        from holdfast.signing.lineage.steps import now

        self._signer: Signer | None = None if key is None else load_signer(key, password=password_for(password_file))
        self._started, self._now = now(), now

    def record(
        self,
        out: Path,
        source: Path | str | None,
        *data: Dataset,
        byproducts: tuple[Resource, ...] = (),
    ) -> None:
        """Write the steps that made the artifact ``out`` of ``source``; ``data`` lends its name to its digest."""
        from holdfast.signing.lineage import Circumstances, write_steps
        from holdfast.signing.lineage.origins import resource_of

        known = tuple(resource_of(item, "data") for item in data)
        found = Circumstances(started=self._started, finished=self._now(), known=known, byproducts=byproducts)
        place = Path(source) if source is not None and Path(source).is_dir() else None
        write_steps(out, self._signer, source=place, circumstances=found)
        self._say(out)

    def record_copy(self, out: Path, source: Path, kind: str, parameters: dict[str, Any]) -> None:
        """Write that ``out``, whose own description is that of ``source``, is a changed copy of it."""
        from holdfast.evidence.provenance import Provenance, build_type
        from holdfast.signing.lineage import identify, write_step
        from holdfast.signing.lineage.origins import resource_of
        from holdfast.signing.lineage.steps import adopt, environment, holdfast_version

        made = Provenance(
            build_type=build_type(kind),
            parameters=parameters,
            environment=environment(),
            inputs=(resource_of(source, "model"),),
            version=holdfast_version(),
            started=self._started,
            finished=self._now(),
        )
        adopt(out, source)
        write_step(out, made, identify(out), self._signer)
        self._say(out)

    def _say(self, out: Path) -> None:
        signed = "signed" if self._signer is not None else "unsigned, since no --key was given"
        say(f"lineage in {out / 'lineage'}: {signed}")
