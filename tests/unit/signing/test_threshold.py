"""Several signers in one envelope: who counts, who does not, and what no forged entry may do."""

from __future__ import annotations

import base64
import json

import pytest

from holdfast.errors import InvalidConfig, SignatureInvalid, SignerUntrusted
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import Threshold, add_signature, generate_key, load_trust, require_threshold, sign_statement
from holdfast.signing import verify_bundle as verify

ALICE, BOB, CAROL, EVE = (generate_key(kind) for kind in ("p256", "ed25519", "p384", "p521"))
STATEMENT = Statement((Subject("m", {"sha256": "ab" * 32}),), "https://example.org/p", {"n": 1})


def _edited(bundle: bytes, edit) -> bytes:
    value = json.loads(bundle)
    edit(value["dsseEnvelope"]["signatures"])
    return json.dumps(value).encode()


def test_two_of_three_signers_are_enough_and_both_are_named():
    bundle = sign_statement(STATEMENT, ALICE, BOB)
    proof = verify(bundle, require_threshold([CAROL.public, BOB.public, ALICE.public], 2))
    assert {item.name for item in proof.signers} == {ALICE.public.fingerprint, BOB.public.fingerprint}


def test_any_one_signer_can_be_trusted_alone():
    bundle = sign_statement(STATEMENT, ALICE, BOB, CAROL)
    for key in (ALICE, BOB, CAROL):
        assert verify(bundle, key.public).signer == key.public.fingerprint


def test_several_keys_are_all_demanded_unless_a_smaller_number_is_said():
    bundle = sign_statement(STATEMENT, ALICE, BOB)
    with pytest.raises(SignerUntrusted, match="2 of 3"):
        verify(bundle, [ALICE.public, BOB.public, CAROL.public])


def test_one_signer_who_signs_twice_counts_once():
    bundle = add_signature(sign_statement(STATEMENT, ALICE), ALICE)
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify(bundle, require_threshold([ALICE.public, BOB.public], 2))


def test_a_strangers_signature_counts_for_nothing():
    bundle = add_signature(sign_statement(STATEMENT, ALICE), EVE)
    assert len(verify(bundle, ALICE.public).signers) == 1
    with pytest.raises(SignerUntrusted):
        verify(bundle, require_threshold([ALICE.public, BOB.public], 2))


def test_a_second_bad_signature_is_refused_whether_it_is_named_or_not():
    bundle = add_signature(sign_statement(STATEMENT, ALICE), BOB)
    wrong = base64.b64encode(EVE.sign(b"something else")).decode()
    for keyid in ("", BOB.public.fingerprint):
        forged = _edited(bundle, lambda items, keyid=keyid: items[1].update(sig=wrong, keyid=keyid))
        with pytest.raises(SignatureInvalid):
            verify(forged, require_threshold([ALICE.public, BOB.public], 1))


def test_a_signature_under_another_signers_name_is_refused():
    forged = _edited(sign_statement(STATEMENT, ALICE, EVE), lambda items: items[1].update(keyid=BOB.public.fingerprint))
    with pytest.raises(SignatureInvalid):
        verify(forged, require_threshold([ALICE.public, BOB.public], 2))


def test_a_bundle_without_a_hint_is_tried_with_every_trusted_key():
    value = json.loads(sign_statement(STATEMENT, BOB))
    value["verificationMaterial"]["publicKey"] = {}
    bundle = json.dumps(value).encode()
    assert verify(bundle, require_threshold([ALICE.public, BOB.public], 1)).signer == BOB.public.fingerprint
    with pytest.raises(SignatureInvalid):
        verify(bundle, require_threshold([ALICE.public, CAROL.public], 1))


def test_impossible_thresholds_are_refused():
    for members, needed in (((), 1), ((load_trust(ALICE.public),), 2), ((load_trust(ALICE.public),), 0)):
        with pytest.raises(InvalidConfig):
            Threshold(members, needed)
    with pytest.raises(InvalidConfig, match="twice"):
        require_threshold([ALICE.public, ALICE.public.pem])


def test_the_same_key_of_a_file_a_pem_and_a_specification_is_one_key(tmp_path):
    path = tmp_path / "alice.pub"
    path.write_bytes(ALICE.public.pem)
    assert len({load_trust(item) for item in (path, str(path), f"key:{path}", ALICE.public, ALICE.public.pem)}) == 1
