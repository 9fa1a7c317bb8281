"""The wire format: exact bytes, and refusal of everything else before it is allocated."""

from __future__ import annotations

import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
import torch

from holdfast.errors import IntegrityError, InvalidConfig, UnsupportedVersion, WorkerUnreachable
from holdfast.evidence import canonical
from holdfast.shielding.product import Geometry
from holdfast.shielding.transport import Connection, Frame, Kind
from holdfast.shielding.transport.wire import MAX_HEADER, VERSION, encode


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    here, there = socket.socketpair()
    yield Connection(here, timeout=0.5, peer="the worker"), there
    here.close()
    there.close()


def frame_bytes(
    header: bytes, body: bytes = b"", *, magic: bytes = b"HFWK", version: int = VERSION, kind: int = 5
) -> bytes:
    return struct.pack("<4sHHIQ", magic, version, kind, len(header), len(body)) + header + body


def test_exact_bytes() -> None:
    frame = Frame(Kind.RESULT, {"sequence": 7, "layer": "fc"}, torch.tensor([[1, -2]], dtype=torch.int32))
    text = b'{"dtype":"int32","layer":"fc","sequence":7,"shape":[1,2]}'
    prefix = b"HFWK\x02\x00\x05\x00" + bytes([len(text), 0, 0, 0]) + b"\x08" + b"\0" * 7
    assert b"".join(encode(frame)) == prefix + text + b"\x01\0\0\0\xfe\xff\xff\xff"


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 4), (16, 8, 9, 10)])
def test_round_trip(ends: tuple[Connection, socket.socket], shape: tuple[int, ...]) -> None:
    connection, there = ends
    body = torch.randint(-(2**31), 2**31, shape).to(torch.int32)
    sender = threading.Thread(
        target=Connection(there, timeout=5, peer="x").send, args=(Frame(Kind.RUN, {"layer": "é"}, body),)
    )
    sender.start()
    got = connection.receive()
    sender.join()
    assert (got.kind, got.header["layer"]) == (Kind.RUN, "é")
    assert got.body is not None
    assert torch.equal(got.body, body)


MALFORMED = {
    "garbage": b"\xff" * 64,
    "magic": frame_bytes(b"{}", magic=b"PKL\x80"),
    "kind": frame_bytes(b"{}", kind=99),
    "not-json": frame_bytes(b"\x80\x04K*."),
    "duplicate-key": frame_bytes(b'{"a":1,"a":2}'),
    "spaces": frame_bytes(b'{"a": 1}'),
    "array": frame_bytes(b"[]"),
    "infinite": frame_bytes(b'{"a":1e999}'),
    "body-without-shape": frame_bytes(b"{}", b"1234"),
    "shape-is-text": frame_bytes(b'{"shape":"ab"}', b"1234"),
    "shape-is-bool": frame_bytes(b'{"dtype":"int32","shape":[true]}', b"1234"),
    "negative": frame_bytes(b'{"dtype":"int32","shape":[-1,-1]}', b"1234"),
    "too-many-dimensions": frame_bytes(b'{"dtype":"int32","shape":[1,1,1,1,1,1,1,1,1]}', b"1234"),
    "short-body": frame_bytes(b'{"dtype":"int32","shape":[2]}', b"1234"),
    "huge-shape": frame_bytes(b'{"dtype":"int32","shape":[4294967296,4294967296]}', b"1234"),
    "header-length": struct.pack("<4sHHIQ", b"HFWK", VERSION, 5, MAX_HEADER + 1, 0),
    "body-length": struct.pack("<4sHHIQ", b"HFWK", VERSION, 5, 2, 2**62),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_are_refused(ends: tuple[Connection, socket.socket], name: str) -> None:
    connection, there = ends
    there.sendall(MALFORMED[name])
    with pytest.raises(IntegrityError, match="the worker"):
        connection.receive()


def test_an_announced_size_is_refused_before_it_is_allocated(ends: tuple[Connection, socket.socket]) -> None:
    connection, there = ends
    there.sendall(struct.pack("<4sHHIQ", b"HFWK", VERSION, 5, 2, 2**29))
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="536870912 bytes instead of 24"):
        connection.receive(shape=(2, 3))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_body_of_the_right_size_and_the_wrong_shape_is_refused(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, there = ends
    there.sendall(frame_bytes(b'{"dtype":"int32","shape":[3,2]}', b"\0" * 24))
    with pytest.raises(IntegrityError, match=r"as int32 of shape \(3, 2\)"):
        connection.receive(shape=(2, 3))


def test_another_protocol_version_is_named(ends: tuple[Connection, socket.socket]) -> None:
    connection, there = ends
    there.sendall(frame_bytes(b"{}", version=9))
    with pytest.raises(UnsupportedVersion, match="version 9 of the worker protocol, this session version 2"):
        connection.receive()


@pytest.mark.parametrize("count", [0, 5, 20, 30])
def test_a_connection_that_ends_in_mid_frame(ends: tuple[Connection, socket.socket], count: int) -> None:
    connection, there = ends
    there.sendall(frame_bytes(b'{"dtype":"int32","shape":[6]}', b"\0" * 24)[:count])
    there.close()
    with pytest.raises(WorkerUnreachable, match="is gone"):
        connection.receive()


def test_a_dripping_peer_cannot_stretch_the_time_out(ends: tuple[Connection, socket.socket]) -> None:
    connection, there = ends
    raw = frame_bytes(b'{"dtype":"int32","shape":[6]}', b"\0" * 24)

    def drip() -> None:
        for byte in raw:
            try:
                there.send(bytes([byte]))
            except OSError:
                return
            time.sleep(0.1)

    threading.Thread(target=drip, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(WorkerUnreachable, match=r"within 0\.5 seconds"):
        connection.receive()
    assert time.monotonic() - start < 1.5


def test_a_peer_that_does_not_read_cannot_block_the_sender(ends: tuple[Connection, socket.socket]) -> None:
    connection, _ = ends
    with pytest.raises(WorkerUnreachable, match="did not answer"):
        connection.send(Frame(Kind.RUN, {}, torch.zeros(2**22, dtype=torch.int32)))


IMPOSSIBLE: list[dict[str, object]] = [
    {"kind": "conv3d"},
    {"in_channels": 0},
    {"stride": [0, 1]},
    {"kernel": [3]},
    {"padding": [-1, 0, 0, 0]},
    {"out_channels": True},
    {"extra": 1},
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=repr)
def test_impossible_geometries_are_refused(change: dict[str, object]) -> None:
    good = Geometry(kind="conv2d", out_channels=2, in_channels=3, kernel=(3, 3))
    assert Geometry.from_json(good.to_json()) == good
    with pytest.raises(InvalidConfig):
        Geometry.from_json(good.to_json() | change)


@pytest.mark.parametrize("layer", ["features.0", "schicht-ä", "層", "\u20ac\U0001f600", 'q"\\\n\x07', ""])
def test_headers_are_the_canonical_form_whatever_the_layer_is_called(layer: str) -> None:
    header = {
        "sequence": 2**53 - 1,
        "layer": layer,
        "nonce": "00ff",
        "mask": -1,
        "geometry": {"kernel": [3, 3], "a": 1},
    }
    written = bytes(encode(Frame(Kind.RUN, header))[0])[20:]
    assert written == canonical.dumps(header)
