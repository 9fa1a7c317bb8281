"""Every table of a policy: when it is met, when not, and that each gets its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.judged import BUILDER, DATA, DAY, POISON, Scene, scene

from holdfast.errors import InvalidConfig, PolicyError
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.evidence.statement import Subject
from holdfast.policy import State, check, read_policy, sign_summary, verify_summary
from holdfast.signing import sign, sign_artifact, sign_statement
from holdfast.signing.lineage import origin
from holdfast.signing.manifests import write_manifest
from holdfast.signing.oms import Serialization
from holdfast.signing.revocation import Revocation
from holdfast.signing.times import now

MET, NOT_MET, NOT_ASKED = State.MET, State.NOT_MET, State.NOT_ASKED
AUTHOR = '[[model]]\ntrust = ["author.pub"]\n'
REVOKED = '[revocation]\nlist = "revoked.bundle.json"\nsigner = "security.pub"\n'
BUILT = f'[provenance]\ntrust = ["ci.pub"]\nslsa_level = 2\nbuilders = {{"{BUILDER}" = 2}}\n'


@pytest.fixture
def at(tmp_path: Path) -> Scene:
    made = scene(tmp_path)
    for name in ("second", "security", "ci", "root", "stranger"):
        made.key(name)
    return made


def test_every_table_gets_a_verdict_and_none_stops_the_others(at: Scene) -> None:
    judgement = at.judge(
        '[[model]]\ntrust = ["stranger.pub"]\n[files]\nforbid = ["pickle"]\n[[require]]\nkind = "sbom"\n'
    )
    states = {item.demand: item.state for item in judgement.verdicts}
    assert states == {
        "[passport]": NOT_ASKED, "[rollback]": NOT_ASKED, "[provenance]": NOT_ASKED, "[datasets]": NOT_ASKED,
        "[base]": NOT_ASKED, "[lineage]": NOT_ASKED, "[revocation]": NOT_ASKED, "[keys]": NOT_ASKED,
        "[files]": MET, "[[model]] *": NOT_MET, "[[require]] sbom": NOT_MET,
    }  # fmt: skip
    with pytest.raises(
        PolicyError, match=r"\[\[model\]\] \*: 0 of 1 trusted.*; \[\[require\]\] sbom: the policy requires"
    ):
        check(at.model, at.root / "deploy.toml")


def test_who_may_sign_which_model(at: Scene) -> None:
    qwen = '[[model]]\nmatch = "qwen-*"\ntrust = ["second.pub"]\n'
    rules = AUTHOR + qwen + '[[model]]\nmatch = "llama-*"\ntrust = ["key:author.pub"]\n'
    states = {item.demand: item.state for item in at.judge(rules).verdicts if "model" in item.demand}
    assert states == {"[[model]] *": MET, "[[model]] qwen-*": NOT_ASKED, "[[model]] llama-*": MET}
    lonely = '[[model]]\nmatch = "qwen-*"\ntrust = ["author.pub"]\n'
    assert at.verdict(lonely, "[[model]]") == (NOT_MET, "no table says who may sign 'llama-7b'")


def test_a_threshold_asks_for_several_signers(at: Scene) -> None:
    two = '[[model]]\ntrust = ["author.pub", "second.pub"]\n'
    assert at.verdict(two + "threshold = 1\n", "[[model]] *")[0] is MET
    assert "1 of 2 trusted signers" in at.verdict(two, "[[model]] *")[1]


def test_an_age_needs_a_proven_time(at: Scene) -> None:
    state, told = at.verdict(AUTHOR + 'maximum_age = "90d"\n', "[[model]] *")
    assert state is NOT_MET
    assert "nothing proves when" in told


def test_a_changed_model_is_not_the_signed_one(at: Scene) -> None:
    (at.model / "config.json").write_text("[]")
    assert "config.json changed" in at.verdict(AUTHOR, "[[model]] *")[1]


def test_files_that_the_signer_left_out_are_told(at: Scene) -> None:
    (at.model / "README.md").write_text("hello")
    sign_artifact(at.model, at.key("author"), how=Serialization(ignore=frozenset({"README.md"})))
    state, told = at.verdict(AUTHOR, "[[model]] *")
    assert state is MET
    assert told.endswith("; left unsigned: README.md")


def test_forbidden_files_are_found_signed_or_not(at: Scene) -> None:
    (at.model / "lineage").mkdir()
    (at.model / "lineage" / "x.bundle.json").write_bytes(b"\x80\x04.")
    state, told = at.verdict('[files]\nforbid = ["pickle", "config.*"]\n', "[files]")
    assert state is NOT_MET
    assert told == "config.json fits config.*; pickle: lineage/x.bundle.json begins with a pickle header"


def test_provenance_maps_builders_to_levels(at: Scene) -> None:
    assert "no trusted provenance" in at.verdict(AUTHOR + BUILT, "[provenance]")[1]
    at.provenance("ci")
    assert at.verdict(AUTHOR + BUILT, "[provenance]") == (MET, f"build.bundle.json: built by {BUILDER}, level 2")
    at.provenance("ci", builder="https://laptop.example", name="other")
    assert "of which the policy says nothing" in at.verdict(AUTHOR + BUILT, "[provenance]")[1]


def test_datasets_are_those_of_the_provenance(at: Scene) -> None:
    data = {"name": "corpus", "digest": {"blake3": DATA}, "annotations": {"role": "data"}}
    code = {"name": "code", "digest": {"gitCommit": "a" * 40}, "annotations": {"role": "code"}}
    at.provenance("ci", data, code)
    rules = AUTHOR + BUILT + "[datasets]\n"
    assert at.verdict(rules + f'require = ["{DATA}"]\nallow = ["{DATA}"]\n', "[datasets]")[0] is MET
    assert "does not name the required" in at.verdict(rules + f'require = ["{POISON}"]\n', "[datasets]")[1]
    assert "which is not allowed" in at.verdict(rules + "allow = []\n", "[datasets]")[1]
    assert "the denied" in at.verdict(rules + f'deny = ["{DATA}"]\n', "[datasets]")[1]
    at.revoke(Revocation("dataset", DATA, "poisoned", now() - DAY))
    assert "corpus (1) is revoked (poisoned)" in at.verdict(rules + REVOKED, "[datasets]")[1]


def test_data_can_be_asked_to_be_vouched_for(at: Scene) -> None:
    rules = AUTHOR + BUILT + '[datasets]\nsigner = ["provider.pub"]\n'
    at.provenance("ci", {"name": "corpus", "digest": {"blake3": DATA}, "annotations": {"role": "data"}})
    statement = origin(Subject("corpus", {"blake3": DATA}), kind="dataset")
    at.key("provider")
    assert "nobody trusted vouches for" in at.verdict(rules, "[datasets]")[1]
    at.bundle("origin", sign_statement(statement, at.key("stranger")))
    assert "nobody trusted vouches for" in at.verdict(rules, "[datasets]")[1]
    at.bundle("origin", sign_statement(statement, at.key("provider")))
    assert at.verdict(rules, "[datasets]")[0] is MET


def test_a_base_is_one_of_those_allowed(at: Scene) -> None:
    rules = AUTHOR + f'[base]\nallow = ["none", "{DATA}"]\n'
    assert "there is no model.sig2" in at.verdict(rules, "[base]")[1]
    write_manifest(at.model, at.key("author"), tensors=False)
    assert at.verdict(rules, "[base]") == (MET, "the manifest names no base")
    assert at.verdict(rules.replace('"none", ', ""), "[base]")[0] is NOT_MET
    write_manifest(at.model, at.key("author"), tensors=False, base=ModelManifest("base", ()))
    named = ModelManifest("base", ()).model_id
    assert at.verdict(rules, "[base]") == (NOT_MET, f"the manifest names the base {named[:16]}, which is not allowed")
    assert at.verdict(rules.replace(DATA, named), "[base]")[0] is MET
    at.revoke(Revocation("model", named, "poisoned", now() - DAY))
    assert "is revoked (poisoned)" in at.verdict(rules.replace(DATA, named) + REVOKED, "[revocation]")[1]


def test_an_input_of_no_known_role_counts_as_data(at: Scene) -> None:
    at.provenance("ci", {"uri": "https://mirror.example/part", "digest": {"sha256": POISON}})
    assert "https://mirror.example/part (1)" in at.verdict(AUTHOR + BUILT + "[datasets]\nallow = []\n", "[datasets]")[1]


def test_a_current_list_that_names_nothing_is_met(at: Scene) -> None:
    at.revoke()
    state, told = at.verdict(AUTHOR + REVOKED, "[revocation]")
    assert state is MET
    assert "none on the 3 things looked up" in told


def test_a_revoked_key_model_or_signature_is_refused(at: Scene) -> None:
    from hashlib import sha256

    from holdfast.policy.identity import identify

    author = at.key("author").public.fingerprint
    at.revoke(Revocation("key", author, "compromise", now() - DAY))
    assert f"the key {author[:16]} is revoked (compromise)" in at.verdict(AUTHOR + REVOKED, "[[model]] *")[1]
    at.revoke(Revocation("model", identify(at.model).model_id, "unsafe", now() - DAY))
    assert "is revoked (unsafe)" in at.verdict(AUTHOR + REVOKED, "[revocation]")[1]
    digest = sha256((at.model / "model.sig").read_bytes()).hexdigest()
    at.revoke(Revocation("bundle", digest, "withdrawn", now() - DAY))
    assert "the bundle" in at.verdict(AUTHOR + REVOKED, "[revocation]")[1]


def test_a_key_set_says_who_may_sign(at: Scene) -> None:
    rules = '[keys]\nset = "keys.bundle.json"\nroot = ["root.pub"]\n'
    at.key_set("author")
    state, told = at.verdict(rules, "[keys]")
    assert (state, told[:24]) == (MET, "key set 'house' version ")
    at.key_set("author", patterns=("qwen-*",))
    assert "may sign qwen-*, not 'llama-7b'" in at.verdict(rules, "[keys]")[1]
    at.key_set("second")
    assert at.verdict(rules, "[keys]")[0] is NOT_MET


def test_a_demand_without_its_evidence_is_not_met(at: Scene) -> None:
    assert "model.sig2" in at.verdict(AUTHOR + "[rollback]\nminimum_version = 0\n", "[rollback]")[1]
    assert at.verdict(AUTHOR + '[lineage]\ntrust = ["ci.pub"]\n', "[lineage]")[0] is NOT_MET


def test_a_summary_stands_for_a_judgement(at: Scene) -> None:
    at.provenance("ci")
    judgement = at.judge(AUTHOR + BUILT)
    data = sign_summary(judgement, at.key("verifier"))
    found = verify_summary(
        at.model, data, at.key("verifier").public, at.root / "deploy.toml", maximum_age=DAY, at=now() + DAY / 2
    )
    assert found.levels == ("SLSA_BUILD_LEVEL_2",)
    predicate = found.proof.statement.predicate
    assert [item["uri"] for item in predicate["inputAttestations"]] == ["file:build.bundle.json", "file:model.sig"]
    assert predicate["policy"]["digest"]["sha256"] == read_policy(at.root / "deploy.toml").digest
    assert at.judge('[files]\nforbid = ["code"]\n').failures == ()
    with pytest.raises(InvalidConfig, match="only a signed model"):
        sign_summary(at.judge('[files]\nforbid = ["code"]\n'), at.key("verifier"))
    with pytest.raises(PolicyError, match="demands are not met"):
        sign_summary(at.judge('[[model]]\ntrust = ["stranger.pub"]\n'), at.key("verifier"))


def test_a_single_file_is_a_model_too(at: Scene) -> None:
    path = at.root / "net.safetensors"
    path.write_bytes(b"weights")
    sign(path, key=at.key("author"))
    policy = at.policy(AUTHOR + '[files]\nforbid = ["pickle"]\n')
    assert [item.demand for item in check(path, policy)] == ["[files]", "[[model]] *"]


BAD = {
    "nothing": "",
    "misspelt table": "[pasport]\nsigner = 'a'\n",
    "misspelt key": AUTHOR + "treshold = 1\n",
    "misspelt format": '[files]\nforbid = ["pickel"]\n',
    "table of the wrong type": 'model = "author.pub"\n',
    "array for a single table": '[[files]]\nforbid = ["pickle"]\n',
    "text for a list": '[[model]]\ntrust = "author.pub"\n',
    "list of numbers": "[[model]]\ntrust = [1]\n",
    "empty trust": "[[model]]\ntrust = []\n",
    "one signer twice": '[[model]]\ntrust = ["a.pub", "a.pub"]\n',
    "threshold too high": AUTHOR + "threshold = 2\n",
    "threshold of zero": AUTHOR + "threshold = 0\n",
    "truth for a number": AUTHOR + "threshold = true\n",
    "age without a unit": AUTHOR + 'maximum_age = "90"\n',
    "age as a number": AUTHOR + "maximum_age = 90\n",
    "empty rollback": AUTHOR + "[rollback]\n",
    "rollback without a model": "[rollback]\nminimum_version = 1\n",
    "forbids nothing": "[files]\nforbid = []\n",
    "datasets without provenance": AUTHOR + "[datasets]\nallow = []\n",
    "short digest": AUTHOR + BUILT + '[datasets]\nallow = ["abc"]\n',
    "level beyond": AUTHOR + BUILT.replace("= 2}", "= 4}"),
    "no builders": AUTHOR + '[provenance]\ntrust = ["ci.pub"]\nbuilders = {}\n',
    "list without a signer": '[revocation]\nlist = "revoked.bundle.json"\n',
    "measure without a bound": '[[require]]\nkind = "shield"\nmeasure = "detected"\n',
    "bound that all keep": '[[require]]\nkind = "shield"\nmeasure = "detected"\nhigh_below = inf\n',
    "bound that none keeps": '[[require]]\nkind = "shield"\nmeasure = "detected"\nlow_above = nan\n',
    "no samples": '[[require]]\nkind = "shield"\nmeasure = "detected"\nn_at_least = 0\n',
    "version below all": AUTHOR + "[rollback]\nminimum_version = -1\n",
    "no kind": "[[require]]\nmeasure = 'x'\nvalue_above = 1\n",
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_not_understood_is_refused(at: Scene, name: str) -> None:
    with pytest.raises(InvalidConfig):
        read_policy(at.policy(BAD[name]))


def test_a_misspelling_is_told_its_nearest(at: Scene) -> None:
    for name, near in (("misspelt table", "passport"), ("misspelt key", "threshold"), ("misspelt format", "pickle")):
        with pytest.raises(InvalidConfig) as caught:
            read_policy(at.policy(BAD[name]))
        assert caught.value.hint == f"did you mean {near}?"


def test_an_evidence_file_that_is_no_bundle_is_named(at: Scene) -> None:
    at.bundle("junk", b"{}")
    assert "junk.bundle.json" in at.verdict(AUTHOR + BUILT, "[provenance]")[1]


def test_strangers_evidence_is_passed_over(at: Scene) -> None:
    at.provenance("stranger", builder="https://evil.example", name="a")
    at.provenance("ci", name="b")
    assert at.verdict(AUTHOR + BUILT, "[provenance]")[1].startswith("b.bundle.json")
