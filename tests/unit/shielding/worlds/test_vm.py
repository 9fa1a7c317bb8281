"""The vm world, booted for real: what its quotes prove, who gets its secrets, what the module in it is and may do.

Booting takes most of a minute, so what boots is marked slow. It needs QEMU, OVMF, swtpm, tpm2-tools, and a kernel
that is installed or that ``HOLDFAST_VM_KERNEL`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cryptography
import pytest

import holdfast
from holdfast.errors import InvalidConfig, MissingDevice, PolicyError, Unavailable
from holdfast.shielding.attestation import Evidence, Policy, bound, verify
from holdfast.shielding.attestation.ima_log import require_known
from holdfast.shielding.attestation.tls import connect
from holdfast.shielding.worlds import Launch, VmWorld, World, vm_image, worlds
from holdfast.shielding.worlds.seccomp import require_architecture
from holdfast.shielding.worlds.software_tpm import require_tools as require_tpm
from holdfast.shielding.worlds.streams import as_socket
from holdfast.shielding.worlds.vm import USER
from holdfast.shielding.worlds.vm_kernel import find_kernel
from holdfast.shielding.worlds.vm_machine import require_tools

NONCE = bytes(range(32))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = b"a key of thirty-two bytes, k=32." * 20
ASK = """
import os, socket, sys
stream = socket.socket(fileno=int(os.environ["HOLDFAST_QUOTES"]))
for nonce in (bytes(range(32)), b"short"):
    stream.sendall(b"".join(len(part).to_bytes(2, "big") + part for part in (nonce, b"session")))
    length = int.from_bytes(stream.recv(4), "big")
    answer = b""
    while len(answer) < length:
        answer += stream.recv(length - len(answer))
    print(answer.decode())
sys.exit(7)
"""


@pytest.fixture(scope="session")
def kernel() -> Path:
    """A kernel to boot; skips with the reason where there can be no vm world."""
    named = os.environ.get("HOLDFAST_VM_KERNEL")
    try:
        require_architecture()
        require_tpm()
        require_tools(None)
        return find_kernel(Path(named) if named else None)
    except MissingDevice as error:
        pytest.skip(f"{error}; {error.hint}; HOLDFAST_VM_KERNEL names a kernel for this test")


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vm") / "tpm"


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vm") / "sealed"


@pytest.fixture(scope="session")
def launch(code: Path) -> Launch:
    (code / "ask.py").write_text(ASK)
    return Launch(module="probe", arguments=("given",), measured={"code": code}, path=("code",))


@pytest.fixture(scope="session")
def vm(kernel: Path, launch: Launch, state: Path) -> Iterator[VmWorld]:
    """One booted world, closed when its tests are over, so that only one machine runs at a time."""
    world = VmWorld(launch, kernel=kernel, state=state)
    try:
        world.start()
        yield world
    finally:
        world.close()


def policy(world: VmWorld) -> Policy:
    return Policy(kind="tpm2", measurements=world.measure().demands(), keys=(world.key_name,))


@pytest.mark.slow
def test_a_boot_is_attested_and_gets_secrets_and_runs_and_seals(vm: VmWorld, sealed: Path):
    """The whole way, in its order, in one boot; the next tests look at parts of it."""
    claims = verify(vm.quote(NONCE), policy(vm), nonce=bound(NONCE), at=NOW)
    assert {"boot.kernel", "boot.initrd", "boot.command-line", "boot.firmware.1", "event.code"} <= set(
        vm.measure().demands()
    )
    assert claims.measurements["pcr.12"] == vm.measure().register().hex()
    vm.provision({"key": KEY, "empty": b""})
    process = vm.run()
    assert process.stdout is not None
    report = json.loads(process.stdout.readline())
    assert report["secrets"] == {"key": hashlib.sha256(KEY).hexdigest(), "empty": hashlib.sha256(b"").hexdigest()}
    assert report["user"] == report["group"] == [USER] * 3
    assert (report["capabilities"], report["no_new_privs"], report["dumpable"]) == ("0" * 16, "1", 0)
    assert report["arguments"] == ["given"]
    allowed = {name for name, result in report["attempts"].items() if result == "allowed"}
    assert allowed == {"write to scratch", "read its own code", "local socket", "fork"}
    with pytest.raises(PolicyError, match="runs already"):
        vm.run()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    sealed.write_bytes(vm.seal("store", b"kept"))
    assert vm.unseal("store", sealed.read_bytes()) == b"kept"


@pytest.mark.slow
def test_what_ran_is_in_the_kernel_s_log_and_is_known(vm: VmWorld):
    process = vm.run()
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    found = vm.attest().measurements
    assert found["ima./world/code/probe.py"] == vm.measure().files["/world/code/probe.py"]
    assert "ima./inside.py" in found


@pytest.mark.slow
def test_nothing_that_a_module_started_outlives_it(vm: VmWorld):
    """A module's child holds its output open: without an end to everything, the next run would wait for it."""
    process = vm.run()
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.stdin.write(b"fork\n")
    process.stdin.flush()
    forked = int(process.stdout.readline())
    process.kill()
    process.communicate()
    process = vm.run()
    assert process.stdout is not None
    there = json.loads(process.stdout.readline())["processes"]
    process.kill()
    process.communicate()
    assert forked > 0
    assert forked not in there


