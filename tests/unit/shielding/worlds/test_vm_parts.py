"""What a vm world is put together from: the image, digests computed beforehand, the carrying of streams, the kernel."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, MissingDevice, UnreadableArtifact
from holdfast.shielding.attestation import bound
from holdfast.shielding.attestation.tpm import event_value
from holdfast.shielding.worlds import Launch, vm_digests, vm_guest, vm_image, vm_kernel, vm_ports, vm_relay
from holdfast.shielding.worlds.streams import as_socket
from holdfast.shielding.worlds.vm_kernel import find_kernel
from holdfast.shielding.worlds.vm_machine import FIRMWARE, Machine, require_tools

NONCE = bytes(range(32))


# ----- the image


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name of a cpio archive of the form newc."""
    data, place, found = gzip.decompress(archive), 0, {}
    while True:
        fields = [int(data[place + 6 + 8 * index : place + 14 + 8 * index], 16) for index in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[place + 110 : place + 109 + length].decode()
        place = (place + 110 + length + 3) & ~3
        if name == "TRAILER!!!":
            assert place == len(data)
            return found
        assert [*fields[2:4], fields[5]] == [0, 0, 0]  # of root, without a time
        found[name] = (mode, data[place : place + size])
        place = (place + size + 3) & ~3


def test_the_same_files_give_the_same_archive(tmp_path: Path):
    digests = []
    for attempt in ("one", "two"):
        root = tmp_path / attempt
        (root / "etc").mkdir(parents=True)
        names = ("b", "a", "c") if attempt == "one" else ("c", "b", "a")
        for name in names:
            (root / "etc" / name).write_text(name * 5)
        (root / "etc/a").chmod(0o755)
        (root / "link").symlink_to("/etc/a")
        os.utime(root / "etc/b", (1, len(digests)))
        digests.append(vm_image.pack(root, tmp_path / f"{attempt}.gz"))
        assert not root.exists()
    data = (tmp_path / "one.gz").read_bytes()
    assert digests[0] == digests[1] == hashlib.sha256(data).digest()
    found = unpacked(data)
    assert found["etc/a"] == (0o100755, b"aaaaa")
    assert found["etc/b"] == (0o100644, b"bbbbb")
    assert found["link"] == (0o120777, b"/etc/a")
    assert found["etc"][0] == 0o040755
    assert list(found) == ["etc", "etc/a", "etc/b", "etc/c", "link"]


def test_the_image_holds_what_was_measured_and_the_guest_s_first_code(tmp_path: Path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "hello.py").write_text("print('hello')")
    measured = vm_image.build(
        Launch(module="hello", measured={"code": code}, path=("code",)), tmp_path / "i", user=61_502
    )
    names = [name for name, _ in measured.events]
    assert names == ["inside", "guest", "interpreter", "standard-library", "system", "code", "config"]
    files = vm_image.files(tmp_path / "i")
    assert files["/world/code/hello.py"] == hashlib.sha256(b"print('hello')").hexdigest()
    config = json.loads((tmp_path / "i/config.json").read_bytes())
    assert [event["name"] for event in config["events"]] == names
    assert config["launch"]["module"] == "hello"
    assert not [name for name in files if "/site-packages/" in name or "__pycache__" in name]


def test_the_guest_s_code_needs_the_standard_library_only(tmp_path: Path):
    """In the guest there is nothing else: no Holdfast but these files, no packages."""
    place = tmp_path / "holdfast/shielding/worlds"
    place.mkdir(parents=True)
    for name in ("vm_guest.py", "vm_ports.py", "vm_tpm.py"):
        (place / name).write_bytes((Path(vm_guest.__file__).with_name(name)).read_bytes())
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import holdfast.shielding.worlds.vm_guest as g; print(g.main)"
    )
    done = subprocess.run([sys.executable, "-ISB", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_guest_computes_is_what_the_verifier_computes():
    for nonce, binding in ((NONCE, b""), (NONCE, b"session"), (NONCE[:16], bytes(100))):
        assert vm_guest.bound(nonce, binding) == bound(nonce, binding)
    assert vm_guest.event_value("code", b"\x01" * 32) == event_value("code", b"\x01" * 32)
    with pytest.raises(ValueError, match="at least 16"):
        vm_guest.bound(bytes(15), b"")


# ----- digests


def kernel(size: int = 0x2000, signatures: int = 0) -> bytes:
    """A file with the headers of a Linux kernel that UEFI starts."""
    data = bytearray(hashlib.shake_256(b"kernel").digest(size))
    data[:2], data[0x3C:0x40] = b"MZ", (0x40).to_bytes(4, "little")
    data[0x40:0x44], data[0x58:0x5A] = b"PE\0\0", b"\x0b\x02"
    data[0x58 + 144 : 0x58 + 152] = (size - signatures).to_bytes(4, "little") + signatures.to_bytes(4, "little")
    data[0x202:0x208] = b"HdrS" + (0x20F).to_bytes(2, "little")
    data[0x236] |= 2
    return bytes(data)


def digest(path: Path, data: bytes) -> bytes:
    return vm_digests.program_digest(data, path)


def test_a_kernel_s_digest_leaves_out_checksum_and_signatures_and_nothing_else(tmp_path: Path):
    data = kernel(signatures=0x100)
    whole = digest(tmp_path, data)
    for place in (0x58 + 64, 0x58 + 67, 0x58 + 144, 0x2000 - 1, 0x2000 - 0x100):
        if place != 0x58 + 144:
            changed = bytearray(data)
            changed[place] ^= 1
            assert digest(tmp_path, bytes(changed)) == whole
    for place in (0x58 + 63, 0x58 + 68, 0x58 + 143, 0x58 + 152, 0x2000 - 0x101):
        changed = bytearray(data)
        changed[place] ^= 1
        assert digest(tmp_path, bytes(changed)) != whole


def test_what_qemu_fills_in_depends_on_image_and_memory(tmp_path: Path):
    (tmp_path / "vmlinuz").write_bytes(kernel())
    filled, plain = vm_digests.kernel_digests(tmp_path / "vmlinuz", initrd_size=1000, memory=1024)
    assert plain == digest(tmp_path, kernel()).hex() != filled
    others = [
        vm_digests.kernel_digests(tmp_path / "vmlinuz", initrd_size=size, memory=memory)[0]
        for size, memory in ((1001, 1024), (1000, 512), (1000, 4096))
    ]
    assert len({filled, *others}) == 4


@pytest.mark.parametrize(
    "wrong", [b"", b"MZ", kernel()[:0x80], kernel().replace(b"HdrS", b"none"), b"\x7fELF" + bytes(999)]
)
def test_what_is_no_kernel_is_refused(wrong: bytes, tmp_path: Path):
    (tmp_path / "vmlinuz").write_bytes(wrong)
    with pytest.raises(UnreadableArtifact):
        vm_digests.kernel_digests(tmp_path / "vmlinuz", initrd_size=1, memory=1024)


def test_a_command_line_s_digest_is_of_utf_16_with_a_zero():
    assert vm_digests.command_line_digest("a b") == hashlib.sha256(b"a\0 \0b\0\0\0").hexdigest()


def volume(content: bytes) -> bytes:
    data = bytes(32) + (44 + len(content)).to_bytes(8, "little") + b"_FVH" + content
    return (4 + len(data)).to_bytes(3, "little") + b"\x17" + data


def test_the_firmware_s_digest_is_of_the_last_volume(tmp_path: Path):
    first, last = volume(b"early" * 7), volume(b"late" * 8)
    inner = first + bytes(-len(first) % 4) + last
    guid = bytes.fromhex("98584eee143959429d6edc7bd79403cf")
    packed = lzma.compress(inner, format=lzma.FORMAT_ALONE)
    (tmp_path / "code.fd").write_bytes(bytes(64) + guid + (24).to_bytes(2, "little") + bytes(2) + packed)
    assert vm_digests.firmware_volume_digest(tmp_path / "code.fd") == hashlib.sha256(last[4:]).hexdigest()
    for wrong in (b"", bytes(200), bytes(64) + guid + b"\x18\0\0\0" + b"\xff" * 99):
        (tmp_path / "code.fd").write_bytes(wrong)
        with pytest.raises(UnreadableArtifact, match="no OVMF"):
            vm_digests.firmware_volume_digest(tmp_path / "code.fd")


# ----- streams


def relayed(program: str, given: bytes) -> tuple[int, bytes, bytes]:
    """Run ``program`` as the guest runs a module, with the launcher's relay at the other end."""
    guest, host = socket.socketpair()
    streams = vm_ports.Streams(guest.fileno())
    process = subprocess.Popen(
        [sys.executable, "-ISc", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    relay = subprocess.Popen(
        [sys.executable, "-IS", str(vm_relay.__file__), str(host.fileno())], pass_fds=(host.fileno(),),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    host.close()
    streams.attach(process)
    out, err = relay.communicate(given, timeout=30)
    streams.end()
    guest.close()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return relay.returncode, out, err


def test_streams_and_exit_code_are_carried_whole():
    given = bytes(range(256)) * 1000
    program = (
        "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1]); sys.stderr.write('e'); sys.exit(3)"
    )
    assert relayed(program, given) == (3, given[::-1], b"e")


def test_a_module_that_a_signal_ends_is_seen_to():
    assert relayed("import os; os.kill(os.getpid(), 9)", b"")[0] == 128 + 9


def test_whoever_hangs_up_ends_the_module():
    guest, host = socket.socketpair()
    streams = vm_ports.Streams(guest.fileno())
    with subprocess.Popen(
        [sys.executable, "-ISc", "import time; print(1, flush=True); time.sleep(99)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        streams.attach(process)
        assert host.recv(7) == b"\x01\0\0\0\x021\n"
        host.close()
        assert process.wait(10) == -9
        streams.end()
    guest.close()


def test_two_streams_are_one_socket():
    with subprocess.Popen([sys.executable, "-ISc", COUNTED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given = bytes(range(256)) * 1000
        with as_socket(process.stdout.fileno(), process.stdin.fileno()) as stream:
            stream.sendall(len(given).to_bytes(4, "big") + given)
            received = b""
            while piece := stream.recv(1 << 16):
                received += piece
        assert received == given[::-1]


COUNTED = (
    "import sys; i = sys.stdin.buffer; n = int.from_bytes(i.read(4), 'big'); sys.stdout.buffer.write(i.read(n)[::-1])"
)


def test_a_message_that_is_too_long_is_not_taken():
    one, other = socket.socketpair()
    other.sendall((vm_ports.LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(EOFError, match="too long"):
        vm_ports.message(one.fileno())
    threading.Thread(target=other.close).start()
    with pytest.raises(EOFError, match="gone"):
        vm_ports.taken(one.fileno(), 1)
    one.close()


# ----- what is there


def test_the_newest_kernel_that_can_hold_a_world_is_found(tmp_path: Path):
    every = "".join(f"CONFIG_{name}=y\n" for name in vm_kernel.NEEDED)
    for version, config in (
        ("6.1.0-1", every), ("6.12.9", every), ("6.12.10", every), ("6.13.0", every.replace("IMA=y", "IMA=m")),
    ):  # fmt: skip
        (tmp_path / f"vmlinuz-{version}").write_bytes(b"kernel")
        (tmp_path / f"config-{version}").write_text(config)
    assert find_kernel(None, (tmp_path,)).name == "vmlinuz-6.12.10"
    assert find_kernel(tmp_path / "vmlinuz-6.12.9") == tmp_path / "vmlinuz-6.12.9"
    with pytest.raises(MissingDevice, match=r"without CONFIG_IMA=y"):
        find_kernel(tmp_path / "vmlinuz-6.13.0")
    with pytest.raises(MissingDevice, match=r"older than 6\.7"):
        find_kernel(tmp_path / "vmlinuz-6.1.0-1")
    with pytest.raises(MissingDevice, match="no kernel at"):
        find_kernel(tmp_path / "absent")
    with pytest.raises(MissingDevice, match="no kernel in"):
        find_kernel(None, (tmp_path / "absent",))


@pytest.mark.parametrize("tool", ["qemu-system-x86_64", "swtpm"])
def test_a_tool_that_is_not_there_is_named(tool: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(MissingDevice, match=f"no {tool} here"):
        require_tools(None)


def test_firmware_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(MissingDevice, match="no UEFI firmware") as caught:
        require_tools(tmp_path / "OVMF_CODE.fd")
    assert "ovmf" in caught.value.hint
    (tmp_path / "OVMF_CODE.fd").write_bytes(b"")
    with pytest.raises(MissingDevice, match="no empty variables"):
        require_tools(tmp_path / "OVMF_CODE.fd")
    (tmp_path / "OVMF_VARS.fd").write_bytes(b"")
    assert require_tools(tmp_path / "OVMF_CODE.fd") == (tmp_path / "OVMF_CODE.fd", tmp_path / "OVMF_VARS.fd")


@pytest.mark.parametrize("wrong", [{"memory": 100}, {"start_timeout": 0}, {"timeout": -1}])
def test_a_machine_that_could_not_start_is_refused(wrong: dict[str, float]):
    with pytest.raises(InvalidConfig, match="256 MiB"):
        Machine(kernel=Path("k"), firmware=FIRMWARE[0], variables=FIRMWARE[0], **wrong)  # type: ignore[arg-type]
