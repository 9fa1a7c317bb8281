"""Which kernel a vm world boots: one that is named, or the newest of those installed that can hold a world.

The guest loads no modules, so what it needs is built in. Distributions' kernels for clouds are made that way
(Debian's ``linux-image-cloud-amd64``, from 6.12 on). Where the configuration lies beside a kernel it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import MissingDevice

BOOT = Path("/boot")
NEEDED = (
    "EFI_STUB", "BLK_DEV_INITRD", "RD_GZIP", "DEVTMPFS", "TMPFS", "TCG_TPM", "TCG_TIS", "VIRTIO_PCI", "VIRTIO_CONSOLE",
    "IMA", "SECURITYFS", "SECURITY_LANDLOCK", "SECCOMP_FILTER", "SECRETMEM", "SERIAL_8250_CONSOLE",
)  # fmt: skip
_OLDEST = (6, 7)  # Landlock with rules for ports
_VERSION = re.compile(r"vmlinuz-(\d+)\.(\d+)(?:\.(\d+))?")
_HINT = "unpack linux-image-cloud-amd64 6.7 or later, and name its vmlinuz with kernel="
_MAX_CONFIG = 1 << 22  # bytes


def find_kernel(named: Path | None, places: Sequence[Path] = (BOOT,)) -> Path:
    """Return ``named``, or the newest usable kernel in ``places``.

    Raises:
        MissingDevice: there is none, or the one that is named lacks something.
    """
    if named is not None:
        if not named.is_file():
            raise MissingDevice(f"no kernel at {named}", hint=_HINT)
        if lacking := missing(named):
            raise MissingDevice(f"the kernel {named} {lacking}", hint=_HINT)
        return named
    found = [path for place in places for path in place.glob("vmlinuz-*") if path.is_file() and not missing(path)]
    if not found:
        raise MissingDevice(f"no kernel in {', '.join(map(str, places))} that can hold a world", hint=_HINT)
    return max(found, key=_version)


def _version(kernel: Path) -> tuple[int, ...]:
    match = _VERSION.match(kernel.name)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def missing(kernel: Path) -> str:
    """Return what ``kernel`` is too old for or lacks, as its name and the configuration beside it say; or nothing."""
    if (version := _version(kernel)) and version[:2] < _OLDEST:
        return f"is older than {'.'.join(map(str, _OLDEST))}"
    config = kernel.with_name(kernel.name.replace("vmlinuz", "config", 1))
    if config == kernel or not config.is_file():
        return ""
    lines = set(
        read_bytes(config, "configuration of the kernel", limit=_MAX_CONFIG).decode(errors="replace").split("\n")
    )
    lacking = [name for name in NEEDED if f"CONFIG_{name}=y" not in lines]
    return f"is built without CONFIG_{lacking[0]}=y" if lacking else ""
