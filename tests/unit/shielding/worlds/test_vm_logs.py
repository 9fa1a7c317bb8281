"""Logs of a boot: one that a vm world gave, replayed and tampered with, and made ones in which a boot hides something.

The recorded evidence is of QEMU 7.2, OVMF of Debian 12, Linux 6.12.117 and a module of one line, with a software TPM
that is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    HoldfastError,
    PolicyError,
    SignatureInvalid,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.evidence import canonical
from holdfast.shielding.attestation import Claims, Evidence, Policy, bound, read_evidence, verify
from holdfast.shielding.attestation.boot_log import BootEvent, boot_names, read_boot_log, replay_boot
from holdfast.shielding.attestation.ima_log import (
    ImaEntry,
    ima_names,
    read_ima_log,
    replay_ima,
    require_ima,
    require_known,
)
from tests.attesting import tpm_evidence, tpm_policy, with_part

RECORDED = Path(__file__).with_name("recorded")
NONCE = bytes(range(32))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
REFUSED = (VerificationError, ArtifactError)
SEPARATOR, ACTION, TAG, APPLICATION, VERSION, BLOB = 4, 0x80000007, 6, 0x80000003, 8, 0x80000008


@cache
def recorded() -> Evidence:
    return read_evidence(RECORDED / "vm-evidence.json")


@cache
def expected() -> Any:
    return json.loads((RECORDED / "vm-expected.json").read_text())


def policy(**changes: Any) -> Policy:
    measurements = {name: tuple(values) for name, values in expected()["demands"].items()}
    return Policy(**({"kind": "tpm2", "measurements": measurements, "keys": (expected()["key"],)} | changes))


def claims(evidence: Evidence) -> Claims:
    return verify(evidence, policy(), nonce=bound(NONCE), at=NOW)


def test_the_recorded_boot_is_what_was_computed_from_its_files_beforehand():
    found = claims(recorded())
    assert {"boot.kernel", "boot.initrd", "boot.command-line", "boot.firmware.1", "event.code"} <= set(
        expected()["demands"]
    )
    for name, values in expected()["demands"].items():
        assert found.measurements[name] in values
    assert found.measurements["ima./world/code/hello.py"] == expected()["files"]["/world/code/hello.py"]
    require_known(found, expected()["files"])


def test_a_file_that_is_not_known_is_named():
    found, known = claims(recorded()), dict(expected()["files"])
    with pytest.raises(PolicyError, match=r"/world/code/hello\.py ran or was read there"):
        require_known(found, known | {"/world/code/hello.py": "00" * 32})
    del known["/inside.py"]
    with pytest.raises(PolicyError, match=r"/inside\.py"):
        require_known(found, known)


def test_leaving_the_log_out_does_not_make_everything_known():
    parts = dict(recorded().collateral)
    del parts["ima"]
    found = claims(replace(recorded(), collateral=parts))  # of files the policy demands nothing
    with pytest.raises(PolicyError, match="brings no log of IMA"):
        require_known(found, expected()["files"])


@pytest.mark.parametrize("name", ["boot.kernel", "boot.initrd", "boot.command-line", "boot.firmware.1", "event.code"])
def test_another_kernel_image_command_line_firmware_or_code_is_refused(name: str):
    demands = dict(policy().measurements) | {name: ("11" * 32,)}
    with pytest.raises(PolicyError, match=name.replace(".", r"\.")):
        verify(recorded(), policy(measurements=demands), nonce=bound(NONCE), at=NOW)


def test_another_nonce_session_key_or_register_is_refused():
    for nonce in (bound(bytes(32)), bound(NONCE, b"session")):
        with pytest.raises(PolicyError, match="another nonce"):
            verify(recorded(), policy(), nonce=nonce, at=NOW)
    with pytest.raises(VerificationError, match="does not name"):
        verify(recorded(), policy(keys=("000b" + "00" * 32,)), nonce=bound(NONCE), at=NOW)
    values = json.loads(recorded().part("pcrs"))
    for index in values["sha256"]:
        changed = {"sha256": values["sha256"] | {index: "22" * 32}}
        with pytest.raises(SignatureInvalid, match="not those that the TPM signed"):
            claims(with_part(recorded(), "pcrs", canonical.dumps(changed)))


def boot_bytes(events: Sequence[BootEvent]) -> bytes:
    """The log of these events, as firmware writes it for the bank of SHA-256 alone."""
    head = b"Spec ID Event03\0" + bytes((0, 0, 0, 0, 0, 2, 0, 2)) + b"\1\0\0\0\x0b\0\x20\0\0"
    parts = [bytes(4) + b"\3\0\0\0" + bytes(20) + len(head).to_bytes(4, "little") + head]
    for event in events:
        fields = [event.register, event.kind, 1]
        digest = b"\x0b\0" + event.digest + len(event.data).to_bytes(4, "little")
        parts.append(b"".join(field.to_bytes(4, "little") for field in fields) + digest + event.data)
    return b"".join(parts)


def ima_bytes(entries: Sequence[ImaEntry], template: bytes = b"ima-ng") -> bytes:
    parts = []
    for entry in entries:
        stated = hashlib.sha1(entry.template, usedforsecurity=False).digest()
        head = entry.register.to_bytes(4, "little") + stated + len(template).to_bytes(4, "little") + template
        parts.append(head + len(entry.template).to_bytes(4, "little") + entry.template)
    return b"".join(parts)


def ima_entry(path: str, digest: bytes, register: int = 10, signature: bytes | None = None) -> ImaEntry:
    fields = [b"sha256:\0" + digest, path.encode() + b"\0", *([] if signature is None else [signature])]
    template = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return ImaEntry(register, path, "sha256", digest, template)


def test_writing_the_recorded_logs_again_gives_the_same_bytes():
    """So that what the tests below tamper with is the log, and not the test's idea of one."""
    assert boot_bytes(read_boot_log(recorded().part("firmware"))) == recorded().part("firmware")
    assert ima_bytes(read_ima_log(recorded().part("ima"))) == recorded().part("ima")


