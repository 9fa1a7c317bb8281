"""A software token of the tests' own (SoftHSM2), with real keys behind a real PKCS#11 library."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN = "secret 1234"


@dataclass(frozen=True)
class Token:
    """A token and what opens it."""

    module: str
    label: str
    pin_file: Path

    def uri(self, key: str, *, pin: bool = True, extra: str = "") -> str:
        """Return the URI of a key, without its scheme."""
        source = f"&pin-source=file:{quote(str(self.pin_file))}" if pin else ""
        return f"token={quote(self.label)};object={quote(key)}{extra}?module-path={self.module}{source}"

    def make(self, key: str, curve: str, identifier: bytes) -> None:
        """Generate an EC key pair inside the token."""
        import pkcs11
        from pkcs11.util.ec import encode_named_curve_parameters

        with self.open() as session:
            made = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
            domain = session.create_domain_parameters(pkcs11.KeyType.EC, made, local=True)
            domain.generate_keypair(store=True, label=key, id=identifier)

    def open(self) -> Any:
        import pkcs11

        token = pkcs11.lib(self.module).get_token(token_label=self.label)
        return token.open(user_pin=PIN, rw=True)


def make_token(folder: Path, monkeypatch: pytest.MonkeyPatch, label: str = "test token") -> Token:
    """Return a new token whose objects lie in ``folder``; skip where SoftHSM2 or python-pkcs11 is absent."""
    module = next((str(Path(path).resolve()) for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed")
    pkcs11 = pytest.importorskip("pkcs11", reason="the extra hsm is not installed")
    (folder / "tokens").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    pkcs11.unload(module)  # the library reads its configuration once
    (folder / "pin").write_text(PIN + "\n")
    return Token(module, label, folder / "pin")
