"""Times that count are proven: by timestamps, for the age of a signature, a key's time and a retired key."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.judged import DAY, Scene, scene
from tests.timestamping import Tsa, open_authority

from holdfast.policy import State
from holdfast.signing.envelope import read_envelope
from holdfast.signing.revocation import Revocation
from holdfast.signing.times import now
from holdfast.signing.timestamps import add_timestamp

HOUR = timedelta(hours=1)
TRUST = "timestamped:trust=(key:author.pub),tsa-roots=tsa.pem"
MODEL = f'[[model]]\ntrust = ["{TRUST}"]\n'
KEYS = '[keys]\nset = "keys.bundle.json"\nroot = ["root.pub"]\ntsa_roots = ["tsa.pem"]\n'
REVOKED = '[revocation]\nlist = "revoked.bundle.json"\nsigner = "security.pub"\n'


@pytest.fixture
def tsa(tmp_path: Path) -> Tsa:
    return open_authority(tmp_path / "tsa")


@pytest.fixture
def at(tmp_path: Path, tsa: Tsa) -> Scene:
    made = scene(tmp_path)
    made.key("root")
    (made.root / "tsa.pem").write_bytes(tsa.root.pem)
    path = made.model / "model.sig"
    value = read_envelope(path.read_bytes()).signatures[0].value
    path.write_bytes(add_timestamp(path.read_bytes(), tsa.stamp(value)))
    return made


def test_an_age_is_that_of_the_timestamp(at: Scene) -> None:
    state, told = at.verdict(MODEL + 'maximum_age = "1d"\n', "[[model]] *")
    assert state is State.MET, told
    assert "the oldest signature is of 20" in told
    state, told = at.verdict(MODEL + 'maximum_age = "1d"\n', "[[model]] *", at=now() + 2 * DAY)
    assert state is State.NOT_MET
    assert "too long ago" in told
    bare = '[[model]]\ntrust = ["author.pub"]\nmaximum_age = "1d"\n'  # a timestamp that nobody asked for proves nothing
    assert "nothing proves when" in at.verdict(bare, "[[model]] *")[1]


def test_a_key_counts_after_its_time_for_what_it_signed_within(at: Scene) -> None:
    at.key_set("author", start=-HOUR)
    later = {"at": now() + 11 * DAY}
    assert at.verdict(KEYS, "[keys]", **later)[0] is State.MET
    assert "may sign from" in at.verdict(KEYS.replace('tsa_roots = ["tsa.pem"]', ""), "[keys]", **later)[1]
    at.key_set("author", start=DAY)  # signed before its time
    assert "may sign from" in at.verdict(KEYS, "[keys]", at=now() + 2 * DAY)[1]


def test_a_retired_key_keeps_what_it_signed_before_and_a_stolen_one_nothing(at: Scene) -> None:
    author = at.key("author").public.fingerprint
    later = {"at": now() + 2 * DAY}
    at.revoke(Revocation("key", author, "retired", now() + DAY))
    assert at.verdict(MODEL + REVOKED, "[[model]] *", **later)[0] is State.MET
    bare = '[[model]]\ntrust = ["author.pub"]\n'
    assert "is revoked (retired)" in at.verdict(bare + REVOKED, "[[model]] *", **later)[1]
    at.revoke(Revocation("key", author, "compromise", now() + DAY))
    assert "is revoked (compromise)" in at.verdict(MODEL + REVOKED, "[[model]] *", **later)[1]
