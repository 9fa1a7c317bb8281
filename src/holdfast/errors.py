"""Every error Holdfast raises on purpose, as one tree.

::

    HoldfastError                       exit code  .hint
    ├─ UsageError (ValueError)               2
    │  ├─ UnknownName                        2     names the nearest known ones
    │  ├─ InvalidConfig                      2
    │  ├─ NoSuchSite                         2
    │  └─ UnsupportedFormat                  2
    ├─ ArtifactError                         2
    │  ├─ UnreadableArtifact                 2
    │  ├─ UnsafeArtifact                     2     a pickle, or code where data should be
    │  └─ UnsupportedVersion                 2
    ├─ Unavailable                           3
    │  ├─ MissingExtra                       3     names the pip extra
    │  ├─ MissingDevice                      3
    │  └─ WorkerUnreachable                  3
    ├─ VerificationError                     1     the evidence contradicts the claim
    │  ├─ SignatureInvalid                   1
    │  ├─ SignerUntrusted                    1
    │  ├─ DigestMismatch                     1
    │  ├─ RecordMissing                      1
    │  ├─ LineageBroken                      1     a gap, a cycle, a revoked node or a contradiction
    │  ├─ IntegrityError                     1     the untrusted world lied, during a session
    │  └─ PolicyError                        1     names requirement and record
    ├─ StorageError                          3     the disk is full or refuses a write
    └─ TrialError                           70     a campaign trial crashed

A message is one sentence; the hint says what to do about it.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the hint when the error crosses a process boundary."""
        return (_rebuild, (type(self), str(self), self.hint))


def _rebuild(kind: type[HoldfastError], message: str, hint: str) -> HoldfastError:
    return kind(message, hint=hint)


class UsageError(HoldfastError, ValueError):
    """The call itself is wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that no registry knows; the message lists the nearest known ones."""


class InvalidConfig(UsageError):
    """A parameter outside its range, or a key that does not exist."""


class NoSuchSite(UsageError):
    """A selection that matches no site of the model, or a site that never computes."""


class UnsupportedFormat(UsageError):
    """A number format that cannot hold the tensor it was asked to hold."""


class ArtifactError(HoldfastError):
    """A file that is not what it should be."""

    exit_code = 2


class UnreadableArtifact(ArtifactError):
    """A missing, truncated or malformed file."""


class UnsafeArtifact(ArtifactError):
    """A file that would run code when opened."""


class UnsupportedVersion(ArtifactError):
    """A file written by a version this one does not know."""


class Unavailable(HoldfastError):
    """A dependency, device or peer is missing."""

    exit_code = 3


class MissingExtra(Unavailable):
    """An optional dependency is not installed; the hint names the pip extra."""


class MissingDevice(Unavailable):
    """The requested device does not exist here."""


class WorkerUnreachable(Unavailable):
    """The untrusted worker does not answer."""


class StorageError(Unavailable):
    """The disk is full or refuses a write; what stood there before still stands."""


class VerificationError(HoldfastError):
    """The evidence contradicts the claim."""

    exit_code = 1


class SignatureInvalid(VerificationError):
    """A signature does not verify over the exact signed bytes."""


class SignerUntrusted(VerificationError):
    """A valid signature by somebody who was not asked for."""


class DigestMismatch(VerificationError):
    """Bytes differ from the signed ones; the message names the first that do."""


class RecordMissing(VerificationError):
    """A signed record is absent."""


class LineageBroken(VerificationError):
    """The signed history of a model has a gap, a cycle, a contradiction, or something revoked in it."""


class IntegrityError(VerificationError):
    """The untrusted world returned a wrong result."""


class PolicyError(VerificationError):
    """A deployment requirement is not met by the evidence."""


class TrialError(HoldfastError):
    """A campaign trial crashed; recorded as DUE, re-raised only in strict mode."""

    exit_code = 70