def _tampered(items: Sequence[Any], draw: Any, change: Any) -> list[Any]:
    """Drop, repeat, swap or change one of ``items``."""
    listed, place = list(items), draw(st.integers(0, len(items) - 1))
    match draw(st.sampled_from(("drop", "repeat", "swap", "change", "end"))):
        case "drop":
            del listed[place]
        case "repeat":
            listed.insert(place, listed[place])
        case "swap":
            other = draw(st.integers(0, len(items) - 1))
            listed[place], listed[other] = listed[other], listed[place]
        case "end":
            del listed[place:]
        case _:
            listed[place] = change(listed[place])
    return listed


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_tampering_with_the_order_or_content_of_the_boot_log_changes_what_is_claimed(data: st.DataObject):
    events = read_boot_log(recorded().part("firmware"))

    def change(event: BootEvent) -> BootEvent:
        field = data.draw(st.sampled_from(("register", "digest", "kind")))
        value = {"register": (event.register + 1) % 16, "digest": event.digest[::-1], "kind": event.kind ^ 1}[field]
        return replace(event, **{field: value})

    bad = with_part(recorded(), "firmware", boot_bytes(_tampered(events, data.draw, change)))
    _same_or_refused(bad, "boot.")


@pytest.mark.parametrize("elsewhere", [8, 11, 12, 13, 16, 23])
def test_a_log_of_ima_in_another_register_than_the_kernel_s_is_refused(elsewhere: int):
    """The attack: run what nobody knows, which is in register 10, then extend an innocent log where nobody looks."""
    values = {index: bytes((index,)) * 32 for index in range(10)}
    aggregate = hashlib.sha256(b"".join(values[index] for index in range(10))).digest()
    entries = [ima_entry(path, digest, elsewhere) for path, digest in (("boot_aggregate", aggregate), ("/init", GOOD))]
    evidence = tpm_evidence(registers=values | {10: EVIL, elsewhere: replay_ima(entries)[elsewhere]}, nonce=NONCE)
    del (parts := dict(evidence.collateral))["log"]
    with pytest.raises(SignatureInvalid, match=f"register {elsewhere}, and the kernel's is 10"):
        measured(with_part(replace(evidence, collateral=parts), "ima", ima_bytes(entries)))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_tampering_with_the_order_or_content_of_ima_s_log_changes_what_is_claimed(data: st.DataObject):
    entries = read_ima_log(recorded().part("ima"))

    def change(entry: ImaEntry) -> ImaEntry:
        return ima_entry(entry.path, entry.digest[::-1], 10 + data.draw(st.integers(0, 1)))

    bad = with_part(recorded(), "ima", ima_bytes(_tampered(entries, data.draw, change)))
    _same_or_refused(bad, "ima.")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_flipped_bit_or_cut_of_a_log_changes_what_is_claimed(data: st.DataObject):
    name = data.draw(st.sampled_from(("firmware", "ima")))
    part = bytearray(recorded().part(name))
    if data.draw(st.booleans()):
        part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del part[data.draw(st.integers(0, len(part) - 1)) :]
    _same_or_refused(with_part(recorded(), name, bytes(part)), "boot." if name == "firmware" else "ima.")


