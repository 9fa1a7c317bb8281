"""A policy: the tables a deployment demands, as data. Each table that is there must be met; one that is not, is not
asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

BOUNDS = ("high_below", "low_above", "value_below", "value_above", "n_at_least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """``kind``'s ``measure`` must satisfy every given bound, on its value or on an end of its interval.

    ``high_below`` demands that even the upper end of the interval is below the bound; ``low_above`` the reverse.
    Without a measure the record must merely be there. ``data`` and ``parameters`` say on what and how it was measured:
    a rate on easy data, or of another fault, is another number.
    """

    kind: str
    measure: str | None = None
    high_below: float | None = None
    low_above: float | None = None
    value_below: float | None = None
    value_above: float | None = None
    n_at_least: int | None = None
    signer: str | None = None  # who must have signed it, relative to the policy
    data: tuple[str, ...] = ()  # digests (hex) that must be among the record's inputs
    parameters: Mapping[str, object] = field(default_factory=dict)  # what its procedure must hold, value for value

    def bounds(self) -> dict[str, float]:
        """Return the bounds that are set, by field name."""
        values = {name: getattr(self, name) for name in BOUNDS}
        return {name: float(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PassportRule:
    """Whose passport an assessment must carry."""

    signer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRule:
    """Who may sign models whose signed name fits the shell pattern ``match``.

    All rules that fit must be met, and at least one must fit. ``maximum_age`` needs a proven time of signing.
    """

    trust: tuple[str, ...]
    match: str = "*"
    threshold: int | None = None  # of the trusted; all by default
    maximum_age: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRule:
    """Which versions are too old: below a minimum, or below the highest one remembered in a local file."""

    minimum_version: int | None = None
    remember: str | None = None  # file, relative to the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesRule:
    """Files that must not be there: formats told by name and content, or shell patterns of paths."""

    forbid: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceRule:
    """Who may say how the model was built, and which SLSA build level each builder is believed to have."""

    trust: tuple[str, ...]
    builders: Mapping[str, int]  # builder id -> level, 0..3
    slsa_level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetsRule:
    """Which datasets must, may only, and must not have gone in, by digest (hex).

    They are those that the verified provenance names, and those in the verified lineage.
    """

    require: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    signer: tuple[str, ...] = ()  # each must be vouched for by one of these, in a statement of origin or a commitment


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRule:
    """Which model ids (hex) a model may name as its base in its signed manifest; ``none`` allows naming none."""

    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRule:
    """Who may sign the steps of a model's history, and where it may begin.

    Any one of ``trust`` may sign a step, and any one of ``origins`` (``trust`` by default) may vouch for data and
    models to start from; ``leaves`` are digests (hex) to accept as they are. Unless ``complete``, gaps are only told; a
    cycle, a contradiction or something revoked is refused all the same.
    """

    trust: tuple[str, ...]
    origins: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRule:
    """The revocation list that must be current, and by whom; of several lists of one signer ``name`` says which."""

    list: str  # file, relative to the policy
    signer: str
    name: str | None = None
    maximum_age: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRule:
    """The key set of which a key must have signed the model, and the roots it starts from."""

    set: str  # file or folder of editions, relative to the policy
    root: tuple[str, ...]
    name: str | None = None  # of the set, where its roots sign several
    threshold: int | None = None  # of the pinned roots; all by default
    tsa_roots: tuple[str, ...] = ()  # PEM files of timestamp authorities, whose times count for the times of keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All tables; ``folder`` is what paths are relative to, ``digest`` the SHA-256 (hex) of the policy's bytes."""

    folder: Path
    name: str = "policy"
    digest: str = ""
    require: tuple[Requirement, ...] = ()
    passport: PassportRule | None = None
    model: tuple[ModelRule, ...] = ()
    rollback: RollbackRule | None = None
    files: FilesRule | None = None
    provenance: ProvenanceRule | None = None
    datasets: DatasetsRule | None = None
    base: BaseRule | None = None
    lineage: LineageRule | None = None
    revocation: RevocationRule | None = None
    keys: KeysRule | None = None
    tables: tuple[str, ...] = field(default=())  # in the order of the file
