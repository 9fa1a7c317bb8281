"""The signed manifest (v2) beside a model: written from one read pass, read back, and held against the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, RecordMissing, UnreadableArtifact
from holdfast.evidence.beside import GIT_NAMES, default_manifest, is_beside_file
from holdfast.evidence.digest import Hashed, Wanted, hash_files, hash_tree
from holdfast.evidence.model_manifest import FileEntry, ModelManifest, TensorEntry
from holdfast.evidence.tree import Links, open_tree
from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trusts import Threshold, TrustSources

LIMIT = 64 << 20  # bytes of a bundle


def unsigned_names(
    model: Path | str, *signatures: Path | str | None, ignore: Iterable[str] = (), signed: Iterable[str] = ()
) -> Callable[[str], bool]:
    """Return what tells the paths of a model that its manifest leaves out; a folder's leaves out all in it.

    Args:
        model: folder or file.
        signatures: bundles that may lie in the folder, under a name of the caller's choice.
        ignore: relative paths the caller agrees to leave unsigned.
        signed: names that are never left out, whatever else says so.
    """
    root, own = Path(model).resolve(), set(GIT_NAMES) | set(ignore)
    for path in (Path(item).resolve() for item in signatures if item is not None):
        if path != root and path.is_relative_to(root):
            own.add(path.relative_to(root).as_posix())
    names = frozenset(signed)
    kept = names | {name[:place] for name in names for place in range(len(name)) if name[place] == "/"}
    return lambda name: name not in kept and (name in own or is_beside_file(root, name))


def manifest_of(
    model: Path | str,
    found: Mapping[str, Hashed],
    *,
    version: int = 0,
    base: ModelManifest | None = None,
    ignore: Iterable[str] = (),
) -> ModelManifest:
    """Return the manifest of files that were hashed: with BLAKE3, and with SHA-256 and tensors where these were wanted.

    Args:
        model: folder or file, for its name.
        found: what :func:`holdfast.evidence.digest.hash_tree` gave.
        version: counts up with every signed change, against rollback.
        base: the verified manifest of the model that this one completes.
        ignore: relative paths that were left out because the signer chose to.

    Raises:
        UnreadableArtifact: there is nothing to sign.
    """
    name = Path(model).resolve().name if Path(model).is_dir() else Path(model).name
    named = {name if key == "." else key: item for key, item in found.items()}
    if not named:
        raise UnreadableArtifact(f"{model} holds no file to sign")
    files = (FileEntry(k, i.size, i.digests.get("sha256", ""), i.digests["blake3"]) for k, i in named.items())
    tensors = (
        TensorEntry(key, slot.name, slot.dtype, slot.shape, slot.offset, slot.length, digest)
        for key, item in named.items()
        for slot, digest in item.tensors
    )
    return ModelManifest.of(name, files, tensors, version=version, base=base.model_id if base else "", ignore=ignore)


def write_manifest(
    model: Path | str,
    signer: Signer,
    *more: KeyHolder,
    version: int | None = None,
    base: ModelManifest | None = None,
    out: Path | str | None = None,
    previous: ModelManifest | None = None,
    sha256: bool = True,
    tensors: bool = True,
    ignore: Iterable[str] = (),
    links: Links = Links.REFUSE,
    threads: int | None = None,
) -> Path:
    """Hash a model in one pass, sign its manifest, write the bundle, and return its path.

    Args:
        model: folder or file.
        signer: whose verification material the bundle carries.
        more: further signers, named by their keys.
        version: of the model; one more than the ``previous`` one has, or 0, by default.
        base: the verified manifest of the model that this one completes, as an adapter does.
        out: where to write; ``MODEL/model.sig2`` or ``MODEL.sig2`` by default.
        previous: the verified manifest that this one replaces.
        sha256: also compute SHA-256, the costliest part, for tools that know nothing else.
        tensors: also list the tensors of safetensors, GGUF and NPZ files.
        ignore: relative paths to leave unsigned; whoever verifies must agree to them.
        links: which symbolic links to follow.
        threads: how many to use; as many as there are cores by default.

    Raises:
        ArtifactError: nothing to sign, a link or device, a file that changes meanwhile, or a malformed container.
        InvalidConfig: a version that does not count up.
    """
    path = Path(out) if out is not None else default_manifest(model)
    algorithms = ("sha256", "blake3") if sha256 else ("blake3",)
    ignore = (*ignore, *GIT_NAMES) if Path(model).is_dir() else ()
    found = hash_tree(
        model,
        Wanted(algorithms=algorithms, tensors=tensors),
        exclude=unsigned_names(model, path, ignore=ignore),
        links=links,
        threads=threads,
    )
    manifest = manifest_of(model, found, version=next_version(version, previous), base=base, ignore=ignore)
    write_atomic(path, sign_manifest(manifest, signer, *more))
    return path


def next_version(version: int | None, previous: ModelManifest | None) -> int:
    """Return the version of a manifest after ``previous``; raise :class:`InvalidConfig` where it does not count up."""
    least = 0 if previous is None else previous.version + 1
    if version is not None and not least <= version < 2**53:
        raise InvalidConfig(f"version {version} does not follow {least - 1}", hint=f"{least} is the next one")
    return least if version is None else version


def sign_manifest(manifest: ModelManifest, signer: Signer, *more: KeyHolder) -> bytes:
    """Return the bundle with the signed manifest; with a deterministic kind of key, always the same bytes.

    Raises:
        InvalidConfig: it would be longer than anybody reads.
    """
    bundle = sign_statement(manifest.to_statement(), signer, *more)
    if len(bundle) > LIMIT:
        raise InvalidConfig(f"the signed manifest would be {len(bundle)} bytes long", hint="sign parts of the model")
    return bundle


def read_manifest(
    model: Path | str, trust: TrustSources | Threshold, *, signature: bytes | Path | str | None = None
) -> tuple[ModelManifest, Verified]:
    """Return the manifest that ``trust`` signed, and the proof of that; the files have yet to be compared.

    Args:
        model: folder or file.
        trust: who must have signed.
        signature: the bundle or its path; by default beside or inside the model.

    Raises:
        RecordMissing: there is no signed manifest.
        SignatureInvalid, SignerUntrusted: see :func:`verify_bundle`; or the manifest is malformed.
        UnsupportedVersion: the bundle is about something else.
    """
    if not isinstance(signature, bytes):
        path = default_manifest(model) if signature is None else Path(signature)
        if not path.exists():
            raise RecordMissing(f"{model} has no signed manifest at {path}", hint="holdfast sign writes one")
        signature = read_bytes(path, "signed manifest", limit=LIMIT)
    proof = verify_bundle(signature, trust)
    return ModelManifest.from_statement(proof.statement), proof


def verify_files(
    model: Path | str,
    manifest: ModelManifest,
    *,
    signature: Path | str | None = None,
    ignore: Iterable[str] = (),
    links: Links = Links.REFUSE,
    threads: int | None = None,
) -> None:
    """Return if ``model`` holds exactly the files of a verified manifest, comparing BLAKE3 digests.

    Names and sizes are compared before a byte is read.

    Args:
        model: folder or file.
        manifest: what :func:`read_manifest` gave.
        signature: where its bundle lies, if not in its usual place.
        ignore: relative paths that may be there unsigned.
        links: which symbolic links to follow.
        threads: how many to use; as many as there are cores by default.

    Raises:
        DigestMismatch: files are missing, new or changed; the first are named.
        UnreadableArtifact: a link or device in the model, or a file that changes meanwhile.
    """
    names = [item.name for item in manifest.files]
    skip = unsigned_names(model, signature, ignore=ignore, signed=names)
    compare_files(model, manifest, skip, links=links, threads=threads)


def compare_files(
    model: Path | str,
    manifest: ModelManifest,
    skip: Callable[[str], bool],
    *,
    links: Links = Links.REFUSE,
    extra: bool = False,
    threads: int | None = None,
) -> tuple[str, ...]:
    """Return the files that are there unsigned, if all others are exactly those of a verified manifest.

    Args:
        model: folder or file.
        manifest: what :func:`read_manifest` gave.
        skip: which paths not to look at; must name no signed one.
        links: which symbolic links to follow.
        extra: let unsigned files through, and return their names.
        threads: how many to use; as many as there are cores by default.

    Raises:
        DigestMismatch, UnreadableArtifact: see :func:`verify_files`.
    """
    signed = {item.name: item for item in manifest.files}
    with open_tree(model, exclude=skip, links=links) as tree:
        there = {Path(model).name if item.name == "." else item.name: item for item in tree.files}
        more = tuple(sorted(there.keys() - signed.keys())) if extra else ()
        names = {name: item for name, item in there.items() if name not in more}
        _require_same({k: v.size for k, v in signed.items()}, {k: v.size for k, v in names.items()})
        found = hash_files(tree, list(names.values()), Wanted(algorithms=("blake3",)), threads=threads)
        actual = {key: found[item.name].digests["blake3"] for key, item in names.items()}
    _require_same({name: item.blake3 for name, item in signed.items()}, actual)
    return more


def _require_same(signed: Mapping[str, object], actual: Mapping[str, object]) -> None:
    problems = [f"{name} is missing" for name in sorted(signed.keys() - actual.keys())]
    problems += [f"{name} was not signed" for name in sorted(actual.keys() - signed.keys())]
    problems += [f"{name} changed" for name in sorted(signed.keys() & actual.keys()) if signed[name] != actual[name]]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DigestMismatch("; ".join(problems[:3]) + more)
