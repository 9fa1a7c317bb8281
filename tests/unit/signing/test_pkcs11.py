"""Keys in tokens: RFC 7512 URIs read strictly, and real signatures out of SoftHSM2."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, SignatureInvalid, Unavailable, UsageError
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, load_signer, sign_statement, verify_bundle
from holdfast.signing.signers import require_key
from holdfast.signing.signers.pkcs11_uri import parse_uri
from tests.tokens import PIN, Token, make_token

STATEMENT = Statement((Subject("model", {"sha256": "0" * 64}),), "https://example.org/kind", {"a": 1})
CURVES = {"secp256r1": b"\x01", "secp384r1": b"\x02", "secp521r1": b"\x03", "secp256k1": b"\x04"}


@pytest.fixture
def library(tmp_path: Path) -> str:
    (tmp_path / "lib.so").write_bytes(b"")
    (tmp_path / "lib.so").chmod(0o644)
    return str(tmp_path / "lib.so")


def test_a_uri_is_decoded(library: str):
    uri = parse_uri(
        f"token=The%20Token;object=my%2Dkey%3B1;id=%01%FF;type=private?module-path={library}&pin-source=file:/p"
    )
    assert (uri.token, uri.label, uri.id) == ("The Token", "my-key;1", b"\x01\xff")
    assert (str(uri.module), uri.pin_source) == (library, "/p")
    assert parse_uri(f"serial=A1;id=%01?module-path={library}&pin-source=file:///p").pin_source == "/p"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("token=t;object=k?module-path={}&pin-value=1234", "PIN inside"),
        ("token=t;object=k;pin-value=1234?module-path={}", "PIN inside"),
        ("token=t;object=k;object=l?module-path={}", "object twice"),
        ("token=t;object=k?module-path={}&module-path={}", "module-path twice"),
        ("token=t;object=k;slot-id=1?module-path={}", "cannot read 'slot-id'"),
        ("token=t;object=k;x-vendor=1?module-path={}", "cannot read 'x-vendor'"),
        ("token=t;object=k?module-name=softhsm2", "cannot read 'module-name'"),
        ("token=t;object=k;?module-path={}", "cannot read ''"),
        ("token=t;object?module-path={}", "cannot read 'object'"),
        ("token=t;object=k%2?module-path={}", "percent-encoded"),
        ("token=t;object=k%zz?module-path={}", "percent-encoded"),
        ("token=t;object=k k?module-path={}", "percent-encoded"),
        ("token=t;object=k\n?module-path={}", "percent-encoded"),
        ("token=t;object=%ff?module-path={}", "not UTF-8"),
        ("token=t;object=k%00?module-path={}", "control characters"),
        ("token=t;object=k;type=public?module-path={}", "needs a private key"),
        ("token=t?module-path={}", "names no key"),
        ("token=t;object=?module-path={}", "names no key"),
        ("object=k?module-path={}", "names no token"),
        ("token=t;object=k", "names no library"),
        ("token=t;object=k?module-path=lib.so", "absolute"),
        ("token=t;object=k?module-path=/tmp/../tmp/lib.so", "absolute"),
        ("token=t;object=k?module-path=/no/such/lib.so", "cannot find"),
        ("token=t;object=k?module-path=/tmp", "not a file"),
        ("token=t;object=k?module-path=/dev/null", "not a file"),
        ("token=t;object=k?module-path={}&pin-source=|cat%20/p", "not run"),
        ("token=t;object=k?module-path={}&pin-source=%7Ccat%20/p", "not run"),
    ],
)
def test_uris_that_are_refused(rest: str, words: str, library: str):
    with pytest.raises(InvalidConfig, match=words) as caught:
        parse_uri(rest.replace("{}", library))
    assert "1234" not in str(caught.value) + caught.value.hint


def test_a_library_that_others_may_write_is_not_loaded(library: str):
    os.chmod(library, 0o664)
    with pytest.raises(InvalidConfig, match="others may write"):
        parse_uri(f"token=t;object=k?module-path={library}")


def test_a_library_that_others_may_replace_is_not_loaded(library: str):
    os.chmod(Path(library).parent, 0o777)
    with pytest.raises(InvalidConfig, match="others may replace"):
        parse_uri(f"token=t;object=k?module-path={library}")
    os.chmod(Path(library).parent, 0o1777)
    assert parse_uri(f"token=t;object=k?module-path={library}").label == "k"


def test_the_pin_comes_from_one_place_without_its_newline(library: str, tmp_path: Path):
    for data, expected in ((b"12 34\n", "12 34"), (b"12 34\r\n", "12 34"), (b" 12", " 12")):
        (tmp_path / "pin").write_bytes(data)
        uri = parse_uri(f"token=t;object=k?module-path={library}&pin-source=file:{tmp_path}/pin")
        assert uri.pin(None) == expected
        with pytest.raises(InvalidConfig, match="one place"):
            uri.pin(b"1234")
    (tmp_path / "pin").write_bytes(b"\n")
    with pytest.raises(InvalidConfig, match="is empty"):
        uri.pin(None)
    with pytest.raises(InvalidConfig, match="is not UTF-8"):
        parse_uri(f"token=t;object=k?module-path={library}").pin(b"\xff")
    bare = parse_uri(f"token=t;object=k?module-path={library}")
    assert bare.pin(b"1234") == "1234"
    with pytest.raises(InvalidConfig, match="one place"):
        bare.pin(None)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        token = make_token(tmp_path_factory.mktemp("pkcs11") / "hsm", monkeypatch)
        for curve, identifier in CURVES.items():
            token.make(f"{curve} key", curve, identifier)
        yield token


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1", "secp521r1"])
def test_a_token_signs_what_its_public_key_verifies(token: Token, curve: str):
    signer = require_key(load_signer(f"pkcs11:{token.uri(f'{curve} key')}"))
    bundle = sign_statement(STATEMENT, signer)
    assert verify_bundle(bundle, signer.public).statement == STATEMENT
    assert verify_bundle(bundle, signer.public).signer == signer.public.fingerprint
    assert PIN not in repr(signer)
    with pytest.raises(SignatureInvalid):
        signer.public.verify(signer.seal("a", b"b")[0], b"something else")


def test_a_token_stands_beside_a_file(token: Token):
    signer, second = require_key(load_signer(f"pkcs11:{token.uri('secp256r1 key')}")), generate_key()
    bundle = sign_statement(STATEMENT, second, signer)
    assert len(verify_bundle(bundle, [second.public, signer.public]).signers) == 2


def test_a_key_by_its_identifier_and_a_pin_that_was_given(token: Token):
    rest = f"token=test%20token;id=%02?module-path={token.module}"
    signer = require_key(load_signer(f"pkcs11:{rest}", password=PIN.encode()))
    assert signer.public == require_key(load_signer(f"pkcs11:{token.uri('secp384r1 key')}")).public


def test_what_is_not_there_or_does_not_fit(token: Token):
    with pytest.raises(UsageError, match="refuses this PIN"):
        load_signer(f"pkcs11:{token.uri('secp256r1 key', pin=False)}", password=b"wrong")
    for uri, error, words in [
        (token.uri("no key"), InvalidConfig, "0 objects PUBLIC_KEY"),
        (token.uri("secp256r1 key", extra=";id=%09"), InvalidConfig, "0 objects"),
        (token.uri("secp256k1 key"), InvalidConfig, "cannot sign models"),
        (dataclasses.replace(token, label="other").uri("secp256r1 key"), Unavailable, "no tokens are called 'other'"),
    ]:
        with pytest.raises(error, match=words):
            load_signer(f"pkcs11:{uri}")
    for identifier in (b"\x05", b"\x06"):
        token.make("twin", "secp256r1", identifier)
    with pytest.raises(InvalidConfig, match="2 objects PUBLIC_KEY"):
        load_signer(f"pkcs11:{token.uri('twin')}")
    assert load_signer(f"pkcs11:{token.uri('twin', extra=';id=%05')}")


def test_a_library_that_is_none(token: Token, library: str):
    other = dataclasses.replace(token, module=library)
    with pytest.raises(Unavailable, match="is no PKCS#11 library"):
        load_signer(f"pkcs11:{other.uri('secp256r1 key')}")


def test_a_token_that_signs_with_another_key_is_found_out(token: Token):
    signer = load_signer(f"pkcs11:{token.uri('secp256r1 key')}")
    swapped = dataclasses.replace(signer, public=generate_key().public)
    with pytest.raises(SignatureInvalid):
        swapped.seal("type", b"payload")
