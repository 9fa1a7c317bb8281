"""Where a trusted root comes from: a file, or the copy that an installed ``sigstore`` package brings along.

Nothing of Sigstore's own trust is shipped here. The one function that uses the network is
:func:`refresh_trusted_root`, and only when it is called.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import quote

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import InvalidConfig, MissingExtra, Unavailable, UnreadableArtifact
from holdfast.signing.sigstore.trusted_root import TrustedRoot, parse_trusted_root, read_trusted_root

INSTANCES = {"public-good": "https://tuf-repo-cdn.sigstore.dev", "staging": "https://tuf-repo-cdn.sigstage.dev"}
_HINT = "pip install 'holdfast[sigstore]', or give root=PATH of a trusted_root.json"


def load_root(source: TrustedRoot | Path | str) -> TrustedRoot:
    """Return a trusted root from itself, a file, or ``public-good`` or ``staging``; no network.

    Raises:
        InvalidConfig: nothing is named.
        MissingExtra: an instance is named and the package ``sigstore`` is not installed.
        UnreadableArtifact, UnsupportedVersion: the file is no trusted root.
    """
    if isinstance(source, TrustedRoot):
        return source
    if not str(source):
        raise InvalidConfig("a keyless signature needs a trusted root", hint="root=PATH, or root=public-good")
    return read_trusted_root(embedded(str(source)) if str(source) in INSTANCES else source)


def embedded(instance: str) -> Path:
    """Return where the installed ``sigstore`` package keeps its copy of an instance's trusted root."""
    spec = importlib.util.find_spec("sigstore")  # its code is not run
    if spec is None or spec.origin is None:
        raise MissingExtra(f"the trusted root {instance!r} comes with the package sigstore", hint=_HINT)
    path = Path(spec.origin).parent / "_store" / quote(INSTANCES[instance], safe="") / "trusted_root.json"
    if not path.is_file():
        raise UnreadableArtifact(f"the installed sigstore package has no trusted root {instance!r}", hint=_HINT)
    return path


def refresh_trusted_root(out: Path | str, *, instance: str = "public-good") -> TrustedRoot:
    """Fetch an instance's current trusted root over the network, write it to ``out`` and return it.

    The ``sigstore`` package fetches it with its own TUF client, which verifies it from the root in that package.

    Raises:
        InvalidConfig: an unknown instance.
        MissingExtra: the package ``sigstore`` is not installed.
        Unavailable: the network or the repository refuses.
        UnreadableArtifact, UnsupportedVersion: what came is no trusted root; nothing is written.
    """
    if instance not in INSTANCES:
        raise InvalidConfig(f"unknown Sigstore instance {instance!r}", hint=f"choose {' or '.join(INSTANCES)}")
    data = _fetch(INSTANCES[instance])
    root = parse_trusted_root(data)
    write_atomic(out, data)
    return root


def _fetch(url: str) -> bytes:
    try:
        from sigstore._internal.tuf import TrustUpdater  # no public name returns the file itself
        from sigstore.errors import TUFError
    except ImportError as error:
        raise MissingExtra("refreshing a trusted root needs the package sigstore", hint=_HINT) from error
    try:
        path = TrustUpdater(url).get_trusted_root_path()
    except (TUFError, OSError) as error:
        raise Unavailable(f"cannot refresh the trusted root from {url}: {error}") from error
    return read_bytes(path, "trusted root")
