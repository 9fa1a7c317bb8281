"""Names of signers and URIs of keys: what is accepted is exactly what was asked for, and nothing crashes a parser."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.signing.signers.pkcs11_uri import parse_uri
from holdfast.signing.x509 import NameRule
from tests.authority import authority, signer

ROOT = authority("root")
BASE = "builder@example.org"
edits = st.tuples(st.integers(0, len(BASE)), st.integers(0, 2), st.text(max_size=2))
kinds = st.sampled_from([x509.RFC822Name, x509.DNSName, x509.UniformResourceIdentifier])


def edited(edit: tuple[int, int, str]) -> str:
    """The builder's address with some letters at one place taken out and others put in."""
    place, taken, put = edit
    return BASE[:place] + put + BASE[place + taken :]


def accepted(rule: NameRule, name: x509.GeneralName) -> bool:
    try:
        rule.match(signer(ROOT, names=[name]).certificate)
    except SignerUntrusted:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(edit=edits, kind=kinds)
def test_an_identity_is_accepted_if_and_only_if_it_is_the_same(edit: tuple[int, int, str], kind: type[x509.RFC822Name]):
    text = edited(edit)
    if not text.isascii():
        return  # the certificate's own encoding has no such names
    name = kind._init_without_validation(text)
    right = text == BASE and kind is x509.RFC822Name
    assert accepted(NameRule(identity=BASE), name) == right
    assert accepted(NameRule(pattern=r"builder@example\.org"), name) == right


@settings(max_examples=150, deadline=None)
@given(edit=edits)
def test_a_domain_accepts_only_addresses_that_end_in_it(edit: tuple[int, int, str]):
    text = edited(edit)
    if not text.isascii():
        return
    name = x509.RFC822Name._init_without_validation(text)
    if accepted(NameRule(domain="example.org"), name):
        user, at, domain = text.partition("@")
        assert at
        assert user.isprintable()
        assert " " not in user
        assert domain.lower() == "example.org"


pieces = st.sampled_from(
    [
        "token",
        "object",
        "id",
        "type",
        "pin-value",
        "pin-source",
        "module-path",
        "=",
        ";",
        "?",
        "&",
        "%",
        "%41",
        "%00",
        "a",
        "/",
    ]
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uri=st.one_of(st.text(max_size=60), st.lists(pieces, max_size=24).map("".join)))
def test_no_uri_of_a_token_crashes_or_is_guessed_at(uri: str):
    library = Path(__file__).resolve()
    try:
        found = parse_uri(uri)
    except InvalidConfig:
        pass
    else:
        assert found.label or found.id
        assert found.token or found.serial
        assert found.module.is_absolute()
    try:
        parse_uri(f"token=t;object=k?module-path={library}&pin-source={uri}")
    except InvalidConfig:
        return
    assert "|" not in uri[:1]
