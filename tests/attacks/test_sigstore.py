"""Forged keyless bundles: one element changed in each, by somebody who owns everything but the one key it takes."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.errors import (
    HoldfastError,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import Verified, generate_key, sign_statement, verify_bundle
from holdfast.signing.sigstore import parse_trusted_root
from holdfast.signing.trusts.sigstore import SigstoreTrust
from tests.sigstore_parts import b64, new_key, sign
from tests.sigstore_world import IDENTITY, ISSUER, Session, World

STATEMENT = Statement((Subject("m", {"sha256": "ab" * 32}),), "https://example.org/p", {"n": 1})
OTHER = Statement((Subject("m", {"sha256": "cd" * 32}),), "https://example.org/p", {"n": 1})
WORLD = World()
Bundle = dict[str, Any]


def verify(bundle: bytes | Bundle, world: World = WORLD, root: Callable[[Bundle], None] = lambda _: None) -> Verified:
    pinned = world.trusted_root()
    root(pinned)
    trust = SigstoreTrust(issuer=ISSUER, identity=IDENTITY, root=parse_trusted_root(json.dumps(pinned).encode()))
    return verify_bundle(bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode(), trust)


def issued(session: Session | None = None, statement: Statement = STATEMENT) -> Bundle:
    return json.loads(sign_statement(statement, session or WORLD.login()))


def entry(bundle: Bundle) -> Bundle:
    return bundle["verificationMaterial"]["tlogEntries"][0]


def proof(bundle: Bundle) -> Bundle:
    return entry(bundle)["inclusionProof"]


def rebody(bundle: Bundle, change: Callable[[Bundle], None]) -> None:
    """Log another body about the same signature: the log is honest, and its entry does not fit the bundle."""
    body = json.loads(base64.b64decode(entry(bundle)["canonicalizedBody"]))
    change(body)
    bundle["verificationMaterial"]["tlogEntries"] = [WORLD.log.add(body, WORLD.time)]


def checkpointed(bundle: Bundle, **note: Any) -> None:
    proof(bundle)["checkpoint"]["envelope"] = WORLD.log.checkpoint(**note)


def flipped(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return b64(bytes(data))


def promised(bundle: Bundle, **changes: Any) -> None:
    """Promise something else with the log's own key, and leave the entry as it is."""
    promise = WORLD.log.promise(entry(bundle) | changes)
    entry(bundle)["inclusionPromise"]["signedEntryTimestamp"] = b64(promise)


def other_signature(body: Bundle) -> None:
    body["spec"]["signatures"][0]["signature"] = b64(sign(new_key(), b"x"))


def other_verifier(body: Bundle) -> None:
    pem = WORLD.login().leaf.public_bytes(Encoding.PEM)  # the same identity, another login
    body["spec"]["signatures"][0]["verifier"] = b64(pem)


def test_what_is_issued_is_accepted_with_its_name_and_time():
    found = verify(issued())
    assert found.statement == STATEMENT
    signer = found.signers[0]
    assert (signer.kind, signer.name, signer.issuer, signer.time) == ("sigstore", IDENTITY, ISSUER, WORLD.time)


