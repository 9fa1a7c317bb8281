"""Manifests for Gramine (SGX), generated from what a world runs, without the usual holes.

The command line is part of the manifest and so of MRENCLAVE; every file is trusted by its own digest and none is
passed through; nothing of the system beyond named libraries is trusted; attestation is DCAP; files to keep are
encrypted under a key sealed to MRENCLAVE. What is generated must pass :func:`~holdfast.shielding.worlds.lint.lint`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.worlds.protocol import Launch

_SIZES = frozenset(f"{1 << power}{unit}" for power in range(10) for unit in "MG")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """What an enclave needs beyond what it runs.

    Attributes:
        interpreter: Python on the machine that will run the enclave.
        libraries: further files and folders to trust, such as the standard library, at the same place inside.
        size: of the enclave's memory, a power of two such as ``4G``.
        threads: at most so many.
        product: number of the product, as quotes state it.
        version: its security version, from 1; raise it when an older one must no longer be trusted.
        sealed: folder on the host for encrypted files, inside ``/sealed``; None for none.
        debug: an enclave whose memory the host can read; its quotes say so.

    Raises:
        InvalidConfig: a size or number that cannot be.
    """

    interpreter: Path
    libraries: tuple[Path, ...] = ()
    size: str = "4G"
    threads: int = 32
    product: int = 1
    version: int = 1
    sealed: Path | None = Path("sealed")
    debug: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size not in _SIZES:
            raise InvalidConfig(f"an enclave's size is a power of two in M or G, not {self.size!r}")
        if not 1 <= self.threads <= 4096 or not 1 <= self.product < 1 << 16 or not 1 <= self.version < 1 << 16:
            raise InvalidConfig("threads, product and version count from 1", hint="version=1")


def manifest(launch: Launch, enclave: Enclave) -> str:
    """Return the manifest template; ``gramine-manifest`` fills in where Gramine itself lies.

    Args:
        launch: what runs; ``shared`` is not available, as the host writes what it likes there.
        enclave: where.

    Raises:
        InvalidConfig: the launch shares a folder.
        UnreadableArtifact: something to be trusted is absent.
    """
    if launch.shared is not None:
        raise InvalidConfig("an enclave shares no folder with its host", hint="leave out shared")
    places = [(path.resolve(), f"/world/{name}") for name, path in sorted(launch.measured.items())]
    same = [*launch.libraries.values(), *enclave.libraries, enclave.interpreter]
    places += [(path.resolve(), str(path.resolve())) for path in same]
    trusted = ['"file:{{ gramine.libos }}"', '"file:{{ gramine.runtimedir() }}/"']
    trusted += [_trusted(file) for path, _ in places for file in _files(path)]
    return "\n".join([*_head(launch, enclave), *_mounts(places, enclave), *_list("sgx.trusted_files", trusted), ""])


def _head(launch: Launch, enclave: Enclave) -> list[str]:
    inside = [f"/world/{name}" if name in launch.measured else str(launch.libraries[name]) for name in launch.path]
    environment = {
        "PYTHONPATH": ":".join(inside),
        "PYTHONSAFEPATH": "1",
        "LD_LIBRARY_PATH": "/lib",
    } | enclave.environment
    argv = [str(enclave.interpreter.resolve()), "-B", "-s", "-m", launch.module, *launch.arguments]
    return [
        'loader.entrypoint = "file:{{ gramine.libos }}"',
        f"libos.entrypoint = {_text(argv[0])}",
        f"loader.argv = [{', '.join(map(_text, argv))}]",
        'loader.log_level = "error"',
        *(f"loader.env.{name} = {_text(value)}" for name, value in sorted(environment.items())),
        'sgx.remote_attestation = "dcap"',
        f"sgx.debug = {str(enclave.debug).lower()}",
        f"sgx.enclave_size = {_text(enclave.size)}",
        f"sgx.max_threads = {enclave.threads}",
        f"sgx.isvprodid = {enclave.product}",
        f"sgx.isvsvn = {enclave.version}",
    ]


def _mounts(places: list[tuple[Path, str]], enclave: Enclave) -> list[str]:
    mounts = ['{ path = "/lib", uri = "file:{{ gramine.runtimedir() }}" }']
    mounts += [f"{{ path = {_text(target)}, uri = {_text(f'file:{path}')} }}" for path, target in places]
    mounts.append('{ type = "tmpfs", path = "/tmp" }')
    if enclave.sealed is not None:
        uri = _text(f"file:{enclave.sealed}")
        mounts.append(f'{{ type = "encrypted", path = "/sealed", uri = {uri}, key_name = "_sgx_mrenclave" }}')
    return ['fs.root.type = "tmpfs"', *_list("fs.mounts", mounts)]


def _list(key: str, items: list[str]) -> list[str]:
    return [f"{key} = [", *(f"  {item}," for item in items), "]"]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UnreadableArtifact(f"{path} is not there to be trusted")
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(folder) / name for name in sorted(files))


def _trusted(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {file}: {error.strerror or error}") from error
    return f"{{ uri = {_text(f'file:{file}')}, sha256 = {_text(digest.hexdigest())} }}"


def _text(value: str) -> str:
    """Return a TOML string; a name that Gramine's template language would read as its own is refused."""
    if "{{" in value or "{%" in value or "{#" in value or not value.isprintable():
        raise InvalidConfig(f"{value!r} cannot stand in a manifest")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
