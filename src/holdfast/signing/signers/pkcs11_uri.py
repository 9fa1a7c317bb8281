"""PKCS#11 URIs (RFC 7512): which key, on which token, behind which library. Strict: what is not understood is refused.

A URI is the caller's own word for a key, never read out of a model or a bundle: its ``module-path`` is code to load, so
it must be absolute and lead to a file that only root or the caller could have put there.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig

_PATH = ("token", "serial", "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_PIECE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/&|?-]|%[0-9A-Fa-f]{2})*")
_MAX_PIN = 1 << 10


@dataclass(frozen=True, kw_only=True)
class TokenUri:
    """One private key on one token.

    Attributes:
        module: the library to load.
        token: label of the token; empty for any.
        serial: serial number of the token; empty for any.
        label: label of the key; empty for any.
        id: identifier of the key; empty for any.
        pin_source: file with the PIN; empty if it comes another way.
    """

    module: Path
    token: str = ""
    serial: str = ""
    label: str = ""
    id: bytes = b""
    pin_source: str = ""

    def pin(self, password: bytes | None) -> str:
        """Return the PIN: from its file, without the newline at its end, or as it was given.

        Raises:
            InvalidConfig: neither, or both, or not text.
            UnreadableArtifact: no such file.
        """
        if bool(self.pin_source) == (password is not None):
            hint = "pin-source=file:/PATH in the URI, or --password-file (- asks)"
            raise InvalidConfig("the token's PIN must come from one place", hint=hint)
        pin = password
        if pin is None:
            pin = read_bytes(self.pin_source, "PIN file", limit=_MAX_PIN, stream=True).rstrip(b"\r\n")
        try:
            text = pin.decode()
        except UnicodeDecodeError:
            raise InvalidConfig("the token's PIN is not UTF-8") from None
        if not text:
            raise InvalidConfig("the token's PIN is empty")
        return text


def parse_uri(rest: str) -> TokenUri:
    """Read a PKCS#11 URI without its scheme: ``token=T;object=K?module-path=/LIB.so&pin-source=file:/PIN``.

    Raises:
        InvalidConfig: malformed, an attribute that is unknown or there twice, no key or library named, or a PIN inside.
    """
    path, _, query = rest.partition("?")
    attributes = _attributes(path, ";", _PATH) | _attributes(query, "&", _QUERY)
    texts = {key: _text(value, key) for key, value in attributes.items() if key != "id"}
    if texts.get("type", "private") != "private":
        raise InvalidConfig(f"a signer needs a private key, not type={texts['type']}")
    if not texts.get("object") and not attributes.get("id"):
        raise InvalidConfig("the PKCS#11 URI names no key", hint="object=LABEL or id=%01")
    if not texts.get("token") and not texts.get("serial"):
        raise InvalidConfig("the PKCS#11 URI names no token", hint="token=LABEL or serial=...")
    return TokenUri(
        module=_module(texts.get("module-path", "")),
        token=texts.get("token", ""),
        serial=texts.get("serial", ""),
        label=texts.get("object", ""),
        id=attributes.get("id", b""),
        pin_source=_pin_file(texts.get("pin-source", "")),
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in text.split(separator) if text else ():
        key, equals, value = item.partition("=")
        if key == "pin-value":
            hint = "a command line is for everybody to read; use pin-source=file:/PATH"
            raise InvalidConfig("a PIN inside a PKCS#11 URI is refused", hint=hint)
        if key not in known or not equals:
            raise InvalidConfig(f"cannot read {key!r} in the PKCS#11 URI", hint=f"known here: {', '.join(known)}")
        if key in found:
            raise InvalidConfig(f"the PKCS#11 URI gives {key} twice")
        if not _PIECE.fullmatch(value):
            raise InvalidConfig(f"{key} in the PKCS#11 URI has characters that must be percent-encoded")
        found[key] = unquote_to_bytes(value)
    return found


def _text(value: bytes, key: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidConfig(f"{key} in the PKCS#11 URI is not UTF-8") from None
    if not text.isprintable():
        raise InvalidConfig(f"{key} in the PKCS#11 URI has control characters")
    return text


def _pin_file(source: str) -> str:
    if source.startswith("|"):
        raise InvalidConfig("a command as pin-source is not run", hint="pin-source=file:/PATH")
    path = source.removeprefix("file:")
    return path.removeprefix("//") if path.startswith("///") else path


def _module(text: str) -> Path:
    """Return the library to load, if nobody but root and the caller can have written it."""
    if not text:
        hint = "module-path=/usr/lib/softhsm/libsofthsm2.so; libraries are not searched for"
        raise InvalidConfig("the PKCS#11 URI names no library", hint=hint)
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidConfig(f"the PKCS#11 library {text} is not named by its absolute path")
    try:
        resolved = path.resolve(strict=True)
        state, folder = resolved.stat(), resolved.parent.stat()
    except OSError as error:
        raise InvalidConfig(f"cannot find the PKCS#11 library {text}: {error.strerror}") from error
    if not stat.S_ISREG(state.st_mode):
        raise InvalidConfig(f"the PKCS#11 library {text} is not a file")
    if state.st_uid not in (0, os.getuid()) or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidConfig(f"others may write the PKCS#11 library {text}, so it is not loaded")
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        raise InvalidConfig(f"others may replace the PKCS#11 library {text}, so it is not loaded")
    return resolved
