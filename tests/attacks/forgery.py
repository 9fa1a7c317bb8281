"""Makes hostile bundles: signed by the right key, so that only their content can give them away."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.signing import generate_key
from holdfast.signing.envelope import pae
from holdfast.signing.oms import root_digest

KEY = generate_key("p384")
Change = Callable[[dict[str, Any]], object]


def statement_of(bundle: Path) -> dict[str, Any]:
    """The signed statement as JSON."""
    return json.loads(base64.b64decode(json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"]))


def replace_payload(bundle: Path, payload: bytes, *, payload_type: str = PAYLOAD_TYPE, message: bytes | None = None):
    """Put ``payload`` into the bundle with KEY's signature over it, or over ``message`` instead."""
    value = json.loads(bundle.read_bytes())
    signature = KEY.sign(pae(payload_type, payload) if message is None else message)
    value["dsseEnvelope"] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    bundle.write_text(json.dumps(value))


def resign(bundle: Path, change: Change, *, fix_root: bool = True):
    """Change the statement and sign it again; the root digest fits again unless that is what is attacked."""
    statement = statement_of(bundle)
    change(statement)
    if fix_root:
        with suppress(TypeError, ValueError):  # digests that are no hex have no root
            digests = [item["digest"] for item in statement["predicate"]["resources"]]
            statement["subject"][0]["digest"]["sha256"] = root_digest(digests)
    replace_payload(bundle, json.dumps(statement).encode())


def edit(bundle: Path, change: Change):
    """Change the unsigned parts of the bundle."""
    value = json.loads(bundle.read_bytes())
    change(value)
    bundle.write_text(json.dumps(value))


def sha256_signature(message: bytes) -> bytes:
    """A signature of the P-384 key over SHA-256, which only legacy signatures have."""
    return KEY.key.sign(message, ec.ECDSA(hashes.SHA256()))