EDITS: dict[str, tuple[Callable[[Bundle], Any], type[HoldfastError], str]] = {
    "payload": (
        lambda b: b["dsseEnvelope"].update(payload=b64(OTHER.to_bytes())),
        SignatureInvalid,
        "does not verify with this key",
    ),
    "signature": (
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=b64(sign(new_key(), b"x"))),
        SignatureInvalid,
        "does not verify with this key",
    ),
    "a signature that names a key": (
        lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="ab" * 32),
        SignerUntrusted,
        "0 of 1",
    ),
    "no log entry": (lambda b: b["verificationMaterial"].update(tlogEntries=[]), RecordMissing, "no log entry"),
    "no promise": (lambda b: entry(b).pop("inclusionPromise"), RecordMissing, "no signed promise"),
    "an empty promise": (lambda b: entry(b).update(inclusionPromise={}), RecordMissing, "no signed promise"),
    "no time": (lambda b: entry(b).pop("integratedTime"), RecordMissing, "no signed promise with its time"),
    "altered promise": (
        lambda b: entry(b)["inclusionPromise"].update(
            signedEntryTimestamp=flipped(entry(b)["inclusionPromise"]["signedEntryTimestamp"])
        ),
        SignatureInvalid,
        "promise",
    ),
    "promise for another time": (
        lambda b: promised(b, integratedTime=str(int(WORLD.time.timestamp()) + 1)),
        SignatureInvalid,
        "promise",
    ),
    "promise for another place": (lambda b: promised(b, logIndex="7"), SignatureInvalid, "promise"),
    "promise for another entry": (lambda b: promised(b, canonicalizedBody="e30="), SignatureInvalid, "promise"),
    "time moved by a second": (
        lambda b: entry(b).update(integratedTime=str(int(entry(b)["integratedTime"]) + 1)),
        SignatureInvalid,
        "promise",
    ),
    "global index": (lambda b: entry(b).update(logIndex="5"), SignatureInvalid, "promise"),
    "a negative index": (lambda b: entry(b).update(logIndex="-1"), UnreadableArtifact, "whole number"),
    "no inclusion proof": (lambda b: entry(b).pop("inclusionProof"), RecordMissing, "no inclusion proof"),
    "no checkpoint": (lambda b: proof(b).pop("checkpoint"), RecordMissing, "no checkpoint"),
    "an empty checkpoint": (lambda b: proof(b).update(checkpoint={"envelope": ""}), RecordMissing, "no checkpoint"),
    "a checkpoint without signature": (
        lambda b: proof(b)["checkpoint"].update(envelope=proof(b)["checkpoint"]["envelope"].split("\n\n")[0] + "\n\n"),
        UnreadableArtifact,
        "checkpoint",
    ),
    "wrong root hash": (
        lambda b: proof(b).update(rootHash=b64(hashlib.sha256(b"x").digest())),
        SignatureInvalid,
        "another tree",
    ),
    "wrong tree size": (lambda b: proof(b).update(treeSize="400"), SignatureInvalid, "another tree"),
    "wrong place": (
        lambda b: proof(b).update(logIndex=str(int(proof(b)["logIndex"]) - 1)),
        SignatureInvalid,
        "inclusion proof",
    ),
    "place outside the tree": (
        lambda b: proof(b).update(logIndex=proof(b)["treeSize"]),
        SignatureInvalid,
        "outside a tree",
    ),
    "proof too short": (lambda b: proof(b)["hashes"].pop(), SignatureInvalid, "too short"),
    "proof too long": (lambda b: proof(b)["hashes"].append(b64(bytes(32))), SignatureInvalid, "too long"),
    "proof empty": (lambda b: proof(b).update(hashes=[]), SignatureInvalid, "too short"),
    "proof in another order": (lambda b: proof(b)["hashes"].reverse(), SignatureInvalid, "another root"),
    "a short hash": (lambda b: proof(b)["hashes"].__setitem__(0, b64(bytes(31))), UnreadableArtifact, "31 bytes"),
    "checkpoint by another key": (lambda b: checkpointed(b, key=new_key()), SignatureInvalid, "log's signature"),
    "checkpoint of another origin": (
        lambda b: checkpointed(b, origin="rekor.example.com - 1"),
        SignatureInvalid,
        "not of the log",
    ),
    "checkpoint of an origin that only begins alike": (
        lambda b: checkpointed(b, origin="rekor.example.org.evil"),
        SignatureInvalid,
        "not of the log",
    ),
    "checkpoint signed under another name": (
        lambda b: checkpointed(b, signer="witness.example.org"),
        RecordMissing,
        "0 signatures",
    ),
    "checkpoint of another size": (lambda b: checkpointed(b, size=400), SignatureInvalid, "another tree"),
    "checkpoint of another root": (lambda b: checkpointed(b, root=bytes(range(32))), SignatureInvalid, "another tree"),
    "body of another payload": (
        lambda b: rebody(b, lambda v: v["spec"]["payloadHash"].update(value="00" * 32)),
        SignatureInvalid,
        "other content",
    ),
    "body that hashes with something else": (
        lambda b: rebody(b, lambda v: v["spec"]["payloadHash"].update(algorithm="sha1")),
        SignatureInvalid,
        "other content",
    ),
    "body of another signature": (lambda b: rebody(b, other_signature), SignatureInvalid, "another signature"),
    "body of another verifier": (lambda b: rebody(b, other_verifier), SignatureInvalid, "another signer's certificate"),
    "body of two signatures": (
        lambda b: rebody(b, lambda v: v["spec"]["signatures"].append(v["spec"]["signatures"][0])),
        SignatureInvalid,
        "exactly one signature",
    ),
    "body of another kind": (
        lambda b: rebody(b, lambda v: v.update(kind="rekord")),
        UnsupportedVersion,
        "unknown kind of log entry: rekord",
    ),
    "kind that the body does not have": (
        lambda b: entry(b)["kindVersion"].update(kind="intoto", version="0.0.2"),
        SignatureInvalid,
        "another kind",
    ),
    "unknown log": (
        lambda b: entry(b)["logId"].update(keyId=b64(bytes(32))),
        SignerUntrusted,
        "knows no signature log",
    ),
    "certificate of somebody else": (
        lambda b: b["verificationMaterial"]["certificate"].update(
            rawBytes=b64(WORLD.login().leaf.public_bytes(Encoding.DER))
        ),
        SignatureInvalid,
        "does not verify with this key",
    ),
    "certificate cut short": (
        lambda b: b["verificationMaterial"]["certificate"].update(rawBytes=b64(b"0\x03\x02\x01\x01")),
        UnreadableArtifact,
        "malformed",
    ),
    "a key in place of the certificate": (
        lambda b: b["verificationMaterial"].update(
            publicKey={"hint": ""}, certificate=b["verificationMaterial"].pop("certificate") and {}
        ),
        UnsupportedVersion,
        "publicKey and certificate",
    ),
    "a timestamp nobody can have made": (
        lambda b: b["verificationMaterial"].update(
            timestampVerificationData={"rfc3161Timestamps": [{"signedTimestamp": b64(b"0\x00")}]}
        ),
        SignerUntrusted,
        "no timestamp authority",
    ),
    "a second entry, of another bundle": (
        lambda b: b["verificationMaterial"]["tlogEntries"].append(entry(issued(statement=OTHER))),
        SignatureInvalid,
        "other content",
    ),
    "a second entry, with a bad promise": (
        lambda b: b["verificationMaterial"]["tlogEntries"].append(
            entry(b) | {"inclusionPromise": {"signedEntryTimestamp": b64(sign(new_key(), b"x"))}}
        ),
        SignatureInvalid,
        "promise",
    ),
    "only the entry of another bundle": (
        lambda b: b["verificationMaterial"].update(tlogEntries=[entry(issued(statement=OTHER))]),
        SignatureInvalid,
        "other content",
    ),
    "the entry of another login's signature over the same statement": (
        lambda b: b["verificationMaterial"].update(tlogEntries=[entry(issued())]),
        SignatureInvalid,
        "another signature",
    ),
    "more entries than anybody needs": (
        lambda b: b["verificationMaterial"].update(tlogEntries=[entry(b)] * 5),
        UnreadableArtifact,
        "more than",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_one_changed_element_is_refused_for_its_own_reason(what: str):
    change, error, reason = EDITS[what]
    bundle = issued()
    verify(bundle)
    change(bundle)
    with pytest.raises(error, match=reason):
        verify(bundle)


def test_a_keyless_bundle_satisfies_no_key_and_a_keys_bundle_no_identity():
    key = generate_key()
    with pytest.raises(HoldfastError):
        verify_bundle(json.dumps(issued()).encode(), key.public)
    with pytest.raises((SignerUntrusted, UnsupportedVersion)):
        verify(sign_statement(STATEMENT, key))


def test_a_second_unchecked_signature_does_not_ride_along_unseen():
    """A further signature without a name is checked, and the certificate does not speak for it."""
    bundle = issued()
    bundle["dsseEnvelope"]["signatures"].append({"sig": b64(b"anything"), "keyid": ""})
    with pytest.raises(SignerUntrusted, match="not a keyless signature"):
        verify(bundle)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every text of a bundle stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [place for key, item in items for place in places(item, (*path, key))]
    return below or ([path] if isinstance(value, str) and value else [])


def mutated(text: str, draw: random.Random) -> str:
    """Flip a bit of what base64 says, or change a letter of other text."""
    with suppress(ValueError):
        data = bytearray(base64.b64decode(text, validate=True))
        if len(data) > 8:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return b64(bytes(data))
    place = draw.randrange(len(text))
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def test_no_flipped_bit_anywhere_is_accepted():
    """Every text of the bundle is bound: by a signature, by a hash, or by being the one accepted spelling."""
    genuine, draw = issued(), random.Random(7)
    for place in places(genuine):
        for _ in range(40):
            forged = copy.deepcopy(genuine)
            parent = functools.reduce(lambda value, key: value[key], place[:-1], forged)
            parent[place[-1]] = mutated(parent[place[-1]], draw)
            with pytest.raises(HoldfastError):
                verify(forged)
