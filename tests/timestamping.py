"""A timestamp authority of the tests' own: OpenSSL's, with real tokens, also behind a tiny HTTP server."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.authority import Holder, authority, issue, usage

CLOCK = datetime.now(UTC).replace(microsecond=0)  # openssl stamps with the machine's own clock
CONFIG = """[tsa]
default_tsa = it
[it]
serial = {folder}/serial
default_policy = 1.2.3.4.1
signer_digest = {signer_digest}
digests = {digests}
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


def validity(start: int = -10, end: int = 10) -> dict[str, datetime]:
    """Options of a certificate that is valid from ``start`` to ``end`` days from now."""
    return {"start": CLOCK + timedelta(days=start), "end": CLOCK + timedelta(days=end)}


def stamper(
    by: Holder,
    subject: str = "tsa",
    *,
    purpose: Any = ExtendedKeyUsageOID.TIME_STAMPING,
    critical: bool = True,
    **options: Any,
) -> Holder:
    """The certificate of a timestamp authority."""
    bits = (x509.BasicConstraints(False, None), True), (usage("digital_signature"), True)
    extensions = (*bits, (x509.ExtendedKeyUsage([purpose]), critical))
    return issue(subject, by, **({"extensions": extensions} | validity() | options))


@dataclass(frozen=True)
class Tsa:
    """A timestamp authority in a folder."""

    folder: Path
    root: Holder
    holder: Holder

    def answer(self, query: bytes) -> bytes:
        """Return the response to a query, both DER."""
        (self.folder / "query").write_bytes(query)
        words = ["-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key"]
        words += ["-chain", "chain.pem"] if (self.folder / "chain.pem").exists() else []
        self._openssl("ts", "-reply", *words, "-config", "tsa.cnf", "-section", "it", "-out", "reply")
        return (self.folder / "reply").read_bytes()

    def stamp(self, data: bytes, digest: str = "sha256") -> bytes:
        """Return a response over ``data``."""
        (self.folder / "data").write_bytes(data)
        self._openssl("ts", "-query", "-data", "data", f"-{digest}", "-cert", "-out", "made")
        return self.answer((self.folder / "made").read_bytes())

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


def open_authority(
    folder: Path,
    holder: Holder | None = None,
    root: Holder | None = None,
    *,
    digests: str = "sha256, sha384, sha512",
    signer_digest: str = "sha256",
) -> Tsa:
    """Return a timestamp authority whose files lie in a new ``folder``; skip where nothing can answer or verify."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to answer as a timestamp authority")
    pytest.importorskip("rfc3161_client", reason="the extra timestamps is not installed")
    root = root or authority("tsa root", **validity(-100, 100))
    holder = holder or stamper(root)
    folder.mkdir()
    private = holder.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = {"tsa.pem": holder.pem, "tsa.key": private, "serial": b"01\n"}
    files["tsa.cnf"] = CONFIG.format(folder=folder, digests=digests, signer_digest=signer_digest).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Tsa(folder, root, holder)


Reply = Callable[[bytes], tuple[int, dict[str, str], bytes]]


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    """Serve ``reply(body) -> (status, headers, body)`` on this machine and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, headers, body = reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tsa"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
