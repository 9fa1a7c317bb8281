"""The TPM of a vm world before its guest has it: which keys it holds, asked while nobody but the launcher reaches it.

A quote is worth as much as the knowledge of the key that signs it. Here the launcher made the TPM, so it asks itself;
whoever is elsewhere has the key enrolled (:mod:`holdfast.shielding.attestation.enrolment`).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import Unavailable
from holdfast.shielding.attestation.tpm_structures import read_key
from holdfast.shielding.worlds import relay
from holdfast.shielding.worlds.software_tpm import SoftwareTpm
from holdfast.shielding.worlds.vm_tpm import Tpm

_BANKS = "sha256:all+sha1:none+sha384:none+sha512:none"  # firmware hashes what it starts once for each bank


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What is known of a TPM.

    Attributes:
        key_name: of the key that signs quotes.
        storage_key: TPM2B_PUBLIC of the key that secrets are wrapped for.
        endorsement_key: TPM2B_PUBLIC of the key that a maker would certify.
    """

    key_name: str
    storage_key: bytes
    endorsement_key: bytes


def enrol(state: Path) -> Enrolled:
    """Make the keys of the TPM in ``state``, or find them, and leave it to be started by firmware.

    Raises:
        MissingDevice, Unavailable, StorageError: as :class:`SoftwareTpm` does.
    """
    tpm = SoftwareTpm(state)
    try:
        key = tpm.attestation_key()
        storage = Tpm(lambda command: _exchange(tpm.socket, command)).storage_key()
        endorsement = tpm.endorsement_key()
        tpm.call("tpm2_pcrallocate", _BANKS)  # from the next start on
        tpm.call("tpm2_shutdown", "-c")
    finally:
        tpm.close()
    return Enrolled(read_key(key).name, storage, endorsement)


def _exchange(path: Path, command: bytes) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(command)
            return relay.message(connection.makefile("rb"))
    except OSError as error:
        raise Unavailable(f"the software TPM is gone: {error}") from error
