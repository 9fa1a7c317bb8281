"""Border inputs on disk: PNG files, and beside them what each platform said and how it was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Preprocessing
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion, VerificationError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.checks import Demands, Standing, standing, standings
from holdfast.identification.border.lattice import Lattice, png_bytes, png_pixels
from holdfast.seeds import Seed

BORDER_TYPE = "holdfast.border-inputs/v1"
INDEX = "border.json"


@dataclass(frozen=True)
class BorderInput:
    """One image with two labels, checked.

    Attributes:
        image: stored pixels, uint8 (c, h, w).
        standings: what each platform answered; of the first two, whom it separates, and of others that were asked.
        evaluations: images the search asked both platforms for.
        method: how it was found.
        against: platforms after the first that it separates from the first.
    """

    image: Tensor
    standings: tuple[Standing, ...]
    evaluations: int = 0
    method: str = "lattice"
    against: int = 1

    @property
    def labels(self) -> dict[str, int | None]:
        """Label by platform; None where a platform does not keep its own."""
        return {item.platform: item.label for item in self.standings}

    @property
    def pair(self) -> tuple[str, str]:
        """The platforms it was made for, or the first two of them."""
        return self.standings[0].platform, self.standings[1].platform

    @property
    def margin(self) -> float:
        """The smallest of the margins on the platforms it was made for."""
        return min(item.margin for item in self.standings[: 1 + self.against])


def checked(
    image: Tensor,
    oracles: Sequence[Oracle],
    lattice: Lattice,
    demands: Demands,
    seed: Seed | int,
    *,
    against: int = 1,
) -> BorderInput:
    """Return ``image`` as a border input of the first platform and the ``against`` next, with the labels of the others.

    What is asked about is the image as a PNG file gives it back.

    Raises:
        VerificationError: one of these does not keep its label in every check, or one gives the label of the first.
    """
    image = png_pixels(png_bytes(image))
    return _judged(image, tuple(standing(oracle, image, lattice, demands, seed) for oracle in oracles), against)


def _judged(image: Tensor, found: tuple[Standing, ...], against: int) -> BorderInput:
    """Return a border input of what was asked, or raise :class:`VerificationError`."""
    complaints = [item.complaint for item in found[: 1 + against] if item.complaint]
    if complaints:
        raise VerificationError(f"no border input: {'; '.join(complaints)}")
    if alike := [item.platform for item in found[1 : 1 + against] if item.label == found[0].label]:
        raise VerificationError(f"no border input: {found[0].platform} and {alike[0]} both say {found[0].label}")
    return BorderInput(image, found, against=against)


@dataclass(frozen=True)
class BorderSet:
    """Border inputs of one model under one preprocessing.

    Attributes:
        inputs: the images and their labels.
        lattice: how they are read.
        model_digest: digest of the model's manifest.
    """

    inputs: tuple[BorderInput, ...]
    lattice: Lattice
    model_digest: str

    def rechecked(self, oracles: Sequence[Oracle], demands: Demands | None = None, *, seed: int = 0) -> BorderSet:
        """Check every input again on the platforms it separates and return the set with what was seen.

        Raises:
            VerificationError: one is no border input any more; it is named.
            InvalidConfig: a platform it separates is missing.
        """
        known = {oracle.name: oracle for oracle in oracles}
        for number, item in enumerate(self.inputs):
            needed = [standing.platform for standing in item.standings[: 1 + item.against]]
            if missing := [name for name in needed if name not in known]:
                raise InvalidConfig(f"input {number} is about {missing[0]}, which is not among the platforms")
        now = {name: self._asked(oracle, demands or Demands(), seed) for name, oracle in known.items()}
        result = []
        for number, item in enumerate(self.inputs):
            found = tuple(now[name][number] for name in item.labels if name in now)
            try:
                again = _judged(png_pixels(png_bytes(item.image)), found, item.against)
            except VerificationError as error:
                raise VerificationError(f"input {number}: {error}") from error
            result.append(replace(again, evaluations=item.evaluations, method=item.method))
        return replace(self, inputs=tuple(result))

    def _asked(self, oracle: Oracle, demands: Demands, seed: int) -> dict[int, Standing]:
        """Return what one platform says of all inputs that it is recorded for, from the bytes of their files."""
        numbers = [number for number, item in enumerate(self.inputs) if oracle.name in item.labels]
        images = [png_pixels(png_bytes(self.inputs[number].image)) for number in numbers]
        found = standings(oracle, images, self.lattice, demands, seed) if images else []
        return dict(zip(numbers, found, strict=True))

    def save(
        self, folder: Path | str, oracles: Sequence[Oracle], demands: Demands | None = None, *, seed: int = 0
    ) -> BorderSet:
        """Check everything once more, from the bytes of the files, then write them; return what was written.

        Raises:
            VerificationError: an input failed the check; nothing was written.
        """
        final = self.rechecked(oracles, demands, seed=seed)
        write_checked(final, Path(folder))
        return final

    @classmethod
    def load(cls, folder: Path | str) -> BorderSet:
        """Read border inputs back.

        Raises:
            UnsupportedVersion: no border inputs of this version.
            DigestMismatch: an image is not the one that was checked, or what is said of them was changed.
            UnreadableArtifact: a missing or malformed file.
        """
        value = canonical.loads(read_bytes(Path(folder) / INDEX, "border inputs"), what=INDEX)
        if not isinstance(value, dict) or value.get("type") != BORDER_TYPE:
            raise UnsupportedVersion(f"{folder} holds no {BORDER_TYPE}")
        value = _body(Path(folder), value)
        try:
            preprocessing = Preprocessing.from_json(value["preprocessing"])
            channels, height, width = value["shape"]
            inputs = tuple(_read(Path(folder), entry) for entry in value["inputs"])
            return cls(inputs, Lattice((channels, height, width), preprocessing), str(value["model"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InvalidConfig):
                raise
            raise UnreadableArtifact(f"{INDEX} in {folder} lacks something: {error}") from error


def write_checked(kept: BorderSet, folder: Path) -> None:
    """Write border inputs that were checked just now, from the bytes of their files."""
    entries = [_entry(number, item) for number, item in enumerate(kept.inputs)]
    for number, item in enumerate(kept.inputs):
        write_atomic(folder / _name(number), png_bytes(item.image))
    body = {
        "model": kept.model_digest,
        "shape": list(kept.lattice.shape),
        "preprocessing": kept.lattice.preprocessing.to_json(),
        "inputs": entries,
    }
    value = {"type": BORDER_TYPE, "digest": digest_bytes(canonical.dumps(body)), "border": body}
    write_atomic(folder / INDEX, canonical.dumps(value))


def _body(folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Return what the index says, once it is known to be what was written."""
    body = value.get("border")
    if not isinstance(body, dict) or not isinstance(value.get("digest"), str):
        raise UnreadableArtifact(f"{INDEX} in {folder} says nothing of border inputs under a digest of its own")
    if digest_bytes(canonical.dumps(body)) != value["digest"]:
        raise DigestMismatch(
            f"{folder / INDEX} was changed after it was written", hint="what it says of platforms proves nothing now"
        )
    return body


