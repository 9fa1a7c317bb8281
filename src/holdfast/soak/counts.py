"""Event counts over exposures: what every log, and every published table, comes down to. Read from TOML and CSV.

One row is one session of one arm (a log file, a table's line). ``subject`` is what was compared (a model on a host),
``arm`` the variant: ``base`` is held against every other one.
"""

from __future__ import annotations

import csv
import io
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact, UnsupportedVersion

COUNTS_TYPE = "holdfast.event-counts/v1"
BASE = "base"
PUBLISHED = "published:"
_LIMIT = 16 << 20  # bytes of a table
_NUMBERS = ("sdc", "critical", "due", "nonfinite")
_COLUMNS = ("subject", "arm", "seconds", *_NUMBERS, "unseen", "session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one session of one arm saw.

    Attributes:
        seconds: exposure up to the last thing written down; ``unseen`` is how much more there may have been.
        sdc: executions with a wrong output; ``critical`` and ``nonfinite`` (NaN or infinity came out) are among them.
        due: crashes and hangs; None where nobody counted them, which is not zero.
        episodes: groups of sdc that look like one cause; None where only counts are known.
    """

    subject: str
    arm: str
    seconds: float
    sdc: int
    critical: int
    due: int | None = None
    nonfinite: int | None = None
    unseen: float = 0.0
    session: str = ""
    episodes: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.seconds + self.unseen) or self.seconds < 0 or self.unseen < 0:
            raise InvalidConfig(f"{self.subject}, {self.arm}: {self.seconds} s is no exposure")
        if not 0 <= self.critical <= self.sdc or min(self.due or 0, self.nonfinite or 0) < 0:
            raise InvalidConfig(
                f"{self.subject}, {self.arm}: {self.critical} critical of {self.sdc} SDC",
                hint="critical events are among the SDC; counts are not negative",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Table:
    """Rows with where they come from and what is wrong with their exposure, in words."""

    rows: tuple[Counts, ...]
    source: str = ""
    notes: tuple[str, ...] = field(default=())


def published(name: str) -> Path:
    """Return the file of a published table that ships with the package.

    Raises:
        UnknownName: there is none of this name.
    """
    folder = Path(str(files("holdfast.soak") / "published"))
    found = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name not in found:
        raise UnknownName(f"no published table is called {name!r}", hint=f"there are: {', '.join(found)}")
    return found[name]


def read_counts(path: Path) -> Table:
    """Read a table of counts from TOML (``[[arms]]``) or CSV (columns subject, arm, seconds, sdc, critical, ...).

    Raises:
        UnreadableArtifact: malformed; the row is named.
        UnsupportedVersion: a TOML of another type.
    """
    data = read_bytes(path, "table of counts", limit=_LIMIT)
    try:
        text = data.decode()
        return _from_toml(text, path.name) if path.suffix == ".toml" else _from_csv(text, path.name)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, csv.Error) as error:
        raise UnreadableArtifact(f"{path.name} is no table of counts: {error}") from error


def _from_toml(text: str, name: str) -> Table:
    value = tomllib.loads(text)
    if value.get("type") != COUNTS_TYPE:
        raise UnsupportedVersion(f"{name} has the type {value.get('type')!r}", hint=f"this version reads {COUNTS_TYPE}")
    rows = tuple(row for item in value.get("arms", []) for row in _arms(item, name))
    if not rows:
        raise UnreadableArtifact(f"{name} lists no arms")
    return Table(rows, str(value.get("source", "")), tuple(filter(None, [str(value.get("exposure", ""))])))


def _arms(item: Mapping[str, Any], name: str) -> Iterator[Counts]:
    if not isinstance(item, dict) or not isinstance(item.get("subject"), str):
        raise UnreadableArtifact(f"{name}: every [[arms]] names its subject")
    for arm, values in item.items():
        if arm != "subject":
            if not isinstance(values, dict):
                raise UnreadableArtifact(f"{name}: {item['subject']}: {arm} is no table of counts")
            yield _row({"subject": item["subject"], "arm": arm, **values}, f"{name}: {item['subject']}, {arm}")


def _from_csv(text: str, name: str) -> Table:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows = tuple(
        _row({key: cell for key, cell in row.items() if cell not in ("", None)}, f"{name}, line {number}")
        for number, row in enumerate(reader, 2)
    )
    if not rows:
        raise UnreadableArtifact(f"{name} has no rows")
    return Table(rows)


def _row(values: Mapping[Any, Any], where: str) -> Counts:
    unknown = [str(key) for key in values if key not in (*_COLUMNS, "episodes")]
    missing = [key for key in ("subject", "arm", "seconds", "sdc", "critical") if key not in values]
    if unknown or missing:
        what = f"unknown column {unknown[0]}" if unknown else f"no column {missing[0]}"
        raise UnreadableArtifact(f"{where}: {what}", hint=f"columns are {', '.join(_COLUMNS)}")
    try:
        numbers = {key: _whole(values[key]) for key in (*_NUMBERS, "episodes") if key in values}
        times = {key: float(values[key]) for key in ("seconds", "unseen") if key in values}
        texts = {key: str(values[key]) for key in ("subject", "arm", "session") if key in values}
        return Counts(**texts, **numbers, **times)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UnreadableArtifact(f"{where}: {error}") from error


def _whole(value: Any) -> int:
    """Return a count; half an event is a mistake and not rounded."""
    if isinstance(value, float | bool):
        raise TypeError(f"{value} is no count")
    return int(value)