@pytest.mark.slow
def test_another_nonce_or_session_is_refused(vm: VmWorld):
    evidence = vm.quote(NONCE, b"session")
    verify(evidence, policy(vm), nonce=bound(NONCE, b"session"), at=NOW)
    for expected in (bound(NONCE), bound(NONCE, b"other"), bound(bytes(32), b"session")):
        with pytest.raises(PolicyError, match="another nonce"):
            verify(evidence, policy(vm), nonce=expected, at=NOW)
    with pytest.raises(InvalidConfig, match="at least 16"):
        vm.quote(bytes(15))


@pytest.mark.slow
def test_secrets_are_few_small_and_named(vm: VmWorld):
    for wrong in ({"a key": b"x"}, {"k": bytes(4097)}):
        with pytest.raises(InvalidConfig):
            vm.provision(wrong)
    known: World = vm
    assert worlds.get("vm") is VmWorld
    assert known.measure() is vm.measure()


@pytest.mark.slow
def test_the_next_boot_has_the_same_key_and_opens_what_was_sealed(
    vm: VmWorld, kernel: Path, launch: Launch, state: Path, sealed: Path
):
    key = vm.key_name
    vm.close()
    world = VmWorld(launch, kernel=kernel, state=state)
    try:
        world.start()
        assert world.key_name == key
        assert world.unseal("store", sealed.read_bytes()) == b"kept"
    finally:
        world.close()


@pytest.mark.slow
def test_an_image_that_was_exchanged_boots_and_gets_neither_secrets_nor_what_was_sealed(
    vm: VmWorld, kernel: Path, code: Path, state: Path, sealed: Path, tmp_path: Path
):
    """Somebody slips another module into the image after it was measured; a second archive overlays the first."""
    vm.close()
    world = VmWorld(Launch(module="ask", measured={"code": code}, path=("code",)), kernel=kernel, state=state)
    try:
        world.measure()
        overlay = tmp_path / "overlay"
        (overlay / "world/code").mkdir(parents=True)
        (overlay / "world/code/ask.py").write_text(f"print('exchanged'){ASK}")
        vm_image.pack(overlay, tmp_path / "archive")
        initrd = world._work / "initrd"
        initrd.write_bytes(
            initrd.read_bytes() + bytes(-initrd.stat().st_size % 4) + (tmp_path / "archive").read_bytes()
        )
        world.start()
        for attempt in (world.attest, lambda: world.provision({"key": KEY})):
            with pytest.raises(PolicyError, match=r"measurement boot\.(initrd|kernel)"):
                attempt()
        with pytest.raises(PolicyError, match="another measurement"):
            world.unseal("store", sealed.read_bytes())
        process = world.run()
        out, err = process.communicate(timeout=60)
        exchanged, answer, refused = out.split(b"\n")[:3]
        assert (process.returncode, exchanged, refused, err) == (7, b"exchanged", b"", b"")
        evidence = Evidence.from_bytes(answer)
        found = Policy(kind="tpm2", any_code=True, keys=(world.key_name,))
        claims = verify(evidence, found, nonce=bound(NONCE, b"session"), at=NOW)
        assert claims.measurements["event.code"] == dict(world.measure().events)["code"].hex()  # what the image says
        with pytest.raises(PolicyError, match=r"/world/code/ask\.py ran or was read there"):
            require_known(claims, world.measure().files)
    finally:
        world.close()


