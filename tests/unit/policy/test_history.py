"""Policies on a model's signed history: how far it goes back, which data it names, and what of it is revoked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.signing.lineage.story import OPTIMISER, PROVIDER, TRAINER, Story, data, story

from holdfast.policy import State, Verdict, judge
from holdfast.signing import generate_key, sign
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations
from holdfast.signing.times import now

AUTHOR, SECURITY = generate_key("ed25519"), generate_key("ed25519")
KEYS = {"author": AUTHOR, "security": SECURITY, "provider": PROVIDER, "trainer": TRAINER, "optimiser": OPTIMISER}
MODEL = '[[model]]\ntrust = ["author.pub"]\n'
LINEAGE = '[lineage]\ntrust = ["trainer.pub", "optimiser.pub"]\norigins = ["provider.pub"]\n'


@pytest.fixture
def made(tmp_path: Path) -> Story:
    for name, key in KEYS.items():
        (tmp_path / f"{name}.pub").write_bytes(key.public.pem)
    made = story(tmp_path)
    for path in made.tough.glob("lineage/*.json"):
        if not path.name.endswith(".bundle.json"):  # unsigned drafts of steps, which no signature covers
            path.unlink()
    sign(made.tough, key=AUTHOR)
    return made


def verdict(made: Story, rules: str, demand: str, *, evidence: bool = True) -> Verdict:
    policy = made.tough.parents[1] / "deploy.toml"
    policy.write_text(MODEL + rules)
    judgement = judge(made.tough, policy, evidence=(made.origins,) if evidence else ())
    return next(item for item in judgement.verdicts if item.demand == demand)


def test_a_whole_history_is_met(made: Story) -> None:
    found = verdict(made, LINEAGE, "[lineage]")
    assert found.state is State.MET, found.explanation
    assert found.explanation == "5 things, 2 to start from"


def test_a_gap_is_not_met_unless_only_told(made: Story) -> None:
    found = verdict(made, LINEAGE, "[lineage]", evidence=False)
    assert found.state is State.NOT_MET
    assert "the lineage has a gap" in found.explanation
    told = verdict(made, LINEAGE + "complete = false\n", "[lineage]", evidence=False)
    assert told.state is State.MET
    assert "gaps, the first at" in told.explanation
    listed = verdict(made, LINEAGE + f'leaves = ["{data().digest}"]\n', "[lineage]", evidence=False)
    assert listed.state is State.MET


def test_steps_of_strangers_do_not_count(made: Story) -> None:
    assert verdict(made, LINEAGE.replace('"trainer.pub", ', ""), "[lineage]").state is State.NOT_MET


def test_the_data_of_a_history_is_judged(made: Story) -> None:
    rules = LINEAGE + "[datasets]\n"
    assert (
        verdict(made, rules + f'require = ["{data().digest}"]\nallow = ["{data().digest}"]\n', "[datasets]").state
        is State.MET
    )
    assert "the denied" in verdict(made, rules + f'deny = ["{data().digest}"]\n', "[datasets]").explanation
    assert "not allowed" in verdict(made, rules + "allow = []\n", "[datasets]").explanation
    assert "does not name" in verdict(made, rules + f'require = ["{"0" * 64}"]\n', "[datasets]").explanation


def test_revoked_data_anywhere_in_a_history_is_refused(made: Story) -> None:
    entry = Revocation("dataset", data().digest, "poisoned", now() - timedelta(days=1))
    listing = RevocationList.first("house", entry, lifetime=timedelta(days=1))
    root = made.tough.parents[1]
    (root / "revoked.bundle.json").write_bytes(sign_revocations(listing, SECURITY))
    rules = LINEAGE + '[revocation]\nlist = "revoked.bundle.json"\nsigner = "security.pub"\n'
    found = verdict(made, rules, "[lineage]")
    assert found.state is State.NOT_MET
    assert "is revoked" in found.explanation
