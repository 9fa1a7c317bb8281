"""One repository of an OCI registry: blobs, manifests and referrers, each checked against its digest.

Transport and authentication are those of ``oras`` (Docker's configuration, tokens); digests are checked here, whatever
the registry claims. Registries without the referrers API get the fallback tag of the distribution-spec 1.1.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from holdfast.distribution.layout import DIGEST, INDEX, MANIFEST, MANIFEST_LIMIT, Descriptor
from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    InvalidConfig,
    MissingExtra,
    Unavailable,
    UnreadableArtifact,
)
from holdfast.evidence import canonical

_CHUNK = 1 << 20
_TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two reads
_OCTETS = {"Content-Type": "application/octet-stream"}


def digest_of(data: bytes) -> str:
    """Return the OCI digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Repository:
    """The repository that ``reference`` (``HOST[:PORT]/NAME[:TAG][@DIGEST]``) names, over HTTPS unless told otherwise.

    Raises:
        MissingExtra: ``oras`` is not installed.
        InvalidConfig: no host in the reference, or no reference at all.
    """

    def __init__(self, reference: str, *, plain_http: bool = False) -> None:
        try:
            from oras.container import Container
            from oras.provider import Registry
        except ImportError as error:
            raise MissingExtra("OCI registries need oras", hint="pip install 'holdfast[oci]'") from error
        host, slash, _ = reference.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            raise InvalidConfig(f"{reference!r} names no registry", hint="write HOST/NAME:TAG")
        self._at = Container(reference.removeprefix(f"{host}/"), registry=host)
        if self._at.digest is not None and not DIGEST.fullmatch(self._at.digest):
            raise InvalidConfig(f"cannot pin {self._at.digest!r}", hint="a digest is sha256: and 64 lower-case digits")
        self._client = Registry(insecure=plain_http)
        self._client.auth.load_configs(self._at)
        # oras repeats a failed request for two minutes; a refused connection should say so at once
        self._send = inspect.unwrap(Registry.do_request).__get__(self._client)
        self._guard()

    def _guard(self) -> None:
        """Send everything with a timeout, nothing in the clear unasked, and the token to this registry alone.

        A registry says where an upload goes, and that may be a store of somebody else's.
        """
        inner, home = self._client.session.send, _origin(f"{self._client.prefix}://{self._at.registry}")

        def send(request: Any, **options: Any) -> Any:
            origin = _origin(request.url)
            if origin[0] != home[0] and home[0] == "https":
                raise Unavailable(f"the registry {self._at.registry} leads to {origin[1]} without TLS")
            if origin != home and request.headers.get("Authorization", "").startswith("Bearer"):
                del request.headers["Authorization"]
            return inner(request, **options | {"timeout": options.get("timeout") or _TIMEOUT})

        self._client.session.send = send

    @property
    def wanted(self) -> str:
        """The digest that the reference names, or else its tag."""
        return str(self._at.digest or self._at.tag)

    def _request(self, method: str, path: str, *, ok: tuple[int, ...], **options: Any) -> Any:
        import requests

        url = path if path.startswith("http") else f"{self._client.prefix}://{self._at.registry}{path}"
        try:
            response = self._send(url, method, **options)
        except (requests.RequestException, ValueError) as error:
            raise Unavailable(f"the registry {self._at.registry} does not answer: {_short(error)}") from error
        if response.status_code not in ok:
            raise self._refusal(method, url, response)
        return response

    def _refusal(self, method: str, url: str, response: Any) -> HoldfastError:
        what = f"the registry answered {response.status_code} to {method} {url.partition('?')[0]}"
        if response.status_code == 404:
            return UnreadableArtifact(f"{self._at.uri} is not in the registry", hint=what)
        return Unavailable(what, hint="log in with your container tool" if response.status_code in (401, 403) else "")

    def _path(self, kind: str, name: str) -> str:
        return f"/v2/{self._at.api_prefix}/{kind}/{name}"

    def put_blob(self, source: Path | bytes, digest: str, size: int) -> None:
        """Upload a blob unless it is there; a file is streamed."""
        if self._request("HEAD", self._path("blobs", digest), ok=(200, 404)).status_code == 200:
            return
        begun = self._request("POST", self._path("blobs", "uploads/"), ok=(202,), headers=dict(_OCTETS))
        place = str(begun.headers.get("Location", ""))
        url = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"
        headers = _OCTETS | {"Content-Length": str(size)}
        if isinstance(source, bytes):
            self._request("PUT", url, ok=(201,), data=source, headers=headers)
            return
        with source.open("rb") as file:
            self._request("PUT", url, ok=(201,), data=file, headers=headers)

    def put_manifest(self, data: bytes, name: str, media_type: str = MANIFEST) -> Any:
        """Upload a manifest under a tag or its digest and return the response's headers."""
        headers = {"Content-Type": media_type}
        response = self._request("PUT", self._path("manifests", name), ok=(201,), data=data, headers=headers)
        return response.headers

    def manifest(self, name: str) -> tuple[bytes, Descriptor]:
        """Return the bytes under a tag or digest, and their descriptor.

        Raises:
            DigestMismatch: other bytes than a digest asked for.
            UnreadableArtifact: nothing there.
        """
        data = self._get("manifests", name, MANIFEST, ok=(200,))
        return data, Descriptor(MANIFEST, digest_of(data), len(data))

    def _get(self, kind: str, name: str, media_type: str, *, ok: tuple[int, ...]) -> bytes:
        """Return a small document, or nothing where 404 is ``ok``."""
        headers = {"Accept": media_type, "Accept-Encoding": "identity"}
        response = self._request("GET", self._path(kind, name), ok=ok, headers=headers, stream=True)
        if response.status_code == 404:
            response.close()
            return b""
        data = b"".join(_bounded(response, MANIFEST_LIMIT, kind))
        if kind == "manifests" and name.startswith("sha256:") and digest_of(data) != name:
            raise DigestMismatch(f"the registry returned another manifest than {name[:19]}")
        return data

    def fetch(self, blob: Descriptor, out: BinaryIO) -> None:
        """Stream a blob into ``out``.

        Raises:
            DigestMismatch: longer, shorter or other bytes than described; what was written is to be thrown away.
        """
        headers = {"Accept-Encoding": "identity"}
        response = self._request("GET", self._path("blobs", blob.digest), ok=(200,), headers=headers, stream=True)
        hasher, size = hashlib.sha256(), 0
        for chunk in _bounded(response, blob.size, f"blob {blob.digest[:19]}"):
            hasher.update(chunk)
            size += out.write(chunk)
        if size != blob.size or f"sha256:{hasher.hexdigest()}" != blob.digest:
            raise DigestMismatch(f"the registry returned other bytes than {blob.digest[:19]}")

    def attach(self, manifest: bytes, subject: Descriptor, kind: str) -> None:
        """Upload a manifest that refers to ``subject``, and list it where the registry does not do so itself."""
        digest = digest_of(manifest)
        if "OCI-Subject" in self.put_manifest(manifest, digest):
            return
        listed = self._listed(subject)
        entry = Descriptor(MANIFEST, digest, len(manifest), artifact_type=kind)
        if all(item.digest != digest for item in listed):
            entries = [item.to_json() for item in (*listed, entry)]
            index = canonical.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
            self.put_manifest(index, _fallback(subject), INDEX)

    def referrers(self, subject: Descriptor) -> list[Descriptor]:
        """Return the manifests that say something about ``subject``; none, where nothing was attached."""
        data = self._get("referrers", subject.digest, INDEX, ok=(200, 404))
        return _entries(data) if data else self._listed(subject)

    def _listed(self, subject: Descriptor) -> list[Descriptor]:
        data = self._get("manifests", _fallback(subject), INDEX, ok=(200, 404))
        return _entries(data) if data else []


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _entries(data: bytes) -> list[Descriptor]:
    value = canonical.loads(data, what="index")
    entries = value.get("manifests") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise UnreadableArtifact("the registry's list of referrers is malformed")
    return [Descriptor.from_json(entry) for entry in entries]


def _fallback(subject: Descriptor) -> str:
    return subject.digest.replace(":", "-")


def _bounded(response: Any, limit: int, what: str) -> Iterator[bytes]:
    import requests

    seen = 0
    try:
        for chunk in response.iter_content(_CHUNK):
            seen += len(chunk)
            if seen > limit:
                raise DigestMismatch(f"the {what} from the registry is longer than {limit} bytes")
            yield chunk
    except requests.RequestException as error:
        raise Unavailable(f"the registry broke off in the {what}: {_short(error)}") from error
    finally:
        response.close()


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
