"""The signed manifest of a model (``model.sig2``), read by the part of the package that writes it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import DigestMismatch, Unavailable
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.policy.identity import Identity
from holdfast.signing import Threshold, Verified
from holdfast.signing.oms import require_same

_MODULE = "holdfast.signing.manifests"


@dataclass(frozen=True)
class Manifest:
    """A verified manifest and its proof."""

    manifest: ModelManifest
    proof: Verified

    def require_files(self, identity: Identity) -> None:
        """Return if the manifest lists exactly the files of ``identity``; raise :class:`DigestMismatch` otherwise."""
        signed = {item.name: f"{item.size} {item.blake3}" for item in self.manifest.files}
        require_same(signed, {name: f"{item.size} {item.blake3}" for name, item in identity.files.items()})
        if self.manifest.model_id != identity.model_id:
            raise DigestMismatch("the manifest lists the files of the model and has another model id")


def read_manifest(model: Path, trust: Threshold) -> Manifest:
    """Return the manifest beside ``model`` that ``trust`` signed.

    Raises:
        VerificationError: it does not verify.
        Unavailable: this installation reads no manifests.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise Unavailable("this installation reads no signed manifests")
    module: Any = importlib.import_module(_MODULE)
    manifest, proof = module.read_manifest(model, trust)
    return Manifest(manifest, proof)