ECHO = """
from holdfast.shielding.attestation.tls import accept
from holdfast.shielding.worlds.quoting import own_quote
from holdfast.shielding.worlds.streams import as_socket

with as_socket(0, 1) as stream:
    channel = accept(stream, own_quote, timeout=300)
    channel.send(channel.receive()[::-1])
    channel.close()
"""


@pytest.mark.slow
def test_an_attested_session_ends_in_the_guest(vm: VmWorld, kernel: Path, tmp_path: Path):
    """What goes over it is nobody's on the host: it comes from code whose boot the client has verified."""
    vm.close()
    place, packages = tmp_path / "code", tmp_path / "packages"
    shutil.copytree(Path(holdfast.__file__).parent, place / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "echo.py").write_text(ECHO)
    site = Path(cryptography.__file__).parents[1]
    packages.mkdir()
    for name in ("cryptography", "OpenSSL", "_cffi_backend*", "typing_extensions.py"):
        for path in site.glob(name):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, packages / path.name)
    launch = Launch(module="echo", measured={"code": place, "packages": packages}, path=("code", "packages"))
    world = VmWorld(launch, kernel=kernel)
    try:
        world.start()
        process = world.run()
        assert process.stdout is not None
        assert process.stdin is not None
        with as_socket(process.stdout.fileno(), process.stdin.fileno()) as stream:
            channel, claims = connect(stream, policy(world), at=NOW, timeout=300)
            channel.send(b"abc")
            assert channel.receive() == b"cba"
            channel.close()
        assert process.wait(60) == 0
        require_known(claims, world.measure().files)
        assert "ima./world/packages/cryptography/__init__.py" in claims.measurements
    finally:
        world.close()


@pytest.mark.slow
def test_a_guest_that_is_not_up_in_time_is_an_error_that_says_so(kernel: Path, launch: Launch, vm: VmWorld):
    vm.close()
    world = VmWorld(launch, kernel=kernel, start_timeout=2)
    try:
        with pytest.raises(Unavailable, match="did not answer within 2 s"):
            world.start()
    finally:
        world.close()


def test_a_world_that_was_not_started_gives_nothing_and_runs_nothing(kernel: Path, launch: Launch):
    world = VmWorld(launch, kernel=kernel)
    for attempt in (
        lambda: world.quote(NONCE), lambda: world.provision({"key": KEY}), world.run, world.attest,
        lambda: world.seal("store", b"x"), lambda: world.unseal("store", b"x"), lambda: world.key_name,
    ):  # fmt: skip
        with pytest.raises(PolicyError, match="was not measured and started"):
            attempt()
    world.close()


@pytest.mark.parametrize("missing", ["qemu-system-x86_64", "swtpm", "tpm2_quote"])
def test_without_its_tools_there_is_no_lesser_world(launch: Launch, monkeypatch: pytest.MonkeyPatch, missing: str):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(MissingDevice, match=f"no {missing} here") as caught:
        VmWorld(launch, kernel=Path(__file__))
    assert "install" in caught.value.hint


def test_a_folder_is_not_shared_and_files_fit_into_memory(kernel: Path, code: Path, tmp_path: Path):
    with pytest.raises(InvalidConfig, match="shares no folder"):
        VmWorld(Launch(module="probe", measured={"code": code}, path=("code",), shared=tmp_path), kernel=kernel)
    large = tmp_path / "large"
    large.mkdir()
    (large / "file").touch()
    os.truncate(large / "file", 200 << 20)
    world = VmWorld(Launch(module="probe", measured={"code": large}, path=("code",)), kernel=kernel, memory=256)
    try:
        with pytest.raises(InvalidConfig, match="bytes of memory") as caught:
            world.measure()
        assert int(caught.value.hint.removeprefix("memory=")) > 500
    finally:
        world.close()
