"""A signed model, keys, and the evidence that policies ask for, small enough to make in every test."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from holdfast.evidence.statement import Statement, Subject
from holdfast.policy import Judgement, State, judge
from holdfast.policy.identity import identify
from holdfast.signing import generate_key, load_signer, sign_artifact, sign_statement
from holdfast.signing.editions import Edition
from holdfast.signing.keys import KeySigner
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations
from holdfast.signing.rotation import KeySet, SetKey, sign_key_set
from holdfast.signing.times import now

DAY = timedelta(days=1)
DATA, POISON = "d" * 64, "e" * 64
BUILDER = "https://ci.example/builder"


@dataclass
class Scene:
    """A folder with a policy, a model called ``llama-7b`` and keys by name."""

    root: Path
    keys: dict[str, KeySigner] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.root / "llama-7b"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    def key(self, name: str) -> KeySigner:
        if name not in self.keys:
            self.keys[name] = generate_key("ed25519")
            (self.root / f"{name}.pub").write_bytes(self.keys[name].public.pem)
        return self.keys[name]

    def policy(self, text: str) -> Path:
        (self.root / "deploy.toml").write_text(text)
        return self.root / "deploy.toml"

    def judge(self, text: str, **options: object) -> Judgement:
        return judge(self.model, self.policy(text), evidence=(self.evidence,), **options)  # type: ignore[arg-type]

    def verdict(self, text: str, demand: str, **options: object) -> tuple[State, str]:
        found = [item for item in self.judge(text, **options).verdicts if item.demand == demand]
        assert len(found) == 1, found
        return found[0].state, found[0].explanation

    def provenance(self, signer: str, *inputs: dict[str, object], builder: str = BUILDER, name: str = "build") -> Path:
        predicate = {
            "buildDefinition": {
                "buildType": "https://x",
                "externalParameters": {},
                "resolvedDependencies": list(inputs),
            },
            "runDetails": {"builder": {"id": builder}},
        }
        subject = Subject("llama-7b", identify(self.model).digests)
        statement = Statement((subject,), "https://slsa.dev/provenance/v1", predicate)
        return self.bundle(name, sign_statement(statement, self.key(signer)))

    def bundle(self, name: str, data: bytes) -> Path:
        path = self.evidence / f"{name}.bundle.json"
        path.write_bytes(data)
        return path

    def revoke(self, *entries: Revocation, version: int = 1, signer: str = "security", age: timedelta = DAY) -> Path:
        edition = Edition(version, now() - age, now() - age + 30 * DAY)
        path = self.root / "revoked.bundle.json"
        listing = RevocationList("house", edition, tuple(sorted(entries)))
        path.write_bytes(sign_revocations(listing, self.key(signer)))
        return path

    def key_set(self, *names: str, start: timedelta = -DAY, patterns: tuple[str, ...] = ("llama-*",)) -> Path:
        edition = Edition(1, now() - DAY, now() + 30 * DAY)
        times = (now() + start, now() + start + 10 * DAY)
        keys = tuple(SetKey(self.key(name).public, ("model",), patterns, *times) for name in names)
        made = KeySet("house", edition, (self.key("root").public,), 1, keys)
        (self.root / "keys.bundle.json").write_bytes(sign_key_set(made, self.key("root")))
        return self.root / "keys.bundle.json"


def scene(root: Path) -> Scene:
    """Make the folder, with a model that the key ``author`` signed."""
    made = Scene(root)
    made.model.mkdir()
    made.evidence.mkdir()
    (made.model / "weights.safetensors").write_bytes(bytes(range(64)))
    (made.model / "config.json").write_text("{}")
    sign_artifact(made.model, load_signer(made.key("author")))  # without a manifest, which some tests add
    return made
