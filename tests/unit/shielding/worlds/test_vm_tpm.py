"""The guest's own TPM commands, and secrets wrapped for one state, against a software TPM on this machine."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.shielding.worlds import relay
from holdfast.shielding.worlds.software_tpm import SoftwareTpm
from holdfast.shielding.worlds.vm_tpm import Tpm, TpmError, policy
from holdfast.shielding.worlds.vm_wrapping import wrap, wrap_message
from tests.attesting import flipped, tpm_attestation_key, tpm_key

REGISTERS = (0, 4, 12)


@pytest.fixture(scope="module")
def outer(has_tpm_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm") / "state")
    tpm.attestation_key()
    yield tpm
    tpm.close()


@pytest.fixture(scope="module")
def tpm(outer: SoftwareTpm) -> Tpm:
    def exchange(command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(outer.socket))
            connection.sendall(command)
            return relay.message(connection.makefile("rb"))

    return Tpm(exchange)


def test_registers_and_keys_are_what_the_tools_say_they_are(tpm: Tpm, outer: SoftwareTpm):
    tpm.extend(12, b"\x01" * 32)
    assert tpm.registers(range(13))[12] == outer.registers(12)[12] != bytes(32)
    assert tpm.registers((0, 12)) == outer.registers(0, 12)
    assert tpm.attestation_key() == outer.attestation_key()
    assert tpm.storage_key() == tpm.storage_key()


def test_sealed_data_opens_in_its_state_only(tpm: Tpm):
    sealed = tpm.seal(REGISTERS, b"kept")
    assert tpm.unseal(REGISTERS, sealed) == b"kept"
    with pytest.raises(TpmError):
        tpm.unseal((0, 4), sealed)
    tpm.extend(12, b"\x02" * 32)
    for _ in range(4):  # more often than a TPM has room for sessions and objects
        with pytest.raises(TpmError):
            tpm.unseal(REGISTERS, sealed)
    assert tpm.unseal(REGISTERS, tpm.seal(REGISTERS, bytes(128))) == bytes(128)


def test_a_secret_wrapped_outside_opens_in_its_state_only_and_bits_of_it_are_no_other_secret(tpm: Tpm):
    values = tpm.registers(REGISTERS)
    wrapped = wrap(tpm.storage_key(), values, b"secret" * 20)
    assert tpm.open_wrapped(REGISTERS, wrapped) == b"secret" * 20
    assert not any(b"secret" in part for part in wrapped.values())
    for name, data in wrapped.items():
        with pytest.raises(TpmError):
            tpm.open_wrapped(REGISTERS, wrapped | {name: flipped(data, 8 * len(data) - 9)})
    elsewhere = wrap(tpm.storage_key(), values | {4: b"\x05" * 32}, b"secret")
    with pytest.raises(TpmError):
        tpm.open_wrapped(REGISTERS, elsewhere)
    tpm.extend(12, b"\x03" * 32)
    with pytest.raises(TpmError):
        tpm.open_wrapped(REGISTERS, wrapped)


def test_counters_are_those_of_the_tools(tpm: Tpm, outer: SoftwareTpm):
    assert tpm.count("name", increment=False) == 0
    first = tpm.count("name", increment=True)
    assert tpm.count("name", increment=True) == first + 1 == outer.count("name", increment=False)


def test_counters_whose_names_meet_are_apart(tpm: Tpm):
    """An index has room for 20 bits of a name's digest."""
    places: dict[str, str] = {}
    for number in range(100_000):
        place = hashlib.sha256(f"n{number}".encode()).hexdigest()[:5]
        if place in places:
            break
        places[place] = f"n{number}"
    one, other = places[place], f"n{number}"
    start = tpm.count(one, increment=True)
    assert tpm.count(other, increment=False) == 0
    tpm.count(other, increment=True)
    assert tpm.count(one, increment=False) == start


def test_a_key_that_could_sign_or_leave_is_nothing_to_wrap_for():
    with pytest.raises(SignerUntrusted):
        wrap(tpm_key(tpm_attestation_key()), {0: bytes(32)}, b"secret")


def test_secrets_depend_on_registers_and_are_short():
    for registers, secret in (({}, b"x"), ({0: bytes(32)}, bytes(129))):
        with pytest.raises(InvalidConfig, match="depends on registers"):
            wrap(b"", registers, secret)
    with pytest.raises(InvalidConfig, match="4096 bytes"):
        wrap_message(b"", {0: bytes(32)}, bytes(4097))


def test_the_policy_depends_on_which_registers_and_their_values():
    values = {0: bytes(32), 7: b"\x01" * 32}
    assert policy(values) == policy(dict(reversed(values.items())))
    others = ({0: bytes(32)}, {0: bytes(32), 6: b"\x01" * 32}, {0: b"\x01" * 32, 7: bytes(32)})
    assert len({policy(values), *map(policy, others)}) == 4


def test_an_answer_that_is_none_is_an_error(tmp_path: Path):
    for answer in (b"", b"\x80\x01\x00\x00\x00\x0b\x00\x00\x00\x00", bytes(10)):
        with pytest.raises(TpmError):
            Tpm(lambda command, answer=answer: answer).attestation_key()  # type: ignore[misc]
