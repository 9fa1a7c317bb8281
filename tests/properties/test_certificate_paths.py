"""Random chains with random faults: what is accepted here, OpenSSL's own path validation accepts too."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from holdfast.errors import SignerUntrusted
from holdfast.signing.x509 import CODE_SIGNING, PathRules, find_path
from tests.authority import DAY, NOW, Holder, authority, signer, usage

CHAINS = 120


def draw_authority(draw: random.Random, subject: str, by: Holder | None) -> Holder:
    """An authority that is right in most draws, and else wrong in one way or several."""
    values: list[tuple[x509.ExtensionType, bool]] = []
    if draw.random() > 0.08:
        length = draw.choice([None, None, None, 0, 1, 2])
        values.append((x509.BasicConstraints(ca := draw.random() > 0.08, length if ca else None), True))
    if draw.random() > 0.1:
        bits = ("crl_sign", "digital_signature") if draw.random() < 0.1 else ("key_cert_sign", "crl_sign")
        values.append((usage(*bits), True))
    if draw.random() < 0.05:
        values.append((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.9"), b"\x05\x00"), True))
    forged = by and draw.random() < 0.06
    options: dict[str, Any] = {"extensions": tuple(values), **draw_validity(draw)}
    if forged:
        return authority(subject, Holder(by.certificate, authority("forger").key), **options)
    return authority(subject, by, **options)


def draw_validity(draw: random.Random) -> dict[str, Any]:
    faulty = draw.random()
    if faulty < 0.04:
        return {"start": NOW - 9 * DAY, "end": NOW - DAY}
    return {"start": NOW + DAY, "end": NOW + 9 * DAY} if faulty < 0.08 else {}


def draw_chain(draw: random.Random) -> list[Holder]:
    """A root, none to three authorities below it, and a leaf; root first."""
    chain = [draw_authority(draw, "root", None)]
    for depth in range(draw.randrange(4)):
        chain.append(draw_authority(draw, f"between {depth}", chain[-1]))
    return [*chain, signer(chain[-1], **draw_validity(draw))]


def accepted_here(chain: list[Holder]) -> bool:
    root, *between, leaf = (item.certificate for item in chain)
    try:
        find_path(leaf, tuple(between), PathRules(roots=(root,), time=NOW, purpose=CODE_SIGNING))
    except SignerUntrusted:
        return False
    return True


def accepted_by_openssl(chain: list[Holder], folder: Path) -> bool:
    root, *between, leaf = chain
    (folder / "root.pem").write_bytes(root.pem)
    (folder / "between.pem").write_bytes(b"".join(item.pem for item in between) or root.pem)
    (folder / "leaf.pem").write_bytes(leaf.pem)
    words = ["-attime", str(int(NOW.timestamp())), "-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem"]
    done = subprocess.run(["openssl", "verify", *words], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_accepted_here_that_openssl_refuses(tmp_path: Path, seed: int):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to compare with")
    draw = random.Random(seed)
    verdicts = []
    for _ in range(CHAINS // 3):
        chain = draw_chain(draw)
        verdicts.append((accepted_here(chain), accepted_by_openssl(chain, tmp_path)))
    assert (True, False) not in verdicts
    assert (True, True) in verdicts
    assert (False, False) in verdicts