def _name(number: int) -> str:
    return f"border-{number:03d}.png"


def _entry(number: int, item: BorderInput) -> dict[str, Any]:
    return {
        "file": _name(number),
        "digest": digest_bytes(png_bytes(item.image)),
        "platforms": [standing.to_json() for standing in item.standings],
        "evaluations": item.evaluations,
        "method": item.method,
        "against": item.against,
    }


def _read(folder: Path, entry: dict[str, Any]) -> BorderInput:
    name = entry["file"]
    if not isinstance(name, str) or Path(name).name != name:
        raise UnreadableArtifact(f"{name!r} in {INDEX} is no file name")
    data = read_bytes(folder / name, "border input", limit=1 << 26)
    if digest_bytes(data) != entry["digest"]:
        raise DigestMismatch(f"{name} in {folder} differs from its digest in {INDEX}")
    standings = tuple(Standing.from_json(item) for item in entry["platforms"])
    if len(standings) < 2:
        raise UnreadableArtifact(f"{name} in {INDEX} separates no two platforms")
    method = entry["method"]
    if not isinstance(method, str) or not method.isprintable():
        raise UnreadableArtifact(f"method of {name} in {INDEX} is {method!r:.100}")
    counts = [entry["evaluations"], entry["against"]]
    if not all(type(count) is int and count >= 0 for count in counts) or not 1 <= counts[1] < len(standings):
        raise UnreadableArtifact(f"evaluations and against of {name} in {INDEX} are {counts!r:.100}")
    return BorderInput(png_pixels(data, name), standings, counts[0], method, counts[1])
