"""The bytes of a library: ``library.json`` names, by digest, one safetensors file that holds every distinct output.

The description is canonical JSON of type ``holdfast.platform-library/v1`` and states the digest of its own body, so a
changed label is noticed as well as a changed word. Both files of an edition are complete before the description takes
its name, and the outputs carry their digest in theirs: whoever is killed while writing leaves the edition before.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes, digest_tensor
from holdfast.numerics import bits

LIBRARY_TYPE = "holdfast.platform-library/v1"
DESCRIPTION = "library.json"
_LIMIT = 1 << 31  # bytes of outputs


def output_digest(outputs: Tensor) -> str:
    """Return the digest that binds dtype, shape and every bit of outputs (n, classes)."""
    dtype = str(outputs.dtype).removeprefix("torch.")
    octets = bits.int_view(outputs.contiguous()).reshape(-1).numpy().tobytes()
    return digest_tensor("outputs", dtype, outputs.shape, octets)


def write(folder: Path, body: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> None:
    """Write one edition and remove the outputs of the one before.

    Raises:
        StorageError: the disk refuses; an older edition stays whole.
    """
    data = safetensors_bytes({name: item.contiguous() for name, item in sorted(outputs.items())})
    digest = digest_bytes(data)
    name = f"outputs-{digest[:16]}.safetensors"
    body = dict(body) | {"outputs": {"file": name, "digest": digest}}
    value = {"type": LIBRARY_TYPE, "digest": digest_bytes(canonical.dumps(body)), "library": body}
    if not (folder / name).exists():
        write_atomic(folder / name, data)
    write_atomic(folder / DESCRIPTION, canonical.dumps(value))
    for old in folder.glob("outputs-*.safetensors"):
        if old.name != name:
            with suppress(FileNotFoundError):
                old.unlink()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the body and the outputs by digest.

    Raises:
        UnreadableArtifact: no library there, or one that is truncated or malformed.
        UnsupportedVersion: a library of another version.
        DigestMismatch: the description, the outputs or a single output differ from their digests.
    """
    place = folder / DESCRIPTION
    value = canonical.loads(read_bytes(place, "platform library"), what=str(place))
    if not isinstance(value, dict) or value.get("type") != LIBRARY_TYPE:
        found = value.get("type") if isinstance(value, dict) else None
        raise UnsupportedVersion(
            f"{place} is {found or 'no platform library'}, and this version reads {LIBRARY_TYPE}",
            hint="sweep the machine again with holdfast platforms build",
        )
    body = value.get("library")
    if not isinstance(body, dict) or not isinstance(body.get("outputs"), dict):
        raise UnreadableArtifact(f"{place} names no outputs")
    if digest_bytes(canonical.dumps(body)) != value.get("digest"):
        raise DigestMismatch(f"{place} was changed after it was written", hint="build the library again")
    return body, _outputs(folder, body["outputs"])


def _outputs(folder: Path, named: Mapping[str, Any]) -> dict[str, Tensor]:
    name = str(named.get("file"))
    if Path(name).name != name or not name.startswith("outputs-"):
        raise UnreadableArtifact(f"{folder / DESCRIPTION} names {name!r} as its outputs")
    data = read_bytes(folder / name, "outputs of the platform library", limit=_LIMIT)
    if digest_bytes(data) != named.get("digest"):
        raise DigestMismatch(f"{folder / name} differs from its digest in {DESCRIPTION}")
    try:
        outputs = parse_safetensors(data)
    except SafetensorError as error:
        raise UnreadableArtifact(f"{folder / name} is no whole safetensors file: {error}") from error
    for digest, tensor in outputs.items():
        if output_digest(tensor) != digest:
            raise DigestMismatch(f"an output in {folder / name} is not the one it is called, {digest[:16]}")
    return outputs
