"""``holdfast dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Json, emit, make_app, password_for, say, stages
from holdfast.errors import InvalidConfig, SignerUntrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.data.commitments import Committed
    from holdfast.signing.datasets import VerifiedCommitment

app = make_app()
_EXAMPLE = "Example: holdfast dataset commit cifar10:data --split train --key file:lab.pem -o train.commitment"

Data = Annotated[
    str,
    typer.Argument(
        help="Data: digits, cifar10:ROOT, mnist:ROOT, folder:PATH, files:PATH, npz:FILE, webdataset:TAR, parquet:FILE, "
        "arrow:FILE, mds:FOLDER, hf:FOLDER."
    ),
]
Folder = Annotated[Path, typer.Argument(help="Folder of a commitment.")]
Key = Annotated[str, typer.Option(help="Where the private key is: file:KEY.pem.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write the commitment to.")]
Password = Annotated[str | None, typer.Option(help="File with the key's password (- asks).")]
Trust = Annotated[Path, typer.Option(help="Public key (PEM) that must have signed the commitment.")]
Providers = Annotated[
    list[str] | None,
    typer.Option("--provider", help="ID=KEY.pub: the key that must have signed this source; repeatable."),
]
Split = Annotated[str, typer.Option(help="train or test, of data that has both.")]
Name = Annotated[str | None, typer.Option(help="What to call the result.")]


@app.callback(epilog=_EXAMPLE)
def dataset() -> None:
    """Commit to a dataset sample by sample, and hold data against a signed commitment."""


@app.command(epilog=_EXAMPLE)
def commit(
    data: Data,
    key: Key,
    out: Out,
    name: Annotated[str | None, typer.Option(help="Dataset id, hashed into every sample; the data's own name.")] = None,
    split: Split = "test",
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Sign the order-free sum and the keyed tree over every sample: labels, names, dtypes and shapes included."""
    from holdfast.data.commitments import commit as commit_data
    from holdfast.data.commitments import open_source
    from holdfast.signing import load_signer

    signer = load_signer(key, password=password_for(password_file))
    source = open_source(data, split=split)
    with stages() as announce:
        whole = commit_data(source, name or source.name, progress=announce(source.name))
    _write(out, whole, signer, {}, json)


@app.command(epilog="Example: holdfast dataset verify cifar10:data train.commitment --split train --trust lab.pub")
def verify(
    data: Data,
    commitment: Folder,
    trust: Trust,
    provider: Providers = None,
    source: Annotated[str | None, typer.Option(help="Dataset id to hold the data against, of several.")] = None,
    split: Split = "test",
    json: Json = False,
) -> None:
    """Hold every sample against a signed commitment; exit 1 counts and names what is missing, extra or changed."""
    from holdfast.data.commitments import compare, open_source

    proof = _opened(commitment, trust, provider)
    ids = [item.dataset for item in proof.commitment.sources]
    if source is None and len(ids) != 1:
        raise InvalidConfig("the commitment has several sources", hint=f"--source {' or '.join(ids)}")
    opened, chosen = open_source(data, split=split), source or ids[0]
    with stages() as announce:
        found = compare(proof.whole, chosen, opened.samples(), progress=announce(chosen))
    found.require_none(proof.commitment.name)
    say(f"verified: all {found.count} samples of {chosen} are as signed by {proof.signer}")
    if json:
        emit({"source": chosen, "samples": found.count, "signer": proof.signer, **_summary(proof.whole)})


