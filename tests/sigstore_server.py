"""The Sigstore in memory behind HTTP on this machine, so that a real client can sign with it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.sigstore_world import World, certify


def token(email: str, issuer: str, *, seconds: int = 600, audience: str = "sigstore") -> str:
    """Return an OpenID token that nobody signed; the authority below believes it."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": issuer, "sub": email, "email": email, "aud": audience, "iat": now, "exp": now + seconds}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims, {})
    text = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join(text)


@dataclass
class Service:
    """Answers as Fulcio, Rekor of both generations, and a timestamp authority."""

    world: World
    refusing: set[str] = field(default_factory=set)  # paths that answer with an error
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, body: bytes, bearer: str) -> tuple[int, bytes]:
        self.requests.append(path)
        if path in self.refusing:
            return 503, b"{}"
        if path == "/timestamp":
            return 201, self.world.tsa.answer(body)
        request = json.loads(body)
        if path == "/api/v2/signingCert":
            return 201, json.dumps(self._certify(request, bearer)).encode()
        if path == "/api/v1/log/entries":
            return 201, json.dumps(self._log_first(request)).encode()
        if path == "/api/v2/log/entries":
            return 201, json.dumps(self._log_second(request)).encode()
        return 404, b"{}"

    def _certify(self, request: dict[str, Any], bearer: str) -> dict[str, Any]:
        padded = bearer.split(".")[1] + "=="
        claims = json.loads(base64.urlsafe_b64decode(padded))
        wanted = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        if not wanted.is_signature_valid:
            raise AssertionError("the client does not hold the key it asks a certificate for")
        self.world.time = datetime.now(UTC).replace(microsecond=0)
        names, issuer = [x509.RFC822Name(claims["email"])], claims["iss"].encode()
        leaf = certify(self.world, wanted, names=names, issuer=issuer, tagged=issuer)
        chain = [leaf, *self.world.ca.chain]
        pem = [item.public_bytes(Encoding.PEM).decode() for item in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}}

    def _log_first(self, request: dict[str, Any]) -> dict[str, Any]:
        proposed = request["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        payload = hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()
        whole = hashlib.sha256(proposed["envelope"].encode()).hexdigest()
        signature = {"signature": envelope["signatures"][0]["sig"], "verifier": proposed["verifiers"][0]}
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": whole},
            "payloadHash": {"algorithm": "sha256", "value": payload},
            "signatures": [signature],
        }
        entry = self.world.log.add({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}, self.world.time)
        return {"uuid": _first_answer(entry)}

    def _log_second(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = request["hashedRekordRequestV002"]
        record = {"data": {"algorithm": "SHA2_256", "digest": asked["digest"]}, "signature": asked["signature"]}
        body = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        return self.world.log.add(body, self.world.time)

    def trust_config(self, address: str) -> dict[str, Any]:
        """Return the ``ClientTrustConfig`` of this instance, served at ``address``."""

        def at(path: str, version: int) -> dict[str, Any]:
            started = {"start": "2020-01-01T00:00:00Z"}
            return {"url": address + path, "majorApiVersion": version, "validFor": started, "operator": "example.org"}

        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [at("", 1)],
            "oidcUrls": [],
            "rekorTlogUrls": [at("", 2 if self.world.log.tiles else 1)],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [at("/timestamp", 1)] if self.world.tsa else [],
            "tsaConfig": {"selector": "ANY"},
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.world.trusted_root(),
            "signingConfig": signing,
        }


def _first_answer(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle's log entry in the spelling of the first generation's own answers: hex, and numbers."""
    proof = entry["inclusionProof"]
    verification = {
        "inclusionProof": {
            "checkpoint": proof["checkpoint"]["envelope"],
            "hashes": [base64.b64decode(item).hex() for item in proof["hashes"]],
            "logIndex": int(proof["logIndex"]),
            "rootHash": base64.b64decode(proof["rootHash"]).hex(),
            "treeSize": int(proof["treeSize"]),
        },
        "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
    }
    return {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
        "logIndex": int(entry["logIndex"]),
        "verification": verification,
    }


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serve on a free port of this machine; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            code, answer = service.answer(self.path, body, bearer)
            self.send_response(code)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
