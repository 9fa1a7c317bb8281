"""Whether a model holds exactly what a statement signs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from holdfast.errors import DigestMismatch, UnsupportedVersion
from holdfast.evidence.statement import Statement
from holdfast.signing.oms.scope import verifying_skip
from holdfast.signing.oms.serialization import FILES, digests
from holdfast.signing.oms.statement import Listing, read_statement


def require_contents(
    model: Path,
    signature: Path,
    listing: Listing,
    ignore: Iterable[str] = (),
    *,
    extra: bool = False,
    links: bool | None = None,
) -> tuple[str, ...]:
    """Return the files that are there unsigned, if all others are exactly the signed ones.

    Args:
        model: folder or file.
        signature: where the bundle lies.
        listing: what was signed.
        ignore: paths the caller agrees to leave unsigned.
        extra: let unsigned files through.
        links: follow links; None does as signed.

    Raises:
        DigestMismatch: files are missing, new or changed; the first are named.
        SignatureInvalid: the signature leaves out weights, code or settings, and the caller did not agree.
        UnreadableArtifact: a link or device in the model.
    """
    how = listing.how if links is None else dataclasses.replace(listing.how, allow_symlinks=links)
    skip, hidden = verifying_skip(model, signature, ignore, listing, links=how.allow_symlinks)
    alone = "." if listing.files == {"."} else model.name
    found = digests(model, how, skip, alone=alone, only=listing.files if extra else None)
    actual = Listing(how, found.digests)
    require_same(dict.fromkeys(listing.files, ""), dict.fromkeys(actual.files, ""))
    require_same(listing.digests, actual.digests)
    return tuple(sorted({*hidden, *found.others}))


def require_same(signed: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise :class:`DigestMismatch` naming missing, new and changed files; key sets are compared first."""
    problems = [f"{name} is missing" for name in sorted(signed.keys() - actual.keys())]
    problems += [f"{name} was not signed" for name in sorted(actual.keys() - signed.keys())]
    problems += [f"{name} changed" for name in sorted(signed.keys() & actual.keys()) if signed[name] != actual[name]]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DigestMismatch("; ".join(problems[:3]) + more)


def signed_files(statement: Statement) -> dict[str, str]:
    """Return name -> SHA-256 of every file of an OMS statement, for readers that check bytes as they read them.

    Raises:
        UnsupportedVersion: it lists shards, or other digests.
        SignatureInvalid: see :func:`read_statement`.
    """
    listing = read_statement(statement)
    if listing.how.method != FILES or listing.how.hash != "sha256":
        kind = f"{listing.how.method}/{listing.how.hash}"
        raise UnsupportedVersion(f"a {kind} signature has no SHA-256 of whole files", hint="verify the model instead")
    return dict(listing.digests)
