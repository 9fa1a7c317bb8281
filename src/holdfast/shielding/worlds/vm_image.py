"""What a vm world boots: an initial file system with Python, the guest's first code and what was measured.

The archive is cpio of the form ``newc`` in gzip, the same bytes for the same files: sorted, owned by root, without
times.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.shielding.worlds.measuring import Measurement, measure
from holdfast.shielding.worlds.process import DEVICES, INSIDE, SCRATCH, WORLD, told
from holdfast.shielding.worlds.protocol import Launch
from holdfast.shielding.worlds.python_files import SITE, interpreter, standard_library, system_files
from holdfast.shielding.worlds.vm_tpm import REGISTER

_GUEST = ("vm_guest.py", "vm_ports.py", "vm_tpm.py")
_PACKAGE = "holdfast/shielding/worlds"
# of the standard library, what no world needs: tests, editors, installers, and what links interpreters
_LEFT_OUT = frozenset({SITE, "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"})
_SHEBANG = 200  # bytes; what the kernel reads of a first line is 255
_INIT = "#!{python} -ISB\nimport sys\nsys.path[:0] = ['/guest']\nfrom {module} import main\nmain()\n"
# what runs, and what is read of root's files in the image (fsmagic of tmpfs); scratch files are another user's
_IMA_POLICY = """measure func=BPRM_CHECK
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=MODULE_CHECK
measure func=FIRMWARE_CHECK
measure func=POLICY_CHECK
measure func=KEXEC_KERNEL_CHECK
measure func=KEXEC_INITRAMFS_CHECK
measure func=FILE_CHECK mask=MAY_READ fsmagic=0x01021994 fowner=0
"""


def build(launch: Launch, root: Path, *, user: int) -> Measurement:
    """Copy everything into ``root``, which must not exist, as it is measured; return what the image says of itself."""
    root.mkdir(mode=0o755)
    found = [("inside", _copied("inside.py", root, INSIDE)), ("guest", _guest(root))]
    found.append(("interpreter", measure(interpreter(), _place(root, interpreter()))))
    place = _place(root, standard_library())
    links = {path.name for path in standard_library().glob("config-*")}
    found.append(("standard-library", measure(standard_library(), place, without=_LEFT_OUT | links)))
    found.append(("system", _system(root)))
    places = {name: f"{WORLD}/{name}" for name in [*launch.measured, *launch.libraries]}
    for name, source in sorted([*launch.measured.items(), *launch.libraries.items()]):
        found.append((name, measure(source, _place(root, Path(places[name])))))
    config = told(launch, user=user, places=places, writable=[SCRATCH, *DEVICES])
    found.append(("config", hashlib.sha256(canonical.dumps(config)).digest()))
    measurement = Measurement(tuple(found))
    _write(root, config, measurement)
    return measurement


def _place(root: Path, path: Path) -> Path:
    """Return where ``path`` of the guest lies, with the folders above it made."""
    place = root / path.relative_to("/")
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place


def _copied(name: str, root: Path, place: str) -> bytes:
    return measure(Path(__file__).with_name(name), _place(root, Path(place)))


def _guest(root: Path) -> bytes:
    listing = [[name, _copied(name, root, f"/guest/{_PACKAGE}/{name}").hex()] for name in _GUEST]
    return hashlib.sha256(canonical.dumps(listing)).digest()


def _system(root: Path) -> bytes:
    """Copy the system's libraries once each, with links for their further names."""
    listing, known = [], dict[Path, str]()
    for path in system_files():
        source = Path(path).resolve()
        if source in known:
            _place(root, Path(path)).symlink_to(known[source])
        else:
            listing.append([path, measure(source, _place(root, Path(path))).hex()])
        known.setdefault(source, path)
    return hashlib.sha256(canonical.dumps([*listing, *([path] for path in system_files())])).digest()


def _write(root: Path, config: Mapping[str, object], measurement: Measurement) -> None:
    """Write what the first code reads."""
    python = str(interpreter())
    if len(python) > _SHEBANG:
        raise InvalidConfig(f"the path of the interpreter is too long to start a guest with: {python}")
    module = f"{_PACKAGE}/vm_guest".replace("/", ".")
    (root / "init").write_text(_INIT.format(python=python, module=module))
    (root / "init").chmod(0o755)
    (root / "ima-policy").write_text(_IMA_POLICY)
    events = canonical.loads(measurement.log(REGISTER), what="log")
    (root / "config.json").write_bytes(canonical.dumps({"events": events, "launch": config}))


def files(root: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of every file below ``root``, by the path that it has in the guest."""
    found = [path for path in _entries(root) if path.is_file() and not path.is_symlink()]
    return {f"/{path.relative_to(root)}": _digest(path).hex() for path in found}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def pack(root: Path, target: Path) -> bytes:
    """Write the archive of ``root`` and return its SHA-256; ``root`` is removed."""
    with target.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as archive:
        for number, path in enumerate(_entries(root), 1):
            _entry(archive, number, path, str(path.relative_to(root)))
        archive.write(_header(0, "TRAILER!!!", mode=0, size=0))
    shutil.rmtree(root)
    return _digest(target)


def _entries(root: Path) -> Iterator[Path]:
    yield from sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts)


def _entry(archive: BinaryIO | gzip.GzipFile, number: int, path: Path, name: str) -> None:
    status = path.lstat()
    if path.is_symlink():
        data = str(path.readlink()).encode()
        archive.write(_header(number, name, mode=0o120777, size=len(data)) + _padded(data))
        return
    if path.is_dir():
        archive.write(_header(number, name, mode=0o040755, size=0))
        return
    archive.write(_header(number, name, mode=0o100000 | status.st_mode & 0o777, size=status.st_size))
    with path.open("rb") as file:
        shutil.copyfileobj(file, archive)
    archive.write(bytes(-status.st_size % 4))


def _header(number: int, name: str, *, mode: int, size: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
