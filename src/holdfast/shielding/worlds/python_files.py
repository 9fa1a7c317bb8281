"""The files that make the Python of this process: interpreter, standard library, and the system's shared libraries."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

SITE = "site-packages"
_SYSTEM = (  # what a Python interpreter and native extensions link to; only these of the system's libraries are there
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1", "libffi.so.8", "libssl.so.3", "libcrypto.so.3", "libbz2.so.1.0",
    "liblzma.so.5", "libsqlite3.so.0", "libuuid.so.1", "libcrypt.so.1", "libexpat.so.1",
)  # fmt: skip
_FOLDERS = ("/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64")


def interpreter() -> Path:
    """Return the interpreter that runs this."""
    return Path(sys.executable).resolve()


def standard_library() -> Path:
    """Return the folder of its standard library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def system_files() -> list[str]:
    """Return the paths of the system's shared libraries that the interpreter may load, under each name they have."""
    found = [f"{folder}/{name}" for name in _SYSTEM for folder in _FOLDERS if Path(folder, name).is_file()]
    own = sorted(map(str, standard_library().parent.glob("libpython*.so*")))
    return [*found, *own]
