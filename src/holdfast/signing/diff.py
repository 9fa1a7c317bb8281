"""What differs between two models: files and tensors added, removed, changed, renamed or moved to another shard."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import Wanted, hash_tree
from holdfast.evidence.model_manifest import ModelManifest, TensorEntry
from holdfast.evidence.tree import Links
from holdfast.signing.manifests import manifest_of, read_manifest, unsigned_names
from holdfast.signing.trusts import Threshold, TrustSources

_BUNDLE = ".sig2"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of one kind of thing, each sorted; ``renamed`` are equal in everything but the name, (old, new)."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    same: int = 0  # how many are in both, equal, under one name

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.renamed)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        lists = {key: list(getattr(self, key)) for key in ("added", "removed", "changed")}
        return {**lists, "renamed": [list(pair) for pair in self.renamed], "same": self.same}


@dataclass(frozen=True, slots=True)
class ModelDiff:
    """The differences of two models, from the first to the second.

    Attributes:
        files: by path.
        tensors: by name; one that is called alike in several files is named ``file:name``.
        retyped: of the changed tensors, those of another dtype, as (name, old, new).
        reshaped: of the changed tensors, those of another shape, as (name, old, new).
        moved: of the equal tensors, those that lie in a file of another name: the model was re-sharded.
        same_model: whether the model ids are equal.
        same_content: whether the content ids are equal; None where neither has tensors.
    """

    files: Changes
    tensors: Changes
    retyped: tuple[tuple[str, str, str], ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    moved: tuple[str, ...]
    same_model: bool
    same_content: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "same_model": self.same_model,
            "same_content": self.same_content,
            "files": self.files.to_json(),
            "tensors": self.tensors.to_json()
            | {
                "retyped": [list(item) for item in self.retyped],
                "reshaped": [[name, list(old), list(new)] for name, old, new in self.reshaped],
                "moved": list(self.moved),
            },
        }


def diff(
    first: Path | str,
    second: Path | str,
    *,
    trust: TrustSources | Threshold | None = None,
    links: Links = Links.REFUSE,
    threads: int | None = None,
) -> ModelDiff:
    """Return what differs between two models.

    Args:
        first: folder, file, or a ``.sig2`` bundle alone.
        second: likewise.
        trust: compare the manifests that these signed, without reading the files; None reads the files.
        links: which symbolic links to follow.
        threads: how many to use; as many as there are cores by default.

    Raises:
        InvalidConfig: a bundle without ``trust``.
        VerificationError, ArtifactError: see :func:`read_manifest` and :func:`hash_tree`.
    """
    return compare(*(_manifest(Path(item), trust, links, threads) for item in (first, second)))


def _manifest(model: Path, trust: TrustSources | Threshold | None, links: Links, threads: int | None) -> ModelManifest:
    bundle = model if model.suffix == _BUNDLE else None
    if trust is not None:
        return read_manifest(model, trust, signature=bundle)[0]
    if bundle is not None:
        raise InvalidConfig(f"{model} is a bundle", hint="say whom to believe: --trust KEY.pub")
    wanted = Wanted(algorithms=("blake3",), tensors=True)
    return manifest_of(model, hash_tree(model, wanted, exclude=unsigned_names(model), links=links, threads=threads))


def compare(first: ModelManifest, second: ModelManifest) -> ModelDiff:
    """Return what differs between two manifests."""
    names = _namer(first, second)
    old, new = ({names(item): item for item in side.tensors} for side in (first, second))
    shared = [(name, old[name], new[name]) for name in sorted(old.keys() & new.keys())]
    return ModelDiff(
        files=_changes(*({item.name: (item.size, item.blake3) for item in side.files} for side in (first, second))),
        tensors=_changes(*({name: _meaning(item) for name, item in side.items()} for side in (old, new))),
        retyped=tuple((name, a.dtype, b.dtype) for name, a, b in shared if a.dtype != b.dtype),
        reshaped=tuple((name, a.shape, b.shape) for name, a, b in shared if a.shape != b.shape),
        moved=tuple(name for name, a, b in shared if _meaning(a) == _meaning(b) and a.file != b.file),
        same_model=first.model_id == second.model_id,
        same_content=first.content_id == second.content_id if first.tensors or second.tensors else None,
    )


def _meaning(item: TensorEntry) -> Hashable:
    return (item.dtype, item.shape, item.blake3)


def _namer(*sides: ModelManifest) -> Callable[[TensorEntry], str]:
    """Return what names tensors: by their own name unless that would be ambiguous on one of the sides."""
    counts = [Counter(item.name for item in side.tensors) for side in sides]
    ambiguous = {name for count in counts for name, times in count.items() if times > 1}
    return lambda item: f"{item.file}:{item.name}" if item.name in ambiguous else item.name


def _changes(old: Mapping[str, Hashable], new: Mapping[str, Hashable]) -> Changes:
    shared = old.keys() & new.keys()
    changed = tuple(sorted(name for name in shared if old[name] != new[name]))
    gone, come = sorted(old.keys() - shared), sorted(new.keys() - shared)
    renamed = _renamed(old, gone, new, come)
    left, found = {pair[0] for pair in renamed}, {pair[1] for pair in renamed}
    return Changes(
        added=tuple(name for name in come if name not in found),
        removed=tuple(name for name in gone if name not in left),
        changed=changed,
        renamed=tuple(renamed),
        same=len(shared) - len(changed),
    )


def _renamed(
    old: Mapping[str, Hashable], gone: Iterable[str], new: Mapping[str, Hashable], come: Iterable[str]
) -> list[tuple[str, str]]:
    waiting: dict[Hashable, list[str]] = defaultdict(list)
    for name in come:
        waiting[new[name]].append(name)
    return [(name, waiting[old[name]].pop(0)) for name in gone if waiting.get(old[name])]


def grouped(names: Iterable[str]) -> list[str]:
    """Return names in few words: ``model.layers.0-31: self_attn.q_proj.weight, self_attn.v_proj.weight``.

    Names that differ in a number are put together where exactly the same follows each of the numbers.
    """
    plain, numbered = [], defaultdict(lambda: defaultdict(set))  # type: ignore[var-annotated]
    for name in names:
        parts = name.split(".")
        place = next((place for place, part in enumerate(parts) if _NUMBER.fullmatch(part)), None)
        if place is None:
            plain.append(name)
        else:
            numbered[".".join(parts[:place])][int(parts[place])].add(".".join(parts[place + 1 :]))
    lines = [line for prefix in sorted(numbered) for line in _numbered(prefix, numbered[prefix])]
    return [*lines, *sorted(plain)]


def _numbered(prefix: str, rests: Mapping[int, set[str]]) -> list[str]:
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for number in sorted(rests):
        alike[frozenset(rests[number])].append(number)
    lines = []
    for following, numbers in sorted(alike.items(), key=lambda item: item[1]):
        head = ".".join(filter(None, (prefix, ranges(numbers))))
        tail = ", ".join(grouped(item for item in following if item))
        lines.append(f"{head}: {tail}" if tail else head)
    return lines


def ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers as ``0-3,5,7-9``."""
    ordered = sorted(set(numbers))
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    stops = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, stops, strict=True))


