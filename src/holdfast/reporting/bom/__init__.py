"""Bills of materials from a verified lineage: only what is proved is told, and one proof gives one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import InvalidConfig, LineageBroken
from holdfast.evidence import canonical
from holdfast.reporting.bom.cyclonedx import cyclonedx
from holdfast.reporting.bom.spdx import spdx
from holdfast.signing.lineage import VerifiedLineage
from holdfast.signing.lineage.picture import picture_of, to_dot, to_json

_JSON: Mapping[str, Callable[..., dict[str, Any]]] = {"cyclonedx": cyclonedx, "spdx": spdx}
FORMATS = (*_JSON, "dot", "json")


def exported(found: VerifiedLineage, format: str, *, created: str) -> bytes:
    """Return the file that tells a verified lineage in another tool's format.

    Args:
        found: from :func:`~holdfast.signing.lineage.verify_lineage`.
        format: ``cyclonedx`` (1.6), ``spdx`` (3.0.1), ``dot`` or ``json``.
        created: time to state, RFC 3339 in UTC.

    Raises:
        InvalidConfig: another format.
        LineageBroken: ``found`` has gaps, as a mere survey may.
    """
    if found.gaps:
        raise LineageBroken("a lineage with gaps is no proof and is not exported", hint="verify it first")
    if format == "dot":
        return to_dot(picture_of(found)).encode()
    if format == "json":
        return canonical.dumps({"model": found.target, **to_json(picture_of(found))}) + b"\n"
    if format not in _JSON:
        raise InvalidConfig(f"unknown format {format!r}", hint=f"choose {', '.join(FORMATS)}")
    return json.dumps(_JSON[format](found, created=created), indent=2, ensure_ascii=False).encode() + b"\n"


__all__ = ["FORMATS", "cyclonedx", "exported", "spdx"]
