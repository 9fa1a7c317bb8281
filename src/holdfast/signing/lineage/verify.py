"""Verifying a lineage: from a model back to what its user agreed to start from, over signed statements alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import DigestMismatch, LineageBroken, RecordMissing, SignerUntrusted
from holdfast.evidence.digest import digest_file
from holdfast.evidence.provenance import Resource
from holdfast.evidence.statement import Subject
from holdfast.signing.lineage.graph import Edge, Graph, Node, build_graph
from holdfast.signing.lineage.statements import Evidence, Ignored, any_of, gather, unsigned
from holdfast.signing.lineage.stored import DESCRIPTION, identify
from holdfast.signing.lineage.told import require_told
from holdfast.signing.passport import BUNDLE, verify_passport
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    from torch import nn

_NO_DATA = ("model", "base", "file", "assessment")  # roles
Revoked = Collection[str] | Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Gap:
    """A thing that was used, and that nobody trusted says anything of."""

    name: str
    digest: str  # "ALGORITHM:HEX", or empty when it was named without one
    role: str
    used_by: str
    reason: str
    untrusted: bool = False  # somebody does say something of it, who is not trusted


@dataclass(frozen=True, slots=True)
class VerifiedLineage:
    """Proof that a model's history is signed from end to end; only :func:`verify_lineage` makes one.

    Attributes:
        target: key of the node of the model that was asked about.
        nodes: itself, then what it was made of, each before what that was made of, up to the leaves; what lies behind
            a listed digest was checked for revocation and is not part of the proof.
        edges: what was made of what, between these.
        signers: node key -> names of those who signed how it was made or vouch for it; empty for a listed digest.
        leaves: keys of the nodes where the walk ended, with why: ``listed`` or ``signed``.
        gaps: always empty in a proof that was returned; :func:`survey` returns them instead.
    """

    target: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    signers: dict[str, tuple[str, ...]]
    leaves: dict[str, str]
    gaps: tuple[Gap, ...] = ()

    def node(self, key: str) -> Node:
        """Return the node of a key."""
        return next(node for node in self.nodes if node.key == key)


def verify_lineage(
    model: nn.Module | Path | str | Subject,
    trust: TrustSources | Threshold,
    *,
    leaves: Iterable[str] = (),
    origins: TrustSources | Threshold | None = None,
    statements: Iterable[Path | str] = (),
    revoked: Revoked = (),
) -> VerifiedLineage:
    """Return the signed history of ``model``, or raise; what is missing is never passed over.

    Args:
        model: an artifact folder, a file, an assessment folder with a passport, a module, or a subject.
        trust: who may sign steps. Several sources mean that any one of them may sign a step; a
            :class:`~holdfast.signing.trusts.Threshold` holds for every step.
        leaves: digests (hex) of data and models to accept as they are.
        origins: who may vouch for other data and models to start from; those in ``trust`` by default.
        statements: more bundles, or folders of them, besides those in the model's own ``lineage`` folder.
        revoked: digests (hex) of things, fingerprints of keys, and SHA-256 (hex) of bundles, that must not occur
            anywhere in the history; or a function that tells.

    Raises:
        LineageBroken: a gap, a cycle, something revoked, or statements that contradict each other.
        SignerUntrusted: the statement that would close a gap is signed by somebody else.
        RecordMissing: there is no signed statement at all.
        DigestMismatch: the model, or what its ``model.json`` tells, is not what the statements are about.
        SignatureInvalid: a signature in a trusted name does not verify.
    """
    found = survey(model, trust, leaves=leaves, origins=origins, statements=statements, revoked=revoked)
    if not found.gaps:
        return found
    first = found.gaps[0]
    more = f" (and {len(found.gaps) - 1} more gaps)" if len(found.gaps) > 1 else ""
    place = f"{first.name} {first.digest[:24]}, {first.role} of {first.used_by}"
    message = f"the lineage has a gap: {place}: {first.reason}"
    kind = SignerUntrusted if first.untrusted else (RecordMissing if first.used_by == "nothing" else LineageBroken)
    raise kind(message + more, hint="pass its statement, or accept its digest as a leaf")


def survey(
    model: nn.Module | Path | str | Subject,
    trust: TrustSources | Threshold,
    *,
    leaves: Iterable[str] = (),
    origins: TrustSources | Threshold | None = None,
    statements: Iterable[Path | str] = (),
    revoked: Revoked = (),
) -> VerifiedLineage:
    """Return what :func:`verify_lineage` would, with the gaps that it would raise for; all else raises as there."""
    places, listed = [*_own_place(model), *statements], frozenset(leaves)
    steps = any_of(trust)
    if isinstance(model, Path | str) and (Path(model) / BUNDLE).is_file():
        verify_passport(model, steps)
    found, ignored = gather(places, steps, steps if origins is None else any_of(origins))
    target = _target(model)
    graph = build_graph(found, target)
    node = graph.find(target)
    if node is None:
        raise DigestMismatch(f"{target.name} has no digest to join its lineage by")
    reached = _reached(graph, node)
    _refuse_revoked(reached, revoked)
    require_told(model, graph)
    gaps, ends, walked = _ends(graph, node, listed, (*ignored, *unsigned(places)))
    nodes = tuple(item for item in reached if item.key in walked)
    edges = tuple(edge for edge in graph.edges if edge.output in walked and ends.get(edge.output) != "listed")
    return VerifiedLineage(node.key, nodes, edges, {item.key: _signers(item) for item in nodes}, ends, gaps)


def _own_place(model: nn.Module | Path | str | Subject) -> list[Path]:
    """Return where a model on disk keeps its statements."""
    if not isinstance(model, Path | str) or not Path(model).is_dir():
        return []
    inside = Path(model) / "model"
    return [Path(model), inside] if (Path(model) / BUNDLE).is_file() and inside.is_dir() else [Path(model)]


def _target(model: nn.Module | Path | str | Subject) -> Resource:
    if isinstance(model, Path | str) and (Path(model) / BUNDLE).is_file():
        return Resource(Path(model).resolve().name, {"blake3": digest_file(Path(model) / BUNDLE).blake3}, "assessment")
    subject = model if isinstance(model, Subject) else identify(model)
    role = "model" if isinstance(model, Subject) or not isinstance(model, Path | str) or _is_model(model) else "file"
    return Resource(subject.name, subject.digest, role)


def _is_model(path: Path | str) -> bool:
    return Path(path).is_dir() or (Path(path) / DESCRIPTION).is_file()


def _reached(graph: Graph, target: Node) -> list[Node]:
    """Return the target and all it was made of, each before its inputs; refuse a cycle."""
    order: list[Node] = []
    done: set[str] = set()
    path: dict[str, Iterator[Edge]] = {target.key: iter(graph.inputs(target.key))}
    while path:
        key, edges = next(reversed(path.items()))
        edge = next(edges, None)
        if edge is None:
            path.popitem()
            done.add(key)
            order.append(graph.nodes[key])
        elif edge.input in path:
            raise LineageBroken(f"{graph.nodes[edge.input].name} was made of itself: the lineage has a cycle")
        elif edge.input not in done:
            path[edge.input] = iter(graph.inputs(edge.input))
    return order[::-1]


def _refuse_revoked(nodes: Iterable[Node], revoked: Revoked) -> None:
    asked: Callable[[str], bool] = revoked if callable(revoked) else revoked.__contains__
    for node in nodes:
        for algorithm, values in node.digest.items():
            for value in values:
                if asked(value):
                    raise LineageBroken(f"{node.name} ({algorithm}:{value[:16]}) is revoked and is in the lineage")
        for item in (*node.made, *node.vouched):
            if any(map(asked, item.digests)):
                raise LineageBroken(f"{item.source.name} is revoked and is in the lineage")
            for signer in item.signers:
                if asked(signer.fingerprint):
                    raise LineageBroken(f"{item.source.name} is signed by {signer.fingerprint[:16]}, which is revoked")


def _ends(
    graph: Graph, target: Node, listed: frozenset[str], ignored: Iterable[Ignored]
) -> tuple[tuple[Gap, ...], dict[str, str], set[str]]:
    """Walk from ``target`` to where the walk may end; return the gaps, the ends with why, and all that was met."""
    gaps, ends, known = list[Gap](), dict[str, str](), tuple(ignored)
    waiting, seen = [(target, "", "nothing")], {target.key}
    while waiting:
        node, role, user = waiting.pop(0)
        if node.identities & listed:
            ends[node.key] = "listed"
            continue
        edges = graph.inputs(node.key)
        gaps += _nameless(node)
        if not edges and (_is_vouched_for(node, role or node.kind) or (node.fresh and role in ("model", "base"))):
            ends[node.key] = "signed"
        elif not edges and not _nameless(node):
            gaps.append(_gap(node, role, user, known))
        for edge in edges:
            if edge.input not in seen:
                seen.add(edge.input)
                waiting.append((graph.nodes[edge.input], edge.role or "input", node.name))
    return tuple(gaps), dict(sorted(ends.items())), seen


def _is_vouched_for(node: Node, role: str) -> bool:
    """Return whether a statement vouches for a thing in this role; one about data says nothing of models and files."""
    said = (output for item in node.vouched for output in item.outputs if output.identities & node.identities)
    return any(output.role != "dataset" or role not in _NO_DATA for output in said)


def _nameless(node: Node) -> list[Gap]:
    """Return what went into a node according to a statement that gives no digest of it."""
    inputs = (item for made in node.made for item in made.inputs if not item.identities)
    names = sorted({(item.name, item.role) for item in inputs})
    return [Gap(name, "", role, node.name, "it is named without a digest") for name, role in names]


def _gap(node: Node, role: str, user: str, ignored: Iterable[Ignored]) -> Gap:
    for item in ignored:
        if item.identities & node.identities:
            reason = f"{item.source.name} does not count, since {item.reason}"
            return Gap(node.name, node.key, role or "subject", user, reason, item.untrusted)
    reason = "its statement says nothing of what went in" if node.made else "no signed statement is about it"
    if node.vouched and not node.made:
        reason = f"{node.vouched[0].source.name} vouches for it as data, which it is not used as"
    return Gap(node.name, node.key, role or "subject", user, reason)


def _signers(node: Node) -> tuple[str, ...]:
    said: tuple[Evidence, ...] = (*node.made, *node.vouched)
    return tuple(sorted({signer.name for item in said for signer in item.signers}))
