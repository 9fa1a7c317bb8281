"""A registry that leads elsewhere, announces too much, or serves what nobody trusted signed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("oras", reason="the extra oci is not installed")

from holdfast.distribution import pull
from holdfast.distribution.layout import BUNDLE, EMPTY, INDEX, MANIFEST, TITLE, Descriptor, attachment_manifest
from holdfast.distribution.layout import model_manifest as manifest_of
from holdfast.distribution.registry import Repository, digest_of
from holdfast.errors import DigestMismatch, SignerUntrusted, StorageError, Unavailable
from holdfast.evidence import canonical
from holdfast.signing import generate_key, sign_artifact

AUTHOR, EVE = generate_key("ed25519"), generate_key("ed25519")
TOKEN = "of-the-bearer"
Answer = tuple[int, dict[str, str], bytes]


class Server:
    """An HTTP server on this machine that notes what it was asked, with which ``Authorization``."""

    def __init__(self, answer: Callable[[str, str, str], Answer]) -> None:
        self.asked: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                question = (self.command, self.path, self.headers.get("Authorization", ""))
                outer.asked.append(question)
                status, headers, body = answer(*question)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if self.command != "HEAD" else b"")

            do_GET = do_HEAD = do_POST = do_PUT = handle_one

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.inner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.inner.server_port}"
        threading.Thread(target=self.inner.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.inner.shutdown()
        self.inner.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, str, str], Answer]], Server]]:
    made: list[Server] = []

    def start(answer: Callable[[str, str, str], Answer]) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.close()


def test_a_token_goes_to_the_registry_and_nowhere_else(serve: Callable[..., Server]) -> None:
    store = serve(lambda *_: (201, {}, b""))

    def registry(method: str, path: str, authorization: str) -> Answer:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": TOKEN}).encode()
        if authorization != f"Bearer {TOKEN}":
            return 401, {"Www-Authenticate": f'Bearer realm="http://{home.host}/token",service="x"'}, b""
        return (404, {}, b"") if method == "HEAD" else (202, {"Location": f"http://{store.host}/upload"}, b"")

    home = serve(registry)
    Repository(f"{home.host}/a/b:v1", plain_http=True).put_blob(b"data", digest_of(b"data"), 4)
    assert any(TOKEN in authorization for _, _, authorization in home.asked)
    assert [method for method, _, _ in store.asked] == ["PUT"]
    assert all(not authorization for _, _, authorization in store.asked)


def test_a_registry_over_tls_leads_nowhere_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository("registry.example/a/b:v1")
    with pytest.raises(Unavailable, match="without TLS"):
        repository._request("PUT", "http://store.example/upload", ok=(201,), data=b"secret weights")


def stocked(model: Path, announced: int | None = None) -> tuple[Callable[[str, str, str], Answer], list[str]]:
    """Return a registry with one signed model, and the list of blobs that were asked of it."""
    blobs, asked = {digest_of(b"{}"): b"{}"}, list[str]()

    def blob(data: bytes, kind: str, title: str, size: int | None = None) -> Descriptor:
        blobs[digest_of(data)] = data
        return Descriptor(kind, digest_of(data), len(data) if size is None else size, {TITLE: title})

    empty = Descriptor(EMPTY, digest_of(b"{}"), 2)
    names = sorted(path.name for path in model.iterdir() if path.name != "model.sig")
    main = manifest_of(empty, [blob((model / name).read_bytes(), "text/plain", name, announced) for name in names])
    subject = Descriptor(MANIFEST, digest_of(main), len(main))
    signature = blob((model / "model.sig").read_bytes(), BUNDLE, "model.sig")
    about = attachment_manifest(BUNDLE, empty, [signature], subject)
    entry = Descriptor(MANIFEST, digest_of(about), len(about), artifact_type=BUNDLE)
    index = canonical.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry.to_json()]})
    known = {"v1": main, subject.digest: main, entry.digest: about}

    def answer(method: str, path: str, authorization: str) -> Answer:
        kind, name = path.split("/")[-2:]
        if kind == "blobs":
            asked.append(name)
        found = {"manifests": known, "blobs": blobs, "referrers": {subject.digest: index}}[kind].get(name)
        return (404, {}, b"") if found is None else (200, {}, found)

    return answer, asked


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(bytes(1000))
    (folder / "config.json").write_text("{}\n")
    sign_artifact(folder, AUTHOR)
    return folder


def test_of_a_model_by_somebody_else_no_file_is_fetched(
    serve: Callable[..., Server], model: Path, tmp_path: Path
) -> None:
    answer, asked = stocked(model)
    reference = f"{serve(answer).host}/a/b:v1"
    with pytest.raises(SignerUntrusted):
        pull(reference, tmp_path / "out", trust=EVE.public, plain_http=True)
    assert asked == [digest_of((model / "model.sig").read_bytes())]
    done = pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert set(done.files) == {"weights.safetensors", "config.json"}


@pytest.mark.parametrize("name", ["weights.safetensors", "new.bin"])
def test_of_a_model_that_was_not_signed_so_no_file_is_fetched(
    serve: Callable[..., Server], model: Path, tmp_path: Path, name: str
) -> None:
    (model / name).write_bytes(b"evil")
    answer, asked = stocked(model)
    with pytest.raises(DigestMismatch, match=name):
        pull(f"{serve(answer).host}/a/b:v1", tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert asked == [digest_of((model / "model.sig").read_bytes())]


@pytest.mark.parametrize(("announced", "limit"), [(1 << 52, None), (None, 999)])
def test_more_than_there_is_room_for_is_refused_before_it_comes(
    serve: Callable[..., Server], model: Path, tmp_path: Path, announced: int | None, limit: int | None
) -> None:
    answer, asked = stocked(model, announced)
    with pytest.raises(StorageError, match="announces"):
        pull(f"{serve(answer).host}/a/b:v1", tmp_path / "out", trust=AUTHOR.public, plain_http=True, limit=limit)
    assert len(asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
