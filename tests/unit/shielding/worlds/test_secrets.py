"""Secrets that a world was given: found by name, read in place, and gone when they are wiped."""

from __future__ import annotations

import mmap
import os

import pytest

from holdfast.errors import MissingDevice, RecordMissing
from holdfast.shielding.worlds import provisioned
from holdfast.shielding.worlds.secrets import VARIABLE


def test_a_wiped_secret_is_gone_for_everybody_who_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = os.memfd_create("secret")
    os.write(handle, b"the key and more")
    monkeypatch.setenv(VARIABLE, f"other:{handle}:3,store_key:{handle}:7")
    secret = provisioned("store_key")
    view, elsewhere = secret.view(), mmap.mmap(handle, 16)  # another process to which the area was handed
    assert bytes(view) == b"the key"
    secret.wipe()
    assert bytes(view) == bytes(secret.view()) == bytes(7)
    assert elsewhere[:] == bytes(7) + b" and more"
    os.close(handle)


def test_a_secret_that_was_not_given_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "store_key:nothing:7")
    for name in ("other", "store_key"):
        with pytest.raises(RecordMissing, match=f"no secret called '{name}'"):
            provisioned(name)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(MissingDevice, match="runs in no world"):
        provisioned("store_key")
