"""Fuzzes everything that reads what others wrote, one target after the other.

Run ``python -m tests.fuzz --mutations 1000000`` in the root of the checkout; ``--only manifest`` takes the targets
whose name begins so, ``--seconds 600`` stops each after so long. Prints one JSON object with the counts per target.
``python -m tests.fuzz.fuzz_bundle`` does the same for OpenSSF signatures.
"""

from __future__ import annotations

import argparse
import json
import sys

from .driver import run
from .targets_attestation import attestation_targets
from .targets_containers import container_targets
from .targets_documents import (
    Maker,
    dataset_targets,
    list_targets,
    manifest_targets,
    outboard_targets,
    record_targets,
    summary_targets,
)


def every_target() -> list[Maker]:
    """Return makers of all targets."""
    return [
        *container_targets(),
        *outboard_targets(),
        *dataset_targets(),
        *list_targets(),
        *record_targets(),
        *summary_targets(),
        *manifest_targets(),
        *attestation_targets(),
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for target in (make() for make in every_target()):
        if target.name.startswith(arguments.only):
            counts = run(target, arguments.mutations, seed=arguments.seed, seconds=arguments.seconds)
            print(json.dumps(counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