@app.command(epilog="Example: holdfast dataset merge a b --trust a.pub --trust b.pub --key file:me.pem --name ab -o ab")
def merge(
    commitments: Annotated[list[Path], typer.Argument(help="Folders of commitments, two or more.")],
    trust: Annotated[list[Path], typer.Option(help="Their public keys in the same order, or one for all; repeatable.")],
    key: Key,
    out: Out,
    name: Annotated[str, typer.Option(help="What to call the whole.")],
    provider: Providers = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Sign the union of commitments; every source keeps the signature of its provider beside it."""
    from holdfast.signing import load_signer
    from holdfast.signing.datasets import merge_commitments

    if len(trust) not in (1, len(commitments)):
        raise InvalidConfig(
            f"{len(trust)} keys for {len(commitments)} commitments", hint="one for each, or one for all"
        )
    trusted = trust * len(commitments) if len(trust) == 1 else trust
    given = _providers(provider)
    parts = [_part(folder, public, given) for folder, public in zip(commitments, trusted, strict=True)]
    if unused := sorted(given.keys() - {name for part in parts for name in part.providers}):
        raise SignerUntrusted(f"no provider's signature over {unused[0]} is among the commitments")
    whole, statements = merge_commitments(name, parts)
    _write(out, whole, load_signer(key, password=password_for(password_file)), statements, json)


@app.command(epilog="Example: holdfast dataset subtract all --keys gone.txt --trust lab.pub --key file:lab.pem -o rest")
def subtract(
    commitment: Folder,
    trust: Trust,
    key: Key,
    out: Out,
    keys: Annotated[Path | None, typer.Option(help="File with one key a line, or ID<tab>KEY.")] = None,
    without: Annotated[
        Path | None, typer.Option(help="Commitment whose samples leave; signed by the same key.")
    ] = None,
    provider: Providers = None,
    name: Name = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Sign what is left when samples leave a dataset; their data is not needed."""
    from holdfast.data.commitments import shared_rows
    from holdfast.data.commitments import subtract as take_away
    from holdfast.signing import load_signer

    if (keys is None) == (without is None):
        raise InvalidConfig("say which samples leave", hint="--keys FILE or --without FOLDER")
    proof = _opened(commitment, trust, provider)
    if without is not None:
        leaving = shared_rows(proof.whole, _opened(without, trust, None).whole)
    else:
        leaving = _listed(keys, proof.whole)
    rest = take_away(proof.whole, leaving, name)
    statements = {
        source.dataset: proof.providers[source.dataset] for source in rest.commitment.sources if source.signer
    }
    _write(out, rest, load_signer(key, password=password_for(password_file)), statements, json)


def _listed(file: Path | None, whole: Committed) -> list[tuple[str, str]]:
    """Read ``KEY`` or ``ID<tab>KEY`` from every line that is not empty."""
    from holdfast._files import read_bytes

    try:
        lines = read_bytes(file or "", "list of keys").decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidConfig(f"{file} is not UTF-8 text") from None
    ids = [source.dataset for source in whole.commitment.sources]
    pairs = [line.rpartition("\t") for line in lines if line]
    if len(ids) > 1 and not all(tab for _, tab, _ in pairs):
        raise InvalidConfig("the commitment has several sources", hint="write ID<tab>KEY on every line")
    return [(dataset if tab else ids[0], key) for dataset, tab, key in pairs]


def _providers(given: list[str] | None) -> dict[str, Path]:
    result = {}
    for item in given or []:
        name, equals, path = item.rpartition("=")
        if not equals or not name or name in result:
            raise InvalidConfig(f"cannot read --provider {item!r}", hint="write ID=KEY.pub, each id once")
        result[name] = Path(path)
    return result


def _opened(folder: Path, trust: Path, provider: list[str] | None) -> VerifiedCommitment:
    from holdfast.signing.datasets import open_commitment

    return open_commitment(folder, trust=trust, providers=_providers(provider))


def _part(folder: Path, trust: Path, providers: Mapping[str, Path]) -> VerifiedCommitment:
    """Open one of several commitments with the providers that its own sources name."""
    from holdfast._files import read_bytes
    from holdfast.signing.datasets import STATEMENT, open_commitment, verify_commitment

    found, _ = verify_commitment(read_bytes(folder / STATEMENT, "dataset commitment"), trust)
    named = {source.dataset for source in found.sources if source.signer is not None}
    return open_commitment(folder, trust=trust, providers={id_: providers[id_] for id_ in named & providers.keys()})


def _write(out: Path, whole: Committed, signer: Any, statements: Mapping[str, bytes], json: bool) -> None:
    from holdfast.signing.datasets import write_commitment

    write_commitment(out, whole, signer, statements)
    commitment = whole.commitment
    say(f"signed {commitment.multiset.count} samples of {commitment.name} as {out}\ndigest {commitment.digest}")
    if json:
        emit({"path": str(out), **_summary(whole)})


def _summary(whole: Committed) -> dict[str, Any]:
    from holdfast.data.commitments import summary

    return summary(whole.commitment)
