"""From the path of one file to the signature that covers it: its own, or that of the nearest signed folder above."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import NoSuchSite, RecordMissing, UnreadableArtifact
from holdfast.signing.opened.content import signatures_beside
from holdfast.signing.opened.model import VerifiedModel, open_verified
from holdfast.signing.opened.strict import require_index_agrees
from holdfast.signing.trusts import Threshold, TrustSources

_FOLDERS_ABOVE = 3  # a shard lies in the model's folder, or in one for its part


@contextmanager
def open_containing(
    path: Path, trust: TrustSources | Threshold, signature: bytes | Path | str | None = None
) -> Iterator[tuple[VerifiedModel, str]]:
    """Yield the signed model that ``path`` is a file of, and its name there; its index agrees with what is signed.

    Raises:
        RecordMissing: neither the file nor a folder above it is signed.
        NoSuchSite: the signature found does not name the file.
        VerificationError: see :func:`open_verified`.
    """
    if not path.is_file() or path.is_dir():
        raise UnreadableArtifact(f"{path} is no file")
    path = path.absolute()
    root = path if signature is not None else _signed_root(path)
    name = path.name if root == path else path.relative_to(root).as_posix()
    with open_verified(root, trust, signature=signature, strict=False) as model:
        if name not in model.content.files:
            raise NoSuchSite(f"the signature of {root} does not name {name}")
        require_index_agrees(name, model.content, model.memory)
        yield model, name


def _signed_root(path: Path) -> Path:
    for root in (path, *list(path.parents)[:_FOLDERS_ABOVE]):
        if any(place.is_file() for place in signatures_beside(root)):
            return root
    raise RecordMissing(
        f"neither {path} nor a folder above it is signed", hint="holdfast sign MODEL --key file:KEY.pem"
    )