def _same_or_refused(evidence: Evidence, prefix: str) -> None:
    """Either it is refused, or nothing is claimed that the boot did not do: words that no digest covers may differ."""
    try:
        found = verify(evidence, policy(measurements={}, any_code=True), nonce=bound(NONCE), at=NOW).measurements
    except REFUSED:
        return
    true = claims(recorded()).measurements
    assert {name: value for name, value in found.items() if name.startswith(prefix)}.items() <= true.items()


def event(register: int, kind: int, data: bytes, digest: bytes | None = None) -> BootEvent:
    return BootEvent(register, kind, hashlib.sha256(data).digest() if digest is None else digest, data)


def tag(number: int, words: bytes) -> bytes:
    return number.to_bytes(4, "little") + len(words).to_bytes(4, "little") + words


GOOD, EVIL, INITRD, LINE = (bytes((number,)) * 32 for number in (0x60, 0xE0, 0x61, 0x62))
CALLING = event(4, ACTION, b"Calling EFI Application from Boot Option")
LOADED = [event(9, TAG, tag(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"), LINE),
          event(9, TAG, tag(0x8F3B22EC, b"Linux initrd\0"), INITRD)]  # fmt: skip
BOOT = [event(0, VERSION, b"\0\0"), event(0, BLOB, b"volume", b"\x33" * 32), event(4, APPLICATION, b"kernel", GOOD),
        CALLING, *(event(index, SEPARATOR, bytes(4)) for index in range(8)), *LOADED]  # fmt: skip


def made(events: Sequence[BootEvent], said: Sequence[BootEvent] | None = None, **more: Any) -> Evidence:
    """Evidence of a machine that did ``events``, with a log that says ``said``."""
    values = {index: replay_boot(events).get(index, bytes(32)) for index in range(10)}
    evidence = tpm_evidence(registers=values | more.get("registers", {}), nonce=NONCE)
    del (parts := dict(evidence.collateral))["log"]
    evidence = replace(evidence, collateral=parts)
    return with_part(evidence, "firmware", boot_bytes(events if said is None else said))


def measured(evidence: Evidence) -> Mapping[str, str]:
    return verify(evidence, tpm_policy(measurements={}, any_code=True), nonce=NONCE, at=NOW).measurements


def test_a_plain_boot_names_what_it_booted():
    found = measured(made(BOOT))
    assert found["boot.kernel"] == GOOD.hex()
    assert (found["boot.initrd"], found["boot.command-line"]) == (INITRD.hex(), LINE.hex())
    assert found["boot.firmware.0"] == "33" * 32


def test_whoever_boots_something_else_cannot_have_the_log_call_a_later_extension_the_kernel():
    """The attack: boot EVIL, extend GOOD afterwards, and relabel. The replay is right; the name must not be given."""
    did = [*BOOT[:2], event(4, APPLICATION, b"kernel", EVIL), event(4, APPLICATION, b"kernel", GOOD), *BOOT[3:]]
    for kind in (TAG, ACTION, SEPARATOR, BLOB, 0xD, 0x5):
        said = [*did[:2], replace(did[2], kind=kind), *did[3:]]
        try:
            found = measured(made(did, said))
        except REFUSED:
            continue
        assert "boot.kernel" not in found
    with pytest.raises(SignatureInvalid, match="does not explain register 4"):
        measured(made(did, [*did[:2], replace(did[2], kind=3), *did[3:]]))  # called an event that extends nothing


def test_whoever_loads_something_else_cannot_have_the_log_call_a_later_extension_the_initial_file_system():
    evil = event(9, TAG, tag(0x8F3B22EC, b"Linux initrd\0"), EVIL)
    for hidden in (evil, replace(evil, kind=0xD), replace(evil, data=tag(7, b"")), replace(evil, register=9, data=b"")):
        found = measured(made([*BOOT[:-2], LOADED[0], hidden, LOADED[1]]))
        assert not {"boot.initrd", "boot.command-line"} & set(found)
    swapped = [replace(LOADED[0], data=LOADED[1].data), replace(LOADED[1], data=LOADED[0].data)]
    found = measured(made(BOOT, [*BOOT[:-2], *swapped]))
    assert found["boot.initrd"] == LINE.hex()  # and no policy's demand for either is met


def test_the_words_of_an_event_that_are_checked_must_be_what_was_measured():
    lie = replace(CALLING, data=b"Returning from EFI Application from Boot Option")
    with pytest.raises(SignatureInvalid, match="not what its digest is of"):
        measured(made(BOOT, [lie if item is CALLING else item for item in BOOT]))


def test_a_register_of_the_firmware_that_the_log_leaves_out_is_refused():
    for index in range(10):
        said = [item for item in BOOT if item.register != index]
        if len(said) < len(BOOT):
            with pytest.raises(SignatureInvalid, match=f"does not explain register {index}"):
                measured(made(BOOT, said))
    with pytest.raises(SignatureInvalid, match="does not explain register 11"):
        measured(made(BOOT, [*BOOT, event(11, TAG, b"")]))  # extended, and not quoted


def test_names_of_a_boot_cannot_be_claimed_by_what_software_extends_later():
    evidence = tpm_evidence(nonce=NONCE, events=[("boot.kernel", GOOD)], registers={12: _extended("boot.kernel", GOOD)})
    assert "boot.kernel" not in measured(evidence)


def _extended(name: str, digest: bytes) -> bytes:
    value = hashlib.sha256(b"holdfast event v1\0" + bytes((len(name),)) + name.encode() + digest).digest()
    return hashlib.sha256(bytes(32) + value).digest()


def test_a_tpm_that_hardware_started_begins_elsewhere():
    start = BootEvent(0, 3, bytes(32), b"StartupLocality\0\3")
    value = replay_boot([start, BOOT[0]])[0]
    assert value == hashlib.sha256(bytes(31) + b"\3" + BOOT[0].digest).digest()
    with pytest.raises(UnreadableArtifact, match="locality"):
        replay_boot([BOOT[0], start])


def two_banks(names: Sequence[int], event: BootEvent, digests: Sequence[int] | None = None) -> bytes:
    """A log of one event by a machine with several banks."""
    sizes = {0x0004: 20, 0x000B: 32}
    banks = b"".join(name.to_bytes(2, "little") + sizes.get(name, 48).to_bytes(2, "little") for name in names)
    head = b"Spec ID Event03\0" + bytes((0, 0, 0, 0, 0, 2, 0, 2)) + len(names).to_bytes(4, "little") + banks + b"\0"
    start = bytes(4) + b"\3\0\0\0" + bytes(20) + len(head).to_bytes(4, "little") + head
    listed = names if digests is None else digests
    values = [(0x0004, bytes(20)), (0x000B, event.digest)]
    parts = [name.to_bytes(2, "little") + value for wanted in listed for name, value in values if name == wanted]
    fields = b"".join(field.to_bytes(4, "little") for field in (event.register, event.kind, len(parts)))
    return start + fields + b"".join(parts) + len(event.data).to_bytes(4, "little") + event.data


def test_of_a_machine_with_several_banks_that_of_sha_256_is_read():
    for names in ((0x0004, 0x000B), (0x000B, 0x0004)):
        assert read_boot_log(two_banks(names, CALLING)) == (CALLING,)


@pytest.mark.parametrize(
    ("names", "digests"),
    [
        ((0x0004,), None),  # no SHA-256
        ((0x0004, 0x000B), (0x0004,)),  # an event that leaves one out
        ((0x0004, 0x000B), (0x000B, 0x000B)),  # or has one twice
        ((0x000B, 0x0099), (0x000B,)),  # a bank of unknown size
    ],
)
def test_a_log_whose_events_do_not_have_every_bank_s_digest_is_refused(names: Any, digests: Any):
    with pytest.raises(UnreadableArtifact):
        read_boot_log(two_banks(names, CALLING, digests))


# ----- IMA


def with_ima(entries: Sequence[ImaEntry], data: bytes | None = None) -> Evidence:
    """Evidence of a machine in which IMA measured ``entries``, after the boot."""
    value = bytes(32)
    for entry in entries:
        value = hashlib.sha256(value + hashlib.sha256(entry.template).digest()).digest()
    evidence = made(BOOT, registers={10: value})
    return with_part(evidence, "ima", ima_bytes(entries) if data is None else data)


def aggregate(events: Sequence[BootEvent] = BOOT) -> ImaEntry:
    values = replay_boot(events)
    whole = b"".join(values.get(index, bytes(32)) for index in range(10))
    return ima_entry("boot_aggregate", hashlib.sha256(whole).digest())


FILES = [ima_entry("/bin/one", b"\x01" * 32), ima_entry("/bin/two", b"\x02" * 32)]


def test_files_are_named_with_their_digests():
    found = measured(with_ima([aggregate(), *FILES]))
    assert (found["ima./bin/one"], found["ima./bin/two"]) == ("01" * 32, "02" * 32)
    assert "ima.boot_aggregate" not in found


def test_a_log_that_begins_with_another_boot_is_refused():
    with pytest.raises(SignatureInvalid, match="another boot"):
        measured(with_ima([aggregate(BOOT[:-1]), *FILES]))
    with pytest.raises(SignatureInvalid, match="does not begin with"):
        measured(with_ima(FILES))
    with pytest.raises(SignatureInvalid, match="exactly one register"):
        measured(with_ima([aggregate(), replace(FILES[0], register=11)]))
    with pytest.raises(SignatureInvalid, match="exactly one register"):
        measured(with_ima([]))


def test_a_file_that_had_two_contents_meets_no_demand_for_either():
    again = ima_entry("/bin/one", b"\x03" * 32)
    assert ima_names([aggregate(), *FILES, again, FILES[1]])["ima./bin/one"] == "01" * 32 + "03" * 32


def test_the_ascii_form_says_the_same():
    entries = read_ima_log(recorded().part("ima"))
    stated = [hashlib.sha1(item.template, usedforsecurity=False).hexdigest() for item in entries]
    lines = [
        f"10 {digest} ima-ng sha256:{item.digest.hex()} {item.path}\n"
        for digest, item in zip(stated, entries, strict=True)
    ]
    assert read_ima_log("".join(lines).encode()) == entries
    found = claims(with_part(recorded(), "ima", "".join(lines).encode()))
    assert found.measurements == claims(recorded()).measurements
    with pytest.raises(SignatureInvalid, match="does not explain register 10"):
        claims(with_part(recorded(), "ima", "".join([lines[0], *lines[2:]]).encode()))


def test_signatures_are_part_of_what_was_measured():
    signature = b"\3\2\4abcd"
    signed = ima_entry("/bin/one", b"\x01" * 32, signature=signature)
    assert read_ima_log(ima_bytes([signed], b"ima-sig")) == (signed,)
    stated = hashlib.sha256(signed.template).hexdigest()  # newer kernels give this form for each bank
    line = f"10 {stated} ima-sig sha256:{'01' * 32} /bin/one {signature.hex()}\n"
    assert read_ima_log(line.encode()) == (signed,)
    unsigned = ima_entry("/bin/one", b"\x01" * 32, signature=b"")
    line = f"10 {hashlib.sha256(unsigned.template).hexdigest()} ima-sig sha256:{'01' * 32} /bin/one \n"
    assert read_ima_log(line.encode()) == (unsigned,)


@pytest.mark.parametrize(
    "wrong",
    [
        b"10 " + b"00" * 20 + b" ima-ng sha256:" + b"01" * 32 + b" /bin/one\n",  # a violation
        b"10 " + b"11" * 20 + b" ima-ng sha256:" + b"01" * 32 + b" /bin/one\n",
        b"10 " + b"11" * 20 + b" ima " + b"01" * 20 + b" /bin/one\n",
        b"10 " + b"11" * 20 + b" ima-ng sha256:" + b"01" * 32 + b" /bin/one",
        b"10 \xff\n",
    ],
)
def test_a_log_with_a_violation_or_of_another_form_is_refused(wrong: bytes):
    with pytest.raises(REFUSED):
        read_ima_log(wrong)


def test_other_templates_and_too_many_entries_are_refused():
    with pytest.raises(UnreadableArtifact, match="ima-buf"):
        read_ima_log(ima_bytes(FILES, b"ima-buf"))
    with pytest.raises(UnreadableArtifact, match="more than"):
        read_ima_log(ima_bytes([FILES[0]] * 20_001))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_what_is_no_log_raises_nothing_but_our_errors(data: bytes):
    for read in (read_boot_log, read_ima_log):
        for start in (b"", recorded().part("firmware")[:65], recorded().part("ima")[:32], b"10 "):
            try:
                read(start + data)  # type: ignore[operator]
            except HoldfastError:
                continue


def test_an_empty_selection_of_registers_explains_nothing():
    with pytest.raises(SignatureInvalid, match="not quoted"):
        require_ima(
            [aggregate()], {10: hashlib.sha256(bytes(32) + hashlib.sha256(aggregate().template).digest()).digest()}
        )
    assert boot_names([]) == {}
