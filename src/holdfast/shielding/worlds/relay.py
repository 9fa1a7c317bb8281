"""Carries TPM commands between a tool of tpm2-tools and a TPM on an AF_UNIX socket. Run by path, standard library only.

The tools reach a software TPM over TCP, where every process of the machine could command it. Through this relay the
TPM listens on a socket that only its owner may open. ``TPM2TOOLS_TCTI="cmd:python -IS relay.py SOCKET"``.
"""

from __future__ import annotations

import socket
import sys
from typing import BinaryIO

_HEADER = 10  # tag u16, size u32, code u32, big-endian, of commands and of answers


def message(stream: BinaryIO) -> bytes:
    """Return the next command or answer, or nothing at the end."""
    head = stream.read(_HEADER)
    if len(head) < _HEADER:
        return b""
    return head + stream.read(int.from_bytes(head[2:6], "big") - _HEADER)


def main(path: str) -> None:
    """Relay until the tool closes its side."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answers = connection.makefile("rb")
        while command := message(sys.stdin.buffer):
            connection.sendall(command)
            sys.stdout.buffer.write(message(answers))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
