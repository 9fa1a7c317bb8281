"""One holder who tries to be counted as several: under two kinds of trust, or by signing twice."""

from __future__ import annotations

import dataclasses

import pytest

from holdfast.errors import SignerUntrusted
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import Threshold, generate_key, sign_statement
from holdfast.signing.envelope import Envelope, Signature, read_envelope
from holdfast.signing.keys import KeySigner, key_material
from holdfast.signing.trusts import KeyTrust
from holdfast.signing.trusts.timestamped import TimestampedTrust
from tests.authority import authority, sealed, signer, trusting

ROOT = authority("root")
LEAF = signer(ROOT)
KEY = KeySigner(LEAF.key)
STATEMENT = Statement((Subject("a", {"sha256": "0" * 64}),), "https://example.org/x", {})


def signed_again(envelope: Envelope, *keys: KeySigner) -> Envelope:
    more = tuple(Signature(key.sign(envelope.signed), key.public.fingerprint) for key in keys)
    return dataclasses.replace(envelope, signatures=envelope.signatures + more)


def test_a_key_trusted_by_itself_and_by_its_certificate_counts_once() -> None:
    both = Threshold((trusting(ROOT), KeyTrust(KEY.public)), 2)
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        both.judge(signed_again(sealed(LEAF), KEY))


def test_however_often_and_in_whatever_order_one_key_signs() -> None:
    members = (KeyTrust(KEY.public), TimestampedTrust(trust=KeyTrust(KEY.public), tsa_roots=(ROOT.certificate,)))
    for order in (members, members[::-1]):
        with pytest.raises(SignerUntrusted):
            Threshold((*order, trusting(ROOT)), 2).judge(signed_again(sealed(LEAF), KEY, KEY, KEY))


def test_two_holders_still_are_two() -> None:
    other = KeySigner(signer(ROOT).key)
    both = Threshold((trusting(ROOT), KeyTrust(other.public)), 2)
    assert len(both.judge(signed_again(sealed(LEAF), other))) == 2


def test_a_bundle_that_names_two_keys_for_one_signature_is_refused() -> None:
    other, envelope = generate_key(), read_envelope(sign_statement(STATEMENT, KEY))
    named = dataclasses.replace(envelope, signatures=(Signature(envelope.signatures[0].value, KEY.public.fingerprint),))
    assert Threshold((KeyTrust(KEY.public),)).judge(named)
    forged = dataclasses.replace(named, material=key_material(other.public))
    with pytest.raises(SignerUntrusted, match="another public key"):
        Threshold((KeyTrust(KEY.public),)).judge(forged)
