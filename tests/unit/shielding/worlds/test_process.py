"""The process world on this machine: what the code inside is and may do, what its quotes prove, what it is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryptography
import pytest

import holdfast
from holdfast.errors import InvalidConfig, MissingDevice, PolicyError, SignerUntrusted
from holdfast.shielding.attestation import Policy, bound, verify
from holdfast.shielding.attestation.tls import connect
from holdfast.shielding.worlds import Launch, ProcessWorld, World, worlds
from holdfast.shielding.worlds.process import REGISTER, USER

NONCE = bytes(range(32))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = b"a key of thirty-two bytes, k=32."


@pytest.fixture(scope="session")
def report(world: ProcessWorld) -> Iterator[dict[str, Any]]:
    world.provision({"key": KEY, "empty": b""})
    process = world.run()
    assert process.stdout is not None
    line = process.stdout.readline()
    yield json.loads(line) if line else {"error": process.communicate(timeout=10)[1].decode()}
    process.kill()
    process.communicate()


def policy(world: ProcessWorld, **changes: Any) -> Policy:
    demands = {"measurements": world.measure().demands(), "keys": (world.key_name,)}
    return Policy(kind="tpm2", **(demands | changes))


def test_the_code_runs_as_a_user_of_its_own_without_rights(report: dict[str, Any]):
    assert report["user"] == report["group"] == [USER] * 3
    assert report["groups"] == []
    assert report["capabilities"] == "0" * 16
    assert report["no_new_privs"] == "1"
    assert report["dumpable"] == 0
    assert report["filters"] == "2"


def test_the_code_sees_itself_and_nothing_of_the_host(report: dict[str, Any]):
    assert report["arguments"] == ["given"]
    assert len(report["processes"]) == 2  # it, and the one that waits for it
    assert set(report["environment"]) <= {"HOLDFAST_PROVISIONED", "HOLDFAST_QUOTES", "HOME", "LANG", "LC_CTYPE", "PWD"}
    assert not [name for name in report["modules"] if "site-packages" in name]


def test_secrets_arrive_and_are_named(report: dict[str, Any]):
    assert report["secrets"] == {"key": hashlib.sha256(KEY).hexdigest(), "empty": hashlib.sha256(b"").hexdigest()}


ALLOWED = {"write to scratch", "read its own code", "local socket", "fork"}


def test_what_the_code_may_do_is_what_it_needs(report: dict[str, Any]):
    allowed = {name for name, result in report["attempts"].items() if result == "allowed"}
    assert allowed == ALLOWED
    assert len(report["attempts"]) > len(ALLOWED) + 10


def test_nobody_but_root_reads_its_memory_or_traces_it(world: ProcessWorld):
    process = world.run()
    assert process.stdout is not None
    process.stdout.readline()
    inner = _innermost(process.pid)
    for user in (USER, 65_534):  # its own user, from outside, and another
        for name in ("mem", "environ", "maps"):
            found = subprocess.run(["/usr/bin/head", "-c1", f"/proc/{inner}/{name}"], user=user, capture_output=True)
            assert found.returncode != 0
            assert b"Permission denied" in found.stderr
    process.kill()
    process.communicate()


def _innermost(pid: int) -> int:
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def test_a_quote_proves_the_measurement_to_whoever_knows_the_key(world: ProcessWorld):
    claims = verify(world.quote(NONCE), policy(world), nonce=bound(NONCE), at=NOW)
    assert claims.measurements[f"pcr.{REGISTER}"] == world.measure().register().hex()
    assert {"event.code", "event.config", "event.inside", "event.interpreter"} <= set(claims.measurements)
    assert claims.identity == world.key_name


def test_a_quote_for_another_nonce_session_or_key_is_refused(world: ProcessWorld):
    evidence = world.quote(NONCE, b"one session")
    verify(evidence, policy(world), nonce=bound(NONCE, b"one session"), at=NOW)
    for expected in (bound(NONCE), bound(NONCE, b"another session"), bound(bytes(32), b"one session")):
        with pytest.raises(PolicyError, match="another nonce"):
            verify(evidence, policy(world), nonce=expected, at=NOW)
    with pytest.raises(SignerUntrusted, match="does not name"):
        verify(evidence, policy(world, keys=("000b" + "00" * 32,)), nonce=bound(NONCE, b"one session"), at=NOW)


def test_changed_code_gives_another_measurement_and_is_refused(world: ProcessWorld, code: Path, tmp_path: Path):
    changed = tmp_path / "code"
    shutil.copytree(code, changed)
    (changed / "probe.py").write_bytes((code / "probe.py").read_bytes() + b"\n")
    other = ProcessWorld(Launch(module="probe", arguments=("given",), measured={"code": changed}, path=("code",)))
    expected, found = dict(world.measure().events), dict(other.measure().events)
    other.close()
    assert {name for name in expected if expected[name] != found[name]} == {"code"}
    demands = {"event.code": (found["code"].hex(),)}
    with pytest.raises(PolicyError, match=r"measurement event\.code"):
        verify(world.quote(NONCE), policy(world, measurements=demands), nonce=bound(NONCE), at=NOW)


def test_other_arguments_are_another_configuration(world: ProcessWorld, code: Path):
    """What the host may choose is measured: no command line slips past the quote."""
    other = ProcessWorld(Launch(module="probe", arguments=("-c", "import os"), measured={"code": code}, path=("code",)))
    expected, found = dict(world.measure().events), dict(other.measure().events)
    other.close()
    assert {name for name in expected if expected[name] != found[name]} == {"config"}


def test_what_is_measured_is_what_runs(can_hold_worlds: None, code: Path, tmp_path: Path):
    """Code that is changed after it was measured does not get in."""
    place = tmp_path / "code"
    place.mkdir()
    (place / "hello.py").write_text("print('measured')")
    world = ProcessWorld(Launch(module="hello", measured={"code": place}, path=("code",)))
    try:
        world.start()
        (place / "hello.py").write_text("print('exchanged')")
        out, err = world.run().communicate(timeout=30)
        assert (out, err) == (b"measured\n", b"")
    finally:
        world.close()


def test_a_world_that_was_not_started_gives_nothing_and_runs_nothing(can_hold_worlds: None, code: Path):
    world = ProcessWorld(Launch(module="probe", measured={"code": code}, path=("code",)))
    for attempt in (
        lambda: world.quote(NONCE), lambda: world.provision({"key": KEY}), world.run,
        lambda: world.seal("store", b"x"), lambda: world.unseal("store", b"x"), lambda: world.key_name,
    ):  # fmt: skip
        with pytest.raises(PolicyError, match="was not measured and started"):
            attempt()
    world.close()


@pytest.mark.slow
def test_sealed_data_opens_in_the_same_world_only_and_only_the_latest(world: ProcessWorld, code: Path, tmp_path: Path):
    first, second = world.seal("store", b"first"), world.seal("store", b"second")
    assert world.unseal("store", second) == b"second"
    with pytest.raises(PolicyError, match="put an old one back"):
        world.unseal("store", first)
    assert b"second" not in second


@pytest.mark.slow
def test_sealed_data_outlives_the_world_and_not_a_change_of_its_code(can_hold_worlds: None, code: Path, tmp_path: Path):
    launch = Launch(module="probe", measured={"code": code}, path=("code",))
    state = tmp_path / "tpm"

    def started(what: Launch) -> ProcessWorld:
        world = ProcessWorld(what, state=state)
        world.start()
        return world

    world = started(launch)
    sealed, key = world.seal("store", b"kept"), world.key_name
    world.close()
    world = started(launch)
    assert world.unseal("store", sealed) == b"kept"
    assert world.key_name == key
    world.close()
    world = started(Launch(module="probe", arguments=("other",), measured={"code": code}, path=("code",)))
    with pytest.raises(PolicyError, match="another measurement"):
        world.unseal("store", sealed)
    world.close()


@pytest.mark.slow
def test_a_shared_folder_lets_both_sides_meet_at_a_socket(can_hold_worlds: None, tmp_path: Path):
    place, shared = tmp_path / "code", tmp_path / "shared"
    place.mkdir()
    shared.mkdir()
    (place / "echo.py").write_text(
        "import socket\ns=socket.socket(socket.AF_UNIX)\ns.bind('/shared/s')\ns.listen(1)\nprint('up',flush=True)\n"
        "c,_=s.accept()\nc.sendall(c.recv(9)[::-1])\n"
    )
    world = ProcessWorld(Launch(module="echo", measured={"code": place}, path=("code",), shared=shared))
    try:
        world.start()
        process = world.run()
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n", process.communicate()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(shared / "s"))
            client.sendall(b"abc")
            assert client.recv(9) == b"cba"
    finally:
        world.close()


@pytest.mark.slow
def test_code_inside_asks_for_quotes_of_its_own_and_answers_an_attested_session(can_hold_worlds: None, tmp_path: Path):
    """The session ends inside the world: the launcher sees evidence requests and nothing of what is said."""
    site, package = Path(cryptography.__file__).parents[1], Path(holdfast.__file__).parent
    place, shared = tmp_path / "code", tmp_path / "shared"
    shared.mkdir()
    shutil.copytree(package, place / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "echo.py").write_text(SERVER)
    launch = Launch(
        module="echo", measured={"code": place}, libraries={"packages": site}, path=("code", "packages"), shared=shared
    )
    world = ProcessWorld(launch)
    try:
        world.start()
        process = world.run()
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n", process.communicate()
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(shared / "s"))
            channel, claims = connect(stream, policy(world), at=NOW, timeout=60)
            assert claims.measurements["event.code"] == dict(world.measure().events)["code"].hex()
            channel.send(b"abc")
            assert channel.receive() == b"cba"
    finally:
        world.close()


SERVER = """
import socket
from holdfast.shielding.attestation.tls import accept
from holdfast.shielding.worlds import own_quote
listener = socket.socket(socket.AF_UNIX)
listener.bind("/shared/s")
listener.listen(1)
print("up", flush=True)
stream, _ = listener.accept()
channel = accept(stream, own_quote, timeout=60)
channel.send(channel.receive()[::-1])
channel.close()
"""


@pytest.mark.slow
def test_limits_are_kept(can_hold_worlds: None, tmp_path: Path):
    place = tmp_path / "code"
    place.mkdir()
    (place / "many.py").write_text(
        "import os\ntry:\n  [os.dup(0) for _ in range(99)]\nexcept OSError as e:\n  print(e.errno)"
    )
    launch = Launch(module="many", measured={"code": place}, path=("code",), limits={"NOFILE": 40})
    world = ProcessWorld(launch)
    try:
        world.start()
        assert world.run().communicate(timeout=30)[0] == b"24\n"
    finally:
        world.close()


def test_a_world_that_cannot_be_confined_runs_nothing(can_hold_worlds: None, code: Path):
    launch = Launch(module="probe", measured={"code": code}, path=("code",), limits={"NOFILE": 3})
    world = ProcessWorld(launch)  # too few files to open even what confines it
    try:
        world.start()
        process = world.run()
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (78, b"")
        assert b"not confined, so nothing runs" in err
    finally:
        world.close()


@pytest.mark.parametrize("missing", ["bwrap", "swtpm", "tpm2_quote"])
def test_without_its_tools_there_is_no_lesser_world(
    can_hold_worlds: None, code: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else which(name))
    with pytest.raises(MissingDevice, match=f"no {missing} here"):
        ProcessWorld(Launch(module="probe", measured={"code": code}, path=("code",)))


def test_somebody_without_rights_is_told_so(can_hold_worlds: None, code: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingDevice, match="only root"):
        ProcessWorld(Launch(module="probe", measured={"code": code}, path=("code",)))


def test_secrets_are_few_small_and_named(world: ProcessWorld):
    for wrong in ({"a key": b"x"}, {"k": bytes(60_001)}, {f"k{n}": b"" for n in range(101)}):
        with pytest.raises(InvalidConfig):
            world.provision(wrong)


@pytest.mark.slow
def test_libraries_that_others_may_change_are_refused(can_hold_worlds: None, code: Path, tmp_path: Path):
    library = tmp_path / "library"
    library.mkdir()
    library.chmod(0o777)
    world = ProcessWorld(Launch(module="probe", measured={"code": code}, libraries={"more": library}, path=("code",)))
    with pytest.raises(PolicyError, match="others may change"):
        world.start()
    world.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"module": "no/module", "path": ("code",)}, {"path": ()}, {"path": ("other",)},
        {"measured": {"Code": Path("x")}, "path": ("Code",)}, {"measured": {"config": Path("x")}, "path": ("config",)},
        {"libraries": {"code": Path("x")}, "path": ("code",)}, {"path": ("code",), "limits": {"FILES": 9}},
    ],
)  # fmt: skip
def test_a_launch_that_cannot_be_meant_is_refused(wrong: dict[str, Any], tmp_path: Path):
    with pytest.raises(InvalidConfig):
        Launch(**({"module": "probe", "measured": {"code": tmp_path}} | wrong))


def test_the_world_is_found_by_name(world: ProcessWorld):
    assert worlds.get("process") is ProcessWorld
    known: World = world  # it keeps the protocol
    assert known.measure() is world.measure()
