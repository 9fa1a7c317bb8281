"""Result rows of NVBitFI (NVlabs, 2.1): one fault per process run, classified by what the process left behind.

A row is ``icount;kernel;kcount;iid;opid;bid:pc:opcode:tid:mask:seconds:category:dmesg:values``. Categories are 1 .. 19
(its ``params.py``): three masked, two DUE, ten "potential DUE" (an error message or an Xid beside whatever came out),
three SDC, and 19, where nothing was injected. The last are no trials and leave the denominator.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact
from holdfast.execution.statistics import Proportion
from holdfast.soak.log_lines import Unread

MAX_BYTES = 1 << 30
_FILE = re.compile(r"results-mode(?P<mode>\w+)-igid(?P<group>\w+)\.bfm(?P<model>\d+)\..*")
GROUPS = ("fp64", "fp32", "ld", "pr", "nodest", "others", "gppr", "gp")
MODELS = ("FLIP_SINGLE_BIT", "FLIP_TWO_BITS", "RANDOM_VALUE", "ZERO_VALUE")


class Kind(StrEnum):
    """What NVBitFI's 19 categories come down to."""

    MASKED = "masked"
    DUE = "due"
    POTENTIAL_DUE = "potential-due"
    SDC = "sdc"
    NOT_INJECTED = "not-injected"


_KINDS = (
    *(Kind.MASKED,) * 3,
    *(Kind.DUE,) * 2,
    *(Kind.POTENTIAL_DUE,) * 10,
    *(Kind.SDC,) * 3,
    Kind.NOT_INJECTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One row; ``group`` and ``model`` are the instruction group and the bit-flip model that the file name tells."""

    number: int
    kernel: str
    invocation: int  # which launch of the kernel
    instruction: int  # dynamic, within the group
    opcode: str  # empty when the fault was never reached
    mask: str
    seconds: float
    category: int
    kind: Kind
    dmesg: str
    values: str
    group: str
    model: str


def looks_like_row(text: str) -> bool:
    """Say whether a line has the shape of a result row."""
    words = text.split(";", 5)
    return len(words) == 6 and words[0].isdigit() and words[5].count(":") >= 7


def read_results(path: Path) -> tuple[tuple[Injection, ...], tuple[Unread, ...]]:
    """Read one results file; what is no row is returned beside them.

    Raises:
        UnreadableArtifact: no row at all.
    """
    group, model = _from_name(path.name)
    rows: list[Injection] = []
    unread: list[Unread] = []
    text = read_bytes(path, "results file", limit=MAX_BYTES).decode("utf-8", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = _row(line.rstrip("\r"), number, group, model)
            (rows if isinstance(found, Injection) else unread).append(found)  # type: ignore[arg-type]
    if not rows:
        raise UnreadableArtifact(f"{path} holds no NVBitFI result row")
    return tuple(rows), tuple(unread)


def _from_name(name: str) -> tuple[str, str]:
    found = _FILE.fullmatch(name)
    if found is None:
        return "", ""
    group, model = found["group"], int(found["model"])
    named = GROUPS[int(group)] if group.isdigit() and int(group) < len(GROUPS) else group
    return named, MODELS[model] if model < len(MODELS) else str(model)


def _row(line: str, number: int, group: str, model: str) -> Injection | Unread:
    try:
        count, kernel, invocation, instruction, _, rest = line.split(";", 5)  # a kernel message may hold more of them
        _, _, opcode, _, mask, seconds, category, dmesg, *values = rest.split(":")
        kind = _KINDS[int(category) - 1] if 1 <= int(category) <= len(_KINDS) else None
        if kind is None or not 0 <= float(seconds) < float("inf"):
            return Unread(number, line[:80], f"category {category} after {seconds} s does not exist")
        return Injection(
            number=int(count), kernel=kernel, invocation=int(invocation), instruction=int(instruction), opcode=opcode,
            mask=mask, seconds=float(seconds), category=int(category), kind=kind, dmesg=dmesg, values=":".join(values),
            group=group, model=model,
        )  # fmt: skip
    except ValueError:
        return Unread(number, line[:80], "an incomplete row")


def shares(rows: Sequence[Injection], confidence: float = 0.95) -> dict[str, Proportion]:
    """Return the share of every kind among what was injected, by Wilson.

    ``due-or-potential`` is both kinds of DUE together: what a machine with detectors would have noticed.
    """
    counts = Counter(row.kind for row in rows)
    n = len(rows) - counts[Kind.NOT_INJECTED]
    kinds = [kind for kind in Kind if kind is not Kind.NOT_INJECTED]
    found = {str(kind): Proportion.wilson(counts[kind], n, confidence) for kind in kinds}
    both = counts[Kind.DUE] + counts[Kind.POTENTIAL_DUE]
    return found | {"due-or-potential": Proportion.wilson(both, n, confidence)}
