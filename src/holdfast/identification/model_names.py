"""Whether two names mean one model: services add dates and revisions to names, and cut folders off them."""

from __future__ import annotations

import re

# a date (2024-08-06, 20240806, 2024-08), the month and day or year and month of one (0613, 2411), a revision
# (-002, @ and a digest), or no more than that it is the latest
_DATE = r"-(?:20\d\d-?[01]\d(?:-?[0-3]\d)?|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|2\d(?:0[1-9]|1[0-2])|00\d)"
_SUFFIX = re.compile(rf"(?P<which>{_DATE}|[@:][0-9a-f]{{7,64}})$|[-:@]latest$")


def is_same_model(one: str, other: str) -> bool:
    """Return whether two names may mean one model.

    They do where they are equal but for folders or a vendor before them, and for a date or revision behind one of
    them: ``gpt-4o`` may be ``gpt-4o-2024-08-06``, and is neither ``gpt-4`` nor ``gpt-4o-mini``. Nothing is no name.
    """
    (mine, my_version), (theirs, their_version) = _parts(one), _parts(other)
    return bool(mine) and mine == theirs and ("" in (my_version, their_version) or my_version == their_version)


def _parts(name: str) -> tuple[str, str]:
    """Return a name without what services change, and its date or revision."""
    last = name.rstrip("/").rpartition("/")[2].casefold().removesuffix(".gguf")
    found = _SUFFIX.search(last)
    return (last, "") if found is None else (last[: found.start()], found["which"] or "")