def explain(found: ModelDiff) -> list[str]:
    """Return the differences as lines for people, the shortest true account first."""
    if found.same_model:
        return ["the two are the same, file by file"]
    lines = []
    if found.same_content:
        lines.append("the same tensors, in other files" if found.moved else "the same tensors")
    lines += _account("tensors", found.tensors) + _account("files", found.files)
    for title, items in (("retyped", found.retyped), ("reshaped", found.reshaped)):
        lines += [f"{title} {name}: {_sides(old)} -> {_sides(new)}" for name, old, new in items]
    return lines


def _sides(value: str | tuple[int, ...]) -> str:
    return value if isinstance(value, str) else "x".join(map(str, value)) or "scalar"


def _account(what: str, changes: Changes) -> list[str]:
    total = changes.same + len(changes.changed) + len(changes.removed) + len(changes.renamed)
    lines = []
    for verb in ("changed", "added", "removed"):
        if names := getattr(changes, verb):
            of = f" of {total}" if verb != "added" else ""
            only = "only " if verb == "changed" and changes.same and not (changes.added or changes.removed) else ""
            lines.append(f"{only}{len(names)}{of} {what} {verb}:")
            lines += [f"  {line}" for line in grouped(names)]
    if changes.renamed:
        lines.append(f"{len(changes.renamed)} of {total} {what} only renamed:")
        lines += [f"  {old} -> {new}" for old, new in changes.renamed]
    return lines
